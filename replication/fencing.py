"""The kernel's fence helper: put in place, and given its answers.

The helper (``fence_helper``, a shell script) is run by the kernel in the host's namespaces. It
answers from a grant that the agent has written, and fails closed: without one, I/O stays frozen.
Grants lie under /run and hold the boot id: none survives a reboot.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

from host.boot import boot_id
from host.errors import Missing, Refused
from host.file_replacement import replace_file

HELPER = Path("/var/lib/xlss/fence_helper")
"""Not under /run, which is mounted noexec by many distributions."""

GRANTS = Path("/run/xlss/drbd/grants")
_SOURCE = Path(__file__).with_name("fence_helper")
_PARAMETER = Path("/sys/module/drbd/parameters/usermode_helper")
# DRBD 8.4 keeps the path in 80 bytes (drbd_main.c, drbd_usermode_helper).
_LONGEST_PATH = 79


class Verdict(StrEnum):
    """What the helper is to answer: exit codes 4, 7 and 6."""

    PEER_OUTDATED = "outdated"
    PEER_FENCED = "fenced"
    EXCLUDED = "excluded"


def install(helper: Path = HELPER) -> None:
    """Put the helper in place, by the path that the kernel uses. Raises ``Refused``."""
    if len(str(helper)) > _LONGEST_PATH:
        raise Refused(f"the path of the fence helper is longer than {_LONGEST_PATH}: {helper}")
    helper.parent.mkdir(parents=True, exist_ok=True)
    if os.statvfs(helper.parent).f_flag & os.ST_NOEXEC:
        raise Refused(
            f"{helper.parent} is mounted noexec: the kernel cannot run the fence helper from there"
        )
    replace_file(helper, _SOURCE.read_bytes(), 0o755, durable=False)


def configure(helper: Path = HELPER) -> None:
    """Tell the loaded module to call the helper.

    Raises ``Missing`` without the module, ``Refused`` where the parameter cannot be set.
    """
    try:
        # Without a newline: the kernel would take it for a part of the name.
        _PARAMETER.write_text(str(helper))
    except FileNotFoundError as error:
        raise Missing("the kernel module drbd is not loaded: load it (modprobe drbd)") from error
    except OSError as error:
        raise Refused(
            f"{_PARAMETER} cannot be set ({error.strerror}): load the module with "
            f"usermode_helper={helper}"
        ) from error
    if _PARAMETER.read_text().rstrip("\n") != str(helper):
        raise Refused(f"{_PARAMETER} did not take {helper}")


def grant(name: str, epoch: int, verdict: Verdict, folder: Path = GRANTS) -> None:
    """Permit the kernel one answer for the resource of that name, in this boot."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{name} {epoch} {boot_id()} {verdict.value}\n"
    replace_file(folder / name, line.encode(), 0o600, durable=False)


def revoke(name: str, folder: Path = GRANTS) -> None:
    """Take back a grant, used or not; right also where there is none."""
    (folder / name).unlink(missing_ok=True)
