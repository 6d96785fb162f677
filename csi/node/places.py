"""Which of our volumes is at a path of this node: no path of a request is trusted to be ours."""

from __future__ import annotations

from pathlib import Path

from cluster.errors import Refused
from host.mount_table import canonical, mounts_at
from node_agent.agent import NodeAgent
from node_agent.devices import volume_of_source
from node_agent.targets import Target


def volume_at(agent: NodeAgent, path: str) -> str:
    """The id of the volume that is mounted or published at the path; empty for none of ours."""
    mounts = mounts_at(canonical(path))
    if not mounts:
        return ""
    if volume_id := volume_of_source(mounts[-1].source):
        return volume_id
    # The node of a raw device: the mount table shows where nodes are kept, not which one it is.
    target = agent.targets.get(path)
    return target.volume_id if target is not None and target.block else ""


def is_mounted(path: str) -> bool:
    return bool(mounts_at(canonical(path)))


def published(agent: NodeAgent, volume_id: str) -> list[Target]:
    """Where the volume is published now; records without their mounts are what a crash left."""
    return [target for target in agent.targets.of(volume_id) if is_mounted(target.path)]


def require_parent(path: str) -> None:
    """Raises Refused where the directory above is not there (CSI: the orchestrator makes it).

    Making it here would hide that this process does not see kubelet's directory, and mount where
    no pod ever looks.
    """
    parent = Path(path).parent
    if not parent.is_dir():
        raise Refused(f"the directory {parent} is not there: does the driver see the host's?")
