"""A signal ends the wait, whenever it comes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
ROUNDS = 3000

# One thread sends the signal while the other one begins to wait for it.
STORY = f"""
import os, signal, threading
from csi.stop_signal import StopSignal

begin = threading.Barrier(2)

def tell():
    for _ in range({ROUNDS}):
        begin.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

with StopSignal() as stop:
    threading.Thread(target=tell, daemon=True).start()
    for _ in range({ROUNDS}):
        begin.wait()
        stop.wait()
print("ended")
"""


def test_it_may_come_just_when_the_wait_begins() -> None:
    story = subprocess.run(
        [sys.executable, "-c", STORY], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert story.stdout == "ended\n", story.stderr


def test_it_may_come_before_the_wait() -> None:
    before = (
        "import os, signal; from csi.stop_signal import StopSignal; stop = StopSignal();"
        f" os.kill(os.getpid(), {int(signal.SIGINT)}); stop.wait(); print('ended')"
    )
    story = subprocess.run(
        [sys.executable, "-c", before], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert story.stdout == "ended\n", story.stderr
