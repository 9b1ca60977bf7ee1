"""Who may ask: token, origin and host; and what every answer carries. One line of log for each request."""

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slt_jax.errors import UserError, shortened
from slt_jax.serve.bounds import Bounds, Refused
from slt_jax.serve.metrics import Metrics

LOG = logging.getLogger("slt_jax.serve")
PROBES = ("/healthz", "/readyz", "/metrics")  # asked for every few seconds, and so not logged
SHORTEST_TOKEN = 8
# The page loads nothing from elsewhere, and nobody else's page may show it in a frame.
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
CARRIED = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=()", "Cache-Control": "no-store",
}  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None) -> None:
    """Raises UserError where a token is needed and not given, or one is of no use."""
    if token is None and not is_loopback(host):
        raise UserError(f"--host {host}: others can reach it, so it needs --token (or the variable SLT_SERVE_TOKEN)")
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(f"--token: takes {SHORTEST_TOKEN} or more printable ASCII characters")


class Access:
    """An ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, token: str | None, bounds: Bounds, metrics: Metrics, known: Iterable[str]):
        self.app, self._token, self._bounds, self._metrics = app, token, bounds, metrics
        self._known = frozenset(known)  # paths, by which requests are counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        try:
            self._check(scope["type"], scope["path"], connection.headers)
        except Refused as refused:
            answer: ASGIApp = JSONResponse({"error": refused.message}, refused.status, refused.headers)
        else:
            answer = self.app
        if scope["type"] == "websocket":
            await answer(scope, receive, send)
            return
        began, status, whole = time.monotonic(), 499, False

        async def passed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(CARRIED)
            elif status >= 400 and not whole and not message.get("more_body", False) and sends(connection.headers):
                await told({**message, "more_body": True})
                await self._discard(receive)
                message = {"type": "http.response.body"}
            await told(message)

        async def told(message: Message) -> None:
            async with asyncio.timeout(self._bounds.idle_seconds):  # a reader that never reads
                await send(message)

        async def received() -> Message:
            nonlocal whole
            if whole:  # what comes now is that the client has gone, after however long
                return await receive()
            async with asyncio.timeout(self._bounds.idle_seconds):
                message = await receive()
            whole = not message.get("more_body", False)
            return message

        try:
            await answer(scope, received, passed)
        except TimeoutError:
            pass
        finally:
            path = scope["path"] if scope["path"] in self._known else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            if path not in PROBES or status not in (200, 503):
                shown = shortened(ascii(scope["path"])[1:-1], 100)
                seconds = time.monotonic() - began
                LOG.info("%s %s %s %d %.2f s", client(scope), scope["method"], shown, status, seconds)

    async def _discard(self, receive: Receive) -> None:
        """Read what still comes of a refused request, for a while.

        A client that sends all before it reads would otherwise find its connection reset, and not the answer.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.idle_seconds):
                while (await receive()).get("more_body", False):
                    pass

    def _check(self, kind: str, path: str, headers: Headers) -> None:
        """Raises Refused."""
        host = headers.get("host", "")
        if self._token is None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            # Another page's name that leads to this machine, so that its scripts could ask us.
            raise Refused(421, "without --token, only this machine's own names are answered")
        origin = headers.get("origin")
        if origin is not None and (kind == "websocket" or path.startswith("/v1/")) and urlsplit(origin).netloc != host:
            raise Refused(403, "a page from elsewhere may not ask")
        guarded = kind == "http" and (path.startswith("/v1/") or path == "/metrics")  # a stream's token comes later
        if guarded and self._token is not None and not same(bearer(headers), self._token):
            raise Refused(401, "the token is missing or wrong: Authorization: Bearer TOKEN")


def sends(headers: Headers) -> bool:
    """Whether a client sends a body without being asked to go on."""
    return (headers.get("content-length", "0") != "0" and "expect" not in headers) or "transfer-encoding" in headers


def bearer(headers: Headers) -> str:
    """The token in the header Authorization, or nothing."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else ""


def same(given: str, token: str) -> bool:
    """Whether two tokens are the same, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), token.encode())


def client(scope: Scope) -> str:
    """The address of who asks, for the log."""
    return (scope.get("client") or ("?",))[0]
