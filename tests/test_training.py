"""The training loop: runs that are killed, stopped, resumed, poisoned."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.data import prepared
from dood_pyro.devices import choose_device, set_random_state
from dood_pyro.errors import UserError
from dood_pyro.files import locked
from dood_pyro.images import ImageBatch
from dood_pyro.inference.stop_marginal import StopMarginalTerms, stop_marginal_terms
from dood_pyro.models.dood import DooD, State, StepInputs
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import LOCK, Run
from dood_pyro.training import loop
from dood_pyro.training import trainer as trainer_module
from dood_pyro.training.batches import Batches, split_held_out
from dood_pyro.training.loop import resume
from dood_pyro.training.trainer import Trainer
from tests.conftest import TINY

CPU = torch.device("cpu")


def start(path: Path, source: Path, steps: int, estimator: Any = "stop-marginal") -> Run:
    settings: dict[str, Any] = {}
    if estimator in ("iwae", "rws"):
        settings = {"particles": 3, "sleep_steps": 5, "explore_steps": 9}
    if estimator == "random-strokes":
        estimator, settings = "stop-marginal", {"synthetic_ratio": 0.5}
    config = TrainConfig(source=str(source), batch_size=8, estimator=estimator, **settings)
    return Run.create(path, RunConfig("dood", TINY, config), TrainingBudget(steps=steps), CPU)


def weights(run: Run, name: str = "state.safetensors") -> dict[str, torch.Tensor]:
    return run.read_tensors(name)[0]


def assert_same_weights(first: Run, second: Run) -> None:
    for name in ("state.safetensors", "last.safetensors", "best.safetensors"):
        a, b = weights(first, name), weights(second, name)
        assert set(a) == set(b)
        for key in a:
            assert torch.equal(a[key], b[key]), f"{name}: {key}"


@pytest.mark.parametrize("estimator", ["stop-marginal", "nvil", "iwae", "rws", "random-strokes"])
def test_a_stopped_and_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, source: Path, estimator: str
) -> None:
    """Stopped at step 13, in the middle of an epoch, and raised from there to 20."""
    whole = start(tmp_path / "whole", source, 20, estimator)
    resume(whole, CPU, tensorboard=False)
    parts = start(tmp_path / "parts", source, 13, estimator)
    resume(parts, CPU, tensorboard=False)
    config, budget = parts.read_config()
    parts.write_config(config, budget.extended(20, None))
    torch.manual_seed(99)  # whatever the new process's random state is
    resume(parts, CPU, tensorboard=False)
    a, b = weights(whole), weights(parts)
    assert set(a) == set(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, source: Path) -> None:
    """Killed without warning, three times, whatever it is doing."""
    whole = start(tmp_path / "whole", source, 60)
    resume(whole, CPU, tensorboard=False)
    killed = start(tmp_path / "killed", source, 60)
    program = (
        "import sys, torch\n"
        "from dood_pyro.run_folders.run import Run\n"
        "from dood_pyro.training import loop\n"
        "loop.CHECKPOINT_SECONDS = 0.0\n"
        "run = Run(sys.argv[1])\n"
        "loop.resume(run, torch.device('cpu'), tensorboard=False)\n"
    )
    kills = 0
    while kills < 3:
        process = subprocess.Popen([sys.executable, "-c", program, str(killed.path)])
        before = seen = _step(killed)
        while seen < before + 8 and process.poll() is None:
            time.sleep(0.01)
            seen = _step(killed)
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert _step(killed) < 60
    resume(killed, CPU, tensorboard=False)
    a, b = weights(whole), weights(killed)
    for key in a:
        assert torch.equal(a[key], b[key]), key
    steps = [line["step"] for line in killed.read_metrics() if line["kind"] == "train"]
    assert steps == [20, 40, 60]


def _step(run: Run) -> int:
    try:
        return int(run.read_tensors("state.safetensors")[1]["step"])
    except UserError:
        return 0


def test_the_same_seed_gives_the_same_run(tmp_path: Path, source: Path) -> None:
    runs = [start(tmp_path / name, source, 5) for name in ("a", "b")]
    for run in runs:
        resume(run, CPU, tensorboard=False)
    assert_same_weights(*runs)


def test_a_run_folder_holds_what_it_should(tmp_path: Path, source: Path) -> None:
    run = start(tmp_path / "run", source, 20)
    resume(run, CPU)
    names = {path.name.split(".")[0] for path in run.path.iterdir() if path.name != LOCK}
    assert names == {"config", "facts", "metrics", "best", "last", "state", "events"}
    config = json.loads((run.path / "config.json").read_text())
    assert config.keys() == {"format", "model", "train", "budget", "tensorboard"}
    assert config["model"]["name"] == "dood" and config["budget"] == {"steps": 20, "seconds": None}
    facts = json.loads((run.path / "facts.json").read_text())
    assert len(facts["data_sha256"]) == 64 and facts["native_size"] == 20
    assert {"torch", "pyro-ppl", "python", "revision"} <= set(facts["versions"])
    assert run.read_facts().to_json() == facts
    kinds = [line["kind"] for line in run.read_metrics()]
    assert kinds == ["train", "held-out"]
    line = run.read_metrics()[0]
    parts = line["log_likelihood"] - line["kl_strokes"] - line["kl_stop"]
    assert line["elbo"] == pytest.approx(parts, abs=0.1)


def test_a_non_finite_step_moves_no_weight_and_is_counted(source: Path) -> None:
    config = RunConfig("dood", TINY, TrainConfig(source=str(source), batch_size=4))
    trainer = Trainer.from_config(config, CPU)
    good = ImageBatch(torch.rand(4, 16, 16))
    trainer.train_step(good)
    before = {n: p.detach().clone() for n, p in trainer.parameters.items()}
    moments = [
        {k: v.clone() for k, v in state.items()} for state in trainer.optimiser.state.values()
    ]
    bad = ImageBatch(good.pixels.clone())
    bad.pixels[0, 0, 0] = float("nan")
    trainer.train_step(bad)
    assert int(trainer.skipped) == 1 and int(trainer.skipped_in_a_row) == 1
    for name, parameter in trainer.parameters.items():
        assert torch.equal(parameter, before[name]), name
    for state, old in zip(trainer.optimiser.state.values(), moments, strict=True):
        assert all(torch.equal(state[key], old[key]) for key in old)
    trainer.train_step(good)
    assert int(trainer.skipped) == 1 and int(trainer.skipped_in_a_row) == 0


def test_many_bad_steps_end_the_run_and_keep_the_checkpoint(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path / "run", source, 20)
    resume(run, CPU, tensorboard=False)
    good = weights(run)
    config, budget = run.read_config()
    run.write_config(config, budget.extended(500, None))
    whole = Batches.__getitem__
    monkeypatch.setattr(
        Batches, "__getitem__", lambda self, step: ImageBatch(whole(self, step).pixels * torch.nan)
    )
    with pytest.raises(UserError, match=r"diverged.*last good checkpoint"):
        resume(run, CPU, tensorboard=False)
    after = weights(run)
    assert all(torch.equal(good[key], after[key]) for key in good)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_a_whole_step(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Whenever it comes: the run that goes on ends as one that was never interrupted."""
    whole = start(tmp_path / "whole", source, 12)
    resume(whole, CPU, tensorboard=False)
    run = start(tmp_path / "run", source, 12)
    step_inputs = DooD.step_inputs

    def interrupted(self: DooD, state: State) -> StepInputs:
        if interrupts and len(calls) == 17:
            os.kill(os.getpid(), interrupts.pop())
        calls.append(1)
        return step_inputs(self, state)

    calls: list[int] = []
    interrupts = [number]
    monkeypatch.setattr(DooD, "step_inputs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resume(run, CPU, tensorboard=False)
    assert 3 < _step(run) < 12
    resume(run, CPU, tensorboard=False)
    assert_same_weights(whole, run)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path, source: Path) -> None:
    run = start(tmp_path / "run", source, 3)
    with locked(run.path / LOCK), pytest.raises(UserError, match="another process"):
        resume(run, CPU, tensorboard=False)
    resume(run, CPU, tensorboard=False)


def test_the_last_evaluation_is_made_up_for(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the last step's checkpoint and before its held-out bound."""
    monkeypatch.setattr(loop, "EVALUATE_EVERY", 5)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    whole, cut = (start(tmp_path / name, source, 7) for name in ("whole", "cut"))
    resume(whole, CPU, tensorboard=False)
    evaluate = loop._evaluate

    def killed(run: Run, trainer: Trainer, *rest: Any) -> Any:
        if trainer.step == 7:
            raise KeyboardInterrupt
        return evaluate(run, trainer, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_evaluate", killed)
        resume(cut, CPU, tensorboard=False)
    assert resume(cut, CPU, tensorboard=False).evaluated == 7
    held_out = [line["step"] for line in cut.read_metrics() if line["kind"] == "held-out"]
    assert held_out == [5, 7]
    assert_same_weights(whole, cut)


def test_a_guides_own_buffers_survive(tmp_path: Path, source: Path) -> None:
    run = start(tmp_path / "run", source, 3)
    trainer = resume(run, CPU, tensorboard=False)
    gate = trainer.guide.refinement.gate  # type: ignore[union-attr]
    assert len(gate) > 0  # type: ignore[arg-type]
    assert torch.equal(weights(run)["buffer.guide.refinement.gate"], gate)  # type: ignore[arg-type]


def test_weights_without_a_state_are_not_overwritten(tmp_path: Path, source: Path) -> None:
    run = start(tmp_path / "run", source, 3)
    resume(run, CPU, tensorboard=False)
    (run.path / "state.safetensors").unlink()
    with pytest.raises(UserError, match=r"no state\.safetensors"):
        resume(run, CPU, tensorboard=False)


def test_a_state_that_lacks_something_is_refused(tmp_path: Path, source: Path) -> None:
    run = start(tmp_path / "run", source, 3)
    resume(run, CPU, tensorboard=False)
    tensors, notes = run.read_tensors("state.safetensors")
    moments = {name for name in tensors if name.startswith("adam.")}
    for missing in (
        *({"random.cpu"}, {"weights.model.raw_scale"}, {"buffer.guide.refinement.gate"}),
        *(moments, {"adam.exp_avg.model.raw_scale"}),
    ):
        run.write_tensors(
            "state.safetensors", {k: v for k, v in tensors.items() if k not in missing}, notes
        )
        with pytest.raises(UserError, match=r"state\.safetensors"):
            resume(run, CPU, tensorboard=False)
    for missing_note in ("step", "seconds", "best"):
        fewer = {name: value for name, value in notes.items() if name != missing_note}
        run.write_tensors("state.safetensors", tensors, fewer)
        with pytest.raises(UserError, match=r"state\.safetensors"):
            resume(run, CPU, tensorboard=False)
    for wrong in (
        {"step": "x"},
        {"step": "-7"},
        {"seconds": "nan"},
        {"best": "x"},
        {"best": "nan"},
    ):
        run.write_tensors("state.safetensors", tensors, notes | wrong)
        with pytest.raises(UserError, match=r"state\.safetensors"):
            resume(run, CPU, tensorboard=False)
    run.write_tensors(
        "state.safetensors", tensors | {"random.cpu": torch.zeros(3, dtype=torch.float64)}, notes
    )
    with pytest.raises(UserError, match=r"state\.safetensors"):
        resume(run, CPU, tensorboard=False)


def test_lines_of_metrics_around_a_damaged_one_are_kept(tmp_path: Path, source: Path) -> None:
    run = start(tmp_path / "run", source, 40)
    resume(run, CPU, tensorboard=False)
    path, lines = run.path / "metrics.jsonl", run.read_metrics()
    first, *others = path.read_bytes().splitlines(keepends=True)
    assert len(others) + 1 == len(lines) > 2
    for damaged in (b"{}\n", b"{\x80\n", b"[1]\n", b'{"step": "x", "seconds": 1}\n', b"5\n"):
        path.write_bytes(b"".join([first, damaged, *others]))
        run.forget_metrics_after(40)
        assert run.read_metrics() == lines


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, source: Path) -> None:
    run = start(tmp_path / "run", source, 3)
    resume(run, CPU, tensorboard=False)
    tensors, notes = run.read_tensors("best.safetensors")
    tensors["model.raw_scale"] = torch.tensor(torch.nan)
    run.write_tensors("best.safetensors", tensors, notes)
    with pytest.raises(UserError, match="not finite"):
        run.load()


def test_a_short_run_that_diverged_says_so(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer.evaluate
    monkeypatch.setattr(
        Trainer,
        "evaluate",
        lambda self, images: StopMarginalTerms(*(t * torch.nan for t in whole(self, images))),
    )
    with pytest.raises(UserError, match="training diverged: no held-out bound"):
        resume(start(tmp_path / "run", source, 2), CPU, tensorboard=False)


def test_what_a_killed_write_leaves_is_removed(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".initial.safetensors.x1y2").write_bytes(b"half")
    (folder / ".config.json.x1y2").write_bytes(b"half")
    run = start(folder, source, 3)
    (run.path / ".state.safetensors.x1y2").write_bytes(b"half")
    resume(run, CPU, tensorboard=False)
    assert [path.name for path in run.path.glob(".*")] == [LOCK]
    with pytest.raises(UserError, match="go on with it"):
        start(folder, source, 3)


@pytest.mark.parametrize(
    ("count", "estimator"),
    [
        (2, "stop-marginal"),
        (3, "stop-marginal"),
        (9, "stop-marginal"),
        (2, "nvil"),
        (2, "iwae"),
        (2, "rws"),
    ],
)
def test_tiny_sources_train(tmp_path: Path, source: Path, count: int, estimator: Any) -> None:
    arrays = prepared.read(source)
    for kind in ("images", "labels"):
        arrays[f"train_{kind}"] = arrays[f"train_{kind}"][:count]
    prepared.write(source, arrays)
    resume(start(tmp_path / "run", source, 2, estimator), CPU, tensorboard=False)


def test_a_single_image_is_too_few() -> None:
    with pytest.raises(UserError, match="at least two"):
        split_held_out(1)


def test_tensorboard_on_a_full_disk_is_given_up(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with pytest.warns(UserWarning, match="TensorBoard is given up"):
        resume(start(tmp_path / "run", source, 20), CPU)


def test_other_data_are_refused(tmp_path: Path, source: Path) -> None:
    run = start(tmp_path / "run", source, 2)
    resume(run, CPU, tensorboard=False)
    arrays = prepared.read(source)
    arrays["train_images"][0, 0, 0] ^= 255
    prepared.write(source, arrays)
    with pytest.raises(UserError, match="not those that"):
        resume(run, CPU, tensorboard=False)


def test_batches_cover_an_epoch_and_differ_between_epochs() -> None:
    images = torch.arange(20, dtype=torch.uint8)[:, None, None].expand(20, 2, 2)
    batches = Batches(images, np.arange(20), 4, seed=0, device=CPU)
    epochs = [
        [(batches[5 * e + i].pixels[:, 0, 0] * 255).round().tolist() for i in range(5)]
        for e in (0, 1)
    ]
    assert all(sorted(itertools.chain(*epoch)) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_held_out_images_are_not_trained_on() -> None:
    trained_on, held_out = split_held_out(100)
    assert len(held_out) == 10
    assert sorted([*trained_on, *held_out]) == list(range(100))
    images = torch.arange(100, dtype=torch.uint8)[:, None, None].expand(100, 2, 2)
    batches = Batches(images, trained_on, 9, seed=0, device=CPU)
    seen = {round(float(v) * 255) for step in range(30) for v in batches[step].pixels[:, 0, 0]}
    assert seen == set(trained_on.tolist())


def test_evaluation_leaves_training_as_it_was(source: Path) -> None:
    config = RunConfig("dood", TINY, TrainConfig(source=str(source), batch_size=4))
    trainer = Trainer.from_config(config, CPU)
    trainer.train_step(ImageBatch(torch.rand(4, 16, 16)))
    held_out = ImageBatch(torch.rand(3, 16, 16))
    random, kept = torch.get_rng_state(), {n: p.clone() for n, p in trainer.parameters.items()}
    trainer.evaluate(held_out)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(p, kept[n]) for n, p in trainer.parameters.items())


def test_a_budget_can_be_raised_not_lowered() -> None:
    assert TrainingBudget(steps=10).extended(20, None) == TrainingBudget(steps=20)
    assert TrainingBudget(seconds=60.0).extended(None, 90.0) == TrainingBudget(seconds=90.0)
    # An end of the other kind stays while it is ahead, and goes once the run has ended by it.
    assert TrainingBudget(steps=100).extended(None, 9.0, done_steps=50) == TrainingBudget(100, 9.0)
    assert TrainingBudget(seconds=60.0).extended(20, None, 10, 61.0) == TrainingBudget(steps=20)
    with pytest.raises(UserError, match="not lower"):
        TrainingBudget(steps=10).extended(5, None)
    with pytest.raises(UserError, match="how long"):
        TrainingBudget()


def test_choosing_a_device() -> None:
    assert choose_device("cpu") == CPU
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA"):
            choose_device("cuda")


def test_kept_weights_say_how_long_they_were_trained(source: Path, tmp_path: Path) -> None:
    """A run without its state still knows its progress, and is not trained on by mistake."""
    run = start(tmp_path / "run", source, steps=3)
    resume(run, CPU, tensorboard=False)
    steps, seconds = run.progress()
    (run.path / "state.safetensors").unlink()
    assert run.progress()[0] == steps == 3
    assert run.progress()[1] == pytest.approx(seconds, abs=0.5)
    with pytest.raises(UserError, match=r"no state\.safetensors"):
        resume(run, CPU, tensorboard=False)


@pytest.mark.parametrize("estimator", ["stop-marginal", "iwae", "rws"])
def test_the_prior_alone_learns_from_what_the_guide_draws(
    tmp_path: Path, source: Path, estimator: Any
) -> None:
    first = start(tmp_path / "first", source, 30)
    resume(first, CPU, tensorboard=False)
    kept, _ = first.read_tensors("last.safetensors")
    settings = TrainConfig(
        str(source), batch_size=8, estimator=estimator, trainable="prior", init_from="first"
    )
    config = RunConfig("dood", TINY, settings)
    second = Run.create(tmp_path / "second", config, TrainingBudget(steps=40), CPU, kept, "0" * 64)
    trainer = resume(second, CPU, tensorboard=False)
    after = weights(second, "last.safetensors")
    own = {id(parameter) for parameter in trainer.model.prior_parameters()}
    for name, parameter in trainer.parameters.items():
        assert torch.equal(kept[name], after[name]) != (id(parameter) in own), name
    gate = "guide.refinement.gate"
    assert torch.equal(kept[gate], after[gate])
    models = [first.load("last")[:2], second.load("last")[:2]]
    pictures = torch.from_numpy(prepared.read(source)["test_images"]).float()[:, 2:-2, 2:-2] / 255
    means = []
    for model, guide in models:
        torch.manual_seed(0)
        with torch.no_grad():
            terms = stop_marginal_terms(model, guide, pictures, 20).averages()
        means.append(terms)
    assert means[1].elbo > means[0].elbo
    assert means[1].log_likelihood == means[0].log_likelihood
    assert means[1].strokes == means[0].strokes


def test_the_prior_alone_is_refused_a_guide_of_other_weights(tmp_path: Path, source: Path) -> None:
    first = start(tmp_path / "first", source, 2)
    resume(first, CPU, tensorboard=False)
    kept, _ = first.read_tensors("last.safetensors")
    del kept["guide.layout_head.0.weight"]
    settings = TrainConfig(str(source), batch_size=8, trainable="prior", init_from="first")
    config, budget = RunConfig("dood", TINY, settings), TrainingBudget(steps=4)
    second = Run.create(tmp_path / "second", config, budget, CPU, kept, "0" * 64)
    with pytest.raises(UserError, match="other weights"):
        resume(second, CPU, tensorboard=False)


def test_the_prior_alone_is_taught_by_nothing_that_teaches_the_guide() -> None:
    given: dict[str, Any] = {"source": "none", "trainable": "prior", "init_from": "first"}
    assert TrainConfig(**given).synthetic_ratio == 0
    for more in (
        {"synthetic_ratio": 0.1},
        {"sleep_steps": 3},
        {"estimator": "nvil"},
        {"init_from": ""},
    ):
        with pytest.raises(UserError, match="trainable prior"):
            TrainConfig(**(given | more))


def test_random_strokes_teach_the_guide_alone(source: Path) -> None:
    settings = TrainConfig(source=str(source), batch_size=8, synthetic_ratio=1.0)
    trainer = Trainer.from_config(RunConfig("dood", TINY, settings), CPU)
    gradients = trainer.synthetic_gradient(8, 0, trainer.plan())
    assert gradients.keys() <= set(trainer.guide.parameters())
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    assert all(parameter.grad is None for parameter in trainer.parameters.values())


def test_random_strokes_that_are_not_finite_cost_the_images_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = trainer_module.sample_random_strokes

    def broken(*given: Any, **more: Any) -> Any:
        return real(*given, **more)._replace(sigma=torch.full((4,), torch.nan))

    monkeypatch.setattr(trainer_module, "sample_random_strokes", broken)
    images = ImageBatch(torch.rand(4, TINY.canvas_size, TINY.canvas_size))
    after = []
    for synthetic_ratio in (0.0, 1.0):
        settings = TrainConfig("none", batch_size=4, synthetic_ratio=synthetic_ratio)
        trainer = Trainer.from_config(RunConfig("dood", TINY, settings), CPU)
        set_random_state(trainer.random_state, CPU)
        synthetic_gradient = trainer.synthetic_gradient

        def of_other_chance(*given: Any, synthetic_gradient: Any = synthetic_gradient) -> Any:
            with torch.random.fork_rng(devices=[]):
                return synthetic_gradient(*given)

        monkeypatch.setattr(trainer, "synthetic_gradient", of_other_chance)
        trainer.train_step(images)
        assert float(trainer.skipped) == synthetic_ratio and float(trainer.skipped_in_a_row) == 0
        after.append(trainer.averages)
    for name, weights in after[0].items():
        torch.testing.assert_close(weights, after[1][name])


@pytest.mark.parametrize(("share", "batches"), [(0.0, 0), (0.25, 2), (0.6, 4), (2.0, 16)])
def test_random_strokes_come_in_whole_batches(
    share: float, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    real = trainer_module.sample_random_strokes
    monkeypatch.setattr(
        trainer_module, "sample_random_strokes", lambda *a, **k: drawn.append(a[0]) or real(*a, **k)
    )
    settings = TrainConfig("none", batch_size=4, synthetic_ratio=share)
    trainer = Trainer.from_config(RunConfig("dood", TINY, settings), CPU)
    for _ in range(8):
        trainer.train_step(ImageBatch(torch.rand(4, TINY.canvas_size, TINY.canvas_size)))
    assert drawn == [4] * batches
