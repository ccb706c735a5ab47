"""What commands say of what cannot be: called what it is, with advice that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dood_pyro.inference.importance import bound_of
from dood_pyro.inference.search.refined import RefinedGuide
from dood_pyro.inference.search.smc import SMCGuide
from dood_pyro.recognition import load
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.evaluate import evaluate
from tests.conftest import random_pictures
from tests.test_cli import TINY_OPTIONS, Out, call, refused
from tests.test_cli import run as run


def test_out_that_is_taken(tmp_path: Path, run: Run, source: Path, capsys: Out) -> None:
    train = ("train", "--source", source, "--steps", 2, "--out")
    assert f"--resume {run.path}" in refused(capsys, *train, run.path)
    (tmp_path / "file").write_text("mine")
    said = refused(capsys, *train, tmp_path / "file")
    assert "is a file" in said and "--resume" not in said
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    said = refused(capsys, *train, tmp_path / "folder")
    assert "no run" in said and "--resume" not in said
    said = refused(capsys, *train, tmp_path / ("n" * 300))
    assert "too long" in said and "space" not in said
    status, _, _ = call(capsys, "train", "--resume", run.path, "--steps", 5)
    assert status == 0, "and the advice works"


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--source", "digits", "--steps", 2, "--out", ""),
        ("train", "--resume", "", "--steps", 2),
        ("train", "--source", "", "--steps", 2),
        ("parse", ""),
        ("parse", "x.png", "--run", ""),
        ("parse", "x.png", "--out", ""),
        ("sample", ""),
        ("sample", "omniglot", "--out", ""),
        ("evaluate", "omniglot", "--target", ""),
        ("evaluate", "omniglot", "--target", "digits", "--csv", ""),
        ("one-shot", "omniglot", "--record", ""),
        ("transfer-table", "--table", ""),
        ("transfer-table", "--runs-dir", ""),
        ("fid", "", ""),
    ],
)
def test_empty_paths_are_not_the_working_folder(arguments: tuple[Any, ...], capsys: Out) -> None:
    said = refused(capsys, *arguments)
    assert "names nothing" in said or "no name" in said, said


def test_a_folder_of_too_few_pictures(tmp_path: Path, capsys: Out) -> None:
    for index, picture in enumerate((random_pictures(3, 20) * 255).byte().numpy()):
        picture[3:6, 3:6] = 255
        said = (
            ""
            if index == 0
            else refused(
                capsys, "train", "--source", tmp_path, "--steps", 1, "--out", tmp_path / "run"
            )
        )
        assert index == 0 or (f"holds {index} picture" in said and "3 or more" in said)
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    small = ("--canvas-size", 16, "--batch-size", 2, "--max-strokes", 1, "--no-tensorboard")
    out = tmp_path.parent / f"{tmp_path.name}-run"
    status, _, err = call(capsys, "train", "--source", tmp_path, "--steps", 1, "--out", out, *small)
    assert status == 0, err


def test_a_drawing_saved_under_a_files_name(tmp_path: Path, run: Run) -> None:
    drawing = load(run.path).drawings(random_pictures(1, 16))[0]
    for name in ("one.svg", "two.json", "three.SVG", "four", "five.5"):
        drawing.save(tmp_path / name)
    assert {path.name for path in tmp_path.glob("*.*") if path.is_file()} >= {
        *("one.svg", "one.json", "two.svg", "two.json", "three.svg", "three.json"),
        *("four.svg", "four.json", "five.5.svg", "five.5.json"),
    }
    assert not list(tmp_path.glob("*.svg.*")) and not list(tmp_path.glob("*.json.*"))


def test_no_tensorboard_is_remembered(run: Run, tmp_path: Path, source: Path, capsys: Out) -> None:
    out = tmp_path / "new"
    small = ("--canvas-size", 16, "--batch-size", 2, "--max-strokes", 1)
    begin = ("train", "--source", source, "--out", out, *small)
    assert call(capsys, *begin, "--steps", 1, "--no-tensorboard")[0] == 0
    assert call(capsys, "train", "--resume", out, "--steps", 2)[0] == 0
    assert not list(out.glob("events*")) and not Run(out).logs_for_tensorboard()
    assert call(capsys, "train", "--resume", out, "--steps", 3, "--tensorboard")[0] == 0
    assert list(out.glob("events*")) and Run(out).logs_for_tensorboard()


def test_a_resumed_bar_starts_where_the_run_is(
    run: Run, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = call(capsys, "train", "--resume", run.path, "--steps", 8)
    assert status == 0
    first = err.replace("\r", "\n").strip().splitlines()[0]
    assert " 4/8 " in first and " 50%" in first, err


def test_searches_report_their_progress(run: Run, source: Path) -> None:
    model, guide, _ = run.load()
    images = random_pictures(6, 16)
    for searching in (RefinedGuide(model, guide, steps=5, samples=2), SMCGuide(model, guide, 4)):
        done: list[float] = []
        bound_of(model, searching, images, 3, done.append, searching.posterior(images))
        assert sum(done) == pytest.approx(0.3 * len(images), rel=1e-6), "the search is done"
        done.clear()
        bound_of(model, RefinedGuide(model, guide, steps=5, samples=2), images, 3, done.append)
        assert len(done) > 5 and sum(done) == pytest.approx(len(images), rel=1e-6)
    done.clear()
    evaluate(run, str(source), 3, 5, guide="smc", progress=lambda n, _: done.append(n))
    assert len(done) > 2 and sum(done) == pytest.approx(5, rel=1e-6)


def test_commands_offer_no_guide_that_they_do_not_use(run: Run, capsys: Out) -> None:
    assert "--guide" not in call(capsys, "sample", "--help")[1]
    assert "no such option" in refused(capsys, "sample", run.path, "--guide", "smc").lower()


def test_a_run_with_a_guide_of_its_own_samples_without_running_it(
    run: Run, tmp_path: Path, capsys: Out
) -> None:
    config = json.loads((run.path / "config.json").read_text())
    config["train"]["guide"] = "somewhere:Else"
    (run.path / "config.json").write_text(json.dumps(config))
    out = tmp_path / "samples.png"
    assert call(capsys, "sample", run.path, "--count", 2, "--out", out)[0] == 0
    assert out.exists()


def test_what_may_not_be_read_is_not_called_damaged(
    run: Run, capsys: Out, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    said = refused(capsys, "sample", run.path)
    assert "permit it" in said and "damaged" not in said


def test_parse_into_a_file(tmp_path: Path, run: Run, capsys: Out) -> None:
    picture = tmp_path / "x.png"
    Image.fromarray((random_pictures(1, 20)[0] * 255).byte().numpy()).save(picture)
    (tmp_path / "file").touch()
    said = refused(capsys, "parse", picture, "--run", run.path, "--out", tmp_path / "file")
    assert "is a file" in said


def test_distance_of_a_set_to_itself_is_nothing() -> None:
    from dood_pyro.tasks import fid
    from tests.test_fid import Pixels

    pictures = torch.rand(90, 50, 50)
    assert fid.frechet(Pixels(), pictures, pictures) == pytest.approx(0, abs=1e-5)
    assert fid.frechet(Pixels(), pictures, pictures) >= 0


def test_a_training_whose_counts_collapse_says_so(
    source: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dood_pyro.training import log

    assert log.collapse(0.03, 6).startswith("hardly anything is drawn (0.03 strokes a drawing)")
    assert "takes all 6 strokes" in log.collapse(5.95, 6)
    assert log.collapse(1.0, 1) == log.collapse(2.5, 6) == log.collapse(None, 6) == ""
    words = (
        "train",
        "--source",
        source,
        "--steps",
        2,
        *TINY_OPTIONS,
    )
    monkeypatch.setattr(log, "FEW", 99.0)
    for explored, says in ((0, True), (600, False)):
        out = ("--out", tmp_path / str(explored), "--set", f"train.explore_steps={explored}")
        status, text, err = call(capsys, *words, *out)
        assert status == 0 and ("hardly anything is drawn" in text) is says, err


def test_a_name_that_is_nearly_right_is_recognised(capsys: Out, tmp_path: Path) -> None:
    for words, meant in (
        (("--source", "emnst"), "did you mean emnist?"),
        (("--source", "digits", "--model", "dood-transfomer"), "did you mean dood-transformer?"),
        (("--source", "digits", "--guide", "amortized"), "did you mean amortised?"),
        (("--source", "digits", "--estimator", "IWAE"), "did you mean iwae?"),
        (("--source", "digits", "--guide", "smc"), "searches image by image over a trained guide"),
        (("--source", "digits", "--model", "gan"), "choose dood, "),
    ):
        said = refused(capsys, "train", *words, "--steps", 1, "--out", tmp_path / "run")
        assert meant in said, said
