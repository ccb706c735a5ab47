"""The code in the documentation runs as it stands; where it would take minutes, with fewer steps."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import yaml
from dood_pyro.cli.main import main
from PIL import Image, ImageDraw

import dood_pyro
from dood_pyro.registry import ESTIMATORS, GUIDES, MODELS, SEARCH_GUIDES, SOURCES, TASKS, Component
from dood_pyro.run_folders.run import Run
from tests.test_cli import run as run

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS.parent / "experiments"))
import departures  # noqa: E402


def blocks_of(text: str, language: str) -> list[str]:
    """The blocks of a page in a language, in order; "" for those that name none."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [code for name, code in blocks if name == language]


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_plain_pyro_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pyro.clear_param_store()
    code = "\n".join(blocks_of((DOCS / "pyro.md").read_text(), "python"))
    code, changed = re.subn(r"^STEPS = \d+$", "STEPS = 2", code, flags=re.MULTILINE)
    assert changed == 1
    exec(compile(code, "docs/pyro.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("nats per image") == 2 and "nan" not in printed
    pyro.clear_param_store()


def test_the_page_on_strokes_runs() -> None:
    for code in blocks_of((DOCS / "strokes.md").read_text(), "python"):
        exec(compile(code, "docs/strokes.md", "exec"), {})


def commands_of(text: str) -> list[list[str]]:
    """The ``dood-pyro`` commands of a page, as words, in order."""
    blocks = (block.replace("\\\n", " ") for block in blocks_of(text, ""))
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("dood-pyro ")]


def test_the_page_on_extending_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file of the page is written where one works, and every command run on it."""
    text = (DOCS / "extending.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = []
    for code in blocks_of(text, "python"):
        name = re.match(r"# (\w+)\.py\n", code)
        assert name is not None, code[:40]
        (tmp_path / f"{name[1]}.py").write_text(code)
        names.append(name[1])
    assert names == ["plain", "dots", "warm", "rings", "ink"]
    line = re.search(r'`"ink": (Component\(.*?\)),`', text)
    assert line is not None
    monkeypatch.setitem(TASKS, "ink", eval(line[1], {"Component": Component}))
    few = ["--steps", "2", "--batch-size", "4", "--no-tensorboard", "--set", "model.features=16"]
    try:
        for command in commands_of(text):
            if command[0] == "train":
                at = command.index("--budget")
                command[at : at + 2] = few
            if "--limit" in command:
                command[command.index("--limit") + 1] = "2"
            if command[0] == "sample":
                command += ["--count", "2"]
            if command[0] == "reconstruct":
                command += ["--count", "2"]
            with pytest.raises(SystemExit) as ended:
                main(command)
            out, err = capsys.readouterr()
            assert ended.value.code in (0, None), (command, err)
    finally:
        for name in names:
            sys.modules.pop(name, None)
    assert "% of the ink is missing" in out


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("guides.md", [*GUIDES, *SEARCH_GUIDES, *ESTIMATORS]),
        ("departures.md", [name for name in MODELS if name != "dood"]),
        ("data.md", list(SOURCES)),
    ],
)
def test_tables_list_what_the_registry_has(page: str, names: list[str]) -> None:
    cells = re.findall(r"^\| ([^|]+) \|", (DOCS / page).read_text(), re.MULTILINE)
    listed = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert set(names) <= listed


def test_the_papers_program_is_that_of_the_table() -> None:
    (command,) = commands_of((DOCS / "departures.md").read_text())
    at = command.index("--budget") + 2
    assert command[:at] == ["train", "--model", "dood", "--source", "mnist", "--budget", "90m"]
    assert command[at:] == list(departures.ROWS["paper"].options)


@pytest.mark.parametrize("page", ["departures.md", "guides.md"])
def test_trainings_of_other_pages_begin(
    page: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a run at hand, two steps and few images."""
    monkeypatch.chdir(tmp_path)
    commands = [each for each in commands_of((DOCS / page).read_text()) if each[0] == "train"]
    assert commands
    for index, words in enumerate(commands):
        words = [str(run.path) if word == "RUN" else word for word in words]
        words[words.index("--source") + 1] = str(source)
        at = words.index("--budget")
        words[at : at + 2] = ["--steps", "2", "--batch-size", "4", "--no-tensorboard"]
        if "--out" not in words:
            words += ["--out", f"runs/{index}"]
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code in (0, None), (words, capsys.readouterr().err)


def test_files_to_copy_for_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    """They are whole, and name options that there are."""
    files = sorted((DOCS / "clusters").iterdir())
    assert [file.name for file in files] == ["ray.slurm", "ray.yaml", "torchrun.slurm"]
    for file in files:
        text = file.read_text()
        assert f"clusters/{file.name}" in (DOCS / "clusters.md").read_text()
        if file.suffix == ".slurm":
            subprocess.run(["bash", "-n", file], check=True)
        else:
            text = yaml.safe_load(text)["spec"]["entrypoint"]
        command = text.replace("\\\n", " ").split("dood-pyro ")[-1].split("dood_pyro.cli ")[-1]
        name, *words = command.split("\n")[0].split()
        with pytest.raises(SystemExit):
            main([name, "--help"])
        offered = capsys.readouterr().out
        options = [word for word in words if word.startswith("--")]
        assert options and all(f"{option} " in offered for option in options)


def test_the_tutorial_runs(tmp_path: Path) -> None:
    """With a budget of seconds; in a process of its own, as a notebook is."""
    cells = json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code, changed = re.subn(r"^MINUTES = 5$", "MINUTES = 1 / 12", code, flags=re.MULTILINE)
    assert changed == 1
    for many, few in (("particles=20, limit=50", "particles=2, limit=2"), ("limit=10", "limit=1")):
        assert many in code
        code = code.replace(many, few)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nats per image") == 4
    assert (tmp_path / "tutorial.svg").is_file()


@pytest.mark.slow
def test_the_documentation_is_built_without_a_warning(tmp_path: Path) -> None:
    """Links between its pages are checked, too."""
    words = ["-q", "--fail-on-warning", "--keep-going", "-c", "docs", "."]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, tmp_path / "site"],
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for page in ("index", "start", "tutorial", "draw", "commands", "reference", "science"):
        assert (tmp_path / "site" / "docs" / f"{page}.html").is_file()
    assert (tmp_path / "site" / "_static" / "mathjax").is_dir()
    assert not [
        page.name
        for page in (tmp_path / "site").rglob("*.html")
        if re.search(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="https?://', page.read_text())
    ]  # read without network
    reference = (tmp_path / "site" / "docs" / "reference.html").read_text()
    missing = [name for name in dood_pyro.__all__ if f'id="dood_pyro.{name}"' not in reference]
    assert not missing


def test_the_page_on_starting_runs(tmp_path: Path) -> None:
    """Its Python, on a picture of one line."""
    code = "\n".join(blocks_of((DOCS / "start.md").read_text(), "python"))
    picture = (
        "import numpy, PIL.Image\np = numpy.full((60, 60), 255, 'uint8')\np[28:32, 9:51] = 0\n"
    )
    picture += "PIL.Image.fromarray(p).save('drawing.png')\n"
    done = subprocess.run(
        [sys.executable, "-c", picture + code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drawing.svg").is_file()


def test_the_page_on_making_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, on folders with a picture each."""
    monkeypatch.chdir(tmp_path)
    picture = Image.new("L", (60, 60), 255)
    ImageDraw.Draw(picture).line((10, 10, 50, 50), fill=0, width=4)
    for name in ("scans/one.png", "glyphs/A.png", "book.tif", "sketch.png"):
        Path(name).parent.mkdir(exist_ok=True)
        picture.save(name)
    for words in commands_of((DOCS / "making.md").read_text()):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert not stopped.value.code, words
    assert Path("sketch.svg").is_file() and Path("hand.ufo").is_dir()
    assert Path("strokes/one.json").is_file() and Path("strokes/book.svg").is_file()


README = (DOCS.parent / "README.md").read_text()


@pytest.fixture
def with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the pictures that the README names."""
    monkeypatch.chdir(tmp_path)
    for index in range(6):
        picture = Image.new("L", (60, 60), 255)
        ImageDraw.Draw(picture).line((10, 10 + 6 * index, 50, 50), fill=0, width=4)
        names = ["drawing.png", "cat.jpg", "sheet.png", "character.png", "scans/one.png"]
        for name in (f"my-pictures/{index}.png", *(names if not index else [])):
            Path(name).parent.mkdir(exist_ok=True)
            picture.save(name)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_readme_run(
    with_pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they stand, but for fewer seconds, particles and images, and the page, which has tests."""
    lines = [line for block in blocks_of(README, "") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("dood-pyro ")]
    assert len(commands) > 14
    for _, *words in commands:
        if words == ["draw"]:
            continue
        if "--budget" in words:
            at = words.index("--budget")
            words[at + 1] = "4s" if "--resume" in words else "2s"
        if words[0] == "train" and "--resume" not in words:
            words += ["--batch-size", "8", "--no-tensorboard"]
        for option, few in (("--limit", "1"), ("--particles", "3")):
            if option in words:
                words[words.index(option) + 1] = few
        with pytest.raises(SystemExit) as ended:
            main(words)
        _, err = capsys.readouterr()
        assert ended.value.code in (0, None), (words, err)
    assert (with_pictures / "runs" / "dood-transformer-my-pictures-0").is_dir()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(with_pictures: Path) -> None:
    code = "\n".join(blocks_of(README, "python"))
    for many, few in (
        ("seconds=300", "steps=2"),
        ('evaluate(run, "digits")', 'evaluate(run, "digits", particles=2, limit=2)'),
    ):
        assert many in code
        code = code.replace(many, few)
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=with_pictures, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (with_pictures / "character.svg").is_file()


def test_the_science_names_code_that_there_is() -> None:
    text = (DOCS / "science.md").read_text()
    names = re.findall(r"`([A-Z]\w+)\.(\w+)`", text)
    assert len(names) > 7
    for owner, name in names:
        assert hasattr(getattr(dood_pyro, owner), name), (owner, name)
    for path in re.findall(r"`(dood_pyro/[\w/]+(?:\.py)?)/?`", text):
        assert (DOCS.parent / path).exists(), path
