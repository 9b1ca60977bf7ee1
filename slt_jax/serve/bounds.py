"""How much the service takes, and how it says that something is too much."""

import struct
from dataclasses import dataclass, field, fields
from typing import Any

import simplejpeg

from slt_jax.errors import UserError

# Close codes of a WebSocket: RFC 6455's, and three that IANA has registered for what RFC 6455 has none for.
GOING_AWAY, UNSUPPORTED, BAD_DATA, TOO_BIG, FAILED, BUSY = 1001, 1003, 1007, 1009, 1011, 1013
UNAUTHORISED, TIMEOUT = 3000, 3008
STAMP = struct.Struct("<d")  # before each picture: its time in seconds


def bound(default: float, metavar: str, text: str) -> Any:
    """A field with its flag's help."""
    return field(default=default, metadata={"metavar": metavar, "help": text})


@dataclass(frozen=True)
class Bounds:
    """The bounds of a service; each is a flag of `slt-serve`. Raises UserError for one that is not above 0."""

    max_sessions: int = bound(8, "N", "people who sign at the same time")
    max_queue: int = bound(8, "N", "pictures of a session that wait; older ones are dropped and counted")
    max_uploads: int = bound(4, "N", "uploads at the same time; one is translated, the others wait")
    max_upload_mb: float = bound(200, "MB", "size of an uploaded video")
    max_picture: int = bound(1920, "PX", "longer side of a picture")
    max_seconds: float = bound(3600, "SECONDS", "length of a session, and of an uploaded video")
    idle_seconds: float = bound(30, "SECONDS", "a session without a picture ends; so does a sender that stalls")
    max_connections: int = bound(256, "N", "open connections of all kinds")

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 < value < 1e9:
                raise UserError(f"--{item.name.replace('_', '-')} {value:g}: must be above 0")

    @property
    def upload_bytes(self) -> int:
        """The size of a request with a video."""
        return int(self.max_upload_mb * 1e6)

    @property
    def picture_bytes(self) -> int:
        """The size of a message with a picture: no JPEG for people to look at takes more than a byte a pixel."""
        return self.max_picture * self.max_picture


class Refused(Exception):
    """A request that is answered by an HTTP status and one line."""

    def __init__(self, status: int, message: str, retry: int | None = None):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {} if retry is None else {"Retry-After": str(retry)}


class Closed(Exception):
    """A session that ends with a close code and a reason, which is at most 123 bytes long."""

    def __init__(self, code: int, reason: str = ""):
        super().__init__(reason)
        self.code, self.reason = code, reason.encode()[:123].decode(errors="ignore")


def picture_of(message: bytes, bounds: Bounds) -> tuple[float, memoryview]:
    """The time and the JPEG of a message. Only the header of the JPEG is read.

    Raises Closed.
    """
    if len(message) > bounds.picture_bytes:
        raise Closed(TOO_BIG, f"a picture of {len(message)} bytes; at most {bounds.picture_bytes}")
    if len(message) <= STAMP.size:
        raise Closed(BAD_DATA, "a message without a picture: 8 bytes of time, then a JPEG")
    (time,) = STAMP.unpack_from(message)
    jpeg = memoryview(message)[STAMP.size :]
    if not 0 <= time < 1e9:  # NaN too
        raise Closed(BAD_DATA, "the time of a picture is no number of seconds")
    if bytes(jpeg[:2]) != b"\xff\xd8":
        raise Closed(UNSUPPORTED, "a picture that is no JPEG")
    try:
        height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    except ValueError:
        raise Closed(BAD_DATA, "a JPEG that cannot be read") from None
    if max(width, height) > bounds.max_picture:
        raise Closed(TOO_BIG, f"a picture of {width} x {height}; at most {bounds.max_picture} on a side")
    if min(width, height) < 16:
        raise Closed(BAD_DATA, f"a picture of {width} x {height}; at least 16 on a side")
    return time, jpeg
