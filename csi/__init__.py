"""The only place that knows the messages of CSI: its services, and what they are served with."""

from __future__ import annotations

import node_agent  # noqa: F401 - has to come before every import of gRPC
