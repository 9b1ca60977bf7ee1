"""The service: its routes, and what they share from the start of the process to its end."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from slt_jax.serve.access import Access, bearer, client, same
from slt_jax.serve.batching import Batcher
from slt_jax.serve.bounds import BUSY, Bounds, Refused
from slt_jax.serve.metrics import Metrics
from slt_jax.serve.openapi import document
from slt_jax.serve.scratch import Scratch
from slt_jax.serve.session import Session
from slt_jax.serve.uploads import Uploads

LOG = logging.getLogger("slt_jax.serve")
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
PARTS = {"/": "page.html", "/docs": "docs.html"} | {f"/{name}": name for name in (
    "page.css", "page.js", "service.js", "camera.js", "draw.js", "texts.js", "docs.js", "icon.svg")}  # fmt: skip


class Service:
    """What the routes share. `app` is the whole service for an ASGI server.

    `sample` is a video that the page offers to play instead of a camera.
    """

    def __init__(self, model: Any, bounds: Bounds, *, token: str | None = None, sample: str | Path | None = None,
                 scratch: str | Path | None = None):  # fmt: skip
        self.model, self.bounds, self._token, self._sample = model, bounds, token, sample
        self._scratch_root = scratch
        self.metrics, self.sessions = Metrics(), 0
        self.ready, self.draining = asyncio.Event(), asyncio.Event()
        self.failure: BaseException | None = None  # why it never became ready
        self.uploads: Uploads
        self._batcher: Batcher
        self._threads: ThreadPoolExecutor
        self._parts = {path: (package_files("slt_jax.serve") / "page_parts" / name).read_bytes()
                       for path, name in PARTS.items()}  # fmt: skip
        routes: list[Any] = [Route(path, partial(self._part, path)) for path in PARTS]
        routes += [
            Route("/openapi.json", self._document), Route("/healthz", self._health), Route("/readyz", self._ready),
            Route("/metrics", self._metrics_text), Route("/v1/models", self._models),
            Route("/v1/translate", self._translate, methods=["POST"]), WebSocketRoute("/v1/stream", self._stream),
            Route("/v1/stream", upgrade_required, methods=["GET"]),
            *([Route("/sample", self._sample_video)] if sample else []),
        ]  # fmt: skip
        inner = Starlette(
            routes=routes, lifespan=self._lifespan,
            exception_handlers={Refused: refused, HTTPException: not_found, Exception: failed},
        )  # fmt: skip
        inner.router.redirect_slashes = False
        known = [route.path for route in routes]
        self.app: ASGIApp = Access(inner, token=token, bounds=bounds, metrics=self.metrics, known=known)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            scratch = stack.enter_context(Scratch(self._scratch_root))
            self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "slt-look")
            stack.callback(self._threads.shutdown, wait=False, cancel_futures=True)
            self.uploads = Uploads(self.model, self.bounds, scratch.path, self.metrics)
            self._batcher = Batcher(self.model.push, self.model.finish, self.metrics)
            for work in (self._batcher.run(), self._compile()):
                stack.push_async_callback(ended, asyncio.create_task(work))
            yield

    async def _compile(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self.model.compile)
        except Exception as error:
            self.failure = error
            LOG.error("the model cannot be made ready: %s", " ".join(str(error).split()))
            return
        self.ready.set()
        LOG.info("ready")

    def _check_ready(self) -> None:
        """Raises Refused."""
        if self.failure is not None:
            raise Refused(503, "the model cannot be made ready; the service's log says why")
        if self.draining.is_set():
            raise Refused(503, "the service stops", retry=30)
        if not self.ready.is_set():
            raise Refused(503, "the model is being made ready; try again soon", retry=5)

    async def _part(self, path: str, _: Request) -> Response:
        return Response(self._parts[path], media_type=KINDS[PARTS[path].rpartition(".")[2]])

    async def _document(self, _: Request) -> Response:
        return JSONResponse(document(self.bounds, token=self._token is not None))

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, _: Request) -> Response:
        self._check_ready()
        return PlainTextResponse("ready\n")

    async def _metrics_text(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"models": [self.model.described()], "sample": self._sample is not None})

    async def _sample_video(self, _: Request) -> Response:
        return FileResponse(str(self._sample))

    async def _translate(self, request: Request) -> Response:
        self._check_ready()
        return await self.uploads.answer(request)

    async def _stream(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            self._check_ready()
            if self.sessions >= self.bounds.max_sessions:
                raise Refused(503, f"all {self.sessions} places are taken; try again later")
        except Refused as full:
            LOG.info("%s stream %d %s", client(socket.scope), BUSY, full.message)
            self.metrics.endings.labels(str(BUSY)).inc()
            await socket.close(BUSY, full.message)
            return
        self._count(1)
        try:
            await Session(
                socket, self.model, self._batcher, self.bounds, self.metrics,
                allowed=partial(self._allowed, socket), draining=self.draining, threads=self._threads,
            ).run()  # fmt: skip
        finally:
            self._count(-1)

    def _allowed(self, socket: WebSocket, given: str) -> bool:
        """Whether a session may begin: by the token of its start message, or by that of its headers."""
        return self._token is None or same(given or bearer(socket.headers), self._token)

    def _count(self, number: int) -> None:
        self.sessions += number
        self.metrics.sessions.set(self.sessions)

    async def drain(self, seconds: float) -> None:
        """Refuse what is new, and wait until what runs is finished, at most `seconds`."""
        self.draining.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.sessions or self.uploads.open:
                    await asyncio.sleep(0.05)


async def ended(task: asyncio.Task) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def refused(_: Request, error: Exception) -> Response:
    """The answer to what the service does not take."""
    assert isinstance(error, Refused)
    return JSONResponse({"error": error.message}, error.status, error.headers)


async def not_found(_: Request, error: Exception) -> Response:
    """The answer to a path or a method that there is not."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def upgrade_required(_: Request) -> Response:
    """What a plain request for the WebSocket gets."""
    return JSONResponse({"error": "this path is a WebSocket"}, 426, {"Upgrade": "websocket"})


async def failed(request: Request, error: Exception) -> Response:
    """The answer where the service itself has failed; Starlette logs nothing more of it than we do."""
    return JSONResponse({"error": "the service has failed; its log says why"}, 500)
