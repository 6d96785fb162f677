"""The key of the replicas' secrets: made once, read whole, shown nowhere."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cluster.errors import Refused
from node_agent.replication_key import ReplicationKey, make_key
from replication.model import Replica, Resource


def test_a_volumes_secret_is_the_same_for_ever_and_one_that_drbd_takes(tmp_path: Path) -> None:
    assert make_key(tmp_path)
    path = tmp_path / "replication.key"
    made = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = ReplicationKey(tmp_path)
    secret = key.secret("v1")
    assert not make_key(tmp_path), "replicas that run would not know each other any more"
    assert path.read_text() == made
    assert ReplicationKey(tmp_path).secret("v1") == secret != key.secret("v2")
    assert made.strip() not in repr(key)

    replicas = tuple(Replica(f"n{i}", i, f"10.0.0.{i}", f"/dev/d{i}", f"/dev/m{i}") for i in (1, 2))
    assert Resource("r", 1, 7001, secret, replicas).secret == secret


def test_two_keys_give_different_secrets(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_key(tmp_path / name)
    one, two = (ReplicationKey(tmp_path / name).secret("v1") for name in ("one", "two"))
    assert one != two


@pytest.mark.parametrize("content", [b"", b"0" * 63, b"g" * 64, b"\xff" * 64, b"0" * 64 + b" x"])
def test_a_damaged_key_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "replication.key").write_bytes(content)
    with pytest.raises(Refused, match=r"replication\.key (is damaged|cannot be read)"):
        ReplicationKey(tmp_path)


def test_a_missing_key_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is missing: copy it from the `controller` folder"):
        ReplicationKey(tmp_path)
