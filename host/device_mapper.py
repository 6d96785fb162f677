"""Device-mapper devices of this machine: create, load, suspend, resume, remove, look.

What cannot hang is done by ioctl within the process. What may wait for a device that does not
answer (suspending, resuming, swapping a table under I/O) runs under a deadline in a child that can
be killed while it waits.

The nodes in ``/dev/mapper`` are made and removed here, and udev is told to keep its hands off, so
that they are there as soon as a call returns, with and without udevd, in and out of a container,
and no scan opens a device that is about to be removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from host import dm_ioctl
from host.errors import AlreadyExists, DeviceFailed, HostError, InUse, Missing, Refused
from host.io_flusher import io_flusher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from host.command import Runner

SECTOR = 512
"""Bytes of the unit in which tables count."""

UUID_PREFIX = "XLSS-"
"""Starts the device-mapper UUID of every device of ours: what else is there is not touched."""

_RESUMABLE = (UUID_PREFIX, "CRYPT-LUKS2-")

_NODES = Path("/dev/mapper")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,126}")
_PACKAGES = str(Path(__file__).resolve().parent.parent)
_RESUME = (
    "import sys; sys.path.insert(0, sys.argv[1]); from host import dm_ioctl;"
    " dm_ioctl.resume(sys.argv[2], lockfs='lockfs' in sys.argv)"
)
# How long a removal waits for somebody who has opened the device in passing (lsblk, a monitor).
_PASSING_OPENER_SECONDS = 2.0


@dataclass(frozen=True)
class Target:
    """One line of a table; ``start`` and ``sectors`` count 512-byte sectors."""

    start: int
    sectors: int
    kind: str
    parameters: str


@dataclass(frozen=True)
class DeviceInfo:
    """What the kernel says of a device. ``event_nr`` counts the events of its targets."""

    name: str
    uuid: str
    device_number: int
    suspended: bool
    read_only: bool
    open_count: int
    event_nr: int
    live_table: bool
    inactive_table: bool

    @property
    def ours(self) -> bool:
        return self.uuid.startswith(UUID_PREFIX)

    @property
    def major_minor(self) -> str:
        """The form of tables, ``/sys/dev/block`` and ``io.max``."""
        return major_minor(self.device_number)


class DeviceMapper:
    """The devices of this machine by name. Names are limited to ``[A-Za-z0-9._+-]``, 127 long.

    Every method raises ``Missing`` where there is no such device (or no device-mapper), ``Refused``
    for what the kernel does not accept, ``ValueError`` for an impossible name.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def node(self, name: str) -> Path:
        """Where the device node of ``name`` is, once the device has a table."""
        return _NODES / _checked(name)

    def names(self, prefix: str = "") -> list[str]:
        """Devices whose name begins with ``prefix``, whoever they belong to, sorted."""
        with _translated("", "list devices"):
            return sorted(name for name in dm_ioctl.names() if name.startswith(prefix))

    def info(self, name: str) -> DeviceInfo:
        with _translated(name, "look at"):
            return _info(dm_ioctl.call(dm_ioctl.DEV_STATUS, _checked(name)))

    def find(self, name: str) -> DeviceInfo | None:
        """Like ``info``, with None for a device that does not exist."""
        try:
            return self.info(name)
        except Missing:
            return None

    def create(self, name: str, *, uuid: str | None = None) -> DeviceInfo:
        """A device without a table. ``AlreadyExists`` where the name or the UUID is taken."""
        wanted = uuid if uuid is not None else UUID_PREFIX + name
        with _translated(name, "create", busy=AlreadyExists):
            return _info(dm_ioctl.call(dm_ioctl.DEV_CREATE, _checked(name), uuid=wanted))

    def load(self, name: str, table: Sequence[Target], *, read_only: bool = False) -> None:
        """Put a table into the inactive slot; ``resume`` or ``swap`` makes it the live one.

        The kernel opens the devices that the table names, and refuses those that are claimed. It
        does not yet compare lengths: that happens at the resume, too late (see ``swap``).
        """
        packed = dm_ioctl.pack_targets([(t.start, t.sectors, t.kind, t.parameters) for t in table])
        flags = dm_ioctl.READ_ONLY if read_only else 0
        with _translated(name, f"load the table {_describe(table)} into"):
            dm_ioctl.call(
                dm_ioctl.TABLE_LOAD, _checked(name), flags=flags, targets=len(table), data=packed
            )

    def clear(self, name: str) -> None:
        """Throw away the inactive table, if there is one."""
        with _translated(name, "clear the inactive table of"):
            dm_ioctl.call(dm_ioctl.TABLE_CLEAR, _checked(name))

    def table(self, name: str, *, inactive: bool = False) -> tuple[Target, ...]:
        """The live table (or the loaded one); empty where there is none.

        The parameters of a crypt target hold its key.
        """
        flags = dm_ioctl.STATUS_TABLE | dm_ioctl.NOFLUSH
        flags |= dm_ioctl.QUERY_INACTIVE if inactive else 0
        with _translated(name, "read the table of"):
            return self._targets(name, flags)

    def status(self, name: str) -> tuple[Target, ...]:
        """The status lines of the live table's targets, without making them write anything."""
        with _translated(name, "read the status of"):
            return self._targets(name, dm_ioctl.NOFLUSH)

    def suspend(self, name: str, *, deadline: float, lockfs: bool = True) -> None:
        """Hold back the device's I/O once what is under way has ended; returns then.

        ``lockfs`` freezes the mounted file system first, so that what lies below is clean. Raises
        CommandStuck after ``deadline`` seconds. Nobody but the caller resumes: where that has to
        happen whatever becomes of this process, use ``resume_guard``.
        """
        argv = ["dmsetup", "suspend", *([] if lockfs else ["--nolockfs"]), _checked(name)]
        self.info(name)
        self._runner.run(argv, deadline=deadline, resource=name)

    def resume(self, name: str, *, deadline: float, lockfs: bool = True) -> None:
        """Let I/O go on. Right at once for a device that is not suspended.

        The thaw of a frozen file system writes to the device, hence the deadline. A loaded table
        becomes the live one: ``swap`` is the way for that.
        """
        if self.info(name).suspended:
            self._resume_in_child(name, deadline, lockfs=lockfs)

    def activate(self, name: str) -> Path:
        """Bring a device to life whose first table has just been loaded, and make its node.

        Nothing holds such a device open, so that nothing can be waited for.
        """
        with _translated(name, "activate"):
            dm_ioctl.resume(_checked(name))
        return self.ensure_node(name)

    def swap(
        self, name: str, table: Sequence[Target], *, deadline: float, read_only: bool = False
    ) -> None:
        """Replace the live table in one step, under mounted file systems and running I/O.

        What is under way ends on the old table, what comes later goes to the new one; the file
        system is not frozen. The caller has made sure that the devices in the table are long
        enough: the kernel finds out only when the device is suspended already. Whatever fails, the
        device is running again on its old table when this raises.
        """
        self.load(name, table, read_only=read_only)
        try:
            self._resume_in_child(name, deadline, lockfs=False)
        except HostError:
            self._back_to_the_old_table(name)
            raise

    def remove(self, name: str) -> None:
        """Remove the device and its node. ``InUse`` while it is open, mounted or mapped."""
        give_up = time.monotonic() + _PASSING_OPENER_SECONDS
        while True:
            try:
                with _translated(name, "remove", busy=InUse):
                    dm_ioctl.call(dm_ioctl.DEV_REMOVE, _checked(name), event_nr=dm_ioctl.QUIET_UDEV)
                break
            except InUse:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)
        self.remove_node(name)

    def ensure_node(self, name: str) -> Path:
        """Make ``/dev/mapper/<name>`` the node of this device, whatever was there before."""
        number = self.info(name).device_number
        node = self.node(name)
        try:
            found = node.lstat()
            if stat.S_ISBLK(found.st_mode) and found.st_rdev == number:
                return node
        except FileNotFoundError:
            pass
        fresh = node.with_name(f".{name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        os.mknod(fresh, stat.S_IFBLK | 0o600, number)
        fresh.replace(node)
        return node

    def remove_node(self, name: str) -> None:
        """Remove what a device that is gone has left in ``/dev/mapper``."""
        self.node(name).unlink(missing_ok=True)

    def resume_all(
        self, prefix: str, *, deadline: float, wanted: Callable[[str], bool] = lambda name: True
    ) -> list[str]:
        """Resume what an earlier life of this process left suspended; returns those names.

        Of those that are suspended, the ``wanted`` ones.

        Tables that were loaded and not yet live are dropped: the step that loaded them is repeated
        by whoever wants it. Only devices of ours (by UUID) and crypt devices are touched. One that
        does not resume within ``deadline`` seconds does not keep the others from it; the first such
        error is raised at the end.
        """
        resumed: list[str] = []
        failure: HostError | None = None
        for name in self.names(prefix):
            info = self.find(name)
            if info is None or not info.uuid.startswith(_RESUMABLE):
                continue
            if not info.suspended or not info.live_table or not wanted(name):
                continue
            try:
                self.clear(name)
                self.resume(name, deadline=deadline)
                resumed.append(name)
            except HostError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return resumed

    def _resume_in_child(self, name: str, deadline: float, *, lockfs: bool) -> None:
        # Not dmsetup: the event of its resume would tell udev to scan the device from now on.
        argv = [sys.executable, "-I", "-S", "-c", _RESUME, _PACKAGES, _checked(name)]
        argv += ["lockfs"] if lockfs else []
        with io_flusher():
            self._runner.run(argv, deadline=deadline, resource=name)

    def _targets(self, name: str, flags: int) -> tuple[Target, ...]:
        reply = dm_ioctl.call(dm_ioctl.TABLE_STATUS, _checked(name), flags=flags)
        return tuple(Target(*fields) for fields in dm_ioctl.unpack_targets(reply))

    def _back_to_the_old_table(self, name: str) -> None:
        info = self.find(name)
        if info is None:
            return
        if info.inactive_table:
            self.clear(name)
        if info.suspended and info.live_table:
            with _translated(name, "resume"):
                dm_ioctl.resume(name, lockfs=False)


def major_minor(device_number: int) -> str:
    return f"{os.major(device_number)}:{os.minor(device_number)}"


def device_number(path: str | os.PathLike[str]) -> int:
    """The number of a block device node. ``Missing``, or ``Refused`` for another kind of file."""
    try:
        found = Path(path).stat()
    except FileNotFoundError as error:
        raise Missing(f"there is no device {path}") from error
    except OSError as error:
        raise DeviceFailed(f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISBLK(found.st_mode):
        raise Refused(f"{path} is not a block device")
    return found.st_rdev


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name for a device-mapper device: {name!r}")
    return name


def _describe(table: Sequence[Target]) -> str:
    # Kinds only: the parameters of a crypt target are a key.
    return "+".join(target.kind for target in table)


def _info(reply: dm_ioctl.Reply) -> DeviceInfo:
    return DeviceInfo(
        name=reply.name,
        uuid=reply.uuid,
        device_number=reply.device,
        suspended=bool(reply.flags & dm_ioctl.SUSPEND),
        read_only=bool(reply.flags & dm_ioctl.READ_ONLY),
        open_count=reply.open_count,
        event_nr=reply.event_nr,
        live_table=bool(reply.flags & dm_ioctl.ACTIVE_PRESENT),
        inactive_table=bool(reply.flags & dm_ioctl.INACTIVE_PRESENT),
    )


@contextlib.contextmanager
def _translated(name: str, doing: str, *, busy: type[HostError] = InUse) -> Iterator[None]:
    """Turn what the kernel answers into the errors of this package."""
    try:
        yield
    except OSError as error:
        what = f"cannot {doing} device {name}" if name else f"cannot {doing}"
        if error.errno == errno.ENXIO and name:
            raise Missing(
                f"{what}: there is no such device, or none that its table names"
            ) from error
        if error.errno in (errno.ENOENT, errno.ENODEV) and error.filename == dm_ioctl.CONTROL:
            raise Missing(f"{what}: this kernel has no device-mapper loaded") from error
        if error.errno == errno.EBUSY:
            raise busy(f"{what}: {error.strerror}") from error
        raise Refused(f"{what}: {error.strerror} (the kernel log says why)") from error
