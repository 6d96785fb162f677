"""The paths of node requests, checked before anything is done with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from cluster.errors import InvalidArgument

_PATH_MAX = 4096  # linux/limits.h, with the NUL at the end
_NAME_MAX = 255
POD_UID_KEY = "csi.storage.k8s.io/pod.uid"
_UID = re.compile(r"[A-Za-z0-9-]{1,64}")
# Where kubelet publishes: file systems below the pod's directory, devices below the driver's.
_PUBLISHED = (
    re.compile(r"/pods/([A-Za-z0-9-]{1,64})/volumes/"),
    re.compile(r"/volumeDevices/publish/[^/]+/([A-Za-z0-9-]{1,64})$"),
)


def parse_path(text: str, field: str) -> str:
    """An absolute path in its plain form. Raises InvalidArgument, naming the field."""
    if not text:
        raise InvalidArgument(f"{field} is missing")
    if not text.startswith("/"):
        raise InvalidArgument(f"{field} is not an absolute path")
    parts = PurePosixPath(text).parts[1:]
    if not parts or ".." in parts:
        raise InvalidArgument(f"{field} is not permitted: it is / or contains '..'")
    sizes = [len(part.encode(errors="surrogateescape")) for part in parts]
    if sum(sizes) + len(sizes) >= _PATH_MAX or max(sizes) > _NAME_MAX:
        raise InvalidArgument(f"{field} is longer than the file system permits")
    if any(character < " " or character == "\x7f" for character in text):
        raise InvalidArgument(f"{field} contains control characters")
    return "/" + "/".join(parts)


def pod_uid(target_path: str, volume_context: Mapping[str, str]) -> str:
    """The uid of the pod that a volume is published for; empty when nothing says it."""
    uid = volume_context.get(POD_UID_KEY, "")
    if _UID.fullmatch(uid):
        return uid
    matches = (pattern.search(target_path) for pattern in _PUBLISHED)
    return next((match[1] for match in matches if match), "")
