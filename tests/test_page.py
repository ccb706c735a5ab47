"""The page to draw on, over HTTP: tasks answer, and nothing that is asked ends it or tells paths."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from dood_pyro.cli.main import main
from PIL import Image, ImageDraw

from dood_pyro.drawing import Drawing
from dood_pyro.page.answers import Answers
from dood_pyro.page.server import application
from tests.page_served import Served, served


def data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def drawn(*lines: tuple[int, int, int, int], side: int = 105) -> str:
    picture = Image.new("L", (side, side), 255)
    for line in lines:
        ImageDraw.Draw(picture).line(line, fill=0, width=5)
    return data_url(picture)


def far_away() -> dict[str, Any]:
    """A drawing whose only stroke would take for ever to draw."""
    curve = [[0.0, 0.0], [1e7, 0.0], [1e7, 0.0], [1e7, 0.0]]
    return {"width": 100, "height": 100, "strokes": [{"control": [curve], "width": 3.0}]}


CROSS = drawn((20, 20, 85, 85), (85, 20, 20, 85))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with served(folder) as found:
        yield found
    assert found.process.returncode == 0  # Ctrl-C is how it is ended


def test_every_task_answers(page: Served) -> None:
    status, answer = page.post("runs", {})
    assert status == 200 and "omniglot" in [run["name"] for run in answer["runs"]]
    given = {"picture": CROSS, "run": "omniglot"}
    for method in ("ink", "guide"):
        status, answer = page.post("parse", {**given, "method": method})
        found = Drawing.from_json(answer["drawing"])
        assert status == 200 and (found.width, found.height) == (105, 105)
        assert len(found) == 2 or method == "guide"
        assert found.explained > 0.8
    status, answer = page.post("complete", {**given, "count": 3, "seed": 1})
    assert status == 200 and len(answer["drawings"]) == 3
    for each in map(Drawing.from_json, answer["drawings"]):
        assert each.given == 2 and len(each) > 2
    status, answer = page.post("exemplars", {**given, "count": 2})
    assert status == 200 and len(answer["drawings"]) == 2
    status, answer = page.post("samples", {"run": "omniglot", "count": 4, "temperature": 0.7})
    assert status == 200 and len(answer["drawings"]) == 4
    examples = [CROSS, drawn((50, 10, 50, 95)), drawn((10, 10, 10, 95), (10, 95, 95, 95))]
    asked = drawn((48, 14, 52, 90))
    status, answer = page.post("rank", {"run": "omniglot", "examples": examples, "picture": asked})
    assert status == 200 and answer["order"][0] == 1 and sorted(answer["order"]) == [0, 1, 2]
    assert answer["behind"][0] == 0 and answer["behind"] == sorted(answer["behind"])
    status, answer = page.post("steps", given)
    assert status == 200 and 2 <= len(answer["steps"]) <= 6
    assert answer["steps"][0]["on"] > 0.5 and len(answer["steps"][0]["frame"]) == 5


def test_drawings_are_saved_in_every_format(page: Served) -> None:
    _, answer = page.post("parse", {"picture": CROSS})
    starts = {"svg": b"<svg", "json": b"{", "gif": b"GIF8", "npz": b"PK"}
    for suffix, start in starts.items():
        body = json.dumps({"drawing": answer["drawing"], "format": suffix}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{page.url}api/file", body, headers)
        with urllib.request.urlopen(request) as file:
            assert file.headers["Content-Disposition"].endswith(f'"drawing.{suffix}"')
            assert file.read().startswith(start)


def test_bad_requests_get_a_line_and_the_page_goes_on(page: Served, tmp_path: Path) -> None:
    whole = {"picture": CROSS, "run": "omniglot"}
    cut = CROSS[: len(CROSS) // 2 // 4 * 4]
    requests: list[tuple[str, object, int]] = [
        ("parse", b"{", 400),
        ("parse", b"[1]", 400),
        ("parse", b"[" * 100_000, 400),
        ("parse", {}, 422),
        ("parse", {"picture": "data:image/png;base64,AAAA"}, 422),
        ("parse", {"picture": cut}, 422),
        ("parse", {"picture": data_url(Image.new("L", (105, 105), 255))}, 422),
        ("parse", {"picture": data_url(Image.new("1", (9000, 4)))}, 422),
        ("parse", {**whole, "method": "magic"}, 422),
        ("parse", {**whole, "method": "guide", "run": "../../etc"}, 422),
        ("complete", {**whole, "count": 10_000}, 422),
        ("complete", {**whole, "count": "six"}, 422),
        ("complete", {**whole, "seed": -1}, 422),
        ("samples", {"run": "omniglot", "temperature": 0}, 422),
        ("rank", {**whole, "examples": [CROSS]}, 422),
        ("rank", {**whole, "examples": [1, 2]}, 422),
        ("file", {"drawing": {}, "format": "svg"}, 422),
        ("file", {"drawing": {}, "format": "exe"}, 422),
        ("file", {"drawing": far_away(), "format": "gif"}, 422),
        ("samples", {"run": "omniglot", "count": 10**400}, 422),
        ("nothing", {}, 404),
        ("parse", b" " * (17 * 2**20), 413),
    ]
    for task, values, expected in requests:
        try:
            status, answer = page.post(task, values)
        except OSError:  # the server may hang up on a body that is too large
            assert expected == 413
            continue
        assert status == expected, (task, answer)
        assert "\n" not in answer["error"] and answer["error"]
        assert "/" not in answer["error"].replace("../../etc", "")
    for headers in ({"Content-Type": "text/plain"}, {"Host": "evil.example"}):
        status, _ = page.post("parse", whole, **headers)
        assert status in (400, 415)
    assert page.post("parse", whole)[0] == 200


def test_fifty_requests_side_by_side(page: Served) -> None:
    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(lambda _: page.post("parse", {"picture": CROSS}), range(50)))
    assert all(status == 200 for status, _ in statuses)
    assert all(answer == statuses[0][1] for _, answer in statuses)


def test_what_nobody_waits_for_is_not_computed(tmp_path: Path) -> None:
    """Whoever draws on asks anew before the first answer: what is queued then is dropped."""
    answers, begun, goes_on = Answers(tmp_path), threading.Semaphore(0), threading.Event()

    def slow(given: Mapping[str, Any]) -> dict[str, Any]:
        begun.release()
        goes_on.wait(30)
        return {}

    answers.tasks = {"slow": slow}
    app = application(answers)
    cores = os.cpu_count() or 1
    statuses: list[int] = []

    async def ask(leaves: bool) -> None:
        messages: list[Any] = [{"type": "http.request", "body": b"{}", "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            if not leaves:
                await anyio.sleep_forever()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/api/slow", "headers": headers}
        await app({**scope, "query_string": b"", "root_path": ""}, receive, send)

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(cores):
                group.start_soon(ask, False)
            for _ in range(cores):
                await anyio.to_thread.run_sync(begun.acquire)  # none waits for another's thread
            for _ in range(3):
                group.start_soon(ask, True)
            await anyio.sleep(0.1)
            goes_on.set()

    anyio.run(all_of_them)
    assert sorted(statuses) == [200] * cores + [499] * 3
    assert not begun.acquire(blocking=False)


def test_runs_of_a_folder_are_in_the_menu(tmp_path: Path, source: Path) -> None:
    runs = tmp_path / "runs"
    tiny = "--set model.features=8 --canvas-size 16 --max-strokes 2 --batch-size 4"
    words = f"train --source {source} --model dood --steps 2 --out {runs / 'mine'} {tiny}"
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert not stopped.value.code
    answers = Answers(runs)
    (runs / "parts").mkdir()  # draws no strokes
    for file in (runs / "mine").iterdir():
        text = file.read_bytes().replace(b'"name": "dood"', b'"name": "air"')
        (runs / "parts" / file.name).write_bytes(text)
    assert {"name": "mine", "model": "dood"} in answers.runs()
    assert "parts" not in [run["name"] for run in answers.runs()]
    assert answers.tasks["samples"]({"run": "mine", "count": 2})["drawings"]
    (runs / "mine" / "best.safetensors").write_bytes(b"damaged")
    with pytest.raises(Exception, match="mine") as refused:
        Answers(runs).tasks["samples"]({"run": "mine"})
    assert str(tmp_path) not in str(refused.value)


def test_an_address_in_use_is_said(page: Served, capsys: pytest.CaptureFixture[str]) -> None:
    port = page.url.rstrip("/").rpartition(":")[2]
    with pytest.raises(SystemExit) as stopped:
        main(["draw", "--no-browser", "--port", port])
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and "choose another --port" in said and said.count("\n") == 1


def test_nothing_of_training_is_imported() -> None:
    code = (
        "import sys, dood_pyro.page.server as server\n"
        "answers = server.Answers()\n"
        "answers.tasks['samples']({'run': 'omniglot', 'count': 1})\n"
        "print(*[name for name in sys.modules if name.startswith('dood_pyro.training')\n"
        "        or name.split('.')[0] in ('tensorboard', 'sklearn', 'torchmetrics')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_ctrl_c_ends_it_in_the_middle_of_a_task(tmp_path: Path) -> None:
    """Quietly, and at once, though a thread still computes."""
    waves = [
        [[10.0 * i, 0.0], [10.0 * i, 300.0], [0.0, 10.0 * i], [300.0, 0.0]] for i in range(1999)
    ]
    strokes = [{"control": [curve], "width": 40.0} for curve in waves]
    big = {"width": 8000, "height": 8000, "strokes": strokes}
    with served(tmp_path) as page, ThreadPoolExecutor(1) as pool:
        pool.submit(_asked, page, {"drawing": big, "format": "gif"})
        time.sleep(1)
        began = time.perf_counter()
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(10) == 0
        assert time.perf_counter() - began < 6


def _asked(page: Served, given: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        page.post("file", given)
