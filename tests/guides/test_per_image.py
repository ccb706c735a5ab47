"""The guide without amortisation."""

from __future__ import annotations

import torch
from torch import Tensor

from dood_pyro.guides import check_guide
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.inference.importance import bound_of
from dood_pyro.inference.search.per_image import PerImageGuide
from dood_pyro.models.dood import DooD


def test_it_learns_to_explain_images_that_its_start_knows_nothing_of(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    bounds = []
    for steps, starts in ((0, 1), (80, 1), (80, 3)):
        torch.manual_seed(0)
        per_image = PerImageGuide(model, guide, steps=steps, starts=starts, learning_rate=1.0)
        bounds.append(bound_of(model, per_image, images, particles=20).elbo)
    assert bounds[1].mean() > bounds[0].mean() + 20
    assert bounds[2].mean() > bounds[1].mean()
    check_guide(model, PerImageGuide(model, guide, steps=1))
