"""Training from Python: what `dood_pyro.train` and its like do, and what they refuse."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dood_pyro
import dood_pyro.research
from dood_pyro.config import DEFAULT_MODEL, SettingError
from dood_pyro.errors import UserError
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.models.dood import DooD
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run

SETTINGS: dict[str, Any] = {
    "model.canvas_size": 16,
    "model.max_strokes": 2,
    "model.features": 8,
    "train.batch_size": 4,
}


def test_train_and_evaluate(source: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    def show(trainer: Any, line: dict[str, Any]) -> None:
        lines.append(line["kind"])

    run = dood_pyro.train(
        str(source), steps=2, out=tmp_path / "run", settings=SETTINGS, device="cpu", show=show
    )
    assert run.progress()[0] == 2 and lines[0] == "start" and lines[-1] == "held-out"
    config, budget = run.read_config()
    assert budget == TrainingBudget(steps=2) and config.model_name == DEFAULT_MODEL
    assert config == dood_pyro.configure(None, str(source), SETTINGS)
    assert not list(run.path.glob("events*")), "TensorBoard is not asked for"
    row = dood_pyro.evaluate(run, str(source), particles=2, limit=3)
    assert row["images"] == 3 and row["steps"] == 2
    assert dood_pyro.load(run.path).config == config


def test_a_run_folder_has_a_name_of_its_own(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS | {"train.seed": np.int64(7)}
    run = dood_pyro.train(str(source), "air", steps=np.int64(1), settings=settings, device="cpu")
    assert run.path == Path("runs") / f"air-{source.stem}-7"


def test_a_relative_source_is_found_again_from_elsewhere(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    training = dood_pyro.begin_training(source.name, steps=1, out="run", settings=SETTINGS)
    assert training.run.read_config()[0].train.source == str(source)


def test_going_on_from_another_runs_weights(source: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"train.num_refiners": 1}
    first = dood_pyro.train(
        str(source), steps=1, out=tmp_path / "a", settings=settings, device="cpu"
    )
    # Settings of the model, and some of the guide's, are those of the run that is gone on from.
    more = {"train.batch_size": 2, "train.trainable": "guide"}
    second = dood_pyro.train(
        str(source), steps=1, out=tmp_path / "b", settings=more, init_from=first, device="cpu"
    )
    config, _ = second.read_config()
    assert config.model == first.read_config()[0].model and config.train.num_refiners == 1
    assert second.read_facts().initial_sha256.startswith(config.train.init_from) != ""
    ours, theirs = (run.read_tensors("best.safetensors")[0] for run in (second, first))
    model = [name for name in ours if name.startswith("model.")]
    assert model and all(bool((ours[name] == theirs[name]).all()) for name in model)
    for wrong, said in (
        ({"model.features": 9}, "model.features is that of"),
        ({"train.num_refiners": 2}, "train.num_refiners is that of"),
        ({"train.trainable": "guide", "train.estimator": "magic"}, "no estimator 'magic'"),
    ):
        with pytest.raises(UserError, match=said):
            dood_pyro.begin_training(
                str(source), steps=1, out=tmp_path / "c", settings=wrong, init_from=first.path
            )
    with pytest.raises(UserError, match=r"model\.name is that of"):
        dood_pyro.begin_training(str(source), "air", steps=1, out="c", init_from=first.path)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": ""}, "say what to train on"),
        ({"source": "minst"}, "no source"),
        ({"model": "gan"}, "no model 'gan'"),
        ({"steps": None}, "say how long to train"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": "1"}, "steps must be at least 1, and a whole number"),
        ({"steps": True}, "steps must be at least 1, and a whole number"),
        ({"steps": None, "seconds": "90m"}, "budget must be a positive time"),
        ({"settings": {"model.name": 3}}, "give the model by its name"),
        ({"init_from": "omniglot", "trusted": "mine:Guide"}, "trusted takes a list of names"),
        ({"init_from": "omniglot", "trusted": None}, "trusted takes a list of names"),
        ({"steps": None, "seconds": float("nan")}, "budget must be a positive time"),
        ({"settings": {"train.beta": 0}}, "beta"),
        ({"settings": {"beta": 1}}, "beta is not a setting"),
        ({"settings": {"model.features": "8"}}, "features must be a whole number, not '8'"),
        ({"settings": {"train.estimator": "magic"}}, "no estimator 'magic'"),
        ({"settings": {"train.guide": "none"}}, "no guide 'none'"),
        ({"init_from": "nothing"}, "neither a run folder"),
    ],
)
def test_what_cannot_be_writes_nothing(
    change: dict[str, Any], said: str, source: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "source": str(source),
        "steps": 1,
        "out": tmp_path / "run",
        "device": "cpu",
    }
    given["settings"] = SETTINGS | change.get("settings", {})
    with pytest.raises(UserError, match=said):
        dood_pyro.train(**(given | {n: v for n, v in change.items() if n != "settings"}))
    assert not (tmp_path / "run").exists()


def test_estimators_of_ones_own_say_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that come with the package do."""
    from dood_pyro.estimators.multi_sample import IWAE
    from dood_pyro.estimators.nvil import NVIL

    class Weighs(IWAE):
        pass

    class Baselines(NVIL):
        pass

    module = types.ModuleType("own_estimators")
    module.__dict__.update(Weighs=Weighs, Baselines=Baselines)
    monkeypatch.setitem(sys.modules, "own_estimators", module)

    def configured(name: str, **more: Any) -> Any:
        settings = {"train.estimator": f"own_estimators:{name}"}
        return dood_pyro.configure(settings=settings | more).train

    assert configured("Weighs").particles == dood_pyro.config.PARTICLES
    assert configured("Weighs", **{"train.particles": 3}).particles == 3
    assert configured("Baselines").synthetic_ratio == 0
    with pytest.raises(SettingError, match="synthetic_ratio is not for the estimator"):
        configured("Baselines", **{"train.synthetic_ratio": 0.1})
    with pytest.raises(UserError, match="cannot load the estimator 'nowhere:Nothing'"):
        dood_pyro.configure(settings={"train.estimator": "nowhere:Nothing"})


def test_a_folder_that_is_taken_stays(source: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    with pytest.raises(UserError, match="no run"):
        dood_pyro.train(str(source), steps=1, out=tmp_path / "run", settings=SETTINGS)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_everything_public_is_there() -> None:
    for name in dood_pyro.__all__:
        assert getattr(dood_pyro, name) is not None and name in dir(dood_pyro)
    assert issubclass(SettingError, UserError) and dood_pyro.Run is Run
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dood_pyro.nothing


def test_a_training_depends_on_its_seed_alone(source: Path, tmp_path: Path) -> None:
    """Not on the random numbers drawn before it runs, or by another training that was begun."""
    made = []
    for name in ("a", "b"):
        training = dood_pyro.begin_training(
            str(source), steps=2, out=tmp_path / name, settings=SETTINGS, device="cpu"
        )
        if name == "b":
            dood_pyro.begin_training(
                str(source), steps=2, out=tmp_path / "c", settings=SETTINGS, device="cpu"
            )
            torch.rand(5)
        training.train(tensorboard=False)
        made.append(training.run.read_tensors("last.safetensors")[0])
    for tensor_name, tensor in made[0].items():
        assert torch.equal(tensor, made[1][tensor_name])


def test_beginning_leaves_the_random_state_alone(source: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    dood_pyro.begin_training(str(source), steps=2, out=tmp_path / "run", settings=SETTINGS)
    assert torch.equal(before, torch.get_rng_state())


def test_what_train_returns_is_taken_everywhere(source: Path, tmp_path: Path) -> None:
    run = dood_pyro.train(str(source), steps=1, out=tmp_path / "run", settings=SETTINGS)
    assert dood_pyro.load(run).config == run.read_config()[0]
    rows = [dood_pyro.evaluate(each, str(source), 2, 3) for each in (run, run.path, str(run.path))]
    assert rows[0] == rows[1] == rows[2]
    assert json.loads((run.path / "config.json").read_text())["tensorboard"] is False
    longer = dood_pyro.resume(run, steps=2, device="cpu")
    assert longer.progress()[0] == 2 and run.read_config()[1].steps == 2


def test_a_setting_is_given_once(source: Path, tmp_path: Path) -> None:
    given = SETTINGS | {"train.source": str(source), "model.name": "air"}
    config = dood_pyro.configure(settings=given)
    assert (config.model_name, config.train.source) == ("air", str(source))
    with pytest.raises(SettingError, match=r"train.source is given twice"):
        dood_pyro.begin_training("digits", steps=1, out=tmp_path / "run", settings=given)
    with pytest.raises(SettingError, match=r"model.name is given twice"):
        dood_pyro.configure("dair", settings=given)
    training = dood_pyro.begin_training(None, steps=1, out=tmp_path / "run", settings=given)
    assert training.run.read_config()[0] == config


def test_a_run_goes_on_as_it_began(source: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"settings": SETTINGS, "device": "cpu", "model": "dood"}
    whole = dood_pyro.train(str(source), steps=6, out=tmp_path / "whole", **given)
    parts = dood_pyro.train(str(source), steps=3, out=tmp_path / "parts", **given)
    assert dood_pyro.resume(str(parts.path), steps=6, device="cpu").progress()[0] == 6
    for name, value in whole.read_tensors("last.safetensors")[0].items():
        assert torch.equal(value, parts.read_tensors("last.safetensors")[0][name])
    with pytest.raises(SettingError, match="it was 6"):
        dood_pyro.resume(parts, steps=5, device="cpu")


def test_weights_that_come_with_the_package_are_not_trained_on() -> None:
    folder = Path(dood_pyro.load("omniglot").loaded.run.path)  # type: ignore[union-attr]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(UserError, match="--init-from omniglot"):
        dood_pyro.resume("omniglot", steps=9)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_is_no_run_is_named(source: Path, tmp_path: Path) -> None:
    run = dood_pyro.train(
        str(source), "dood", steps=1, out=tmp_path / "run", settings=SETTINGS, device="cpu"
    )
    with pytest.raises(UserError, match=r"in place of a Recognizer; .*evaluate\(\.\.\.\)"):
        dood_pyro.evaluate(dood_pyro.load(run), str(source))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"in place of a int$"):
        dood_pyro.load(3)  # type: ignore[arg-type]


def test_a_folder_that_lost_its_facts_says_so(source: Path, tmp_path: Path) -> None:
    run = dood_pyro.train(str(source), steps=1, out=tmp_path / "run", settings=SETTINGS)
    (run.path / "facts.json").unlink()
    with pytest.raises(UserError, match=r"has lost its facts\.json"):
        dood_pyro.load(run)


def test_an_interrupted_training_keeps_what_it_learned(source: Path, tmp_path: Path) -> None:
    """As a notebook's stop button does it; a callback sees each line of metrics."""
    import os
    import signal

    lines: list[str] = []

    def stop(trainer: Any, line: dict[str, Any]) -> None:
        lines.append(line["kind"])
        if len(lines) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        dood_pyro.train(
            str(source), steps=1000, out=out, settings=SETTINGS, device="cpu", show=stop
        )
    steps, _ = Run(out).progress()
    assert 20 <= steps < 1000 and lines[:2] == ["start", "train"]
    dood = dood_pyro.load(out)
    assert len(dood.sample(3)) == 3
    (told,) = [each for each in dood_pyro.runs(tmp_path) if each.name == str(out)]
    assert told.state.startswith("stopped at") and told.steps == steps


class OwnGuide(AmortisedGuide):
    """A guide by a class of its own."""


def test_classes_in_place_of_names(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class is trained, measured and resumed with as its name would be; a run keeps the name."""

    def train(name: str, guide: Any, **options: Any) -> Run:
        return dood_pyro.train(
            str(source), DooD, guide=guide, steps=1, out=tmp_path / name, device="cpu", **options
        )

    tiny = {"settings": SETTINGS}
    run = train("own", OwnGuide, estimator="iwae", seed=3, **tiny)
    config, _ = run.read_config()
    name = f"{__name__}:OwnGuide"
    assert (config.model_name, config.train.guide) == ("dood", name)
    assert (config.train.estimator, config.train.seed) == ("iwae", 3)
    assert isinstance(dood_pyro.load(run, guide=OwnGuide).guide, OwnGuide)
    few = {"particles": 1, "limit": 2}
    rows = [dood_pyro.evaluate(run, str(source), guide=each, **few) for each in (OwnGuide, name)]
    assert rows[0] == rows[1] and rows[0]["guide"] == name
    with pytest.raises(UserError, match=r"in Python guide="):
        dood_pyro.load(run.path)
    assert isinstance(dood_pyro.load(run).guide, OwnGuide)  # this process was given the class
    assert dood_pyro.resume(run.path, steps=2, trusted=[OwnGuide], device="cpu").progress()[0] == 2

    class Inside(AmortisedGuide):
        pass

    for guide, said in ((Inside, "at the top of a module"), (5, "by its name")):
        with pytest.raises(UserError, match=said):
            train("refused", guide, **tiny)
    with pytest.raises(SettingError, match="twice"):
        train("refused", OwnGuide, settings=SETTINGS | {"train.guide": "amortised"})
    for each in (OwnGuide, name):  # the same one twice, in two ways
        train(f"twice-{each!r:.8}", OwnGuide, settings=SETTINGS | {"train.guide": each})
    settings = {"model.name": DooD, "train.guide": OwnGuide}
    assert dood_pyro.configure(source="digits", settings=settings).train.guide == name
    assert not (tmp_path / "refused").exists()
    notebook = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    cell = (
        "from dood_pyro.guides.amortised import AmortisedGuide\n\nclass Cell(AmortisedGuide): pass"
    )
    exec(cell, notebook.__dict__)
    run = train("notebook", notebook.__dict__["Cell"], **tiny)
    options = {"particles": 200, "limit": 100, "guide": notebook.__dict__["Cell"]}
    assert dood_pyro.evaluate(run, "digits", jobs=2, **options)["guide"] == "__main__:Cell"
    del notebook.__dict__["Cell"]
    with pytest.raises(UserError, match="defined in a notebook"):
        dood_pyro.load(run, guide="__main__:Cell")
