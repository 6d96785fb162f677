"""What a block device carries: file systems, RAID and LVM members, LUKS, swap, partition tables.

Nothing is formatted or taken for a pool whose device carries anything. ``blkid`` reads a device
that returns errors as one on which there is nothing: what it says to carry nothing is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from host import block_device
from host.errors import NotBlank

if TYPE_CHECKING:
    from host.command import Runner

_DEADLINE = 60.0
# Exit codes of blkid(8).
_FOUND, _NOTHING, _AMBIVALENT = 0, 2, 8


@dataclass(frozen=True)
class Signature:
    """``kind`` as blkid says (ext4, LVM2_member, crypto_LUKS, gpt …); "several" if ambivalent."""

    kind: str
    usage: str = ""  # filesystem, raid, crypto, other; "" for a partition table
    uuid: str = ""
    label: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.uuid}".strip()


def probe(runner: Runner, device: str) -> Signature | None:
    """What ``device`` carries, read from the device and from no cache; None where no signature is.

    Raises ``Missing``, ``DeviceFailed`` where it cannot be read, ``CommandStuck``.
    """
    block_device.size_of(device)
    argv = ["blkid", "-p", "-o", "export", "--", device]
    result = runner.run(
        argv, deadline=_DEADLINE, resource=device, ok=(_FOUND, _NOTHING, _AMBIVALENT)
    )
    if result.exit_code == _AMBIVALENT:
        return Signature("several")
    if result.exit_code == _FOUND:
        return parse_export(result.stdout.decode("utf-8", "replace"))
    block_device.edges_are_zero(device)
    return None


def require_blank(runner: Runner, device: str) -> None:
    """Raises ``NotBlank`` unless there is no signature and both ends of ``device`` are zero.

    Stricter than ``probe``: also data that has no signature is somebody's.
    """
    found = probe(runner, device)
    if found is not None:
        raise NotBlank(f"{device} carries {found}")
    if not block_device.edges_are_zero(device):
        raise NotBlank(f"{device} carries data without a known signature")


def parse_export(text: str) -> Signature | None:
    """The answer of ``blkid -o export``. None where it names neither a type nor a table."""
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    kind = pairs.get("TYPE") or pairs.get("PTTYPE")
    if kind is None:
        return None
    table = "TYPE" not in pairs
    return Signature(
        kind=kind,
        usage="" if table else _plain(pairs.get("USAGE", "")),
        uuid=_plain(pairs.get("PTUUID" if table else "UUID", "")),
        label="" if table else _plain(pairs.get("LABEL", "")),
    )


def _plain(value: str) -> str:
    # The export format puts a backslash before what a shell would take for its own.
    return value.replace("\\", "")
