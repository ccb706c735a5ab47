"""What holds for all commands alike: JSON on request and nothing beside it, names of figures, quiet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dood_pyro.cli.options import figure_path

from dood_pyro.registry import TASKS, load_target
from dood_pyro.tasks.calibrate import USUAL, Ranks, in_words, summary
from dood_pyro.training.log import not_yet
from tests.test_cli import Out, call

MEASURE = (
    *("evaluate", "one-shot", "sources", "fid", "sample-quality", "statistics", "compare-guides"),
    *("calibrate", "stroke-counts", "clusters", "runs"),
)
"""Commands whose outcome is numbers."""


@pytest.mark.parametrize("name", MEASURE)
def test_what_measures_prints_json_on_request(name: str) -> None:
    command = load_target(TASKS[name].target)
    assert any("--json" in parameter.opts for parameter in command.params)


def test_json_is_alone_on_standard_output(
    capsys: Out, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--particles", 2, "--limit", 2)
    for words in (
        ("evaluate", "omniglot", "--target", source, *few),
        ("compare-guides", "omniglot", "--target", source, "--guides", "amortised", *few),
        ("stroke-counts", "omniglot", "--targets", source, "--limit", 3),
        ("sources",),
        ("runs",),
    ):
        status, out, err = call(capsys, *words, "--json")
        assert status == 0, err
        assert json.loads(out)
        status, out, _ = call(capsys, *words)
        assert status == 0 and not out.startswith(("{", "["))
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {f"omniglot-guides-{source.stem}.png", "omniglot-stroke-counts.png"}


def test_figures_are_named_after_runs_and_task() -> None:
    assert figure_path(None, ["runs/a"], "clusters", "mnist") == Path("a-clusters-mnist.png")
    assert figure_path(None, ["a", "b"], "compare") == Path("a-b-compare.png")
    assert figure_path(None, list("abcde"), "compare") == Path("a-and-4-more-compare.png")
    assert figure_path(Path("mine.png"), ["a"], "compare") == Path("mine.png")


def test_quiet_is_understood_on_either_side(source: Path, tmp_path: Path) -> None:
    words = ["evaluate", "omniglot", "--target", str(source), "--particles", "2", "--limit", "2"]
    for line in (["--quiet", *words], [*words, "--quiet"], words):
        command = [sys.executable, "-m", "dood_pyro.cli", *line]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "log p(x)" in done.stdout
        assert bool(done.stderr) == (line is words)


def test_shells_complete_commands() -> None:
    environment = {**os.environ, "_DOOD_PYRO_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    command = "import sys; sys.argv = ['dood-pyro']; from dood_pyro.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**environment, "COMP_WORDS": "dood-pyro re"},
        capture_output=True,
        text=True,
    )
    assert "reconstruct" in done.stdout, done.stderr


def test_calibration_is_concluded_in_words() -> None:
    uniform = np.arange(100).repeat(5)
    ends = np.where(uniform < 50, uniform // 4, 99 - (99 - uniform) // 4)
    middle = 40 + uniform // 5
    fine = Ranks("width", uniform, 99)
    assert in_words(summary([fine])).startswith("Calibrated")
    said = in_words(summary([fine, Ranks("place", ends, 99)]))
    assert "1 of 2" in said and "draws are too narrow" in said and "Worst is place" in said
    assert said.endswith(USUAL)
    shifted = Ranks("place", np.minimum(uniform + 4, 99), 99)
    said = in_words(summary([shifted]))
    assert ("draws are too narrow" in said) == (USUAL in said) and "too wide" not in said
    said = in_words(summary([Ranks("place", middle, 99)]))
    assert "draws are too wide" in said and USUAL not in said
    assert "truth higher" in in_words(summary([Ranks("place", np.maximum(uniform, 90), 99)]))


def test_a_run_that_hardly_draws_yet_says_so() -> None:
    said = not_yet(0.02, 30, "runs/mine")
    assert "0.02 strokes" in said and "--resume runs/mine" in said
    assert not_yet(2.5, 30, "runs/mine") == not_yet(0.02, 5000, "runs/mine") == ""
    assert not_yet(None, 1, "runs/mine") == ""
