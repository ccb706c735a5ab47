"""docs/results.md and the README say what the files of results say; kept weights are what they were."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import keep_weights  # noqa: E402
import restore_runs  # noqa: E402
import results_page  # noqa: E402
import results_tables  # noqa: E402

from dood_pyro.run_folders.run import Run  # noqa: E402
from dood_pyro.run_folders.tensors import SUMS  # noqa: E402
from dood_pyro.tasks.calibrate import USUAL  # noqa: E402
from tests.test_cli import run as run  # noqa: E402

PAGE, README = results_page.PAGE.read_text(), results_page.README.read_text()


def test_tables_and_claims_are_those_of_the_files() -> None:
    assert results_page.problems(PAGE, README) == []


def test_usual_calibration_is_that_of_the_file() -> None:
    page = (ROOT / "docs" / "guides.md").read_text()
    assert all(claim in USUAL and claim in page for claim in results_page.calibration_claims())


def test_what_differs_is_found() -> None:
    own = next(line for line in results_tables.own_table() if line.startswith("| MNIST"))
    found = results_page.problems(PAGE.replace(own, own.replace("7", "8")), README)
    assert any("table of docs/results.md" in line for line in found)
    found = results_page.problems(PAGE, README.replace("| 23.71 |", "| 1.71 |"))
    assert found == [line for line in found if "table of README.md" in line] != []
    (claim,) = (each for each in results_page.main_claims() if "22 of 25 cells" in each)
    changed = [text.replace("22 of 25 cells", "25 of 25 cells") for text in (PAGE, README)]
    assert results_page.problems(changed[0], README) == [f"not in docs/results.md: {claim}"]
    assert results_page.problems(PAGE, changed[1]) == [f"not in README.md: {claim}"]
    with pytest.raises(SystemExit, match="places for the table"):
        results_page.with_tables(results_page.PAGE, PAGE.replace("<!-- own -->", ""))


def test_kept_runs_are_listed() -> None:
    runs = ROOT / "experiments" / "runs"
    listed = dict(reversed(line.split()) for line in (runs / SUMS).read_text().splitlines())
    kept = [f for f in runs.glob("*/*") if not f.parent.is_symlink()]
    missing = set(listed) - {f.relative_to(runs).as_posix() for f in kept}
    # Weights that `make restore-runs` brings back are listed, so that they are verified then.
    assert all(name.endswith(f"/{restore_runs.WEIGHTS}") for name in missing)
    for file in kept:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest == listed[file.relative_to(runs).as_posix()], file


def test_keeping_a_run_lists_its_checksums(run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for name in ("a", "b", "a"):
        keep_weights.keep(run, kept / name)
    lines = (kept / SUMS).read_text().splitlines()
    assert len(lines) == len({line.split()[1] for line in lines}) == 8
    checked = subprocess.run(["sha256sum", "--check", SUMS], cwd=kept, check=False)
    assert checked.returncode == 0
    Run(kept / "a").load()
