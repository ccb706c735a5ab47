"""The transformer prior: densities that are those of its samples, order, gradients, whole drawings."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.errors import Interrupted, UserError
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.images import ImageBatch
from dood_pyro.inference import stop_marginal
from dood_pyro.inference.stop_marginal import objective, stop_marginal_terms
from dood_pyro.models.sites import site_name
from dood_pyro.models.stroke_prior import WIDTH, Chain, ChainedNumbers, StrokeTransformer
from dood_pyro.models.transformer import ChainedPoints, DooDTransformer
from dood_pyro.research import begin_training, configure
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.training import parsed
from dood_pyro.training.loop import Training
from dood_pyro.training.processes import Team
from dood_pyro.training.shared_noise import Share
from dood_pyro.training.trainer import Trainer
from tests.conftest import TINY, nudge

CPU = torch.device("cpu")


DEPTHS = [(), (2, True), (3, False)]
"""Inner layers of a chain, and whether it is modulated."""


def chain(count: int = 3, given: int = 4, *depth: Any) -> Chain:
    torch.manual_seed(0)
    made = Chain([-1.0, 0.0, -2.0][:count], [1.0, 3.0, 0.0][:count], given, *depth).double()
    nudge(made)
    return made


@pytest.mark.parametrize("depth", DEPTHS)
def test_densities_integrate_to_one(depth: Any) -> None:
    made, given = chain(3, 4, *depth), torch.randn(4, dtype=torch.float64)
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    before = torch.tensor([0.3, 1.2, 0.0], dtype=torch.float64)
    for j in range(3):
        numbers = before.expand(len(grid), 3).clone()
        numbers[:, j] = grid
        log_p = made.log_prob(given.expand(len(grid), 4), numbers, slice(j, j + 1))
        assert torch.trapezoid(log_p.exp(), grid).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("depth", DEPTHS)
def test_samples_follow_the_density(depth: Any) -> None:
    made, given = chain(2, 4, *depth), torch.randn(4, dtype=torch.float64)
    variable = ChainedNumbers(made, given.expand(40_000, 4), given.new_zeros(40_000, 0), (2,))
    drawn = variable.sample()
    # E of the density ratio of another distribution to this one is 1.
    other = torch.distributions.Normal(drawn.mean(0), 0.5 * drawn.std(0))
    ratio = (other.log_prob(drawn).sum(-1) - variable.log_prob(drawn)).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=4 * ratio.std().item() / 200)


def test_gradients_of_samples_are_pathwise() -> None:
    made, given = chain(2), torch.randn(4, dtype=torch.float64)
    given = given.requires_grad_()

    def mean_of(at: torch.Tensor, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        n = 60_000
        return ChainedNumbers(made, at.expand(n, 4), at.new_zeros(n, 0), (2,)).rsample().mean(0)[1]

    (gradient,) = torch.autograd.grad(mean_of(given, 0), given)
    step = torch.zeros(4, dtype=torch.float64)
    step[1] = 0.2
    with torch.no_grad():
        ahead, behind = (mean_of(given + sign * step, 1) for sign in (1, -1))
    assert gradient[1].item() == pytest.approx(float(ahead - behind) / 0.4, abs=0.03)


def test_a_step_sees_the_strokes_before_it_alone() -> None:
    torch.manual_seed(0)
    net = StrokeTransformer(Chain([-1.0] * 5, [1.0] * 5, WIDTH), 4).double()
    strokes = torch.randn(2, 3, 5, dtype=torch.float64)
    changed = strokes.clone()
    changed[:, 1] += 1
    one, other = net.memories(strokes), net.memories(changed)
    assert torch.allclose(one[:, :2], other[:, :2]) and not torch.allclose(one[:, 2:], other[:, 2:])
    assert torch.allclose(net.memories(strokes[:, :1]), one[:, :2])
    wanted = torch.tensor([[True, True, False, True], [True, False, False, False]])
    every = torch.cat([strokes, strokes[:, :1]], dim=1)
    logits, log_p = net.of_drawings(every, wanted)
    assert torch.allclose(logits, net.on(one).squeeze(-1))
    expected = net.chain.log_prob(one, every)
    assert torch.allclose(log_p, expected.where(wanted, expected.new_zeros(())))
    # With a chain of its own for the first stroke, wanted or not.
    first = Chain([-1.0] * 5, [1.0] * 5, WIDTH, 3).double()
    net.first = first
    nudge(first)
    wanted[1, 0] = False
    expected = torch.cat([first.log_prob(one[:, :1], every[:, :1]), expected[:, 1:]], dim=1)
    assert torch.allclose(net.of_drawings(every)[1], expected)
    found = net.of_drawings(every, wanted)[1]
    assert torch.allclose(found, expected.where(wanted, expected.new_zeros(())))


def test_points_have_the_density_of_their_places_on_the_canvas() -> None:
    torch.manual_seed(0)
    made = Chain([-1.0] * 6, [1.0] * 6, 4).double()
    frame = torch.tensor([[0.3, -0.4, 0.2], [0.4, 0.3, -0.1]], dtype=torch.float64)
    given = torch.randn(4, dtype=torch.float64)
    points = ChainedPoints(made, given, given[:0], (3, 2), frame)
    value = torch.randn(3, 2, dtype=torch.float64)
    assert torch.allclose(points.unflat(points.flat(value)), value)
    jacobian = torch.autograd.functional.jacobian(points.flat, value).reshape(6, 6)
    expected = made.log_prob(given, points.flat(value)) + torch.linalg.slogdet(jacobian)[1]
    assert points.log_prob(value).item() == pytest.approx(expected.item())
    assert points.sample().shape == (3, 2)
    assert points.support.event_dim == 2


@pytest.mark.parametrize("pointers", [True, False])
@pytest.mark.parametrize("chain", ["shallow", "deep"])
def test_whole_drawings_have_the_density_of_the_programs_trace(pointers: bool, chain: Any) -> None:
    torch.manual_seed(0)
    model = DooDTransformer(dataclasses.replace(TINY, pointers=pointers, chain=chain)).double()
    nudge(model)
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(count=7)
        trace.compute_log_prob()
    steps = range(1, TINY.max_strokes + 1)

    def values(kind: str) -> torch.Tensor:
        return torch.stack([trace.nodes[site_name(kind, t)]["value"] for t in steps])

    alive = values("on").cumprod(0)
    assert 0 < alive.mean().item() < 1
    found = {kind: values(kind) for kind in ("layout", "stroke", "pen")}
    logits, log_p = model.prior_of(found, torch.ones_like(alive, dtype=torch.bool))
    going = torch.cat([torch.ones_like(alive[:1]), alive[:-1]])
    of_stop = torch.distributions.Bernoulli(logits=logits).log_prob(alive)
    expected = sum(
        node["log_prob"]
        for name, node in trace.nodes.items()
        if name != "image" and "log_prob" in node
    )
    torch.testing.assert_close((alive * log_p + going * of_stop).sum(0), expected)


def test_parsed_images_have_the_terms_of_images() -> None:
    torch.manual_seed(0)
    model = DooDTransformer(TINY)
    guide = AmortisedGuide(model, TrainConfig("none"))
    nudge(model)
    images = ImageBatch(torch.rand(5, TINY.canvas_size, TINY.canvas_size), 0)
    torch.manual_seed(1)
    found = parsed.parse_batch(model, guide, images)
    torch.manual_seed(1)
    with torch.no_grad():
        expected = stop_marginal_terms(model, guide, images)
    again = parsed.ParsedImages.from_tensors(found.tensors(), torch.device("cpu"))
    for one in (found.terms(model), again.terms(model)):
        for mine, theirs in zip(one, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    some = found.rows(torch.tensor([3, 1]))
    assert len(some) == 2 and torch.equal(some.log_q[:, 0], found.log_q[:, 3])


def test_who_learns_from_parses() -> None:
    alone = {"trainable": "prior", "init_from": "a run", "synthetic_ratio": 0.0}
    for model, estimator, share_alone, share in (
        ("dood-transformer", "stop-marginal", 1.0, 0.25),
        ("dood-transformer", "iwae", 0.0, 0.0),
        ("dood-transformer", "nvil", None, 0.25),
        ("dood", "stop-marginal", 0.0, 0.0),
    ):
        config = configure(model, "none", {"train.estimator": estimator})
        assert config.train.prior_share == share
        if share_alone is not None:
            particles = {"particles": 2} if estimator == "iwae" else {}
            train = TrainConfig("none", estimator=estimator, **(alone | particles))
            trainer = Trainer.from_config(RunConfig(model, TINY, train), torch.device("cpu"))
            assert trainer.prior_share == share_alone
    with pytest.raises(UserError, match="no model 'gan'"):  # whether or not the share asks for it
        configure("gan", "none", {"train.prior_share": 0.0})
    shared = {"model.pen": "shared"}
    assert configure("dood-transformer", "none", shared).train.prior_share == 0
    train = TrainConfig("none", prior_share=0.5)
    with pytest.raises(UserError, match="prior_share is for models whose prior is of strokes"):
        Trainer.from_config(RunConfig("dood", TINY, train), torch.device("cpu"))
    with pytest.raises(UserError, match="prior_share is for trainings of model and guide"):
        TrainConfig("none", prior_share=0.5, trainable="guide", init_from="a run")


def test_few_parses_are_shared_evenly() -> None:
    model = DooDTransformer(TINY)
    images = ImageBatch(torch.rand(7, TINY.canvas_size, TINY.canvas_size), 0)
    found = parsed.parse_batch(model, AmortisedGuide(model, TrainConfig("none")), images)
    for rank in range(3):
        batches = parsed.ParsedBatches(found, 9, 0, Team(Share(rank, 3)))
        assert len(batches[0]) == len(batches[1]) == 2


def test_what_is_hardly_ever_drawn_is_nothing_to_learn_from() -> None:
    torch.manual_seed(0)
    model = DooDTransformer(TINY)
    guide = AmortisedGuide(model, TrainConfig("none"))
    nudge(model)
    images = ImageBatch(torch.rand(2, TINY.canvas_size, TINY.canvas_size), 0)
    found = parsed.parse_batch(model, guide, images)
    # The first image's drawings stop after one stroke, with a chance of 1 in 10,000 of a second.
    log_q = torch.full_like(found.log_q, -60.0)
    log_q[1, 0], log_q[2, 0] = math.log(1 - 1e-4), math.log(1e-4)
    log_q[:, 1] = -math.log(len(log_q))
    found = parsed.ParsedImages(found.values, log_q, found.log_q_strokes, found.log_likelihood)
    terms = found.terms(model)
    assert torch.equal(terms.log_ratio[1, 0], terms.log_ratio[2, 0])
    assert not torch.equal(terms.log_ratio[1, 1], terms.log_ratio[2, 1])
    elsewhere = found.values["pen"].clone()
    elsewhere[1:, 0] += 1.0
    other = parsed.ParsedImages(found.values | {"pen": elsewhere}, *found[1:]).terms(model)
    assert torch.equal(other.log_ratio[:, 0], terms.log_ratio[:, 0])


def test_batches_of_parsed_images_go_through_all() -> None:
    count = torch.arange(12.0)[None]
    all_of = parsed.ParsedImages({"layout": count[..., None]}, count, count, count)
    batches = parsed.ParsedBatches(all_of, 4, 0, Team())
    seen = torch.cat([batches[step].log_q[0] for step in range(3)])
    assert sorted(seen.tolist()) == list(range(12))
    assert torch.equal(batches[4].log_q, batches[4].log_q)


def test_a_training_ends_with_the_prior_alone(source: Path, tmp_path: Path) -> None:
    """Three steps of four are on images, and then guide and renderer stay as they are; with nine, seven
    are on images or on what was parsed before."""
    small = {"model.canvas_size": 16, "model.max_strokes": 2, "train.batch_size": 4}
    given = {"settings": small | {"train.average_decay": 0.0}, "device": "cpu"}

    def trained(name: str, *steps: int) -> dict[str, torch.Tensor]:
        training = begin_training(
            str(source), "dood-transformer", steps=steps[0], out=tmp_path / name, **given
        )
        training.train(tensorboard=False)
        run = Run(tmp_path / name)
        for more in steps[1:]:
            budget = run.read_config()[1].extended(more, None, *run.progress())
            type(training).open(run, CPU).train(tensorboard=False, budget=budget)
        state, notes = run.read_tensors("state.safetensors")
        taken.append((int(notes["step"]), int(notes["prior_steps"])))
        return {n: t for n, t in state.items() if n.startswith("average.")}

    taken: list[tuple[int, int]] = []
    four, _ = trained("four", 4), trained("raised", 4, 9)
    assert taken == [(4, 1), (9, 3)]
    prior = {name for name in four if name.startswith("average.model.transformer.")}
    before = trained("before", 3, 3)
    assert taken.pop() == (3, 0), "of three steps a quarter is none"
    for name in four.keys() - prior:
        assert torch.equal(four[name], before[name]), name
    assert any(not torch.equal(four[name], before[name]) for name in prior)
    # The parses are those of the guide that the images' part has left.
    notes = Run(tmp_path / "raised").read_tensors(parsed.FILE)[1]
    assert notes["guide"] != Run(tmp_path / "four").read_tensors(parsed.FILE)[1]["guide"]


def test_an_interrupted_last_part_goes_on_from_the_parses_at_hand(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"model.canvas_size": 16, "model.max_strokes": 2, "train.batch_size": 4}
    small |= {"model.features": 16, "train.synthetic_ratio": 0.0, "train.prior_share": 0.5}
    given = {"settings": small, "device": "cpu", "steps": 8}

    def state(name: str) -> dict[str, torch.Tensor]:
        return Run(tmp_path / name).read_tensors("state.safetensors")[0]

    begin_training(str(source), "dood-transformer", out=tmp_path / "whole", **given).train(
        tensorboard=False
    )
    training = begin_training(str(source), "dood-transformer", out=tmp_path / "cut", **given)
    step = Trainer.prior_step

    def stopped(self: Trainer, images: parsed.ParsedImages) -> Any:
        if self.prior_steps == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, images)

    monkeypatch.setattr(Trainer, "prior_step", stopped)
    with pytest.raises(Interrupted):
        training.train(tensorboard=False)
    monkeypatch.undo()
    assert Run(tmp_path / "cut").progress()[0] == 7
    written = (tmp_path / "cut" / parsed.FILE).stat().st_mtime_ns
    type(training).open(Run(tmp_path / "cut"), CPU).train(tensorboard=False)
    assert (tmp_path / "cut" / parsed.FILE).stat().st_mtime_ns == written
    whole, cut = state("whole"), state("cut")
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name


def test_interrupted_while_it_parses(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"model.canvas_size": 16, "model.max_strokes": 2, "train.batch_size": 4}
    given = {"settings": small, "device": "cpu", "steps": 4}
    training = begin_training(str(source), "dood-transformer", out=tmp_path / "run", **given)
    parse_batch = parsed.parse_batch

    def stopped(*arguments: Any) -> Any:
        # Written only for who stops it: else a training that then diverges would not be told.
        assert not (tmp_path / "run" / "best.safetensors").exists()
        signal.raise_signal(signal.SIGTERM)
        return parse_batch(*arguments)

    monkeypatch.setattr(parsed, "parse_batch", stopped)
    with pytest.raises(Interrupted, match="--resume"):
        training.train(tensorboard=False)
    monkeypatch.undo()
    run = Run(tmp_path / "run")
    assert run.progress()[0] == 3 and not (run.path / parsed.FILE).exists()
    run.load()  # what it had learned until then can be used
    type(training).open(run, CPU).train(tensorboard=False)
    assert run.progress()[0] == 4


def test_a_raised_budget_has_more_parsed(source: Path, tmp_path: Path) -> None:
    small = {"model.canvas_size": 16, "model.max_strokes": 2, "train.batch_size": 4}
    given: dict[str, Any] = {"settings": small, "device": "cpu", "steps": 2}
    begin_training(str(source), "dood", out=tmp_path / "images", **given).train(tensorboard=False)
    of_prior = {"train.trainable": "prior", "train.batch_size": 4}
    given |= {"settings": of_prior, "init_from": tmp_path / "images"}
    begin_training(str(source), "dood-transformer", out=tmp_path / "run", **given)
    run = Run(tmp_path / "run")

    def parses(steps: int) -> int:
        Training.open(run, CPU).train(tensorboard=False, budget=TrainingBudget(steps=steps))
        return len(run.read_tensors(parsed.FILE)[0]["log_q_strokes"][0])

    assert parses(2) == 8 and parses(20) == 18 * 4
    written = (run.path / parsed.FILE).stat().st_mtime_ns
    assert parses(24) == 18 * 4 and (run.path / parsed.FILE).stat().st_mtime_ns == written


def test_a_full_disk_is_said_before_anything_is_parsed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"model.canvas_size": 16, "model.max_strokes": 2, "train.batch_size": 4}
    given = {"settings": small, "device": "cpu", "steps": 4}
    training = begin_training(str(source), "dood-transformer", out=tmp_path / "run", **given)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"the parses of 4 images need .* --prior-share 0"):
        training.train(tensorboard=False)


def test_a_prior_of_another_kind_learns_from_a_runs_parses(source: Path, tmp_path: Path) -> None:
    small = {"model.canvas_size": 16, "model.max_strokes": 2, "train.batch_size": 4}
    common = {"steps": 2, "settings": small, "device": "cpu"}
    begin_training(str(source), "dood", out=tmp_path / "a", **common).train(tensorboard=False)
    training = begin_training(
        str(source),
        "dood-transformer",
        steps=4,
        out=tmp_path / "b",
        settings={"train.trainable": "prior", "train.batch_size": 4},
        init_from=tmp_path / "a",
        device="cpu",
    )
    training.train(tensorboard=False)
    assert Run(tmp_path / "b").read_config()[0].model.pointers, "usual, if not of the run's model"
    first, second = (Run(tmp_path / name).read_tensors("state.safetensors")[0] for name in "ab")
    prior = {n for n in second if n.startswith("weights.model.transformer.")}
    shared = {n for n in second if n.startswith("weights.")} - prior
    assert prior and any(name.startswith("weights.guide.") for name in shared)
    best = Run(tmp_path / "a").read_tensors("best.safetensors")[0]
    for name in shared:
        assert torch.equal(second[name], best[name.removeprefix("weights.")]), name
    kept = parsed.ParsedImages.from_tensors(
        Run(tmp_path / "b").read_tensors(parsed.FILE)[0], torch.device("cpu")
    )
    assert len(kept) == 16, "as many as there are steps for"
    assert first.keys() != second.keys()
    # Parses that were damaged are made again.
    (tmp_path / "b" / parsed.FILE).write_bytes(b"damaged")
    run = Run(tmp_path / "b")
    again = type(training).open(run, torch.device("cpu"))
    again.train(tensorboard=False, budget=run.read_config()[1].extended(6, None, *run.progress()))
    assert run.progress()[0] == 6
    model, _, _ = run.load()
    with torch.no_grad():
        assert model(count=3).shape == (3, 16, 16)


def test_terms_of_strokes_alone_are_those_of_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients of all parameters, exploring, and the state of random numbers."""
    torch.manual_seed(0)
    model = DooDTransformer(TINY).double()
    guide = AmortisedGuide(model, TrainConfig("none")).double()
    nudge(model)
    pixels = torch.rand(5, TINY.canvas_size, TINY.canvas_size, dtype=torch.float64)

    def loss_and_gradients() -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(1)
        model.zero_grad()
        guide.zero_grad()
        terms = stop_marginal_terms(model, guide, ImageBatch(pixels, 0), explore=0.3)
        objective(terms, 3.0, 0.3).sum().backward()
        both = [*model.named_parameters(), *guide.named_parameters()]
        found = {name: p.grad.clone() for name, p in both if p.grad is not None}
        return terms, found, torch.get_rng_state()

    assert stop_marginal.strokes_are_all(model, guide)
    terms, gradients, state = loss_and_gradients()
    monkeypatch.setattr(stop_marginal, "strokes_are_all", lambda model, guide: False)
    expected, their_gradients, their_state = loss_and_gradients()
    for mine, theirs in zip(terms, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert set(gradients) == set(their_gradients) and len(gradients) > 40
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-7, atol=1e-9)
    assert torch.equal(state, their_state)


@pytest.mark.parametrize(("name", "before"), [("pointers", False), ("chain", "shallow")])
def test_runs_of_before_a_setting_stay_so(
    name: str, before: Any, source: Path, tmp_path: Path
) -> None:
    small = {"model.canvas_size": 16, "model.max_strokes": 2, "train.batch_size": 4}
    given: dict[str, Any] = {"steps": 2, "device": "cpu"}
    first = begin_training(
        str(source),
        "dood-transformer",
        out=tmp_path / "a",
        settings=small | {f"model.{name}": before},
        **given,
    )
    first.train(tensorboard=False)
    # As a version wrote it that had no such setting.
    config = tmp_path / "a" / "config.json"
    values = json.loads(config.read_text())
    assert values["model"].pop(name) == before
    config.write_text(json.dumps(values))
    model, _, _ = Run(tmp_path / "a").load()
    with torch.no_grad():
        assert model(count=3).shape == (3, 16, 16)
    given |= {"init_from": tmp_path / "a"}
    second = begin_training(str(source), out=tmp_path / "b", **given)
    assert second.run.read_config()[0].model == Run(tmp_path / "a").read_config()[0].model
    usual = {f"model.{name}": getattr(configure("dood-transformer", "none").model, name)}
    with pytest.raises(UserError, match=f"{name} is that of"):
        begin_training(str(source), out=tmp_path / "c", settings=usual, **given)


@pytest.mark.parametrize("strokes", [1, 3])
def test_every_parameter_of_a_deep_prior_learns(strokes: int) -> None:
    torch.manual_seed(0)
    model = DooDTransformer(dataclasses.replace(TINY, max_strokes=strokes))
    nudge(model)
    with pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(count=20)
    names = [
        site_name(kind, t) for kind in ("layout", "stroke", "pen") for t in range(1, strokes + 1)
    ]
    values: dict[str, Any] = {
        kind: torch.stack([trace.nodes[name]["value"].detach() for name in names if kind in name])
        for kind in ("layout", "stroke", "pen")
    }
    logits, log_p = model.prior_of(values)
    (logits.sum() + log_p.sum()).backward()
    still = [
        n for n, p in model.transformer.named_parameters() if p.grad is None or not p.grad.any()
    ]
    # Of one stroke, no numbers are read.
    assert still == (["embed.weight", "embed.bias"] if strokes == 1 else [])
