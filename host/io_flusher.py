"""Children that must not wait for the I/O that they themselves hold up."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

_PR_SET_IO_FLUSHER = 57  # linux/prctl.h, since Linux 5.6


@contextlib.contextmanager
def io_flusher() -> Iterator[None]:
    """Processes started in here by this thread allocate memory without waiting for block I/O.

    LVM suspends devices. If the kernel, short of memory, made it wait for a write-back to a
    suspended device before it could resume that device, both would wait for ever. prctl(2),
    PR_SET_IO_FLUSHER: kept over fork and exec; refused without CAP_SYS_RESOURCE, and then nothing
    changes.
    """
    libc = ctypes.CDLL(None)
    changed = libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        if changed:
            libc.prctl(_PR_SET_IO_FLUSHER, 0, 0, 0, 0)
