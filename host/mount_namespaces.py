"""The mount tables of all namespaces: where a device is mounted, and what keeps it so."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from host.device_mapper import major_minor
from host.mount_table import Mount, parse

# File systems that answer from memory, whatever becomes of a disk, and hold device nodes.
_OF_NODES = ("devtmpfs", "tmpfs", "ramfs")
_GROUP = re.compile(rb"(?:shared|master|propagate_from):(\d+)")


@dataclass(frozen=True)
class Stack:
    """Block devices that lie upon each other: their numbers, and their names in ``/dev/mapper``."""

    numbers: frozenset[int]
    names: frozenset[str]

    def shown_by(self, mount: Mount) -> bool:
        """Whether it is a mount of a file system on one of them, or of a node of one."""
        if mount.filesystem in _OF_NODES:
            return mount.root.removesuffix("//deleted") in self._nodes
        # btrfs has a number of its own; the source is the kernel's word, and is not looked at.
        sources = {f"/dev{node}" for node in self._nodes}
        return mount.device in self.texts or mount.source in sources

    @cached_property
    def texts(self) -> frozenset[str]:
        return frozenset(major_minor(number) for number in self.numbers)

    @cached_property
    def _nodes(self) -> frozenset[str]:
        kernel_names = {f"/dm-{os.minor(number)}" for number in self.numbers}
        return frozenset(kernel_names | {f"/mapper/{name}" for name in self.names})


@dataclass(frozen=True)
class TableLine:
    """A line of a mount table. ``groups``: the peer groups that it shares, or is a slave of."""

    mount: Mount
    parent: int
    groups: frozenset[int]


def parse_table(text: bytes) -> list[TableLine]:
    """``/proc/PID/mountinfo``, with the fields that a namespace's propagation follows from."""
    lines = []
    for line in text.splitlines():
        head, _, _ = line.partition(b" - ")
        fields = head.split(b" ")
        groups = frozenset(int(found[1]) for found in map(_GROUP.fullmatch, fields[6:]) if found)
        lines.append(TableLine(parse(line), int(fields[1]), groups))
    return lines


def holding(table: Iterable[TableLine], path: str) -> TableLine | None:
    """The mount that ``path`` is in; of several at one place the last covers the others."""
    best: TableLine | None = None
    for line in table:
        at = line.mount.path
        inside = at == "/" or path == at or path.startswith(at + "/")
        if inside and (best is None or len(at) >= len(best.mount.path)):
            best = line
    return best


@dataclass
class Tables:
    """The mount tables of all namespaces, as far as they matter for one stack."""

    by_view: dict[tuple[str, str], list[TableLine]] = field(default_factory=dict)
    ours: dict[int, TableLine] = field(default_factory=dict)  # mounts of the stack, by number
    nodes: set[int] = field(default_factory=set)  # mounts that may hold device nodes
    known: set[int] = field(default_factory=set)
    file_devices: set[str] = field(default_factory=set)  # major:minor that files of ours show
    node_devices: set[str] = field(default_factory=set)

    def add(self, view: tuple[str, str], table: list[TableLine], stack: Stack) -> None:
        self.by_view[view] = table
        for line in table:
            mount = line.mount
            self.known.add(mount.mount_id)
            if mount.filesystem in _OF_NODES:
                self.nodes.add(mount.mount_id)
                self.node_devices.add(mount.device)
            if stack.shown_by(mount):
                self.ours[mount.mount_id] = line
                if mount.filesystem not in _OF_NODES:
                    self.file_devices.add(mount.device)

    def groups_of_parents(self, namespaces: set[str]) -> set[int]:
        """Where an unmount in these namespaces is passed on to."""
        return {
            group
            for (space, _), table in self.by_view.items()
            if space in namespaces
            for line in self.lines_of_parents(table)
            for group in line.groups
        }

    def lines_of_parents(self, table: list[TableLine]) -> list[TableLine]:
        parents = {line.parent for line in table if line.mount.mount_id in self.ours}
        return [line for line in table if line.mount.mount_id in parents]

    def keeps_mounted(self, table: list[TableLine], passed_on: set[int]) -> bool:
        """Whether it has a mount of ours that stays when ours are unmounted."""
        numbers = {line.mount.mount_id: line for line in table}
        for line in table:
            if line.mount.mount_id in self.ours:
                parent = numbers.get(line.parent)
                if parent is None or not parent.groups & passed_on:
                    return True
        return False
