"""Everything that a crash could leave behind in a lab node, told without a fork."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host import dm_ioctl
from host.command import Runner
from host.errors import HostError
from host.lvm.config import GroupDirectory
from host.lvm.shell import ShellExecutor
from tests.lab.stories.serving import serve

KUBELET = "/var/lib/kubelet"
_COLUMNS = ("lv_name", "segtype", "lv_size", "lv_tags")


def serve_remains(path: str, group: str, disks: Sequence[str]) -> None:
    """A shell of LVM of its own, in a world of its own: nothing here is the agent's memory."""
    directory = GroupDirectory(Path("/run/remains"), group, udev=False)
    directory.write(disks)
    lvm = ShellExecutor(Runner(), directory)

    def remains() -> dict[str, Any]:
        report = lvm.execute(("lvs", "-o", ",".join(_COLUMNS), group))
        assert report.ok and report.rows, report
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return {
            "logical volumes": [[row[column] for column in _COLUMNS] for row in report.rows],
            "devices": [(name, dm_ioctl.is_suspended(name)) for name in dm_ioctl.names()],
            "mounts": [line for line in lines if f" {KUBELET}/" in line],
            "paths": sorted(
                str(Path(folder, name))
                for folder, folders, files in os.walk(KUBELET)
                for name in (*folders, *files)
                if folder != KUBELET
            ),
        }

    serve(path, remains, HostError)
