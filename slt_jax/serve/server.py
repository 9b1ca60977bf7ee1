"""The HTTP server under the service: uvicorn, with bounds for connections, and an end that finishes what runs."""

import asyncio
import logging
import resource
import socket
import sys
from contextlib import ExitStack, suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from slt_jax.errors import UserError
from slt_jax.serve.app import Service

LOG = logging.getLogger("slt_jax.serve")
HEADER_SECONDS = 10.0  # for the head of a request
DRAIN_SECONDS = 60.0  # for what runs when the service is told to stop
CLOSE_SECONDS = 5.0  # for a client to take what is left for it
FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\nConnection: close\r\n\r\n"


class Connection(H11Protocol):
    """uvicorn's, which gives up on a request whose head does not come, and takes no more than `most` connections."""

    most = 256

    def connection_made(self, transport: Any) -> None:
        """As uvicorn's; more than `most` are turned away."""
        super().connection_made(transport)
        self._waits: asyncio.TimerHandle | None = None
        if len(self.connections) > self.most:
            LOG.info("%s refused: %d connections are open", (self.client or "?")[0], self.most)
            transport.write(FULL)
            transport.close()
            return
        self._waits = self.loop.call_later(HEADER_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's."""
        super().data_received(data)
        unfinished = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not unfinished and self._waits is not None:
            self._waits.cancel()
            self._waits = None
        elif unfinished and self._waits is None:
            self._waits = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        if self._waits is not None:
            self._waits.cancel()
        super().connection_lost(exc)


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's, which does not wait for a client that reads nothing once its session is over."""

    def on_task_complete(self, task: asyncio.Task) -> None:
        """As uvicorn's."""
        super().on_task_complete(task)
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """uvicorn's, which finishes sessions and uploads before it closes connections."""

    def __init__(self, service: Service, host: str, port: int):
        Connection.most = int(service.bounds.max_connections)
        self._service = service
        super().__init__(uvicorn.Config(
            service.app, host=host, port=port, http=Connection, ws=WebSocketConnection, log_config=None,
            access_log=False, ws_max_size=service.bounds.picture_bytes + 1024, ws_per_message_deflate=False,
            server_header=False, timeout_graceful_shutdown=int(CLOSE_SECONDS), lifespan="on", proxy_headers=False,
        ))  # fmt: skip
        logging.getLogger("uvicorn").setLevel(logging.WARNING)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, finish what runs, then as uvicorn's."""
        for listening in self.servers:
            listening.close()
        if self._service.sessions or self._service.uploads.open:
            LOG.info("finishing %d sessions and %d uploads", self._service.sessions, self._service.uploads.open)
        draining = asyncio.create_task(self._service.drain(DRAIN_SECONDS))
        while not draining.done() and not self.force_exit:
            await asyncio.sleep(0.05)
        draining.cancel()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError if the address cannot be had."""
    with ExitStack() as failing:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            listening = failing.enter_context(socket.socket(family))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(128)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"--host {host} --port {port}: cannot listen there ({reason})") from None
        failing.pop_all()
    return listening


def address(listening: socket.socket) -> str:
    """Where the page of a listening socket is, for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def show_log() -> None:
    """Print the service's log, a line for each request and session."""
    log, handler = logging.getLogger("slt_jax.serve"), logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def serve(service: Service, listening: socket.socket) -> int:
    """Serve until SIGTERM or Ctrl-C; a second Ctrl-C ends at once. Returns the exit code, 1 without a model."""
    with suppress(ValueError, OSError):  # a connection is an open file
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4 * int(service.bounds.max_connections) + 1024
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    server = Server(service, *listening.getsockname()[:2])
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    return 1 if service.failure else 0
