"""What this machine can do about replication. Looks only: nothing is loaded, nothing is set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from host.command import Runner
from host.errors import HostError
from host.preflight import Finding
from replication.model import Dialect

_USE = "replication"
_FLUSHES = "safety from flushes that DRBD 8.4 forgets"
_DEADLINE_SECONDS = 10.0
_PROGRAMS = ("drbdadm", "drbdsetup", "drbdmeta")
_VERSION = re.compile(r"version:\s*(\d+)\.(\d+)(\S*)")
# What Linux calls its own helpers by where user-mode helpers are confined or switched off
# (CONFIG_STATIC_USERMODEHELPER): then the module's parameter has no effect.
_STATIC_HELPER = "CONFIG_STATIC_USERMODEHELPER=y"


def dialect_of(version: str) -> Dialect | None:
    """The dialect of a module's version such as 8.4.11 or 9.2.18; None for one that is neither."""
    if version.startswith("8.4."):
        return Dialect.V84
    return Dialect.V9 if version.startswith("9.") else None


def look(runner: Runner, root: Path = Path("/")) -> Iterator[Finding]:
    """What a replica needs of its machine, and what makes it safer."""
    for program in _PROGRAMS:
        yield _program(root, program)
    yield _module(runner, root)
    yield _helper(root)
    yield _service(root)
    yield _write_caches(root)


def _program(root: Path, program: str) -> Finding:
    places = [root / folder / program for folder in ("usr/sbin", "sbin", "usr/local/sbin")]
    found = next((place for place in places if place.exists()), None)
    detail = str(found) if found else "not installed: install the package drbd-utils"
    return Finding(program, found is not None, detail, _USE)


def _module(runner: Runner, root: Path) -> Finding:
    version, state = loaded_version(root), "loaded"
    if version is None:
        try:
            argv = ["modinfo", "-F", "version", "drbd"]
            output = runner.run(argv, deadline=_DEADLINE_SECONDS).stdout
        except HostError:
            release = (root / "proc/sys/kernel/osrelease").read_text().strip()
            return Finding("kernel drbd", False, f"not in the kernel {release}", _USE)
        version, state = output.decode(errors="replace").strip(), "can be loaded"
    if dialect_of(version) is not Dialect.V84:
        words = f"version {version}, {state}: only 8.4 is driven so far"
        return Finding("kernel drbd", False, words, _USE)
    return Finding("kernel drbd", True, f"{version}, {state}", _USE)


def loaded_version(root: Path = Path("/")) -> str | None:
    """That of the module in the kernel, such as 8.4.11; None where none is loaded."""
    try:
        text = (root / "proc/drbd").read_text()
    except FileNotFoundError:
        return None
    found = _VERSION.search(text)
    return f"{found[1]}.{found[2]}{found[3]}" if found else None


def _helper(root: Path) -> Finding:
    """Without the helper a primary that lost its peer could never be told apart from one alone."""
    subject = "drbd usermode_helper"
    release = (root / "proc/sys/kernel/osrelease").read_text().strip()
    config = root / "boot" / f"config-{release}"
    if config.exists() and _STATIC_HELPER in config.read_text().splitlines():
        words = "this kernel runs no helpers of modules (CONFIG_STATIC_USERMODEHELPER)"
        return Finding(subject, False, words, _USE)
    module = root / "sys/module/drbd"
    if not module.exists():
        return Finding(subject, True, "is set when the module is loaded", _USE)
    parameter = module / "parameters/usermode_helper"
    if not parameter.exists():
        return Finding(subject, False, "the module does not have this parameter", _USE)
    path = parameter.read_text().rstrip("\n")
    if path in ("", "disabled"):
        words = "disabled: load the module without usermode_helper=disabled"
        return Finding(subject, False, words, _USE)
    if not parameter.stat().st_mode & 0o200:
        return Finding(subject, False, f"{path}, and it cannot be set while loaded", _USE)
    return Finding(subject, True, f"{path}, can be set", _USE)


def _service(root: Path) -> Finding:
    """Nothing may start at boot by itself (rule 14): the service is masked, or not there."""
    subject, unit = "drbd.service", "drbd.service"
    mask = root / "etc/systemd/system" / unit
    if mask.is_symlink() and str(mask.readlink()) == "/dev/null":
        return Finding(subject, True, "masked", _USE)
    wanted = list((root / "etc/systemd/system").glob(f"*.wants/{unit}"))
    if wanted:
        words = "enabled: it would bring volumes up at boot; systemctl mask drbd.service"
        return Finding(subject, False, words, _USE)
    return Finding(subject, True, "not enabled", _USE)


def _write_caches(root: Path) -> Finding:
    """DRBD 8.4 forgets a flush that is under way when it freezes; without a cache there is none."""
    disks = sorted(
        cache.parent.parent.name
        for cache in (root / "sys/block").glob("*/queue/write_cache")
        if cache.read_text().strip() == "write back" and (cache.parent.parent / "device").exists()
    )
    words = "none is volatile"
    if disks:
        words = f"volatile: {', '.join(disks)}: switch off those with power-loss protection"
    return Finding("write caches", not disks, words, _FLUSHES)
