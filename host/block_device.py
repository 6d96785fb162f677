"""Reading, wiping and copying whole block devices. Offsets and lengths are bytes.

All I/O is direct: a copy of a large volume through the page cache would push out what the node's
pods have there. Source of the ioctls: linux/fs.h.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from host.device_mapper import major_minor
from host.errors import DeviceFailed, HostError, InTransition, InUse, Missing

_BLKGETSIZE64 = 0x80081272
_BLKZEROOUT = 0x127F
_SYS = Path("/sys/dev/block")
_BLOCK = 1 << 20
_GRAIN = 64 << 10  # the smallest chunk of a thin pool: what is zero in the source is not allocated
_ZEROS = bytes(_GRAIN)
_EDGE = 4 << 20  # more than any superblock, partition table or RAID signature lies from either end

# Told how many bytes are done, in rising order; may raise to give up.
Progress = Callable[[int], None]


def size_of(path: str) -> int:
    """Size in bytes. Raises Missing, DeviceFailed."""
    with _opened(path, os.O_RDONLY) as fd:
        answer = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
        return int(struct.unpack("Q", answer)[0])


def size_of_number(number: str) -> int:
    """Size in bytes of the device ``major:minor``, without opening it. Raises Missing."""
    try:
        return int((_SYS / number / "size").read_text()) * 512
    except FileNotFoundError as error:
        raise Missing(f"there is no block device {number}") from error


def block_size_of_number(number: str) -> int:
    """Logical block of the device ``major:minor`` in bytes, without opening it. Raises Missing."""
    place = _SYS / number
    # That of a partition is its disk's.
    folder = place / "queue" if (place / "queue").is_dir() else place.resolve().parent / "queue"
    try:
        return int((folder / "logical_block_size").read_text())
    except FileNotFoundError as error:
        raise Missing(f"there is no block device {number}") from error


def in_flight(number: str) -> tuple[int, int]:
    """How many reads and writes of the device ``major:minor`` are not answered yet.

    0 where the kernel does not count them (queue/iostats). Raises Missing.
    """
    try:
        reads, writes = map(int, (_SYS / number / "inflight").read_text().split())
    except FileNotFoundError as error:
        raise Missing(f"there is no block device {number}") from error
    return reads, writes


def writes(number: str) -> int:
    """How many writes the device ``major:minor`` has had, flushes and discards among them.

    Kernels differ in whether those under way count. Source: Documentation/block/stat.rst of the
    kernel. Raises Missing.
    """
    try:
        counts = [int(word) for word in (_SYS / number / "stat").read_text().split()]
    except FileNotFoundError as error:
        raise Missing(f"there is no block device {number}") from error
    return counts[4] + sum(counts[11:12] + counts[15:16])


def holders_of(path: str) -> list[str]:
    """Kernel names (``dm-3``) of the devices that are stacked on this one. Raises Missing."""
    try:
        number = Path(path).stat().st_rdev
        holders = _SYS / major_minor(number) / "holders"
        return sorted(entry.name for entry in holders.iterdir())
    except FileNotFoundError as error:
        raise Missing(f"there is no block device {path}") from error


def wait_for_node(path: str, seconds: float) -> None:
    """Wait until the node of a device is there, which udev may make late. Raises InTransition."""
    give_up = time.monotonic() + seconds
    while not stat.S_ISBLK(_mode(path)):
        if time.monotonic() >= give_up:
            raise InTransition(f"{path} has not come within {seconds} s")
        time.sleep(0.02)


def edges_are_zero(path: str) -> bool:
    """Whether the first and last 4 MiB are zero. Raises Missing, DeviceFailed if unreadable."""
    size = size_of(path)
    length = min(_EDGE, size)
    with (
        mmap.mmap(-1, length) as buffer,
        _opened(path, os.O_RDONLY | os.O_DIRECT) as fd,
    ):
        clean = True
        for start in sorted({0, size - length}):
            with memoryview(buffer) as view:
                _read_all(fd, view, start)
            clean = clean and not buffer[:].strip(b"\0")
        return clean


def zero_edges(path: str) -> None:
    """Zero the first and last 4 MiB, where all signatures are.

    Raises Missing, DeviceFailed, InUse where it is mounted or another device lies on it.
    """
    size = size_of(path)
    with _opened(path, os.O_WRONLY | os.O_DIRECT | os.O_EXCL) as fd:
        for start in sorted({0, max(size - _EDGE, 0)}):
            _zero(fd, start, min(_EDGE, size - start))
        os.fsync(fd)


def copy(source: str, target: str, progress: Progress, *, skip_zeros: bool) -> None:
    """Copy all of the source to the beginning of the target and flush it.

    With ``skip_zeros`` what is zero is not written: for a target that reads as zeros, and should
    stay unallocated there. Raises Missing, DeviceFailed; HostError when the target is smaller.
    """
    size = size_of(source)
    if size_of(target) < size:
        raise HostError(f"{target} is smaller than {source}, which is to be copied to it")
    buffer = mmap.mmap(-1, _BLOCK)
    with (
        _opened(source, os.O_RDONLY | os.O_DIRECT) as reader,
        _opened(target, os.O_WRONLY | os.O_DIRECT) as writer,
        memoryview(buffer) as view,
    ):
        for start in range(0, size, _BLOCK):
            length = min(_BLOCK, size - start)
            _read_all(reader, view[:length], start)
            for begin, end in _runs(view[:length], skip_zeros):
                _write_all(writer, view[begin:end], start + begin)
            progress(start + length)
        os.fsync(writer)


def read(path: str, offset: int, length: int) -> bytes:
    """Read past the cache; ``offset`` and ``length`` are multiples of 4096.

    Raises Missing, DeviceFailed (also beyond the end).
    """
    with mmap.mmap(-1, length) as buffer, _opened(path, os.O_RDONLY | os.O_DIRECT) as fd:
        with memoryview(buffer) as view:
            _read_all(fd, view, offset)
        return buffer[:]


def write_exclusively(path: str, blocks: Sequence[tuple[int, bytes]]) -> None:
    """Write each ``(offset, data)`` of multiples of 4096 in turn, each safe before the next.

    Raises InUse where the device is mounted or mapped or being formatted; Missing, DeviceFailed.
    """
    with _opened(path, os.O_WRONLY | os.O_DIRECT | os.O_EXCL) as fd:
        for offset, data in blocks:
            with mmap.mmap(-1, len(data)) as buffer:
                buffer[:] = data
                with memoryview(buffer) as view:
                    _write_all(fd, view, offset)
            os.fsync(fd)


def _mode(path: str) -> int:
    try:
        return Path(path).stat().st_mode
    except FileNotFoundError:
        return 0


def _runs(view: memoryview, skip_zeros: bool) -> Iterator[tuple[int, int]]:
    """The parts to write, as (begin, end)."""
    if not skip_zeros:
        yield 0, len(view)
        return
    begin: int | None = None
    for start in range(0, len(view), _GRAIN):
        part = bytes(view[start : start + _GRAIN])
        if part == _ZEROS[: len(part)]:
            if begin is not None:
                yield begin, start
                begin = None
        elif begin is None:
            begin = start
    if begin is not None:
        yield begin, len(view)


def _read_all(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            raise DeviceFailed(f"the device ends before byte {offset + done}")
        done += count


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def _zero(fd: int, start: int, length: int) -> None:
    # The kernel writes zeros itself where the device cannot promise that it does (BLKZEROOUT).
    fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("QQ", start, length))


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    """The file descriptor of a device; OSError inside becomes an error of ``host/errors.py``."""
    fd = -1
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
        yield fd
    except OSError as error:
        text = f"{path}: {error.strerror}"
        if error.errno in {errno.ENOENT, errno.ENXIO, errno.ENODEV}:
            raise Missing(text) from error
        if error.errno == errno.EBUSY:
            raise InUse(text) from error
        raise DeviceFailed(text) from error
    finally:
        if fd >= 0:
            os.close(fd)
