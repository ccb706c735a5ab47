"""What a run leaves on disk, and how it is read back without running code.

A run folder holds

    config.json           format number, program, model and training settings, and where it ends
    versions.json         the packages, hardware and revision it was started with
    metrics.jsonl         a JSON object a line: training every few steps, held-out bounds
    best.safetensors      averaged weights of model and guide, at the best held-out bound
    last.safetensors      the same, at the last checkpoint
    start.safetensors     weights of another run that training started from, where it did
    state.safetensors     all that going on needs: weights, averages, moments, random state, counters
    events.out.tfevents*  TensorBoard
    reconstructions.png   what it draws
    .lock                 held by the process that trains it

Files are replaced in one move, once the new one has been read back, so that a reader sees the old one
or the new one; metrics and TensorBoard's events are added to. Files of tensors hold a checksum of all
that is in them, which is verified whenever they are read. Those of before there were checksums may
have theirs in a file ``SHA256SUMS`` of a folder above (in the form of the command ``sha256sum``).
config.json is for people to read and change, and has no checksum of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load as unpack
from safetensors.torch import save_file
from torch import Tensor, nn

from dood_pyro import data
from dood_pyro.config import Config, ModelConfig, TrainConfig
from dood_pyro.devices import hardware
from dood_pyro.errors import UserError
from dood_pyro.files import (
    locked,
    read_bytes,
    replacing,
    unreadable,
    unwritable,
    write_atomically,
)
from dood_pyro.guides import GUIDES, REFINEMENTS, make_guide, refine_guide, split_guide
from dood_pyro.programs import PROGRAMS
from dood_pyro.stepwise import Program

FORMAT = 3
START = "start.safetensors"
LOCK = ".lock"
PACKAGES = ("dood-pyro", "torch", "pyro-ppl", "numpy", "safetensors", "torchvision")
"""Whose versions a run notes."""

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class RunConfig(Config):
    """All that decides what a run computes."""

    program: str
    """Name in `dood_pyro.programs.PROGRAMS`."""
    model: ModelConfig
    train: TrainConfig

    def build(self) -> tuple[Program[Any], nn.Module]:
        """A new model, which expects pictures like its source's, and guide, initialised from the
        current random state."""
        model = self.build_model()
        return model, make_guide(self.train, model)

    def build_model(self) -> Program[Any]:
        """A new model alone."""
        model = PROGRAMS[self.program].make(self.model)
        model.expect(self.train.resolution)
        return model

    def settings_sha256(self) -> str:
        """A hash of every setting but the data and the seed: runs that share it compare."""
        nothing = dataclasses.replace(self.train, source="", seed=0, data_sha256="", resolution=0)
        return dataclasses.replace(self, train=nothing).sha256()


@dataclass(frozen=True)
class Until:
    """Where a training ends: after so many steps, or seconds of training, or both."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise UserError("say how long to train: --steps or --budget")
        if self.steps is not None and self.steps < 1:
            raise UserError("--steps must be at least 1")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise UserError("--budget must be a positive time, such as 90m")

    def reached(self, steps: int, seconds: float) -> bool:
        """Whether a training that far along is at its end."""
        return (self.steps is not None and steps >= self.steps) or (
            self.seconds is not None and seconds >= self.seconds
        )

    def raised(
        self,
        steps: int | None,
        seconds: float | None,
        done_steps: int = 0,
        done_seconds: float = 0.0,
    ) -> Until:
        """This with what is given put in its place, for a run that has come so far.

        Raises:
            UserError: that would lower it.
        """
        for new, old, option in (
            (steps, self.steps, "--steps"),
            (seconds, self.seconds, "--budget"),
        ):
            if new is not None and old is not None and new < old:
                raise UserError(f"a resumed run can raise {option}, not lower it: it was {old:g}")
        if steps is None and seconds is None:
            return self
        # An end of the other kind stays, unless it is what the run has ended by.
        if steps is None and (self.steps or 0) > done_steps:
            steps = self.steps
        if seconds is None and (self.seconds or 0) > done_seconds:
            seconds = self.seconds
        return Until(steps, seconds)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write_json(path: Path, values: Any) -> None:
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def _read_json(path: Path) -> Any:
    content = read_bytes(path)
    _verify_listed(path, content)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise unreadable(path, error) from None


SUMS = "SHA256SUMS"
"""Checksums of files that do not hold their own, a line each: the sum, two spaces, the path from the
folder that this file is in."""


def _verify_listed(path: Path, content: bytes) -> None:
    """Verifies a file's content where a `SUMS` of its folder, or of the one above, lists it.

    Raises:
        UserError: it is not what it was.
    """
    path = path.resolve()
    for folder in (path.parent, path.parent.parent):
        sums = folder / SUMS
        if not sums.is_file():
            continue
        lines = (line.split(maxsplit=1) for line in sums.read_text(errors="replace").splitlines())
        listed = {words[1]: words[0] for words in lines if len(words) == 2}
        expected = listed.get(path.relative_to(folder).as_posix())
        if expected is not None and expected != hashlib.sha256(content).hexdigest():
            raise UserError(
                f"{path} is damaged: its checksum is not the one in {sums}; take it from where it "
                "came from once more"
            )


def revision() -> str:
    """The commit that the package was imported from, or its version where there is no repository."""
    here = Path(__file__).resolve().parent
    version = _version("dood-pyro") or "unknown"
    if not (here.parent / ".git").exists():
        return version
    try:
        git = subprocess.run(
            [
                "git",
                "-C",
                str(here),
                "describe",
                "--always",
                "--abbrev=12",
                "--dirty",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return version
    return git.stdout.strip() or version


class Run:
    """A run folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: RunConfig,
        until: Until,
        device: torch.device,
        start: dict[str, Tensor] | None = None,
    ) -> Run:
        """A new run folder.

        Args:
            start: weights of another run, to begin with.

        Raises:
            UserError: there is something at ``path`` already, or it cannot be written.
        """
        run = cls(path)
        run._refuse_if_begun()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            with locked(run.path / LOCK):
                run._refuse_if_begun()  # another process may have come first
                if start is not None:
                    run.write_tensors(START, start)
                # With the configuration alone a run can begin.
                run.write_config(config, until)
        except OSError as error:
            raise unwritable(path, error) from None
        versions = {name: version for name in PACKAGES if (version := _version(name)) is not None}
        versions |= {"python": platform.python_version(), "revision": revision()}
        versions["hardware"] = hardware(device)
        _write_json(run.path / "versions.json", versions)
        return run

    def _refuse_if_begun(self) -> None:
        """Unless nothing is there, or what a process left that was killed in `create`."""
        left = (START, f".{START}.", ".config.json.", LOCK)
        try:
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise UserError(
                    f"{self.path} is a file; name a folder that is not there yet: --out"
                )
            begun = any(not file.name.startswith(left) for file in self.path.iterdir())
        except OSError as error:
            raise unwritable(self.path, error) from None
        if not begun:
            return
        if (self.path / "config.json").is_file():
            raise UserError(
                f"{self.path} exists; go on with it by --resume {self.path}, or choose another --out"
            )
        raise UserError(f"{self.path} is a folder of other things, no run; choose another --out")

    def write_config(
        self, config: RunConfig, until: Until, tensorboard: bool | None = None
    ) -> None:
        """Writes config.json.

        Args:
            tensorboard: whether training logs for TensorBoard; None leaves it at what it was.
        """
        if tensorboard is None:
            tensorboard = self.logs_for_tensorboard()
        ends = {"until": vars(until)} | ({} if tensorboard else {"tensorboard": False})
        _write_json(self.path / "config.json", {"format": FORMAT, **config.to_json(), **ends})

    def logs_for_tensorboard(self) -> bool:
        """Whether training logs for TensorBoard, as the run was last told; a new one does."""
        try:
            values = _read_json(self.path / "config.json")
        except UserError:  # it is not there yet, or is about to be replaced
            return True
        return not isinstance(values, dict) or values.get("tensorboard", True) is not False

    def read_config(self) -> tuple[RunConfig, Until]:
        """What the run computes and where it ends.

        Raises:
            UserError: there is no run at the path, or it is not one of this version's.
        """
        if not (self.path / "config.json").is_file():
            what = "has no config.json" if self.path.is_dir() else "does not exist"
            what = "is a file; name its folder" if self.path.is_file() else what
            raise UserError(f"{self.path} is not a run folder: it {what}")
        values = _read_json(self.path / "config.json")
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else None
            raise UserError(f"{self.path} has format {found!r}; this version reads format {FORMAT}")
        try:
            program = values["program"]
            model = ModelConfig.from_json(values["model"])
            train = TrainConfig.from_json(values["train"])
            until = Until(**values["until"])
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.path}/config.json is incomplete or malformed; train anew"
            ) from None
        if not isinstance(program, str) or program not in PROGRAMS:
            raise UserError(f"{self.path} holds a {program!r}, which this version does not know")
        return RunConfig(program, model, train), until

    def versions(self) -> dict[str, str]:
        """What versions.json says."""
        if not (self.path / "versions.json").exists():
            return {}
        versions = _read_json(self.path / "versions.json")
        if not isinstance(versions, dict):
            raise UserError(f"{self.path}/versions.json is damaged: it is not a JSON object")
        return versions

    def allow_guide(self, guide: str | None) -> RunConfig:
        """The run's configuration, if its guide is built in or is the one that the caller names.

        A guide ``module:Class`` is code that a run folder, which may come from anywhere, would
        otherwise have imported and called.

        Raises:
            UserError: it is neither.
        """
        config, _ = self.read_config()
        theirs = config.train.guide
        if guide is not None and guide != theirs:
            raise UserError(
                f"{self.path} was trained with the guide {theirs!r}, not {guide!r}; over that can be "
                f"put {', '.join(REFINEMENTS)}"
            )
        if theirs not in GUIDES and guide is None:
            raise UserError(
                f"{self.path} has a guide of its own, {theirs}; if you trust that code, name it: "
                f"--guide {theirs}"
            )
        return config

    def load(
        self, which: str = "best", guide: str | None = None
    ) -> tuple[Program[Any], nn.Module, RunConfig]:
        """Model and guide with the averaged weights of the best or the last checkpoint.

        Args:
            guide: what to put over the run's own, one of `dood_pyro.guides.REFINEMENTS`; the name of
                the run's own must be repeated where it is not built in (`allow_guide`); both are
                joined by a ``+``.

        Raises:
            UserError: the run has no such checkpoint, or it is damaged or of another model.
        """
        own, over = split_guide(guide)
        config = self.allow_guide(own)
        tensors, _ = self.read_tensors(f"{which}.safetensors")
        with torch.random.fork_rng(devices=[]):
            model, recognition = config.build()
        for prefix, module in (("model", model), ("guide", recognition)):
            load_tensors(module, _part(tensors, prefix), f"{self.path}/{which}.safetensors")
        model, recognition = model.eval(), recognition.eval()
        if over:
            recognition = refine_guide(over, model, recognition).eval()
        return model, recognition, config

    def load_model(self, which: str = "best") -> Program[Any]:
        """The model alone, for what needs no guide; a guide's own code is not run.

        Raises:
            UserError: as for `load`.
        """
        config, _ = self.read_config()
        tensors, _ = self.read_tensors(f"{which}.safetensors")
        with torch.random.fork_rng(devices=[]):
            model = config.build_model()
        load_tensors(model, _part(tensors, "model"), f"{self.path}/{which}.safetensors")
        return model.eval()

    def load_guide(
        self, model: nn.Module, which: str = "best", guide: str | None = None
    ) -> nn.Module:
        """The run's guide over a model that has the very weights of the run's own.

        Args:
            guide: as for `allow_guide`.

        Raises:
            UserError: as for `load`, or the model is another one.
        """
        config = self.allow_guide(guide)
        tensors, _ = self.read_tensors(f"{which}.safetensors")
        mine, theirs = _part(tensors, "model"), model.state_dict()
        if mine.keys() != theirs.keys() or any(
            not torch.equal(tensor.to(theirs[key]), theirs[key]) for key, tensor in mine.items()
        ):
            raise UserError(
                f"the model of {self.path} is another one; for a guide over this one: "
                "dood-pyro train --start-from RUN --fit guide"
            )
        with torch.random.fork_rng(devices=[]):
            recognition = make_guide(config.train, model)
        part = _part(tensors, "guide")
        load_tensors(recognition, part, f"{self.path}/{which}.safetensors")
        return recognition.eval()

    def provenance(self, which: str = "best") -> dict[str, Any]:
        """What a measurement of the run says of it: model, source and seed; steps and seconds of
        training; where and by what it was trained; and the hash of its settings."""
        config, _ = self.read_config()
        _, notes = self.read_tensors(f"{which}.safetensors")
        step = number_in(notes, "step", int, f"{self.path}/{which}.safetensors")
        trained = [line for line in self.read_metrics() if line["step"] <= step]
        versions = self.versions()
        return {
            "model": config.program,
            "source": data.name_of(config.train.source),
            "seed": config.train.seed,
            "steps": step,
            "seconds": trained[-1]["seconds"] if trained else None,
            "hardware": versions.get("hardware", ""),
            "revision": versions.get("revision", ""),
            "train_data_sha256": config.train.data_sha256,
            "config_sha256": config.settings_sha256(),
            "format": FORMAT,
        }

    def write_tensors(
        self, name: str, tensors: dict[str, Tensor], notes: dict[str, str] | None = None
    ) -> None:
        """Writes a safetensors file."""
        write_tensors(self.path / name, tensors, notes)

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """A safetensors file's tensors and notes.

        Raises:
            UserError: it is missing or damaged.
        """
        if not (self.path / name).exists():
            others = sorted(file.name for file in self.path.glob("*.safetensors"))
            there = f"it has {', '.join(others)}" if others else "its training has come to none yet"
            raise UserError(f"{self.path} has no {name}: {there}")
        return read_tensors(self.path / name)

    def progress(self) -> tuple[int, float]:
        """Steps and seconds of training up to the last checkpoint; of kept weights, which cannot go
        on, as many as their metrics say."""
        if (self.path / "state.safetensors").exists():
            _, notes = self.read_tensors("state.safetensors")
            what = f"{self.path}/state.safetensors"
            return number_in(notes, "step", int, what), number_in(notes, "seconds", float, what)
        lines = self.read_metrics()
        if not lines or not (self.path / "best.safetensors").exists():
            return 0, 0.0
        return int(lines[-1]["step"]), float(lines[-1]["seconds"])

    def best_step(self) -> int:
        """Steps of training up to the best checkpoint."""
        _, notes = self.read_tensors("best.safetensors")
        return number_in(notes, "step", int, f"{self.path}/best.safetensors")

    def sweep(self) -> None:
        """Removes what a killed process left half-written.

        Raises:
            UserError: the state is gone while weights are there: going on would overwrite them.
        """
        for kind in ("safetensors", "json", "jsonl"):
            for left in self.path.glob(f".*.{kind}.*"):
                left.unlink(missing_ok=True)
        weights = [n for n in ("best", "last") if (self.path / f"{n}.safetensors").exists()]
        if weights and not (self.path / "state.safetensors").exists():
            raise UserError(
                f"{self.path} has weights but no state.safetensors to go on from; train a new run"
            )

    def append_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Adds lines to metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        try:
            with open(path, "a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise unwritable(path, error) from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that was cut short or damaged is left out."""
        path = self.path / "metrics.jsonl"
        lines = []
        content = read_bytes(path) if path.exists() else b""
        _verify_listed(path, content)
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
        """Drops what a killed run wrote after its last checkpoint."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        content = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.path / "metrics.jsonl", content.encode())


CHECKSUM = "sha256"
"""Note of a file of tensors: the checksum of all that is in it."""
CHECKED = "checksum"
"""Note that says that there is one."""


def write_tensors(
    path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file, with a checksum among its notes. What was at ``path`` stays until the
    new file has been read back.

    Raises:
        UserError: the disk does not take it, or does not give it back as it was.
    """
    packed = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    notes = dict(notes or {})
    notes |= {CHECKSUM: _checksum(packed, notes), CHECKED: CHECKSUM}

    def verify(written: Path) -> None:
        try:
            read_tensors(written)
        except UserError:
            raise UserError(
                f"{path} was not written as it should have been: what the disk gives back is another; "
                "look after the disk. The last checkpoint is still there"
            ) from None

    with replacing(path, verify) as file:
        try:
            save_file(packed, file.name, metadata=notes)
        except safetensors.SafetensorError as error:
            # It tells of the system's errors in words alone.
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else 0, str(error)) from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A safetensors file's tensors and notes.

    Raises:
        UserError: it is missing or damaged, or its checksum tells that it has been changed.
    """
    content = read_bytes(path)
    try:
        tensors = unpack(content)
        # The header, of as many bytes as the first eight say. Read from the file a second time, it
        # could be that of a newer one.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (safetensors.SafetensorError, ValueError) as error:
        raise unreadable(path, error) from None
    notes: dict[str, str] = header.get("__metadata__") or {}
    # Two notes: a changed name of one would otherwise pass for a file of before there were any.
    expected, checked = notes.pop(CHECKSUM, None), notes.pop(CHECKED, None)
    if expected is None and checked is None:
        _verify_listed(path, content)
    elif checked != CHECKSUM or expected != _checksum(tensors, notes):
        raise UserError(
            f"{path} is damaged: its checksum is not that of what is in it; go back to another "
            "checkpoint or copy"
        )
    return tensors, notes


def _checksum(tensors: dict[str, Tensor], notes: dict[str, str]) -> str:
    """SHA-256 of notes and tensors: names, types, shapes and numbers."""
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def number_in(values: Any, name: str, kind: type[N], what: str = "") -> N:
    """A number ≥ 0 among the notes of a weights file, which are text, or in a line of metrics; 0 where
    there is none.

    Raises:
        UserError: it is something else; ``what`` says whose.
    """
    try:
        number = kind(values.get(name, 0))
        if number >= 0:  # not so of NaN
            return number
    except (AttributeError, TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{what} is damaged: its {name} is not a number of 0 or more")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of the model, or of the guide, under their own names."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Copies tensors into a module's parameters and buffers.

    Raises:
        UserError: names, shapes or kinds of numbers differ, or a number is not finite; ``what`` says
            whose.
    """
    own = module.state_dict()
    differ = [
        name
        for name in {**own, **tensors}
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    ]
    if differ:
        more = f" and {len(differ) - 1} more do" if len(differ) > 1 else " does"
        raise UserError(f"{what} holds the weights of something else: {differ[0]}{more} not fit")
    for name, tensor in tensors.items():
        # Kept weights are in half precision.
        both_float = tensor.is_floating_point() and own[name].is_floating_point()
        if tensor.dtype != own[name].dtype and not both_float:
            raise UserError(
                f"{what} is damaged: {name} is of {tensor.dtype}, and should be of {own[name].dtype}"
            )
    refuse_not_finite(tensors, what)
    module.load_state_dict(tensors)


def refuse_not_finite(tensors: dict[str, Tensor], what: str) -> None:
    """Raises `UserError` naming the first of the tensors that holds NaN or infinity, and ``what``."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"{what} holds numbers that are not finite, in {name}: its training diverged, or it is "
                "damaged"
            )
