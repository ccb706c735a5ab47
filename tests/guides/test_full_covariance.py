"""The guide of full covariance: the amortised one at first, better once it has learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dood_pyro.cli.main import main
from torch import Tensor

from dood_pyro.guides import check_guide
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.guides.full_covariance import FullCovarianceGuide
from dood_pyro.inference.importance import importance_bound
from dood_pyro.models.dood import DooD
from dood_pyro.run_folders.run import Run


def test_it_starts_as_the_amortised_guide(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    full = FullCovarianceGuide(model)
    full.load_state_dict(guide.state_dict(), strict=False)
    check_guide(model, full)
    bounds = []
    for each in (guide, full):
        torch.manual_seed(0)
        bounds.append(importance_bound(model, each, images, particles=2000, chunk=10**5).elbo)
    torch.testing.assert_close(bounds[0], bounds[1], atol=2.0, rtol=0.02)


def test_it_learns_over_a_trained_model_that_stays_as_it_is(tmp_path: Path, source: Path) -> None:
    def train(*options: str) -> None:
        tiny = ["--canvas-size", "16", "--max-strokes", "3", "--degree", "2"]
        command = ["train", "--source", str(source), "--no-tensorboard", "--batch-size", "8"]
        options = options if "--init-from" in options else (*options, *tiny)
        with pytest.raises(SystemExit) as ended:
            main([*command, *options])
        assert ended.value.code == 0

    first, second = tmp_path / "first", tmp_path / "second"
    train("--steps", "5", "--out", str(first))
    over = ["--init-from", str(first), "--trainable", "guide", "--guide", "full-covariance"]
    train("--steps", "8", "--out", str(second), *over, "--estimator", "rws", "--sleep-steps", "3")
    before, after = (Run(path).read_tensors("best.safetensors")[0] for path in (first, second))
    for name, tensor in before.items():
        if name == "guide.refinement.gate":  # as far as this training's schedule has come
            continue
        stays = name.startswith(("model.", "guide.baseline"))  # baselines: another estimator's
        assert torch.equal(tensor, after[name]) == stays, name
    _, guide, config = Run(second).load()
    assert isinstance(guide, FullCovarianceGuide) and config.train.trainable == "guide"
    assert float(after["guide.covariance_head.2.weight"].abs().max()) > 0


def test_the_guide_alone_needs_a_model_and_its_own_options(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--source", str(source), "--steps", "2", "--out", str(tmp_path / "run")]
    for options, said in (
        (["--trainable", "guide"], "--init-from"),
        (["--trainable", "prior"], "--init-from"),
        (
            ["--init-from", "omniglot", "--trainable", "prior", "--synthetic-ratio", "1"],
            "--synthetic-ratio",
        ),
        (
            ["--init-from", "omniglot", "--trainable", "prior", "--guide", "full-covariance"],
            "amortised",
        ),
        (["--particles", "4"], "iwae and rws"),
        (["--init-from", str(tmp_path / "no")], "neither a run folder"),
        (["--init-from", "omniglot", "--canvas-size", "20"], "--canvas-size"),
        (["--init-from", "omniglot", "--model", "air"], "--model"),
        (["--init-from", "omniglot", "--num-refiners", "9"], "--num-refiners"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, *options])
        assert ended.value.code != 0 and said in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
