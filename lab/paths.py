"""Where things are on the host."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
"""The project's tree, at the same path in every node."""

PYTHON = PROJECT / ".venv" / "bin" / "python"

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xlss"
"""What scripts/setup.sh has brought and is not the system's."""

RUN = PROJECT / ".lab" / "run"
"""Mount point of the tmpfs with all files of a lab; each process that runs a lab sees its own."""

SHARE = RUN / "share"
"""Folder that the host and all nodes share, at the same path."""

FILES = RUN / "files"
"""Folder for the host's own files of a lab, such as logs and a store; gone with the lab."""
