"""Runs that name code of their own, ``module:Class``: it is not run unless it is trusted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dood_pyro
from dood_pyro.errors import UserError
from dood_pyro.run_folders.run import Run
from tests.test_cli import TINY_OPTIONS, Out, call, refused

CODE = """
from pathlib import Path

import numpy as np

Path("ran").touch()

from dood_pyro.estimators.stop_marginal import StopMarginalELBO
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.models.dood import DooD


class Model(DooD):
    title = "Mine"


class Guide(AmortisedGuide):
    pass


class Estimator(StopMarginalELBO):
    pass


def prepare(folder, scratch):
    images = np.zeros((12, 20, 20), np.uint8)
    images[:, 5:15, 8:12] = 200 + np.arange(12, dtype=np.uint8)[:, None, None]
    labels = np.arange(12) % 3
    return {f"{part}_{name}": array for part in ("train", "test")
            for name, array in (("images", images), ("labels", labels))}
"""
KINDS = {
    "model": "own_code:Model",
    "guide": "own_code:Guide",
    "estimator": "own_code:Estimator",
    "source": "own_code:prepare",
}


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of one's own in the working directory; whether it ran is seen by the file it leaves."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "own_code.py").write_text(CODE)
    monkeypatch.chdir(folder)
    sys.modules.pop("own_code", None)
    yield folder / "ran"
    sys.modules.pop("own_code", None)


def trained(kind: str, source: Path, out: Path, capsys: Out) -> Run:
    """A run of one step with one part of it of one's own; its code is forgotten again."""
    options = {"source": str(source), kind: KINDS[kind]}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    status, _, err = call(capsys, "train", *words, "--steps", 1, "--out", out, *TINY_OPTIONS)
    assert status == 0, err
    sys.modules.pop("own_code")
    Path("ran").unlink()
    return Run(out)


PROGRAMS = ("model", "guide")
"""What is run whenever a run is loaded; estimator and source are when it is trained."""


@pytest.mark.parametrize("kind", KINDS)
def test_code_of_a_run_is_not_run_unless_it_is_trusted(
    kind: str, source: Path, tmp_path: Path, own_code: Path, capsys: Out
) -> None:
    run = trained(kind, source, tmp_path / "run", capsys)
    config, _ = run.read_config()
    assert config.own_code(training=True) == [KINDS[kind]]
    assert config.own_code() == [KINDS[kind]] * (kind in PROGRAMS)
    option = "--guide" if kind == "guide" else "--trust"
    measure = ("evaluate", run.path, "--target", source, "--particles", 2, "--limit", 2)
    reconstruct = ("reconstruct", run.path, "--target", source, "--count", 2, "--out", "x.png")
    resume = ("train", "--resume", run.path, "--steps", 2, "--no-tensorboard")
    for command in (measure, reconstruct, resume):
        if kind in PROGRAMS or command is resume:
            said = refused(capsys, *command)
            assert f"{option} {KINDS[kind]}" in said, "it says what to type"
            # Another's name is no permission.
            assert KINDS[kind] in refused(capsys, *command, "--trust", "other:Code")
        else:
            status, _, err = call(capsys, *command)
            assert status == 0, err
        assert not own_code.exists(), command
    if kind in PROGRAMS:
        with pytest.raises(UserError, match=KINDS[kind]):
            dood_pyro.load(run.path)
    else:
        dood_pyro.load(run.path)
    assert not own_code.exists()
    for command in (measure, reconstruct, resume):
        trust = (option, KINDS[kind]) if kind in PROGRAMS or command is resume else ()
        status, _, err = call(capsys, *command, *trust)
        assert status == 0, err
    assert own_code.exists() and run.progress()[0] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_training_from_the_weights_of_a_run_asks_for_its_models_code_alone(
    kind: str, source: Path, tmp_path: Path, own_code: Path, capsys: Out
) -> None:
    """Guide, estimator and source are chosen anew."""
    run = trained(kind, source, tmp_path / "run", capsys)
    begin: tuple[Any, ...] = ("train", "--init-from", run.path, "--source", source, "--steps", 1)
    begin += ("--out", tmp_path / "on", "--no-tensorboard")
    if kind == "model":
        assert f"--trust {KINDS[kind]}" in refused(capsys, *begin)
        assert not own_code.exists() and not (tmp_path / "on").exists()
        begin += ("--trust", KINDS[kind])
    status, _, err = call(capsys, *begin)
    assert status == 0 and own_code.exists() == (kind == "model"), err


@pytest.mark.parametrize("kind", ["model", "guide"])
def test_every_command_that_takes_a_run_takes_its_code(
    kind: str, source: Path, tmp_path: Path, own_code: Path, capsys: Out
) -> None:
    run = trained(kind, source, tmp_path / "run", capsys)
    option, target = "--guide" if kind == "guide" else "--trust", ("--target", source)
    few = ("--limit", 2, "--particles", 2, "--guides", "smc")
    for words in (
        ("sample", run.path, "--count", 2, "--out", "s.png"),
        ("compare-guides", run.path, *target, *few),
        ("compare", run.path, "--targets", source, "--count", 2, "--out", "c.png"),
        ("calibrate", run.path, "--simulations", 20, "--draws", 9),
        ("exemplars", run.path, *target, "--count", 2, "--each", 1, "--out", "e.png"),
    ):
        if (kind, words[0]) == ("guide", "sample"):
            continue  # which asks for no guide
        assert KINDS[kind] in refused(capsys, *words)
        assert not own_code.exists(), words
        status, _, err = call(capsys, *words, option, KINDS[kind])
        assert status == 0, (words, err)
        sys.modules.pop("own_code", None)
        own_code.unlink()


def test_a_source_of_its_own_is_not_read_by_default(
    source: Path, tmp_path: Path, own_code: Path, capsys: Out
) -> None:
    """By commands whose target is what the run was trained on, unless they are told another."""
    from dood_pyro.features import FeatureNetwork, save_features

    run = trained("source", source, tmp_path / "run", capsys)
    network = tmp_path / "network.safetensors"
    save_features(FeatureNetwork(), network)
    shutil.rmtree(tmp_path / "cache")  # what was prepared
    for command in ("sample-quality", "statistics"):
        words = (command, run.path, *(("--features", network) if "quality" in command else ()))
        assert KINDS["source"] in refused(capsys, *words)
        assert not own_code.exists(), command


def test_several_pieces_of_code_are_each_named(source: Path, tmp_path: Path, capsys: Out) -> None:
    begin: tuple[Any, ...] = ("train", "--source", source, "--model", KINDS["model"])
    begin += ("--guide", KINDS["guide"], "--steps", 1, "--out", tmp_path / "run", *TINY_OPTIONS)
    status, _, err = call(capsys, *begin)
    assert status == 0, err
    guide, model = ("--guide", KINDS["guide"]), ("--trust", KINDS["model"])
    out = ("--count", 2, "--out", "x.png")
    command = ("reconstruct", tmp_path / "run", "--target", source, *out)
    assert KINDS["guide"] in refused(capsys, *command, *model)
    assert KINDS["model"] in refused(capsys, *command, *guide)
    assert call(capsys, *command, *guide, *model)[0] == 0
    over = ("--guide", f"{KINDS['guide']}+smc", *model)
    status, _, err = call(capsys, *command, *over)
    assert status == 0, err
    trusted = [KINDS["model"], KINDS["guide"]]
    assert len(dood_pyro.load(tmp_path / "run", trusted=trusted).drawings(blank())) == 2
    row = dood_pyro.evaluate(Run(tmp_path / "run"), str(source), 2, 2, trusted=trusted)
    assert row["model"] == KINDS["model"]


def blank() -> Any:
    import torch

    return torch.zeros(2, 16, 16)


def test_a_name_put_into_a_folder_is_not_imported(
    source: Path, tmp_path: Path, own_code: Path, capsys: Out
) -> None:
    """As somebody would who hands one on."""
    begin = ("train", "--source", source, "--steps", 1, "--out", tmp_path / "run", *TINY_OPTIONS)
    assert call(capsys, *begin)[0] == 0
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for kind, name in KINDS.items():
        part, setting = ("model", "name") if kind == "model" else ("train", kind)
        path.write_text(json.dumps(config | {part: config[part] | {setting: name}}))
        words = ("sample", tmp_path / "run", "--count", 2, "--out", "s.png")
        if kind == "model":
            assert name in refused(capsys, *words)
        else:
            assert call(capsys, *words)[0] == 0, "it needs none of them"
        if kind in PROGRAMS:
            assert name in refused(capsys, "reconstruct", tmp_path / "run", "--target", source)
        assert name in refused(capsys, "train", "--resume", tmp_path / "run", "--steps", 2)
        assert not own_code.exists() and "own_code" not in sys.modules
