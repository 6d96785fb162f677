"""The header of an encrypted volume, as captured from cryptsetup 2.6.1."""

from __future__ import annotations

import json

import pytest

from host.encryption import parse_header
from host.errors import Refused

DUMP = """LUKS header information for /dev/mapper/xlss-v1
Cipher name:   \taes
Cipher mode:   \txts-plain64
Payload offset:\t32768
UUID:          \t8071aa08-8e00-47b7-a50a-c81688154aa8
MK bits:       \t512
MK dump:\t1c a8 52 eb 91 31 e3 da 22 53 66 28 6f 55 b7 a9\x20
\t\t68 11 79 26 84 ec c4 4c 75 f7 0b be 91 b7 83 a9\x20
\t\tf0 46 c7 41 60 23 97 c0 33 24 99 fb fb a1 63 de\x20
\t\t52 cf a5 2a 55 91 55 d8 71 df 65 75 75 7b 69 68\x20
"""
SEGMENT = {
    "type": "crypt",
    "offset": "16777216",
    "size": "dynamic",
    "iv_tweak": "0",
    "encryption": "aes-xts-plain64",
    "sector_size": 4096,
}


def header(config: object = None, **changes: object) -> bytes:
    segments = {"0": SEGMENT | changes}
    return json.dumps({"segments": segments, "config": config or {}}).encode() + bytes(64)


def test_a_header_as_it_is_made_here() -> None:
    found = parse_header("/dev/mapper/xlss-v1", DUMP, header())
    assert found.uuid == "8071aa08-8e00-47b7-a50a-c81688154aa8"
    assert (found.cipher, found.begin_bytes, found.sector_bytes) == (
        "aes-xts-plain64",
        16 << 20,
        4096,
    )
    assert len(found.volume_key) == 128
    assert found.volume_key.startswith("1ca852eb9131e3da22536628")
    assert found.volume_key.endswith("75757b6968")
    assert found.volume_key not in repr(found)


@pytest.mark.parametrize(
    ("dump", "text"),
    [
        (DUMP, b""),
        (DUMP, b"{}"),
        (DUMP, b"[1]"),
        (DUMP, header(iv_tweak="8")),
        (DUMP, header(size="4096")),
        (DUMP, header(type="linear")),
        (DUMP, header(integrity={"type": "hmac"})),
        (DUMP, header(config={"requirements": {"mandatory": ["online-reencrypt"]}})),
        (DUMP.partition("MK dump")[0], header()),
        (DUMP.replace("1c a8", "zz a8"), header()),
        (DUMP.replace("UUID", "ID"), header()),
    ],
)
def test_a_header_of_another_kind_is_refused_without_telling_the_key(
    dump: str, text: bytes
) -> None:
    with pytest.raises(Refused) as refused:
        parse_header("/dev/mapper/xlss-v1", dump, text)
    assert "22 53 66" not in str(refused.value)
