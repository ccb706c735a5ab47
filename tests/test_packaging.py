"""What is packaged and tracked: every package is installed, the tree stays small, versions agree."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MIB = 2**20


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_packages_are_the_folders_of_modules() -> None:
    listed = setup_cfg()["options"]["packages"].split()
    folders = [file.parent for file in (ROOT / "dood_pyro").rglob("__init__.py")]
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert len(listed) == len(set(listed))
    assert set(listed) == found | {"dood_pyro.cli"}  # which lies in cli/
    assert (ROOT / "cli" / "__init__.py").is_file()
    modules = {file.parent for folder in folders for file in folder.rglob("*.py")}
    assert modules <= set(folders)  # none in a folder that is no package


def test_tracked_files_stay_small() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    try:
        ran = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no git")
    if ran.returncode:
        pytest.skip("git cannot read the repository")
    sizes = {
        name: path.lstat().st_size
        for name in ran.stdout.split("\0")
        if name and ((path := ROOT / name).is_file() or path.is_symlink())
    }
    assert "setup.cfg" in sizes
    assert sum(sizes.values()) < 48 * MIB
    assert [name for name, size in sizes.items() if size > 10 * MIB] == []


def test_versions_agree() -> None:
    version = setup_cfg()["metadata"]["version"]
    newest = re.search(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = (ROOT / "CITATION.cff").read_text()
    assert newest is not None
    assert newest[1] == version
    assert f"\nversion: {version}\n" in cited
    assert f'\ndate-released: "{newest[2]}"\n' in cited


LEFT_OUT = ("sklearn", "torchmetrics", "tensorboard", "starlette", "uvicorn", "playwright", "ray")
"""Modules of the extras."""


@pytest.mark.slow
def test_the_wheel_of_the_sdist_parses_without_extras(tmp_path: Path) -> None:
    """Built from tracked files alone, installed in an environment that has no other dood-pyro."""
    source = tmp_path / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git repository")
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith(("dood_pyro/", "cli/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    build = "from setuptools import build_meta; print(build_meta.build_sdist('out'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (archive,) = (source / "out").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    build = build.replace("build_sdist", "build_wheel")
    subprocess.run([sys.executable, "-c", build], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = (unpacked / "out").glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "dood_pyro/cli/main.py",
        "dood_pyro/page/static/index.html",
        "dood_pyro/weights/joins.npz",
        "dood_pyro/weights/omniglot/best.safetensors",
        "dood_pyro/weights/omniglot/README.md",
        "dood_pyro/py.typed",
    } <= held

    home = tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    # Dependencies are those of this environment, whose own dood-pyro is not on that path.
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in LEFT_OUT:
        (blocked / f"{name}.py").write_text(f"raise ModuleNotFoundError('gone', name={name!r})")
    paths = [blocked, *(path for path in map(Path, sys.path) if path.name == "site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    python, picture = home / "bin" / "python", tmp_path / "line.png"
    program = f"""
import time, numpy, PIL.Image
began = time.perf_counter()
import dood_pyro
picture = numpy.full((60, 60), 255, "uint8")
picture[28:32, 10:50] = 0
PIL.Image.fromarray(picture).save({str(picture)!r})
dood = dood_pyro.load("omniglot")
assert len(dood.parse(picture)) == 1, dood.parse(picture)
seconds = time.perf_counter() - began
assert len(dood.sample(2)) == 2
assert {str(site)!r} in dood_pyro.__file__, dood_pyro.__file__
print(dood_pyro.__version__, seconds)
"""

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = run("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == setup_cfg()["metadata"]["version"]
    done = run("-m", "dood_pyro.cli", "parse", picture)
    assert done.returncode == 0 and (tmp_path / "line.svg").is_file(), done.stderr
    for words, extra in (
        ("draw --no-browser", "draw"),
        ("train --source digits --steps 1", "train"),
    ):
        done = run("-m", "dood_pyro.cli", *words.split())
        assert done.returncode == 1 and f"dood-pyro[{extra}]" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
