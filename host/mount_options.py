"""Mount options as a class or a volume gives them.

They end up with ``mount`` (8), some of whose options do more than mount: they set up loop devices,
start helpers, make directories. Those are refused here; what is left is for the kernel to judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# mount(8): what changes the kind of the operation, or is done by mount itself and not the kernel.
_NOT_FOR_VOLUMES = re.compile(
    r"(bind|rbind|move|remount|loop|offset|sizelimit|encryption|r?shared|r?private|r?slave"
    r"|r?unbindable|make-.*|helper|uhelper|users?|nousers?|owner|group|auto|noauto|nofail|_netdev"
    r"|x-.*|comment|defaults|verity\..*|idmap|ro|rw)",
    re.IGNORECASE,
)
_OPTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(=[A-Za-z0-9_.,:/@%+-]*)?")
# kubelet passes the pod's label so (context="system_u:object_r:…:s0:c1,c2"), with commas in it.
_SECURITY_CONTEXT = re.compile(r'((root|fs|def)?context)="?([A-Za-z0-9_.:,-]+)"?')
_COMMA_OUTSIDE_QUOTES = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')


def parse_mount_options(options: Sequence[str]) -> tuple[str, ...]:
    """The single options of a list whose entries may hold several, in their order, none twice.

    Raises ValueError that names the first one that a volume cannot have. Read-only or not is part
    of the request and not an option here.
    """
    found: dict[str, None] = {}
    for entry in options:
        for option in _COMMA_OUTSIDE_QUOTES.split(entry):
            if option:
                found[_checked(option)] = None
    return tuple(found)


def _checked(option: str) -> str:
    context = _SECURITY_CONTEXT.fullmatch(option)
    if context:
        # Quotes keep mount(8) from taking the commas of a label for its own.
        return f'{context[1]}="{context[3]}"'
    name = option.partition("=")[0]
    if not _OPTION.fullmatch(option) or _NOT_FOR_VOLUMES.fullmatch(name):
        raise ValueError(f"{option[:64]!r} is not a mount option that a volume can have")
    return option
