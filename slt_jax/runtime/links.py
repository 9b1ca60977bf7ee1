"""How the processes of a run find each other over TCP, and notice when one of them ends.

JAX's own service ends a process that waits in vain, or loses another, with pages of its log and after minutes. So
process 0 first listens where JAX's service will, until all others have called; the connections stay, and one that
closes tells that its process is gone. Messages are lines of JSON.
"""

import json
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from slt_jax.errors import UserError

TIMEOUT_SECONDS = 300.0
RETRY_SECONDS = 0.5
GRACE_SECONDS = 2.0  # for a process to end with a message of its own before it is told that another has ended
LEAVE_SECONDS = 60.0  # that the first to finish waits for the last
KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}  # a host without power is noticed in 45 s


@dataclass(frozen=True)
class Meeting:
    """Where the processes meet, and which one this is. If `coordinator` is None, JAX finds out from its environment."""

    coordinator: tuple[str, int] | None = None
    count: int = 0
    index: int = 0
    timeout: float = TIMEOUT_SECONDS


def listen(flag: str, port: int) -> socket.socket:
    """Open process 0's end. Port 0 means any."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise UserError(f"{flag}: process 0 cannot listen on port {port} ({error.strerror})") from None


def answer(flag: str, listener: socket.socket, count: int, timeout: float) -> "Links":
    """Process 0 waits for all others. In every process, raises UserError that names those that did not call."""
    deadline, links = time.monotonic() + timeout, Links(0)
    problem = None
    while len(links.peers) < count - 1 and not problem:
        listener.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            connection, address = listener.accept()
        except TimeoutError:
            missing = ", ".join(str(index) for index in range(1, count) if index not in links.peers)
            problem = f"process {missing} did not answer within {timeout:g} s; is it started, does it reach this host?"
            break
        hello = _read(connection, 5.0)
        index = hello.get("process")
        if not isinstance(index, int):  # a port scanner, say
            connection.close()
            continue
        if hello["processes"] != count:
            problem = f"process {index} was given --num-processes {hello['processes']}, process 0 {count}"
        elif index in links.peers:
            problem = f"process {index} was started twice, on {links.hosts[index]} and on {hello['host']}"
        else:
            links.add(index, connection, hello.get("host", address[0]))
            continue
        _send(connection, {"error": problem})
    listener.close()
    links.tell({"error": problem} if problem else {"start": True})
    if problem:
        raise UserError(f"{flag}: {problem}")
    return links


def call(flag: str, address: tuple[str, int], count: int, index: int, timeout: float) -> "Links":
    """Another process calls process 0 and waits until all are there. Raises UserError if it does not answer."""
    deadline, connection = time.monotonic() + timeout, None
    while connection is None:
        try:
            connection = socket.create_connection(address, timeout=5.0)
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{flag}: process 0 did not answer within {timeout:g} s ({error.strerror or error}); is it "
                    f"started there, is its port open to this host?"
                ) from None
            time.sleep(RETRY_SECONDS)
    _send(connection, {"process": index, "processes": count, "host": socket.gethostname()})
    # Process 0 may have begun to wait later than this one.
    reply = _read(connection, deadline - time.monotonic() + timeout)
    if "error" in reply or "start" not in reply:
        raise UserError(f"{flag}: {reply.get('error', 'process 0 has ended; its own output says why')}")
    links = Links(index)
    links.add(0, connection, address[0])
    return links


def relay(address: tuple[str, int]) -> int:
    """Open a port on this host behind which process 0 seems never to end.

    For JAX's client, which aborts with pages of its log at once when its connection closes: so the one line that
    tells of it comes first.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            return  # what is lost with it, `Links` tells

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            try:
                other = socket.create_connection(address)
            except OSError:
                client.close()  # JAX's service is not up yet, and its client tries again
                continue
            for ends in ((client, other), (other, client)):
                threading.Thread(target=copy, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


@dataclass
class Links:
    """The open connections: of process 0 to all others, of any other to process 0."""

    index: int
    peers: dict[int, socket.socket] = field(default_factory=dict)
    hosts: dict[int, str] = field(default_factory=dict)
    ending: bool = False  # this process has come to its end, so others may too
    _done: set[int] = field(default_factory=set)
    _lost: bool = False

    def add(self, index: int, connection: socket.socket, host: str) -> None:
        """Add the connection to process `index` on `host`."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        connection.settimeout(None)
        self.peers[index], self.hosts[index] = connection, host

    def tell(self, message: Mapping) -> None:
        """Send a message to all peers."""
        for connection in self.peers.values():
            _send(connection, message)

    def watch(self, prog: str) -> None:
        """From now on, the end of another process ends this one, with one line and exit code 1."""
        threading.Thread(target=self._watch, args=(prog,), daemon=True).start()

    def _watch(self, prog: str) -> None:
        with selectors.DefaultSelector() as selector:
            for index, connection in self.peers.items():
                selector.register(connection, selectors.EVENT_READ, index)
            while len(self._done) < len(self.peers):
                for key, _ in selector.select():
                    index = key.data
                    message = _read(self.peers[index])
                    if "done" not in message:
                        self._lost = True
                        self._end(prog, message.get("lost") or f"process {index} ({self.hosts[index]})")
                    selector.unregister(key.fileobj)
                    self._done.add(index)

    def _end(self, prog: str, lost: str) -> None:
        if self.index == 0:
            self.tell({"lost": lost})
        time.sleep(GRACE_SECONDS)
        if self.ending:
            return
        line = f"{prog}: {lost} has ended early, so this process ends too; go on with --resume"
        print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)

    def leave(self) -> bool:
        """Wait for all others to come to their end. Returns whether they did."""
        self.tell({"done": True})
        end = time.monotonic() + LEAVE_SECONDS
        while len(self._done) < len(self.peers) and time.monotonic() < end:
            time.sleep(0.01)
        return len(self._done) == len(self.peers) and not self._lost


current: Links | None = None  # those of this process


def ending_as_one(body: Callable[[], int]) -> int:
    """Run `body()` and return its exit code. If one of several processes ends, all of them do."""
    try:
        code = body()
    except BaseException as error:
        if current is None:
            raise
        if isinstance(error, Exception):
            # Is another process gone? Then the thread that watches ends this one, with one line.
            time.sleep(2 * GRACE_SECONDS)
        current.ending = True
        traceback.print_exc()
        code = 1
    else:
        if current is None:
            return code
        current.ending = True
        if code != 2 and current.leave():  # a user's mistake may be one of this host only
            import jax  # which a mistake in the flags need not wait for

            jax.distributed.shutdown()
            return code
    # Without waiting for others, which the interpreter's end would do.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _send(connection: socket.socket, message: Mapping) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return  # it is gone, which reading from it will tell


def _read(connection: socket.socket, timeout: float | None = None) -> dict:
    """The next message, or {} if the connection is closed, silent for too long, or not one of ours."""
    line = bytearray()
    try:
        connection.settimeout(timeout)
        while not line.endswith(b"\n") and len(line) < 10_000:
            if not (byte := connection.recv(1)):
                return {}
            line += byte
        message = json.loads(line)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
