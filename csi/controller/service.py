"""The Controller service, put together from its parts."""

from __future__ import annotations

from csi.controller.health import HealthCalls
from csi.controller.publish import PublishCalls
from csi.controller.queries import QueryCalls
from csi.controller.snapshots import SnapshotCalls
from csi.controller.volumes import VolumeCalls


class Controller(VolumeCalls, QueryCalls, PublishCalls, SnapshotCalls, HealthCalls):
    """All calls of ``csi.v1.Controller``."""
