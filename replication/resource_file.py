"""The resource file: what drbdadm is told of one replicated volume, in either dialect.

drbd.conf(5) for the words. Files lie under /run, so that nothing starts at boot by itself, and are
readable by root only: they hold the volume's shared secret.
"""

from __future__ import annotations

from pathlib import Path

from host.file_replacement import replace_file
from replication.model import Dialect, Replica, Resource

FOLDER = Path("/run/xlss/drbd")

# drbd.conf(5) counts ``timeout`` and ``ping-timeout`` in tenths of a second, the intervals in
# seconds. A peer that is lost is noticed after about ping-int + ping-timeout: 1.6 s.
TIMEOUT_TENTHS = 9
PING_SECONDS = 1
PING_TIMEOUT_TENTHS = 5
CONNECT_SECONDS = 1

# Of the resync's rate, what it has in any case while the volume is written.
_BUSY_SHARE = 4
_FILL_TARGET = "1M"  # under way at the same time; drbd.conf(5), c-fill-target

HMAC_ALGORITHM = "sha256"

Section = tuple[tuple[str, str], ...]


def disk_options(resource: Resource) -> Section:
    """Options of the backing disk and of resyncs. There is no ``disk-timeout``: it panics or lies.

    A disk that hangs is the peer's business (``ko-count``); one that fails is detached.
    """
    rate = f"{resource.tuning.resync_bytes_per_second // 1024}k"
    options = [("on-io-error", "detach")]
    if resource.dialect is Dialect.V84:
        options.append(("fencing", "resource-and-stonith"))
    # While the volume is written, a resync gets no more than c-min-rate; the default of 250 KiB/s
    # would leave a busy volume with one copy for days.
    least = f"{resource.tuning.resync_bytes_per_second // 1024 // _BUSY_SHARE}k"
    options += [("resync-rate", rate), ("c-max-rate", rate), ("c-min-rate", least)]
    options += [("c-fill-target", _FILL_TARGET)]
    if resource.tuning.discard_granularity_bytes:
        granularity = str(resource.tuning.discard_granularity_bytes)
        options.append(("rs-discard-granularity", granularity))
    return tuple(options)


def net_options(resource: Resource) -> Section:
    """Options of the connection. Nothing is ever resolved by the kernel's guess."""
    options = [
        ("protocol", "C"),
        ("cram-hmac-alg", HMAC_ALGORITHM),
        ("shared-secret", f'"{resource.secret}"'),
        ("after-sb-0pri", "disconnect"),
        ("after-sb-1pri", "disconnect"),
        ("after-sb-2pri", "disconnect"),
        ("rr-conflict", "disconnect"),
        ("timeout", str(TIMEOUT_TENTHS)),
        ("ping-int", str(PING_SECONDS)),
        ("ping-timeout", str(PING_TIMEOUT_TENTHS)),
        ("connect-int", str(CONNECT_SECONDS)),
        ("ko-count", str(resource.tuning.ko_count)),
        ("verify-alg", resource.tuning.verify_algorithm),
        ("csums-alg", resource.tuning.csums_algorithm),
    ]
    if resource.dialect is Dialect.V9:
        options.insert(1, ("fencing", "resource-and-stonith"))
    return tuple(options)


def _resource_options(resource: Resource) -> Section:
    """Without data within reach I/O waits: the peer of a failed disk may be back in a moment."""
    waits = (("on-no-data-accessible", "suspend-io"),)
    if resource.dialect is Dialect.V9:
        return (("auto-promote", "no"), ("quorum", "off"), *waits)
    return waits


def text(resource: Resource) -> str:
    """The file's content: the same model gives the same text."""
    lines = [f"resource {resource.name} {{"]
    lines += _section("options", _resource_options(resource))
    lines += _section("disk", disk_options(resource))
    lines += _section("net", net_options(resource))
    for replica in resource.replicas:
        lines += _host(resource, replica)
    if resource.dialect is Dialect.V9 and len(resource.replicas) > 1:
        nodes = " ".join(replica.node for replica in resource.replicas)
        lines += ["\tconnection-mesh {", f"\t\thosts {nodes};", "\t}"]
    return "\n".join([*lines, "}", ""])


def path(name: str, folder: Path = FOLDER) -> Path:
    """Where the file of the resource of that name is."""
    return folder / f"{name}.res"


def write(resource: Resource, folder: Path = FOLDER) -> Path:
    """Put the file in place, whole or not at all, mode 0600. Not synced: it may not outlive us."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = path(resource.name, folder)
    replace_file(target, text(resource).encode(), 0o600, durable=False)
    return target


def remove(name: str, folder: Path = FOLDER) -> None:
    """Take the file away; right also where there is none."""
    path(name, folder).unlink(missing_ok=True)


def _host(resource: Resource, replica: Replica) -> list[str]:
    family = "ipv6" if replica.is_ipv6 else "ipv4"
    address = f"[{replica.address}]" if replica.is_ipv6 else replica.address
    metadata = "flexible-meta-disk" if resource.dialect is Dialect.V84 else "meta-disk"
    lines = [f"\ton {replica.node} {{"]
    if resource.dialect is Dialect.V9:
        lines.append(f"\t\tnode-id {replica.node_id};")
    return [
        *lines,
        f"\t\taddress {family} {address}:{resource.port};",
        "\t\tvolume 0 {",
        f"\t\t\tdevice minor {resource.minor};",
        f"\t\t\tdisk {replica.disk};",
        f"\t\t\t{metadata} {replica.metadata_disk};",
        "\t\t}",
        "\t}",
    ]


def _section(name: str, options: Section) -> list[str]:
    return [f"\t{name} {{", *(f"\t\t{word} {value};" for word, value in options), "\t}"]
