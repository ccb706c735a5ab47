"""Evaluation by several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dood_pyro import training
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks import evaluate as module
from tests.conftest import TINY

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_row_is_the_same_however_many_processes_measure_it(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig("dood", TINY, TrainConfig(source=str(source), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=3), CPU)
    training.resume(run, CPU, tensorboard=False)
    monkeypatch.setattr(module, "SHARD", 5)
    # As a run in training: its files are others by the time that other processes read them.
    load = Run.load

    def loaded(run: Run, *arguments: Any) -> Any:
        model, guide, settings = load(run, *arguments)
        with torch.no_grad():
            under = module._with_weights((model, guide))[1]  # of smc, the trained guide
            for parameter in (*model.parameters(), *under.parameters()):
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(0))
        return model, guide, settings

    monkeypatch.setattr(Run, "load", loaded)
    rows, done = [], []
    for enough, jobs in ((10**9, 1), (1, 2)):
        monkeypatch.setattr(module, "WORTH_IT", enough)
        shown: list[float] = []
        done.append(shown)

        def show(count: float, _: int, shown: list[float] = shown) -> None:
            shown.append(count)

        # A guide that searches at random is the harder case.
        rows.append(module.evaluate(run, str(source), 10, guide="smc", progress=show, jobs=jobs))
    assert rows[0]["images"] == 12
    # Parts of images are told, of a search, by other processes, too.
    assert sum(done[0]) == pytest.approx(12) and sum(done[1]) == pytest.approx(12)
    assert min(len(shown) for shown in done) > 12
    for name, value in rows[0].items():
        same = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert rows[1][name] == same, name


@pytest.mark.parametrize("given", [{"limit": 0}, {"limit": -3}, {"particles": 0}])
def test_nothing_to_measure_is_said(given: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"(limit|particles) is .*1 or more"):
        module.evaluate("omniglot", "digits", **given)  # type: ignore[arg-type]


def test_programs_that_other_processes_cannot_import(tmp_path: Path, source: Path) -> None:
    """Processes of a script without a guard die as they start: a line, not waiting for them. A program
    that came by standard input measures alone."""
    program = (
        "import dood_pyro.tasks.evaluate as module\n"
        "module.WORTH_IT, module.SHARD = 1, 5\n"
        f"print(module.evaluate('omniglot', {str(source)!r}, 2, jobs=2)['images'])\n"
    )
    script = tmp_path / "measure.py"
    script.write_text(program)
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 200}
    done = subprocess.run([sys.executable, script], **options)
    assert done.returncode == 1 and '__name__ == "__main__"' in done.stderr.splitlines()[-1]
    done = subprocess.run([sys.executable, "-"], input=program, **options)
    assert done.stdout == "12\n", done.stderr
