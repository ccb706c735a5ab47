"""The joint fit: its gradient against finite differences, and what it recovers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from dood_pyro.inference.ink import fit
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen, resample

WAVE = np.stack([np.linspace(20, 180, 90), 60 + 25 * np.sin(np.linspace(0, 7, 90))], -1)
BENT = np.array([[30.0, 120], [100, 180], [160, 110]])


def joint(strokes: list[tuple[Polyline, list[int]]], picture: np.ndarray) -> fit._JointFit:
    knots = [fit.chain_knots(line, corners, 4.0) for line, corners in strokes]
    curves = fit._curves(knots)
    made = fit._JointFit(
        picture, curves, np.concatenate([each.values for each in knots]), np.full(len(knots), 4.0)
    )
    made._choose_pixels()
    return made


@pytest.mark.parametrize(("swelling", "rel"), [(0.0, 2e-3), (0.3, 1e-2)])
def test_the_gradient_is_the_costs(swelling: float, rel: float) -> None:
    lines = [(resample(WAVE), []), (resample(BENT), [92])]
    picture = draw_with_pen([WAVE + 0.7, BENT - 0.4], (200, 200), 5.0)
    made = joint(lines, picture)
    rng = np.random.default_rng(0)
    start = made.start._replace(swells=swelling * rng.normal(size=len(made.start.swells)))
    state = start.together()
    _, gradient, hessian = made._linearised(state)
    # The place of a curve that a pixel is nearest to is taken as fixed, which curves move.
    for kind, off in (("values", rel), ("widths", 1e-6), ("darknesses", 1e-6), ("swells", 1e-6)):
        for _ in range(3):
            some = rng.normal(size=getattr(start, kind).shape)
            moved = start._replace(**{kind: getattr(start, kind) + some}).together()
            change = (moved - state) / np.linalg.norm(some)
            step = 1e-5
            ahead, behind = (made._linearised(state + s * step * change)[0] for s in (1, -1))
            slope = (ahead - behind) / (2 * step)
            assert gradient @ change == pytest.approx(slope, rel=off, abs=1e-4), kind
            assert change @ (made.system.matrix(hessian) @ change) > 0


def test_a_chain_along_a_line_is_smooth_but_for_corners() -> None:
    line = resample(BENT)
    corner = int(np.hypot(*(line - BENT[1]).T).argmin())
    for corners, most in (([corner], 0.3), ([], 3.0)):
        knots = fit.chain_knots(line, corners, 4.0)
        control = (knots.table @ knots.values).reshape(-1, 4, 2)
        points = fit.Chain(control, 4.0, 1.0).polyline(200)
        assert cKDTree(points).query(line)[0].max() < most
        assert np.allclose(control[1:, 0], control[:-1, 3])
        before, after = control[:-1, 3] - control[:-1, 2], control[1:, 1] - control[1:, 0]
        cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        sharp = np.abs(cross) > 0.1 * np.hypot(*before.T) * np.hypot(*after.T)
        assert sharp.sum() == len(corners)


@pytest.mark.parametrize(("width", "darkness"), [(2.0, 1.0), (5.0, 0.5), (12.0, 1.0)])
def test_curves_widths_and_darkness_are_recovered(width: float, darkness: float) -> None:
    picture = darkness * draw_with_pen([WAVE, BENT], (200, 200), width)
    lines = [
        (resample(WAVE) + np.array([0.8, -0.7]), []),
        (resample(BENT) + np.array([-0.6, 0.6]), [92]),
    ]
    found = fit.fit_chains(picture, lines, 0.8 * width, steps=12)
    for chain, true in zip(found.chains, (WAVE, BENT), strict=True):
        assert chain.width == pytest.approx(width, rel=0.06)
        assert chain.darkness == pytest.approx(darkness, abs=0.03)
        distance = cKDTree(resample(true, 0.2)).query(chain.polyline())[0]
        assert distance.mean() < 0.12
    before = fit.fit_chains(picture, lines, 0.8 * width, steps=0)
    assert found.misfit < 0.3 * before.misfit


def test_ink_that_no_stroke_explains_pulls_at_none() -> None:
    picture = draw_with_pen([WAVE], (200, 200), 4.0)
    alone = fit.fit_chains(picture, [(resample(WAVE) + 0.5, [])], 4.0)
    beside = picture.copy()
    beside[130:190, 20:180] = 1
    found = fit.fit_chains(beside, [(resample(WAVE) + 0.5, [])], 4.0)
    assert np.allclose(found.chains[0].control, alone.chains[0].control, atol=1e-6)
    assert found.misfit == pytest.approx(alone.misfit + 60 * 160, rel=1e-3)


def test_dots_and_nothing() -> None:
    dot = np.array([[50.0, 50.0], [50.001, 50.001]])
    (chain,) = fit.fit_chains(draw_with_pen([dot], (100, 100), 7.0), [(dot, [])], 5.0).chains
    assert chain.width == pytest.approx(7, abs=0.8)
    assert np.abs(chain.polyline() - 50).max() < 1.5
    assert fit.fit_chains(np.zeros((9, 9)), [], 2.0).chains == []
