"""The secrets of requests: taken out at the edge, never stored, and in no error text.

What the interceptors keep out of the logs is decided by the protocol itself, by its ``csi_secret``
option (``node_agent/messages.py``). This file says which secret the driver wants.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.errors import InvalidArgument

ENCRYPTION_KEY = "encryptionKey"
# cryptsetup(8) takes 8 MiB; what fits into a secret of CSI (4 KiB) is less.
_KEY_BYTES = (8, 4096)


def encryption_key(secrets: Mapping[str, str]) -> bytes:
    """The key of an encrypted volume, from the secret of NodeStageVolume (or NodeExpandVolume).

    Raises InvalidArgument when it is missing, or too short or too long to be one.
    """
    text = secrets.get(ENCRYPTION_KEY)
    if not text:
        raise InvalidArgument(
            f"the volume is encrypted, and the request has no secret with an {ENCRYPTION_KEY}:"
            " set csi.storage.k8s.io/node-stage-secret-name and -namespace in the StorageClass"
        )
    key = text.encode()
    shortest, longest = _KEY_BYTES
    if not shortest <= len(key) <= longest:
        raise InvalidArgument(f"{ENCRYPTION_KEY} must have {shortest} to {longest} bytes")
    return key
