"""A pool without LVM: it is open, each look finds the same, and commands say yes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from host.command import Runner
from host.lvm.commands import Group
from host.lvm.config import GroupDirectory
from host.lvm.executor import DEADLINE
from host.lvm.pools import Pools, PoolStatus
from host.lvm.report import SUCCESS, Report
from tests.unit import test_lvm_growth as growth

SPEC = replace(growth.SPEC, overcommit=3.0)


class FakePool(Pools):
    """``during`` is called within each command of LVM."""

    def __init__(self, folder: Path) -> None:
        super().__init__((SPEC,), Runner(), run_directory=folder, durable_directory=folder)
        self.during: Callable[[], None] = lambda: None
        self.lvm.add(Group(GroupDirectory(folder, SPEC.volume_group, udev=False), _Yes(self)))

    def open_due(self) -> None:
        pass

    def tend(self, status: PoolStatus) -> bool:
        return False

    def archive(self) -> None:
        pass

    def status(self, name: str) -> PoolStatus:
        return PoolStatus(self._spec(name), growth.STATE, "")


class _Yes:
    def __init__(self, pool: FakePool) -> None:
        self._pool = pool

    def execute(self, argv: Sequence[str], deadline: float = DEADLINE) -> Report:
        self._pool.during()
        return Report((), (), SUCCESS)

    @contextmanager
    def hold(self, deadline: float = DEADLINE) -> Iterator[None]:
        yield

    def close(self) -> None:
        pass
