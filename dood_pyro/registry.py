"""Every model, guide, estimator, data source and command by name: the one place to add another.
Used by the command line, settings, training, runs and data to look up names.

A line is a name, the code as ``"module:Class"``, which is imported when it is needed and not before,
and a few words for help and tables. Options, help, errors and tests follow. Wherever such a name is
asked for, anyone's own code is named by ``module:Class`` itself, a module in the working directory
included. docs/extending.md has an example of each.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from dood_pyro.errors import UserError, told


class Component(NamedTuple):
    """A line of the registry."""

    target: str
    """``module:Class``"""
    what: str
    """A few words for help."""


MODELS = {
    "dood": Component("dood_pyro.models.dood:DooD", "the paper's model"),
    "dood-no-renderer": Component(
        "dood_pyro.models.ablations:DooDNoRenderer", "a network draws in place of the renderer"
    ),
    "dood-no-guidance": Component(
        "dood_pyro.models.ablations:DooDNoGuidance", "nothing sees the canvas so far"
    ),
    "dood-independent-prior": Component(
        "dood_pyro.models.ablations:DooDIndependentPrior", "every step's prior is the same"
    ),
    "dood-transformer": Component(
        "dood_pyro.models.transformer:DooDTransformer", "a prior that remembers all strokes"
    ),
    "dair": Component("dood_pyro.models.air:DifferenceAIR", "Difference-AIR"),
    "air": Component("dood_pyro.models.air:AIR", "Attend-Infer-Repeat"),
}
"""Generative programs: subclasses of `dood_pyro.models.base.DrawingModel`."""

GUIDES = {
    "amortised": Component("dood_pyro.guides:amortised_guide", "the model's own, as in the paper"),
    "full-covariance": Component(
        "dood_pyro.guides.full_covariance:FullCovarianceGuide",
        "one Gaussian over all control points of a stroke",
    ),
}
"""Trainable guides, `dood_pyro.guides.base.Guide`: called with the model and a `TrainConfig`."""

SEARCH_GUIDES = {
    "refined": Component(
        "dood_pyro.inference.search.refined:RefinedGuide", "gradient steps on each image's bound"
    ),
    "smc": Component(
        "dood_pyro.inference.search.smc:SMCGuide", "particles, resampled between strokes"
    ),
    "per-image": Component(
        "dood_pyro.inference.search.per_image:PerImageGuide", "no amortisation: the slow reference"
    ),
}
"""Guides that need no training: called with a model and its trained guide."""

ESTIMATORS = {
    "stop-marginal": Component(
        "dood_pyro.estimators.stop_marginal:StopMarginalELBO", "stop variable marginalised"
    ),
    "nvil": Component("dood_pyro.estimators.nvil:NVIL", "the paper's score function"),
    "iwae": Component("dood_pyro.estimators.multi_sample:IWAE", "importance-weighted bound"),
    "rws": Component(
        "dood_pyro.estimators.multi_sample:ReweightedWakeSleep", "reweighted wake-sleep"
    ),
}
"""Objectives of training, `dood_pyro.estimators.base.Estimator`."""

SOURCES = {
    "mnist": Component("dood_pyro.data.mnist:prepare", "handwritten digits"),
    "emnist": Component(
        "dood_pyro.data.emnist:prepare", "handwritten digits and letters, 47 classes"
    ),
    "kmnist": Component("dood_pyro.data.kmnist:prepare", "cursive Japanese characters"),
    "quickdraw": Component("dood_pyro.data.quickdraw:prepare", "doodles of 25 categories"),
    "omniglot": Component(
        "dood_pyro.data.omniglot:prepare", "characters of 50 alphabets; test alphabets are new"
    ),
    "digits": Component(
        "dood_pyro.data.digits:prepare", "handwritten digits that come with scikit-learn, 8×8"
    ),
    "random-strokes": Component(
        "dood_pyro.data.random_strokes:prepare", "random pen strokes, true strokes known"
    ),
}
"""Data sources: ``prepare(folder, scratch)`` returns the arrays of `dood_pyro.data.prepared`."""

TASKS = {
    "train": Component("dood_pyro.cli.train:train", "Train model and guide on a source."),
    "parse": Component("dood_pyro.cli.parse:parse", "Turn pictures into pen strokes."),
    "draw": Component("dood_pyro.cli.draw:draw", "Open a page to draw on."),
    "reconstruct": Component(
        "dood_pyro.cli.reconstruct:reconstruct", "Draw a target's test images stroke by stroke."
    ),
    "evaluate": Component(
        "dood_pyro.cli.evaluate:evaluate", "Measure how well a run explains a target."
    ),
    "sample": Component("dood_pyro.cli.sample:sample", "Sample new drawings from a run's prior."),
    "exemplars": Component("dood_pyro.cli.tasks:exemplars", "Write new exemplars of characters."),
    "complete": Component(
        "dood_pyro.cli.tasks:complete", "Complete partial drawings, in many ways."
    ),
    "one-shot": Component(
        "dood_pyro.cli.one_shot:one_shot", "Classify characters from one example each."
    ),
    "runs": Component("dood_pyro.cli.runs:runs", "List, show, compare and delete runs."),
    "sources": Component("dood_pyro.cli.sources:sources", "List the data sources."),
    "fid": Component("dood_pyro.cli.fid:fid", "Print the distance between two sets of pictures."),
    "sample-quality": Component(
        "dood_pyro.cli.fid:sample_quality", "Measure how good a run's samples are."
    ),
    "statistics": Component(
        "dood_pyro.cli.statistics:statistics", "Compare strokes of a run's samples with real ones."
    ),
    "train-features": Component(
        "dood_pyro.cli.fid:train_features", "Train the network whose features are compared."
    ),
    "compare-guides": Component(
        "dood_pyro.cli.guides:compare_guides", "Compare guides over a run's model."
    ),
    "calibrate": Component("dood_pyro.cli.guides:calibrate", "Check a run's guide by simulation."),
    "transfer-table": Component(
        "dood_pyro.cli.transfer_table:transfer_table",
        "Train and measure source by target (Fig. 4).",
    ),
    "compare": Component(
        "dood_pyro.cli.figures:compare", "Draw test images by several runs, side by side."
    ),
    "stroke-counts": Component(
        "dood_pyro.cli.figures:stroke_counts", "Count the strokes that runs take, by target."
    ),
    "clusters": Component(
        "dood_pyro.cli.figures:clusters", "Cluster the strokes, or parts, of several runs."
    ),
    "anatomy": Component(
        "dood_pyro.cli.figures:anatomy", "Take one drawing by a run apart, step by step."
    ),
}
"""Commands of ``dood-pyro``: click commands, with the line that ``--help`` lists them by."""

KINDS = {
    "model": MODELS,
    "guide": GUIDES,
    "search guide": SEARCH_GUIDES,
    "estimator": ESTIMATORS,
    "source": SOURCES,
}

FORMER_NAMES = {"stop-time": "stop-marginal", "doodles": "random-strokes"}
"""Names that earlier versions used; they are still understood."""


AMORTISED = "dood_pyro.guides.amortised:AmortisedGuide"
"""What the guide ``amortised`` is over models of curves."""


def canonical(name: str) -> str:
    """A name as it is now."""
    return FORMER_NAMES.get(name, name)


def is_own_code(name: str) -> bool:
    """Whether a name is anyone's own ``module:Class``."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), attribute]
    return bool(colon) and all(part.isidentifier() for part in parts)


def code_name(kind: str, given: Any) -> str:
    """Name under which a run refers to code that a caller named, or gave as a class.

    Args:
        kind: a key of `KINDS`, or any word for code of whatever kind.
        given: a name, which stays as it is; or a class or function at the top of a module, a script or
            a notebook.

    Raises:
        UserError: it is neither.
    """
    if isinstance(given, str):
        return given
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise UserError(
            f"give the {kind} by its name, as module:Class or as its class; not {given!r:.60}"
        )
    target = f"{module}:{name}"
    if target == AMORTISED:
        return "amortised"
    if getattr(sys.modules.get(module), name, None) is not given:
        raise UserError(
            f"{target} does not lead to the {kind} that was given, so that a run could not name it; "
            "define it at the top of a module or notebook"
        )
    known = KINDS.get(kind, {}) | (SEARCH_GUIDES if kind == "guide" else {})
    return next((each for each, line in known.items() if line.target == target), target)


def code_names(trusted: Any) -> tuple[str, ...]:
    """Names of code that a caller trusts, of whatever kind.

    Args:
        trusted: a list of what `code_name` takes.

    Raises:
        UserError: it is not.
    """
    if isinstance(trusted, str) or not isinstance(trusted, Iterable):
        raise UserError(
            "trusted takes a list of names module:Class or of classes, such as "
            f'["mine:Guide"]; not {trusted!r:.60}'
        )
    return tuple(code_name("code", each) for each in trusted)


def load_component(kind: str, name: str) -> Any:
    """The code of a name.

    Args:
        kind: a key of `KINDS`.
        name: a name in that table, or ``module:Class``.

    Raises:
        UserError: there is none of that name, or its module cannot be imported.
    """
    table = KINDS[kind]
    name = canonical(name)
    if name in table:
        return load_target(table[name].target)
    if not is_own_code(name):
        raise UserError(f"there is {unknown(kind, name)}")
    try:
        return load_target(name)
    except ModuleNotFoundError as error:
        top = name.partition(":")[0].partition(".")[0]
        here = f"call from the folder that holds {top}.py, or add that folder to PYTHONPATH"
        remedy = f"; {here}" if error.name == top else ""
        raise UserError(f"cannot load the {kind} {name!r}: {told(error)}{remedy}") from error
    except AttributeError as error:
        notebook = "; it was defined in a notebook or a script: load the run there, after it"
        remedy = notebook * name.startswith("__main__:")
        raise UserError(f"cannot load the {kind} {name!r}: {told(error)}{remedy}") from error
    # Whatever somebody's module raises is about that module.
    except (Exception, SystemExit) as error:
        raise UserError(f"cannot load the {kind} {name!r}: {told(error)}") from error


def unknown(kind: str, name: str) -> str:
    """What is to be said of a name that no table has, to be read after "there is"."""
    if kind == "guide" and name.split("+")[-1] in SEARCH_GUIDES:
        return (
            f"no guide {name!r} to train: it searches image by image over a trained guide; name it to "
            "commands that use a run, such as evaluate"
        )
    own = "module:function" if kind == "source" else "module:Class"
    choice = f"choose {', '.join(KINDS[kind])} or your own {own}"
    return f"no {kind} {name!r}; {did_you_mean(kind, name) or choice}"


def did_you_mean(kind: str, name: str) -> str:
    """A question after a name that is nearly one of the table's; else ""."""
    near = difflib.get_close_matches(name.lower(), KINDS[kind], 1)
    return f"did you mean {near[0]}?" if near else ""


def model_title(name: str) -> str:
    """A model's name in tables and figures."""
    title: str = load_component("model", name).title
    return title


def load_target(target: str) -> Any:
    """The attribute of a module that ``module:attribute`` names."""
    module, _, attribute = target.partition(":")
    return getattr(_module(module), attribute)


def _module(name: str) -> Any:
    """A module by name, sought in the working directory, too, where a console script does not look."""
    global _folder
    here = os.getcwd()
    if _folder not in (None, here) and _folder in sys.path:  # another's module may have that name
        sys.path.remove(_folder)
        _folder = None
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top = name.partition(".")[0]
        files = (Path(f"{top}.py"), Path(top) / "__init__.py")
        if error.name != top or here in sys.path or not any(path.is_file() for path in files):
            raise
    # Last, to hide nothing; and for good: what lies beside it may be imported later.
    sys.path.append(here)
    _folder = here
    importlib.invalidate_caches()
    return importlib.import_module(name)


_folder: str | None = None
"""The working directory that modules were found in, which is on Python's path."""
