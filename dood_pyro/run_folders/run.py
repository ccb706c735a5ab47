"""A run folder: what a training leaves on disk, and how it is read back without running code.
Training writes it; recognition, evaluation and the transfer table read it.

A run folder holds

    config.json           format number; settings of model and training; where it ends
    facts.json            hashes of data and initial weights; packages, hardware and revision
    metrics.jsonl         a JSON object per line: training every few steps, held-out bounds
    best.safetensors      averaged weights of model and guide, at the best held-out bound
    last.safetensors      the same, at the last checkpoint
    initial.safetensors   weights of another run that training started from, where it did
    parses.safetensors    the training images' parses, which a prior has learned from alone
    state.safetensors     all that going on needs: weights, averages, moments, random state, counters
    events.out.tfevents*  TensorBoard
    reconstructions.png   what it draws
    .lock                 held by the process that trains it

Files are replaced in one move, once the new one has been read back, so that a reader sees the old one
or the new one; metrics and TensorBoard's events are added to. Files of tensors are verified whenever
they are read (`dood_pyro.run_folders.tensors`). config.json is for people to read and change, and has
no checksum. Folders of earlier versions are read, too (`dood_pyro.run_folders.formats`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dood_pyro.config import RunConfig
from dood_pyro.data import name_of
from dood_pyro.errors import UserError
from dood_pyro.files import locked, read_bytes, unreadable, unwritable, write_atomically
from dood_pyro.guides import make_guide
from dood_pyro.guides.base import Guide
from dood_pyro.models.base import DrawingModel
from dood_pyro.registry import MODELS, SEARCH_GUIDES, canonical, is_own_code, load_component
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build, build_model
from dood_pyro.run_folders.facts import RunFacts, versions_here
from dood_pyro.run_folders.formats import FORMAT, current_names, current_settings
from dood_pyro.run_folders.tensors import (
    load_tensors,
    number_in,
    part_of,
    read_tensors,
    verify_listed,
    write_tensors,
)

CONFIG = "config.json"
FACTS = "facts.json"
METRICS = "metrics.jsonl"
INITIAL = "initial.safetensors"
STATE = "state.safetensors"
LOCK = ".lock"
LOCKED = "another process is training"
"""Begins what is said of a run whose lock another process holds."""
FORMER = {INITIAL: "start.safetensors", FACTS: "versions.json"}
"""Names that earlier formats had for a file."""


def parse_guide_name(name: str | None) -> tuple[str | None, str | None]:
    """The parts of a command's ``--guide``: the name of a run's own guide, and of a search guide to put
    over it, as in ``own:Guide``, ``smc`` or ``own:Guide+smc``.

    Raises:
        UserError: what follows the ``+`` is no search guide.
    """
    if name is None or name in SEARCH_GUIDES:
        return None, name
    own, plus, over = name.partition("+")
    if plus and over not in SEARCH_GUIDES:
        raise UserError(f"there is no {over!r} to put over {own}: {', '.join(SEARCH_GUIDES)}")
    return own, over or None


def make_search_guide(name: str, model: DrawingModel[Any], guide: Guide) -> Guide:
    """A search guide over a trained one."""
    made: Guide = load_component("search guide", name)(model, guide)
    return made


class Run:
    """A run folder.

    Args:
        path: the folder, which need not be there yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.trusted: tuple[str, ...] = ()
        """Names of code that whoever made this object was told to run."""

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: RunConfig,
        budget: TrainingBudget,
        device: torch.device,
        initial: dict[str, Tensor] | None = None,
        initial_sha256: str = "",
    ) -> Run:
        """A new run folder.

        Args:
            initial: weights of another run, to begin with, and their hash.

        Raises:
            UserError: there is something at ``path`` already, or it cannot be written.
        """
        run = cls(path)
        run._refuse_if_begun()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            with locked(run.path / LOCK):
                run._refuse_if_begun()  # another process may have come first
                if initial is not None:
                    run.write_tensors(INITIAL, initial)
                facts = RunFacts(initial_sha256=initial_sha256, versions=versions_here(device))
                run.write_facts(facts)
                # Last: with it a run can begin.
                run.write_config(config, budget)
        except OSError as error:
            raise unwritable(path, error) from None
        return run

    def _refuse_if_begun(self) -> None:
        """Raise unless nothing is there, or what a process left that was killed in `create`."""
        left = (INITIAL, f".{INITIAL}.", FACTS, f".{FACTS}.", f".{CONFIG}.", LOCK)
        try:
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise UserError(f"{self.path} is a file; name a folder that is not there yet")
            begun = any(not file.name.startswith(left) for file in self.path.iterdir())
        except OSError as error:
            raise unwritable(self.path, error) from None
        if not begun:
            return
        if (self.path / CONFIG).is_file():
            raise UserError(
                f"{self.path} exists; go on with it (dood-pyro train --resume {self.path}), or choose "
                "another folder"
            )
        raise UserError(f"{self.path} is a folder of other things, no run; choose another folder")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def push(self, name: str, private: bool = True, licence: str = "mit") -> str:
        """Put settings, facts, metrics and best weights, with a card, on the Hugging Face hub.

        Args:
            name: ``hf://user/repository``; made if it is not there.
            private: whether a new repository is to be seen by its owner alone.
            licence: of the weights, as the hub writes it.

        Returns:
            The repository's address.

        Raises:
            UserError: the hub refuses, or the run has nothing to push yet.
        """
        from dood_pyro.card import card
        from dood_pyro.hub import push

        return push(self.path, name, card(self, name, licence), private)

    # Settings and facts.

    def write_config(
        self, config: RunConfig, budget: TrainingBudget, tensorboard: bool | None = None
    ) -> None:
        """Write config.json.

        Args:
            tensorboard: whether training logs for TensorBoard; None leaves it at what it was.
        """
        if tensorboard is None:
            tensorboard = self.logs_for_tensorboard()
        values = {"format": FORMAT, **config.to_json(), "budget": dataclasses.asdict(budget)}
        self._write_json(CONFIG, values | {"tensorboard": tensorboard})

    def read_config(self) -> tuple[RunConfig, TrainingBudget]:
        """The run's settings and where it ends.

        Raises:
            UserError: there is no run at the path, or it cannot be read by this version.
        """
        values = self._settings()
        try:
            config, budget = RunConfig.from_json(values), TrainingBudget(**values["budget"])
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.path}/{CONFIG} is incomplete or malformed; train anew"
            ) from None
        except UserError as error:
            raise UserError(f"{self.path}/{CONFIG}: {error}") from None
        if config.model_name not in MODELS and not is_own_code(config.model_name):
            raise UserError(
                f"{self.path} holds a {config.model_name!r}, which this version does not know"
            )
        return config, budget

    def logs_for_tensorboard(self) -> bool:
        """Whether training logs for TensorBoard, as the run was last told; a new one does."""
        try:
            values = self._settings()
        except UserError:  # it is not there yet, or is about to be replaced
            return True
        return values.get("tensorboard", True) is not False

    def write_facts(self, facts: RunFacts) -> None:
        """Write facts.json."""
        self._write_json(FACTS, facts.to_json())

    def read_facts(self) -> RunFacts:
        """The facts about the run; of folders of earlier formats from where they stood there.

        Raises:
            UserError: they are damaged.
        """
        if (self.path / FACTS).exists():
            return RunFacts.from_json(self._read_json(FACTS), f"{self.path}/{FACTS}")
        if self._read_json(CONFIG).get("format") == FORMAT:
            raise UserError(
                f"{self.path} has lost its {FACTS}, which says what data and weights it began with; "
                "take the file from a copy, or train anew"
            )
        versions: Any = {}
        if (self.path / FORMER[FACTS]).exists():
            versions = self._read_json(FORMER[FACTS])
        if not isinstance(versions, dict):
            raise UserError(f"{self.path}/{FORMER[FACTS]} is damaged: it is not a JSON object")
        facts = {**self._settings().get("facts", {}), "versions": versions}
        return RunFacts.from_json(facts, f"{self.path}/{CONFIG}")

    def settings_sha256(self) -> str:
        """A hash of every setting but the data and the seed, and of the initial weights: runs that
        share it compare."""
        return self.read_config()[0].sha256(self.read_facts().initial_sha256)

    def provenance(self, which: str = "best") -> dict[str, Any]:
        """Origin of a measurement, to record beside it: model, source and seed; steps and seconds of
        training; hardware and revision; and hashes of data and settings."""
        config, _ = self.read_config()
        facts = self.read_facts()
        step = self.step_of(which)
        trained = [line for line in self.read_metrics() if line["step"] <= step]
        return {
            "model": config.model_name,
            "source": name_of(canonical(config.train.source)),
            "seed": config.train.seed,
            "steps": step,
            "seconds": trained[-1]["seconds"] if trained else None,
            "hardware": facts.versions.get("hardware", ""),
            "revision": facts.versions.get("revision", ""),
            "train_data_sha256": facts.data_sha256,
            "config_sha256": config.sha256(facts.initial_sha256),
            "format": FORMAT,
        }

    def _settings(self) -> dict[str, Any]:
        if not (self.path / CONFIG).is_file():
            what = f"has no {CONFIG}" if self.path.is_dir() else "does not exist"
            what = "is a file; name its folder" if self.path.is_file() else what
            raise UserError(f"{self.path} is not a run folder: it {what}")
        return current_settings(self._read_json(CONFIG), str(self.path))

    def _write_json(self, name: str, values: Any) -> None:
        write_atomically(self.path / name, (json.dumps(values, indent=2) + "\n").encode())

    def _read_json(self, name: str) -> Any:
        path = self.path / name
        content = read_bytes(path)
        verify_listed(path, content)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise unreadable(path, error) from None

    # Model and guide.

    def trusted_config(
        self, guide: str | None = None, trusted: Iterable[str] = (), training: bool = False
    ) -> RunConfig:
        """The run's settings, if all code that they name comes with the package or is trusted.

        Code named ``module:Class`` by a run folder, which may come from anywhere, would otherwise be
        imported and called.

        Args:
            guide: the run's own guide, named again, which is thereby trusted; None for not named.
            trusted: other names of code that may be run.
            training: whether the run is to be trained, which runs its estimator and source, too.

        Raises:
            UserError: ``guide`` is another than the run's, or some code is not trusted.
        """
        config, _ = self.read_config()
        theirs = config.train.guide
        if guide is not None and guide != theirs:
            raise UserError(
                f"{self.path} was trained with the guide {theirs!r}, not {guide!r}; over that can be "
                f"put {', '.join(SEARCH_GUIDES)}"
            )
        known = {*trusted, *self.trusted, guide}
        unknown = [each for each in config.own_code(training) if each not in known]
        if unknown:
            self._refuse_foreign(unknown, theirs)
        return config

    def _refuse_foreign(self, names: Sequence[str], guide: str) -> None:
        """Refuse to run code that the run names and nobody trusts."""
        others = [name for name in names if name != guide]
        options = [f"--guide {guide}"] * (guide in names) + [f"--trust {name}" for name in others]
        arguments = [f"guide={guide!r}"] * (guide in names) + [f"trusted={others}"] * bool(others)
        raise UserError(
            f"{self.path} has {'code' if others else 'a guide'} of its own, {', '.join(names)}; if you "
            f"trust it, name it: {' '.join(options)}, or in Python {', '.join(arguments)}"
        )

    def load(
        self, which: str = "best", guide: str | None = None, trusted: Iterable[str] = ()
    ) -> tuple[DrawingModel[Any], Guide, RunConfig]:
        """Model and guide with the averaged weights of the best or the last checkpoint.

        Args:
            guide: a search guide to put over the run's own; the name of the run's own must be repeated
                where it is not built in (`trusted_config`); both are joined by a ``+``.
            trusted: names of other code ``module:Class`` that the run may have run.

        Raises:
            UserError: the run has no such checkpoint, or it is damaged or of another model.
        """
        own, over = parse_guide_name(guide)
        config = self.trusted_config(own, trusted)
        tensors, _ = self.read_tensors(f"{which}.safetensors")
        with torch.random.fork_rng(devices=[]):
            model, recognition = build(config)
        for prefix, module in (("model", model), ("guide", recognition)):
            load_tensors(module, part_of(tensors, prefix), f"{self.path}/{which}.safetensors")
        model, recognition = model.eval(), recognition.eval()
        if over:
            recognition = make_search_guide(over, model, recognition).eval()
        return model, recognition, config

    def load_model(self, which: str = "best", trusted: Iterable[str] = ()) -> DrawingModel[Any]:
        """The model alone, for what needs no guide; a guide's own code is not run.

        Raises:
            UserError: as for `load`.
        """
        config, _ = self.read_config()
        own = is_own_code(config.model_name)
        if own and config.model_name not in {*trusted, *self.trusted}:
            self._refuse_foreign([config.model_name], "")
        tensors, _ = self.read_tensors(f"{which}.safetensors")
        with torch.random.fork_rng(devices=[]):
            model = build_model(config)
        load_tensors(model, part_of(tensors, "model"), f"{self.path}/{which}.safetensors")
        return model.eval()

    def load_guide(
        self,
        model: DrawingModel[Any],
        which: str = "best",
        guide: str | None = None,
        trusted: Iterable[str] = (),
    ) -> Guide:
        """The run's guide over a model that has the very weights of the run's own.

        Args:
            guide, trusted: as for `trusted_config`.

        Raises:
            UserError: as for `load`, or the model is another one.
        """
        config = self.trusted_config(guide, trusted)
        tensors, _ = self.read_tensors(f"{which}.safetensors")
        mine, theirs = part_of(tensors, "model"), model.state_dict()
        if mine.keys() != theirs.keys() or any(
            not torch.equal(tensor.to(theirs[key]), theirs[key]) for key, tensor in mine.items()
        ):
            raise UserError(
                f"the model of {self.path} is another one; for a guide over this one: "
                "dood-pyro train --init-from RUN --trainable guide"
            )
        with torch.random.fork_rng(devices=[]):
            recognition = make_guide(config.train, model)
        part = part_of(tensors, "guide")
        load_tensors(recognition, part, f"{self.path}/{which}.safetensors")
        return recognition.eval()

    # Tensors.

    def write_tensors(
        self, name: str, tensors: dict[str, Tensor], notes: dict[str, str] | None = None
    ) -> None:
        """Write a safetensors file."""
        write_tensors(self.path / name, tensors, {**(notes or {}), "format": str(FORMAT)})

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """A safetensors file's tensors, under the names that parameters have now, and notes.

        Raises:
            UserError: it is missing or damaged.
        """
        path = self.path / name
        if not path.exists() and name in FORMER:
            path = self.path / FORMER[name]
        if not path.exists():
            raise UserError(f"{self.path} has no {name}: {self._which_tensors()}")
        tensors, notes = read_tensors(path)
        number = number_in({"format": 3} | notes, "format", int, str(path))
        notes.pop("format", None)
        return current_names(tensors, number), notes

    def _which_tensors(self) -> str:
        """Names of the files of tensors, or the reason why there are none."""
        if others := sorted(file.name for file in self.path.glob("*.safetensors")):
            return f"it has {', '.join(others)}"
        if not self.read_metrics():
            return "no checkpoint has been written yet"
        return (
            "its weights were not kept beside it; for those in experiments/runs: make restore-runs"
        )

    def progress(self) -> tuple[int, float]:
        """Steps and seconds of training up to the last checkpoint; of a run that cannot go on, as many
        as its metrics say."""
        if (self.path / STATE).exists():
            _, notes = self.read_tensors(STATE)
            what = f"{self.path}/{STATE}"
            return number_in(notes, "step", int, what), number_in(notes, "seconds", float, what)
        lines = self.read_metrics()
        if not lines:
            return 0, 0.0
        return int(lines[-1]["step"]), float(lines[-1]["seconds"])

    def step_of(self, which: str = "best") -> int:
        """Steps of training up to the best or the last checkpoint; of a run whose weights were not
        kept, as its metrics say."""
        lines = [line for line in self.read_metrics() if line["kind"] == "held-out"]
        if which == "best" and lines and not any(self.path.glob("*.safetensors")):
            return int(max(lines, key=lambda line: line.get("elbo") or -math.inf)["step"])
        _, notes = self.read_tensors(f"{which}.safetensors")
        return number_in(notes, "step", int, f"{self.path}/{which}.safetensors")

    def remove_partial_files(self) -> None:
        """Remove what a killed process left half-written."""
        for kind in ("safetensors", "json", "jsonl"):
            for left in self.path.glob(f".*.{kind}.*"):
                left.unlink(missing_ok=True)

    def refuse_without_state(self) -> None:
        """Raise unless there is a state to go on from, or nothing yet that going on would overwrite.

        Raises:
            UserError: there are weights and no state, as in kept and packaged runs.
        """
        weights = [n for n in ("best", "last") if (self.path / f"{n}.safetensors").exists()]
        if weights and not (self.path / STATE).exists():
            packaged = self.path.parent == Path(str(resources.files("dood_pyro"))) / "weights"
            raise UserError(
                f"{self.path} has weights but no {STATE} to go on from; start a new run from them: "
                f"--init-from {self.path.name if packaged else self.path}"
            )

    # Metrics.

    def append_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Add lines to metrics.jsonl."""
        path = self.path / METRICS
        try:
            with open(path, "a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise unwritable(path, error) from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that was cut short or damaged is left out."""
        path = self.path / METRICS
        lines = []
        content = read_bytes(path) if path.exists() else b""
        verify_listed(path, content)
        for text in content.decode(errors="replace").splitlines():
            try:
                line = json.loads(text)
                whole = {"kind", "step", "seconds"} <= line.keys()
                number_in(line, "step", int), number_in(line, "seconds", float)
            except (ValueError, RecursionError, AttributeError, UserError):
                continue
            if whole:
                lines.append(line)
        return lines

    def forget_metrics_after(self, step: int) -> None:
        """Drop what a killed run wrote after its last checkpoint."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        content = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.path / METRICS, content.encode())
