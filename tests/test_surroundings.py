"""Programs that run in a caller's surroundings: threads, modes of torch, kinds of numbers."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dood_pyro
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.devices import running_programs
from dood_pyro.errors import UserError
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.models.dood import DooD
from dood_pyro.recognition import Recognizer
from dood_pyro.run_folders.run import Run
from tests.conftest import TINY

SETTINGS = {"model.canvas_size": 16, "model.max_strokes": 1, "train.batch_size": 4}


@pytest.fixture
def dood(tiny: tuple[DooD, AmortisedGuide]) -> Recognizer:
    with torch.no_grad():  # strokes, whatever the picture
        for head in (tiny[0].on_head, tiny[1].on_head):
            head[-1].bias.fill_(2.0)
    return Recognizer(*tiny, RunConfig("dood", TINY, TrainConfig("digits")))


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Run:
    out = tmp_path / "run"
    return dood_pyro.train(str(source), steps=1, out=out, settings=SETTINGS, device="cpu")


def test_threads_wait_for_each_other(dood: Recognizer, images: Tensor) -> None:
    pictures = [image.numpy() for image in images]
    alone = [dood.parse(picture, method="guide").json() for picture in pictures]
    assert any(len(each["strokes"]) for each in alone)
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(dood.parse, picture, method="guide")
            for _ in range(5)
            for picture in pictures
        ]
        assert [each.result().json() for each in asked] == 5 * alone


def test_trainings_in_threads_are_those_alone(source: Path, tmp_path: Path) -> None:
    def weights(name: str) -> dict[str, Tensor]:
        given = {"out": tmp_path / name, "settings": SETTINGS, "device": "cpu"}
        return dood_pyro.train(str(source), steps=4, **given).read_tensors("last.safetensors")[0]

    alone = weights("alone")
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(weights, ("one", "two")):
            assert all(torch.equal(value, found[name]) for name, value in alone.items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_waits_for_nobody(dood: Recognizer, images: Tensor) -> None:
    """Though another thread's programs were running as it was made."""
    running, go_on = threading.Event(), threading.Event()

    def run_long() -> None:
        with running_programs():
            running.set()
            go_on.wait(30)

    thread = threading.Thread(target=run_long)
    thread.start()
    assert running.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        dood.infer(images)
        os._exit(7)
    _, status = os.waitpid(child, 0)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 7


def test_measuring_in_two_threads(run: Run, source: Path) -> None:
    """Both draw the random numbers of one alone."""
    row = dood_pyro.evaluate(run, str(source), particles=3, limit=4)
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(dood_pyro.evaluate, run, str(source), particles=3, limit=4)
            for _ in range(4)
        ]
        assert [each.result() for each in asked] == 4 * [row]


MODES = (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: type(mode).__name__)
def test_modes_of_torch_change_nothing(
    mode: AbstractContextManager[object],
    run: Run,
    source: Path,
    tmp_path: Path,
    dood: Recognizer,
    images: Tensor,
) -> None:
    row = dood_pyro.evaluate(run, str(source), particles=3, limit=4)
    picture = images[0].numpy()
    refined = dood.refine(picture).json()
    with mode:
        assert dood_pyro.evaluate(run, str(source), particles=3, limit=4) == row
        assert dood.refine(picture).json() == refined
        gradients = torch.is_grad_enabled()
        given = {"steps": 1, "out": tmp_path / "again", "settings": SETTINGS, "device": "cpu"}
        again = dood_pyro.train(str(source), **given)
        dood_pyro.resume(
            dood_pyro.train(str(source), **(given | {"out": tmp_path / "on"})), steps=2
        )
        assert torch.is_grad_enabled() is gradients
    both = [each.read_tensors("last.safetensors")[0] for each in (run, again)]
    assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())


def test_other_kinds_of_numbers_are_refused(source: Path, tmp_path: Path, run: Run) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        for ask in (
            lambda: dood_pyro.load(run),
            lambda: dood_pyro.evaluate(run, str(source)),
            lambda: dood_pyro.train(str(source), steps=1, out=tmp_path / "x", settings=SETTINGS),
        ):
            with pytest.raises(UserError, match=r"torch\.set_default_dtype\(torch\.float32\)"):
                ask()
    finally:
        torch.set_default_dtype(torch.float32)
    assert not (tmp_path / "x").exists()


def test_training_leaves_the_callers_random_numbers(source: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    dood_pyro.train(str(source), steps=1, out=tmp_path / "x", settings=SETTINGS, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_surroundings_are_given_back() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        with running_programs():
            assert not torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()
            assert not torch.is_grad_enabled()
            with running_programs(learn=True):
                assert torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled()
