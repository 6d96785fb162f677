"""The key from which the secrets that replicas share are made: one for all controllers.

It lies beside the controllers' certificate, and on no node. A volume's secret is made of it and of
the volume's identifier, so that the secrets are stored nowhere, and a store that is rebuilt gives
the same ones. With another key replicas that run would not know each other at their next
connection: one that is there is never replaced.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from cluster.errors import Refused
from host.file_replacement import replace_file

KEY_FILE = "replication.key"
_KEY_BYTES = 32
_KEY = re.compile(r"[0-9a-f]{64}\n?")


def make_key(directory: Path) -> bool:
    """Make the key unless there is one; returns whether it was made. Raises OSError."""
    path = directory / KEY_FILE
    if path.exists():
        return False
    replace_file(path, f"{secrets.token_hex(_KEY_BYTES)}\n".encode(), 0o600, durable=True)
    return True


class ReplicationKey:
    """The key as it was read; it is in no ``repr``."""

    def __init__(self, directory: Path) -> None:
        """Read it. Raises Refused, which says how to make one."""
        path = directory / KEY_FILE
        try:
            text = path.read_text()
        except FileNotFoundError as error:
            raise Refused(
                f"{path} is missing: copy it from the `controller` folder that `xlss certs init` "
                "made, and use the same one for all controllers. Where that made none, make it "
                f"once: `(umask 077; openssl rand -hex {_KEY_BYTES} > {path})`"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"{path} cannot be read: {error}") from error
        if not _KEY.fullmatch(text):
            raise Refused(
                f"{path} is damaged: it has to hold {2 * _KEY_BYTES} hexadecimal digits. "
                "Restore it from where `xlss certs init` made it"
            )
        self._key = bytes.fromhex(text)

    def secret(self, volume_id: str) -> str:
        """What the replicas of that volume share: 44 characters that DRBD takes."""
        digest = hmac.new(self._key, volume_id.encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()
