"""Encryption at rest: LUKS2 on the face of a volume, opened as a crypt device above it.

Keys travel on the standard input of ``cryptsetup`` and nowhere else. They are bytes, taken whole: a
newline at the end is part of the key.

- Key derivation is argon2id with 32 MiB and 4 passes on one lane, which takes 0.2 s. cryptsetup's
  own choice (1 GiB, 2 s) would fail on small nodes, and where many volumes are staged at once.
- The volume key is given to the kernel in the table and not through a keyring. A crypt device then
  grows without the key, which an expansion need not bring. Root can read it from the table; root
  can read the volume as well.
- The data begin at 16 MiB, so that the size of a logical volume is known beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from host import block_device
from host.device_mapper import device_number, major_minor
from host.errors import AlreadyExists, CommandFailed, NotBlank, Refused, WrongKey
from host.signature import probe

if TYPE_CHECKING:
    from pathlib import Path

    from host.command import Runner
    from host.device_mapper import DeviceMapper

HEADER_BYTES = 16 << 20
"""What LUKS2 takes from the beginning of the device."""

SECTOR_BYTES = 4096
"""The logical block size of an opened device; the size of the device below is a multiple of it."""

_UUID_PREFIX = "CRYPT-LUKS2-"
_DEADLINE = 120.0
# libdevmapper: do not wait for udev, which a container may not reach, and make the node itself.
_ENVIRONMENT = {"DM_DISABLE_UDEV": "1"}
_KDF = "--pbkdf=argon2id --pbkdf-memory=32768 --pbkdf-parallel=1 --pbkdf-force-iterations=4"
# Exit code of cryptsetup(8), "wrong permissions, bad passphrase".
_NO_PERMISSION = 2


def format_device(runner: Runner, device: str, key: bytes, *, anew: bool = False) -> None:
    """Make ``device`` a LUKS2 device that opens with ``key``; what it held is lost.

    ``anew`` wipes first what an interrupted attempt has left: a header may be there before its key
    is. Raises ``NotBlank`` where the device carries anything, ``ValueError`` for an empty key.
    """
    _require_key(key)
    if anew:
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
    runner.run(argv, deadline=_DEADLINE, input=key, resource=device, env=_ENVIRONMENT)


def is_encrypted(runner: Runner, device: str) -> bool:
    """Whether ``device`` carries a LUKS header. Raises as ``signature.probe`` does."""
    found = probe(runner, device)
    return found is not None and found.kind == "crypto_LUKS"


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
    device_number(device)
    info = mapper.find(name)
    if info is not None and not info.live_table:
        _require_crypt(name, info.uuid)
        mapper.remove(name)  # what an interrupted attempt has left
        info = None
    if info is not None:
        _require_crypt(name, info.uuid)
        _require_over(mapper, name, device)
        if info.suspended:
            mapper.resume(name, deadline=_DEADLINE)
        return mapper.ensure_node(name)
    argv = [
        *("cryptsetup", "open", "--type=luks2", "--key-file=-", "--disable-keyring"),
        *(["--allow-discards"] if discards else []),
        *("--", device, name),
    ]
    try:
        runner.run(argv, deadline=_DEADLINE, input=key, resource=device, env=_ENVIRONMENT)
    except CommandFailed as error:
        if error.exit_code == _NO_PERMISSION:
            raise WrongKey(f"the key given does not open {device}") from error
        if "is not a valid LUKS device" in error.stderr:
            raise Refused(f"{device} is not a LUKS2 device") from error
        raise
    return mapper.ensure_node(name)


def close_device(mapper: DeviceMapper, name: str) -> None:
    """Close ``name``; its key is gone from memory then. Nothing to do where it is not open.

    Raises ``InUse`` while it is mounted or open.
    """
    info = mapper.find(name)
    if info is None:
        mapper.remove_node(name)
        return
    _require_crypt(name, info.uuid)
    mapper.remove(name)


def resize_device(runner: Runner, name: str) -> None:
    """Let the opened device ``name`` have all of the device below it, also while mounted.

    Needs no key; nothing happens where it is so already.
    """
    argv = ["cryptsetup", "resize", "--", name]
    runner.run(argv, deadline=_DEADLINE, resource=name, env=_ENVIRONMENT)


def _require_key(key: bytes) -> None:
    if not key:
        raise ValueError("the key of an encrypted volume is empty")


def _require_crypt(name: str, uuid: str) -> None:
    if not uuid.startswith(_UUID_PREFIX):
        raise AlreadyExists(f"device {name} is there, and is not an opened LUKS2 device")


def _require_over(mapper: DeviceMapper, name: str, device: str) -> None:
    # cipher, key, IV offset, device, offset, …: nothing of it may end up in an error text.
    number = major_minor(device_number(device))
    tables = mapper.table(name)
    if any(target.parameters.split()[3:4] != [number] for target in tables):
        raise AlreadyExists(f"device {name} is open already, and not over {device}")
