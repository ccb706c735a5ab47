"""Run folders of earlier versions: read under the names of now, facts apart from settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dood_pyro.config import ModelConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.formats import FORMAT, OLDEST, current_names, current_settings
from dood_pyro.run_folders.run import Run
from dood_pyro.run_folders.tensors import read_tensors, write_tensors
from tests.test_cli import Out, call, refused
from tests.test_cli import run as run

SHA256 = "c5ef2b9c3a5b" + 52 * "0"
FORMAT_3: dict[str, Any] = {
    "format": 3,
    "program": "dood",
    "model": {
        "canvas_size": 50,
        "max_strokes": 6,
        "degree": 4,
        "layout_components": 20,
        "stroke_components": 20,
        "control_points": "chained",
        "pen": "latent",
        "taper": True,
        "likelihood": "laplace",
        "renderer": "bezier",
        "guidance": True,
        "prior": "sequential",
        "part_dims": 50,
        "canvas_channels": 16,
        "glimpse_size": 24,
        "features": 256,
        "native_resolution": True,
    },
    "train": {
        "source": "omniglot",
        "data_sha256": SHA256,
        "seed": 2,
        "batch_size": 64,
        "estimator": "stop-time",
        "guide": "amortised",
        "beta": 5.0,
        "learning_rate": 0.001,
        "warm_up": 100,
        "decay_steps": 1000,
        "decay_power": 0.75,
        "scale_rate": 21.0,
        "clip": 2.5,
        "average_decay": 0.999,
        "explore_steps": 600,
        "explore_always": 0.1,
        "hold_steps": 1000,
        "corrections": 3,
        "trust_begin": 401,
        "trust_full": 801,
        "trust_stagger": 301,
        "resolution": 105,
        "normalise": True,
        "particles": 1,
        "start": "",
        "fit": "both",
        "dream_steps": 7,
        "practice": 0.25,
        "scale_learns": "drawn",
        "guide_channels": 16,
    },
    "until": {"steps": None, "seconds": 5400.0},
    "tensorboard": False,
}
"""A config.json as version 0.1 wrote it."""


def folder_of_3(path: Path, **changes: Any) -> Run:
    """A run folder of format 3 with no weights; ``changes`` replace parts of its config.json."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(FORMAT_3 | changes))
    return Run(path)


def test_settings_of_format_3_are_read_under_their_present_names(tmp_path: Path) -> None:
    run = folder_of_3(tmp_path / "run")
    config, budget = run.read_config()
    assert config.model_name == "dood" and config.model == ModelConfig()
    assert config.train == TrainConfig(
        "omniglot",
        seed=2,
        scale_learning_rate_factor=21.0,
        clip_norm=2.5,
        num_refiners=3,
        gate_begin=401,
        gate_full=801,
        gate_stagger=301,
        sleep_steps=7,
        synthetic_ratio=0.25,
    )
    assert config.train.estimator == "stop-marginal" and config.train.trainable == "both"
    assert budget == TrainingBudget(seconds=5400.0) and not run.logs_for_tensorboard()


def test_facts_of_format_3_are_kept_apart_from_settings(tmp_path: Path) -> None:
    train = FORMAT_3["train"] | {"start": SHA256, "fit": "guide"}
    run = folder_of_3(tmp_path / "run", train=train)
    (run.path / "versions.json").write_text('{"torch": "2.11", "hardware": "a CPU"}')
    facts = run.read_facts()
    assert (facts.data_sha256, facts.native_size, facts.initial_sha256) == (SHA256, 105, SHA256)
    assert facts.versions == {"torch": "2.11", "hardware": "a CPU"}
    config, _ = run.read_config()
    assert config.train.init_from == SHA256[:12] and config.train.trainable == "guide"
    assert not {"data_sha256", "resolution", "start"} & set(config.train.to_json())


def test_what_is_newer_than_a_folder_of_format_3_is_what_was_done_before(tmp_path: Path) -> None:
    """Settings that were added while the format was 3."""
    added = {"resolution", "normalise", "particles", "start", "fit", "dream_steps", "practice"}
    added |= {"scale_learns", "guide_channels"}
    model = {n: v for n, v in FORMAT_3["model"].items() if n != "native_resolution"}
    train = {n: v for n, v in FORMAT_3["train"].items() if n not in added}
    run = folder_of_3(tmp_path / "run", model=model, train=train)
    config, _ = run.read_config()
    assert not config.model.native_resolution
    assert config.train.synthetic_ratio == config.train.sleep_steps == 0
    assert config.train.scale_learns == "explored" and config.train.guide_channels == 32
    assert config.train.trainable == "both" and config.train.init_from == ""
    assert run.read_facts().native_size == 0 and run.read_facts().initial_sha256 == ""
    del train["data_sha256"]
    with pytest.raises(UserError, match="incomplete or malformed; train anew"):
        folder_of_3(tmp_path / "other", train=train).read_config()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dood", {}),
        ("dood-no-renderer", {"renderer": "network"}),
        ("dood-no-guidance", {"guidance": False}),
        ("dood-independent-prior", {"prior": "independent"}),
        ("dair", {"prior": "independent"}),
        ("air", {"prior": "independent", "guidance": False}),
    ],
)
def test_what_ablations_set_is_now_what_they_are(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    run = folder_of_3(tmp_path / "run", program=name, model=FORMAT_3["model"] | changes)
    config, _ = run.read_config()
    assert config.model_name == name and config.model == ModelConfig()
    other = {"renderer": "network" if name != "dood-no-renderer" else "bezier"}
    unknown = folder_of_3(
        tmp_path / "other", program=name, model=FORMAT_3["model"] | changes | other
    )
    with pytest.raises(UserError, match=f"a {name} with renderer set otherwise"):
        unknown.read_config()


@pytest.mark.parametrize("number", [OLDEST - 1, FORMAT + 1, 99, None, "4", True, 4.0])
def test_unknown_formats_are_refused(number: Any, tmp_path: Path) -> None:
    run = folder_of_3(tmp_path / "run", format=number)
    with pytest.raises(UserError, match=f"reads formats {OLDEST} to {FORMAT}") as refusal:
        run.read_config()
    assert f"has format {number!r}" in str(refusal.value) and str(run.path) in str(refusal.value)
    with pytest.raises(UserError, match="has format None"):
        current_settings([1], "x")


@pytest.mark.parametrize(
    "changes",
    [
        {"program": []},
        {"model": 3},
        {"train": None},
        {"until": 3},
        {"train": FORMAT_3["train"] | {"start": 3}},
    ],
)
def test_malformed_folders_of_format_3_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="incomplete or malformed; train anew"):
        folder_of_3(tmp_path / "run", **changes).read_config()


def test_what_is_wrong_with_an_end_of_format_3_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"config\.json: steps must be at least 1, and a whole number"
    ):
        folder_of_3(tmp_path / "run", until={"steps": "many"}).read_config()


def test_parameters_of_format_3_have_their_present_names() -> None:
    names = {
        "model.likelihood.scale": "model.likelihood.scale",
        "guide.trust": "guide.refinement.gate",
        "average.guide.trust": "average.guide.refinement.gate",
        "weights.guide.corrections.0.net.weight": "weights.guide.refinement.refiners.0.net.weight",
        "adam.exp_avg.guide.corrections.1.x": "adam.exp_avg.guide.refinement.refiners.1.x",
        "estimator.on_mean": "estimator.moments.on_mean",
    }
    tensors = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    found = current_names(tensors, 3)
    assert {name: float(t) for name, t in found.items()} == {
        names[name]: float(t) for name, t in tensors.items()
    }
    assert current_names(tensors, FORMAT) == tensors


def as_format_3(run: Run) -> None:
    """Makes a run's folder what version 0.1 would have left of the same training."""
    config, facts = json.loads((run.path / "config.json").read_text()), run.read_facts()
    former = {
        "scale_learning_rate_factor": "scale_rate",
        "clip_norm": "clip",
        "num_refiners": "corrections",
        "gate_begin": "trust_begin",
        "gate_full": "trust_full",
        "gate_stagger": "trust_stagger",
        "trainable": "fit",
        "sleep_steps": "dream_steps",
        "synthetic_ratio": "practice",
    }
    train = {former.get(name, name): value for name, value in config["train"].items()}
    del train["init_from"]
    train |= {"data_sha256": facts.data_sha256, "resolution": facts.native_size, "start": ""}
    train |= {"estimator": "stop-time"}
    model = {"renderer": "bezier", "guidance": True, "prior": "sequential", **config["model"]}
    name = model.pop("name")
    values = {"format": 3, "program": name, "model": model, "train": train}
    values |= {"until": config["budget"], "tensorboard": config["tensorboard"]}
    (run.path / "config.json").write_text(json.dumps(values))
    (run.path / "facts.json").unlink()
    (run.path / "versions.json").write_text(json.dumps(facts.versions))
    for path in run.path.glob("*.safetensors"):
        tensors, notes = read_tensors(path)
        del notes["format"]
        old = {
            name.replace("guide.refinement.refiners.", "guide.corrections.").replace(
                "guide.refinement.gate", "guide.trust"
            ): tensor
            for name, tensor in tensors.items()
        }
        assert any("guide.trust" in name for name in old) and old.keys() != tensors.keys()
        write_tensors(path, old, notes)


def test_a_run_of_format_3_is_measured_and_gone_on_with(
    run: Run, source: Path, tmp_path: Path, capsys: Out
) -> None:
    """With the numbers of the same run in the present format."""
    measure = ("evaluate", run.path, "--target", source, "--particles", 2, "--limit", 3, "--json")
    status, now, err = call(capsys, *measure)
    assert status == 0, err
    expected = run.read_facts()
    as_format_3(run)
    assert run.read_facts() == expected
    status, before, err = call(capsys, *measure)
    assert status == 0, err
    assert json.loads(before) == json.loads(now)
    before_going_on = run.settings_sha256()
    status, _, err = call(capsys, "train", "--resume", run.path, "--steps", 6, "--no-tensorboard")
    assert status == 0, err
    assert json.loads((run.path / "config.json").read_text())["format"] == FORMAT
    assert run.read_facts() == expected and run.settings_sha256() == before_going_on
    assert run.progress()[0] == 6
    status, _, err = call(capsys, *measure)
    assert status == 0, err


def test_other_data_are_noticed_in_a_run_of_format_3(run: Run, capsys: Out) -> None:
    as_format_3(run)
    config = json.loads((run.path / "config.json").read_text())
    config["train"]["data_sha256"] = SHA256
    (run.path / "config.json").write_text(json.dumps(config))
    said = refused(capsys, "train", "--resume", run.path, "--steps", 6)
    assert "are not those that" in said and SHA256[:12] in said
