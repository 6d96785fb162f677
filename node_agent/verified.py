"""What comparisons of replicas found, kept durably beside the membership notes.

One JSON file a volume, ``<folder>/<volume id>.verify``: a ``VerifyReport`` of cluster/agents.py. It
decides nothing: one that cannot be read counts as none, and the comparison is made again.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from cluster.agents import VerifyReport
from cluster.errors import DataLoss
from cluster.model import from_object, to_object
from host.file_replacement import replace_file

_log = logging.getLogger(__name__)
_SUFFIX = ".verify"


class Verified:
    """Thread safe; read once, and answered from memory."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the folder cannot be made or read."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._mutex = threading.Lock()
        self._found: dict[str, VerifyReport] = {}
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            try:
                found = from_object(VerifyReport, json.loads(path.read_bytes()))
            except (ValueError, RecursionError, DataLoss) as error:
                _log.warning("%s is left out: %s", path, error)
            else:
                self._found[path.name.removesuffix(_SUFFIX)] = found

    def of(self, volume_id: str) -> VerifyReport | None:
        with self._mutex:
            return self._found.get(volume_id)

    def keep(self, volume_id: str, report: VerifyReport) -> None:
        """On the disk when this returns. Raises OSError; then it is known until the restart."""
        text = json.dumps(to_object(report), separators=(",", ":"))
        with self._mutex:
            self._found[volume_id] = report
            replace_file(self._path(volume_id), text.encode(), 0o600, durable=True)

    def remove(self, volume_id: str) -> None:
        """With the volume; right also where there is none."""
        with self._mutex:
            self._path(volume_id).unlink(missing_ok=True)
            self._found.pop(volume_id, None)

    def _path(self, volume_id: str) -> Path:
        return self._folder / f"{volume_id}{_SUFFIX}"
