"""Clusters of a model's strokes, or parts: k-means, t-SNE and silhouette coefficients (Fig. 5).
``dood-pyro clusters`` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.errors import UserError
from dood_pyro.extras import extra
from dood_pyro.plots import new_figure, save_figure
from dood_pyro.recognition import BATCH, Recognizer
from dood_pyro.rendering import canvas_from_ink, curve_points
from dood_pyro.tasks.compare import title
from dood_pyro.tokens import parts_from_parse

CLUSTERS = 8
"""Number of clusters k, as in the paper."""
ALONG = 10
"""Points along a stroke in `Vocabulary.along`."""
SHOWN = 1500
"""Largest number of strokes on a t-SNE panel."""
EXEMPLARS = 6
"""Strokes drawn on a panel per cluster."""


class Vocabulary(NamedTuple):
    """The strokes, or parts, that a model drew with."""

    features: Float[np.ndarray, "strokes dims"]
    """Features for clustering: control points in the glimpse's frame, as the sites sample them, or a
    part's latent vector."""
    pictures: Float[Tensor, "strokes size size"]
    """Picture of each stroke in the glimpse's frame, in [0, 1)."""
    re_oriented: Float[np.ndarray, "strokes dims"] | None
    """Control points with every stroke's direction towards the lower right (`one_way`); None for models
    that draw no curves."""
    along: Float[np.ndarray, "strokes dims"] | None
    """Points along the re-oriented curves: different control points can draw curves that look the same.
    None for models that draw no curves."""


def one_way(control: Float[Tensor, "*batch controls 2"]) -> Float[Tensor, "*batch controls 2"]:
    """Control points of the same curves, in the order that runs towards the lower right.

    A stroke drawn from its other end looks the same, but its reversed control points are far away.
    """
    gained = (control[..., -1, :] - control[..., 0, :]).sum(-1)
    return torch.where(gained[..., None, None] < 0, control.flip(-2), control)


@torch.no_grad()
def vocabulary(
    dood: Recognizer, target: str, limit: int = 1000, data_dir: str | Path | None = None
) -> Vocabulary:
    """Strokes in the parses of the first ``limit`` test images of a target's shuffle of seed 0.

    Raises:
        UserError: the target cannot be had, or the model drew fewer than 2 `CLUSTERS` strokes.
    """
    features, pictures, re_oriented, along = [], [], [], []
    size = dood.config.model.glimpse_size
    for images in dood.load_images(target, limit, data_dir=data_dir).split(BATCH):
        parsed = dood.infer(images)
        alive = parsed.alive > 0
        if dood.model.draws_curves:
            stroke, pen = parsed.values["stroke"][alive], parsed.values["pen"][alive]
            scale = parsed.values["layout"][alive][:, 0].clamp(min=geometry.MIN_LAYOUT_SCALE)
            profile = geometry.pen_profile(pen)
            framed = profile._replace(sigma=profile.sigma / scale)
            ink = geometry.draw_strokes(stroke, framed, size)
            turned = one_way(stroke)
            features.append(stroke.flatten(1))
            re_oriented.append(turned.flatten(1).cpu())
            along.append(curve_points(turned, ALONG)[0].flatten(1).cpu())
        else:
            part = parts_from_parse(dood.model, parsed)[0].movedim(1, 0)[alive]
            ink = dood.model.part_ink(part)
            features.append(part)
        pictures.append(canvas_from_ink(ink).cpu())
    found = torch.cat(features).cpu().numpy()
    if len(found) < 2 * CLUSTERS:
        raise UserError(
            f"{title(dood)} drew {len(found)} strokes on {target}: too few to cluster; take more "
            "images"
        )
    others = [torch.cat(each).numpy() if each else None for each in (re_oriented, along)]
    return Vocabulary(found, torch.cat(pictures), *others)


def kmeans(
    features: Float[np.ndarray, "strokes dims"], clusters: int = CLUSTERS, seed: int = 0
) -> Int[np.ndarray, "strokes"]:
    """Cluster index of each stroke by k-means."""
    with extra("tasks"):
        from sklearn.cluster import KMeans

    return np.asarray(KMeans(clusters, n_init=10, random_state=seed).fit_predict(features))


def silhouettes(
    features: Float[np.ndarray, "strokes dims"],
    several: Sequence[int] = (4, 6, 8, 10, 12),
    seeds: Sequence[int] = range(5),
) -> dict[str, Any]:
    """Silhouette coefficients of k-means.

    Args:
        several: values of k; `CLUSTERS` must be among them.

    Returns:
        ``silhouette`` (k = `CLUSTERS`, mean over seeds), ``by_k`` (mean and standard deviation over
        seeds for each k) and ``strokes`` (their number).
    """
    with extra("tasks"):
        from sklearn.metrics import silhouette_score

    by_k = {}
    for k in several:
        scores = [
            float(
                silhouette_score(
                    features, kmeans(features, k, seed), sample_size=5000, random_state=0
                )
            )
            for seed in seeds
        ]
        by_k[str(k)] = {"mean": float(np.mean(scores)), "std": float(np.std(scores))}
    return {"silhouette": by_k[str(CLUSTERS)]["mean"], "by_k": by_k, "strokes": len(features)}


def draw_clusters(
    models: Sequence[Recognizer],
    target: str,
    out: Path,
    limit: int = 1000,
    data_dir: str | Path | None = None,
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Write Fig. 5 as PNG and PDF: one t-SNE panel per model, coloured by k-means cluster, with
    exemplars of each cluster drawn on the panel.

    Returns:
        The paths, and each model's `silhouettes` of `Vocabulary.features`. For models that draw curves,
        ``re_oriented`` and ``along_curves`` hold the silhouettes of `Vocabulary.re_oriented` and
        `Vocabulary.along`.

    Raises:
        UserError: the target cannot be had, a model drew too few strokes, or the figure cannot be
            written.
    """
    from matplotlib import colormaps
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    with extra("tasks"):
        from sklearn.manifold import TSNE

    vocabularies = [vocabulary(dood, target, limit, data_dir) for dood in models]
    scores = [silhouettes(found.features) for found in vocabularies]
    for score, found in zip(scores, vocabularies, strict=True):
        if found.re_oriented is not None and found.along is not None:
            score["re_oriented"] = silhouettes(found.re_oriented)
            score["along_curves"] = silhouettes(found.along)
    figure = new_figure(4.2 * len(models), 4.4)
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for panel, dood, found, score in zip(panels, models, vocabularies, scores, strict=True):
        rng = np.random.default_rng(0)
        rows = rng.permutation(len(found.features))[:SHOWN]
        labels = kmeans(found.features)[rows]
        perplexity = min(30.0, (len(rows) - 1) / 3)
        places = TSNE(random_state=0, perplexity=perplexity).fit_transform(found.features[rows])
        panel.scatter(*places.T, c=[colours[label] for label in labels], s=3, linewidths=0)
        for label in range(CLUSTERS):
            members = np.flatnonzero(labels == label)
            for member in rng.permutation(members)[:EXEMPLARS]:
                ink = found.pictures[rows[member]].numpy()
                tinted = np.ones((*ink.shape, 4))
                tinted[..., :3] = np.array(colours[label]) * 0.75
                tinted[..., 3] = ink
                box = AnnotationBbox(OffsetImage(tinted, zoom=0.9), places[member], frameon=False)
                panel.add_artist(box)
        panel.set_title(f"{title(dood)}: silhouette {score['silhouette']:.2f}", fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.tight_layout()
    return save_figure(figure, out), scores
