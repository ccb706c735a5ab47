"""Settings of the documentation, which ``make docs`` builds with Sphinx.

The pages' folder is the repository's root: what README.md and CONTRIBUTING.md link to is found, as on
a code host.
"""

from importlib.metadata import version as installed_version

project = "dood-pyro"
author = "the dood-pyro authors"
release = version = installed_version("dood-pyro")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx-mathjax-offline",  # equations are drawn without network, too
]
root_doc = "docs/index"
include_patterns = ["docs/**", "*.md", "experiments/README.md"]
exclude_patterns = ["docs/_build"]
html_theme = "furo"
html_title = "dood-pyro"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
# The tutorial is run by a test, with seconds in place of minutes.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "undoc-members": False}
autodoc_preserve_defaults = True
default_role = "code"
napoleon_use_rtype = False
# A code host draws these; here they are read as text.
suppress_warnings = ["misc.highlighting_failure"]
