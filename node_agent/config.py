"""The configuration of a storage node: one TOML file, read once into frozen dataclasses.

Sizes are bytes once parsed. Every mistake raises ConfigError, which names the file, the key and
what is wanted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.model import TOPOLOGY_NODE_KEY
from host.lvm.names import is_name
from host.lvm.pool_spec import PoolSpec, Share
from node_agent.toml_table import (
    ConfigError,
    Table,
    as_address,
    as_count,
    as_flag,
    as_log_level,
    as_number,
    as_optional_address,
    as_path,
    as_seconds,
    as_size,
    as_text,
    read_file,
)

_SHARE = re.compile(r"([1-9]\d?|100)%")
# RFC 1123 subdomain: node names, and pool names, which end up in StorageClass parameters.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
# Kubernetes labels, which topology segments become (CSI 1.13, "Topology").
_SEGMENT_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_SEGMENT_KEY = re.compile(r"[a-z0-9.-]{1,253}/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class NodeConfig:
    """Everything that ``xlss node`` has to know."""

    name: str
    pools: tuple[PoolSpec, ...]
    topology: Mapping[str, str] = field(default_factory=dict)  # besides the node's own key
    listen: str = "0.0.0.0:9810"  # host:port with mTLS, unix:<path> without, "" = no agent port
    tls_directory: Path = Path("/etc/xlss/tls")
    csi_socket: Path = Path("/run/xlss/csi.sock")
    metrics_listen: str = "127.0.0.1:9812"  # host:port, "" = none
    run_directory: Path = Path("/run/xlss")  # on tmpfs: what is in it must not survive a reboot
    lvm_directory: Path = Path("/var/lib/xlss/lvm")  # private LVM configuration, archives, backups
    state_directory: Path = Path("/var/lib/xlss/replication")  # what must outlast a reboot
    arbiters: tuple[str, ...] = ()  # host:port of the controllers' arbiter_listen
    resync_bytes_per_second: int = 100 << 20  # the most that a resync takes of disk and network
    replication_address: str = ""  # on the network that carries replication, "" = no replicas here
    cgroup_root: Path = Path("/sys/fs/cgroup")
    max_volumes: int = 0  # 0 = no limit
    advertise_health: bool = False  # the health calls, which are alpha: they answer in any case
    watch_seconds: float = 10.0  # between two looks at the pools
    log_level: str = "info"

    @property
    def segments(self) -> dict[str, str]:
        """The topology of the node, its own key included."""
        return {**self.topology, TOPOLOGY_NODE_KEY: self.name}


def load_node_config(path: Path) -> NodeConfig:
    """Read a configuration file. Raises ConfigError."""
    return read_file(path, _node)


def _node(table: Table) -> NodeConfig:
    default = NodeConfig
    config = NodeConfig(
        name=table.take("name", _name),
        pools=tuple(_pool(entry) for entry in table.tables("pools")),
        topology=_topology(table.table("topology")),
        listen=table.take("listen", _listen, default.listen),
        tls_directory=table.take("tls_directory", as_path, default.tls_directory),
        csi_socket=table.take("csi_socket", as_path, default.csi_socket),
        metrics_listen=table.take("metrics_listen", as_optional_address, default.metrics_listen),
        run_directory=table.take("run_directory", as_path, default.run_directory),
        lvm_directory=table.take("lvm_directory", as_path, default.lvm_directory),
        state_directory=table.take("state_directory", as_path, default.state_directory),
        arbiters=table.take("arbiters", _arbiters, default.arbiters),
        replication_address=table.take("replication_address", _ip, default.replication_address),
        resync_bytes_per_second=table.take("resync_rate", _rate, default.resync_bytes_per_second),
        cgroup_root=table.take("cgroup_root", as_path, default.cgroup_root),
        max_volumes=table.take("max_volumes", as_count, default.max_volumes),
        advertise_health=table.take("advertise_health", as_flag, default.advertise_health),
        watch_seconds=table.take("watch_seconds", as_seconds, default.watch_seconds),
        log_level=table.take("log_level", as_log_level, default.log_level),
    )
    _check_pools(config.pools)
    _check_replication(config)
    return config


def _pool(table: Table) -> PoolSpec:
    default = PoolSpec
    pool = PoolSpec(
        name=table.take("name", _name),
        volume_group=table.take("volume_group", _lvm_name),
        devices=table.take("devices", _devices, default.devices),
        thin_pool=table.take("thin_pool", _lvm_name, default.thin_pool),
        thin_size=table.take("thin_size", _size_or_share, default.thin_size),
        thin_metadata_bytes=table.take("thin_metadata_size", as_size, default.thin_metadata_bytes),
        thin_chunk_bytes=table.take("thin_chunk_size", _chunk, default.thin_chunk_bytes),
        overcommit=table.take("overcommit", _overcommit, default.overcommit),
        grow_at=table.take("grow_at", _fraction, default.grow_at),
        grow_by=table.take("grow_by", _size_or_share, default.grow_by),
        full_at=table.take("full_at", _fraction, default.full_at),
        error_when_full=table.take("error_when_full", as_flag, default.error_when_full),
    )
    table.finish()
    return pool


def _check_pools(pools: Sequence[PoolSpec]) -> None:
    if not pools:
        raise ConfigError("pools is missing: a storage node needs at least one [[pools]]")
    unique: tuple[tuple[str, Callable[[PoolSpec], Sequence[str]]], ...] = (
        ("name", lambda pool: (pool.name,)),
        ("volume_group", lambda pool: (pool.volume_group,)),
        ("devices", lambda pool: pool.devices),
    )
    for key, values_of in unique:
        values = [value for pool in pools for value in values_of(pool)]
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"pools: {value!r} twice as {key}")


def _check_replication(config: NodeConfig) -> None:
    if bool(config.arbiters) != bool(config.replication_address):
        given, missing = "replication_address", "arbiters"
        if config.arbiters:
            given, missing = missing, given
        raise ConfigError(
            f"{missing} is missing: a node with {given} takes replicas, and needs both; one that "
            "takes none has neither"
        )


def _topology(table: Table) -> Mapping[str, str]:
    segments = table.rest()
    for key, value in segments.items():
        if not _SEGMENT_KEY.fullmatch(key):
            raise ConfigError(f"topology.{key}: a key is <prefix>/<name>: csi.xlss.io/zone")
        if key == TOPOLOGY_NODE_KEY:
            raise ConfigError(f"topology.{key} is the node's name and set by itself")
        if not isinstance(value, str) or not _SEGMENT_VALUE.fullmatch(value):
            raise ConfigError(
                f"topology.{key} = {value!r}: must be 1 to 63 letters, digits, '-', '_' and '.'"
            )
    return segments


def _name(value: Any) -> str:
    text = as_text(value)
    if not _NAME.fullmatch(text):
        raise ValueError("must be lower-case letters, digits, '-' and '.'")
    return text


def _lvm_name(value: Any) -> str:
    text = as_text(value)
    if not is_name(text):
        raise ValueError("must be a valid LVM name: letters, digits, '+', '_', '.' and '-'")
    return text


def _devices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of device paths")
    paths = tuple(as_path(entry) for entry in value)
    if not all(path.is_relative_to("/dev") for path in paths):
        raise ValueError("must be paths below /dev")
    return tuple(map(str, paths))


def _arbiters(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list of host:port, such as ["10.0.0.1:9813"]')
    addresses = tuple(map(as_address, value))
    if len(set(addresses)) != len(addresses):
        raise ValueError("names one twice")
    return addresses


def _rate(value: Any) -> int:
    rate = as_size(value)
    # drbd.conf(5), c-max-rate: at most 4 GiB a second.
    if not 1 << 20 <= rate <= 4 << 30:
        raise ValueError("must be 1MiB to 4GiB a second")
    return rate


def _ip(value: Any) -> str:
    if value == "":
        return ""
    address = ipaddress.ip_address(as_text(value))  # raises ValueError
    if address.is_unspecified or address.is_multicast or "%" in str(address):
        raise ValueError("must be the address of one interface of this node")
    return str(address)


def _listen(value: Any) -> str:
    if isinstance(value, str) and value.startswith("unix:"):
        as_path(value.removeprefix("unix:"))
        return value
    return as_optional_address(value)


def _size_or_share(value: Any) -> Share:
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    return Share(percent=int(match[1])) if match else Share(size_bytes=as_size(value))


def _chunk(value: Any) -> int:
    size = as_size(value)
    # lvmthin(7): a multiple of 64 KiB between 64 KiB and 1 GiB.
    if size % (64 << 10) or size > 1 << 30:
        raise ValueError("must be a multiple of 64KiB, at most 1GiB")
    return size


def _fraction(value: Any) -> float:
    number = as_number(value)
    if not 0 < number <= 1:
        raise ValueError("must be above 0 and at most 1")
    return number


def _overcommit(value: Any) -> float:
    number = as_number(value)
    if not 1 <= number <= 1000:
        raise ValueError("must be 1 to 1000")
    return number
