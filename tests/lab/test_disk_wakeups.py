"""A node's disk goes on while packets come on both networks: lab/disk_wakeups.py."""

from __future__ import annotations

import threading
from contextlib import suppress
from socket import AF_INET, SOCK_DGRAM, socket
from typing import TYPE_CHECKING

import pytest

from lab import network
from lab.node import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = pytest.mark.lab
# Nothing else uses the disk: the kernel overlooks the answer to some write, and none comes after.
WRITER = """
import mmap, os
fd = os.open("/dev/ubdb", os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
for number in range(20000):
    os.pwrite(fd, page, number % 1000 * 4096)
"""


def send(address: str, stopped: threading.Event) -> None:
    """Bursts of packets to a port where nobody listens."""
    with socket(AF_INET, SOCK_DGRAM) as sender:
        while not stopped.wait(0.002):
            for _ in range(12):
                with suppress(OSError):  # the node has said that nobody listens
                    sender.sendto(bytes(900), (address, 9))


def test_a_disk_goes_on_while_both_networks_are_busy(make_node: Callable[..., Node]) -> None:
    node = make_node(disks=(16 * MIB,))
    stopped = threading.Event()
    addresses = (node.address, network.command_address(node.index))
    senders = [threading.Thread(target=send, args=(one, stopped)) for one in addresses]
    for sender in senders:
        sender.start()
    try:
        node.run(["python3", "-c", WRITER], timeout=120.0)
    finally:
        stopped.set()
        for sender in senders:
            sender.join()
