"""Plan of the transfer table: its trainings, targets and settings (section 3.1, Fig. 4).
Used by ``dood-pyro transfer-table`` and by the table's other modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from dood_pyro import data
from dood_pyro.config import RunConfig
from dood_pyro.errors import UserError
from dood_pyro.registry import SOURCES, load_component
from dood_pyro.research import configure
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.formats import FORMAT
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.transfer.published import DATASETS

RIVALS = ("dood", "dair")
"""Models trained on every source."""
ON_MNIST = ("air", "dood-no-renderer", "dood-no-guidance")
"""Models trained on MNIST alone, unless asked for by name."""

GAUSSIAN = {("dair", "omniglot"), ("air", "omniglot")}
"""Models and sources that are trained under a Gaussian likelihood, as in the paper. Under a Laplace
likelihood these models draw nothing: a part that half covers a thin line scores below a blank
canvas, and no small change of the part scores higher."""


class TableRun(NamedTuple):
    """One training of the table: a model on a source with a seed."""

    model: str
    source: str
    seed: int

    def __str__(self) -> str:
        return f"{data.name_of(self.model)}-{data.name_of(self.source)}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Contents of the table, and how to fill it.

    Raises:
        UserError: two sources share a name.
    """

    trainings: tuple[TableRun, ...]
    targets: tuple[str, ...]
    budget: float
    """Seconds per training."""
    runs: Path
    """Folder of the run folders."""
    table: Path
    """CSV file of the table's rows."""
    particles: int = 200
    """Samples per image of the importance-weighted bound."""
    limit: int = 1000
    """Test images per cell."""
    device: str = "auto"
    data_dir: Path | None = None
    train: bool = True
    """Whether to train missing runs; if not, only existing runs are measured."""
    kept: Path | None = None
    """Folder of runs that stand in for runs missing from ``runs``, if trained as the plan asks."""

    def __post_init__(self) -> None:
        sources = {*(training.source for training in self.trainings), *self.targets}
        names = sorted(map(data.name_of, sources))
        if len(set(names)) < len(names):
            raise UserError(
                f"different sources of one name, among {', '.join(names)}: rows tell sources by name"
            )

    def run(self, training: TableRun) -> Run:
        """The run of a training: the folder in ``runs``; or, where ``runs`` has none, a kept run
        with the plan's settings, data, seed and budget."""
        own = Run(self.runs / str(training))
        if self.kept is None or own.path.exists():
            return own
        kept = Run(self.kept / str(training))
        try:
            config, budget = kept.read_config()
            if not kept.read_metrics():
                return own
        except UserError:
            return own
        same = (
            not self.difference(kept, training)
            and kept.read_facts().data_sha256 != ""
            and config.train.seed == training.seed
            and budget == TrainingBudget(seconds=self.budget)
        )
        return kept if same else own

    def difference(self, run: Run, training: TableRun) -> str:
        """Difference of a run's training from the plan's in settings or data; "" if there is none."""
        if run.settings_sha256() != expected(training).sha256():
            return "with other settings"
        source = known_data(self).get(data.name_of(training.source))
        if source and run.read_facts().data_sha256 not in ("", source.sha256):
            return f"on other data than those of {training.source} now"
        return ""


def trainings(
    models: tuple[str, ...] | None, sources: tuple[str, ...] | None, seeds: tuple[int, ...]
) -> tuple[TableRun, ...]:
    """Trainings of a table, seed by seed, so that the whole table is filled with one seed first.

    Args:
        models: names, or ``module:Class``; default: the paper's, DooD and Difference-AIR on every
            source, vanilla AIR and the ablations on MNIST.
        sources: default `DATASETS`.

    Raises:
        UserError: there is no such model.
    """
    for name in models or ():
        load_component("model", name)  # raises if there is none
    pairs = [(model, source) for model in models or RIVALS for source in sources or DATASETS]
    if models is None and (sources is None or "mnist" in sources):
        pairs += [(model, "mnist") for model in ON_MNIST]
    return tuple(TableRun(*pair, seed) for seed in seeds for pair in pairs)


def likelihood(training: TableRun) -> Literal["laplace", "gaussian"]:
    """Likelihood under which a run of the table is trained."""
    return "gaussian" if (training.model, data.name_of(training.source)) in GAUSSIAN else "laplace"


def expected(training: TableRun) -> RunConfig:
    """Configuration that a run of the table must have."""
    settings = {"model.likelihood": likelihood(training), "train.seed": training.seed}
    return configure(training.model, training.source, settings)


class Known(NamedTuple):
    """Present data of a source."""

    sha256: str
    """Hash of the source's images and labels, both parts."""
    test_images: int
    """Number of test images."""


@lru_cache(maxsize=1)
def known_data(plan: Plan) -> dict[str, Known]:
    """Present data of the plan's sources and targets, by their names in rows; sources not at hand
    are left out."""
    found = {}
    for name in {training.source for training in plan.trainings} | set(plan.targets):
        if name in SOURCES and data.find(name, plan.data_dir) is None:
            continue
        try:
            images, _, sha256 = data.read(name, "test", plan.data_dir)
        except UserError:
            continue
        found[data.name_of(name)] = Known(sha256, len(images))
    return found


def row_fits(row: dict[str, str], training: TableRun, plan: Plan, known: dict[str, Known]) -> bool:
    """Whether a row has the guide, settings, format, samples, images and data that a plan asks for;
    data that are not in ``known`` are not checked."""
    config = expected(training)
    source, target = known.get(row["source"]), known.get(row["target"])
    images = plan.limit if target is None else min(plan.limit, target.test_images)
    return (
        row["guide"] == config.train.guide
        and row["config_sha256"] == config.sha256()
        and row["format"] == str(FORMAT)
        and int(row["particles"]) == plan.particles
        and int(row["images"]) == images
        and (target is None or row["data_sha256"] == target.sha256)
        and (source is None or row["train_data_sha256"] == source.sha256)
    )
