"""What the module says to a change, as the errors of ``host``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from host.errors import (
    CommandFailed,
    DeviceFailed,
    HostError,
    InTransition,
    InUse,
    Missing,
    Refused,
)

_RESULT = re.compile(r"\((-?\d+)\)")
# enum drbd_ret_code (positive) and drbd_state_rv (negative) of linux/drbd.h.
_ERRORS: dict[int, type[HostError]] = {
    104: DeviceFailed,
    105: DeviceFailed,
    111: Refused,
    112: Refused,
    114: InUse,
    115: InUse,
    118: DeviceFailed,
    119: Missing,
    127: Missing,
    130: Refused,
    138: Refused,
    153: Refused,  # no peer's version is known yet: they are about to connect
    158: Missing,
    165: Refused,
    -2: Refused,
    -4: Refused,
    -5: Refused,
    -6: Refused,
    -7: Refused,
    -8: Refused,
    -10: Refused,
    -12: InUse,
    -15: Refused,
    -16: Refused,
    -18: InTransition,
    -19: Refused,
}


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the module's results into the errors of ``host``, with the module's own words."""
    try:
        yield
    except CommandFailed as error:
        for result in _RESULT.findall(error.stderr):
            kind = _ERRORS.get(int(result))
            if kind is not None:
                raise kind(str(error)) from error
        raise
