"""Frames of all sessions share batches on the device: what comes while it is busy goes into the next batch together."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from slt_jax.serve.metrics import Metrics

LOG = logging.getLogger("slt_jax.serve")
MOST_WAITING = 16  # frames of a session; one that has more waits until the device has taken them


@dataclass
class Member:
    """A session's part in the batches. `told` gets what its stream says, and if it is the last."""

    stream: Any
    told: Callable[[Any, bool], None]
    failed: Callable[[], None]
    waiting: list[tuple[float, Any]] = field(default_factory=list)  # frames, and when they came
    ended: bool = False


class Batcher:
    """Runs the streams of all members on one thread. `push` and `finish` are those of a live model."""

    def __init__(self, push: Callable, finish: Callable, metrics: Metrics):
        self._push, self._finish, self._metrics = push, finish, metrics
        self._members: dict[int, Member] = {}  # those that wait, by id
        self._some, self._taken = asyncio.Event(), asyncio.Condition()
        self._device = ThreadPoolExecutor(1, "slt-device")

    async def add(self, member: Member, frame: Any) -> None:
        """Let a frame take part in the next batch. Waits while the member has many."""
        member.waiting.append((time.monotonic(), frame))
        self._announce(member)
        async with self._taken:
            await self._taken.wait_for(lambda: len(member.waiting) < MOST_WAITING)

    def end(self, member: Member) -> None:
        """Let a member's stream finish after the frames that it has."""
        member.ended = True
        self._announce(member)

    def remove(self, member: Member) -> None:
        """Forget a member that has gone."""
        self._members.pop(id(member), None)
        member.waiting.clear()

    def _announce(self, member: Member) -> None:
        self._members[id(member)] = member
        self._some.set()

    async def run(self) -> None:
        """Serve the members until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                members, self._members = list(self._members.values()), {}
                frames = [member.waiting for member in members]
                for member in members:
                    member.waiting = []
                ended = [member for member in members if member.ended]
                full = [(member, part) for member, part in zip(members, frames, strict=True) if part]
                if full:
                    await self._batch(loop, full)
                async with self._taken:
                    self._taken.notify_all()
                for member in ended:
                    try:
                        member.told(await loop.run_in_executor(self._device, self._finish, member.stream), True)
                    except Exception:
                        LOG.exception("a stream could not be finished")
                        member.failed()
        finally:
            self._device.shutdown(wait=False)

    async def _batch(self, loop: asyncio.AbstractEventLoop, full: list[tuple[Member, list]]) -> None:
        pairs = [(member.stream, [frame for _, frame in part]) for member, part in full]
        try:
            updates = await loop.run_in_executor(self._device, self._push, pairs)
        except Exception:  # nobody knows whose it is, and the states of all may be half done
            LOG.exception("a batch failed")
            for member, _ in full:
                member.failed()
            return
        now = time.monotonic()
        self._metrics.batches.observe(len(full))
        for (member, part), update in zip(full, updates, strict=True):
            for came, _ in part:
                self._metrics.lag.observe(now - came)
            member.told(update, False)
