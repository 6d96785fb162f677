"""NodeGetVolumeHealth and NodeGetStorageHealth: what is wrong with a volume, and with a pool."""

from __future__ import annotations

from cluster.agents import Health, PoolReport
from csi.node.stats import require_place
from csi.rpc import csi_pb2 as pb
from node_agent.agent import NodeAgent
from node_agent.labels import Kind

_STATUS = {
    Health.DEGRADED: pb.DEGRADED,
    Health.INACCESSIBLE: pb.INACCESSIBLE,
    Health.DATA_LOSS: pb.DATA_LOSS,
}


def volume_health(agent: NodeAgent, volume_id: str, path: str) -> pb.VolumeHealth:
    """Empty of entries when it is well. Raises NotFound; ``path`` may be empty."""
    if path:
        require_place(agent, volume_id, path)
    entry = agent.logical.require(Kind.VOLUME, volume_id)
    return pb.VolumeHealth(
        volume_id=volume_id,
        health_statuses=[
            pb.VolumeHealth.VolumeHealthEntry(
                status=_STATUS.get(problem.health, pb.UNKNOWN_VOLUME_HEALTH_TYPE),
                reason=problem.reason,
                message=problem.message,
            )
            for problem in agent.reporter.problems(entry)
        ],
    )


def storage_health(agent: NodeAgent) -> list[pb.NodeGetStorageHealthResponse.StorageBackendHealth]:
    """One for each pool with which something is wrong."""
    return [_of_pool(pool) for pool in agent.pools(fresh=True) if pool.trouble]


def _of_pool(pool: PoolReport) -> pb.NodeGetStorageHealthResponse.StorageBackendHealth:
    unreachable = not pool.thick_total_bytes
    return pb.NodeGetStorageHealthResponse.StorageBackendHealth(
        status=pb.STORAGE_UNREACHABLE if unreachable else pb.STORAGE_DEGRADED,
        reason="PoolUnavailable" if unreachable else "PoolDegraded",
        message=f"pool {pool.name} (volume group {pool.volume_group}): {pool.trouble}",
    )
