"""The check for a GPU, at toy size on a CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "experiments" / "gpu_check.sh"


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHON": sys.executable, "WHEELS": str(tmp_path / "none")}
    ran = subprocess.run(
        [SCRIPT, "--out", tmp_path / "out", "--dry-run"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "bench_gpu.json").read_text())
    stages = ("environment", "tests", "renderer", "steps", "training_mnist", "training_omniglot")
    assert set(found) == {*stages, "parsing", "profile"}
    assert not any("error" in entry or "left_out" in entry for entry in found.values())
    assert found["training_mnist"]["steps_per_second"] > 0
    assert found["training_omniglot"]["log_p"] < 1e6
    del found["steps"]["took_seconds"]
    assert "graph, compiled networks" in found["steps"]
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):  # torch compiles for a CPU by one
        assert "InductorError" in found["steps"].pop("graph, compiled networks")["failed"]
    assert all(entry["steps_per_second"] > 0 for entry in found["steps"].values())
    assert found["parsing"]["largest_difference_from_cpu"] < 1e-4
    assert found["profile"]["top"] and "passed" in found["tests"]["summary"]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    environ = os.environ | {"PYTHON": sys.executable}
    ran = subprocess.run(
        [SCRIPT, "--out", tmp_path / "out"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1 and "--dry-run" in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()
