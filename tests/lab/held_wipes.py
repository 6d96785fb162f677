"""Wipes in a lab node that do not go on before they are let."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.node import Node

_REAL, _COPY = "/usr/sbin/blkdiscard", "/run/blkdiscard"
_HELD = "/run/held-blkdiscard"
_SCRIPT = f"""#!/bin/sh
while test -e {_HELD}.gate; do sleep 0.05; done
exec {_COPY} "$@"
"""


@contextmanager
def wipes_held(node: Node) -> Iterator[None]:
    """In the block each blkdiscard(8) waits at its beginning; after it they all go on."""
    node.put(_HELD, _SCRIPT.encode())
    node.sh(f"cp {_REAL} {_COPY}; chmod +x {_HELD}; touch {_HELD}.gate")
    node.run(["mount", "--bind", _HELD, _REAL])
    try:
        yield
    finally:
        node.sh(f"umount -l {_REAL}; rm {_HELD}.gate")
