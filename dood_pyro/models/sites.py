"""Names of the programs' Pyro sites: the one place that knows their grammar.
Used by models, guides, inference and estimators.

For t = 1…K a program has ``on_t``, latent variables of its own (``layout_t``, ``stroke_t``…) and the
deterministic ``canvas_t``; all in the plate ``images``. Last comes the observed ``image``. Estimators
put a plate ``particles`` around that of the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dood_pyro.geometry import LAYOUT_NAMES, PEN_NAMES

IMAGE = "image"
"""The observed picture."""
IMAGES = "images"
"""The plate of the batch."""
PARTICLES = "particles"
"""The plate of several samples per image."""


class Site(NamedTuple):
    """A name taken apart."""

    kind: str
    """``"on"``, ``"layout"``, ``"canvas"``…"""
    step: int
    """t, from 1."""


def site_name(kind: str, step: int) -> str:
    """``kind_step``."""
    return f"{kind}_{step}"


def on_site(step: int) -> str:
    """Name of the site of o_t, the Bernoulli variable of whether step t draws."""
    return site_name("on", step)


def canvas_site(step: int) -> str:
    """Name of the deterministic site of the canvas after step t."""
    return site_name("canvas", step)


def parse_site(name: str) -> Site | None:
    """Kind and step of a site; None for sites that belong to no step."""
    kind, _, number = name.rpartition("_")
    return Site(kind, int(number)) if kind and number.isdecimal() else None


def is_on(name: str) -> bool:
    """Whether a site is some step's ``on_t``."""
    site = parse_site(name)
    return site is not None and site.kind == "on"


def latent_sites(names: Iterable[str], step: int | None = None) -> Iterator[tuple[str, Site]]:
    """The names among ``names`` of steps' latent variables other than ``on_t``, and their parts.

    Args:
        step: only those of this step.
    """
    for name in names:
        site = parse_site(name)
        if site is not None and site.kind not in ("on", "canvas") and step in (None, site.step):
            yield name, site


def value_names(kind: str, size: int) -> list[str]:
    """Names of the ``size`` numbers of a site of a kind, for tables."""
    if kind == "stroke":
        return [f"control point {place // 2 + 1} {'xy'[place % 2]}" for place in range(size)]
    known = {"layout": LAYOUT_NAMES, "pen": PEN_NAMES}.get(kind, range(1, size + 1))
    return [f"{kind} {name}" for name in known[:size]]
