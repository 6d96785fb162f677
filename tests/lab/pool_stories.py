"""Stories of pools: code that runs in a node, with what `tests.lab.stories.pools` holds for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.paths import PYTHON

if TYPE_CHECKING:
    from lab.node import Node

_BEGINNING = "from tests.lab.stories.pools import *\n"
STOCK_LVM = (
    "--config 'devices{use_devicesfile=0 hints=\"none\"} activation{udev_sync=0 udev_rules=0}'"
)
BLANK_AGAIN = """
set +e
umount -q /mnt
pkill -x lvm
dmsetup remove_all --force
rm -rf /run/xlss /run/kept /dev/vg0 /dev/theirs
for disk in /dev/ubdb /dev/ubdc; do blkdiscard -f $disk; blockdev --rereadpt $disk; done
true
"""


def story(node: Node, code: str) -> str:
    """What it prints."""
    result = node.run([str(PYTHON), "-c", _BEGINNING + code], check=False, timeout=200)
    assert result.returncode == 0, result.stderr.decode()
    return result.text.strip()
