"""The verification finds what differs, and says what it left out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import verify

from dood_pyro.errors import UserError

HASHES = {row["target"]: row["data_sha256"] for row in verify.rows()}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """What measuring gives: what was kept, unless a test changes it."""
    found = {cell: dict(values) for cell, values in verify.result("verify").items()}
    monkeypatch.setattr(verify.data, "read", lambda name, part: (None, None, HASHES[name]))
    monkeypatch.setattr(verify, "has_weights", lambda model, source: True)
    monkeypatch.setattr(verify, "first_images", lambda m, s, t: found[f"{m}, {s} on {t}"])
    return found


def test_what_was_kept_holds(measured: dict[str, dict[str, float]]) -> None:
    findings = list(verify.cells())
    assert len(findings) == 4 * len(verify.CELLS) and all(f.holds() for f in findings)
    assert set(measured) == {f"{m}, {s} on {t}" for m, s, t in verify.CELLS}


def test_a_cell_that_moved_by_half_its_error_is_found(
    measured: dict[str, dict[str, float]],
) -> None:
    for values in measured.values():
        values["log_p"] += 0.5 * values["log_p_se"]
    off = [f for f in verify.cells() if not f.holds()]
    assert len(off) == len(verify.CELLS) and all("log_p, first" in f.what for f in off)
    assert all(str(finding).startswith("✗") for finding in off)


def test_other_data_are_left_out(
    measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(name: str, part: str) -> tuple[None, None, str]:
        return None, None, "official" if name == "emnist" else HASHES[name]

    monkeypatch.setattr(verify.data, "read", read)
    findings = list(verify.cells())
    assert "left out: emnist" in capsys.readouterr().out
    assert len(findings) == 4 * sum(target != "emnist" for _, _, target in verify.CELLS)


def test_the_status_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def parts(*findings: verify.Finding) -> dict[str, Any]:
        def missing() -> Any:
            raise UserError("cannot download it")
            yield

        return {"here": lambda: iter(findings), "missing": missing}

    good, bad = (verify.Finding("x", 1.0, 1.0 + by, 0.1) for by in (0.05, 0.2))
    monkeypatch.setattr(sys, "argv", ["verify.py"])
    for findings, status in (((good,), 0), ((good, bad), 1)):
        monkeypatch.setattr(verify, "PARTS", parts(*findings))
        with pytest.raises(SystemExit) as ended:
            verify.main()
        out = capsys.readouterr().out
        assert ended.value.code == status
        assert (
            "left out: missing: cannot download it" in out and f"1 of {len(findings)} hold" in out
        )
