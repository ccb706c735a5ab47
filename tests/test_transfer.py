"""The transfer table: what is trained and measured, what is left alone, what it says."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dood_pyro.errors import UserError
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.facts import RunFacts
from dood_pyro.run_folders.formats import FORMAT
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.rows import COLUMNS, read_rows, record
from dood_pyro.tasks.transfer import cells as cells_of
from dood_pyro.tasks.transfer import fill as filling
from dood_pyro.tasks.transfer import plan as planning
from dood_pyro.tasks.transfer.cells import Cell, cells
from dood_pyro.tasks.transfer.engines import Job, LocalEngine, Outcome
from dood_pyro.tasks.transfer.figure import draw_table
from dood_pyro.tasks.transfer.fill import fill
from dood_pyro.tasks.transfer.plan import Known, Plan, TableRun, expected, trainings
from dood_pyro.tasks.transfer.published import Figure, other_data, published, verdict
from dood_pyro.tasks.transfer.report import as_text, findings


def dood_pyro(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dood_pyro.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def know(monkeypatch: pytest.MonkeyPatch, found: dict[str, Known]) -> None:
    """Makes these the sources that are here, for whatever asks."""
    for module in (planning, cells_of, filling):
        monkeypatch.setattr(module, "known_data", lambda _: found)


def begun(ran: subprocess.CompletedProcess[str], word: str) -> int:
    """How many lines of a command's output begin with a word."""
    return sum(line.startswith(f"{word} ") for line in ran.stdout.splitlines())


def plan(folder: Path, *wanted: TableRun, **settings: Any) -> Plan:
    targets = tuple(dict.fromkeys(training.source for training in wanted))
    return Plan(wanted, targets, 1.0, folder / "runs", folder / "table.csv", **settings)


def row(training: TableRun, target: str, log_p: float, **other: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS, ""),
        **training._asdict(),
        "guide": "amortised",
        **{"target": target, "log_p": log_p, "log_p_se": 1.0, "particles": 200, "images": 1000},
        **dict.fromkeys(("log_p_summed", "elbo", "mean_strokes", "mean_absolute_error"), 0.0),
        **{"steps": 10, "seconds": 60.0, "format": FORMAT, "data_sha256": "d"},
        "config_sha256": expected(training).sha256(),
        **other,
    }


def test_the_papers_table_unless_told_otherwise() -> None:
    default = trainings(None, None, (0, 1))
    assert len(default) == 2 * (2 * 5 + 3)
    assert [t.seed for t in default] == sorted(t.seed for t in default)
    assert TableRun("air", "mnist", 0) in default and TableRun("air", "kmnist", 0) not in default
    assert trainings(("air",), ("kmnist",), (3,)) == (TableRun("air", "kmnist", 3),)
    with pytest.raises(UserError, match="no model 'aire'"):
        trainings(("aire",), None, (0,))


def test_settings_hash_is_shared_across_data_and_seeds_only() -> None:
    def of(*training: Any) -> str:
        return expected(TableRun(*training)).sha256()

    assert of("dood", "mnist", 0) == of("dood", "kmnist", 4)
    assert len({of(model, "mnist", 0) for model in ("dood", "dair", "air")}) == 3


def test_the_likelihood_is_the_papers() -> None:
    likelihoods = {
        (model, source): expected(TableRun(model, source, 0)).model.likelihood
        for model in ("dood", "dair", "air")
        for source in ("mnist", "omniglot")
    }
    gaussian = {key for key, likelihood in likelihoods.items() if likelihood == "gaussian"}
    assert gaussian == {("dair", "omniglot"), ("air", "omniglot")}


def test_rows_of_other_settings_are_left_out_and_seeds_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, {})
    first, second = TableRun("dood", "mnist", 0), TableRun("dood", "mnist", 1)
    wanted = plan(tmp_path, first, second)
    for each in (
        row(first, "mnist", 6000.0),
        row(second, "mnist", 6100.0),
        row(first, "mnist", 9000.0, config_sha256="other"),
        row(first, "mnist", 9000.0, format=FORMAT - 1),
        row(first, "mnist", 9000.0, particles=5),
        row(first, "elsewhere", 9000.0),
    ):
        record(wanted.table, each)
    found, notes = cells(read_rows(wanted.table), wanted)
    assert list(found) == [("dood", "mnist", "mnist")]
    cell = found["dood", "mnist", "mnist"]
    assert cell.mean == 6050 and cell.seeds == 2
    assert cell.spread == pytest.approx(70.7, abs=0.1) and cell.published == Figure(7094, 58, 5)
    # 1,044 below, and two standard errors of the difference are 113.
    assert cell.standard_error() == pytest.approx(50) and cell.against_published() == "below"
    assert notes == ["left out 3 rows of dood: of other settings, data, samples or images"]


def test_rows_of_other_images_or_data_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TableRun("dood", "mnist", 0)
    wanted = plan(tmp_path, training)
    know(monkeypatch, {"mnist": Known("d", 900)})
    of_now = {"train_data_sha256": "d", "images": 900}
    wanted = dataclasses.replace(wanted, limit=900)
    for each in (
        row(training, "mnist", 1.0, **of_now),
        row(training, "mnist", 2.0, **of_now | {"images": 200}),
        row(training, "mnist", 3.0, **of_now | {"train_data_sha256": "older"}),
        row(training, "mnist", 4.0, **of_now | {"data_sha256": "older"}),
    ):
        record(wanted.table, each)
    found, notes = cells(read_rows(wanted.table), wanted)
    cell = found["dood", "mnist", "mnist"]
    assert (cell.mean, cell.seeds) == (1.0, 1) and "3 rows" in notes[0]
    # Without the data nobody knows which of three rows is meant.
    know(monkeypatch, {})
    found, notes = cells(read_rows(wanted.table), wanted)
    assert not found and "several rows of one seed" in notes[-1]
    with pytest.raises(UserError, match="one name"):
        Plan((training,), ("elsewhere/mnist.npz",), 1.0, tmp_path, wanted.table)


@pytest.mark.parametrize(
    "column, value",
    [
        *(("steps", "70x3"), ("seed", ""), ("seconds", "1800.o"), ("log_p", "")),
        *(("log_p", "nan"), ("elbo", "inf"), ("steps", "-4")),
    ],
)
def test_a_malformed_number_is_named(tmp_path: Path, column: str, value: str) -> None:
    table = tmp_path / "table.csv"
    good = row(TableRun("dood", "mnist", 0), "mnist", 1.0)
    lines = [dict(good), {**good, "target": "kmnist", column: value}]
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(UserError, match=f"line 3: {column} is"):
        read_rows(table)


def test_measuring_without_training(tmp_path: Path) -> None:
    problems = fill(plan(tmp_path, TableRun("dood", "digits", 0), train=False), LocalEngine(1))
    assert len(problems) == 1 and "there is no run" in problems[0]


def test_a_kept_run_stands_in_for_what_would_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its settings, data and budget are the plan's, and the plan's folder has none of its own."""
    know(monkeypatch, {"digits": Known("d", 9)})
    training = TableRun("dood", "digits", 3)
    wanted = plan(tmp_path, training, kept=tmp_path / "kept")
    own, kept = Run(wanted.runs / str(training)), Run(tmp_path / "kept" / str(training))

    def keep(budget: TrainingBudget, data_sha256: str = "d", **settings: Any) -> Path:
        config = expected(training)
        settled = dataclasses.replace(config.train, **settings)
        kept.path.mkdir(parents=True, exist_ok=True)
        kept.write_config(dataclasses.replace(config, train=settled), budget)
        kept.write_facts(RunFacts(data_sha256))
        return wanted.run(training).path

    assert wanted.run(training).path == own.path
    assert keep(TrainingBudget(seconds=1.0)) == own.path, "it was never trained"
    kept.append_metrics([{"kind": "held-out", "step": 1, "seconds": 1.0, "elbo": 0.0}])
    assert keep(TrainingBudget(seconds=1.0)) == kept.path
    assert keep(TrainingBudget(seconds=2.0)) == own.path
    assert keep(TrainingBudget(steps=5)) == own.path
    assert keep(TrainingBudget(seconds=1.0), data_sha256="other") == own.path
    assert keep(TrainingBudget(seconds=1.0), data_sha256="") == own.path, "of data nobody knows"
    assert keep(TrainingBudget(seconds=1.0), seed=4) == own.path
    assert keep(TrainingBudget(seconds=1.0), beta=2.0) == own.path
    assert keep(TrainingBudget(seconds=1.0)) == kept.path
    (kept.path / "config.json").write_text("{")
    assert wanted.run(training).path == own.path
    keep(TrainingBudget(seconds=1.0))
    own.path.mkdir(parents=True)
    assert wanted.run(training).path == own.path


def test_a_longer_runs_row_replaces_a_shorter_ones_only(tmp_path: Path) -> None:
    training, table = TableRun("dood", "mnist", 0), tmp_path / "table.csv"
    for steps, log_p in ((10, 1.0), (30, 3.0), (20, 2.0)):
        record(table, row(training, "mnist", log_p, steps=steps))
    (only,) = read_rows(table)
    assert (only["steps"], only["log_p"]) == ("30", "3")


def test_findings_say_what_the_table_shows() -> None:
    values = {
        ("dood", "a", "a"): 10, ("dood", "a", "b"): 3, ("dood", "b", "a"): 4, ("dood", "b", "b"): 9,
        ("dair", "a", "a"): 11, ("dair", "a", "b"): 1, ("dair", "b", "a"): 2, ("dair", "b", "b"): 5,
    }  # fmt: skip
    published = {("dood", "a", "b"): Figure(5, None, 5), ("dood", "b", "b"): Figure(7, 2.0, 4)}
    lines = list(
        findings({key: Cell(v, None, 1, 60.0, published.get(key)) for key, v in values.items()})
    )
    assert lines == [
        "DooD: trained for 1 minutes, up to the best checkpoint",
        "DooD: the diagonal is the column's highest in every column",
        "DooD: rows by their mean off the diagonal, lowest first: a 3, b 4",
        "Difference-AIR: trained for 1 minutes, up to the best checkpoint",
        "Difference-AIR: the diagonal is the column's highest in every column",
        "Difference-AIR: rows by their mean off the diagonal, lowest first: a 1, b 2",
        "DooD against Difference-AIR of equal time off the diagonal, 2 cells: 2 above",
        "DooD against Difference-AIR of equal time on the diagonal, 2 cells: 1 above, 1 below (a → a)",
        # 9 is above 7 by no more than two standard errors, of 1 each.
        "DooD against its published figures, 2 cells: 0 above, 1 tie (b → b), 1 below (a → b)",
    ]


def test_the_table_as_text_leaves_gaps_empty() -> None:
    found = {
        ("dood", "a", "a"): Cell(1234.6, 1.0, 1, 60.0, Figure(-2000, 10.0, 5)),
        ("dood", "a", "b"): Cell(-5.0, 1.0, 1, 60.0, None),
        ("dood", "b", "a"): Cell(7.0, 1.0, 1, 60.0, Figure(8, 1.0, 5)),
    }
    lines = list(as_text(found, {"b": "of another kind"}))
    assert lines[:5] == [
        "| DooD: from ↓ on → | a | b† |",
        "| --- | ---: | ---: |",
        "| a | 1,235 ± 1 (−2,000) | −5 ± 1 |",
        "| b† | 7 ± 1 (8)= |  |",
        "",
    ]
    assert "seeds per cell: 1" in lines[5] and "over images" in lines[5]
    assert lines[7].startswith("† of another kind")


def test_what_is_told_from_a_tie() -> None:
    """Two standard errors of the difference, the published one's over its seeds."""
    figure = published("dood", "omniglot", "omniglot")
    assert figure == Figure(7386, 7, 5)
    for mean, told in ((7417.0, "tie"), (7500.0, "above"), (7300.0, "below")):
        assert Cell(mean, 38.0, 1, 60.0, figure).against_published() == told
    assert published("air", "mnist", "mnist") is None and published("dood", "mnist", "x") is None
    assert verdict(1.0, None, 1.0, None) == "tie"


def test_data_that_are_not_the_papers_are_marked() -> None:
    bymerge = "99a47e2dd5e67a5501ef2fcf9f876075b53441c443ed84d6e6dc9bff5485f5b9"
    base = {"source": "mnist", "target": "mnist", "data_sha256": "", "train_data_sha256": ""}
    assert other_data([base]) == {}
    assert set(other_data([base | {"target": "quickdraw"}])) == {"quickdraw"}
    assert other_data([base | {"source": "emnist", "train_data_sha256": "official"}]) == {}
    kept = base | {"source": "emnist", "train_data_sha256": bymerge}
    assert set(other_data([kept])) == {"emnist"}


def test_a_figure_shows_gaps_as_gaps(tmp_path: Path) -> None:
    cell = Cell(-123.0, 4.0, 1, 60.0, None)
    found = {("dood", "mnist", "mnist"): cell, ("dood", "kmnist", "kmnist"): cell}
    paths = draw_table(found, ["dood", "dair"], lambda *_: None, tmp_path / "table.png")
    assert [path.suffix for path in paths] == [".png", ".pdf"]
    assert all(path.stat().st_size > 1000 for path in paths)
    text = (tmp_path / "table.pdf").read_bytes()
    assert text.startswith(b"%PDF")


def test_a_cut_table_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    wanted = plan(tmp_path, TableRun("dood", "digits", 0))
    record(wanted.table, row(wanted.trainings[0], "digits", 1.0))
    wanted.table.write_text(wanted.table.read_text()[:-40])
    with pytest.raises(UserError, match="line 2"):
        fill(wanted, LocalEngine(1))
    assert not wanted.runs.exists()


class Refusing:
    """Engine whose jobs fail at once, two at a time."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def slots(self) -> int:
        return 2

    def run(self, job: Job) -> Outcome:
        self.jobs.append(job)
        return Outcome(1, "", "refused")

    def stop(self) -> None:
        """Nothing runs."""


def test_lines_of_trainings_that_begin_together_stay_apart(tmp_path: Path) -> None:
    """As print does, the text is written first and the line's end after it."""
    written: list[str] = []

    def say(line: str) -> None:
        written.append(line)
        time.sleep(0.02)
        written.append("\n")

    wanted = plan(tmp_path, *(TableRun("dair", "digits", seed) for seed in range(4)))
    assert len(fill(wanted, Refusing(), say)) == 4
    assert sorted("".join(written).splitlines()) == [
        f"training  {each}" for each in wanted.trainings
    ]


def test_a_model_of_ones_own_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named once, for the table; the table's commands are told to run it."""
    (tmp_path / "own_table.py").write_text("from dood_pyro.models.dood import DooD as Mine\n")
    monkeypatch.chdir(tmp_path)
    (training,) = trainings(("own_table:Mine",), ("digits",), (0,))
    wanted, engine = plan(tmp_path, training), Refusing()
    assert wanted.run(training).path.name == "own_table-Mine-digits-0"
    fill(wanted, engine)
    Run.create(
        wanted.run(training).path,
        expected(training),
        TrainingBudget(seconds=1),
        torch.device("cpu"),
    )
    monkeypatch.setattr(Run, "progress", lambda run: (1, 1.0))
    monkeypatch.setattr(Run, "step_of", lambda run: 1)
    fill(wanted, engine)
    begun, measured = (job.words for job in engine.jobs)
    assert begun[:3] == ("train", "--model", "own_table:Mine") and "--trust" not in begun
    for words in (engine.jobs[0].going_on, measured):
        assert words[words.index("--trust") + 1] == "own_table:Mine"


@pytest.mark.slow
def test_from_nothing_to_a_table_and_again(tmp_path: Path) -> None:
    """Trains, measures and draws; the second time nothing is left to do; a broken run is reported
    and its cells skipped."""
    common = (
        *("transfer-table", "--models", "dair", "--sources", "digits,random-strokes"),
        *("--budget", "3s", "--limit", "3", "--particles", "4", "--jobs", "2"),
        *("--runs-dir", str(tmp_path / "runs"), "--table", str(tmp_path / "table.csv")),
    )
    first = dood_pyro(*common)
    assert first.returncode == 0, first.stderr
    assert begun(first, "training") == 2 and begun(first, "measured") == 4
    assert (tmp_path / "table.png").exists() and (tmp_path / "table.pdf").exists()
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {r["model"] for r in rows} == {"dair"}
    before = (tmp_path / "table.csv").read_bytes()
    again = dood_pyro(*common)
    assert again.returncode == 0, again.stderr
    assert begun(again, "training") == begun(again, "measured") == 0
    assert (tmp_path / "table.csv").read_bytes() == before
    broken = tmp_path / "runs" / "dair-digits-0" / "best.safetensors"
    broken.write_bytes(broken.read_bytes()[:100])
    (tmp_path / "table.csv").unlink()
    third = dood_pyro(*common)
    assert third.returncode == 1 and begun(third, "measured") == 2
    assert "dair-digits-0" in third.stderr and "damaged" in third.stderr
    assert "Traceback" not in third.stderr
