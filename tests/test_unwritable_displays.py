"""Training whose display cannot be written to goes on, and saves."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dood_pyro import training
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.progress import LossyStream, print_across, progress_bar
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from tests.conftest import TINY

STEPS = 3
TRAIN = "import sys; from dood_pyro.cli.main import main; main(sys.argv[1:])"


def command(source: Path, out: Path) -> list[str]:
    settings = ("--canvas-size", 16, "--batch-size", 4, "--max-strokes", 2, "--no-tensorboard")
    arguments = ["train", "--source", source, "--steps", STEPS, "--out", out, *settings]
    return [sys.executable, "-c", TRAIN, *map(str, arguments)]


def assert_saved(out: Path) -> None:
    run = Run(out)
    assert run.progress()[0] == run.step_of() == STEPS
    assert [line["kind"] for line in run.read_metrics()] == ["held-out"]
    assert (out / "reconstructions.png").is_file()


@pytest.mark.parametrize("redirected", ["2>/dev/full", ">&- 2>&-", "2>&1 | head -c 1"])
def test_redirected_to_what_does_not_take_it(redirected: str, source: Path, tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in command(source, tmp_path / "run"))
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {redirected}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr
    assert_saved(tmp_path / "run")


def test_a_terminal_that_goes_away(source: Path, tmp_path: Path) -> None:
    """Its end is a signal, and then an error for whoever writes to it."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command(source, tmp_path / "run"), stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    os.read(leader, 1)  # the bar has appeared: training is under way
    os.kill(process.pid, signal.SIGHUP)
    os.close(leader)
    assert process.wait(timeout=120) == 0
    assert_saved(tmp_path / "run")


def test_a_display_of_ones_own_that_fails(source: Path, tmp_path: Path) -> None:
    config = RunConfig("dood", TINY, TrainConfig(str(source), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=STEPS), torch.device("cpu"))
    shown: list[str] = []

    def show(_: Any, line: dict[str, Any]) -> None:
        shown.append(line["kind"])
        raise BrokenPipeError(32, "Broken pipe")

    training.resume(run, torch.device("cpu"), show=show, tensorboard=False)
    assert shown == ["start"], "it is not tried again"
    assert run.progress()[0] == STEPS


def test_all_is_saved_before_it_is_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends with the first word about the end has lost nothing."""
    config = RunConfig("dood", TINY, TrainConfig(str(source), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=STEPS), torch.device("cpu"))

    def show(_: Any, line: dict[str, Any]) -> None:
        if line["kind"] == "held-out":
            raise SystemExit(9)

    with pytest.raises(SystemExit):
        training.resume(run, torch.device("cpu"), show=show, tensorboard=False)
    assert run.progress()[0] == run.step_of() == STEPS
    assert training.resume(run, torch.device("cpu"), tensorboard=False).evaluated == STEPS


def test_bars_drop_what_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        encoding = "utf-8"

        def __init__(self) -> None:
            self.tries = 0

        def write(self, _: str) -> int:
            self.tries += 1
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise ValueError("I/O operation on closed file")

    broken = Broken()
    stream = LossyStream(broken)
    assert stream.encoding == "utf-8" and stream == LossyStream(broken) == broken
    assert stream != LossyStream(None)
    assert stream.write("three") == 5 and broken.tries == 1
    assert stream.write("again") == 5 and broken.tries == 1, "it is given up"
    LossyStream(broken).flush()
    assert LossyStream(None).write("x") == 1
    with progress_bar(total=2) as bar:
        bar.update()
        print_across(bar, "between")
    out, err = capsys.readouterr()
    assert out == "between\n" and "50%" in err


def test_interrupting_a_command_is_no_traceback(source: Path, tmp_path: Path) -> None:
    """Ctrl-C, while another command than train is at work."""
    arguments = ["train-features", "--source", source, "--steps", 10**6, "--out", tmp_path / "x"]
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore SIGINT, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    process.stderr.read(1)  # the bar has appeared
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().endswith("dood-pyro: interrupted") and "Traceback" not in err
