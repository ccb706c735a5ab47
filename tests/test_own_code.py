"""Code of one's own that is not what it should be, or that tasks cannot use: a line that says so."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dood_pyro
from dood_pyro.errors import UserError
from dood_pyro.registry import is_own_code
from dood_pyro.run_folders.run import Run
from tests.test_cli import TINY_OPTIONS, Out, call, refused

CODE = """
import dood_pyro


class NotAnEstimator:
    pass


def broken(folder, scratch):
    return 1 / 0


def not_arrays(folder, scratch):
    return {"train_images": None}
"""
MODULES = ("own_parts", "dots")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with modules of one's own: wrong ones, and the documentation's model of dots."""
    folder = tmp_path / "work"
    folder.mkdir()
    page = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"^```python\n(# dots\.py\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    (folder / "dots.py").write_text(code)
    (folder / "own_parts.py").write_text(CODE)
    monkeypatch.chdir(folder)
    yield folder
    for name in MODULES:
        sys.modules.pop(name, None)


def dots(source: Path, out: Path, capsys: Out) -> Path:
    """A run of one step with a model that draws neither curves nor parts."""
    words = ("--source", source, "--model", "dots:Dots", "--steps", 1, "--out", out)
    status, _, err = call(capsys, "train", *words, *TINY_OPTIONS)
    assert status == 0, err
    return out


@pytest.mark.parametrize("task", ["exemplars", "clusters", "one-shot"])
def test_tasks_that_need_strokes_say_so(
    task: str, source: Path, tmp_path: Path, capsys: Out
) -> None:
    run = dots(source, tmp_path / "run", capsys)
    words = {
        "exemplars": ("--target", source, "--out", "sheet.png"),
        "clusters": ("--target", source, "--limit", 3, "--out", "sheet.png"),
        "one-shot": (),
    }[task]
    said = refused(capsys, task, run, *words, "--trust", "dots:Dots")
    assert "neither curves" in said or "omniglot" in said, said


def test_guides_of_a_model_without_layouts_are_compared(
    source: Path, tmp_path: Path, capsys: Out
) -> None:
    run = dots(source, tmp_path / "run", capsys)
    words = ("--target", source, "--limit", 3, "--particles", 2, "--guides", "amortised")
    status, _, err = call(
        capsys, "compare-guides", run, *words, "--trust", "dots:Dots", "--out", "guides.png"
    )
    assert status == 0, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--estimator", "own_parts:NotAnEstimator"), "must be a subclass of dood_pyro.Estimator"),
        (("--estimator", "elsewhere:Estimator"), "call from the folder that holds elsewhere.py"),
        (("--source", "own_parts:broken"), "cannot be prepared: ZeroDivisionError"),
        (("--source", "own_parts:not_arrays"), "own_parts:not_arrays"),
        (("--source", "elsewhere:prepare"), "or add that folder to PYTHONPATH"),
        (("--guide", "plain:Guide+smc"), "no guide 'plain:Guide+smc'"),
    ],
)
def test_what_is_not_what_it_should_be(
    words: tuple[str, ...], said: str, source: Path, tmp_path: Path, capsys: Out
) -> None:
    given = ("--source", source) if "--source" not in words else ()
    out = tmp_path / "run"
    line = refused(capsys, "train", *given, *words, "--steps", 1, "--out", out, *TINY_OPTIONS)
    assert said in line and not out.exists()


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("module:Class", True),
        ("package.module:function", True),
        ("module:Class+smc", False),
        ("http://host/path", False),
        ("C:/pictures", False),
        ("s3:bucket/key", False),
        (":Class", False),
        ("module:", False),
    ],
)
def test_which_names_are_code(name: str, own: bool) -> None:
    assert is_own_code(name) is own


def test_a_model_of_the_guides_name_is_not_trusted_by_it(
    source: Path, tmp_path: Path, capsys: Out
) -> None:
    """Where only the model is needed, too."""
    run = dots(source, tmp_path / "run", capsys)
    config = run / "config.json"
    text = config.read_text()
    config.write_text(re.sub(r'"guide": "amortised"', '"guide": "dots:Dots"', text))
    sys.modules.pop("dots")
    with pytest.raises(UserError, match="code of its own, dots:Dots"):
        Run(run).load_model()
    assert "--trust dots:Dots" in refused(capsys, "sample", run, "--out", "sheet.png")
    assert "dots" not in sys.modules
    assert Run(run).load_model(trusted=["dots:Dots"]).title == "Dots"


def test_public_names_exist() -> None:
    for name in dood_pyro.__all__:
        assert getattr(dood_pyro, name) is not None
