"""What can go wrong in the lab."""

from __future__ import annotations

from collections.abc import Sequence


class LabError(Exception):
    """Any failure of the lab itself or of a command in one of its nodes."""


class NodeDown(LabError):
    """The node does not run, or went down while it was asked something."""


class BootFailed(LabError):
    """A node did not come up; the text ends with the last lines of its console."""


class CommandTimeout(LabError):
    """A command did not end within its deadline (seconds); it was killed."""


class CommandFailed(LabError):
    """A command ended with another code than 0."""

    def __init__(
        self, where: str, argv: Sequence[str], returncode: int, stdout: bytes, stderr: bytes
    ) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        said = (stderr or stdout).decode(errors="replace").strip()[-2000:]
        super().__init__(f"{where}: {' '.join(argv)} ended with {returncode}: {said}")
