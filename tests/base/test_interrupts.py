"""Ctrl-C ends a command wherever it comes, and reaches no process that the command has started."""

import _thread
import gc
import multiprocessing
import os
import signal
import sys
import time

import pytest

from slt_jax.base import interrupts
from slt_jax.base.interrupts import blocked
from slt_jax.cli.command import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.mark.parametrize("late", [False, True], ids=["idle", "busy"])
def test_an_interrupt_in_a_callback_of_the_garbage_collection_is_not_lost(capsys, monkeypatch, late):
    """Also on a machine that is so busy that the moment is over while Python still drops it."""
    start, stalls = _thread.start_new_thread, [0.05] * late

    def start_late(*arguments):
        start(*arguments)
        time.sleep(stalls.pop() if stalls else 0)

    monkeypatch.setattr(interrupts, "AGAIN_SECONDS", 0.0 if late else interrupts.AGAIN_SECONDS)
    monkeypatch.setattr(_thread, "start_new_thread", start_late)

    def interrupt(phase, _):
        gc.callbacks.remove(interrupt)
        signal.raise_signal(signal.SIGINT)

    def body(_):
        gc.callbacks.append(interrupt)
        gc.collect()
        time.sleep(30)
        return 0

    began = time.monotonic()
    assert run("slt-test", body, []) == 130
    assert time.monotonic() - began < 20
    assert capsys.readouterr().err == "slt-test: interrupted\n"


def test_a_process_that_starts_is_not_reached():
    sleeper = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0.1,))
    with blocked():
        sleeper.start()
    assert sleeper.pid
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for _ in range(100):  # while it starts, and later
        if sleeper.is_alive():
            os.kill(sleeper.pid, signal.SIGINT)
        sleeper.join(0.02)
    sleeper.join(30)
    assert sleeper.exitcode == 0
