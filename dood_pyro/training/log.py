"""Records of a training under way: metrics, TensorBoard, progress. The training loop writes them."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dood_pyro.images import ImageBatch
from dood_pyro.inference.stop_marginal import ElboTerms, StopMarginalTerms
from dood_pyro.run_folders.run import Run
from dood_pyro.training.trainer import Trainer

Show = Callable[[Trainer, dict[str, Any]], None]
"""Called with the trainer and a line of metrics. An `OSError` that it raises, of a display that cannot
be written to, ends the showing, not the training."""


def _finite(value: float) -> float | None:
    """The value, or None where it is not finite: JSON knows no NaN."""
    return value if math.isfinite(value) else None


FEW, NEARLY_ALL = 0.1, 0.98
"""Strokes a drawing, and share of all that there may be, beyond which counts have collapsed."""


def collapse(strokes: float | None, max_strokes: int) -> str:
    """What is to be said of held-out drawings that take hardly any stroke, or nearly always all; else
    "".

    Args:
        strokes: a drawing, on average.
    """
    if strokes is not None and strokes < FEW:
        return (
            f"hardly anything is drawn ({strokes:.2f} strokes a drawing): if that lasts, try a lower "
            "--beta, --estimator stop-marginal or another --seed"
        )
    if strokes is not None and max_strokes > 1 and strokes > NEARLY_ALL * max_strokes:
        return (
            f"nearly every drawing takes all {max_strokes} strokes, so that their number says nothing: "
            "if that lasts, try a higher --beta or --max-strokes"
        )
    return ""


BEGUN = 200
"""Steps on images after which a run should draw: MNIST's begin by step 80, its averages later."""


def not_yet(strokes: float | None, steps: int, run: str) -> str:
    """What is to be said of a short training that does not draw yet; else "".

    Args:
        strokes: a held-out drawing, on average.
        steps: taken on images.
    """
    if strokes is None or strokes >= FEW or steps >= BEGUN:
        return ""
    return (
        f"it hardly draws yet ({strokes:.2f} strokes a drawing after {steps} steps), which takes some "
        f"{BEGUN} steps; go on with: dood-pyro train --resume {run} --steps {5 * BEGUN}"
    )


class MetricsLog:
    """Metrics of a training: to metrics.jsonl, TensorBoard and whoever shows progress.

    Sums stay on the device between lines, so that logging costs one wait every few steps.
    """

    def __init__(self, run: Run, trainer: Trainer, show: Show | None, tensorboard: bool) -> None:
        self.run, self.trainer, self.show = run, trainer, show
        self.sums: list[Tensor] = []
        self.clock = (time.perf_counter(), trainer.step)
        self._show({"kind": "start", "step": trainer.step})
        self.writer: Any = None
        # Imported here: it takes a second. Where it is not installed, metrics.jsonl has all the same.
        if tensorboard and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run.path), purge_step=trainer.step + 1)

    def add(self, terms: ElboTerms, norm: Tensor) -> None:
        """Take in one step."""
        self.sums.append(torch.stack([*terms, norm]))

    def write_training(self) -> None:
        """Write a line for the steps since the last one: means over those that were finite."""
        rows = torch.stack(self.sums)
        self.sums = []
        rows = torch.where(torch.isfinite(rows), rows, torch.nan)
        means = [_finite(mean) for mean in rows.nanmean(0).tolist()]
        now, (then, step_then) = time.perf_counter(), self.clock
        self.clock = (now, self.trainer.step)
        values = dict(zip([*ElboTerms._fields, "gradient_norm"], means, strict=True))
        values |= {
            "scale": float(self.trainer.model.likelihood_scale().detach()),
            "learning_rate": self.trainer.present_learning_rate,
            "steps_per_second": (self.trainer.step - step_then) / max(now - then, 1e-9),
            "skipped": int(self.trainer.skipped),
        }
        self._write("train", values)

    def show_parsing(self) -> None:
        """Show that training images are being parsed."""
        self._show({"kind": "parsing", "step": self.trainer.step})

    def show_parsed(self, count: int) -> None:
        """Show that ``count`` training images have been parsed."""
        self._show({"kind": "parsed", "step": self.trainer.step, "images": count})
        self.sums = []  # of steps of another kind
        self.clock = (time.perf_counter(), self.trainer.step)

    def write_held_out(self, terms: StopMarginalTerms, images: ImageBatch) -> None:
        """Write a line, and a picture, for the held-out images."""
        report = {name: float(value) for name, value in terms.averages()._asdict().items()}
        self._write("held-out", {name: _finite(value) for name, value in report.items()})
        if self.writer is not None:
            from dood_pyro.plots import preview

            with self.trainer.averaged():
                picture = preview(self.trainer.model, self.trainer.guide, images[:8])
            self._board("add_image", "held-out/reconstructions", picture)
        # Evaluation is not training: the pace counts from here.
        self.clock = (time.perf_counter(), self.trainer.step)

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        line = {
            "step": self.trainer.step,
            "seconds": round(self.trainer.seconds, 3),
            "kind": kind,
            **values,
        }
        self.run.append_metrics([line])
        for name, value in values.items():
            if value is not None:
                self._board("add_scalar", f"{kind}/{name}", value)
        self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        if self.show is None:
            return
        try:
            self.show(self.trainer, line)
        except OSError:
            self.show = None

    def _board(self, method: str, name: str, value: Any) -> None:
        """Hand a value to TensorBoard; what it cannot write is no reason to stop training."""
        if self.writer is None:
            return
        try:
            getattr(self.writer, method)(name, value, self.trainer.step)
        except OSError as error:
            self.writer = None
            warnings.warn(f"TensorBoard is given up: {error.strerror or error}", stacklevel=2)

    def close(self) -> None:
        """Flush what TensorBoard holds."""
        if self.writer is not None:
            with contextlib.suppress(OSError):
                self.writer.close()
