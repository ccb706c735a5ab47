"""Entry point of ``python -m dood_pyro.cli``: the same command line as ``dood-pyro``."""

from .main import main

main()
