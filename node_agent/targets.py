"""Where the volumes of this node are published: what no mount table tells.

One small JSON file for each target path, in a directory on tmpfs, so that it goes with the mounts
when the node reboots and stays with them when the agent restarts. It is written before the mount
and removed after it is gone: a file without its mount is what a crash leaves, and harmless.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from host.file_replacement import replace_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """One published path of a volume."""

    volume_id: str
    path: str
    access_mode: str  # name of the CSI access mode
    readonly: bool
    block: bool
    pod_uid: str = ""  # "" = not known: no I/O limits


class Targets:
    """All published paths. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._targets = {
            target.path: target for target in map(_read, directory.iterdir()) if target
        }

    def put(self, target: Target) -> None:
        """Keep it; a crash right after finds it again. Raises OSError."""
        text = json.dumps(asdict(target))
        with self._mutex:
            replace_file(self._file(target.path), text.encode(), 0o600, durable=False)
            self._targets[target.path] = target

    def remove(self, path: str) -> None:
        with self._mutex:
            self._file(path).unlink(missing_ok=True)
            self._targets.pop(path, None)

    def get(self, path: str) -> Target | None:
        return self._targets.get(path)

    def of(self, volume_id: str) -> tuple[Target, ...]:
        with self._mutex:
            return tuple(t for t in self._targets.values() if t.volume_id == volume_id)

    def _file(self, path: str) -> Path:
        return self._directory / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:40]}.json"


def _read(file: Path) -> Target | None:
    if file.suffix != ".json":
        return None  # half-written by a crash: its mount was never made
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Target(**{field.name: values[field.name] for field in fields(Target)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("cannot read %s: %s", file, error)
        return None
