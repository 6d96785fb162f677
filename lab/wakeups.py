"""Wakes nodes up for what they have missed: a packet, or the end of a timer.

The host's tun driver sends SIGIO for a packet before it tells epoll: a node that looks at once, on
another processor, finds nothing, and the packet lies there until something else comes. That was
200 ms, TCP's probe, once or twice a second under load. So a moment after packets have moved, all
nodes are signalled once more. (tun_net_xmit in the kernel's drivers/net/tun.c; sigio_handler in
arch/um/kernel/irq.c.)

A SIGALRM that comes while a node handles the one before is dropped where interrupts were off. It
was the only one set: no timer of the node ends any more, and what sleeps sleeps for ever, until it
is signalled. (unblock_signals in arch/um/os-Linux/signal.c.)
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import faults, network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.node import Node

SECONDS = 0.05  # each look reads one small file
_ALARM_SECONDS = 0.25


@dataclass
class _Boot:
    """One life of a node. ``read``: how many packets its taps' readers had read when it began."""

    pid: int
    read: int
    kernel: int | None = None  # a pidfd: what it was opened for, or nothing


class Wakeups:
    """A thread of the lab's process until `stop`; `seconds`: from look to look."""

    def __init__(self, nodes: Mapping[str, Node], seconds: float) -> None:
        self._nodes = nodes
        self._seconds = seconds
        self._looks_to_alarm = round(_ALARM_SECONDS / seconds)
        self._boots: dict[str, _Boot] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lab-wakeups", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        for name in list(self._boots):
            self._forget(name)

    def _run(self) -> None:
        with network.COUNTERS.open("rb", buffering=0) as counters:
            before = b""
            for look in itertools.count():
                if self._stopped.wait(self._seconds):
                    return
                counters.seek(0)
                found = counters.read()
                signals = [signal.SIGIO] if found != before else []
                if look % self._looks_to_alarm == 0:
                    signals.append(signal.SIGALRM)
                if signals:
                    self._send(signals, network.packets(found))
                before = found

    def _send(
        self, signals: Sequence[signal.Signals], packets: Mapping[str, tuple[int, int]]
    ) -> None:
        nodes = dict(self._nodes)
        for name in self._boots.keys() - nodes.keys():
            self._forget(name)
        for node in nodes.values():
            taps = [packets[tap] for tap in network.taps(node.index) if tap in packets]
            self._look(node, sum(sent for _, sent in taps), signals)

    def _look(self, node: Node, read: int, signals: Sequence[signal.Signals]) -> None:
        pid, boot = node.pid, self._boots.get(node.name)
        if boot is not None and boot.pid != pid:
            self._forget(node.name)
            boot = None
        if boot is None and pid is not None:
            self._boots[node.name] = _Boot(pid, read)
        # One that has read something runs, and handles the signal rather than dying of it.
        elif boot is not None and read != boot.read:
            with contextlib.suppress(OSError, ValueError):  # it is dying
                if boot.kernel is None:
                    boot.kernel = os.pidfd_open(faults.kernel_pid(boot.pid))
                for number in signals:
                    signal.pidfd_send_signal(boot.kernel, number)

    def _forget(self, name: str) -> None:
        kernel = self._boots.pop(name).kernel
        if kernel is not None:
            os.close(kernel)
