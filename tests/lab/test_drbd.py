"""Replicated volumes on the kernel's own DRBD 8.4: each step seen by netlink and by drbdsetup."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import pytest

from lab.node import MIB
from replication.fencing import Verdict
from replication.status import ConnectionState, DiskState, Role, Suspension
from tests.lab.calls import Failed
from tests.lab.drbd_sides import DATA, DISKS, SIZE, Side, replicated, take_down, up_to_date

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node
    from replication.model import Resource
    from replication.status import ResourceStatus

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def sides(make_module_node: Callable[..., Node]) -> tuple[Side, Side]:
    nodes = [make_module_node(disks=DISKS, memory=320 * MIB) for _ in range(2)]
    return Side(nodes[0], 0), Side(nodes[1], 1)


def standalone(status: ResourceStatus) -> bool:
    return status.connections[0].state is ConnectionState.STANDALONE


def frozen(status: ResourceStatus) -> bool:
    return status.suspended == {Suspension.FENCING}


def connecting(status: ResourceStatus) -> bool:
    return status.connections[0].state is ConnectionState.CONNECTING


def test_what_one_side_writes_the_other_reads(sides: tuple[Side, Side]) -> None:
    one, two = sides
    with replicated(sides) as resource:
        for side in sides:
            side.watch()
            assert side.until(resource.name, up_to_date).role is Role.SECONDARY
        secret = one.node.sh(f"stat -c %a /run/xlss/drbd/{resource.name}.res").text
        assert secret == "600"
        one.do("promote", resource)
        one.do("promote", resource)
        one.write(resource, "from-one")
        status = one.status(resource.name)
        assert status.role is Role.PRIMARY
        assert status.connections[0].peer_address == f"{two.node.address}:{resource.port}"
        other = two.until(resource.name, lambda s: s.connections[0].role is Role.PRIMARY)
        assert other.volumes[0].current_uuid == status.volumes[0].current_uuid
        with pytest.raises(Failed, match=r"Refused.*-1|CommandFailed.*-1"):
            two.do("promote", resource)
        one.do("demote", resource)
        two.do("promote", resource)
        assert two.read(resource) == "from-one"
        two.write(resource, "from-two")
        two.do("verify", resource)
        two.until(resource.name, up_to_date)
        two.do("demote", resource)
        one.do("promote", resource)
        assert one.read(resource) == "from-two"
        for side in sides:
            side.unwatch()
            side.do("disconnect", resource, (two if side is one else one).replica, force=True)
    for side in sides:
        assert side.do("observe", "netlink") == {}
        left = side.node.sh("ls /run/xlss/drbd; dmsetup ls; grep cs: /proc/drbd || true").text
        assert resource.name not in left
        assert "cs:" not in left


def test_a_primary_without_its_peer_is_frozen_until_it_is_resumed(
    sides: tuple[Side, Side],
) -> None:
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.watch()
        two.node.cut()
        assert one.until(resource.name, lambda s: frozen(s) and connecting(s)).frozen
        writer = one.begin_write(resource, "late")
        one.do("disconnect", resource, two.replica, force=True)
        status = one.until(resource.name, standalone)
        assert status.suspended == {Suspension.FENCING}
        assert writer.poll() is None
        one.do("resume_io", resource)
        assert writer.wait() == 0
        assert not one.status(resource.name).frozen
        one.write(resource, "alone", block=1)
        two.node.join()
        two.until(resource.name, connecting)
        one.do("connect", resource, two.replica)
        status = one.until(resource.name, up_to_date)
        assert next(status.peer_volumes()).out_of_sync_bytes == 0
        one.do("demote", resource)
        two.do("promote", resource)
        assert (two.read(resource), two.read(resource, block=1)) == ("late", "alone")


def test_a_peer_with_another_secret_is_not_connected_to(sides: tuple[Side, Side]) -> None:
    """It has the right address, name and data. One side at least gives up, and says why."""
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        separate(sides, resource)
        wrong = dataclasses.replace(resource, secret=resource.secret[::-1])
        two.do("connect", wrong, one.replica)
        one.do("connect", resource, two.replica)
        until_refused(sides, resource)
        for side in sides:
            assert side.until(resource.name, lambda s: standalone(s) or connecting(s))
        separate(sides, resource)
        two.do("connect", resource, one.replica)
        one.do("connect", resource, two.replica)
        one.until(resource.name, up_to_date)


def until_refused(sides: tuple[Side, Side], resource: Resource) -> None:
    said = f"drbd {resource.name}: Authentication of peer failed"
    end = time.monotonic() + 30
    while not any(said in side.node.sh("dmesg").text for side in sides):
        assert time.monotonic() < end, [side.status(resource.name) for side in sides]
        time.sleep(0.1)


def separate(sides: tuple[Side, Side], resource: Resource) -> None:
    for side, other in (sides, sides[::-1]):
        side.do("disconnect", resource, other.replica, force=True)
        side.until(resource.name, standalone)


@pytest.mark.parametrize("wrong", ["boot_id", "volume", "verdict", "more"])
def test_a_wrong_grant_thaws_nothing(sides: tuple[Side, Side], wrong: str) -> None:
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.do("grant", resource.name, 7, Verdict.PEER_FENCED)
        path = f"/run/xlss/drbd/grants/{resource.name}"
        change = {
            "boot_id": "s/[0-9a-f]*-/00000000-/",
            "volume": "s/^v/w/",
            "verdict": "s/fenced/fence/",
            "more": "$aone more line",
        }[wrong]
        one.node.run(["sed", "-i", change, path])
        two.node.cut()
        one.until(resource.name, lambda s: frozen(s) and connecting(s))
        writer = one.begin_write(resource, "late")
        one.do("disconnect", resource, two.replica, force=True)
        assert one.until(resource.name, standalone).frozen
        assert writer.poll() is None
        one.do("resume_io", resource)
        assert writer.wait() == 0


def test_a_grant_thaws_once(sides: tuple[Side, Side]) -> None:
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.do("grant", resource.name, 7, Verdict.PEER_FENCED)
        two.node.cut()
        one.write(resource, "granted")
        status = one.until(resource.name, connecting)
        assert not status.frozen
        assert next(status.peer_volumes()).disk is DiskState.OUTDATED
        assert one.node.get(f"/run/xlss/drbd/grants/{resource.name}") == b""
        two.node.join()
        one.until(resource.name, up_to_date)
        two.node.cut()
        assert one.until(resource.name, frozen)


def test_a_survivor_is_promoted_with_a_grant_only(sides: tuple[Side, Side]) -> None:
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.write(resource, "before")
        one.node.cut()
        two.until(resource.name, connecting)
        two.do("disconnect", resource, one.replica, force=True)
        with pytest.raises(Failed, match=r"Refused.*peer is not outdated"):
            two.do("promote", resource)
        two.do("grant", resource.name, 8, Verdict.EXCLUDED)
        with pytest.raises(Failed, match=r"Refused"):
            two.do("promote", resource)


def test_a_survivor_with_a_grant_is_promoted(sides: tuple[Side, Side]) -> None:
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.write(resource, "before")
        one.node.cut()
        two.until(resource.name, connecting)
        two.do("disconnect", resource, one.replica, force=True)
        two.do("grant", resource.name, 8, Verdict.PEER_FENCED)
        two.do("promote", resource)
        status = two.status(resource.name)
        assert (status.role, status.frozen) == (Role.PRIMARY, False)
        assert two.read(resource) == "before"
        two.write(resource, "after", block=1)


def test_it_grows_while_it_is_mounted(sides: tuple[Side, Side]) -> None:
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.node.sh(
            f"mkfs.ext4 -q {resource.device}; mount {resource.device} /mnt; echo kept > /mnt/file"
        )
        one.do("grow", 2 * SIZE)
        with pytest.raises(Failed, match=r"Refused.*did not grow"):
            one.do("resize", resource, 2 * SIZE)
        two.do("grow", 2 * SIZE)
        one.do("resize", resource, 2 * SIZE, equal=True)
        assert one.until(resource.name, up_to_date).volumes[0].size_bytes == 2 * SIZE
        one.node.sh(f"resize2fs {resource.device} 2>/dev/null; test $(cat /mnt/file) = kept")
        # Without the peer only where it is known to have grown, too.
        two.node.cut()
        one.until(resource.name, lambda s: frozen(s) and connecting(s))
        one.do("disconnect", resource, two.replica, force=True)
        one.do("resume_io", resource)
        two.do("grow", 3 * SIZE)
        one.do("grow", 3 * SIZE)
        with pytest.raises(Failed, match=r"Refused.*did not grow"):
            one.do("resize", resource, 3 * SIZE)
        one.do("resize", resource, 3 * SIZE, peer_has_space=True)
        assert one.status(resource.name).volumes[0].size_bytes == 3 * SIZE
        two.node.join()
        one.do("connect", resource, two.replica)
        one.until(resource.name, up_to_date)
        assert two.until(resource.name, up_to_date).volumes[0].size_bytes == 3 * SIZE


def test_a_dead_peer_is_replaced_under_a_running_primary(
    sides: tuple[Side, Side], make_node: Callable[..., Node]
) -> None:
    one, two = sides
    three = Side(make_node(disks=DISKS, memory=320 * MIB), 2)
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("promote", resource)
        one.write(resource, "old")
        two.node.cut()
        one.until(resource.name, lambda s: frozen(s) and connecting(s))
        changed = dataclasses.replace(resource, replicas=(one.replica, three.replica))
        with pytest.raises(Failed, match=r"Refused.*disconnect it first"):
            one.do("connect", changed, three.replica)
        one.do("disconnect", resource, two.replica, force=True)
        one.do("resume_io", resource)
        one.write(resource, "new", block=1)
        three.do("prepare", DATA, SIZE)
        three.do("create_metadata", changed)
        three.do("attach", changed)
        one.do("connect", changed, three.replica)
        three.do("connect", changed, one.replica)
        one.watch()
        one.until(resource.name, up_to_date)
        one.do("demote", changed)
        three.do("promote", changed)
        assert (three.read(changed), three.read(changed, block=1)) == ("old", "new")
        one.do("disconnect", changed, three.replica, force=True)
        take_down(three, changed)


def test_lost_events_are_said_and_made_good(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    with replicated(sides, equal=False) as resource:
        one.do("disconnect", resource, resource.replicas[1], force=True)
        assert one.do("lose_events", resource.minor) == (True, True, True)


def test_equality_is_declared_of_fresh_copies_only(sides: tuple[Side, Side]) -> None:
    one, two = sides
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("declare_equal", resource)
        two.do("invalidate", resource)
        generation = one.do("generation", resource)
        assert not generation.just_created
        two.until(resource.name, up_to_date)
        assert two.do("create_metadata", resource) is False
        assert two.do("generation", resource).current == generation.current


SPY = """
import pathlib
seen = set()
while True:
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_text()
        except OSError:
            continue
        if arguments not in seen:
            seen.add(arguments)
            print(arguments, flush=True)
"""


def test_the_secret_is_in_no_argument_and_drbdadm_reads_the_file(sides: tuple[Side, Side]) -> None:
    one, two = sides
    spy = one.node.spawn([".venv/bin/python", "-c", SPY], log="/run/spy")
    with replicated(sides) as resource:
        one.until(resource.name, up_to_date)
        one.do("disconnect", resource, two.replica, force=True)
        one.do("connect", resource, two.replica)
        one.until(resource.name, up_to_date)
        spy.kill()
        seen = spy.log()
        assert "carry_out" in seen
        assert resource.secret not in seen
        path = f"/run/xlss/drbd/{resource.name}.res"
        said = one.node.run(["drbdadm", "-c", path, "dump", resource.name]).text
        assert f"shared-secret {resource.secret}" in " ".join(said.split())
        adjust = one.node.run(["drbdadm", "-d", "-c", path, "adjust", resource.name]).text
        # Nothing to adjust: what netlink has configured is what the file says.
        assert adjust == ""
        two.until(resource.name, up_to_date)
