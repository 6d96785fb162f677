"""Hostile requests to every call of a real `xlss node`: meant answers, no leak, no debris.

The Node service and the agent's service, as `tests/unit/test_fuzz_csi.py` does it for the
controller, but on a real kernel. A bounded number of the same requests in every run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from cluster.model import AccessType, Provision, Snapshot, to_json
from csi.rpc import csi_pb2 as pb
from node_agent import tls
from node_agent.rpc import node_agent_pb2 as agent_pb
from tests.hostile_calls import Answer, hold_against_drawn, judge, judge_log, send
from tests.hostile_messages import SECRET, Vocabulary, methods_of, swept
from tests.lab.agent_node import AGENT_SOCKET, CSI_SOCKET, MIB, AgentNode, Served

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.node import Node

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("fuzz_node"), pytest.mark.timeout(600)]

EXAMPLES = int(os.environ.get("XLSS_FUZZ_EXAMPLES", "15"))
NODE_METHODS = methods_of(pb.DESCRIPTOR.services_by_name["Node"])
AGENT_METHODS = methods_of(agent_pb.DESCRIPTOR.services_by_name["NodeAgent"])
POOL = (
    '[[pools]]\nname = "default"\nvolume_group = "vg0"\n'
    'devices = ["/dev/ubdb"]\nthin_pool = "thin"\n'
)
# Looking at the node takes longer than a call that fails at once.
LOOK_EVERY = 50
ABNORMAL_RECORDS = (
    "",
    "{}",
    "null",
    "[]",
    "17",
    '"text"',
    "{",
    "[" * 5000,
    '{"a":' * 2000,
    '{"id": 17, "name": [], "size_bytes": "much", "spec": null}',
    '{"size_bytes": NaN}',
    '{"size_bytes": 1e400}',
    '{"spec": {"pool": "\\ud800"}}',
)


class Home:
    """The node, with volumes published, staged and idle, and a snapshot."""

    def __init__(self, agent_node: AgentNode) -> None:
        self.node = agent_node
        self._furnish()
        node = agent_node.node
        self.csi = grpc.insecure_channel(node.grpc_target(CSI_SOCKET))
        self.agent = grpc.insecure_channel(
            node.grpc_target(AGENT_SOCKET), options=tls.AGENT_CHANNEL_OPTIONS
        )
        self.before = self.look()
        self._unseen: list[str] = []

    def close(self) -> None:
        self.csi.close()
        self.agent.close()
        self.node.close()

    def _furnish(self) -> None:
        create = self.node.create
        self.files = create("files").serve()
        self.raw = create("raw", provision=Provision.THICK, access=AccessType.BLOCK).serve()
        self.staged = create("staged")
        self.raw_staged = create("raw staged", access=AccessType.BLOCK)
        for volume in (self.staged, self.raw_staged):
            volume.stage()
        self.idle = create("idle")
        self.cut: Snapshot = self.node.snapshot(self.files)[0]

    @property
    def volumes(self) -> tuple[Served, ...]:
        return (self.files, self.raw, self.staged, self.raw_staged, self.idle)

    def look(self) -> str:
        """Everything of ours on the node: volumes, devices, mounts, files."""
        script = (
            "dmsetup info -c --noheadings -o name | sort; "
            "awk '{print $4, $5}' /proc/self/mountinfo | sort; "
            "find /var/lib/kubelet /run/xlss -xdev | sort"
        )
        inventory = self.node.agent.inventory()
        volumes = sorted(volume.id for volume in inventory.volumes)
        snapshots = sorted(snapshot.id for snapshot in inventory.snapshots)
        return "\n".join([*volumes, *snapshots, self.node.node.sh(script).text])

    def hold_against(self, channel: grpc.Channel, method: MethodDescriptor, asked: Message) -> None:
        """Make a call. What one that fails has made is found a few calls later."""
        answer = send(channel, method, asked)
        unknown = "is not in this node's configuration" in answer.text  # a pool, which may be again
        judge(answer, *((grpc.StatusCode.UNAVAILABLE,) if unknown else ()))
        if answer.ok and self._undo(method.name, asked, answer):
            self.before = self.look()
        self._unseen.append(f"{method.name} {answer.code}: {asked}"[:600])
        if len(self._unseen) >= LOOK_EVERY:
            self.check()

    def check(self) -> None:
        """Nothing is there that was not there before."""
        before, asked = set(self.before.splitlines()), "\n".join(self._unseen)
        self.before, self._unseen = self.look(), []
        now = set(self.before.splitlines())
        assert now == before, f"made {now - before}, removed {before - now} by one of\n{asked}"

    def _undo(self, call: str, asked: Any, answer: Answer) -> bool:
        """Bring the node back to where it was; whether anything had to be done."""
        csi, agent = self.node.csi, self.node.agent
        ours = getattr(asked, "volume_id", "") in {volume.id for volume in self.volumes}
        if call == "NodeStageVolume":
            if asked.staging_target_path in {volume.staging for volume in self.volumes}:
                return False
            csi.unstage(asked.volume_id, asked.staging_target_path)
            # A device is staged at no path in particular: that took it down altogether.
            self.raw_staged.stage()
        elif call == "NodePublishVolume":
            if asked.target_path in {volume.target for volume in self.volumes}:
                return False
            csi.unpublish(asked.volume_id, asked.target_path)
        elif call == "CreateVolume" and not ours:
            agent.delete_volume(asked.volume_id)
        elif call in ("UpdateVolume", "CreateSnapshots", "SuspendVolumes"):
            self._undo_in_the_agent(call, asked, answer)
        elif (call in ("NodeUnpublishVolume", "NodeUnstageVolume", "DeleteVolume") and ours) or (
            call == "DeleteSnapshots" and self.cut.id in asked.snapshot_ids
        ):
            if self.look() == self.before:
                return False
            self.node.wipe_clean()
            self._furnish()
        else:
            return False
        return True

    def _undo_in_the_agent(self, call: str, asked: Any, answer: Answer) -> None:
        agent = self.node.agent
        if call == "UpdateVolume":
            volume = next(one for one in self.volumes if one.id == asked.volume_id)
            agent.update_volume(volume.record)
        elif call == "CreateSnapshots":
            made = {cut.snapshot_id for cut in asked.cuts} - {self.cut.id}
            agent.delete_snapshots(sorted(made))
        else:
            agent.resume_volumes(answer.message.suspension)


@pytest.fixture(scope="module")
def home(make_module_node: Callable[..., Node]) -> Iterator[Home]:
    node = make_module_node(disks=(4 << 30,))
    agent_node = AgentNode(node, pools=POOL, settings='log_level = "debug"\nwatch_seconds = 60.0')
    agent_node.start()
    made = Home(agent_node)
    yield made
    made.close()


def vocabulary(home: Home) -> Vocabulary:
    ids = [volume.id for volume in home.volumes]
    record = to_json(home.idle.record)
    bent = [
        record.replace('"default"', '"elsewhere"'),
        record.replace('"thin"', '"thick"'),
        record.replace('"mount"', '"block"'),
        json.dumps({**json.loads(record), "size_bytes": -1}),
        json.dumps({**json.loads(record), "source": {"kind": "volume", "id": "../x"}}),
    ]
    return Vocabulary(
        {
            "volume_id": ids,
            "volume_ids": ids,
            "snapshot_id": [home.cut.id],
            "snapshot_ids": [home.cut.id],
            "staging_target_path": [home.files.staging, home.raw.staging, "/var/lib/kubelet"],
            "target_path": [home.files.target, home.raw.target, home.files.staging],
            "volume_path": [home.files.target, home.raw.target, home.files.staging],
            "volume_capability": [home.files.capability(), home.raw.capability()],
            "fs_type": ["", "ext4", "xfs"],
            "mount_flags": ["noatime", "ro", "loop", "bind"],
            "volume_mount_group": ["1000", "-1", "root"],
            "required_bytes": [0, 64 * MIB, 80 * MIB],
            "limit_bytes": [0, 64 * MIB],
            "size_bytes": [64 * MIB, 96 * MIB, 8 << 30],
            "deadline_milliseconds": [1, 1000],
            "record": [record, *bent, *ABNORMAL_RECORDS],
        }
    )


def good_requests(home: Home) -> dict[str, list[Message]]:
    """For every call whose requests have fields, some that are granted and change nothing."""
    secrets = {"encryptionKey": SECRET}
    node: dict[str, list[Message]] = {
        name: [] for name in ("NodeStageVolume", "NodePublishVolume", "NodeExpandVolume")
    }
    for volume in (home.files, home.raw, home.staged, home.raw_staged):
        of: dict[str, Any] = {"volume_id": volume.id, "staging_target_path": volume.staging}
        use: dict[str, Any] = {**of, "volume_capability": volume.capability(), "secrets": secrets}
        if volume in (home.staged, home.raw_staged):
            node["NodeStageVolume"].append(pb.NodeStageVolumeRequest(**use))
            continue
        node["NodePublishVolume"].append(
            pb.NodePublishVolumeRequest(**use, target_path=volume.target)
        )
        node["NodeExpandVolume"].append(
            pb.NodeExpandVolumeRequest(
                **use, volume_path=volume.target, capacity_range={"required_bytes": 64 * MIB}
            )
        )
    files, raw, idle = home.files, home.raw, home.idle
    cut = agent_pb.Cut(
        snapshot_id=home.cut.id, volume_id=home.cut.volume_id, record=to_json(home.cut)
    )
    return node | {
        "NodeUnstageVolume": [
            pb.NodeUnstageVolumeRequest(volume_id=idle.id, staging_target_path=idle.staging)
        ],
        "NodeUnpublishVolume": [
            pb.NodeUnpublishVolumeRequest(volume_id=idle.id, target_path=idle.target)
        ],
        "NodeGetVolumeStats": [
            pb.NodeGetVolumeStatsRequest(volume_id=files.id, volume_path=files.target),
            pb.NodeGetVolumeStatsRequest(volume_id=raw.id, volume_path=raw.target),
        ],
        "NodeGetVolumeHealth": [
            pb.NodeGetVolumeHealthRequest(volume_id=files.id, volume_publish_path=files.target)
        ],
        "NodeGetStorageHealth": [pb.NodeGetStorageHealthRequest()],
        "GetPools": [agent_pb.GetPoolsRequest(fresh=True)],
        "GetVolume": [agent_pb.GetVolumeRequest(volume_id=files.id)],
        "CreateVolume": [
            agent_pb.CreateVolumeRequest(
                volume_id=volume.id,
                size_bytes=volume.record.size_bytes,
                record=to_json(volume.record),
            )
            for volume in (raw, idle)
        ],
        "DeleteVolume": [agent_pb.DeleteVolumeRequest(volume_id="v" + "0" * 28)],
        "UpdateVolume": [
            agent_pb.UpdateVolumeRequest(volume_id=idle.id, record=to_json(idle.record))
        ],
        "VerifyVolume": [agent_pb.VerifyVolumeRequest(volume_id=raw.id)],
        "ExpandVolume": [agent_pb.ExpandVolumeRequest(volume_id=idle.id, size_bytes=64 * MIB)],
        "SetLimits": [
            agent_pb.SetLimitsRequest(volume_id=raw.id, limits=agent_pb.Limits(read_iops=1000))
        ],
        "SuspendVolumes": [
            agent_pb.SuspendVolumesRequest(volume_ids=[raw.id], deadline_milliseconds=500)
        ],
        "ResumeVolumes": [agent_pb.ResumeVolumesRequest(suspension="none")],
        "CreateSnapshots": [agent_pb.CreateSnapshotsRequest(cuts=[cut])],
        "DeleteSnapshots": [agent_pb.DeleteSnapshotsRequest(snapshot_ids=["s" + "0" * 28])],
    }


@pytest.mark.parametrize(
    "method", NODE_METHODS + AGENT_METHODS, ids=lambda method: method.full_name
)
def test_every_answer_is_meant_and_leaves_nothing_behind(
    method: MethodDescriptor, home: Home
) -> None:
    good = good_requests(home).get(method.name, [])
    channel = home.csi if method in NODE_METHODS else home.agent

    for whole in good:
        for asked in swept(whole, maps=False):
            home.hold_against(channel, method, asked)

    hold_against_drawn(
        method,
        vocabulary(home),
        good,
        EXAMPLES,
        lambda asked: home.hold_against(channel, method, asked),
    )
    home.check()
    judge_log(home.node.process.log())


def test_a_key_is_seen_by_nobody(home: Home) -> None:
    """Not in arguments or environments of commands, logs, tags, files or answers."""
    node = home.node.node
    spy = '#!/bin/sh\n{ echo "$0" "$@"; env; } >>/run/spied\nexec /usr/sbin/cryptsetup.real "$@"\n'
    node.sh("mv /usr/sbin/cryptsetup /usr/sbin/cryptsetup.real")
    node.put("/usr/sbin/cryptsetup", spy.encode(), mode=0o755)
    volume = home.node.create("sealed", encrypted=True)
    volume.secrets = {"encryptionKey": SECRET}
    volume.serve().withdraw()
    (stage,) = (method for method in NODE_METHODS if method.name == "NodeStageVolume")
    for key in (SECRET + "-wrong", SECRET * 200, SECRET + "\n", ""):
        asked = pb.NodeStageVolumeRequest(
            volume_id=volume.id,
            staging_target_path=volume.staging,
            volume_capability=volume.capability(),
            secrets={"encryptionKey": key, "other": SECRET},
        )
        answer = send(home.csi, stage, asked)
        judge(answer)
        assert not answer.ok

    judge_log(home.node.process.log())
    spied = node.get("/run/spied").decode()
    assert "luksFormat" in spied
    assert SECRET not in spied
    tags = node.sh(
        "lvs --noheadings -o lv_tags vg0; grep -rlF " + SECRET + " /run /var/lib || true"
    )
    assert SECRET not in tags.text
    assert not [line for line in tags.text.splitlines() if line.startswith("/")]
    node.sh("mv /usr/sbin/cryptsetup.real /usr/sbin/cryptsetup")


def test_afterwards_the_node_does_its_work(home: Home) -> None:
    volume = home.node.create("after").serve()
    volume.write("still here")

    assert volume.read() == "still here"
    assert home.files.withdraw().serve()
    home.node.wipe_clean()
