"""Where a transfer table's commands run: processes of this machine, and a Ray cluster that loses a
node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dood_pyro.data import prepared
from dood_pyro.errors import UserError
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.rows import read_rows
from dood_pyro.tasks.transfer.engines import Job, LocalEngine, RayEngine, pack, run_on_node, unpack
from dood_pyro.tasks.transfer.fill import fill
from dood_pyro.tasks.transfer.plan import Plan, TableRun
from tests.conftest import random_pictures

TINY = ("--canvas-size", "16", "--max-strokes", "1", "--batch-size", "4", "--no-tensorboard")


def sources(folder: Path, *names: str) -> tuple[str, ...]:
    """Prepared sources of small pictures, as paths."""
    for seed, name in enumerate(names):
        arrays = {}
        for part, count in (("train", 40), ("test", 8)):
            pictures = random_pictures(count, 20, seed=count + seed) * 255
            arrays[f"{part}_images"] = pictures.byte().numpy()
            arrays[f"{part}_labels"] = np.arange(count) % 3
        prepared.write(folder / f"{name}.npz", arrays)
    return tuple(str(folder / f"{name}.npz") for name in names)


def training(run: Path, source: str, *more: str) -> Job:
    words = ("train", "--source", source, "--out", str(run), "--device", "cpu", *TINY, *more)
    return Job(words, run, trains=True)


def test_a_folder_packed_and_put_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("c")
    packed = pack(tmp_path / "a")
    for _ in range(2):  # the second time in place of the first
        unpack(packed, tmp_path / "new" / "a")
        assert (tmp_path / "new" / "a" / "b" / "c").read_text() == "c"
        (tmp_path / "new" / "a" / "d").touch()
        assert [each.name for each in (tmp_path / "new").iterdir()] == ["a"]
    unpack(packed, tmp_path / "new" / "a")
    assert not (tmp_path / "new" / "a" / "d").exists()


def test_what_a_command_says_last_is_its_error(tmp_path: Path) -> None:
    engine = LocalEngine(1)
    outcome = engine.run(Job(("train", "--resume", str(tmp_path / "none")), tmp_path, True))
    assert outcome.status == 1 and outcome.error.startswith("dood-pyro: ") and not outcome.out
    assert engine.run(Job(("--version",), tmp_path, False)).error == ""


def test_without_ray_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'dood-pyro\[ray\]'"):
        RayEngine(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_cluster_that_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    asked: list[Any] = []

    def init(address: str | None, **given: Any) -> None:
        asked.append(address)
        raise ConnectionError("Failed to connect to 10.0.0.1:6379\nand what else Ray says")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError) as refused:
        RayEngine(tmp_path / "runs")
    assert asked == ["10.0.0.1:6379"]
    assert str(refused.value).endswith("cannot be reached: Failed to connect to 10.0.0.1:6379")
    assert not (tmp_path / "runs").exists()


def test_a_node_without_the_folder_of_runs_sends_the_run_back(tmp_path: Path) -> None:
    (source,) = sources(tmp_path, "s")
    run = tmp_path / "runs" / "r"
    marker = tmp_path / "runs" / "marker"
    assert run_on_node(training(run, source, "--steps", "2"), True, [], marker, "1") is None
    found = run_on_node(training(run, source, "--steps", "2"), False, [], marker, "1")
    assert found is not None
    outcome, packed = found
    assert outcome.status == 0, outcome.error
    assert not run.exists() and packed is not None
    unpack(packed, run)
    assert Run(run).progress()[0] == 2
    marker.touch()
    resumed = Job(("train", "--resume", str(run), "--steps", "3"), run, True)
    found = run_on_node(resumed, True, [], marker, "1")
    assert found is not None
    outcome, packed = found
    assert outcome.status == 0 and packed is None
    assert Run(run).progress()[0] == 3


@pytest.mark.slow
def test_a_stopped_training_saves_its_state(tmp_path: Path) -> None:
    (source,) = sources(tmp_path, "s")
    engine, run, outcomes = LocalEngine(1), tmp_path / "r", []

    def work() -> None:
        outcomes.append(engine.run(training(run, source, "--steps", "100000")))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        wait_for(lambda: has_trained(run))
    finally:
        engine.stop()
    thread.join(60)
    assert outcomes[0].status != 0 and "interrupted" in outcomes[0].error
    assert int(Run(run).read_tensors("state.safetensors")[1]["step"]) >= 20


@pytest.mark.slow
def test_a_training_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (source,) = sources(tmp_path, "s")
    run = tmp_path / "r"
    code = (
        "import sys; from pathlib import Path\n"
        "from dood_pyro.tasks.transfer.engines import Job, LocalEngine\n"
        "LocalEngine(1).run(Job(tuple(sys.argv[1:]), Path('r'), True))"
    )
    words = training(run, source, "--steps", "100000").words
    with subprocess.Popen([sys.executable, "-c", code, *words]) as parent:
        try:
            wait_for(lambda: has_trained(run))
            assert Run(run).progress()[0] == 0, "nothing is saved yet"
        finally:
            parent.send_signal(signal.SIGKILL)
    wait_for(lambda: Run(run).progress()[0] >= 20)


def has_trained(run: Path) -> bool:
    """Whether steps have been taken: metrics have their first line after 20."""
    return (run / "metrics.jsonl").exists() and Run(run).read_metrics() != []


def wait_for(happened: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes with one core each, and none on the one that tests run on."""
    ray_cluster = pytest.importorskip("ray.cluster_utils")
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    made = ray_cluster.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": soon}
    )
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_table_by_a_cluster_that_loses_a_node(cluster: Any, tmp_path: Path) -> None:
    wanted = tuple(TableRun("dair", source, 0) for source in sources(tmp_path, "a", "b"))
    targets = (*(each.source for each in wanted), str(tmp_path / "broken.npz"))
    (tmp_path / "broken.npz").write_bytes(b"no data")
    plan = Plan(wanted, targets, 8.0, tmp_path / "runs", tmp_path / "table.csv", 2, 2, "cpu")
    engine = RayEngine(plan.runs)
    said: list[str] = []
    found: list[Any] = []
    table = threading.Thread(
        target=lambda: found.append(fill(plan, engine, said.append)), daemon=True
    )
    try:
        assert engine.slots() == 2
        table.start()
        runs = [plan.run(each).path for each in wanted]
        wait_for(lambda: sum(map(has_trained, runs)) == 2)
        lose_a_node(cluster)
        table.join(480)
        assert not table.is_alive()
        assert engine.slots() == 1
    finally:
        engine.close()
    problems = found[0]
    assert len(problems) == 2 and all("broken" in problem for problem in problems)
    cells = {(row["source"], row["target"]) for row in read_rows(plan.table)}
    assert cells == {(a, b) for a in "ab" for b in "ab"}
    for run in runs:
        assert Run(run).progress()[1] >= 8
    assert not list(plan.runs.glob(".seen-*"))


def lose_a_node(cluster: Any) -> None:
    """Kill a node of a cluster, other than that by which this process takes part."""
    for node in cluster.nodes:
        with contextlib.suppress(ValueError):
            cluster.remove_node(node, allow_graceful=False)
            return
    raise AssertionError("no node could be removed")


def test_a_cluster_without_such_a_node_is_refused(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no node of the Ray cluster has 64 cores and 0 GPUs"):
        RayEngine(tmp_path, cpus=64)
