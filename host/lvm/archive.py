"""Archives of LVM's metadata: what to go back to when a volume was removed by mistake.

LVM itself would write two files before every change and keep each for 30 days: with 300 volumes
half of the time of a command, and a directory without an end. Here one file is written some time
after changes and after each start, when the state is another than the last file's, and a bounded
number is kept. The disks themselves hold the newest state and, in the
ring that they keep it in, older ones. Restore: ``vgcfgrestore -f FILE GROUP``.
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

from host.errors import HostError
from host.lvm.commands import Lvm

log = logging.getLogger("xlss.lvm")

KEEP = 100
# The group's UUID, and the number that LVM raises with every change.
_STATE = re.compile(rb"^\s*id = (\S+)\s+seqno = (\d+)$", re.MULTILINE)


class MetadataArchive:
    """Files ``<group>-<UTC time>.vg`` in ``directory``, the newest ``keep`` of each group."""

    def __init__(self, lvm: Lvm, directory: Path, keep: int = KEEP) -> None:
        self._lvm = lvm
        self._directory = directory
        self._keep = keep

    def write_due(self) -> list[Path]:
        """Write a file for each group that was opened or changed since the last call."""
        return [file for group in sorted(self._lvm.take_changed()) if (file := self._write(group))]

    def _write(self, group: str) -> Path | None:
        now = time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
        file = self._directory / f"{group}-{stamp}.{now % 10**9 // 1000:06d}.vg"
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            newest = next(reversed(self._files(group)), None)
            self._lvm.write_metadata(group, file)
            if newest is not None and _state(newest) == _state(file):
                # An agent that is started over and over must not push the others out.
                file.unlink()
                return None
            with file.open("rb") as written:
                os.fsync(written.fileno())
            self._prune(group)
        except (HostError, OSError) as error:
            log.error("the metadata of %s could not be archived: %s", group, error)
            return None
        return file

    def _prune(self, group: str) -> None:
        for file in self._files(group)[: -self._keep]:
            file.unlink(missing_ok=True)

    def _files(self, group: str) -> list[Path]:
        """The oldest first."""
        stamp = "[0-9]" * 8 + "T" + "[0-9]" * 6 + "." + "[0-9]" * 6
        return sorted(self._directory.glob(f"{group}-{stamp}.vg"))


def _state(file: Path) -> tuple[bytes, ...]:
    found = _STATE.search(file.read_bytes())
    return found.groups() if found else (file.name.encode(),)
