"""The commands as a stranger types them: what works, and one clear line for what does not."""

from __future__ import annotations

import configparser
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dood_pyro.cli.main import cli, main
from dood_pyro.cli.options import FORMER_OPTIONS, with_present_names
from PIL import Image

from dood_pyro import training
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.images import ImageBatch
from dood_pyro.registry import FORMER_NAMES, TASKS, load_target
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.training.batches import Batches
from tests.conftest import TINY

Out = pytest.CaptureFixture[str]


def call(capsys: Out, *arguments: Any) -> tuple[int, str, str]:
    """Status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(exit_info.value.code or 0), out, err


def refused(capsys: Out, *arguments: Any) -> str:
    """The one line that a refused command says."""
    status, out, err = call(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.strip()]
    assert status in (1, 2) and out == "" and len(lines) == 1, (status, out, err)
    assert lines[0].startswith("dood-pyro: ")
    return lines[0]


@pytest.fixture
def run(tmp_path: Path, source: Path) -> Run:
    """A trained run of the tiny model."""
    config = RunConfig("dood", TINY, TrainConfig(source=str(source), batch_size=8))
    made = Run.create(tmp_path / "run", config, TrainingBudget(steps=4), torch.device("cpu"))
    training.resume(made, torch.device("cpu"), tensorboard=False)
    return made


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from dood_pyro.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pyro', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 1


@pytest.mark.parametrize("name", TASKS)
def test_every_command_takes_its_options(name: str) -> None:
    """What click hands over, by name, is what the function takes."""
    command = load_target(TASKS[name].target)
    takes = set(inspect.signature(command.callback, follow_wrapped=True).parameters)
    collected = {
        "use": {"which", "guide", "device", "trusted"},
        "start": {"target", "image", "count", "data_dir"},
    }
    for together, apart in collected.items():
        if together in takes:
            takes = takes - {together} | apart
    given = {str(parameter.name) for parameter in command.params}
    if name == "sample":  # it takes the model without its guide
        takes.discard("guide")
    assert given == takes or name == "train", "which takes its settings as they come"


def test_importing_the_package_pulls_in_no_extras() -> None:
    program = (
        "import sys, dood_pyro; dood_pyro.load; dood_pyro.DooD; dood_pyro.Drawing\n"
        "extras = {'torchvision', 'matplotlib', 'sklearn', 'tensorboard'} & set(sys.modules)\n"
        "assert not extras, extras\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd="/")


def test_a_diverged_training_says_so_in_one_line(
    capsys: Out, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Batches.__getitem__

    def without_numbers(self: Batches, step: int) -> ImageBatch:
        batch = whole(self, step)
        return ImageBatch(batch.pixels * torch.nan, batch.native_size)

    monkeypatch.setattr(Batches, "__getitem__", without_numbers)
    small = ["--canvas-size", 16, "--max-strokes", 1, "--batch-size", 4, "--no-tensorboard"]
    out = ("--out", tmp_path / "run", *small)
    status, _, err = call(capsys, "train", "--source", source, "--steps", 100, *out)
    assert status == 1 and "training diverged" in err.splitlines()[-1]
    assert "ELBO –" in err


def test_bad_data_leave_no_run(capsys: Out, tmp_path: Path, source: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(source.read_bytes()[:-200])
    out = ("--out", tmp_path / "run")
    status, _, err = call(capsys, "train", "--source", tmp_path / "cut.npz", "--steps", 1, *out)
    assert status == 1 and "damaged" in err
    assert not (tmp_path / "run").exists()


def test_packaged_weights_are_not_resumed(capsys: Out, tmp_path: Path) -> None:
    status, _, err = call(capsys, "train", "--resume", "omniglot", "--steps", 9)
    assert status == 1 and "--init-from omniglot" in err


def test_a_measurement_is_kept_though_it_cannot_be_printed(
    capsys: Out, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dood_pyro.cli import options as shared

    def closed(*arguments: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(shared, "say", closed)
    table = tmp_path / "table.csv"
    options = ("--particles", 2, "--limit", 1, "--csv", table)
    status, _, _ = call(capsys, "evaluate", "omniglot", "--target", source, *options)
    assert status == 1 and len(table.read_text().splitlines()) == 2


def test_an_output_that_cannot_be_is_found_out_first(capsys: Out, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for options, said in (
        (("sample", "omniglot", "--out", tmp_path / "folder.png"), "is a folder"),
        (("sample", "omniglot", "--out", tmp_path / "none" / "x.png"), "no folder"),
        (("evaluate", "omniglot", "--target", "digits", "--csv", "/dev/null"), "not a file"),
        (("sources", "--data-dir", ""), "names nothing"),
        (("sample-quality", "omniglot", "--seeds", "0,00"), "twice"),
        (("fid", "", "omniglot"), "no name"),
    ):
        status, _, err = call(capsys, *options)
        assert status != 0 and said in err, options


def test_train_resume_reconstruct_evaluate(
    capsys: Out, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--canvas-size", 16, "--max-strokes", 2, "--batch-size", 4]
    status, out, _ = call(capsys, "train", "--source", source, "--steps", 3, *small)
    assert status == 0
    folder = tmp_path / "runs" / "dood-transformer-strokes-0"
    assert (folder / "reconstructions.png").is_file() and "reconstructions.png" in out
    status, _, _ = call(capsys, "train", "--resume", folder, "--steps", 5)
    assert status == 0
    assert Run(folder).read_tensors("state.safetensors")[1]["step"] == "5"

    status, out, _ = call(
        capsys, "reconstruct", folder, "--target", source, "--count", 3, "--out", "r.png"
    )
    assert status == 0
    assert {p.suffix for p in (tmp_path / "r").iterdir()} == {".svg", ".json"}

    table = tmp_path / "table.csv"
    arguments = ["--target", source, "--particles", 5, "--limit", 4, "--csv", table]
    for _ in range(2):
        status, out, _ = call(capsys, "evaluate", folder, *arguments, "--json")
        assert status == 0
    row = json.loads(out)
    assert row["images"] == 4 and row["steps"] == 5 and row["seconds"] > 0
    assert row["log_p"] == pytest.approx(row["log_p_summed"], abs=50)
    assert len(table.read_text().splitlines()) == 2, "a second measurement replaces the first"


def test_sources_lists_all(capsys: Out, tmp_path: Path) -> None:
    status, out, _ = call(capsys, "sources", "--data-dir", tmp_path)
    assert status == 0
    for name in ("mnist", "emnist", "kmnist", "quickdraw", "omniglot", "digits", "random-strokes"):
        assert name in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "minst", "--steps", "3"], "no source 'minst'"),
        (["--source", "", "--steps", "3"], "names nothing"),
        (["--steps", "3"], "say what to train on"),
        (["--source", "digits"], "say how long"),
        (["--source", "digits", "--steps", "0"], "--steps"),
        (["--source", "digits", "--steps", "three"], "--steps"),
        (["--source", "digits", "--budget", "soon"], "not a time"),
        (["--source", "digits", "--budget", "-5m"], "not a time"),
        (["--source", "digits", "--steps", "3", "--batch-size", "0"], "--batch-size"),
        (["--source", "digits", "--steps", "3", "--seed", "-1"], "--seed"),
        (["--source", "digits", "--steps", "3", "--beta", "-1"], "--beta"),
        (["--source", "digits", "--steps", "3", "--beta", "nan"], "--beta"),
        (["--source", "digits", "--steps", "3", "--learning-rate", "0"], "--learning-rate"),
        (["--source", "digits", "--steps", "3", "--max-strokes", "0"], "--max-strokes"),
        (["--source", "digits", "--steps", "3", "--degree", "99"], "--degree"),
        (["--source", "digits", "--steps", "3", "--canvas-size", "2"], "--canvas-size"),
        (["--source", "digits", "--steps", "3", "--guide", "none"], "no guide 'none'"),
        (
            ["--source", "digits", "--steps", "3", "--guide", "no.module:Class"],
            "cannot load the guide",
        ),
        (["--source", "digits", "--steps", "3", "--device", "tpu"], "--device"),
        (["--source", "digits", "--steps", "3", "--estimator", "magic"], "--estimator"),
        (["--source", "digits", "--steps", "3", "--data-dir", "nowhere"], "not a folder"),
        (["--source", "digits", "--steps", "3", "--beta", "0"], "--beta"),
        (["--source", "digits", "--steps", "3", "--set", "train.beta=0"], "beta"),
        (["--source", "digits", "--steps", "3", "--model", "gan"], "no model 'gan'"),
        (["--source", "digits", "--steps", "3", "--config", "nowhere.toml"], "nowhere.toml"),
        (["--source", "digits", "--steps", "3", "--init-from", ""], "no name"),
        (["--source", "digits", "--steps", "3", "--init-from", "nothing"], "neither a run folder"),
        (["--unknown"], "No such option"),
    ],
)
def test_nonsense_options(
    capsys: Out,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "train", *options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("parse x.png --which last", "--which"),
        ("parse x.png --trust a:B", "--trust"),
        ("parse x.png --device cpu", "--device"),
        ("parse x.png --formats gif --size 300", "--size"),
        ("parse x.png --formats json --background none", "--background"),
        ("parse x.png --formats json --plotter", "--plotter"),
        ("transfer-table --table t.csv --task-cpus 2", "--task-cpus"),
        ("transfer-table --table t.csv --engine ray --jobs 2", "--jobs"),
        ("transfer-table --table t.csv --no-fill --jobs 2", "--jobs"),
    ],
)
def test_options_without_effect_are_refused(
    capsys: Out, words: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.eye(60, dtype=bool)).save("x.png")
    assert option in refused(capsys, *words.split())
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


TINY_OPTIONS = ("--canvas-size", 16, "--max-strokes", 1, "--batch-size", 4, "--no-tensorboard")


def test_options_under_their_former_names(capsys: Out, tmp_path: Path, source: Path) -> None:
    """They do what the present ones do; both ``--option value`` and ``--option=value``."""
    out = tmp_path / "run"
    former = ("--practice", 0.25, "--corrections=1", "--dream-steps", 1, "--fit=both")
    begin = ("train", "--source", source, "--steps", 1, "--out", out, *TINY_OPTIONS)
    status, _, err = call(capsys, *begin, *former)
    assert status == 0, err
    train = Run(out).read_config()[0].train
    assert (train.synthetic_ratio, train.num_refiners, train.sleep_steps) == (0.25, 1, 1)
    assert train.trainable == "both"
    on = tmp_path / "on"
    arguments = ("--fit", "guide", "--steps", 1, "--out", on, "--no-tensorboard")
    status, _, err = call(capsys, "train", "--source", source, "--start-from", out, *arguments)
    assert status == 0, err
    train = Run(on).read_config()[0].train
    assert train.trainable == "guide" and train.init_from and train.num_refiners == 1
    assert Run(on).read_facts().initial_sha256.startswith(train.init_from)
    figure = ("--out", tmp_path / "calibration.png")
    status, _, err = call(capsys, "calibrate", out, "--dreams", 20, "--draws", 9, *figure)
    assert status == 0 and "20/20" in err, err


def test_what_is_said_of_a_former_option_names_the_present_one(
    capsys: Out, tmp_path: Path, source: Path
) -> None:
    begin = ("train", "--source", source, "--steps", 1, "--out", tmp_path / "run")
    assert "--num-refiners" in refused(capsys, *begin, "--corrections", 99)
    assert "--trainable" in refused(capsys, *begin, "--fit", "all")
    assert "--init-from" in refused(capsys, *begin, "--start-from")


def test_former_names_are_understood_and_not_listed(
    capsys: Out, tmp_path: Path, source: Path
) -> None:
    _, train, _ = call(capsys, "train", "--help")
    _, calibrate, _ = call(capsys, "calibrate", "--help")
    words = (train + calibrate).split()
    assert not [word for word in words if word.strip(",.[]") in {*FORMER_OPTIONS, *FORMER_NAMES}]
    assert set(FORMER_OPTIONS.values()) <= {word.strip(",.[]") for word in words}
    out = tmp_path / "run"
    begin = ("train", "--source", source, "--steps", 1, "--out", out, *TINY_OPTIONS)
    status, _, err = call(capsys, *begin, "--estimator", "stop-time")
    assert status == 0, err
    assert Run(out).read_config()[0].train.estimator == "stop-marginal"


def test_the_source_doodles_is_that_of_random_strokes(
    capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dood_pyro.data import random_strokes

    monkeypatch.setattr(random_strokes, "COUNTS", {"train": 20, "test": 8})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    where = ("--data-dir", "data")
    begin = ("train", "--source", "doodles", "--steps", 1, *where, *TINY_OPTIONS)
    status, _, err = call(capsys, *begin)
    assert status == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert Run(folder).read_config()[0].train.source == "random-strokes"
    assert folder.name == "dood-transformer-random-strokes-0"
    arguments = ("--target", "doodles", "--particles", 2, "--limit", 2, *where)
    status, out, err = call(capsys, "evaluate", folder, *arguments, "--json")
    assert status == 0, err
    row = json.loads(out)
    assert row["source"] == row["target"] == "random-strokes"


def test_only_names_of_options_are_renamed() -> None:
    words = ["--fit=prior", "--out", "--fitted", "fit", "--practice", "--data-dir=--fit"]
    expected = ["--trainable=prior", "--out", "--fitted", "fit", "--synthetic-ratio"]
    assert with_present_names(words) == [*expected, "--data-dir=--fit"]


def test_an_existing_run_is_not_overwritten(capsys: Out, run: Run, source: Path) -> None:
    line = refused(capsys, "train", "--source", source, "--steps", 3, "--out", run.path)
    assert "--resume" in line


def test_resume_changes_nothing_but_the_end(capsys: Out, run: Run) -> None:
    for option, value in (
        ("--seed", 1),
        ("--beta", 2.0),
        ("--source", "digits"),
        ("--pen", "shared"),
        ("--set", "train.beta=2"),
        ("--config", "settings.toml"),
        ("--init-from", "omniglot"),
    ):
        line = refused(capsys, "train", "--resume", run.path, option, value, "--steps", 9)
        assert option in line
    assert "not lower" in refused(capsys, "train", "--resume", run.path, "--steps", 2)
    assert "--model cannot" in refused(capsys, "train", "--resume", run.path, "--model", "air")
    before = (run.path / "config.json").read_bytes()
    (run.path / "state.safetensors").unlink()
    assert "no state" in refused(capsys, "train", "--resume", run.path, "--steps", 90)
    assert (run.path / "config.json").read_bytes() == before


def test_runs_that_are_none(capsys: Out, tmp_path: Path, run: Run) -> None:
    evaluate = ["--target", "digits"]
    assert "neither a run folder" in refused(capsys, "evaluate", tmp_path / "no", *evaluate)
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(capsys, "evaluate", tmp_path / "empty", *evaluate)
    config = json.loads((run.path / "config.json").read_text())

    def with_config(**changes: Any) -> str:
        (run.path / "config.json").write_text(json.dumps(config | changes))
        return refused(capsys, "evaluate", run.path, *evaluate)

    assert "format 99" in with_config(format=99)
    assert "weights of something else" in with_config(model=config["model"] | {"features": 9})
    assert "another version" in with_config(model=config["model"] | {"colour": "red"})
    assert "does not know" in with_config(model=config["model"] | {"name": "gan"})
    assert "not an object" in with_config(train=3)
    assert "incomplete" in with_config(budget=3)
    assert "incomplete" in with_config(model={"features": 8})
    assert "beta" in with_config(train=config["train"] | {"beta": 0})
    assert "format 2" in with_config(format=2)
    (run.path / "config.json").write_text('{"format": 4, "mod')
    assert "damaged" in refused(capsys, "evaluate", run.path, *evaluate)


def test_half_written_weights(capsys: Out, run: Run, source: Path) -> None:
    for name in ("best.safetensors", "state.safetensors"):
        content = (run.path / name).read_bytes()
        (run.path / name).write_bytes(content[: len(content) // 2])
    assert "damaged" in refused(capsys, "evaluate", run.path, "--target", source)
    assert "damaged" in refused(capsys, "train", "--resume", run.path, "--steps", 9)
    (run.path / "best.safetensors").unlink()
    assert "no best.safetensors" in refused(capsys, "evaluate", run.path, "--target", source)


def test_a_full_disk_is_one_line_and_loses_nothing(
    capsys: Out, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert "state.safetensors" in before

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    line = refused(capsys, "train", "--resume", run.path, "--steps", 9, "--no-tensorboard")
    assert "No space left" in line
    after = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert before == after


def test_a_malformed_table_is_refused_before_any_work(
    capsys: Out, run: Run, source: Path, tmp_path: Path
) -> None:
    from dood_pyro.tasks.rows import COLUMNS

    table = tmp_path / "t.csv"
    table.write_text(",".join(COLUMNS) + "\ndood,mnist\n")
    line = refused(capsys, "evaluate", run.path, "--target", source, "--csv", table)
    assert "line 2" in line and table.read_text().endswith("dood,mnist\n")


def test_interrupting_says_how_to_go_on(tmp_path: Path, source: Path) -> None:
    import signal

    command = [sys.executable, "-c", "from dood_pyro.cli.main import main; main()"]
    arguments = ["train", "--source", source, "--steps", 100000, "--out", tmp_path / "run"]
    arguments += ["--canvas-size", 16, "--batch-size", 4, "--no-tensorboard"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size > 0):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"dood-pyro train --resume {tmp_path / 'run'}" in err and "Traceback" not in err
    assert (tmp_path / "run" / "state.safetensors").is_file()


def test_too_little_memory_is_one_line(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    def torch_fails(**_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9e9")

    monkeypatch.setattr(cli, "main", torch_fails)
    assert "not enough memory" in refused(capsys, "sources")


def test_every_package_is_installed() -> None:
    root = Path(__file__).parent.parent
    packages = configparser.ConfigParser()
    packages.read(root / "setup.cfg")
    listed = set(packages["options"]["packages"].split())
    inits = (root / "dood_pyro").rglob("__init__.py")
    there = {".".join(file.parent.relative_to(root).parts) for file in inits}
    assert listed == there | {"dood_pyro.cli"}
