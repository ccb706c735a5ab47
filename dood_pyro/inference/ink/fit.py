"""Strokes as smooth chains of Bézier curves, fitted together to a picture.
`dood_pyro.inference.ink.parse_ink` uses it once it is known what is a stroke.

Each stroke is a chain of cubic curves whose tangents are continuous, save at corners. The picture that
strokes leave is the coverage of a round pen, blurred: at distance d from the nearest curve

    a (Φ((w/2 − d) / b) − Φ((−w/2 − d) / b))

with the width w there and the stroke's darkness a, the picture's blur b, and the normal distribution's
Φ. A stroke's width may swell along it: if it could not, lines would go back and forth to fill what is
thicker. All unknowns are moved together by damped Gauss-Newton steps that lower the squared difference
to the picture, at pixels near a stroke alone: ink that no stroke explains pulls at none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from scipy.special import ndtr

from dood_pyro.inference.ink.skeleton import Points, along, path_length

TOLERANCE = (0.25, 0.06)
"""Distance that a chain keeps to the line that it starts from: pixels, and pen widths; the larger."""
FITTED_TOLERANCE = (0.08, 0.02)
"""Distance that the fitted chain may move by for having fewer curves, likewise."""
PER_WIDTHS = 1.5
"""Least length of a chain's curves, pen widths."""
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)
"""Numbers of curves that are tried between two corners."""
STEPS = 8
"""Gauss-Newton steps."""
REACH = 1.5
"""Distance from the pen's edge to which pixels take part, pixels."""
MOVES = 1.0
"""Distance by which strokes move in a fit, pixels: they find no others than pixels within reach."""
SPACING = 1.0
"""Distance of the points at which curves are looked up, pixels."""
BEND = 0.003
"""Weight of a chain's bending, beside the squared difference of a pixel."""
START_BEND = 0.05
"""Square root of that weight where chains start, beside the squared distance of a point."""
DRIFT = 1e-3
"""Weight of the squared distance from where a fit starts."""
WIDTH_TIE, DARKNESS_TIE = 1.0, 20.0
"""Weights of how strokes' changes of width (pixels) and their darknesses differ from the mean."""
SWELL_LENGTH = 3.0
"""Length of the pieces of a stroke along which its width changes evenly, about, pen widths."""
MOST_PIECES = 64
"""Most pieces of a curve."""
SWELL_TIE, SWELL_CHANGE = 0.1, 0.1
"""Weights of how a stroke's width swells from its own (pixels), and of how that changes from piece to
piece."""
OTHER_PEN = 1.5
"""Ratio to the picture's pen from which a stroke is of another pen."""
ALIKE = 0.2
"""Largest difference of such a stroke's widths along it, as a share of their median."""
SECTIONS = 9
"""Cross-sections by which a stroke's width is measured."""
WIDEST = 6.0
"""Width up to which it is measured, in widths of the picture's pen."""
INK = 0.3
"""Strength from which what no stroke is near counts as ink."""
LOCAL = 13
"""Unknowns that a pixel's darkness depends on: a curve's control points, its stroke's width and
darkness, the blur, and the swelling at the ends of a piece."""
BLOCK = 4096
"""Pixels whose darknesses are computed together."""
LEAST_WIDTH = 0.5
"""Least width, pixels."""
LEAST_BLUR = 0.28
"""Least blur, pixels: about that of a sharp edge on square pixels."""


class Chain(NamedTuple):
    """A stroke as a chain of cubic Bézier curves, in pixels."""

    control: Float[np.ndarray, "curves 4 2"]
    """Each curve starts where the one before ends."""
    width: float
    """The pen's diameter."""
    darkness: float
    """Of its ink, in (0, 1]."""

    def polyline(self, per_curve: int = 16) -> Points:
        """Points along the chain, at equal steps of each curve's parameter."""
        t = np.linspace(0, 1, per_curve + 1)
        points = bernstein(t) @ self.control
        return np.concatenate([points[:, :-1].reshape(-1, 2), points[-1:, -1]])

    def evenly(self, spacing: float) -> Points:
        """Points along the chain, at most ``spacing`` pixels apart."""
        polygon = np.hypot(*np.diff(self.control, axis=1).transpose(2, 0, 1)).sum(-1)
        # A curve is nowhere faster than three times its longest control step.
        longest = 3 * np.hypot(*np.diff(self.control, axis=1).transpose(2, 0, 1)).max(-1)
        counts = np.ceil(np.maximum(polygon, longest) / spacing).astype(int).clip(1, None)
        parts = [
            bernstein(np.arange(count) / count) @ control
            for control, count in zip(self.control, counts, strict=True)
        ]
        return np.concatenate([*parts, self.control[-1:, -1]])


def bernstein(t: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points 4"]:
    """The cubic Bernstein polynomials."""
    u = 1 - t
    return np.stack([u * u * u, 3 * t * u * u, 3 * t * t * u, t * t * t], axis=-1)


class _Knots(NamedTuple):
    """A chain by the positions and tangents at the ends of its curves; control points are linear in
    both."""

    table: Float[np.ndarray, "controls unknowns"]
    """Control points from unknowns, 4 a curve."""
    values: Float[np.ndarray, "unknowns 2"]
    corners: list[int]
    """Curves that start at a corner."""


def chain_knots(line: Points, corners: Sequence[int], width: float) -> _Knots:
    """A chain along a line.

    Args:
        corners: indices of points at which the chain may have a corner.
    """
    distance = max(TOLERANCE[0], TOLERANCE[1] * width)
    edges = [0, *sorted({index for index in corners if 0 < index < len(line) - 1}), len(line) - 1]
    tables, values = [], []
    for first, last in itertools.pairwise(edges):
        piece = line[first : last + 1]
        fit = _smooth_piece(piece, distance, max(1, int(path_length(piece) / (PER_WIDTHS * width))))
        tables.append(fit.table)
        values.append(fit.values)
    # Pieces meet in one point, where each has a tangent of its own: the last unknowns of a piece are
    # its end's position and tangent.
    columns = sum(table.shape[1] for table in tables) - (len(tables) - 1)
    whole = np.zeros((sum(len(table) for table in tables), columns))
    row, column = 0, 0
    joined: list[np.ndarray] = []
    for index, (table, value) in enumerate(zip(tables, values, strict=True)):
        count = table.shape[1]
        # Order within a piece: position 0, tangent 0, tangent 1, position 1, …; see _hermite_table.
        whole[row : row + len(table), column : column + count] = table
        row, column = row + len(table), column + count - 1
        if index:
            joined[-1] = (joined[-1] + value[0]) / 2
            joined.extend(value[1:])
        else:
            joined.extend(value)
    starts = np.cumsum([len(table) // 4 for table in tables])[:-1]
    return _Knots(whole, np.array(joined), starts.tolist())


def _hermite_table(lengths: Float[np.ndarray, "curves"]) -> Float[np.ndarray, "controls unknowns"]:
    """Control points of a smooth chain from its knots' positions and tangents per pixel.

    The unknowns are the first position, all tangents, the positions between, the last position: first
    and last are positions, by which pieces are joined.
    """
    columns, parts = _table_parts(lengths)
    table = np.zeros((len(lengths), 4, 2 * len(lengths) + 2))
    np.put_along_axis(table, np.repeat(columns[:, None], 4, axis=1), parts, axis=2)
    return table.reshape(4 * len(lengths), -1)


def _table_parts(
    lengths: Float[np.ndarray, "curves"],
) -> tuple[Int[np.ndarray, "curves 4"], Float[np.ndarray, "curves 4 4"]]:
    """The four unknowns of each curve (its first and last position, its first and last tangent), and
    its control points from them."""
    count = len(lengths)
    position = np.array([0, *range(count + 2, 2 * count + 1), 2 * count + 1])
    curve = np.arange(count)
    columns = np.stack([position[:-1], position[1:], 1 + curve, 2 + curve], axis=-1)
    parts = np.zeros((count, 4, 4))
    parts[:, (0, 1, 2, 3), (0, 0, 1, 1)] = 1
    parts[:, 1, 2] = lengths / 3
    parts[:, 2, 3] = -lengths / 3
    return columns, parts


class _Piece(NamedTuple):
    """A chain without corners."""

    table: Float[np.ndarray, "controls unknowns"]
    """Control points from unknowns; see `_hermite_table`."""
    values: Float[np.ndarray, "unknowns 2"]
    close: bool
    """Whether it is as close to its line as was asked for."""


def _smooth_piece(line: Points, tolerance: float, most: int) -> _Piece:
    """A chain without corners along a line, of as few curves as will do, and of ``most`` at most.

    Args:
        tolerance: distance to the line up to which they do, pixels.
    """
    total = max(path_length(line), 1e-3)
    samples = int(np.clip(total, 8, 400))
    where = np.linspace(0, total, samples)
    points = along(line, where)
    bent = _bending_measure(points)

    def of(count: int) -> _Piece:
        cuts = np.interp(np.linspace(0, bent[-1], count + 1), bent, where)
        lengths = np.diff(cuts)
        curve = np.clip(np.searchsorted(cuts, where, side="right") - 1, 0, count - 1)
        b = bernstein((where - cuts[curve]) / lengths[curve])
        table = _hermite_table(lengths)
        columns, parts = _table_parts(lengths)
        rows = np.zeros((samples, table.shape[1]))
        weights = np.einsum("sk,skj->sj", b, parts[curve])
        np.put_along_axis(rows, columns[curve], weights, axis=1)
        bend = START_BEND * _bending_rows(table, lengths)
        normal = rows.T @ rows + bend.T @ bend
        normal[np.diag_indices(len(normal))] += 1e-9
        values = np.linalg.solve(normal, rows.T @ points)
        away = np.hypot(*(rows @ values - points).T)
        return _Piece(table, values, bool(away.max() <= tolerance))

    counts = [count for count in COUNTS if count <= most]
    # The least count that will do is found by doubling, then by bisection.
    too_few, enough, step = -1, len(counts), 1
    found = None
    while too_few + 1 < enough:
        if found is None:
            tried = min(too_few + step, len(counts) - 1)
            step *= 2
        else:
            tried = (too_few + enough) // 2
        piece = of(counts[tried])
        if piece.close or tried == len(counts) - 1:
            enough, found = tried, piece
        else:
            too_few = tried
    assert found is not None
    return found


def _bending_measure(points: Points) -> Float[np.ndarray, "points"]:
    """Length along a line in which bends count more: knots are equally far apart in it."""
    steps = np.diff(points, axis=0)
    length = np.maximum(np.hypot(*steps.T), 1e-9)
    angle = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    bend = np.abs(np.gradient(angle)) if len(angle) > 1 else np.zeros(1)
    bend = np.convolve(np.pad(bend, 4, mode="edge"), np.ones(9) / 9, mode="valid")
    # Cubics approximate to the fourth order, but curvature alone decides nearly as well.
    weight = length * (0.3 + np.sqrt(bend / length))
    return np.concatenate([[0.0], weight.cumsum()])


def _bending_rows(table: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Second differences of each curve's control points, at a scale that length does not change."""
    c = table.reshape(len(lengths), 4, -1)
    second = np.stack([c[:, 0] - 2 * c[:, 1] + c[:, 2], c[:, 1] - 2 * c[:, 2] + c[:, 3]], axis=1)
    rows: np.ndarray = (second / np.sqrt(lengths)[:, None, None]).reshape(2 * len(lengths), -1)
    return rows


class Fit(NamedTuple):
    """Chains fitted to a picture."""

    chains: list[Chain]
    blur: float
    """Standard deviation of the picture's edges, pixels."""
    misfit: float
    """Sum of absolute differences to the picture; ink that no stroke is near counts in full."""


class _Curves(NamedTuple):
    """All strokes' curves as one."""

    table: sparse.csr_matrix
    """Control points, 4 a curve, from unknowns."""
    stroke: Int[np.ndarray, "curves"]


def _curves(chains: Sequence[_Knots]) -> _Curves:
    table = sparse.block_diag([sparse.csr_matrix(each.table) for each in chains], format="csr")
    stroke = np.repeat(np.arange(len(chains)), [len(each.table) // 4 for each in chains])
    return _Curves(table, stroke)


def fit_chains(
    picture: Float[np.ndarray, "height width"],
    lines: Sequence[tuple[Points, Sequence[int]]],
    width: float,
    steps: int = STEPS,
) -> Fit:
    """Chains along lines, fitted together to a picture.

    Args:
        picture: darkness of the ink, in [0, 1], on 0.
        lines: strokes' middles in pixels (pixel i covers [i, i + 1)), each with the indices of its
            corners.
        width: the picture's pen's.
        steps: Gauss-Newton steps; 0 for the chains along the lines alone.
    """
    if not lines:
        return Fit([], LEAST_BLUR, float(picture[picture > INK].sum()))
    widths = starting_widths(picture, [line for line, _ in lines], width)
    knots = [
        chain_knots(line, corners, own) for (line, corners), own in zip(lines, widths, strict=True)
    ]
    values = np.concatenate([each.values for each in knots])
    fit = _JointFit(picture, _curves(knots), values, widths).run(steps)
    if not steps:
        return fit
    chains = [
        with_fewer_curves(chain, each.corners)
        for chain, each in zip(fit.chains, knots, strict=True)
    ]
    return fit._replace(chains=chains)


def with_fewer_curves(chain: Chain, corners: Sequence[int]) -> Chain:
    """The same stroke in as few curves as will do.

    Args:
        corners: curves that start at a corner.
    """
    tolerance = max(FITTED_TOLERANCE[0], FITTED_TOLERANCE[1] * chain.width)
    parts = np.split(chain.control, corners)
    for index, part in enumerate(parts):
        if len(part) > 1:
            line = chain._replace(control=part).evenly(SPACING)
            fewer = _smooth_piece(line, tolerance, len(part) - 1)
            if fewer.close:
                parts[index] = (fewer.table @ fewer.values).reshape(-1, 4, 2)
    for before, after in itertools.pairwise(parts):
        before[-1, -1] = after[0, 0] = (before[-1, -1] + after[0, 0]) / 2
    return chain._replace(control=np.concatenate(parts))


def starting_widths(
    picture: Float[np.ndarray, "height width"], lines: Sequence[Points], width: float
) -> Float[np.ndarray, "lines"]:
    """Width at which each stroke's fit starts: the picture's pen's, or that of its own cross-sections
    where they show another pen."""
    found = np.full(len(lines), width)
    long = [index for index, line in enumerate(lines) if path_length(line) > 2 * width]
    if not long:
        return found
    step = max(0.25, width / 32)
    offsets = np.arange(-WIDEST * width / 2, WIDEST * width / 2 + step, step)
    middle = len(offsets) // 2
    places, normals = [], []
    for index in long:
        where = path_length(lines[index]) * np.linspace(0.1, 0.9, SECTIONS)
        at = along(lines[index], where)
        ahead = along(lines[index], where + width / 2) - along(lines[index], where - width / 2)
        places.append(at)
        normals.append(ahead[:, ::-1] * [1, -1] / np.maximum(np.hypot(*ahead.T), 1e-6)[:, None])
    points = np.array(places)[:, :, None] + offsets[:, None] * np.array(normals)[:, :, None]
    # Pixel i's middle is at i + 1/2.
    # Ink at the picture's edge ends there.
    section = ndimage.map_coordinates(
        picture, [points[..., 1] - 0.5, points[..., 0] - 0.5], order=1, mode="constant"
    )
    inside = section >= 0.5 * section[..., middle : middle + 1]
    above = np.argmin(inside[..., middle:], -1)
    below = np.argmin(inside[..., middle::-1], -1)
    closed = ~inside[..., middle:].all(-1) & ~inside[..., middle::-1].all(-1)
    extent = np.where(closed, (above + below - 1) * step, WIDEST * width)
    # Where strokes run side by side sections see several, and differ among each other.
    narrow, own, wide = np.quantile(extent, (0.2, 0.5, 0.8), axis=-1)
    other = (narrow > OTHER_PEN * width) | (wide < width / OTHER_PEN)
    other &= wide - narrow < ALIKE * own
    found[long] = np.where(other, own.clip(1.0), width)
    return found


class _Pieces(NamedTuple):
    """Pieces of the curves, along each of which a stroke's width changes evenly."""

    per_curve: Int[np.ndarray, "curves"]
    """How many a curve has, equal in its parameter."""
    first: Int[np.ndarray, "curves"]
    """Number of each curve's first piece."""
    curve: Int[np.ndarray, "pieces"]
    stroke: Int[np.ndarray, "pieces"]

    @property
    def start(self) -> Int[np.ndarray, "pieces"]:
        """Number of the swelling at each piece's start; that at its end is the next: a stroke has one
        more than it has pieces."""
        start: np.ndarray = np.arange(len(self.curve)) + self.stroke
        return start

    @property
    def within(self) -> Int[np.ndarray, "pieces 2"]:
        """How many pieces each one's curve has, and its number among them."""
        return np.stack(
            [self.per_curve[self.curve], np.arange(len(self.curve)) - self.first[self.curve]],
            axis=-1,
        )

    @property
    def swellings(self) -> Int[np.ndarray, "swellings"]:
        """The stroke of each swelling."""
        strokes = np.arange(int(self.stroke[-1]) + 1)
        return np.sort(np.concatenate([self.stroke, strokes]))


def _pieces(
    curves: _Curves,
    lengths: Float[np.ndarray, "curves"],
    widths: Float[np.ndarray, "strokes"],
) -> _Pieces:
    wanted = lengths / (SWELL_LENGTH * widths[curves.stroke])
    count = np.round(wanted).astype(int).clip(1, MOST_PIECES)
    curve = np.repeat(np.arange(len(count)), count)
    return _Pieces(count, count.cumsum() - count, curve, curves.stroke[curve])


class _Unknowns(NamedTuple):
    """All unknowns of a fit, apart."""

    values: Float[np.ndarray, "values 2"]
    widths: Float[np.ndarray, "strokes"]
    darknesses: Float[np.ndarray, "strokes"]
    blur: float
    swells: Float[np.ndarray, "swellings"]
    """By how much the width is above the stroke's own, pixels."""

    def together(self) -> Float[np.ndarray, "unknowns"]:
        """As one array."""
        parts = self.values.ravel(), self.widths, self.darknesses, [self.blur], self.swells
        return np.concatenate(parts)

    def like(self, state: Float[np.ndarray, "unknowns"]) -> _Unknowns:
        """An array of as many, apart."""
        split, strokes = self.values.size, len(self.widths)
        values, widths, darknesses, blur, swells = np.split(
            state, [split, split + strokes, split + 2 * strokes, split + 2 * strokes + 1]
        )
        return _Unknowns(values.reshape(-1, 2), widths, darknesses, float(blur[0]), swells)


class _PieceSums:
    """Sums over pixels of what depends on the nearest piece of a curve alone, and the sparse system of
    all unknowns that they make up.

    The system's pattern is found once; each step only adds entries up.

    Args:
        unknowns: of the fit.
        penalty: Hessian of what depends on no pixel.
    """

    def __init__(
        self, curves: _Curves, pieces: _Pieces, unknowns: _Unknowns, penalty: sparse.csr_matrix
    ) -> None:
        self.count, self.size = len(pieces.curve), len(unknowns.together())
        local, place = self._local(curves, unknowns.values.size, len(unknowns.widths))
        local, place = local[pieces.curve], place[pieces.curve]
        place[:, 11] = self.size - len(unknowns.swells) + pieces.start
        place[:, 12] = place[:, 11] + 1
        self.local, self.place = local, place
        kept = penalty.tocoo()
        rows = np.concatenate(
            [np.repeat(place, LOCAL, axis=1).ravel(), kept.row, np.arange(self.size)]
        )
        columns = np.concatenate([np.tile(place, LOCAL).ravel(), kept.col, np.arange(self.size)])
        entries, where = np.unique(columns * self.size + rows, return_inverse=True)
        column, self.rows = np.divmod(entries, self.size)
        self.starts = np.searchsorted(column, np.arange(self.size + 1))
        blocks, others, self.diagonal = np.split(
            where, [place.size * LOCAL, place.size * LOCAL + kept.nnz]
        )
        self.blocks = blocks
        self.penalty = np.bincount(others, kept.data, minlength=len(entries))

    @staticmethod
    def _local(curves: _Curves, width_at: int, strokes: int) -> tuple[np.ndarray, np.ndarray]:
        """For each curve, its control points, width, darkness, blur and two swellings from its own
        unknowns (curves, 13, 13), and which unknowns these are but for the swellings (curves, 13)."""
        count, unknowns = len(curves.stroke), curves.table.shape[1]
        table = curves.table.tocoo()
        # Places in a table of curves by unknowns, of which large pages have more than 2³¹.
        curve, control = np.divmod(table.row.astype(np.int64), 4)
        pairs, pair = np.unique(curve * unknowns + table.col, return_inverse=True)
        of_curve, unknown = np.divmod(pairs, unknowns)
        slot = np.arange(len(pairs)) - np.searchsorted(of_curve, np.arange(count))[of_curve]
        place = np.zeros((count, LOCAL), dtype=int)
        local = np.zeros((count, LOCAL, LOCAL))
        for axis in (0, 1):
            place[of_curve, 2 * slot + axis] = 2 * unknown + axis
            local[curve, 2 * control + axis, 2 * slot[pair] + axis] = table.data
        place[:, 8] = width_at + curves.stroke
        place[:, 9] = width_at + strokes + curves.stroke
        place[:, 10] = width_at + 2 * strokes
        local[:, range(8, LOCAL), range(8, LOCAL)] = 1
        return local, place

    def sums(
        self, rows: Float[np.ndarray, "pixels 14"], piece: Int[np.ndarray, "pixels"]
    ) -> tuple[Float[np.ndarray, "unknowns"], Float[np.ndarray, "entries"]]:
        """Gradient and entries of the Gauss-Newton Hessian.

        Args:
            rows: each pixel's derivatives by what its darkness depends on (`LOCAL`); last the
                difference itself.
            piece: of each, in order.
        """
        edges = np.searchsorted(piece, np.arange(self.count + 1))
        squares = np.zeros((self.count, LOCAL + 1, LOCAL + 1))
        for index, (first, last) in enumerate(itertools.pairwise(edges)):
            part = rows[first:last]
            squares[index] = part.T @ part
        turned = self.local.transpose(0, 2, 1)
        blocks = turned @ squares[:, :LOCAL, :LOCAL] @ self.local
        slopes = turned @ squares[:, :LOCAL, LOCAL:]
        gradient = np.bincount(self.place.ravel(), slopes.ravel(), minlength=self.size)
        hessian = np.bincount(self.blocks, blocks.ravel(), minlength=len(self.rows))
        return gradient, hessian + self.penalty

    def solve(
        self, hessian: Float[np.ndarray, "entries"], gradient: np.ndarray, damping: float
    ) -> Float[np.ndarray, "unknowns"]:
        """The step of a damped system."""
        damped = hessian.copy()
        damped[self.diagonal] *= 1 + damping
        damped[self.diagonal] += 1e-6
        # Symmetric and positive, it needs no exchange of rows; an order of unknowns for symmetric
        # matrices fills in far less than a general one, where many strokes cross.
        factors = splu(
            self.matrix(damped),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        step: np.ndarray = factors.solve(gradient)
        return step

    def matrix(self, entries: Float[np.ndarray, "entries"]) -> sparse.csc_matrix:
        """The square matrix of given entries."""
        return sparse.csc_matrix((entries, self.rows, self.starts), (self.size, self.size))


class _JointFit:
    """Gauss-Newton over the unknowns of all chains, their widths and darknesses, and the blur.

    Args:
        values: where the chains start.
        widths: of the strokes' pens, likewise.
    """

    def __init__(
        self,
        picture: Float[np.ndarray, "height width"],
        curves: _Curves,
        values: Float[np.ndarray, "unknowns 2"],
        widths: Float[np.ndarray, "strokes"],
    ) -> None:
        self.picture, self.curves = picture, curves
        control = (curves.table @ values).reshape(-1, 4, 2)
        lengths = np.hypot(*np.diff(control, axis=1).transpose(2, 0, 1)).sum(-1)
        self.pieces = _pieces(curves, lengths, widths)
        swells = np.zeros(len(self.pieces.swellings))
        self.start = _Unknowns(values, widths, np.ones(len(widths)), 0.5, swells)
        self.bend, self.swelling = self._bend(control), self._swelling()
        self.system = _PieceSums(curves, self.pieces, self.start, self._penalty())

    def _bend(self, control: Float[np.ndarray, "curves 4 2"]) -> sparse.csr_matrix:
        count = len(control)
        length = np.maximum(np.hypot(*(control[:, 3] - control[:, 0]).T), 1.0)
        rows, columns, entries = [], [], []
        for k, pattern in enumerate(((1.0, -2.0, 1.0, 0.0), (0.0, 1.0, -2.0, 1.0))):
            for j, value in enumerate(pattern):
                rows.append(np.arange(count) * 2 + k)
                columns.append(np.arange(count) * 4 + j)
                entries.append(value / np.sqrt(length))
        shape = (2 * count, 4 * count)
        place = (np.concatenate(rows), np.concatenate(columns))
        return sparse.csr_matrix((np.concatenate(entries), place), shape) @ self.curves.table

    def _swelling(self) -> sparse.csr_matrix:
        """Hessian of what keeps widths even."""
        start, count = self.pieces.start, len(self.pieces.swellings)
        rows, ones = np.arange(len(start)), np.ones(len(start))
        change = sparse.csr_matrix(
            (np.concatenate([ones, -ones]), (np.tile(rows, 2), np.concatenate([start + 1, start]))),
            (len(start), count),
        )
        return SWELL_CHANGE * (change.T @ change) + SWELL_TIE * sparse.identity(count)

    def _penalty(self) -> sparse.csr_matrix:
        """Hessian of all that keeps unknowns where they are, which is the same at every state."""
        both = BEND * (self.bend.T @ self.bend) + DRIFT * sparse.identity(len(self.start.values))
        strokes = len(self.start.widths)
        ties = np.concatenate([np.full(strokes, WIDTH_TIE), np.full(strokes, DARKNESS_TIE), [1e-3]])
        return sparse.block_diag(
            [sparse.kron(both, np.eye(2)), sparse.diags(ties), self.swelling], format="csr"
        )

    def run(self, steps: int) -> Fit:
        """Fit, and the result."""
        state = self.start.together()
        self._choose_pixels()
        damping = 1e-2
        cost, gradient, hessian = self._linearised(state)
        misfit = self.misfit
        for _ in range(steps):
            trial = self._clipped(state - self.system.solve(hessian, gradient, damping))
            after = self._linearised(trial)
            if after[0] < cost:
                gain = cost - after[0]
                state, (cost, gradient, hessian) = trial, after
                misfit = self.misfit
                damping /= 4
                if gain < 1e-3 * cost:
                    break
            else:
                damping *= 8
        found = self.start.like(state)
        control = (self.curves.table @ found.values).reshape(-1, 4, 2)
        # Where strokes lie side by side a width may be of both: of most places it is the pen's.
        ends = np.searchsorted(self.pieces.swellings, np.arange(len(found.widths)) + 1)
        swollen = [np.median(part) for part in np.split(found.swells, ends[:-1])]
        widths = (found.widths + swollen).clip(LEAST_WIDTH)
        chains = [
            Chain(control[self.curves.stroke == index], float(width), float(darkness))
            for index, (width, darkness) in enumerate(zip(widths, found.darknesses, strict=True))
        ]
        return Fit(chains, found.blur, misfit + self.elsewhere)

    def _clipped(self, state: np.ndarray) -> np.ndarray:
        found = self.start.like(state)
        return found._replace(
            widths=found.widths.clip(LEAST_WIDTH),
            darknesses=found.darknesses.clip(0.05, 1.0),
            blur=max(found.blur, LEAST_BLUR),
        ).together()

    def _samples(self, values: np.ndarray) -> tuple[Points, np.ndarray, np.ndarray, Points]:
        """Points on all curves: position, curve, parameter; and the control points."""
        control = self.curves.table @ values
        by_curve = control.reshape(-1, 4, 2)
        length = np.hypot(*np.diff(by_curve, axis=1).transpose(2, 0, 1)).sum(-1)
        count = np.ceil(length / SPACING).astype(int).clip(1, None) + 1
        curve = np.repeat(np.arange(len(count)), count)
        within = np.arange(len(curve)) - np.repeat(count.cumsum() - count, count)
        t = within / (count[curve] - 1)
        points = np.einsum("pk,pkd->pd", bernstein(t), by_curve[curve])
        return points, curve, t, by_curve

    def _choose_pixels(self) -> None:
        """Pixels that the pen, or its ink in the picture, may reach."""
        points, curve, *_ = self._samples(self.start.values)
        limits = _reach(self.start.widths)[self.curves.stroke[curve]] + MOVES
        # A wide pen's neighbourhood is not looked at around thin lines: pens by doubling widths.
        classes = 2.0 ** np.ceil(np.log2(limits))
        height, width = self.picture.shape
        near = np.zeros((height, width), bool)
        columns, rows = np.floor(points).astype(int).T
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        for each in np.unique(classes):
            mine = inside & (classes == each)
            around = np.zeros((height, width), bool)
            around[rows[mine], columns[mine]] = True
            # A square running maximum, one axis after the other; its corners are taken off below.
            for axis in (0, 1):
                around = _spread(around, int(np.ceil(limits[classes == each].max())), axis)
            near |= around
        ys, xs = np.nonzero(near)
        middles = np.stack([xs + 0.5, ys + 0.5], axis=-1)
        reached, _ = _within(points, middles, limits)
        ys, xs = ys[reached], xs[reached]
        near[:] = False
        near[ys, xs] = True
        self.pixels = np.stack([xs + 0.5, ys + 0.5], axis=-1)
        self.observed = self.picture[ys, xs]
        self.elsewhere = float(self.picture[(self.picture > INK) & ~near].sum())

    def _linearised(self, state: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Half the cost, its gradient, and the Gauss-Newton Hessian's entries, at a state."""
        now, pieces = self.start.like(state), self.pieces
        points, curve, t, by_curve = self._samples(now.values)
        piece = pieces.first[curve] + (t * pieces.per_curve[curve]).astype(int).clip(
            None, pieces.per_curve[curve] - 1
        )
        ends = now.widths[pieces.stroke, None] + now.swells[pieces.start[:, None] + [0, 1]]
        reached, nearest = _within(points, self.pixels, _reach(ends.max(1))[piece])
        order = np.argsort(piece[nearest], kind="stable")
        reached, nearest = reached[order], nearest[order]
        piece, t = piece[nearest], t[nearest]
        powers = np.tensordot(by_curve, POWERS, (1, 1)).transpose(0, 2, 1)
        darkness = now.darknesses[pieces.stroke]
        within = pieces.within
        rows = np.empty((len(t), LOCAL + 1))
        # What a block of pixels needs stays in the cache.
        for first in range(0, len(t), BLOCK):
            part = slice(first, first + BLOCK)
            of, at = piece[part], reached[part]
            pens = ends[of], within[of], darkness[of], now.blur
            curve_powers = powers[pieces.curve[of]]
            rows[part] = _pixel_rows(
                self.pixels[at], self.observed[at], curve_powers, t[part], *pens
            )
        gradient, hessian = self.system.sums(rows, piece)
        difference = rows[:, -1]
        cost = 0.5 * float(difference @ difference)
        # Pixels that have gone out of reach count as if no ink lay there.
        beyond = np.delete(self.observed, reached)
        cost += 0.5 * float(np.square(beyond).sum())
        self.misfit = float(np.abs(difference).sum() + beyond.sum())
        return self._regularised(now, cost, gradient, hessian)

    def _regularised(
        self, now: _Unknowns, cost: float, gradient: np.ndarray, hessian: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        bent, moved = self.bend @ now.values, now.values - self.start.values
        change = now.widths - self.start.widths
        apart, fainter = change - change.mean(), now.darknesses - now.darknesses.mean()
        uneven = self.swelling @ now.swells
        cost += 0.5 * (
            BEND * float(np.square(bent).sum())
            + DRIFT * float(np.square(moved).sum())
            + WIDTH_TIE * float(apart @ apart)
            + DARKNESS_TIE * float(fainter @ fainter)
            + float(uneven @ now.swells)
        )
        to_values = BEND * (self.bend.T @ bent) + DRIFT * moved
        gradient = gradient + np.concatenate(
            [to_values.ravel(), WIDTH_TIE * apart, DARKNESS_TIE * fainter, [0.0], uneven]
        )
        return cost, gradient, hessian


def _pixel_rows(
    pixels: Points,
    observed: Float[np.ndarray, "pixels"],
    powers: Float[np.ndarray, "pixels 4 2"],
    t: Float[np.ndarray, "pixels"],
    ends: Float[np.ndarray, "pixels 2"],
    within: Int[np.ndarray, "pixels 2"],
    darkness: Float[np.ndarray, "pixels"],
    blur: float,
) -> Float[np.ndarray, "pixels 14"]:
    """Derivatives of each pixel's ink by what it depends on (`LOCAL`); last, how far the ink is above
    the observed.

    Args:
        powers: coefficients of each pixel's curve.
        t: parameter of the curve's point near the pixel.
        ends: widths at the ends of its piece.
        within: how many pieces its curve has, and the number of its piece among them.
    """
    # One Newton step along the curve, clamped to it: points lie SPACING apart.
    slope = _velocities(powers, t)
    ahead = _dot(pixels - _positions(powers, t), slope) / np.maximum(_dot(slope, slope), 1e-6)
    t = np.clip(t + ahead.clip(-0.2, 0.2), 0, 1)
    offset = pixels - _positions(powers, t)
    distance = np.sqrt(_dot(offset, offset))
    b = bernstein(t)
    later = (t * within[:, 0] - within[:, 1]).clip(0, 1)
    width = ends[:, 0] + later * (ends[:, 1] - ends[:, 0])
    half_width = np.maximum(width, LEAST_WIDTH) / 2
    inner, outer = (half_width - distance) / blur, (-half_width - distance) / blur
    cover = ndtr(inner) - ndtr(outer)
    density_in, density_out = _density(inner), _density(outer)
    by_distance = darkness * (density_out - density_in) / blur
    by_width = darkness * (density_in + density_out) / (2 * blur)
    by_blur = -darkness * (density_in * inner - density_out * outer) / blur
    normal = offset / np.maximum(distance, 1e-6)[:, None]
    # Distance falls as the curve moves towards the pixel.
    moved = -by_distance[:, None] * normal
    rows = np.empty((len(t), LOCAL + 1))
    for k in range(4):
        rows[:, 2 * k : 2 * k + 2] = b[:, k, None] * moved
    by_end = (1 - later) * by_width, later * by_width
    difference = darkness * cover - observed
    for k, column in enumerate((by_width, cover, by_blur, *by_end, difference)):
        rows[:, 8 + k] = column
    return rows


POWERS = np.array([[1, 0, 0, 0], [-3, 3, 0, 0], [3, -6, 3, 0], [-1, 3, -3, 1]], dtype=float)
"""Coefficients of t⁰ to t³ of a cubic Bézier curve, from its control points."""


def _positions(powers: Float[np.ndarray, "points 4 2"], t: Float[np.ndarray, "points"]) -> Points:
    """Points of curves, by Horner's rule."""
    a, b, c, d = (powers[:, k] for k in range(4))
    u = t[:, None]
    return ((d * u + c) * u + b) * u + a


def _velocities(powers: Float[np.ndarray, "points 4 2"], t: Float[np.ndarray, "points"]) -> Points:
    """Their derivatives by t."""
    _, b, c, d = (powers[:, k] for k in range(4))
    u = t[:, None]
    return (3 * d * u + 2 * c) * u + b


def _dot(first: Points, second: Points) -> Float[np.ndarray, "points"]:
    product: np.ndarray = first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1]
    return product


def _density(z: Float[np.ndarray, "pixels"]) -> Float[np.ndarray, "pixels"]:
    """The standard normal density."""
    return np.exp(-0.5 * z**2) * 0.3989422804014327


def _reach(widths: Float[np.ndarray, "pens"]) -> Float[np.ndarray, "pens"]:
    """Distance from pens' middles to which pixels take part: the widest pen's, but of far thinner ones
    less, as most of a picture would take part where many thin lines lie beside a thick one."""
    return np.minimum(OTHER_PEN * widths, widths.max(initial=0.0)) / 2 + REACH


def _within(
    points: Points, pixels: Points, limits: Float[np.ndarray, "points"]
) -> tuple[Int[np.ndarray, "reached"], Int[np.ndarray, "reached"]]:
    """Pixels whose nearest point is as near as that point's limit: their numbers, and the points'."""
    distance, nearest = cKDTree(points).query(
        pixels, distance_upper_bound=float(limits.max(initial=0.0))
    )
    reached = np.flatnonzero(np.isfinite(distance))
    reached = reached[distance[reached] <= limits[nearest[reached]]]
    return reached, nearest[reached]


def _spread(mask: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """A mask grown by ``reach`` both ways along an axis."""
    grown: np.ndarray = ndimage.maximum_filter1d(
        mask.view(np.uint8), 2 * reach + 1, axis=axis, mode="constant"
    )
    return grown.astype(bool)
