"""Parameters of classes: loose maps of strings once, frozen types from there on.

StorageClass: ``parse_class`` and ``parse_limits``. VolumeAttributesClass: ``change_limits``.
VolumeSnapshotClass and VolumeGroupSnapshotClass: ``check_snapshot_class``. A parameter that is
unknown, or that contradicts another one or the request, is refused by its name: a typing error in a
class must not become a volume that is not what its author meant. docs/storage-class.md tells users.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from cluster.errors import InvalidArgument
from cluster.model import AccessType, IoLimits, Layout, LayoutKind, Provision, VolumeSpec
from cluster.spelling import nearest
from csi.capability import FILESYSTEMS, Capability
from host.filesystem import validate_mkfs_options

_PREFIX = "csi.storage.k8s.io/"
_PREFIXED_FILESYSTEM = _PREFIX + "fstype"
_CLASS_PARAMETERS = (
    "pool",
    "provision",
    "layout",
    "stripes",
    "stripeSize",
    "mirrors",
    "replicas",
    "fsType",
    "mkfsOptions",
    "encryption",
)
_REPLICAS = "replicas"
_LIMIT_FIELDS = {
    "readIops": "read_iops",
    "writeIops": "write_iops",
    "readBandwidth": "read_bytes",
    "writeBandwidth": "write_bytes",
}
DEFAULT_POOL = "default"
DEFAULT_FILESYSTEM = "ext4"

# RFC 1123 subdomain, as the nodes' configuration wants it.
_POOL = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_MAX_MKFS_BYTES = 200
_DEFAULT_STRIPE_BYTES = 64 << 10
# lvmraid(7): a raid1 has at most 10 images. Stripes end where a node runs out of disks.
_STRIPES = (2, 64)
_MIRRORS = (2, 10)
# lvcreate(8): a power of two, and no more than an extent, which is 4 MiB unless chosen otherwise.
_STRIPE_BYTES = (4 << 10, 4 << 20)

# Kubernetes quantities: https://kubernetes.io/docs/reference/kubernetes-api, "Quantity".
_QUANTITY = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)(?:([KMGTPE]i|[kMGTPE]?)|[eE]([0-9]{1,2}))")
_UNITS = {"": 1} | {
    unit: base**power
    for base, names in ((1000, "k M G T P E"), (1024, "Ki Mi Gi Ti Pi Ei"))
    for power, unit in enumerate(names.split(), start=1)
}
_LEAST_LIMIT, _MAX_LIMIT = 2, (1 << 63) - 1  # Linux refuses 1 in io.max (blk-throttle.c)


def parse_class(
    parameters: Mapping[str, str],
    capabilities: Sequence[Capability] = (),
    mutable: Mapping[str, str] | None = None,
    *,
    replication: bool = False,
) -> VolumeSpec:
    """What a StorageClass and the capabilities of a request ask for.

    Without capabilities (GetCapacity) it is a mounted volume. ``replication``: whether two
    replicas may be asked for. Of ``mutable``, the parameters of a VolumeAttributesClass, only the
    replicas count here, and have precedence. Raises InvalidArgument.
    """
    own = _own(parameters, (*_CLASS_PARAMETERS, *_LIMIT_FIELDS), "StorageClass parameter")
    if mutable and _REPLICAS in mutable:
        own[_REPLICAS] = mutable[_REPLICAS]
    access = _access(capabilities)
    filesystem = _filesystem(parameters, capabilities, access)
    replicas = _replicas(own, replication)
    provision = _provision(own)
    layout = _layout(own, provision)
    if replicas > 1 and layout.kind is not LayoutKind.LINEAR:
        raise InvalidArgument(
            f"layout {layout.kind} contradicts replicas {replicas}: replicas are linear"
        )
    return VolumeSpec(
        pool=_pool(own),
        provision=provision,
        layout=layout,
        replicas=replicas,
        access=access,
        filesystem=filesystem,
        mkfs_options=_mkfs_options(own, access, filesystem),
        encrypted=_choice(own, "encryption", ("none", "luks2")) == "luks2",
    )


def parse_limits(parameters: Mapping[str, str], mutable: Mapping[str, str]) -> IoLimits:
    """The I/O limits of a new volume.

    They may stand in the StorageClass too; a VolumeAttributesClass has precedence, parameter by
    parameter (CSI 1.13, CreateVolume). Raises InvalidArgument.
    """
    in_class = {key: value for key, value in parameters.items() if key in _LIMIT_FIELDS}
    return change_limits(change_limits(IoLimits(), in_class), mutable)


def change_limits(limits: IoLimits, mutable: Mapping[str, str]) -> IoLimits:
    """The limits with those changed that the parameters name, and no others.

    That is what CSI 1.13 wants of ControllerModifyVolume: the absence of a parameter changes
    nothing. "0" or "" lifts a limit. Raises InvalidArgument.
    """
    own = _own(mutable, (*_LIMIT_FIELDS, _REPLICAS), "VolumeAttributesClass parameter")
    changed = [key for key in own if key in _LIMIT_FIELDS]
    return replace(limits, **{_LIMIT_FIELDS[key]: _limit(key, own[key]) for key in changed})


def names_limits(mutable: Mapping[str, str]) -> bool:
    return not _LIMIT_FIELDS.keys().isdisjoint(mutable)


def changed_replicas(mutable: Mapping[str, str], *, replication: bool) -> int:
    """How many replicas the volume is to have; 0 where that stays. Raises InvalidArgument."""
    return _replicas(mutable, replication) if _REPLICAS in mutable else 0


def check_snapshot_class(parameters: Mapping[str, str]) -> None:
    """Raise InvalidArgument for a class of snapshots that this version cannot honour."""
    own = _own(parameters, ("kind",), "snapshot class parameter")
    kind = own.get("kind", "snapshot")
    if kind == "backup":
        raise InvalidArgument("kind backup: backups are not in this version, only snapshots are")
    if kind != "snapshot":
        raise InvalidArgument(f"kind {_shown(kind)} must be snapshot")


def _own(parameters: Mapping[str, str], known: Iterable[str], what: str) -> dict[str, str]:
    """The parameters that are ours, all of them known; those of Kubernetes are left out."""
    own = {key: value for key, value in parameters.items() if not key.startswith(_PREFIX)}
    for key in own:
        if key not in known:
            raise InvalidArgument(f"unknown {what} {_shown(key)}{nearest(key[:64], known)}")
    return own


def _access(capabilities: Sequence[Capability]) -> AccessType:
    accesses = {capability.access for capability in capabilities}
    if len(accesses) > 1:
        raise InvalidArgument("volume_capabilities ask for a block and a mount volume in one")
    return accesses.pop() if accesses else AccessType.MOUNT


def _filesystem(
    parameters: Mapping[str, str], capabilities: Sequence[Capability], access: AccessType
) -> str:
    asked = {
        name: value
        for name, value in (
            (_PREFIXED_FILESYSTEM, parameters.get(_PREFIXED_FILESYSTEM, "")),
            ("fsType", parameters.get("fsType", "")),
            *(("fs_type of the capability", each.filesystem) for each in capabilities),
        )
        if value
    }
    for name, value in asked.items():
        if access is AccessType.BLOCK:
            raise InvalidArgument(f"{name} {_shown(value)} contradicts block access")
        if value not in FILESYSTEMS:
            raise InvalidArgument(f"{name} {_shown(value)} is not supported{_near(value)}")
    chosen = {*asked.values(), *(each.filesystem for each in capabilities if each.filesystem)}
    if len(chosen) > 1:
        names = " and ".join(asked) if len(asked) > 1 else "volume_capabilities"
        raise InvalidArgument(f"{names} contradict each other: {', '.join(sorted(chosen))}")
    if access is AccessType.BLOCK:
        return ""
    return chosen.pop() if chosen else DEFAULT_FILESYSTEM


def _near(filesystem: str) -> str:
    return nearest(filesystem[:64], FILESYSTEMS)


def _pool(own: Mapping[str, str]) -> str:
    pool = own.get("pool", DEFAULT_POOL)
    if not _POOL.fullmatch(pool):
        raise InvalidArgument(f"pool {_shown(pool)} is no name of a pool")
    return pool


def _provision(own: Mapping[str, str]) -> Provision:
    return Provision(_choice(own, "provision", ("thin", "thick")))


def _replicas(own: Mapping[str, str], replication: bool) -> int:
    text = own.get("replicas", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text):
        raise InvalidArgument(f"replicas {_shown(text)} is no number of replicas")
    if replication:
        if text not in ("1", "2"):
            raise InvalidArgument(f"replicas {text}: 1 or 2 are supported; nearest is 2")
        return int(text)
    if text != "1":
        raise InvalidArgument(
            f"replicas {text}: replicated volumes are not in this version, only 1 is"
        )
    return 1


def _layout(own: Mapping[str, str], provision: Provision) -> Layout:
    kind = LayoutKind(_choice(own, "layout", ("linear", "striped", "raid1")))
    if provision is Provision.THIN and kind is not LayoutKind.LINEAR:
        raise InvalidArgument(
            f"layout {kind} contradicts provision thin: a thin volume lies as its pool does;"
            " set provision thick"
        )
    for key, wanted in (
        ("stripes", LayoutKind.STRIPED),
        ("stripeSize", LayoutKind.STRIPED),
        ("mirrors", LayoutKind.RAID1),
    ):
        if key in own and kind is not wanted:
            raise InvalidArgument(f"{key} contradicts layout {kind}: it goes with layout {wanted}")
    if kind is LayoutKind.STRIPED:
        return Layout(kind, _count(own, "stripes", _STRIPES), _stripe_bytes(own))
    if kind is LayoutKind.RAID1:
        return Layout(kind, _count(own, "mirrors", _MIRRORS))
    return Layout()


def _count(own: Mapping[str, str], key: str, bounds: tuple[int, int]) -> int:
    text = own.get(key, "2")
    low, high = bounds
    if not re.fullmatch(r"[0-9]{1,3}", text) or not low <= int(text) <= high:
        raise InvalidArgument(f"{key} {_shown(text)} must be a number from {low} to {high}")
    return int(text)


def _stripe_bytes(own: Mapping[str, str]) -> int:
    if "stripeSize" not in own:
        return _DEFAULT_STRIPE_BYTES
    size = _quantity("stripeSize", own["stripeSize"])
    low, high = _STRIPE_BYTES
    if not low <= size <= high or size & (size - 1):
        raise InvalidArgument(
            f"stripeSize {_shown(own['stripeSize'])} must be a power of two from 4Ki to 4Mi"
        )
    return size


def _mkfs_options(own: Mapping[str, str], access: AccessType, filesystem: str) -> tuple[str, ...]:
    text = own.get("mkfsOptions", "")
    if not text:
        return ()
    if access is AccessType.BLOCK:
        raise InvalidArgument("mkfsOptions contradicts block access: no file system is made")
    if len(text.encode()) > _MAX_MKFS_BYTES:
        raise InvalidArgument(f"mkfsOptions is longer than {_MAX_MKFS_BYTES} bytes")
    options = tuple(text.split())
    try:
        validate_mkfs_options(filesystem, options)
    except ValueError as error:
        raise InvalidArgument(f"mkfsOptions: {error}") from error
    return options


def _choice(own: Mapping[str, str], key: str, choices: Sequence[str]) -> str:
    """One of the choices, of which the first is the default."""
    value = own.get(key, choices[0])
    if value not in choices:
        raise InvalidArgument(f"{key} {_shown(value)} is unknown{nearest(value[:64], choices)}")
    return value


def _limit(key: str, text: str) -> int:
    limit = _quantity(key, text) if text else 0
    if 0 < limit < _LEAST_LIMIT:
        raise InvalidArgument(f"{key} {_shown(text)}: the least limit is {_LEAST_LIMIT}; 0 is none")
    if limit > _MAX_LIMIT:
        raise InvalidArgument(f"{key} {_shown(text)} is larger than any limit can be")
    return limit


def _quantity(key: str, text: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{key} {_shown(text)} must be a quantity such as 500, 10k or 100Mi")
    number, unit, exponent = match.groups()
    factor = 10 ** int(exponent) if exponent else _UNITS[unit]
    value = Decimal(number) * factor
    if value != value.to_integral_value():
        raise InvalidArgument(f"{key} {_shown(text)} is not a whole number")
    return int(value)


def _shown(text: str) -> str:
    return repr(text[:64])
