"""The networks' building blocks, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dood_pyro.models.networks import PatchConv2d


@pytest.mark.parametrize(("size", "kernel", "stride"), [(24, 4, 2), (25, 4, 2), (18, 3, 3)])
def test_convolution_over_patches_is_a_convolution(size: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    convolution = PatchConv2d(2, 3, kernel, stride, padding=1).double()
    picture = torch.randn(2, 2, size, size + 1, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(picture, convolution.weight, convolution.bias, stride, 1)
    weights = (convolution.weight, convolution.bias, picture)
    torch.testing.assert_close(convolution(picture), plain)
    gradient = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(convolution(picture), weights, gradient),
        torch.autograd.grad(plain, weights, gradient),
    )
    torch.testing.assert_close(convolution(picture.detach()), plain)
