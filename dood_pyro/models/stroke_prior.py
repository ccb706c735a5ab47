"""A prior over strokes that remembers every stroke before: a transformer.
`dood_pyro.models.transformer` makes DooD's conditionals of it.

The numbers of the strokes so far (layout, control points and pen of each) are read by a transformer,
which gives h_t. From it follow p(on_t), and the numbers of stroke t one after the other: each a mixture
of Gaussians given h_t and the numbers of the same stroke before it. The first stroke of a drawing,
which nothing precedes and on which most else depends, may have a chain of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

WIDTH, LAYERS, HEADS = 128, 3, 4
"""Width, number of layers, and attention heads of the transformer."""
HIDDEN = 128
"""Hidden units for each number."""
COMPONENTS = 8
"""Gaussians in the mixture of each number."""
MIN_STD = 0.02
"""Least standard deviation of a component, in units of a number's range."""
INITIAL_STD = 0.4
"""Standard deviation of a component before training, likewise."""
DEEP, DEEP_FIRST = 2, 3
"""Inner layers of a deep chain, and of the one for first strokes."""


class Mixture(NamedTuple):
    """A mixture of Gaussians for each number of a batch."""

    mean: Float[Tensor, "*batch components"]
    std: Float[Tensor, "*batch components"]
    log_weight: Float[Tensor, "*batch components"]

    def log_probs(self, number: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch components"]:
        """Log-density under each component."""
        z = (number[..., None] - self.mean) / self.std
        return -0.5 * z**2 - self.std.log() - 0.5 * math.log(2 * math.pi)

    def log_prob(self, number: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Log-density."""
        return (self.log_weight + self.log_probs(number)).logsumexp(-1)

    def rsample(self) -> Float[Tensor, "*batch"]:
        """A sample. Gradients are pathwise: its distribution function stays at its value as parameters
        move."""
        mean, std, log_weight = self
        weight = log_weight.exp()
        chosen = torch.distributions.Categorical(weight.detach()).sample()[..., None]
        noise = torch.randn_like(mean[..., :1])
        drawn = (mean.gather(-1, chosen) + std.gather(-1, chosen) * noise).detach()
        z = (drawn - mean) / std
        below = (weight * torch.special.ndtr(z)).sum(-1)
        density = (weight * torch.exp(-0.5 * z**2) / std).sum(-1) / math.sqrt(2 * math.pi)
        return drawn.squeeze(-1) - (below - below.detach()) / density.detach()


class InnerLayer(nn.Module):
    """A residual layer with weights of its own for each number of a chain."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, HIDDEN, HIDDEN) / HIDDEN**0.5)
        self.bias = nn.Parameter(torch.zeros(count, HIDDEN))

    def forward(
        self, x: Float[Tensor, "numbers batch hidden"], which: slice
    ) -> Float[Tensor, "numbers batch hidden"]:
        """Hidden units of some of the numbers."""
        return _inner(x, self.weight[which], self.bias[which])


class Chain(nn.Module):
    """Numbers one after the other, each from a mixture of Gaussians given those before it.

    Args:
        low, high: range of each number, beside which all is measured; numbers may lie outside.
        given: size of what all are conditioned on.
        layers: inner layers.
        modulated: whether what all are conditioned on shifts and scales the hidden units of each number
            (feature-wise modulation as of Perez et al. 2018, but shifting before the nonlinearity and
            scaling after it); if not, it shifts all numbers' alike.
    """

    middle: Tensor
    reach: Tensor
    earlier: Tensor

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        given: int,
        layers: int = 1,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        count = len(low)
        ends = torch.tensor([low, high])
        self.register_buffer("middle", ends.mean(0), persistent=False)
        self.register_buffer("reach", (ends[1] - ends[0]) / 2, persistent=False)
        earlier = torch.ones(count, count).tril(-1)[..., None]
        self.register_buffer("earlier", earlier, persistent=False)
        self.from_given = nn.Linear(given, HIDDEN)
        self.from_earlier = nn.Parameter(torch.randn(count, count, HIDDEN) / count**0.5)
        self.bias = nn.Parameter(torch.zeros(count, HIDDEN))
        self.inner = nn.Parameter(torch.randn(count, HIDDEN, HIDDEN) / HIDDEN**0.5)
        self.inner_bias = nn.Parameter(torch.zeros(count, HIDDEN))
        self.out = nn.Parameter(torch.randn(count, HIDDEN, 3 * COMPONENTS) * 0.1 / HIDDEN**0.5)
        bias = torch.zeros(count, 3, COMPONENTS)
        bias[:, 0] = torch.linspace(-1, 1, COMPONENTS)
        bias[:, 1] = math.log(math.expm1(INITIAL_STD))
        self.out_bias = nn.Parameter(bias.flatten(1))
        self.more = nn.ModuleList(InnerLayer(count) for _ in range(layers - 1))
        self.modulation = None
        if modulated:
            self.modulation = nn.Parameter(torch.randn(count, given, 2 * HIDDEN) * 0.02)

    def conditions(
        self,
        memory: Float[Tensor, "*batch steps memory"],
        strokes: Float[Tensor, "*batch before numbers"],
    ) -> Float[Tensor, "*batch steps given"]:
        """What each step's numbers are conditioned on, from features and numbers of strokes before."""
        return memory

    def scaled(self, numbers: Float[Tensor, "*batch count"]) -> Float[Tensor, "*batch count"]:
        """Numbers in units of their ranges."""
        return (numbers - self.middle) / self.reach

    def mixtures(
        self, given: Tensor, scaled: Tensor, which: slice, temperature: float = 1.0
    ) -> Mixture:
        """Mixtures (*batch, numbers, components) of some numbers, in units of their ranges, given those
        before each.

        Args:
            temperature: components' densities are to the power of its inverse, and so are weights.
        """
        seen = _of_each(scaled, (self.from_earlier * self.earlier)[which]) + self.bias[which]
        x = self.from_given(given)[..., None, :] + seen
        if self.modulation is None:
            x = F.gelu(x)
        else:
            shift, scale = _of_each(given, self.modulation[which]).chunk(2, dim=-1)
            x = F.gelu(x + shift) * (1 + scale)
        batch = x.shape[:-2]
        # Numbers first: as batches of matrices the products take half the time.
        x = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
        x = _inner(x, self.inner[which], self.inner_bias[which])
        for layer in self.more:
            x = layer(x, which)
        raw = torch.baddbmm(self.out_bias[which][:, None], x, self.out[which])
        raw = raw.transpose(0, 1).unflatten(0, batch) if batch else raw[:, 0]
        mean, std, weight = raw.unflatten(-1, (3, COMPONENTS)).unbind(-2)
        std = MIN_STD + F.softplus(std)
        if temperature != 1:  # training has none
            std, weight = std * temperature**0.5, weight / temperature
        return Mixture(mean, std, weight.log_softmax(-1))

    def mixture(
        self, given: Tensor, scaled: Tensor, number: int, temperature: float = 1.0
    ) -> Mixture:
        """The mixture of one number."""
        found = self.mixtures(given, scaled, slice(number, number + 1), temperature)
        return Mixture(*(part.squeeze(-2) for part in found))

    def log_prob(
        self,
        given: Float[Tensor, "*batch given"],
        numbers: Float[Tensor, "*batch count"],
        which: slice = slice(None),
        temperature: float = 1.0,
    ) -> Float[Tensor, "*batch"]:
        """Log-density of some numbers given those before them, which ``numbers`` hold, too."""
        log_p = self.scaled_log_prob(given, self.scaled(numbers), which, temperature)
        return log_p - self.reach[which].log().sum()

    def scaled_log_prob(
        self, given: Tensor, scaled: Tensor, which: slice, temperature: float
    ) -> Float[Tensor, "*batch"]:
        """`log_prob` of numbers in units of their ranges, as a density over those units."""
        mixtures = self.mixtures(given, scaled, which, temperature)
        return mixtures.log_prob(scaled[..., which]).sum(-1)

    def sample(
        self,
        given: Float[Tensor, "*batch given"],
        numbers: Float[Tensor, "*batch count"],
        which: slice,
        temperature: float = 1.0,
    ) -> Float[Tensor, "*batch count"]:
        """``numbers`` with some of them sampled anew, in turn, given those before; gradients are
        pathwise."""
        scaled = self.scaled(numbers)
        for j in range(*which.indices(scaled.shape[-1])):
            drawn = self.mixture(given, scaled, j, temperature).rsample()[..., None]
            scaled = torch.cat([scaled[..., :j], drawn, scaled[..., j + 1 :]], dim=-1)
        return scaled * self.reach + self.middle


def _inner(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x + F.gelu(torch.baddbmm(bias[:, None], x, weight))


def _of_each(
    features: Float[Tensor, "*batch features"], weights: Float[Tensor, "numbers features hidden"]
) -> Float[Tensor, "*batch numbers hidden"]:
    """Products of the same features with each number's matrix."""
    count, size, hidden = weights.shape
    every = weights.transpose(0, 1).reshape(size, count * hidden)
    return (features @ every).unflatten(-1, (count, hidden))


class ChainedNumbers(TorchDistribution):
    """Some numbers of a `Chain`, as one variable.

    Args:
        given: condition, (*batch, given).
        before: the chain's numbers before them, (*batch, first).
        event_shape: of the variable.
    """

    has_rsample = True
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    temperature = 1.0

    def __init__(
        self, chain: Chain, given: Tensor, before: Tensor, event_shape: tuple[int, ...]
    ) -> None:
        self.chain, self.given, self.before = chain, given, before
        first = before.shape[-1]
        self.which = slice(first, first + math.prod(event_shape))
        batch = torch.broadcast_shapes(given.shape[:-1], before.shape[:-1])
        super().__init__(batch, torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def flat(self, value: Tensor) -> Float[Tensor, "*batch numbers"]:
        """The variable's numbers."""
        return value.flatten(-len(self.event_shape))

    def unflat(self, numbers: Float[Tensor, "*batch numbers"]) -> Tensor:
        """The variable of given numbers."""
        return numbers.unflatten(-1, self.event_shape)

    def _all(self, flat: Tensor) -> Tensor:
        """All of the chain's numbers, those after the variable as zeros, which nothing here sees."""
        before = self.before.expand(*flat.shape[:-1], -1)
        after = flat.new_zeros(*flat.shape[:-1], len(self.chain.middle) - self.which.stop)
        return torch.cat([before, flat, after], dim=-1)

    def log_prob(self, value: Tensor) -> Float[Tensor, "*batch"]:
        """Log-density given the condition and the numbers before."""
        numbers = self._all(self.flat(value))
        return self.chain.log_prob(self.given, numbers, self.which, self.temperature)

    def at_temperature(self, temperature: float) -> ChainedNumbers:
        """With each number's mixture at that temperature."""
        cooled = self.expand(self.batch_shape)
        cooled.temperature = temperature
        return cooled

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw the numbers in turn."""
        shape = (*sample_shape, *self.batch_shape)
        blank = self.given.new_zeros(*shape, self.which.stop - self.which.start)
        given = self.given.expand(*shape, self.given.shape[-1])
        drawn = self.chain.sample(given, self._all(blank), self.which, self.temperature)
        return self.unflat(drawn[..., self.which])

    def expand(self, batch_shape: Any, _instance: Any = None) -> ChainedNumbers:
        """The distribution for each member of a larger batch."""
        given = self.given.expand(*batch_shape, self.given.shape[-1])
        before = self.before.expand(*batch_shape, self.before.shape[-1])
        wider = ChainedNumbers(self.chain, given, before, tuple(self.event_shape))
        wider.temperature = self.temperature
        return wider


class StrokeTransformer(nn.Module):
    """h_1…h_K of a drawing from its strokes' numbers; p(on_t); and the chain of a stroke's numbers.

    Args:
        chain: of a stroke's numbers, given `WIDTH` features.
        max_strokes: K.
        first: chain of the first stroke's numbers; None if it is ``chain``.
    """

    later: Tensor

    def __init__(self, chain: Chain, max_strokes: int, first: Chain | None = None) -> None:
        super().__init__()
        self.chain, self.first = chain, first
        self.embed = nn.Linear(len(chain.middle), WIDTH)
        self.start = nn.Parameter(torch.randn(WIDTH) * 0.02)
        self.place = nn.Parameter(torch.randn(max_strokes, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )
        later = torch.full((max_strokes, max_strokes), -math.inf).triu(1)
        self.register_buffer("later", later, persistent=False)
        self.on = nn.Linear(WIDTH, 1)

    def memories(
        self, strokes: Float[Tensor, "*batch before numbers"]
    ) -> Float[Tensor, "*batch steps width"]:
        """h_1 to h_t from the t − 1 strokes before step t."""
        *batch, before, _ = strokes.shape
        embedded = self.embed(self.chain.scaled(strokes.flatten(0, -3)))
        start = self.start.expand(len(embedded), 1, -1)
        place, later = self.place[: before + 1], self.later[: before + 1, : before + 1]
        if before >= len(self.place):  # a drawing goes on beyond K: at the last place
            more = before + 1 - len(self.place)
            place = torch.cat([place, place[-1:].expand(more, -1)])
            later = place.new_full((before + 1, before + 1), -math.inf).triu(1)
        tokens = torch.cat([start, embedded], dim=1) + place
        # Said, or torch would read the mask back from the device to find out.
        seen: Tensor = self.layers(tokens, mask=later, is_causal=True)
        return seen.unflatten(0, batch)

    def conditions(
        self, strokes: Float[Tensor, "*batch before numbers"]
    ) -> Float[Tensor, "*batch steps given"]:
        """What the chain's numbers are conditioned on in steps 1 to t, of which features come first."""
        return self.chain.conditions(self.memories(strokes), strokes)

    def chain_of(self, first: bool) -> Chain:
        """The chain of the numbers of first strokes, or of others."""
        return self.first if first and self.first is not None else self.chain

    def stop_logits(self, given: Float[Tensor, "*batch given"]) -> Float[Tensor, "*batch"]:
        """Logits of ``on_t`` under `conditions`."""
        logits: Tensor = self.on(given[..., :WIDTH]).squeeze(-1)
        return logits

    def of_drawings(
        self,
        strokes: Float[Tensor, "batch steps numbers"],
        wanted: Bool[Tensor, "batch steps"] | None = None,
    ) -> tuple[Float[Tensor, "batch steps"], Float[Tensor, "batch steps"]]:
        """Logits of ``on_t``, and log p of the numbers of strokes, given the strokes before.

        Args:
            wanted: strokes whose log p is wanted, if not that of all; that of others is 0.
        """
        given = self.conditions(strokes[:, :-1])
        logits = self.stop_logits(given)
        # The first stroke's chain, where there is one, sees all drawings at once, wanted or not.
        rest = slice(None) if self.first is None else slice(1, None)
        if wanted is None:
            log_p = self.chain.log_prob(given[:, rest], strokes[:, rest])
        else:
            some = wanted[:, rest]
            found = self.chain.log_prob(given[:, rest][some], strokes[:, rest][some])
            log_p = torch.zeros_like(logits[:, rest]).masked_scatter(some, found)
        if self.first is None:
            return logits, log_p
        of_first = self.first.log_prob(given[:, 0, :WIDTH], strokes[:, 0])
        if wanted is not None:
            of_first = of_first.masked_fill(~wanted[:, 0], 0.0)
        return logits, torch.cat([of_first[:, None], log_p], dim=1)
