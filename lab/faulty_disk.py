"""A disk that fails when told to: a device-mapper device over a disk of a node.

Targets: dm-linear; dm-error; dm-flakey with error_writes and drop_writes (the kernel's
Documentation/admin-guide/device-mapper/dm-flakey.rst).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.node import Node

FAULTS = ("fail", "fail-writes", "lose-writes", "hang", "recover")
"""What a disk can be told to do: the names of FaultyDisk's methods."""

# Nodes in /dev are made by dmsetup itself, with and without udev.
_NO_UDEV = {"DM_DISABLE_UDEV": "1"}


class FaultyDisk:
    """Made by `lab.node.Node.faulty_disk`; put a volume group or a file system on its `path`.

    A reboot undoes every fault. Each method may follow each other: what waits for a hanging disk
    fails when it is made to fail, and goes on when it recovers.
    """

    def __init__(self, node: Node, device: str) -> None:
        self._node = node
        self.device = device
        self._name = f"faulty-{PurePosixPath(device).name}"

    @property
    def path(self) -> str:
        """Path of the device in the node."""
        return f"/dev/mapper/{self._name}"

    def attach(self) -> bool:
        """Make the device, healthy, if it is not there; False if its disk is not."""
        if not self._is_there(self.device):
            return False
        if not self._is_there(self.path):
            self._dmsetup("create", self._name, "--table", self._linear())
        return True

    def fail(self) -> None:
        """Answer everything with an I/O error."""
        self._swap(f"0 {self._sectors()} error")

    def fail_writes(self) -> None:
        """Answer writes with an I/O error; reads go on."""
        self._swap(self._flakey("error_writes"))

    def lose_writes(self) -> None:
        """Acknowledge writes and forget them; reads go on."""
        self._swap(self._flakey("drop_writes"))

    def hang(self) -> None:
        """Answer nothing more until another of these is called."""
        self._suspend()

    def recover(self) -> None:
        """Be healthy again; nothing if the disk was pulled."""
        if self.attach():
            self._swap(self._linear())

    def _is_there(self, path: str) -> bool:
        return self._node.run(["test", "-b", path], check=False).returncode == 0

    def _swap(self, table: str) -> None:
        self._suspend()
        self._dmsetup("load", self._name, "--table", table)
        self._dmsetup("resume", self._name)

    def _suspend(self) -> None:
        # Without waiting for what is under way above: a frozen file system may never let go.
        self._dmsetup("suspend", "--noflush", "--nolockfs", self._name)

    def _dmsetup(self, *arguments: str) -> None:
        self._node.run(["dmsetup", *arguments], env=_NO_UDEV)

    def _sectors(self) -> int:
        return int(self._node.run(["blockdev", "--getsz", self.device]).text)

    def _linear(self) -> str:
        return f"0 {self._sectors()} linear {self.device} 0"

    def _flakey(self, feature: str) -> str:
        # Never up, always down: the feature holds until the next table.
        self._node.run(["modprobe", "dm-flakey"])
        return f"0 {self._sectors()} flakey {self.device} 0 0 1 1 {feature}"
