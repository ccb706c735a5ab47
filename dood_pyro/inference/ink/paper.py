"""Ink apart from its paper: how much ink lies at each pixel of a picture as people have them.
`dood_pyro.inference.ink.parse_ink` looks at pictures through it.

The paper is the colour that most of a picture has; where light or shadow change it, a slow surface
through most of each neighbourhood. Ink is what differs from it, in brightness or colour, relative to
the strongest ink. Frames of scans, ruled lines, specks and the paper's noise are taken for what they
are; a picture of a drawing on a clean ground passes unchanged but for the scale of its ink.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.special import ndtri

from .blocks import enlarged, shrunk
from .pens import InkColours, ink_colours
from .sheet import find_sheet

Picture = Float[np.ndarray, "height width"]
Colours = Float[np.ndarray, "height width channels"]
Polarity = Literal["auto", "bright-ink", "dark-ink"]
Paper = Literal["auto", "flat"]

ONE_COLOUR = 0.03
"""Difference from the paper's colour up to which a pixel of plain paper may be off."""
PLAIN_SHARE = 0.5
"""Share of pixels of the paper's colour from which it is plain."""
COARSE = 48
"""Pixels of the longer side at which the light on the paper is estimated."""
NEIGHBOURHOOD = 0.3
"""Side of the neighbourhood that tells the paper's brightness, as a share of the picture's."""
LEAST_INK = 0.12
"""Least strength of ink, as a share of the strongest."""
NOISE_FACTOR = 6.0
"""Least strength of ink, in standard deviations of the paper."""
LEAST_ON_SHEET = 0.08
"""Least strength of ink on a sheet in a photograph, below which are the traces of its compression."""
NOISELESS = 0.01
"""Standard deviation of the paper, relative to its light, up to which a plain ground is clean."""
NOISE_STEPS = 15.0
"""Most that noise is, in the differences of neighbouring pixels (their third quartile)."""
DROWNED = 0.04
"""Least noise of a picture that was blurred, in the strength of its ink."""
BLURS = (0.0, 1.0, 2.0)
"""Standard deviations, pixels, of the blurs that are tried until ink stands out from noise."""
SPECK = 0.3
"""Area up to which a piece of ink is a speck, squared pen widths."""
SPECKLED = 0.002
"""Share of a picture's pixels that differ from all around them, from which it is speckled."""
MEASURED_SIDE = 1200
"""Longer side, pixels, up to which the width of a thin pen is measured closely."""
MEASURED_PIXELS = 1_000_000
"""Number of pixels, about, by which the paper's noise is measured."""
COARSE_SIDE = 120
"""Longer side, pixels, up to which a picture's lines may be hardly a pixel wide."""
COARSE_WIDTH = 1.6
"""Width of the pen, pixels, below which they are."""
COARSE_REACH = 1.5
"""Distance in which coarse ink is compared, pixels."""
COARSE_LEAST = 0.15
"""Least strength of coarse ink."""
FRAME_DEPTH = 0.2
"""Depth that a scan's frame may have, as a share of the side."""
FRAME_CONTRAST, FRAME_SHARE = 0.3, 0.85
"""Difference from the paper of a frame's pixels, and their share of a line that belongs to it."""
FRAME_EDGE = 0.15
"""Least difference across a frame's inner edge; where there is less, light falls off."""
FRAME_LEAST = (5, 0.025)
"""Least depth of a frame: pixels, and share of the side; what is thinner may be a pen's line."""
FRAME_WIDTHS = 2.0
"""Least depth of a frame in widths of the pen within it; what is thinner may be of that pen."""
FRAME_JOINED = 0.5
"""Share of the ink within a frame that may touch it; where more does, it is of the drawing."""
SHADOW_SIDE = 0.04
"""Side of the squares that a shadow has and a pen's line has not, as a share of the picture's."""
SHADOW_BLOCKS = 8
"""Blocks that such a square is looked at by, per side."""
SHADOW_LEAST = 0.04
"""Least darkness of a shadow."""
SHADOW_MOST = 0.6
"""Most of it, in the strength of the ink."""
SHADOW_AREA, SHADOW_BROAD = 0.1, 3
"""Least share of the picture of a shadow that does not come in from its border, and the side of the
largest square in it, in that of those squares."""
LIT_SHARE = 0.05
"""Least share of the picture of lit paper beside a larger part in shadow."""
MOSTLY_PAPER = 0.9
"""Share of pixels of the commonest colour from which what else there is is ink, dark or bright."""
FLAT_WIDTH, FLAT_RATIO = 0.05, 4.0
"""Width of a pen, as a share of the longer side, from which ink may be flat colour between lines; and
how many times as wide it is as those lines' pen then, and as large in area."""
GRAIN_BLURS = (1.0, 2.0, 3.0)
"""Standard deviations, pixels, of the blurs that are tried until lines are whole."""
GRAINS, GRAINY = 10, 0.03
"""Number of holes beyond which ink is grainy: in all, and for each of its pens side by side."""
GRAIN_PEN = 3.0
"""Width of a pen, pixels, whose square is the least area up to which holes are grains."""
RULES = 3
"""Least number of ruled lines."""
RULE_STRENGTH = 0.6
"""Most strength of ruled lines on a clean ground, in that of the ink between them."""
RULE_SLOPE = 0.06
"""Most slope of ruled lines, rows per column: of a sheet that lies tilted."""
RULE_SIDE = 200
"""Least side, pixels, of pictures in which rules may slope."""
RULE_LONGEST = 2000
"""Longest side, pixels, that the slope is found on."""
RULE_COLUMNS = 128
"""Columns by which the slope is found."""
RULE_GAIN = 1.2
"""How many times as much means along rows change at the slope of rules, beside level ones."""


class Ink(NamedTuple):
    """Ink of a picture, its paper taken away."""

    strength: Picture
    """In [0, 1]; 1 is the strongest ink, noise of the paper may be left."""
    threshold: float
    """Strength from which a pixel counts as ink."""
    width: float
    """Width of the pen, roughly, pixels; 0 where there is no ink."""
    colours: InkColours | None = None
    """Where there are several: the picture's, beside those of its paper."""
    coarse: bool = False
    """Whether lines are hardly wider than a pixel: then how dark one is depends on its place between
    the pixels, and ink is what `above_half_of_near` says."""

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        """Where there is ink."""
        return self.strength > self.threshold


def find_ink(
    colours: Colours,
    alpha: Picture | None = None,
    polarity: Polarity = "auto",
    paper: Paper = "auto",
) -> Ink:
    """Ink of a picture.

    Args:
        colours: in [0, 1], one channel or three.
        alpha: opacity in [0, 1]; None where all is opaque.
        polarity: whether ink is darker or brighter than its paper; ``"auto"`` to judge.
        paper: ``"flat"`` for one colour of paper over all of the picture, with nothing taken away.
    """
    if alpha is not None and float(alpha.min()) < 1:
        colours, given = _without_alpha(colours, alpha)
        if given is not None:
            return _measured(given, 0.0, clean=True, mend=paper == "auto")
    ink = _ink_of(colours, polarity, paper)
    return ink._replace(colours=ink_colours(colours, ink.mask))


def _ink_of(colours: Colours, polarity: Polarity, paper: Paper) -> Ink:
    """Ink of an opaque picture, as `find_ink`."""
    if paper == "flat":
        strength, plain = _difference(colours, polarity, paper)
        return _measured(strength, 0.0, plain, mend=False)
    bright = polarity == "bright-ink"
    if (sheet := find_sheet(1 - colours if bright else colours)) is not None:
        paper_alone = 1 - sheet.colours if bright else sheet.colours
        ink = _ink_on_paper(paper_alone, polarity, sheet.there)
        strength = np.zeros(colours.shape[:2], ink.strength.dtype)
        strength[sheet.box] = np.where(sheet.edges(ink.mask), 0, ink.strength)
        return ink._replace(strength=strength)
    unframed = _without_frame(colours)
    ink = _ink_on_paper(unframed, polarity)
    broad = ink.width > FLAT_WIDTH * max(ink.strength.shape)
    if broad and polarity == "auto" and colours.shape[-1] == 3:
        # Flat colours within black outlines, as of cartoons: less dark than the lines, they go as a
        # shadow does where dark ink alone is looked for.
        lines = _ink_on_paper(unframed, "dark-ink")
        outlines = 0 < lines.width < ink.width / FLAT_RATIO
        if outlines and lines.mask.mean() < ink.mask.mean() / FLAT_RATIO:
            return lines
    return ink


def _ink_on_paper(
    colours: Colours, polarity: Polarity, there: Bool[np.ndarray, "height width"] | None = None
) -> Ink:
    """Ink of a picture of paper.

    Args:
        there: where the paper is itself, not what was put in its place; None for everywhere.
    """
    signed = polarity != "auto" or colours.shape[-1] == 1
    for blur in BLURS:
        blurred = ndimage.gaussian_filter(colours, (blur, blur, 0)) if blur else colours
        strength, plain = _difference(blurred, polarity, "auto")
        strength = _without_rules(_without_shadows(strength), plain)
        noise, peak = _noise(strength, signed, there), _peak(strength)
        if there is not None and peak < LEAST_ON_SHEET:
            return Ink(np.zeros_like(strength), 0.5, 0.0)
        if NOISE_FACTOR * noise < 0.5 * peak:
            break
    else:
        return Ink(np.zeros_like(strength), 0.5, 0.0)  # a blank sheet
    if blur:  # what light does to the paper is drowned as well, and is as strong as faint ink
        noise = max(noise, DROWNED * peak)
    clean = plain and blur == 0 and noise < NOISELESS
    ink = _measured(strength, noise, clean, mend=True)
    for grain in GRAIN_BLURS:
        if not _is_grainy(ink):
            break
        ink = _measured(ndimage.gaussian_filter(strength, grain), noise, False, mend=True)
    return ink


def _is_grainy(ink: Ink) -> bool:
    """Whether lines are full of holes far smaller than what pens draw around, as chalk's are."""
    if max(ink.strength.shape) <= COARSE_SIDE:
        return False
    mask, pen = ink.mask, max(ink.width, GRAIN_PEN) ** 2
    holes = int(ndimage.label(specks(~mask, pen))[1])
    return holes > max(GRAINS, GRAINY * float(mask.sum()) / pen)


def _without_alpha(colours: Colours, alpha: Picture) -> tuple[Colours, Picture | None]:
    """Colours on opaque paper; or, where ink of one colour lies on nothing, the opacity as ink."""
    if float(alpha.max()) <= 0:
        return np.ones_like(colours), None  # nothing to be seen
    alpha = alpha / float(alpha.max())
    border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    opaque = colours[alpha > 0.5]
    if float(np.median(border)) > 0.5:
        # A page with holes: what most of it has goes on through them.
        ground = _commonest(opaque[None])[0]
    elif float(opaque.std(0).max()) < 0.1:
        return colours, alpha
    else:  # several colours on nothing: on the paper that they stand out from
        ground = np.full(colours.shape[-1], float(opaque.mean() < 0.5))
    return colours * alpha[..., None] + ground * (1 - alpha[..., None]), None


def _difference(colours: Colours, polarity: Polarity, paper: Paper) -> tuple[Picture, bool]:
    """Difference from the paper, scaled, and whether the paper is plain."""
    colour, share = _commonest(colours)
    away = np.abs(colours - colour).max(-1)
    plain = share >= PLAIN_SHARE and float((away < ONE_COLOUR).mean()) >= PLAIN_SHARE
    brightness = colours.mean(-1)
    if polarity != "auto":
        dark = polarity == "dark-ink"
    elif plain:
        dark = float(brightness.mean()) <= float(colour.mean())
        if not dark and share < MOSTLY_PAPER and _ink_is_dark(brightness):
            dark, colour = True, _lit_paper(colours, colour)
    else:
        dark = _ink_is_dark(brightness)
    if paper == "flat" or plain:
        ground = np.broadcast_to(colour, colours.shape)
        if paper == "flat" and polarity != "auto":  # the extreme on the paper's side
            ground = np.full_like(colours, 1.0 if dark else 0.0)
    else:
        ground = _light(colours, dark)
    # Light multiplies what paper and ink reflect: ink is what is missing of the paper's light.
    change = ground - colours if dark else colours - ground
    span = np.maximum(ground if dark else 1 - ground, 0.1)
    relative = change / span
    if polarity == "auto" and colours.shape[-1] == 3:
        # A colour may be as bright as its paper: every channel counts, whichever way it goes.
        strength = np.sqrt(np.square(relative).mean(-1))
    else:
        strength = relative.mean(-1)
    return strength.clip(0, None).astype(np.float32), plain


def _lit_paper(colours: Colours, shaded: np.ndarray) -> np.ndarray:
    """Colour of the paper where most of it may lie in shadow: of the brighter part, if that is broad.

    Args:
        shaded: the commonest colour.
    """
    brighter = shrunk((colours - shaded).min(-1), round(SHADOW_BLOCKS / SHADOW_SIDE))
    square = (SHADOW_BLOCKS, SHADOW_BLOCKS)
    lit = ndimage.grey_opening(brighter, square, mode="nearest") > ONE_COLOUR
    if float(lit.mean()) < LIT_SHARE:
        return shaded
    return _commonest(colours[enlarged(lit.astype(float), colours.shape[:2]) > 0.5][None])[0]


def _commonest(colours: Colours) -> tuple[np.ndarray, float]:
    """The commonest colour, and the share of pixels near it."""
    flat = colours.reshape(-1, colours.shape[-1])
    if len(flat) > 400_000:
        flat = flat[:: len(flat) // 200_000]
    bins = np.floor(flat * 31.999).astype(np.int64)
    code = bins @ (32 ** np.arange(flat.shape[-1]))
    values, counts = np.unique(code, return_counts=True)
    near = flat[code == values[counts.argmax()]]
    colour = np.median(near, axis=0)
    for _ in range(2):  # noise may be wider than a bin
        around = np.abs(flat - colour).max(-1) < 2 * ONE_COLOUR
        colour = np.median(flat[around], axis=0)
    return colour, float((np.abs(flat - colour).max(-1) < 2 * ONE_COLOUR).mean())


def _ink_is_dark(brightness: Picture) -> bool:
    """Whether what departs from the local brightness is mostly darker."""
    small, coarse = shrunk(brightness, 4 * COARSE), shrunk(brightness, COARSE)
    size = max(3, int(NEIGHBOURHOOD * max(coarse.shape)))
    ground = enlarged(ndimage.median_filter(coarse, size), small.shape)
    return float(((small - ground) ** 3).sum()) <= 0


def _light(colours: Colours, dark: bool) -> Colours:
    """The paper's colour everywhere: what most of each neighbourhood has."""
    shape = colours.shape[:2]
    channels = []
    for channel in np.moveaxis(colours, -1, 0):
        small = shrunk(channel, COARSE)
        size = max(3, int(NEIGHBOURHOOD * max(small.shape)) | 1)
        ground = ndimage.median_filter(small, size)
        # Ink near half of a neighbourhood draws the median with it; what is on the ink's side of the
        # median is left out, and the rest averaged.
        off = small < ground - 0.04 if dark else small > ground + 0.04
        kept = (~off).astype(float)
        weight = ndimage.gaussian_filter(kept, size / 6)
        filled = ndimage.gaussian_filter(kept * small, size / 6) / np.maximum(weight, 1e-3)
        channels.append(enlarged(np.where(weight > 0.05, filled, ground), shape))
    return np.stack(channels, axis=-1)


def _without_frame(colours: Colours) -> Colours:
    """A picture without the dark or bright frame that a scan may have: paper goes on beneath it."""
    height, width = colours.shape[:2]
    paper, share = _commonest(colours)
    if share < PLAIN_SHARE:
        middle = colours[height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None]
        paper = np.median(middle, axis=(0, 1))
    solid = np.abs(colours - paper).max(-1) > FRAME_CONTRAST
    sides = []
    for axis, depth in ((0, height), (1, width)):
        lines = solid.mean(1 - axis)
        most = int(FRAME_DEPTH * depth)
        for order in (1, -1):
            full = lines[::order][:most] > FRAME_SHARE
            if not full[:1].any() or full.all():
                continue
            end = int(np.argmin(full))
            if end < max(FRAME_LEAST[0], FRAME_LEAST[1] * depth):
                continue  # a pen's line along the border
            if _edge_at(np.moveaxis(colours, axis, 0)[::order], end) < FRAME_EDGE:
                continue  # light that falls off
            sides.append((axis, order, end))
    if not sides or _are_drawn(solid, sides):
        return colours
    result = colours.copy()
    for axis, order, end in sides:
        view = np.moveaxis(result, axis, 0)[::order]
        deep = end + 2  # its blurred edge goes with it
        view[:deep] = paper if deep >= len(view) else view[deep]
    return result


def _edge_at(lines: Colours, end: int) -> float:
    """How much colours change, at most places, from before a line to after it."""
    reach = max(3, end // 8)
    before, after = lines[max(0, end - reach)], lines[min(len(lines) - 1, end + reach)]
    return float(np.median(np.abs(before - after).max(-1)))


def _are_drawn(solid: Bool[np.ndarray, "height width"], sides: list[tuple[int, int, int]]) -> bool:
    """Whether what looks like a frame is of the drawing, cropped to its ink: nothing else is there, it
    is no thicker than the pen within, or the ink within is mostly joined to it.

    Args:
        sides: axis, direction and depth of each.
    """
    inside = solid.copy()
    for axis, order, end in sides:
        np.moveaxis(inside, axis, 0)[::order][: end + 2] = False
    if not inside.any():
        return True
    if min(end for *_, end in sides) < FRAME_WIDTHS * rough_width(inside):
        return True
    pieces, _ = ndimage.label(solid, np.ones((3, 3)))
    touching = np.unique(pieces[solid & ~inside])
    return float(np.isin(pieces[inside], touching).mean()) > FRAME_JOINED


def _without_shadows(strength: Picture) -> Picture:
    """A picture without shadows whose edges the slow surface cannot follow: what is dark over more than
    a pen's width, fainter than the ink, and comes in from the border or is large."""
    if max(strength.shape) <= COARSE_SIDE:
        return strength
    small = shrunk(strength, round(SHADOW_BLOCKS / SHADOW_SIDE))
    # Dark all over a square: a grey opening.
    square = (SHADOW_BLOCKS, SHADOW_BLOCKS)
    dark = ndimage.grey_opening(small, square, mode="nearest")
    most = SHADOW_MOST * _peak((small - dark) / (1 - dark.clip(0, 0.9)))
    pieces, count = ndimage.label(dark > SHADOW_LEAST)
    if not count:
        return strength
    # One that comes from no border is broad somewhere; ink that is merely dense, or blurred, is not.
    broad = np.full((SHADOW_BROAD * SHADOW_BLOCKS,) * 2, True)
    deep = np.unique(pieces[ndimage.binary_erosion(dark > SHADOW_LEAST, broad, border_value=1)])
    at_border = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    shadows = [
        piece
        for piece in range(1, count + 1)
        if (piece in at_border or (piece in deep and float((pieces == piece).mean()) > SHADOW_AREA))
        and float(np.quantile(dark[pieces == piece], 0.9)) < most
    ]
    if not shadows:
        return strength
    # Beneath what is solid and as dark as ink a shadow is as dark as around it.
    solid = ndimage.binary_dilation(dark > most, iterations=SHADOW_BLOCKS)
    if solid.any() and not solid.all():
        rows, columns = ndimage.distance_transform_edt(
            solid, return_distances=False, return_indices=True
        )
        dark = dark[rows, columns]
    shadow = enlarged(np.where(np.isin(pieces, shadows), dark, 0.0), strength.shape)
    # Ink takes away a share of the light that is left.
    return ((strength - shadow) / (1 - shadow.clip(0, 0.9))).clip(0, None)


def _without_rules(strength: Picture, plain: bool) -> Picture:
    """A picture without the lines of ruled or squared paper.

    Args:
        plain: whether the ground is of one colour: then lines as strong as the ink are drawn.
    """
    result = strength
    peak = _peak(strength)
    for axis in (1, 0):
        lines = np.moveaxis(result, axis, 1)
        slope = _slope_of_rules(lines)
        if slope:
            lines = _sheared(lines, slope)
        level = np.quantile(lines, 0.2, axis=1)
        # From one edge of the paper to the other, which pen strokes seldom are.
        edge = max(2, lines.shape[1] // 25)
        ends = np.minimum(lines[:, :edge].mean(1), lines[:, -edge:].mean(1))
        ruled = (level > max(0.05 * peak, 4 * float(np.median(level)) + 0.02)) & (
            ends > 0.5 * level
        )
        count = int(ndimage.label(ruled)[1])
        if count < RULES or ruled.mean() > 0.5:
            continue
        taken = np.where(ruled, level, 0)
        # A high quantile: squared paper has its other lines, too, between these.
        if plain and float(taken.max()) > RULE_STRENGTH * float(np.quantile(lines[~ruled], 0.995)):
            continue
        # Ink lets through a share of the rule's light, as of the paper's.
        light = 1 - taken.clip(0, 0.9)[:, None]
        if slope:
            light = _sheared(np.broadcast_to(light, lines.shape), -slope)
        result = (1 - (1 - result) / np.moveaxis(light, 1, axis)).clip(0, None)
    return result


def _slope_of_rules(lines: Picture) -> float:
    """Slope of ruled lines, rows per column: of those up to `RULE_SLOPE` that by which means along rows
    change the most from row to row; 0 where it is none that changes them far more."""
    if min(lines.shape) < RULE_SIDE:
        return 0.0
    lines = shrunk(lines, RULE_LONGEST)
    height, width = lines.shape
    columns = np.linspace(0, width - 1, RULE_COLUMNS).round().astype(int)
    some, rows = lines[:, columns].T, np.arange(height)
    away = columns - columns.mean()

    def change(slope: float) -> float:
        place = rows + np.round(slope * away)[:, None].astype(int)
        means = np.take_along_axis(some, place.clip(0, height - 1), axis=1).mean(0)
        return float(np.square(np.diff(means)).sum())

    coarse, fine = 2 / width, 0.5 / width
    tried = np.arange(-RULE_SLOPE, RULE_SLOPE + coarse / 2, coarse)
    best = float(tried[np.argmax([change(slope) for slope in tried])])
    near = best + fine * np.arange(-4, 5)
    values = [change(slope) for slope in near]
    best = float(near[np.argmax(values)])
    return best if max(values) > RULE_GAIN * change(0.0) else 0.0


def _sheared(lines: Picture, slope: float) -> Picture:
    """Rows that rose by a slope, about the middle column, made level."""
    width = lines.shape[1]
    matrix = np.array([[1.0, slope], [0.0, 1.0]])
    moved: Picture = ndimage.affine_transform(
        lines, matrix, (-slope * (width - 1) / 2, 0.0), order=1, mode="nearest"
    )
    return moved


def _noise(
    strength: Picture, signed: bool, there: Bool[np.ndarray, "height width"] | None
) -> float:
    """Standard deviation of the paper, apart from ink.

    Args:
        signed: whether strength is cut off below 0, as half of the noise then is; or an absolute value.
        there: where the paper is.
    """
    if max(strength.shape) <= COARSE_SIDE:
        return 0.0  # edges of ink may be everywhere
    every = slice(None, None, max(1, strength.size // MEASURED_PIXELS))
    strength = strength[every] if there is None else strength[every][there[every]]

    def deviation(values: np.ndarray, share: float) -> float:
        """By the value up to which there is that share of all absolute values."""
        return float(
            np.quantile(values, (1 + share) / 2 if signed else share) / ndtri((1 + share) / 2)
        )

    # From few values, which are the paper's whatever there is of ink, then from all that may be.
    noise = deviation(strength, 0.3)
    for _ in range(4):
        noise = deviation(strength[strength <= 3 * noise], 0.5)
    if noise > (1 if signed else 2) * _peak(strength):
        return 0.0  # half of the picture is ink
    # Such ink is even, too.
    return min(noise, NOISE_STEPS * float(np.quantile(np.abs(np.diff(strength)), 0.75)))


def _peak(strength: Picture) -> float:
    """Strength of the strongest ink that is more than specks."""
    values = strength[strength > 0.25 * float(strength.max())]
    return float(np.quantile(values, 0.8)) if values.size else 0.0


def _measured(strength: Picture, noise: float, clean: bool, mend: bool) -> Ink:
    """Ink scaled to 1, its threshold and the pen's width; without specks, if it is to be mended."""
    peak = _peak(strength)
    if peak <= 1e-6:
        return Ink(np.zeros_like(strength), 0.5, 0.0)
    strength = (strength / peak).clip(0, 1)
    noise /= peak
    strength, speckled = _without_outliers(strength) if mend else (strength, False)
    threshold = _threshold(strength, max(LEAST_INK, NOISE_FACTOR * noise))
    mask = strength > threshold
    width = rough_width(mask, strength)
    if max(strength.shape) <= COARSE_SIDE:
        near = above_half_of_near(strength, 1)
        fine_width = rough_width(near, strength)
        if fine_width < COARSE_WIDTH:
            if mend:
                strength = _without_specks(strength, near, fine_width, not clean)
            return Ink(strength, COARSE_LEAST, fine_width, coarse=True)
    if mend:
        strength = _without_specks(strength, mask, width, speckled or not clean)
    return Ink(strength, threshold, width)


def above_half_of_near(strength: Picture, factor: int) -> Bool[np.ndarray, "height width"]:
    """Where ink is darker than half of the darkest within `COARSE_REACH`.

    Args:
        factor: how many times finer than the picture the pixels are.
    """
    local = ndimage.maximum_filter(strength, 2 * round(COARSE_REACH * factor) + 1)
    return strength > np.maximum(0.5 * local, COARSE_LEAST)


def rough_width(mask: Bool[np.ndarray, "height width"], strength: Picture | None = None) -> float:
    """Width of the pen, roughly: twice how deep the middle of the ink lies, in the median, so that
    scribbled patches do not count.

    Args:
        strength: of the ink, which tells more about a pen of a few pixels.
    """
    if not mask.any():
        return 0.0
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))
    ridge = depth[(depth > 0) & (depth == ndimage.maximum_filter(depth, 3))]
    # Half a pixel: a middle between two pixels is as deep as one on a pixel of a narrower pen.
    width = max(1.0, 2 * float(np.median(ridge)) - 0.5)
    if strength is None or width > 4 or max(mask.shape) > MEASURED_SIDE:
        return width
    from skimage.morphology import skeletonize

    grown = ndimage.binary_dilation(mask[box])
    length = max(1.0, 1.1 * float(skeletonize(mask[box]).sum()))
    return min(width + 1, float(strength[box][grown].sum()) / length)


def _without_outliers(strength: Picture) -> tuple[Picture, bool]:
    """A picture in which pixels unlike all around them are mended, and whether it had many."""
    middle = ndimage.median_filter(strength, 3)
    odd = np.abs(strength - middle) > 0.5
    if float(odd.mean()) < SPECKLED:
        return strength, False
    # A thin pen loses its ends and corners to the median; specks are alone.
    around = ndimage.uniform_filter((strength > 0.5).astype(np.float32), 3) * 9
    alone = np.where(strength > 0.5, around <= 1.5, around >= 6.5)
    if float((odd & alone).mean()) < SPECKLED:
        return strength, False
    if rough_width(middle > 0.5) >= 3:  # where it spares the pen, the median mends its edges too
        alone = np.ones_like(alone)
    return np.where(odd & alone, middle, strength), True


def _threshold(strength: Picture, least: float) -> float:
    """Half of the strength of the faintest ink that is more than an edge of stronger ink."""
    strong = strength > 0.5
    faint = (strength > least) & ~strong
    if least >= 0.5 or not faint.any():
        return max(0.5, least)
    width = rough_width(strong)
    edge = ndimage.binary_dilation(strong, iterations=max(2, round(0.75 * width)))
    apart = faint & ~edge
    # Lines, not grains: what is left after an opening by a pen's core.
    if width >= 3:
        apart = ndimage.binary_opening(apart, np.ones((2, 2)))
    pieces, count = ndimage.label(apart, np.ones((3, 3)))
    if not count:
        return 0.5
    areas = np.bincount(pieces.ravel())[1:]
    real = np.nonzero(areas > max(6.0, 3 * width**2))[0] + 1
    if not len(real):
        return 0.5
    levels = ndimage.labeled_comprehension(
        strength, pieces, real, lambda values: np.quantile(values, 0.6), float, 0.0
    )
    return float(np.clip(0.5 * levels.min(), least, 0.5))


def _without_specks(
    strength: Picture, mask: Bool[np.ndarray, "height width"], width: float, dirty: bool
) -> Picture:
    """A picture without pieces of ink far smaller than a dot of the pen."""
    if width <= 0:
        return strength
    small = specks(mask, max(SPECK * width**2, 4 if dirty else 0))
    if not small.any() or (small == mask).all():
        return strength
    gone = ndimage.binary_dilation(small, np.ones((3, 3)))
    return np.where(gone & ~(mask & ~small), 0, strength)


def specks(mask: Bool[np.ndarray, "height width"], area: float) -> Bool[np.ndarray, "height width"]:
    """Pieces of a mask of less than an area, in pixels."""
    pieces, _ = ndimage.label(mask, np.ones((3, 3)))
    small = np.bincount(pieces.ravel()) < area
    small[0] = False
    found: np.ndarray = small[pieces]
    return found
