"""The errors that are raised on purpose: each is told in one line, without a traceback."""

from __future__ import annotations

from cluster.errors import ClusterError
from csi.server import SocketError
from host.errors import HostError
from node_agent.tls import TlsFilesError
from node_agent.toml_table import ConfigError

EXPECTED = (ClusterError, ConfigError, HostError, OSError, SocketError, TlsFilesError)
