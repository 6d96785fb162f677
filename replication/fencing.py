"""The kernel's fence helper: put in place, and given its answers.

The helper (``fence_helper``, a shell script) is run by the kernel in the host's namespaces. It
answers from a grant that the agent has written, and fails closed: without one, I/O stays frozen.
Grants lie under /run and hold the boot id: none survives a reboot.
"""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from pathlib import Path

from host.errors import Missing, Refused

HELPER = Path("/var/lib/xlss/fence_helper")
"""Not under /run, which is mounted noexec by many distributions."""

GRANTS = Path("/run/xlss/drbd/grants")
_SOURCE = Path(__file__).with_name("fence_helper")
_PARAMETER = Path("/sys/module/drbd/parameters/usermode_helper")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
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
    _replace(helper, _SOURCE.read_text(), mode=0o755)


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


def boot_id() -> str:
    """The id of this boot, as the helper reads it."""
    return _BOOT_ID.read_text().strip()


def grant(name: str, epoch: int, verdict: Verdict, folder: Path = GRANTS) -> None:
    """Permit the kernel one answer for the resource of that name, in this boot."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _replace(folder / name, f"{name} {epoch} {boot_id()} {verdict.value}\n", mode=0o600)


def revoke(name: str, folder: Path = GRANTS) -> None:
    """Take back a grant, used or not; right also where there is none."""
    (folder / name).unlink(missing_ok=True)


def _replace(path: Path, content: str, *, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
