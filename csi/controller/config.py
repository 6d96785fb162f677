"""The configuration of a controller: one TOML file, read once into a frozen dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.model import TOPOLOGY_NODE_KEY
from node_agent.toml_table import (
    ConfigError,
    Table,
    as_address,
    as_flag,
    as_interval,
    as_log_level,
    as_optional_address,
    as_path,
    as_seconds,
    as_text,
    read_file,
)


@dataclass(frozen=True)
class ControllerConfig:
    """Everything that ``xlss controller`` has to know."""

    nodes: Mapping[str, str]  # name -> address of its agent: host:port, or unix:/path in tests
    csi_socket: Path = Path("/run/xlss/controller.sock")
    store: Path = Path("/var/lib/xlss/store.sqlite")
    tls_directory: Path = Path("/etc/xlss/tls")
    metrics_listen: str = "127.0.0.1:9811"  # host:port, "" = none
    # host:port for the agents of replicated volumes, "" = no volume has replicas; wants
    # replication.key in the tls_directory.
    failure_domain: str = TOPOLOGY_NODE_KEY  # topology segment in which replicas differ
    arbiter_listen: str = ""
    # Between two comparisons of the replicas of a volume; 0 = only by a person's word.
    verify_interval_seconds: float = 7 * 86400.0
    reconcile_seconds: float = 60.0  # between two comparisons of the store with the nodes
    call_seconds: float = 60.0  # deadline of one call to an agent
    advertise_health: bool = False  # the health calls, which are alpha: they answer in any case
    log_level: str = "info"


def load_controller_config(path: Path) -> ControllerConfig:
    """Read a configuration file. Raises ConfigError."""
    return read_file(path, _parse)


def _parse(table: Table) -> ControllerConfig:
    default = ControllerConfig
    return ControllerConfig(
        nodes=_nodes(table.table("nodes")),
        csi_socket=table.take("csi_socket", as_path, default.csi_socket),
        store=table.take("store", as_path, default.store),
        tls_directory=table.take("tls_directory", as_path, default.tls_directory),
        metrics_listen=table.take("metrics_listen", as_optional_address, default.metrics_listen),
        failure_domain=table.take("failure_domain", as_text, default.failure_domain),
        arbiter_listen=table.take("arbiter_listen", as_optional_address, default.arbiter_listen),
        verify_interval_seconds=table.take(
            "verify_interval_seconds", as_interval, default.verify_interval_seconds
        ),
        reconcile_seconds=table.take("reconcile_seconds", as_seconds, default.reconcile_seconds),
        call_seconds=table.take("call_seconds", as_seconds, default.call_seconds),
        advertise_health=table.take("advertise_health", as_flag, default.advertise_health),
        log_level=table.take("log_level", as_log_level, default.log_level),
    )


def _nodes(table: Table) -> dict[str, str]:
    nodes = {}
    for name, address in table.rest().items():
        try:
            nodes[name] = as_address(address)
        except ValueError as error:
            raise ConfigError(f"nodes.{name} = {address!r}: {error}") from error
    if not nodes:
        raise ConfigError('nodes: at least one line is needed, such as n1 = "10.0.0.1:9810"')
    return nodes
