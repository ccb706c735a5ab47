"""A run's card: what it is, what it learned from, how good it is, and how to use it, in Markdown.
Beside the weights that come with the package, and beside those that `dood_pyro.hub` puts on a hub.
"""

from __future__ import annotations

from dood_pyro.config import TrainConfig
from dood_pyro.listing import duration, summary
from dood_pyro.run_folders.facts import RunFacts
from dood_pyro.run_folders.run import Run

LICENCES = {
    "mnist": "MNIST (LeCun, Cortes and Burges; CC BY-SA 3.0)",
    "emnist": "EMNIST (Cohen, Afshar, Tapson and van Schaik; published by NIST)",
    "kmnist": "KMNIST (Clanuwat et al.; CC BY-SA 4.0)",
    "quickdraw": "Quick, Draw! (Google; CC BY 4.0)",
    "omniglot": "Omniglot's background alphabets (Lake, Salakhutdinov and Tenenbaum; MIT)",
    "digits": "the digits of scikit-learn (Alpaydin and Kaynak; CC BY 4.0)",
}
"""Sources, their authors and licences."""


def card(run: Run, name: str, licence: str = "mit") -> str:
    """The card of a run.

    Args:
        name: what `dood_pyro.load` takes.
        licence: of the weights, as model hubs write it.

    Raises:
        UserError: the run cannot be read.
    """
    told = summary(str(run.path))
    config, _ = run.read_config()
    facts = run.read_facts()
    bound = "not measured yet" if told.held_out is None else f"{told.held_out:,.0f} nats per image"
    best, learned = run.step_of(), _what_learned(config.train, facts)
    versions = dict(facts.versions)
    hardware = versions.pop("hardware", "hardware not known")
    made_with = ", ".join(f"{key} {value}" for key, value in sorted(versions.items()))
    size, source = config.model.canvas_size, LICENCES.get(told.source, told.source)
    return f"""---
license: {licence}
library_name: dood-pyro
tags:
- drawing
- image-to-vector
- pyro
---

# {told.model}, trained on {told.source}

A generative model of drawings, and its recognition model, by
[*Drawing out of Distribution*](https://arxiv.org/abs/2206.01829), as programs of
[Pyro](https://pyro.ai): pictures into pen strokes, new drawings, completions.

    pip install dood-pyro

    import dood_pyro
    dood = dood_pyro.load("{name}")
    dood.parse("drawing.png", method="guide"), dood.sample(8), dood.complete("begun.png")

- **Weights**: licence {licence.upper()}; in safetensors, read without running any code of theirs.
- **Learned from** the images alone, without pen strokes, of {source};
  sha256 of the data: `{facts.data_sha256}`.
- **Trained** for {duration(told.seconds)} on {hardware}: {told.steps:,} steps of
  {config.train.batch_size} images, seed {told.seed}, the best after {best:,}.{learned}
- **Best bound on held-out training images**: {bound}.
- **Draws** at most {config.model.max_strokes} strokes on {size}×{size} pixels. Pictures unlike those
  that it learned from may be parsed badly; each stroke has a confidence.
- **Made with** {made_with}.
"""


def _what_learned(train: TrainConfig, facts: RunFacts) -> str:
    """A sentence on what the run began with, and what of it learned; nothing of a run from scratch."""
    if not facts.initial_sha256:
        return ""
    began = f"the weights of sha256\n  `{facts.initial_sha256}`."
    if train.trainable == "both":
        return f" It went on from {began}"
    return f" Its {train.trainable} alone learned; all else is of {began}"
