"""A page to draw on, served by the command as anyone starts it, for tests of the page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Served:
    """A page that is being served: its address, and how long it took to come up."""

    def __init__(self, url: str, seconds: float, process: subprocess.Popen[str]) -> None:
        self.url, self.seconds, self.process = url, seconds, process

    def post(self, task: str, values: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and answer of a request of JSON, or of bytes."""
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{self.url}api/{task}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else {"error": text}


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Serve the page from a folder, which may have runs."""
    words = [sys.executable, "-m", "dood_pyro.cli", "draw", "--no-browser", "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        yield Served(found[0], time.perf_counter() - began, process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        finally:
            process.kill()
