"""Encryption at rest: LUKS2 on the face of a volume, opened as a crypt device above it.

Keys travel on the standard input of ``cryptsetup`` and nowhere else. They are bytes, taken whole: a
newline at the end is part of the key.

- ``cryptsetup`` makes the header and unlocks it; the crypt device is made here, as all devices are.
  Activated by ``cryptsetup``, it would be scanned by udev and linked to by UUID (what a pod writes
  could pass for a file system of the node), and its node would be udev's to remove, late.
- Key derivation is argon2id with 32 MiB and 4 passes on one lane, which takes 0.2 s. cryptsetup's
  own choice (1 GiB, 2 s) would fail on small nodes, and where many volumes are staged at once.
- The volume key is given to the kernel in the table and not through a keyring. A crypt device then
  grows without the key, which an expansion need not bring. Root can read it from the table; root
  can read the volume as well.
- The data begin at 16 MiB, so that the size of a logical volume is known beforehand.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from host import block_device
from host.device_mapper import SECTOR, DeviceMapper, Target, device_number, major_minor
from host.errors import AlreadyExists, CommandFailed, NotBlank, Refused, WrongKey
from host.signature import probe

if TYPE_CHECKING:
    from pathlib import Path

    from host.command import Runner
    from host.device_mapper import DeviceInfo

HEADER_BYTES = 16 << 20
"""What LUKS2 takes from the beginning of the device."""

SECTOR_BYTES = 4096
"""The logical block size of an opened device; the size of the device below is a multiple of it."""

_UUID_PREFIX = "CRYPT-LUKS2-"
SIGNATURE = "crypto_LUKS"
"""What ``signature.probe`` calls a LUKS device."""

_DEADLINE = 120.0
_KDF = "--pbkdf=argon2id --pbkdf-memory=32768 --pbkdf-parallel=1 --pbkdf-force-iterations=4"
# LUKS2 on-disk format, 2: the binary header and the area of the JSON behind it.
_BINARY_HEADER_BYTES, _JSON_BYTES = 4096, 12288
# Exit code of cryptsetup(8), "wrong permissions, bad passphrase".
_NO_PERMISSION = 2


def format_device(runner: Runner, device: str, key: bytes, *, anew: bool = False) -> None:
    """Make ``device`` a LUKS2 device that opens with ``key``; what it held is lost.

    ``anew`` wipes first what an interrupted attempt has left: a header may be there before its key
    is. Raises ``NotBlank`` where the device carries anything, ``ValueError`` for an empty key.
    """
    _require_key(key)
    if anew:
        probe(runner, device)  # by a child: the first touch of a disk that may hang
        block_device.zero_edges(device)
    found = probe(runner, device)
    if found is not None:
        raise NotBlank(f"{device} is not encrypted: it carries {found}")
    argv = [
        *("cryptsetup", "luksFormat", "--batch-mode", "--type=luks2", "--key-file=-"),
        *_KDF.split(),
        f"--offset={HEADER_BYTES // 512}",
        f"--sector-size={SECTOR_BYTES}",
        *("--", device),
    ]
    runner.run(argv, deadline=_DEADLINE, input=key, resource=device)


def is_half_made(runner: Runner, device: str) -> bool:
    """Whether the LUKS2 header on ``device`` has no key slot: nobody can ever have opened it.

    That is what an interrupted ``format_device`` leaves. Raises as ``signature.probe`` does.
    """
    argv = ["cryptsetup", "luksDump", "--dump-json-metadata", "--", device]
    try:
        result = runner.run(argv, deadline=_DEADLINE, resource=device)
    except CommandFailed:
        return False  # it is no LUKS2 device, which opening it tells in words
    return not json.loads(result.stdout)["keyslots"]


def open_device(
    runner: Runner,
    mapper: DeviceMapper,
    device: str,
    name: str,
    key: bytes,
    *,
    discards: bool = True,
) -> Path:
    """The node of the opened device ``name``; adopts the one that is open already.

    An open one is adopted without trying ``key`` again. ``discards`` passes them on: a thin pool
    gets its blocks back, and an observer of the disk learns which are free. Raises ``WrongKey``,
    ``Refused`` where ``device`` is not a LUKS2 device, ``AlreadyExists`` where ``name`` is open
    over something else.
    """
    _require_key(key)
    number = major_minor(device_number(device))
    info = mapper.find(name)
    if info is not None and info.live_table:
        _require_over(mapper, info, number, device)
        mapper.resume(name, deadline=_DEADLINE)
        return mapper.ensure_node(name)
    header = _unlock(runner, device, key)
    if info is None:
        info = mapper.create(name, uuid=f"{_UUID_PREFIX}{header.uuid.replace('-', '')}-{name}")
    _require_crypt(info)
    flags = [*(["allow_discards"] if discards else []), f"sector_size:{header.sector_bytes}"]
    begin = header.begin_bytes // SECTOR
    sectors = _usable_sectors(number, begin, header.sector_bytes)
    parameters = f"{header.cipher} {header.volume_key} 0 {number} {begin} {len(flags)}"
    mapper.load(name, [Target(0, sectors, "crypt", " ".join([parameters, *flags]))])
    return mapper.activate(name)


def close_device(mapper: DeviceMapper, name: str) -> None:
    """Close ``name``; its key is gone from memory then. Nothing to do where it is not open.

    Raises ``InUse`` while it is mounted or open.
    """
    info = mapper.find(name)
    if info is None:
        mapper.remove_node(name)
        return
    _require_crypt(info)
    mapper.remove(name)


def resize_device(runner: Runner, name: str) -> None:
    """Let the opened device ``name`` have all of the device below it, also while mounted.

    Needs no key; nothing happens where it is so already, or where its opening was cut off: then it
    gets all of it when it is opened. Raises ``Missing`` where it is not there.
    """
    mapper = DeviceMapper(runner)
    info = mapper.info(name)
    _require_crypt(info)
    if not info.live_table:
        return
    (live,) = mapper.table(name)
    _cipher, _key, _iv, number, begin, *_flags = live.parameters.split()
    sectors = _usable_sectors(number, int(begin), SECTOR_BYTES)
    if sectors != live.sectors:
        mapper.swap(name, [replace(live, sectors=sectors)], deadline=_DEADLINE)


@dataclass(frozen=True)
class _Header:
    uuid: str
    cipher: str  # as the table of dm-crypt names it
    begin_bytes: int
    sector_bytes: int
    volume_key: str = field(repr=False)  # hexadecimal


def _unlock(runner: Runner, device: str, key: bytes) -> _Header:
    argv = ["cryptsetup", "luksDump", "--type=luks2", "--dump-volume-key", "--batch-mode"]
    argv += ["--key-file=-", "--", device]
    try:
        result = runner.run(argv, deadline=_DEADLINE, input=key, resource=device)
    except CommandFailed as error:
        if error.exit_code == _NO_PERMISSION:
            raise WrongKey(f"the key given does not open {device}") from error
        if "is not a valid LUKS" in error.stderr:
            raise Refused(f"{device} is not a LUKS2 device") from error
        raise
    # Read after cryptsetup, which has mended the first header from the second where it had to.
    text = block_device.read(device, _BINARY_HEADER_BYTES, _JSON_BYTES)
    return parse_header(device, result.stdout.decode("ascii", "replace"), text)


def parse_header(device: str, dump: str, text: bytes) -> _Header:
    """What ``luksDump --dump-volume-key`` says, and the JSON of the header (LUKS2 format, 3.1).

    Raises ``Refused`` for a header of another shape than ``format_device`` makes.
    """
    uuid = re.search(r"^UUID:\s*([0-9a-f-]{36})$", dump, re.MULTILINE)
    key = re.search(r"^MK dump:\s*((?:[0-9a-f]{2}\s+)+)\Z", dump + "\n", re.MULTILINE)
    try:
        header = json.loads(text.split(b"\0", 1)[0])
        (segment,) = header["segments"].values()
        begin, sector_bytes = int(segment["offset"]), int(segment["sector_size"])
        usual = segment["type"] == "crypt" and segment["size"] == "dynamic"
        usual = usual and segment["iv_tweak"] == "0" and "integrity" not in segment
        usual = usual and not header["config"].get("requirements")
        cipher = str(segment["encryption"])
    except (ValueError, KeyError, TypeError, AttributeError):
        usual = False
    if not usual or uuid is None or key is None:
        raise Refused(f"the LUKS header of {device} is not of the kind that is made here")
    return _Header(uuid[1], cipher, begin, sector_bytes, "".join(key[1].split()))


def _usable_sectors(number: str, begin: int, sector_bytes: int) -> int:
    sectors = block_device.size_of_number(number) // SECTOR - begin
    return sectors - sectors % (sector_bytes // SECTOR)


def _require_key(key: bytes) -> None:
    if not key:
        raise ValueError("the key of an encrypted volume is empty")


def _require_crypt(info: DeviceInfo) -> None:
    if not info.uuid.startswith(_UUID_PREFIX):
        raise AlreadyExists(f"device {info.name} is there, and is not an opened LUKS2 device")


def _require_over(mapper: DeviceMapper, info: DeviceInfo, number: str, device: str) -> None:
    _require_crypt(info)
    # cipher, key, IV offset, device, offset, …: nothing of it may end up in an error text.
    if any(target.parameters.split()[3:4] != [number] for target in mapper.table(info.name)):
        raise AlreadyExists(f"device {info.name} is open already, and not over {device}")
