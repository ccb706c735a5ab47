"""The code in the documentation runs as it stands; where it would take minutes, with fewer steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import yaml
from dood_pyro.cli.main import main

from dood_pyro.registry import ESTIMATORS, GUIDES, MODELS, SEARCH_GUIDES, SOURCES, TASKS, Component

DOCS = Path(__file__).parent.parent / "docs"


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
    lines = [line for block in blocks_of(text, "") for line in block.splitlines()]
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
