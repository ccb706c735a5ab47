"""HTTP for the page to draw on: its files, its requests, its limits. ``dood-pyro draw`` runs `serve`.

A request is a POST of JSON to /api/TASK (`dood_pyro.page.answers`), and an answer is JSON, or
``{"error": line}`` with a status of 4xx or 5xx. Requests of other sites are refused: their pages cannot
send JSON without leave, which is never given, and a Host that is not ours is not answered.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dood_pyro.errors import UserError
from dood_pyro.extras import extra
from dood_pyro.page.answers import Answers, file_of

with extra("draw"):
    import anyio
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles


LARGEST = 16 * 2**20
"""Bytes of a request."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")
SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every answer."""

GONE = Response(status_code=499)
"""Answer to a request that nobody waits for any more."""

T = TypeVar("T")
log = logging.getLogger(__name__)


def application(answers: Answers, hosts: tuple[str, ...] = LOCAL) -> Starlette:
    """The page as an ASGI application.

    Args:
        hosts: names that it may be asked for under; ``("*",)`` for any.
    """
    # As many at a time as there are cores: more would only make each slower.
    cores = max(1, os.cpu_count() or 1)
    # A turn is taken before a thread, to ask in between whether anybody waits still.
    turns, threads = anyio.CapacityLimiter(cores), anyio.CapacityLimiter(cores)

    async def compute(
        request: Request, task: Callable[[Mapping[str, Any]], T], given: Mapping[str, Any]
    ) -> T:
        async with turns:
            # Whoever draws on asks anew, and waits no longer for what was asked before.
            if await request.is_disconnected():
                raise ClientDisconnect
            # Abandoned when the page ends: nobody waits for it then.
            run = anyio.to_thread.run_sync
            return await run(partial(task, given), abandon_on_cancel=True, limiter=threads)

    async def answer(request: Request) -> Response:
        name = request.path_params["task"]
        if name != "file" and name not in answers.tasks:
            return _error(f"there is no task {name!r}", 404)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _error("a request is JSON", 415)
        try:
            given = json.loads(await _body(request))
            if not isinstance(given, Mapping):
                raise ValueError
        except _TooLarge:
            return _error(
                f"a request has {LARGEST // 2**20} MB at most: take a smaller picture", 413
            )
        except ClientDisconnect:
            return GONE
        except (ValueError, RecursionError):
            return _error("the request is not a JSON object", 400)
        try:
            if name == "file":
                content, kind, suffix = await compute(request, file_of, given)
                shown = {"Content-Disposition": f'attachment; filename="drawing.{suffix}"'}
                return Response(content, media_type=kind, headers=shown)
            task: Callable[[Mapping[str, Any]], dict[str, Any]] = answers.tasks[name]
            return JSONResponse(await compute(request, task, given))
        except ClientDisconnect:
            return GONE
        except UserError as error:
            return _error(str(error), 422)
        except MemoryError:
            return _error("there is not enough memory for that", 500)
        except Exception:  # one bad request must not end the page
            log.exception("a request of %s failed", name)
            return _error("that failed; the terminal that runs the page says why", 500)

    class Headers:
        """Adds `SAFE` to every answer."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def with_headers(message: Any) -> None:
                if message["type"] == "http.response.start":
                    added = [(n.lower().encode(), v.encode()) for n, v in SAFE.items()]
                    message = {**message, "headers": [*message["headers"], *added]}
                await send(message)

            await self.app(scope, receive, with_headers)

    return Starlette(
        routes=[
            Route("/api/{task}", answer, methods=["POST"]),
            Mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True)),
        ],
        middleware=[
            Middleware(Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
    )


def _error(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": " ".join(message.split())}, status)


class _TooLarge(Exception):
    """A request has more bytes than are read."""


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST:
            raise _TooLarge
        parts.append(part)
    return b"".join(parts)


def tasks_still_run() -> bool:
    """Whether a thread of the pool is at work."""
    return any(
        "WorkerThread" in type(each).__name__ and each.is_alive() for each in threading.enumerate()
    )


def serve(
    host: str,
    port: int,
    folder: Path,
    browser: bool,
    say: Callable[[str], None],
) -> None:
    """Serve the page until a signal ends it.

    Args:
        folder: of the menu's runs.
        browser: whether to open the page in one.
        say: called with a line once the page can be opened.

    Raises:
        UserError: the address cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OverflowError:
        raise UserError(f"a port is a number up to 65535, not {port}") from None
    except OSError as error:
        raise UserError(
            f"cannot serve at {host}:{port}: {error.strerror}; choose another --port or --host"
        ) from None
    listening.listen(128)
    local = host in ("127.0.0.1", "localhost", "::1")
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}/"
    app = application(Answers(folder), LOCAL if local else ("*",))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    say(f"draw at {url}  (Ctrl-C ends it)")
    if browser:  # beside the server: some browsers hold what opens them until they have the page
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        server.run([listening])
    finally:
        # A task that still computes has nobody to answer, and would hold the process.
        if tasks_still_run():
            os._exit(0)
