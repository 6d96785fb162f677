"""What breaks on one node: power, the agent, disks, pools. There is no controller here."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
import pytest

from cluster.agents import Health
from cluster.errors import NoSpace, Unavailable
from cluster.identifiers import Kind, new_id
from cluster.model import AccessType, Provision
from csi.rpc import csi_pb2 as pb
from lab.errors import CommandFailed
from tests.lab.agent_node import MIB, AgentNode, Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.node import Node

pytestmark = pytest.mark.lab

GIB = 1 << 30
THICK = Provision.THICK
POOL = """
[[pools]]
name = "default"
volume_group = "vg0"
devices = ["{device}"]
thin_pool = "thin"
thin_size = "{thin_size}"
grow_at = {grow_at}
overcommit = 4.0
"""


@pytest.fixture
def make_home(make_node: Callable[..., Node]) -> Iterator[Callable[..., AgentNode]]:
    made: list[AgentNode] = []

    def make_home(
        device: str = "/dev/ubdb",
        *,
        thin_size: str = "400MiB",
        grow_at: float = 1.0,
        more: str = "",
        prepare: Callable[[Node], None] = lambda node: None,
        disks: tuple[int, ...] = (GIB,),
        call_seconds: float = 60.0,
    ) -> AgentNode:
        node = make_node(disks=disks)
        prepare(node)
        pool = POOL.format(device=device, thin_size=thin_size, grow_at=grow_at)
        settings = "watch_seconds = 1"
        home = AgentNode(node, pools=pool + more, settings=settings, call_seconds=call_seconds)
        made.append(home)
        home.start()
        return home

    yield make_home
    for home in made:
        home.close()


def test_after_a_power_cut_what_was_synced_is_there(
    make_home: Callable[..., AgentNode],
) -> None:
    home = make_home(disks=(2 * GIB,))
    volumes = [
        home.create("thin").serve(),
        home.create("thick", provision=THICK).serve(),
        home.create("encrypted", encrypted=True).serve(),
        home.create("xfs", 300 * MIB, filesystem="xfs", provision=THICK).serve(),
    ]
    for volume in volumes:
        volume.write("synced")
    home.node.spawn(
        ["dd", "if=/dev/zero", f"of={volumes[0].path('endless')}", "bs=4k"], log="/run/dd.log"
    )
    home.node.kill()
    home.node.start()
    home.start()
    # Nobody has asked for them yet, and they are there.
    assert home.node.run(["test", "-b", volumes[1].logical]).returncode == 0
    for volume in volumes:
        volume.serve()
        assert volume.read() == "synced"


def test_a_killed_agent_leaves_nothing_suspended(make_home: Callable[..., AgentNode]) -> None:
    home = make_home()
    volume = home.create().serve()
    home.agent.suspend_volumes([volume.id], 60.0)
    assert "SUSPENDED" in home.node.run(["dmsetup", "info", f"xlss-{volume.id}"]).text
    home.kill()  # the guard lets go at once
    volume.write("after the agent")
    home.start()
    home.agent.suspend_volumes([volume.id], 60.0)
    guard = "pkill -KILL -f '[r]esume_guard_process'"
    home.node.sh(f"{guard} && kill -KILL {home.process.pid}")
    assert "SUSPENDED" in home.node.run(["dmsetup", "info", f"xlss-{volume.id}"]).text
    home.start()
    volume.write("after the next agent has come")
    home.agent.create_snapshots(())


def test_pods_do_not_notice_that_the_agent_starts_anew(
    make_home: Callable[..., AgentNode],
) -> None:
    home = make_home()
    volume = home.create().serve()
    volume.write("kept")
    inode = home.node.run(["stat", "-c", "%i", volume.path("file")]).text
    home.restart()
    assert home.agent.get_volume(volume.id).mounts == (volume.staging, volume.target)
    volume.serve()
    assert home.node.run(["stat", "-c", "%i", volume.path("file")]).text == inode
    volume.withdraw()


def test_a_full_thin_pool_fails_its_writers_and_nobody_else(
    make_home: Callable[..., AgentNode],
) -> None:
    home = make_home(thin_size="128MiB")
    thin = home.create("thin", 256 * MIB).serve()
    thin.write("kept")
    neighbour = home.create("thick", provision=THICK).serve()
    with pytest.raises(CommandFailed, match=r"No space|Input/output"):
        home.node.run(
            ["dd", "if=/dev/zero", f"of={thin.path('much')}", "bs=1M", "count=200", "conv=fsync"]
        )
    neighbour.write("not concerned")
    with pytest.raises(NoSpace, match="full"):
        home.create("more", 8 * MIB)
    home.create("thick-too", 8 * MIB, provision=THICK)
    assert home.agent.get_volume(neighbour.id).health is Health.OK
    assert home.agent.get_volume(thin.id).health is not Health.OK
    assert "ThinPoolFull" in reasons(home, thin)
    home.node.run(["lvextend", "-q", "-L", "512m", "vg0/thin"])
    thin.withdraw().serve()
    assert thin.read() == "kept"
    thin.write("and writable again", "new")
    assert reasons(home, thin) == []


def reasons(home: AgentNode, volume: Served) -> list[str]:
    request = pb.NodeGetVolumeHealthRequest(volume_id=volume.id)
    answer = home.csi.stub.NodeGetVolumeHealth(request, timeout=60)
    return [status.reason for status in answer.volume_health.health_statuses]


def test_a_thin_pool_that_fills_up_grows(make_home: Callable[..., AgentNode]) -> None:
    home = make_home(thin_size="128MiB", grow_at=0.5)
    volume = home.create("thin", 256 * MIB).serve()
    for number in range(4):
        home.node.run(
            ["dd", "if=/dev/urandom", f"of={volume.path(str(number))}", "bs=1M", "count=40"]
        )
        home.node.run(["sync"])
        wanted = 1.1 * 40 * (number + 1)
        home.node.sh(
            "until lvs --noheadings --units m --nosuffix -o lv_size vg0/thin |"
            f" awk '{{exit !($1 > {wanted})}}'; do sleep 0.2; done"
        )
    assert home.agent.pools(fresh=True)[0].trouble == ""


FAULTY = "/dev/ubdb"
SECOND = """
[[pools]]
name = "second"
volume_group = "vg1"
devices = ["/dev/ubdc"]
"""


def slow_home(make_home: Callable[..., AgentNode]) -> AgentNode:
    """A node with two pools, the first of which is on a disk that can be made to fail."""
    return make_home(
        "/dev/mapper/faulty-ubdb",
        more=SECOND,
        prepare=lambda node: node.faulty_disk(FAULTY) and None,
        disks=(GIB, GIB),
        call_seconds=20.0,  # what hangs is waited for until then
    )


def test_a_disk_that_returns_errors_is_told_and_can_be_left(
    make_home: Callable[..., AgentNode],
) -> None:
    home = slow_home(make_home)
    bad = home.create("bad", provision=THICK).serve()
    raw = home.create("raw", provision=THICK, access=AccessType.BLOCK).serve()
    bad.write("x")
    home.node.faulty_disk(FAULTY).fail()
    for volume in (bad, raw):
        assert "DeviceError" in reasons(home, volume)
        assert home.agent.get_volume(volume.id).health is Health.INACCESSIBLE
    pools = {pool.name: pool for pool in home.agent.pools(fresh=True)}
    assert pools["default"].trouble
    assert not pools["second"].trouble
    health = home.csi.stub.NodeGetStorageHealth(pb.NodeGetStorageHealthRequest(), timeout=60)
    assert ["default" in entry.message for entry in health.backend_health] == [True]
    for volume in (bad, raw):
        volume.withdraw()
    assert "xlss-" not in home.node.run(["dmsetup", "ls"]).text


def test_a_disk_that_hangs_holds_neither_the_other_pool_nor_the_next_agent(
    make_home: Callable[..., AgentNode],
) -> None:
    home = slow_home(make_home)
    stuck = home.create("stuck", provision=THICK).serve()
    stuck.write("kept")
    stuck.withdraw()
    home.node.faulty_disk(FAULTY).hang()
    create = home.spawn_create("hangs", provision=THICK)
    good = home.create("good", provision=THICK, pool="second").serve()
    good.write("works")
    with pytest.raises(Unavailable):
        create.result()
    home.restart()
    good.withdraw().serve()
    assert good.read() == "works"
    troubles = {pool.name: pool.trouble for pool in home.agent.pools(fresh=True)}
    assert troubles["default"]
    assert not troubles["second"]
    home.node.faulty_disk(FAULTY).recover()
    home.node.sh("until test -b /dev/vg0/thin -o -e /dev/mapper/vg0-thin; do sleep 0.2; done")
    home.when_open("default")
    stuck.serve()
    assert stuck.read() == "kept"


def test_a_file_system_on_a_disk_that_hangs_grows_later(
    make_home: Callable[..., AgentNode],
) -> None:
    home = slow_home(make_home)
    volume = home.create(provision=THICK).serve()
    home.agent.expand_volume(volume.id, 128 * MIB, 0)
    home.node.faulty_disk(FAULTY).hang()
    with pytest.raises(grpc.RpcError, match="the device does not answer"):
        home.csi.expand(volume.id, volume.target, 128 * MIB)
    home.node.faulty_disk(FAULTY).recover()
    until_expanded(home, volume, 128 * MIB)
    assert home.csi.usage(volume.id, volume.target)["BYTES"].total > 100 * MIB


def until_expanded(home: AgentNode, volume: Served, size: int) -> None:
    """Repeated as kubelet does, while the runner leaves alone what did not answer."""
    while True:
        with suppress(grpc.RpcError):
            home.csi.expand(volume.id, volume.target, size)
            return
        time.sleep(0.5)


def test_a_missing_disk_is_told_and_the_rest_works(make_home: Callable[..., AgentNode]) -> None:
    home = slow_home(make_home)
    bad = home.create("bad", provision=THICK)
    good = home.create("good", provision=THICK, pool="second").serve()
    good.write("kept")
    home.node.kill()
    home.node.disks[0] = None
    home.node.start()
    home.start()
    good.serve()
    assert good.read() == "kept"
    troubles = {pool.name: pool.trouble for pool in home.agent.pools(fresh=True)}
    assert "not there" in troubles["default"] or "missing" in troubles["default"]
    # Nobody may take it for gone: it cannot be seen.
    with pytest.raises(Unavailable):
        home.agent.get_volume(bad.id)
    with pytest.raises(Unavailable):
        home.agent.delete_volume(bad.id, "default")
    # What was in the other pool can be.
    home.agent.delete_volume(new_id(Kind.VOLUME, "deleted already"), "second")
