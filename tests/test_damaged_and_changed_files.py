"""Files that are not what they were: refused by name, and never saved over what is whole."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dood_pyro
from dood_pyro import training
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.files import refuse_special, replacing, unreadable, unwritable
from dood_pyro.images import ImageBatch
from dood_pyro.run_folders import tensors as tensor_files
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.run_folders.tensors import SUMS, read_tensors, write_tensors
from dood_pyro.training import loop
from tests.conftest import TINY
from tests.test_cli import Out, call, refused
from tests.test_cli import run as run

CPU = torch.device("cpu")


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Changes the tensors of a file, with a checksum that fits: what a faulty program would write."""
    tensors, notes = read_tensors(path)
    write_tensors(path, change(tensors), notes)


def test_one_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(4, 3), "b": torch.arange(3), "c": torch.zeros(())}
    write_tensors(path, tensors, {"step": "12"})
    found, notes = read_tensors(path)
    assert notes == {"step": "12"} and all(torch.equal(found[n], t) for n, t in tensors.items())
    content = bytearray(path.read_bytes())
    for place in range(len(content) * 8):
        byte, bit = divmod(place, 8)
        content[byte] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.safetensors"):
            read_tensors(path)
        content[byte] ^= 1 << bit
    path.write_bytes(content)
    read_tensors(path)


def test_files_without_a_checksum_of_their_own(tmp_path: Path) -> None:
    """Those that were kept before there were checksums have theirs in a text file."""
    folder = tmp_path / "kept"
    folder.mkdir()
    path = folder / "best.safetensors"
    save_file({"a": torch.ones(3)}, path)
    assert torch.equal(read_tensors(path)[0]["a"], torch.ones(3)), "none is asked for"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / SUMS).write_text(f"{digest}  kept/best.safetensors\n\nnonsense\n")
    read_tensors(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="checksum is not the one in"):
        read_tensors(path)


def test_the_packages_weights_are_verified() -> None:
    weights = Path(dood_pyro.__file__).parent / "weights"
    listed = {line.split()[1] for line in (weights / SUMS).read_text().splitlines()}
    kept = {file.relative_to(weights).as_posix() for file in weights.glob("*/*")}
    assert listed == kept
    for name in listed:
        if name.endswith("safetensors"):
            read_tensors(weights / name)


def test_what_was_not_written_well_does_not_take_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"a": torch.zeros(5)})
    before = path.read_bytes()

    def badly(tensors: dict[str, Tensor], name: str, metadata: dict[str, str]) -> None:
        save_file({key: tensor + 1 for key, tensor in tensors.items()}, name, metadata)

    monkeypatch.setattr(tensor_files, "save_file", badly)
    with pytest.raises(UserError, match="last checkpoint is still there"):
        write_tensors(path, {"a": torch.ones(5)})
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN": lambda t: torch.full_like(t, torch.nan),
    "infinite": lambda t: torch.full_like(t, torch.inf),
    "int32": lambda t: t.to(torch.int32),
    "float64": lambda t: t.double(),
    "bool": lambda t: t > 0,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("prefix", ["weights.model.", "average.guide.", "adam.exp_avg."])
def test_a_damaged_state_is_refused_and_stays(
    run: Run, damage: str, prefix: str, capsys: Out
) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(n for n in sorted(tensors) if n.startswith(prefix) and tensors[n].numel() > 1)
        return tensors | {name: DAMAGES[damage](tensors[name])}

    rewrite(run.path / "state.safetensors", change)
    before = {file.name: file.read_bytes() for file in run.path.glob("*.safetensors")}
    said = refused(capsys, "train", "--resume", run.path, "--steps", 9)
    assert "state.safetensors" in said
    assert before == {file.name: file.read_bytes() for file in run.path.glob("*.safetensors")}


@pytest.mark.parametrize("damage", ["NaN", "int32", "bool"])
def test_damaged_weights_are_not_evaluated(
    run: Run, damage: str, source: Path, capsys: Out
) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(n for n in sorted(tensors) if n.startswith("model."))
        return tensors | {name: DAMAGES[damage](tensors[name])}

    rewrite(run.path / "best.safetensors", change)
    said = refused(capsys, "evaluate", run.path, "--target", source, "--particles", 2)
    assert "best.safetensors" in said


def test_half_precision_is_no_damage(run: Run) -> None:
    rewrite(
        run.path / "best.safetensors", lambda tensors: {n: t.half() for n, t in tensors.items()}
    )
    run.load()


def test_what_is_not_finite_is_not_saved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run.path / "state.safetensors").read_bytes()
    step = training.Trainer.train_step

    def poisoned(self: training.Trainer, images: ImageBatch) -> Any:
        found = step(self, images)
        with torch.no_grad():
            next(iter(self.parameters.values())).fill_(torch.nan)
        return found

    monkeypatch.setattr(training.Trainer, "train_step", poisoned)
    with pytest.raises(UserError, match="not finite"):
        training.resume(run, CPU, tensorboard=False, budget=TrainingBudget(steps=6))
    assert (run.path / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["best.safetensors", "facts.json", "metrics.jsonl"])
def test_pipes_in_a_run_are_not_waited_for(run: Run, name: str, source: Path, capsys: Out) -> None:
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    arguments = ("--target", source, "--particles", 2, "--limit", 2)
    assert "pipe" in refused(capsys, "evaluate", run.path, *arguments)


def test_pipes_and_devices_as_pictures_and_data(tmp_path: Path, run: Run, capsys: Out) -> None:
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero", "/dev/null"):
        assert "pipe or a device" in refused(capsys, "parse", path, "--run", run.path)
    with pytest.raises(UserError, match="pipe or a device"):
        dood_pyro.load(run.path).parse(str(pipe))
    steps = ("--steps", 2, "--out", tmp_path / "new")
    assert "pipe or a device" in refused(capsys, "train", "--source", pipe, *steps)
    assert "pipe or a device" in refused(
        capsys, "evaluate", run.path, "--target", pipe, "--particles", 2
    )
    folder = tmp_path / "pictures"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    assert "pipe or a device" in refused(capsys, "train", "--source", folder, *steps)
    os.mkfifo(tmp_path / "mnist.npz")
    mnist = ("train", "--source", "mnist", "--data-dir", tmp_path, *steps)
    assert "pipe or a device" in refused(capsys, *mnist)
    assert not (tmp_path / "new").exists()
    os.mkfifo(tmp_path / "config.json")
    assert "not a run folder" in refused(capsys, "sample", tmp_path)
    refuse_special(tmp_path / "nothing")


def test_what_is_wrong_is_called_what_it_is(tmp_path: Path) -> None:
    """By the system's error: neither is what may not be read damaged, nor a long name a full disk."""
    for number, reading, writing in (
        (errno.EACCES, "permit it", "permit it"),
        (errno.ENAMETOOLONG, "too long", "too long"),
        (errno.ENOENT, "there is no", "or no longer"),
        (errno.EIO, "look after the disk", "Input/output error"),
    ):
        error = OSError(number, os.strerror(number))
        assert reading in str(unreadable(tmp_path / "x", error))
        assert writing in str(unwritable(tmp_path / "x", error))
    assert "free some space" in str(unwritable("x", OSError(errno.ENOSPC, "No space left")))
    assert "damaged" in str(unreadable("x", ValueError("bad magic")))
    long = tmp_path / ("n" * 300)
    with pytest.raises(UserError, match="too long"), replacing(long):
        pass
    with pytest.raises(UserError, match="no longer"), replacing(tmp_path / "gone" / "x"):
        pass


def test_a_run_that_is_deleted_while_it_trains(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    config = RunConfig("dood", TINY, TrainConfig(str(source), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=4), CPU)
    evaluate = loop._evaluate

    def deleted(run: Run, *rest: Any) -> Any:
        shutil.rmtree(run.path)
        return evaluate(run, *rest)

    monkeypatch.setattr(loop, "_evaluate", deleted)
    with pytest.raises(UserError, match="no longer") as refusal:
        training.resume(run, CPU, tensorboard=False)
    assert "space" not in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"data_sha256": 3}',
        '{"native_size": "20"}',
        '{"versions": []}',
        '{"colour": "red"}',
        '{"data_sha2',
        "",
    ],
)
def test_damaged_facts_are_refused(run: Run, content: str, source: Path, capsys: Out) -> None:
    (run.path / "facts.json").write_text(content)
    arguments = ("--target", source, "--particles", 2, "--limit", 2)
    said = refused(capsys, "evaluate", run.path, *arguments)
    assert "facts.json is damaged" in said
    assert "facts.json is damaged" in refused(capsys, "train", "--resume", run.path, "--steps", 9)


def test_loading_checks_a_kept_configuration(run: Run) -> None:
    """A digit of a setting is as good as a weight."""
    digest = hashlib.sha256((run.path / "config.json").read_bytes()).hexdigest()
    (run.path.parent / SUMS).write_text(f"{digest}  {run.path.name}/config.json\n")
    run.read_config()
    text = (run.path / "config.json").read_text()
    (run.path / "config.json").write_text(text.replace('"beta": 5.0', '"beta": 4.0'))
    with pytest.raises(UserError, match="checksum"):
        run.read_config()


def test_commands_read_what_was_written(run: Run, source: Path, capsys: Out) -> None:
    status, _, err = call(
        capsys, "evaluate", run.path, "--target", source, "--particles", 2, "--limit", 2
    )
    assert status == 0, err
