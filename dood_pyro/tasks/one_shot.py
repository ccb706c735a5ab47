"""One-shot classification (section 3.2, Table 1): which of twenty characters is a query image?
``dood-pyro one-shot`` runs it.

The parses of a support image are types. For each type, a token is fitted to the query by gradient steps
on log p(query | token, type) + log p(token): the token's variables are set to their best values, in
place of marginalising them. The answer is the class whose types explain the query best. Two-way scores
also count how well the query's types explain the support image; the default is one-way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import t
from torch import Tensor

from dood_pyro.data.one_shot_runs import Trials
from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.inference.guide_parses import sample_parse
from dood_pyro.optimiser import Adam
from dood_pyro.recognition import Recognizer
from dood_pyro.rendering import canvas_from_ink
from dood_pyro.tokens import (
    Strokes,
    Token,
    TokenNoise,
    apply_token,
    parts_from_parse,
    render_parts,
    strokes_from_parse,
)

TOKENS = 400
"""Tokens fitted at once: more outgrow a CPU's caches and are slower."""


@dataclass(frozen=True)
class Settings:
    """Settings of the score of a query. Choose them on trials of the background set, not on the
    official ones.

    Raises:
        UserError: a value is out of range.
    """

    parses: int = 3
    """Types per support image: the guide's modes, and samples from the guide."""
    steps: int = 60
    """Gradient steps per token; 0 compares with the types as they are."""
    learning_rate: float = 0.2
    """Adam's learning rate, in standard deviations of the token's variables; falls linearly to 0."""
    scale: float = 0.5
    """Scale of the Laplace likelihood of a token's picture, in brightness: how far a pixel of a
    good token may be off."""
    blurs: tuple[float, ...] = (3.0, 1.5, 0.7)
    """Standard deviations, pixels, of the blur under which pictures are compared: from coarse to fine,
    each for an equal share of the steps. The last one gives the score."""
    points: int = 64
    """Points along the curve of a token's stroke: half the renderer's own, for half the time."""
    two_way: bool = False
    """Whether scores also count how well the query's types explain the support image."""
    noise: TokenNoise = field(default_factory=lambda: TokenNoise(0.06, 0.1, 0.15, 0.15, 0.15, 0.15))
    """Standard deviations of token variables, wider than those of new exemplars."""

    def __post_init__(self) -> None:
        counts = min(self.parses, self.steps + 1, self.points)
        rates = 0 < self.scale < 100 and self.learning_rate > 0
        if counts < 1 or not rates or not self.blurs or min(self.blurs) <= 0:
            raise UserError(
                "one-shot: parses, points, learning_rate, scale and blurs must be positive, steps not "
                "negative"
            )


class Types(NamedTuple):
    """Types of images, and the function that draws their tokens."""

    latent: tuple[Tensor, ...]
    """Latent variables, each (images, parses, …); the last, (images, parses, steps), is 1 where a
    stroke is drawn."""
    draw: Callable[[tuple[Tensor, ...], Token, TokenNoise, int], Tensor]
    """Function of latent variables, token, noise and size to pictures (*batch, size, size)."""


@torch.no_grad()
def types_of(
    dood: Recognizer, images: Float[Tensor, "images size size"], settings: Settings
) -> Types:
    """Types of each image: the guide's modes, then samples from the guide."""
    found = [dood.infer(images)]
    found += [sample_parse(dood.model, dood.guide, images) for _ in range(settings.parses - 1)]
    model, curves = dood.model, dood.model.draws_curves
    parts = [
        strokes_from_parse(parsed) if curves else parts_from_parse(model, parsed)
        for parsed in found
    ]
    latent = tuple(torch.stack(column, dim=1) for column in zip(*parts, strict=True))
    if curves:
        return Types(latent, _draws_strokes(settings.points))
    return Types(latent, _draws_parts(model.part_ink))


def _draws_strokes(points: int) -> Any:
    """`Types.draw` for models that draw curves."""

    def draw(latent: tuple[Tensor, ...], token: Token, noise: TokenNoise, size: int) -> Tensor:
        return apply_token(Strokes(*latent), token, noise).render(size, points)

    return draw


def _draws_parts(part_ink: Callable[[Tensor], Tensor]) -> Any:
    """`Types.draw` for models that draw no curves."""

    def draw(latent: tuple[Tensor, ...], token: Token, noise: TokenNoise, size: int) -> Tensor:
        return canvas_from_ink(render_parts(part_ink, latent, token, noise, size).sum(-3))

    return draw


def blur(pictures: Float[Tensor, "*batch size size"], sigma: float) -> Tensor:
    """Blur pictures by a Gaussian of ``sigma`` pixels, with black outside the pictures."""
    if sigma <= 0:
        return pictures
    pixels = torch.arange(pictures.shape[-1]).to(pictures)
    weight = torch.exp(-0.5 * ((pixels[:, None] - pixels) / sigma) ** 2)
    weight = weight / (sigma * math.sqrt(2 * math.pi))
    # Two matrix products are far faster on a CPU than convolutions of one channel.
    return weight @ pictures @ weight


def scores(
    types: Types, pictures: Float[Tensor, "pictures size size"], settings: Settings
) -> Float[Tensor, "pictures images"]:
    """log p(picture | an image's types), up to a constant, for all pairs of a picture and an image."""
    images, parses = types.latent[-1].shape[:2]
    found = []
    for part in pictures.split(max(1, TOKENS // (images * parses))):
        latent = tuple(each.expand(len(part), *each.shape) for each in types.latent)
        found.append(_fitted(Types(latent, types.draw), part[:, None, None], settings))
    return torch.cat(found)


def _fitted(
    types: Types, pictures: Float[Tensor, "*batch #parses size size"], settings: Settings
) -> Float[Tensor, "*batch"]:
    """log p(picture | type), up to a constant of the type's number of strokes: maximum over parses,
    token variables fitted."""
    size = pictures.shape[-1]
    like, alive = types.latent[0], types.latent[-1]
    shape = alive.shape[:-1]
    token = Token(torch.zeros_like(like), like.new_zeros(*shape, 6), like.new_zeros(shape))
    leaves = [part.requires_grad_() for part in token]
    optimiser, never = Adam([leaves]), like.new_zeros(())
    share = math.ceil(settings.steps / len(settings.blurs))

    def value(sigma: float) -> Tensor:
        drawn = types.draw(types.latent, Token(*leaves), settings.noise, size)
        error = (blur(drawn, sigma) - blur(pictures, sigma)).abs().sum((-1, -2))
        squares = (leaves[0].square().flatten(alive.ndim).sum(-1) * alive).sum(-1)
        squares = squares + leaves[1].square().sum(-1) + leaves[2].square()
        return -error / settings.scale - 0.5 * squares

    for step in range(settings.steps):
        objective = value(settings.blurs[min(step // share, len(settings.blurs) - 1)])
        for leaf, gradient in zip(
            leaves, torch.autograd.grad(-objective.sum(), leaves, allow_unused=True), strict=True
        ):
            leaf.grad = torch.zeros_like(leaf) if gradient is None else gradient
        optimiser.step([settings.learning_rate * (1 - step / settings.steps)], skip=never)
    with torch.no_grad():
        return value(settings.blurs[-1]).amax(-1)


def classify(dood: Recognizer, trials: Trials, settings: Settings) -> Float[Tensor, "queries ways"]:
    """Scores of a run's queries for each class; the class with the highest score is the answer."""
    support, queries = trials.support.to(dood.device), trials.queries.to(dood.device)
    # Trials have more native pixels than the canvas, so they are drawn on the canvas's own pixels.
    with seeded(0, dood.device):
        types = types_of(dood, support, settings)
        forward = scores(types, queries, settings)
        if not settings.two_way:
            return forward
        backward = scores(types_of(dood, queries, settings), support, settings).mT
        # p(x^(c)) is estimated by how well the support image's own types explain the image.
        return forward + backward - _fitted(types, support[:, None], settings)


def one_shot(
    dood: Recognizer,
    runs: Sequence[Trials],
    settings: Settings | None = None,
    show: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """One-shot accuracy of a model on several runs (`accuracy_of`)."""
    chosen = settings or Settings()
    return accuracy_of(lambda trials: classify(dood, trials, chosen), runs, show)


def accuracy_of(
    score: Callable[[Trials], Float[Tensor, "queries ways"]],
    runs: Sequence[Trials],
    show: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Accuracy of a scoring function on several runs.

    Args:
        score: function of a run to its queries' scores; the class with the highest score is the answer.
        show: called with each run's accuracy as it is known.

    Returns:
        ``accuracy`` (over all trials), ``interval`` (95 % by Student's t over runs; None for a single
        run), ``runs`` (accuracy of each).
    """
    accuracies = []
    for trials in runs:
        best = score(trials).argmax(-1).cpu()
        accuracies.append(float((best == trials.answers).double().mean()))
        if show is not None:
            show(accuracies[-1])
    values = torch.tensor(accuracies, dtype=torch.float64)
    mean, interval = float(values.mean()), None
    if len(values) > 1:
        spread = float(t.ppf(0.975, len(values) - 1) * values.std()) / math.sqrt(len(values))
        interval = [mean - spread, mean + spread]
    return {"accuracy": mean, "interval": interval, "runs": accuracies}
