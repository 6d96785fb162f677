"""What people run: ``xlss``, and the two processes of the driver."""

from __future__ import annotations

import node_agent  # noqa: F401 - has to come before every import of gRPC
