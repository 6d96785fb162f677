"""What can go wrong on the local machine.

Host errors say what failed and what a person can do. They carry no gRPC codes: the one table that
maps them is ``node_agent/status_codes.py``.
"""

from __future__ import annotations

from collections.abc import Sequence


class HostError(Exception):
    """Base of all errors that the ``host`` package raises on purpose."""


class Missing(HostError):
    """The device, logical volume, volume group, mount or file is not there."""


class AlreadyExists(HostError):
    """Something of that name is there already."""


class NoSpace(HostError):
    """The volume group or thin pool has not enough room."""


class InUse(HostError):
    """The device or mount is held open by somebody else."""


class NotBlank(HostError):
    """A device that was to be formatted or taken for a pool carries data or a signature."""


class WrongKey(HostError):
    """No key slot of the LUKS device opens with the given key."""


class Refused(HostError):
    """Not possible in the present state; the text says what would have to change."""


class InTransition(Refused):
    """Not possible for a moment; the same may be asked again."""


class DeviceFailed(HostError):
    """A disk is missing or returns errors."""


class CommandFailed(HostError):
    """An external command ended with an error that no more specific class describes."""

    def __init__(self, argv: Sequence[str], exit_code: int, stderr: str) -> None:
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.stderr = stderr
        super().__init__(f"{' '.join(self.argv)}: exit code {exit_code}: {stderr[-1000:].strip()}")


class CommandStuck(HostError):
    """A command did not end by its deadline, or the breaker of its resource is open."""


class CommandLost(CommandStuck):
    """A command's process ended without an answer: whether it took effect has to be looked up."""
