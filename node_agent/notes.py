"""What an agent keeps durably of its replicated volumes, elsewhere than on their own disks.

One JSON file a volume, ``<folder>/<volume id>.json``: the ``Notes`` of replication/record.py. They
are read once, at the start, and answered from memory; a change is on the disk before it counts.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from cluster.errors import DataLoss
from cluster.model import from_object, to_object
from host.file_replacement import replace_file
from replication.record import Notes

_SUFFIX = ".json"


class NoteBook:
    """Thread safe."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the folder cannot be made or read.

        A note that cannot be understood does not keep the agent from starting: only its volume
        is refused, by ``of``.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._mutex = threading.Lock()
        self._notes: dict[str, Notes] = {}
        self._damaged: dict[str, str] = {}
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            volume_id = path.name.removesuffix(_SUFFIX)
            try:
                self._notes[volume_id] = from_object(Notes, json.loads(path.read_bytes()))
            except (ValueError, RecursionError, DataLoss) as error:
                self._damaged[volume_id] = f"{path}: {error}"

    def volumes(self) -> set[str]:
        """Of which there are notes, also damaged ones."""
        with self._mutex:
            return self._notes.keys() | self._damaged.keys()

    def of(self, volume_id: str) -> Notes:
        """What is noted; empty where nothing was. Raises DataLoss where it cannot be understood.

        Then nothing is known of what this node has seen, which is not the same as nothing seen.
        """
        with self._mutex:
            if volume_id in self._damaged:
                raise DataLoss(f"the notes of volume {volume_id}: {self._damaged[volume_id]}")
            return self._notes.get(volume_id, Notes())

    def keep(self, volume_id: str, notes: Notes) -> None:
        """On the disk when this returns. Raises OSError; then the old ones count still."""
        text = json.dumps(to_object(notes), separators=(",", ":"))
        with self._mutex:
            replace_file(self._path(volume_id), text.encode(), 0o600, durable=True)
            self._notes[volume_id] = notes
            self._damaged.pop(volume_id, None)

    def remove(self, volume_id: str) -> None:
        """With the volume; right also where there are none."""
        with self._mutex:
            self._path(volume_id).unlink(missing_ok=True)
            self._notes.pop(volume_id, None)
            self._damaged.pop(volume_id, None)

    def _path(self, volume_id: str) -> Path:
        return self._folder / f"{volume_id}{_SUFFIX}"
