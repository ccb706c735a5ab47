"""Guides beside each other over one model, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dood_pyro.cli.main import main

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.training import resume
from tests.conftest import TINY

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path, source: Path) -> Run:
    config = RunConfig("dood", TINY, TrainConfig(source=str(source), batch_size=8))
    made = Run.create(tmp_path / "run", config, TrainingBudget(steps=4), CPU)
    resume(made, CPU, tensorboard=False)
    return made


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_guides_of_every_kind(
    run: Run, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over = ["--init-from", run.path, "--trainable", "guide", "--guide", "full-covariance"]
    trained = tmp_path / "full"
    command = ["train", "--source", source, "--steps", 3, "--no-tensorboard", "--batch-size", 8]
    assert call(*command, "--out", trained, *over) == 0
    out, figures = tmp_path / "guides.png", tmp_path / "guides.json"
    names = f"amortised,refined,smc,{trained}"
    command = ["compare-guides", run.path, "--target", source, "--guides", names, "--limit", 6]
    assert call(*command, "--particles", 10, "--out", out, "--record", figures) == 0
    assert out.exists() and out.with_suffix(".pdf").exists()
    (entry,) = json.loads(figures.read_text()).values()
    rows = {row["guide"]: row for row in entry["guides"]}
    full = f"full-covariance by stop-marginal, {trained}"
    assert set(rows) == {"amortised", "refined", "smc", full}
    for row in rows.values():
        assert row["gap"] > -1e-3 and row["milliseconds"] > 0
        assert row["elbo"] <= row["log_p"] + 20
        assert (row["elbo"] == row["log_p"]) == (row["guide"] == "smc")
        assert (row["effective_samples"] is None) == (row["guide"] == "smc")
    assert rows["refined"]["elbo"] > rows["amortised"]["elbo"]
    assert rows["refined"]["milliseconds"] > rows["amortised"]["milliseconds"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in rows)


def test_what_is_no_guide_over_the_model_is_refused(
    run: Run, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, budget = run.read_config()
    other = Run.create(tmp_path / "other", config, budget, CPU)
    resume(other, CPU, tensorboard=False)
    tensors, notes = other.read_tensors("best.safetensors")
    other.write_tensors("best.safetensors", {k: t + 1 for k, t in tensors.items()}, notes)
    damaged = tmp_path / "damaged.json"
    damaged.write_text("[")
    command = ["compare-guides", run.path, "--target", source, "--limit", 2, "--particles", 2]
    for options, said in (
        (["--guides", "nothing"], "no guide 'nothing'"),
        (["--guides", other.path], "is another one"),
        (["--guides", tmp_path], "not a run folder"),
        (["--guide", "refined"], "among --guides"),
        (["--record", tmp_path / "nowhere" / "guides.json"], "no folder"),
        (["--out", "guides.gif"], ".png"),
        (["--record", damaged], "damaged"),
    ):
        capsys.readouterr()
        assert call(*command, *options) != 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "dood-pyro:" in line]
        assert len(lines) == 1 and said in lines[0]


def test_guides_of_ones_own_take_part(
    run: Run,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine.py").write_text(
        "from dood_pyro.guides.amortised import AmortisedGuide\n"
        "class Mine(AmortisedGuide):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    over = [
        "--init-from",
        run.path,
        "--trainable",
        "guide",
        "--guide",
        "mine:Mine",
        "--out",
        "mine",
    ]
    command = ["train", "--source", source, "--steps", 2, "--no-tensorboard", "--batch-size", 8]
    assert call(*command, *over) == 0
    few = ["--target", source, "--limit", 2, "--particles", 2]
    compare = ["compare-guides", run.path, *few, "--guides", "amortised,mine"]
    assert call(*compare) == 1, "code that a folder names is not run unasked"
    assert call(*compare, "--guide", "other:Guide") == 1
    assert call(*compare, "--guide", "mine:Mine") == 0
    capsys.readouterr()
    assert call("evaluate", "mine", *few, "--guide", "mine:Mine+smc", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["guide"] == "mine:Mine+smc" and row["effective_samples"] is None
    assert call("evaluate", "mine", *few, "--guide", "mine:Mine+better") == 1
    assert call("evaluate", "mine", *few, "--guide", "smc") == 1
    both = ["stroke-counts", run.path, "mine", "--targets", source, "--limit", 2]
    assert call(*both) == 1 and call(*both, "--guide", "other:Guide") == 1
    assert call(*both, "--guide", "mine:Mine+smc") == 0, "permitted to the one, put over both"


def test_calibrate_and_anatomy(run: Run, source: Path, tmp_path: Path) -> None:
    figures = tmp_path / "calibration.json"
    command = ["calibrate", run.path, "--simulations", 40, "--draws", 9]
    assert call(*command, "--out", tmp_path / "ranks.png", "--record", figures) == 0
    (result,) = json.loads(figures.read_text()).values()
    assert result["quantities"] == len(result["by_quantity"]) > 10
    assert (tmp_path / "ranks.png").exists()
    command = ["anatomy", run.path, "--target", source, "--out", tmp_path / "anatomy.png"]
    assert call(*command) == 0 and (tmp_path / "anatomy.pdf").exists()
    assert call(*command, "--index", 10**6) == 1
    out = ("--out", tmp_path / "smc.png")
    assert call("calibrate", run.path, "--guide", "smc", *out) == 1, "its particles are no draws"
