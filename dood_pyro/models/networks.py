"""The networks that parameterise the conditionals: encoders, glimpses, heads.
Used by every model and by trainable guides.

Each takes any leading batch dimensions; nothing here knows about Pyro sites.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def glimpse(
    image: Float[Tensor, "*batch height width"],
    matrix: Float[Tensor, "*batch 2 3"],
    size: int,
) -> Float[Tensor, "*batch size size"]:
    """Glimpse x̃ = STN(l, x): the part of ``image`` in the frame that ``matrix`` places on it (section
    2.1).

    ``matrix`` maps the glimpse's frame [−1, 1]² to the canvas, the same way round as for a
    stroke's control points; outside the image there is black. The arguments' batch dimensions
    broadcast.
    """
    batch = torch.broadcast_shapes(image.shape[:-2], matrix.shape[:-2])
    flat = image.expand(*batch, *image.shape[-2:]).reshape(-1, 1, *image.shape[-2:])
    grid = F.affine_grid(
        matrix.expand(*batch, 2, 3).reshape(-1, 2, 3), [flat.shape[0], 1, size, size], False
    )
    return F.grid_sample(flat, grid, align_corners=False).reshape(*batch, size, size)


class PatchConv2d(nn.Conv2d):
    """A convolution whose kernel is a whole number of strides wide, with a faster gradient on a CPU.

    Where the gradient of what goes in is wanted, each patch of stride × stride pixels becomes one
    pixel of as many channels, over which the kernel has a stride of 1: the same sums, and for a
    picture of one channel half the time of the backward pass.
    """

    def forward(
        self, picture: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch maps rows columns"]:
        if not picture.requires_grad:
            return super().forward(picture)
        stride, pad = int(self.stride[0]), int(self.padding[0])
        height, width = ((side + 2 * pad) // stride * stride for side in picture.shape[-2:])
        padded = F.pad(picture, (pad, pad, pad, pad))[..., :height, :width]
        weight = F.pixel_unshuffle(self.weight, stride)
        return F.conv2d(F.pixel_unshuffle(padded, stride), weight, self.bias)


class ImageEncoder(nn.Module):
    """Convolutional encoder: a picture (*batch, channels, size, size) to features (*batch, features).

    ``stride`` is that of the first convolution; 4 halves the cost of a training step on a CPU
    against 2 and loses nothing per step on whole canvases. ``maps`` is the number of its channels.
    """

    def __init__(
        self, size: int, features: int, channels: int = 1, stride: int = 2, maps: int = 32
    ) -> None:
        super().__init__()
        self.channels = channels
        first = PatchConv2d if (stride + 2) % stride == 0 else nn.Conv2d
        self.convolutions = nn.Sequential(
            first(channels, maps, stride + 2, stride, padding=1),
            nn.ReLU(),
            nn.Conv2d(maps, 2 * maps, 3, 2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, size, size)).shape[-1]
        self.project = nn.Linear(flat, features)

    def forward(
        self, picture: Float[Tensor, "*batch channels size size"]
    ) -> Float[Tensor, "*batch features"]:
        batch = picture.shape[:-3]
        hidden = self.convolutions(picture.reshape(-1, *picture.shape[-3:]))
        return F.relu(self.project(hidden)).reshape(*batch, -1)


class PatchDecoder(nn.Module):
    """Decoder of a part's latent vector to the ink, ≥ 0, in its frame: (*batch, size, size).

    It takes the renderer's place in DooD−δR and in AIR (section 3.1).
    """

    def __init__(self, dims: int, hidden: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(
            nn.Linear(dims, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.out = nn.Linear(hidden, size * size)
        with torch.no_grad():
            # Faint at first: six dark squares are a poor place to start from.
            self.out.bias.fill_(-2.0)

    def forward(self, part: Float[Tensor, "*batch dims"]) -> Float[Tensor, "*batch size size"]:
        ink = F.softplus(self.out(self.layers(part)))
        return ink.unflatten(-1, (self.size, self.size))


def concatenate(*parts: Float[Tensor, "*batch _"]) -> Float[Tensor, "*batch _"]:
    """Concatenate features; batch dimensions broadcast."""
    batches = {part.shape[:-1] for part in parts}
    if len(batches) > 1:  # rarely; and working out their common shape takes longer than joining
        batch = torch.broadcast_shapes(*batches)
        parts = tuple(part.expand(*batch, part.shape[-1]) for part in parts)
    return torch.cat(parts, dim=-1)


def gru_step(
    rnn: nn.GRUCell,
    inputs: Float[Tensor, "*batch inputs"],
    hidden: Float[Tensor, "*batch features"],
) -> Float[Tensor, "*batch features"]:
    """The RNN's next state; ``hidden``'s batch dimensions are broadcast to those of ``inputs``."""
    batch = inputs.shape[:-1]
    flat = hidden.expand(*batch, -1).reshape(-1, hidden.shape[-1])
    return rnn(inputs.reshape(-1, inputs.shape[-1]), flat).reshape(*batch, -1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class IntervalTransform(nn.Module):
    """Sigmoid from unbounded network outputs to the interval in which a variable's mean makes sense."""

    low: Tensor
    high: Tensor

    def __init__(self, low: list[float], high: list[float]) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)

    def forward(self, raw: Float[Tensor, "*batch dims"]) -> Float[Tensor, "*batch dims"]:
        return self.low + (self.high - self.low) * torch.sigmoid(raw)

    def inverse(self, value: Float[Tensor, "*batch dims"]) -> Float[Tensor, "*batch dims"]:
        """The input that `forward` maps to ``value``, or to the nearest value well inside the range."""
        share = (value - self.low) / (self.high - self.low)
        return torch.logit(share, eps=0.02)


def softplus_std(raw: Tensor, least: float, initial: float) -> Tensor:
    """A standard deviation above ``least`` that starts at ``initial`` where ``raw`` is 0."""
    offset = math.log(math.expm1(initial - least))
    return least + F.softplus(raw + offset)


class MixtureHead(nn.Module):
    """Hidden features to the parameters of independent mixtures of diagonal Gaussians.

    ``forward`` returns means and standard deviations (*batch, variables, components, dims) and
    logits (*batch, variables, components) of ``variables`` mixtures over ``dims`` dimensions,
    the means squashed into ``squash``'s range.
    """

    MIN_STD = 0.01

    def __init__(
        self,
        inputs: int,
        hidden: int,
        variables: int,
        components: int,
        squash: IntervalTransform,
        initial_std: float,
    ) -> None:
        super().__init__()
        self.shape = (variables, components, squash.low.shape[-1])
        self.initial_std = initial_std
        self.squash = squash
        dims = squash.low.shape[-1]
        self.layers = mlp(inputs, hidden, variables * components * (2 * dims + 1))
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            # Components that start alike stay alike: spread their means over the range.
            bias = torch.zeros(variables, components, 2 * dims + 1)
            bias[..., :dims] = torch.randn(variables, components, dims)
            last.bias.copy_(bias.flatten())
            last.weight.mul_(0.3)

    def forward(self, hidden: Float[Tensor, "*batch inputs"]) -> tuple[Tensor, Tensor, Tensor]:
        variables, components, dims = self.shape
        raw = self.layers(hidden)
        raw = raw.reshape(*raw.shape[:-1], variables, components, 2 * dims + 1)
        mean = self.squash(raw[..., :dims])
        std = softplus_std(raw[..., dims : 2 * dims], self.MIN_STD, self.initial_std)
        return mean, std, raw[..., -1]


class AutoregressiveHead(nn.Module):
    """Hidden features to mixtures of diagonal Gaussians for points that follow one another.

    Point j's mixture is given the points before it, and its means are displacements from the last
    of them. Called with the points of a stroke it gives all the conditionals at once, as a
    `MixtureHead` does: means and standard deviations (*batch, points, components, 2), logits
    (*batch, points, components).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        points: int,
        components: int,
        squash: IntervalTransform,
        initial_std: float,
    ) -> None:
        super().__init__()
        self.points, self.components = points, components
        self.initial_std = initial_std
        self.squash = squash
        self.condition = nn.Linear(inputs, hidden)
        self.earlier = nn.Linear(2 * points, points * hidden, bias=False)
        self.out = nn.Parameter(torch.randn(points, hidden, 5 * components) * 0.3 / hidden**0.5)
        # Components that start alike stay alike: spread their means over the range.
        bias = torch.zeros(points, components, 5)
        bias[..., :2] = torch.randn(points, components, 2)
        self.out_bias = nn.Parameter(bias.flatten(1))
        sees = torch.ones(points, points).tril(-1)
        mask = sees.repeat_interleave(2, dim=1).repeat_interleave(hidden, dim=0)
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor

    def forward(
        self, features: Float[Tensor, "*batch inputs"], points: Float[Tensor, "*batch points 2"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The conditionals of ``points``: of each, given those before it and ``features``."""
        earlier = F.linear(points.flatten(-2), self.earlier.weight * self.mask)
        condition = self.condition(features)[..., None, :]
        hidden = F.relu(condition + earlier.unflatten(-1, (self.points, -1)))
        raw = torch.einsum("...ph,pho->...po", hidden, self.out) + self.out_bias
        raw = raw.unflatten(-1, (self.components, 5))
        last = F.pad(points, (0, 0, 1, -1))
        mean = self.squash(self.squash.inverse(last)[..., None, :] + raw[..., :2])
        std = softplus_std(raw[..., 2:4], MixtureHead.MIN_STD, self.initial_std)
        return mean, std, raw[..., -1]
