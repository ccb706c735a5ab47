"""Experiments with trainings: what they train, how they go on, and what they say of what fails."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import counts
import departures
import seeds
import trainings

from dood_pyro import data
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.models.dood import DooD
from dood_pyro.research import begin_training, configure
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.transfer.engines import Job, LocalEngine, Outcome
from dood_pyro.tasks.transfer.plan import TableRun
from tests.conftest import TINY


class Recorded(LocalEngine):
    """Commands that are written down; a training leaves a run of no steps, a measurement a row."""

    def __init__(self, source: Path) -> None:
        super().__init__(1)
        self.words: list[tuple[str, ...]] = []
        self.source = source

    def run(self, job: Job) -> Outcome:
        self.words.append(job.words)
        if job.words[0] == "train" and not job.run.exists():
            config = RunConfig("dood", TINY, TrainConfig(str(self.source)))
            Run.create(job.run, config, TrainingBudget(seconds=1.0), torch.device("cpu"))
        if "omniglot" in job.words:
            return Outcome(1, "", "dood-pyro: no room")
        row = dict.fromkeys(departures.MEASURED, 1.5)
        return Outcome(0, json.dumps(row), "")


def test_rows_are_trainings_that_can_be() -> None:
    """Each takes one departure back; the paper's takes back all that there are in it."""
    usual = configure("dood", "mnist")
    changed: dict[str, set[str]] = {}
    for name, row in departures.ROWS.items():
        config = configure("dood", "mnist", departures.settings(row, "mnist"))
        differs = [
            f"{part}.{setting}"
            for part in ("model", "train")
            for setting, value in vars(getattr(config, part)).items()
            if value != vars(getattr(usual, part))[setting]
        ]
        changed[name] = set(differs)
    assert changed["default"] == set()
    single = {name: each for name, each in changed.items() if name in departures.TAKEN_BACK}
    together = {"train.estimator", "train.synthetic_ratio"}
    assert all(
        len(each - (together if "estimator" in str(each) else set())) <= 1
        for each in single.values()
    )
    single.pop("scale from what is drawn")
    assert changed["paper"] == set().union({"train.estimator"}, *single.values())


@pytest.mark.parametrize("source", ["mnist", "omniglot"])
def test_the_kept_runs_are_of_the_default_that_departures_are_taken_from(source: str) -> None:
    kept = Run(departures.KEPT / f"{departures.MODEL}-{source}-0")
    assert kept.read_config()[0] == configure(departures.MODEL, source)
    assert kept.progress()[1] == pytest.approx(1800, rel=0.01)


def test_a_row_whose_steps_cost_twice_takes_half_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "RESULTS", tmp_path / "departures.json")
    with pytest.raises(UserError, match=r"departures\.py --costs --sources mnist"):
        departures.steps_of("taper", "mnist")
    cost = {departures.COSTS.format(source="mnist"): {"default": 0.3, "taper": 0.6}}
    (tmp_path / "departures.json").write_text(json.dumps(cost))
    steps, _ = Run(departures.KEPT / "dood-mnist-0").progress()
    assert departures.steps_of("default", "mnist") == steps
    assert departures.steps_of("taper", "mnist") == steps / 2


def test_the_table_of_departures_has_the_rows_that_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "RESULTS", tmp_path / "departures.json")
    whole = {target: {"log_p": -1234.5 - i} for i, target in enumerate(departures.DATASETS)}
    entries = {
        departures.COSTS.format(source="mnist"): {"default": 0.3},
        "paper, mnist, seed 1": {"run": {"steps": 6200}, "targets": whole},
        "paper, mnist, seed 0": {"run": {"steps": 6000}, "targets": whole},
        "default, mnist, seed 0": {"run": {"steps": 3848}, "targets": whole},
        "taper, mnist, seed 0": {"run": {"steps": 3900}, "targets": {"mnist": {"log_p": 1.0}}},
    }
    (tmp_path / "departures.json").write_text(json.dumps(entries))
    lines = [line.strip("| ").split(" | ") for line in departures.table()[2:]]
    assert [line[:3] for line in lines] == [
        ["MNIST", "the default", "3,848"],
        ["MNIST", "the paper's program alone", "6,000"],
        ["MNIST", "the paper's program alone, seed 1", "6,200"],
    ]
    assert lines[0][3] == "−1,234" and len(lines[0]) == 3 + len(departures.DATASETS)


@pytest.mark.slow
def test_rows_differ_in_what_their_steps_cost(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "TURNS", 1)
    monkeypatch.setattr(trainings, "TURN", 1)
    few = {name: departures.ROWS[name] for name in ("default", "corrections")}
    monkeypatch.setattr(departures, "ROWS", few)
    cost = departures.costs(str(source))
    assert 0 < cost["corrections"] < cost["default"]


def test_a_row_goes_on_where_it_was_stopped(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "RESULTS", tmp_path / "departures.json")
    monkeypatch.setattr(Run, "provenance", lambda run, which: {"model": "dood"})
    monkeypatch.setattr(departures, "steps_of", lambda name, source: 100)
    given = "taper", "mnist", "0", tmp_path / "runs", 3
    engine = Recorded(source)
    with pytest.raises(UserError, match=r"taper-mnist-0: no room"):
        departures.fill_in(engine, *given)
    trained, *measured = engine.words
    assert trained[:3] == ("train", "--model", "dood") and "--no-taper" in trained
    assert [words[3] for words in measured] == [
        "mnist",
        "emnist",
        "kmnist",
        "quickdraw",
        "omniglot",
    ]
    kept = json.loads((tmp_path / "departures.json").read_text())["taper, mnist, seed 0"]
    assert list(kept["targets"]) == ["emnist", "kmnist", "mnist", "quickdraw"]
    again = Recorded(source)
    with pytest.raises(UserError, match="no room"):
        departures.fill_in(again, *given)
    assert again.words[0][:2] == ("train", "--resume") and len(again.words) == 2


def test_further_seeds_take_the_steps_of_the_kept_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(seeds.KEPT.parent / "results" / "transfer.csv", newline="") as file:
        row = next(each for each in csv.DictReader(file) if each["model"] == "dair")
    monkeypatch.setattr(seeds, "RESULTS", tmp_path / "seeds.csv")
    monkeypatch.setattr(seeds, "known_data", lambda plan: {})

    class Measured(Recorded):
        def run(self, job: Job) -> Outcome:
            told = super().run(job)
            if job.words[0] == "train" or told.status:
                return told
            training = TableRun("dair", "mnist", int(job.run.name[-1]))
            names = {**training._asdict(), "target": job.words[3], "images": seeds.LIMIT}
            return Outcome(0, json.dumps({**row, **names}), "")

    engine = Measured(source)
    with pytest.raises(UserError, match="no room"):
        seeds.fill_in(engine, TableRun("dair", "mnist", 1), tmp_path)
    trained, *measured = engine.words
    steps, _ = Run(seeds.KEPT / "dair-mnist-0").progress()
    assert trained[trained.index("--steps") + 1] == str(steps) and "--budget" not in trained
    assert len(measured) == 5 and all(str(seeds.LIMIT) in words for words in measured)
    again = Measured(source)
    with pytest.raises(UserError, match="no room"):
        seeds.fill_in(again, TableRun("dair", "mnist", 1), tmp_path)
    assert [words[3] for words in again.words if words[0] == "evaluate"] == ["omniglot"]
    with pytest.raises(UserError, match="no room"):
        seeds.fill_in(Measured(source), TableRun("dair", "mnist", 0), tmp_path)
    monkeypatch.setattr(seeds, "KEPT", tmp_path / "none")
    with pytest.raises(UserError, match="make restore-runs"):
        seeds.fill_in(Measured(source), TableRun("dair", "mnist", 0), tmp_path)


def test_seeds_are_compared_by_welchs_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(seeds.KEPT.parent / "results" / "transfer.csv", newline="") as file:
        row: Any = next(csv.DictReader(file)) | {"source": "mnist", "target": "mnist"}
    monkeypatch.setattr(seeds, "RESULTS", tmp_path / "seeds.csv")
    monkeypatch.setattr(seeds, "row_fits", lambda row, *given: row["config_sha256"] != "old")
    values = {"dood": (7371.0, 7380.0, 7391.0), "dair": (6062.0, 6100.0, 8600.0)}
    for model, each in values.items():
        for seed, log_p in enumerate(each):
            mine = {**row, "model": model, "seed": seed, "log_p": log_p, "log_p_se": 20.0}
            seeds.record(seeds.RESULTS, mine)
            seeds.record(seeds.RESULTS, {**mine, "config_sha256": "old", "log_p": 0.0})
    assert seeds.table()[2:] == [
        "| MNIST, MNIST | 3, 3 | 7,381 ± 10 | 6,921 ± 1,454 | a tie | 7,094 ± 58 | above |"
    ]


def test_welchs_test_is_scipys() -> None:
    draw = np.random.default_rng(0)
    for shift in (0.0, 1.0, 2.0, 4.0, -4.0):
        one, other = draw.normal(size=4) + shift, draw.normal(size=3)
        p = ttest_ind(one, other, equal_var=False).pvalue
        right = "a tie" if p > 0.05 else "above" if shift > 0 else "below"
        parts = [seeds.Part.of(each.tolist()) for each in (one, other)]
        assert seeds.welch(*parts) == right
        assert seeds.welch(*parts, seeds.Part(0.0, 1e4, 299)) == "a tie"


def test_what_fails_is_said_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> str:
        raise UserError("this one has failed")

    trainings.side_by_side(LocalEngine(2), [fails, lambda: "this one has not"])
    assert capsys.readouterr().out.splitlines() == ["this one has failed", "this one has not"]


def test_counts_are_those_of_the_kept_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings = data.load("random-strokes", "test", 16)
    monkeypatch.setattr(data, "load", lambda *given: drawings)
    given: Any = {"steps": 1, "out": tmp_path / "run", "device": "cpu"}
    small = {
        f"model.{name}": value
        for name, value in vars(TINY).items()
        if name not in DooD.settings_without_effect
    }
    begin_training("random-strokes", "dood", settings=small, **given).train(tensorboard=False)
    monkeypatch.setattr(counts, "RESULTS", tmp_path / "counts.json")
    with pytest.raises(UserError, match=r"counts\.py --costs"):
        counts.steps_of("dood", 20)
    (tmp_path / "counts.json").write_text(json.dumps({counts.COSTS: {"dood": 0.5}}))
    assert counts.steps_of("dood", 20) == 2400
    found = counts.by_guide(Run(tmp_path / "run"))
    assert found.shape == (4, TINY.max_strokes + 1)
    assert np.array_equal(found.sum(1), np.bincount(drawings.labels)[1:])
