"""Feature networks of the Fréchet distance: small classifiers of each source's characters.
`dood_pyro.tasks.fid` compares pictures by their features, and ``dood-pyro train-features`` trains one.

There is one network per source, trained on the labels of the source's training part; the weights
come with the package. The paper does not describe its own network, so only ratios of distances can
be compared with the paper's figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import data
from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.optimiser import Adam
from dood_pyro.run_folders.tensors import load_tensors, read_tensors, write_tensors

SIZE = 50
"""Pixels per side of the networks' input."""
FOLDER = Path(__file__).parent / "weights" / "features"
"""Folder of the weights that come with the package."""


class FeatureNetwork(nn.Module):
    """Network from pictures in [0, 1], (count, 50, 50) or (count, 1, 50, 50), to 64 features each."""

    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 96)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(widths[-1] * 9, self.num_features)

    def forward(self, pictures: Float[Tensor, "count *channel 50 50"]) -> Float[Tensor, "count 64"]:
        hidden = self.convolutions(pictures.reshape(len(pictures), 1, SIZE, SIZE))
        hidden = F.adaptive_avg_pool2d(hidden, 3)
        return torch.tanh(self.project(hidden.flatten(1)))


def train_features(
    source: str,
    steps: int = 2000,
    seed: int = 0,
    data_dir: str | Path | None = None,
    show: Callable[[int, float], None] | None = None,
) -> tuple[FeatureNetwork, float]:
    """Train a feature network on a source's labels.

    Args:
        show: called every 50 steps with the step and the loss, nats per image.

    Returns:
        The network, and the accuracy of the classifier on top of the network on a held-out tenth of the
        training images.

    Raises:
        UserError: the source cannot be had or has no labels to learn.
    """
    drawings = data.load(source, "train", SIZE, data_dir)
    labels = torch.from_numpy(drawings.labels.astype("int64"))
    classes, labels = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"{source} has no labels to learn features from: it needs two classes")
    with seeded(seed, torch.device("cpu")):
        held_out, rows = _split(len(labels))
        network, head = FeatureNetwork(), nn.Linear(FeatureNetwork.num_features, len(classes))
        parameters = [*network.parameters(), *head.parameters()]
        optimiser, never = Adam([parameters]), torch.zeros(())
        for step in range(steps):
            batch = rows[torch.randint(len(rows), (128,))]
            pictures = _jittered(drawings.images[batch].float() / 255)
            loss = F.cross_entropy(head(network(pictures)), labels[batch])
            loss.backward()
            optimiser.step([2e-3 * (1 - step / steps)], skip=never)
            optimiser.zero_grad()
            if show is not None and step % 50 == 0:
                show(step, float(loss.detach()))
        network.eval()
        with torch.no_grad():
            known = [
                head(network(drawings.images[part].float() / 255)).argmax(-1) == labels[part]
                for part in held_out.split(512)
            ]
    return network, float(torch.cat(known).float().mean())


class Classifier:
    """Probabilities of classes, given features.

    Args:
        head: from features to logits.
        temperature: that logits are divided by, so that probabilities are what they say.
    """

    def __init__(self, head: nn.Linear, temperature: float = 1.0) -> None:
        self.head, self.temperature = head, temperature

    @torch.no_grad()
    def __call__(self, features: Float[Tensor, "count 64"]) -> Float[Tensor, "count classes"]:
        return (self.head(features) / self.temperature).softmax(-1)


class ClassifierFit(NamedTuple):
    """How well a classifier has learned."""

    accuracy: float
    """On features that the classifier has not seen; the features' network may have seen their pictures,
    where these are of the training part."""
    unseen: Float[Tensor, "count 64"]
    """Features of the pictures that `accuracy` was measured on."""
    of: str
    """What these pictures are, in words for reports."""


HEAD_STEPS = 1500
TEMPERATURES = tuple(0.5 * 1.1**power for power in range(21))
"""Temperatures of a classifier's probabilities; that of the highest held-out likelihood is taken."""
LEARNED = 0.5
"""Least accuracy of a classifier that has learned."""


def fit_classifier(
    source: str, features: dict[str, Tensor], labels: dict[str, Tensor]
) -> tuple[Classifier, ClassifierFit]:
    """Fit a linear classifier to the features of a source's training pictures but a tenth.

    Args:
        features, labels: of the parts ``"train"`` and ``"test"``.

    Returns:
        The classifier, and how well it names the test pictures; or, where these have classes of their
        own, the tenth held out.

    Raises:
        UserError: there are no two classes, or it has not learned them.
    """
    classes, known = labels["train"].unique(return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"{source} has no labels to know samples by: it needs two classes")
    with seeded(0, torch.device("cpu")):
        held_out, rows = _split(len(known))
        head = nn.Linear(features["train"].shape[1], len(classes))
        optimiser, never = Adam([list(head.parameters())]), torch.zeros(())
        for step in range(HEAD_STEPS):
            batch = rows[torch.randint(len(rows), (512,))]
            F.cross_entropy(head(features["train"][batch]), known[batch]).backward()
            optimiser.step([2e-2 * (1 - step / HEAD_STEPS)], skip=never)
            optimiser.zero_grad()
    theirs, own = features["train"][held_out], known[held_out]
    with torch.no_grad():
        logits = head(theirs)
        losses = [float(F.cross_entropy(logits / each, own)) for each in TEMPERATURES]
    classifier = Classifier(head, TEMPERATURES[losses.index(min(losses))])
    accuracy = _accuracy(classifier, theirs, own)
    if accuracy < LEARNED:
        raise UserError(
            f"the classifier of {source} names {100 * accuracy:.0f} % of pictures that it has not "
            "seen, too few to judge samples by; make features that know them with dood-pyro "
            "train-features"
        )
    fit = ClassifierFit(accuracy, theirs, "held-out training pictures")
    if torch.equal(labels["test"].unique(), classes):
        own = torch.searchsorted(classes, labels["test"])
        accuracy = _accuracy(classifier, features["test"], own)
        if accuracy >= LEARNED * fit.accuracy:  # less: the same numbers stand for other classes
            fit = ClassifierFit(accuracy, features["test"], "test pictures")
    return classifier, fit


def _split(count: int) -> tuple[Tensor, Tensor]:
    """A tenth of the rows by chance, held out, and the others."""
    order, tenth = torch.randperm(count), max(1, count // 10)
    return order[:tenth], order[tenth:]


def _accuracy(classifier: Classifier, features: Tensor, labels: Tensor) -> float:
    return float((classifier(features).argmax(-1) == labels).float().mean())


def _jittered(pictures: Tensor) -> Tensor:
    """Move pictures by small random affine maps, so that features depend on shapes, not on pixels."""
    count = len(pictures)
    matrix = torch.eye(2, 3).expand(count, 2, 3) + 0.08 * torch.randn(count, 2, 3)
    grid = F.affine_grid(matrix, [count, 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(pictures[:, None], grid, align_corners=False)[:, 0]


def save_features(network: FeatureNetwork, path: Path) -> None:
    """Write a network's weights in half precision.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    write_tensors(path, tensors)


def kept_features() -> list[str]:
    """Names of the sources whose networks come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def load_features(name: str | Path) -> FeatureNetwork:
    """Load the feature network of a source whose weights come with the package, or from a file.

    Args:
        name: name of the source, or path of the file.

    Raises:
        UserError: there is neither, or the file is damaged or does not hold a feature network.
    """
    path = FOLDER / f"{name}.safetensors"
    path = path if path.is_file() else Path(name)
    if not path.is_file():
        found = ", ".join(kept_features()) or "none"
        raise UserError(
            f"there are no features {name}; those that come with the package: {found}; make others "
            "with dood-pyro train-features"
        )
    network = FeatureNetwork()
    load_tensors(network, read_tensors(path)[0], str(path))
    return network.eval().to(memory_format=torch.channels_last)  # half as long on a CPU
