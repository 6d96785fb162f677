"""The key of an encrypted volume comes with a request, and goes nowhere else."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidArgument
from csi.secrets import encryption_key


def test_the_key_is_the_bytes_of_the_secret() -> None:
    assert (
        encryption_key({"encryptionKey": "correct hörse", "other": "x"}) == "correct hörse".encode()
    )


@pytest.mark.parametrize("secrets", [{}, {"encryptionKey": ""}, {"key": "correct horse"}])
def test_a_missing_key_is_said_to_be_missing(secrets: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="no secret with an encryptionKey"):
        encryption_key(secrets)


@pytest.mark.parametrize("key", ["horse", "x" * 4097])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        encryption_key({"encryptionKey": key})
    assert str(caught.value) == "encryptionKey must have 8 to 4096 bytes"
