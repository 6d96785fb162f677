"""What an agent reports arrives as it was."""

from __future__ import annotations

from cluster.agents import (
    Health,
    Inventory,
    PoolReport,
    SnapshotReport,
    ThinPoolReport,
    VolumeReport,
)
from node_agent import wire


def test_an_inventory_arrives_as_it_was() -> None:
    thin = ThinPoolReport("thin", 100, 10, 0.5, 200, 300, 65536)
    pool = PoolReport("default", "xlss", 4096, 1000, 500, (200, 300), thin, "slow")
    volume = VolumeReport(
        id="v1",
        size_bytes=1 << 26,
        pool="default",
        record="{}",
        complete=True,
        used=True,
        active=True,
        mounts=("/mnt",),
        health=Health.DEGRADED,
        trouble="a disk is gone",
        allocated_bytes=5,
        logical_volume_uuid="uuid",
    )
    inventory = Inventory(
        node="n1",
        boot_id="boot",
        topology={"csi.xlss.io/zone": "a"},
        pools=(pool,),
        volumes=(volume,),
        snapshots=(SnapshotReport("s1", "v1", 5, "default", "{}", True),),
        foreign=("xlss/other",),
        stuck_commands=2,
        version="1",
        replication_address="10.0.0.1",
        replication_trouble="the kernel has no module drbd",
    )
    assert wire.inventory_from_wire(wire.inventory_to_wire(inventory)) == inventory
