"""Signers at `slt-serve` at once: frames a second, lag, CPU and memory of the service, for minutes."""

import argparse
import asyncio
import json
import os
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from slt_jax.errors import UserError
from slt_jax.media.video import facts, played
from tools.benchmarks.problem import positive

QUALITY = 85
START_SECONDS = 300.0  # to compile everything
SAMPLE_SECONDS = 5.0
MEGABYTE = 1 << 20


@dataclass
class Signer:
    """What one session sent and was told."""

    room: int = 0  # pictures that may be under way
    sent: int = 0
    held_back: int = 0  # since too many were under way, as the page does
    done: int = 0
    dropped: int = 0
    frame_lags: list[float] = field(default_factory=list)  # seconds from a picture to its boxes and points
    text_lags: list[float] = field(default_factory=list)  # to the text that it may have changed
    sentences: int = 0
    error: str = ""


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("video", metavar="FILE", help="a video that every signer plays, again and again")
    top.add_argument("--checkpoint", required=True, metavar="RUN", help="the model that is served")
    top.add_argument("--sessions", type=positive, default=8, metavar="N", help="signers at once (default: 8)")
    top.add_argument("--seconds", type=positive, default=60, metavar="N", help="how long they sign (default: 60)")
    top.add_argument("--every", type=positive, default=1, metavar="N", help="slt-serve's --every (default: 1)")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        import simplejpeg
        import websockets  # noqa: F401
    except ImportError as error:
        raise UserError(f'this needs {error.name}: pip install "slt-jax[serve]"') from None
    rate = facts(arguments.video).fps or 25.0
    jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(image()), QUALITY) for _, image in played(arguments.video)]
    with serving(arguments.checkpoint, arguments.sessions, arguments.every) as (process, address):
        results = asyncio.run(_everybody(arguments, process.pid, address, jpegs, rate))
        if process.poll() is not None:
            raise UserError(f"slt-serve ended with {process.returncode}")
    print(_table(results))
    return results


@contextmanager
def serving(checkpoint: str, sessions: int, every: int):
    """`slt-serve` in a process of its own, ready: the process and its address."""
    command = [sys.executable, "-m", "slt_jax.cli.serve", "--checkpoint", checkpoint, "--port", "0", "--device", "cpu",
               "--max-sessions", str(sessions), "--every", str(every)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise UserError(f"slt-serve --checkpoint {checkpoint} ended with {process.wait()}; run it to see why")
            address = line.split()[-1].rstrip("/")
            until = time.monotonic() + START_SECONDS
            while not _ready(address):
                if process.poll() is not None or time.monotonic() > until:
                    raise UserError(f"slt-serve --checkpoint {checkpoint} did not become ready")
                time.sleep(0.2)
            yield process, address
        finally:
            process.terminate()


def _ready(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
        return answer.status == 200
    return False


async def _everybody(
    arguments: argparse.Namespace, pid: int, address: str, jpegs: list[bytes], rate: float
) -> dict[str, Any]:
    signers = [Signer() for _ in range(arguments.sessions)]
    memory: list[tuple[float, float]] = []
    began, cpu = time.monotonic(), _cpu(pid)
    watching = asyncio.create_task(_watch(pid, memory, arguments.seconds))
    await asyncio.gather(*(
        _sign(signer, address, jpegs, rate, arguments.seconds, phase=number / (rate * len(signers)))
        for number, signer in enumerate(signers)
    ))  # fmt: skip
    seconds, cpu = time.monotonic() - began, _cpu(pid) - cpu
    watching.cancel()
    return _summary(signers, seconds, cpu, memory)


async def _watch(pid: int, memory: list[tuple[float, float]], seconds: float) -> None:
    began = time.monotonic()
    with tqdm(total=int(seconds), desc="signing", unit="s") as bar:
        while True:
            memory.append((time.monotonic() - began, _memory(pid)))
            bar.update(min(int(time.monotonic() - began), int(seconds)) - bar.n)
            await asyncio.sleep(SAMPLE_SECONDS)


async def _sign(signer: Signer, address: str, jpegs: list[bytes], rate: float, seconds: float, phase: float) -> None:
    """Play the pictures at their rate; one is held back where as many are under way as the service allows."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    shown: dict[float, float] = {}
    try:
        async with connect(f"{address.replace('http', 'ws', 1)}/v1/stream", max_size=None) as socket:
            await socket.send(json.dumps({"type": "start"}))
            signer.room = json.loads(await socket.recv())["in_flight"]
            reading = asyncio.create_task(_read(signer, socket, shown))
            began = time.monotonic() + phase
            for number in range(int(seconds * rate)):
                await asyncio.sleep(max(began + number / rate - time.monotonic(), 0))
                if signer.sent - signer.done >= signer.room:
                    signer.held_back += 1
                    continue
                at = number / rate
                shown[at] = time.monotonic()
                signer.sent += 1
                await socket.send(struct.pack("<d", at) + jpegs[number % len(jpegs)])
            await socket.send(json.dumps({"type": "end"}))
            await reading
            if socket.close_code != 1000:
                signer.error = f"{socket.close_code} {socket.close_reason}"
    except (ConnectionClosed, OSError) as error:
        signer.error = str(error)


async def _read(signer: Signer, socket: Any, shown: dict[float, float]) -> None:
    async for message in socket:
        now, said = time.monotonic(), json.loads(message)
        if said["type"] == "error":
            signer.error = said["message"]
        elif said["type"] == "frame":
            signer.done, signer.dropped, signer.room = said["done"], said["dropped"], said["in_flight"]
            if said.get("time") in shown:
                signer.frame_lags.append(now - shown[said["time"]])
        elif said["type"] == "text":
            signer.sentences += len(said["ended"])
            # Times come rounded, and a frame that was made between two pictures has a time of its own.
            before = [at for at in shown if at <= said["time"] + 0.001]
            if before:
                signer.text_lags.append(now - shown[max(before)])
            for at in before[:-250]:
                del shown[at]


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    """Megabytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def _summary(signers: list[Signer], seconds: float, cpu: float, memory: list[tuple[float, float]]) -> dict[str, Any]:
    def percentiles(lags: list[float]) -> dict[str, float]:
        return {f"p{q}": float(np.percentile(lags, q)) for q in (50, 95, 100)} if lags else {}

    late = [lag for signer in signers for lag in signer.text_lags[len(signer.text_lags) // 2 :]]
    return {
        "sessions": len(signers), "seconds": seconds,
        "errors": [signer.error for signer in signers if signer.error],
        "pictures_a_second": sum(signer.done - signer.dropped for signer in signers) / seconds / len(signers),
        "held_back": sum(signer.held_back for signer in signers),
        "dropped": sum(signer.dropped for signer in signers),
        "sentences": sum(signer.sentences for signer in signers),
        "frame_lag": percentiles([lag for signer in signers for lag in signer.frame_lags]),
        "text_lag": percentiles([lag for signer in signers for lag in signer.text_lags]),
        "text_lag_second_half": percentiles(late),
        "cores": cpu / seconds,
        "memory": memory,
    }  # fmt: skip


def _table(results: dict[str, Any]) -> str:
    memory = [megabytes for _, megabytes in results["memory"]]
    quarter = max(len(memory) // 4, 1)
    lags = {name: ", ".join(f"{value:.2f}" for value in results[name].values()) for name in
            ("frame_lag", "text_lag", "text_lag_second_half")}  # fmt: skip
    return "\n".join([
        f"{results['sessions']} sessions for {results['seconds']:.0f} s, errors: {results['errors'] or 'none'}",
        f"pictures looked at a second, each: {results['pictures_a_second']:.1f} "
        f"(held back {results['held_back']}, dropped {results['dropped']}); sentences {results['sentences']}",
        f"lag in seconds (median, 95 %, most): boxes {lags['frame_lag']}; text {lags['text_lag']}; "
        f"text in the second half {lags['text_lag_second_half']}",
        f"service: {results['cores']:.2f} cores; MB at the start {memory[0]:.0f}, after a quarter "
        f"{memory[quarter - 1]:.0f}, at the end {memory[-1]:.0f}, most {max(memory):.0f}",
    ])  # fmt: skip
