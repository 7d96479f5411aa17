from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from converters.command import exit_code
from converters.errors import Stopped
from pretrain.signals import ECHO, stop_requests

ROOT = Path(__file__).parents[2]
LOOP = """
import sys, time
from pretrain.signals import stop_requests
with stop_requests() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print(stop.signal.name, flush=True)
    time.sleep(float(sys.argv[1]))
print("went on")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_becomes_a_wish_and_former_handlers_return(number: signal.Signals) -> None:
    met: list[int] = []

    def former(got: int, frame: object) -> None:
        met.append(got)

    before = signal.signal(number, former)
    try:
        with stop_requests() as stop:
            assert (stop.requested, stop.signal) == (False, None)
            os.kill(os.getpid(), number)
            assert (stop.requested, stop.signal) == (True, number)
        assert signal.getsignal(number) is former
        os.kill(os.getpid(), number)
        assert met == [number]
    finally:
        signal.signal(number, before)


def test_handlers_return_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_requests():
        assert 1 / (signal.getsignal(signal.SIGTERM) is before)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1])
def test_an_echo_is_no_second_signal_but_a_later_one_ends_the_process(first: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", LOOP, "600"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"{first.name}\n"
        process.send_signal(first)
        time.sleep(ECHO + 0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_outside_the_main_thread_nothing_is_touched() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[tuple[bool, bool]] = []

    def work() -> None:
        with stop_requests() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_a_blocking_call_of_the_loop_is_not_broken_by_the_signal() -> None:
    with stop_requests() as stop:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        time.sleep(0.5)
        assert time.monotonic() - began >= 0.5
        assert stop.requested


def test_a_stopped_run_is_one_line_and_exit_code_75(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise Stopped("stopped by SIGTERM; saved: run/checkpoint.pth.tar; the same command goes on")

    assert exit_code("moco-transfer", run) == 75
    assert capsys.readouterr().err == (
        "moco-transfer: stopped by SIGTERM; saved: run/checkpoint.pth.tar; the same command goes on\n"
    )
