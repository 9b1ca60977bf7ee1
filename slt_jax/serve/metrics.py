"""What `/metrics` says, as Prometheus reads it."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The numbers of one service."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        of: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("slt_requests", "HTTP requests by path and status", ["path", "status"], **of)
        self.sessions = Gauge("slt_sessions", "Sessions that are open", **of)
        self.endings = Counter("slt_session_endings", "Sessions that ended, by close code", ["code"], **of)
        self.frames = Counter("slt_frames", "Pictures by what became of them: seen or dropped", ["outcome"], **of)
        self.lag = Histogram(
            "slt_frame_seconds", "Seconds from a picture's arrival to the text that knows it", buckets=SECONDS, **of
        )
        self.batches = Histogram("slt_batch_sessions", "Sessions that shared a batch", buckets=(1, 2, 4, 8, 16), **of)
        self.uploads = Gauge("slt_uploads", "Uploads that are open", **of)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
