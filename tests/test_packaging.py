"""What is packaged and tracked: every package is installed, the tree stays small, versions agree."""

from __future__ import annotations

import configparser
import re
import subprocess
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
