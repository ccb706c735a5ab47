"""Runs as people handle them: listed, shown, compared, deleted, and put on a hub."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

import dood_pyro
from dood_pyro.card import card
from dood_pyro.errors import UserError
from dood_pyro.files import locked
from dood_pyro.listing import differences
from dood_pyro.recognition import open_run
from dood_pyro.run_folders.run import Run
from tests.test_cli import Out, call

SMALL = {
    "model.features": 8,
    "model.canvas_size": 16,
    "model.max_strokes": 2,
    "train.batch_size": 4,
}


def train(source: Path, out: Path, model: str = "dood", **settings: Any) -> Run:
    chosen = {**SMALL, **{name.replace("__", "."): value for name, value in settings.items()}}
    return dood_pyro.train(str(source), model, steps=2, out=out, settings=chosen, device="cpu")


@pytest.fixture
def two(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs that differ in one setting and the seed."""
    monkeypatch.chdir(tmp_path)
    train(source, tmp_path / "runs" / "one")
    train(source, tmp_path / "runs" / "deeper" / "two", train__beta=2.0, train__seed=3)
    return tmp_path / "runs"


def test_runs_are_listed(two: Path, capsys: Out) -> None:
    found = {each.name: each for each in dood_pyro.runs()}
    assert set(found) == {"runs/one", "runs/deeper/two", "omniglot"}
    assert found["omniglot"].state == "kept"
    one = found["runs/one"]
    assert (one.model, one.steps, one.state, one.seed) == ("dood", 2, "trained", 0)
    assert one.held_out is not None and one.open().path == Path("runs/one")
    html = dood_pyro.runs()._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == 4
    status, out, _ = call(capsys, "runs", "--json")
    assert status == 0 and {each["name"] for each in json.loads(out)} == set(found)
    status, out, _ = call(capsys, "runs", "--runs-dir", two)
    assert status == 0 and len(out.splitlines()) == 4


def test_damaged_and_unfinished_runs_are_listed_as_such(two: Path) -> None:
    (two / "one" / "config.json").write_text("{")
    config = json.loads((two / "deeper" / "two" / "config.json").read_text())
    config["budget"]["steps"] = 8
    (two / "deeper" / "two" / "config.json").write_text(json.dumps(config))
    states = {each.name: each.state for each in dood_pyro.runs()}
    assert "damaged" in states["runs/one"] or "config.json" in states["runs/one"]
    assert states["runs/deeper/two"] == "stopped at 25%"


def test_bounds_that_are_not_finite_are_passed_over(two: Path, capsys: Out) -> None:
    line = {"kind": "held-out", "step": 3, "seconds": 9.0, "elbo": None}
    with (two / "one" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    only = two / "deeper" / "two" / "metrics.jsonl"
    only.write_text(json.dumps(line) + "\n")
    bounds = {each.name: each.held_out for each in dood_pyro.runs()}
    assert bounds["runs/one"] is not None and bounds["runs/deeper/two"] is None
    for name in (two / "one", two / "deeper" / "two"):
        assert call(capsys, "runs", "show", name)[0] == 0


def test_a_run_in_training_is_said_to_be(two: Path) -> None:
    config = json.loads((two / "one" / "config.json").read_text())
    config["budget"]["steps"] = 8
    (two / "one" / "config.json").write_text(json.dumps(config))
    with locked(two / "one" / ".lock"):
        states = {each.name: each.state for each in dood_pyro.runs()}
    assert states["runs/one"] == "training, at 25%"


def test_options_that_would_be_ignored_are_refused(two: Path, capsys: Out) -> None:
    for words in (("--json", "show", two / "one"), ("--runs-dir", two, "show", two / "one")):
        status, _, err = call(capsys, "runs", *words)
        assert status == 2 and "comes after" in err and err.count("\n") == 1
    for wrong in (two / "none", two / "one" / "config.json"):
        status, _, err = call(capsys, "runs", "--runs-dir", wrong)
        assert status == 1 and "no folder" in err


def test_budgets_of_two_kinds_are_told_apart(two: Path) -> None:
    names = [two / "one", two / "deeper" / "two"]
    for name, steps in zip(names, (8, 9), strict=True):
        config = json.loads((name / "config.json").read_text())
        config["budget"] = {"steps": steps, "seconds": 60.0}
        (name / "config.json").write_text(json.dumps(config))
    found = differences([str(name) for name in names])
    assert found["steps"] == [8, 9] and "budget" not in found


def test_a_run_is_shown_and_its_curve_drawn(two: Path, capsys: Out) -> None:
    status, out, _ = call(capsys, "runs", "show", two / "one", "--out", "curve.png")
    assert status == 0 and "beta = 5.0" in out and "held-out bound" in out
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = call(capsys, "runs", "show", two / "one", "--json")
    assert json.loads(out)["settings"]["train"]["beta"] == 5.0


def test_what_runs_differ_in_is_said(two: Path, capsys: Out) -> None:
    names = two / "one", two / "deeper" / "two"
    status, out, _ = call(capsys, "runs", "compare", *names, "--json")
    assert status == 0
    assert json.loads(out)["settings"] == {"train.beta": [5.0, 2.0], "train.seed": [0, 3]}
    status, out, _ = call(capsys, "runs", "compare", *names)
    assert status == 0 and "train.beta" in out
    status, _, err = call(capsys, "runs", "compare", names[0])
    assert status == 2 and err.count("\n") == 1


def test_runs_are_deleted_and_nothing_else(
    two: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    (two / "notes").mkdir()
    for name in (two / "notes", "omniglot", two / "none"):
        status, _, err = call(capsys, "runs", "delete", "--yes", name)
        assert status == 1 and err.count("\n") == 1
    assert (two / "notes").is_dir()
    for answer, said in (("", "nobody answered"), ("n\n", "is kept")):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        status, _, err = call(capsys, "runs", "delete", two / "one")
        assert status == 1 and said in err and (two / "one").is_dir()
    status, _, _ = call(capsys, "runs", "delete", "--yes", two / "one")
    assert status == 0 and not (two / "one").exists() and (two / "deeper" / "two").is_dir()


def test_the_card_of_the_weights_is_as_it_would_be_written_now() -> None:
    run = open_run("omniglot")
    assert (run.path / "README.md").read_text() == card(run, "omniglot")


def test_a_card_says_what_the_run_went_on_from(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(two / "one")
    assert "sha256\n" not in card(run, "one")
    facts = dataclasses.replace(run.read_facts(), initial_sha256="ab12")
    monkeypatch.setattr(run, "read_facts", lambda: facts)
    assert "It went on from the weights of sha256\n  `ab12`." in card(run, "one")


def test_a_run_goes_to_a_hub_and_comes_back(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local folder stands for the hub."""
    import huggingface_hub

    hub = tmp_path / "hub"

    class Api:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
            (hub / name).mkdir(parents=True, exist_ok=exist_ok)
            return f"https://hub/{name}"

        def create_commit(
            self,
            repo_id: str,
            operations: list[huggingface_hub.CommitOperationAdd],
            *,
            commit_message: str,
        ) -> None:
            for each in operations:
                with each.as_file() as content:
                    (hub / repo_id / each.path_in_repo).write_bytes(content.read())

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        if not (hub / name).is_dir():
            raise OSError("404: no such repository")
        return str(hub / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    run = Run(two / "one")
    assert run.push("hf://me/strokes").endswith("me/strokes")
    assert not (hub / "me/strokes" / "state.safetensors").exists()
    assert str(tmp_path) not in (hub / "me/strokes" / "config.json").read_text()
    assert 'load("hf://me/strokes")' in (hub / "me/strokes" / "README.md").read_text()
    dood = dood_pyro.load("hf://me/strokes")
    assert dood.sample(3) == dood_pyro.load(run).sample(3)
    with pytest.raises(UserError, match=r"cannot get hf://me/other.*404"):
        dood_pyro.load("hf://me/other")
    with pytest.raises(UserError, match="names no repository"):
        run.push("me/strokes")
    (two / "one" / "best.safetensors").unlink()
    with pytest.raises(UserError, match="has no best"):
        run.push("hf://me/strokes")
