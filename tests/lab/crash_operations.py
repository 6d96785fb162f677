"""One cluster of one node, and calls that are cut off in it, with what comes before and after."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csi.rpc import csi_pb2 as pb
from lab.csi_client import ControllerClient, NodeClient, block, mount
from lab.deployment import Deployment
from lab.node import Node
from tests.lab.calls import Calls

MIB = 1 << 20
SIZE = 64 * MIB
STAGING, TARGET = "/var/lib/kubelet/staging/v", "/var/lib/kubelet/pods/p/v"
NODE = "n1"
DYING_SECONDS = 10.0


@dataclass
class Scene:
    """One cluster of one node, in which one process may be killed at a chosen step."""

    cluster: Deployment
    victim: str  # "node" or "controller"
    folder: Path  # where the victim counts its steps: in the node, or on the host
    names: Iterator[int]
    remains: Calls
    armed: int = 0
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def controller(self) -> ControllerClient:
        return self.cluster.controller()

    @property
    def kubelet(self) -> NodeClient:
        return self.cluster.node(NODE)

    @property
    def node(self) -> Node:
        return self.cluster.nodes[NODE]

    # The victim

    def _put(self, name: str, text: str) -> None:
        if self.victim == "node":
            self.node.put(f"{self.folder}/{name}", text.encode())
        else:
            (self.folder / name).write_text(text)

    def _lines(self, name: str) -> list[str]:
        if self.victim == "node":
            return self.node.get(f"{self.folder}/{name}").decode().splitlines()
        return (self.folder / name).read_text().splitlines()

    def arm(self, step: int, when: str) -> None:
        self.armed += 1
        self._put("steps", "")
        self._put("arm", f"{self.armed} {step} {when}")

    def disarm(self) -> list[str]:
        """The steps that were passed."""
        self._put("arm", "")
        mine = f"{self.armed} "
        return [line.removeprefix(mine) for line in self._lines("steps") if line.startswith(mine)]

    def deaths(self) -> int:
        return len(self._lines("deaths"))

    def wait_for_death(self, before: int) -> bool:
        """The last step's "after" may come when the call has been answered already."""
        deadline = time.monotonic() + DYING_SECONDS
        while self.deaths() == before:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def wait_for_victim(self) -> None:
        if self.victim == "node":
            self.cluster.wait_for_agent(NODE)
        else:
            self.cluster.wait_for_controller()

    # What is there

    def picture(self) -> dict[str, Any]:
        """Everything that a crash could leave behind, with identifiers made comparable."""
        found = self.remains.call()
        records = [
            f"{len(entry.status.published_node_ids)} published {entry.volume.capacity_bytes}"
            for entry in self.controller.volumes()
        ]
        return {
            "logical volumes": Counter(_comparable("|".join(v)) for v in found["logical volumes"]),
            # The devices of the thin pool itself come and go with LVM's activation.
            "devices": Counter(
                (_comparable(name), suspended)
                for name, suspended in found["devices"]
                if suspended or not name.startswith("vg0-thin")
            ),
            "mounts": Counter(" ".join(_comparable(line).split()[3:6]) for line in found["mounts"]),
            "paths": found["paths"],
            "volumes": Counter(records),
            "snapshots": len(self.controller.snapshots()),
        }


def _comparable(line: str) -> str:
    line = re.sub(r"xlss\.z?record\.[^,|]*,?", "", line)
    line = re.sub(r"\b([vsg])[0-9a-f]{28}\b", r"<\1>", line)
    line = re.sub(r"253:\d+", "253:N", line)
    return line.strip().rstrip(",")


@dataclass(frozen=True)
class Operation:
    """`act` is the call that is interrupted; `before` and `after` are not.

    `once` and `at_last` are made once for all steps. `by_kubelet`: the controller has no part in
    the call. `only`: a pattern of the steps to die at, where others are those of another operation.
    """

    act: Callable[[Scene], None]
    before: tuple[Callable[[Scene], None], ...] = ()
    after: tuple[Callable[[Scene], None], ...] = ()
    check: Callable[[Scene], None] = lambda scene: None
    once: tuple[Callable[[Scene], None], ...] = ()
    at_last: tuple[Callable[[Scene], None], ...] = ()
    by_kubelet: bool = False
    only: str = ""


def _create(key: str = "volume", size: int = SIZE, **options: Any) -> Callable[[Scene], None]:
    def create(scene: Scene) -> None:
        name = scene.made.setdefault(f"{key} name", f"{key}-{next(scene.names)}")
        sources = {kind: scene.made[source] for kind, source in options.items() if kind in _SOURCES}
        settings = {kind: value for kind, value in options.items() if kind not in _SOURCES}
        scene.made[key] = scene.controller.create(
            name, size, **settings, **{kind: _id(made) for kind, made in sources.items()}
        )

    return create


_SOURCES = ("snapshot", "clone")


def _id(made: Any) -> str:
    return str(getattr(made, "snapshot_id", None) or made.volume_id)


def _delete(key: str = "volume") -> Callable[[Scene], None]:
    return lambda scene: scene.controller.delete(scene.made[key].volume_id)


def _publish(scene: Scene) -> None:
    scene.controller.publish(scene.made["volume"].volume_id, NODE, scene.made.get("capability"))


def _unpublish(scene: Scene) -> None:
    scene.controller.unpublish(scene.made["volume"].volume_id, NODE)


def _stage(scene: Scene) -> None:
    secrets = scene.made.get("secrets")
    scene.kubelet.stage(
        scene.made["volume"], STAGING, scene.made.get("capability"), secrets=secrets
    )


def _unstage(scene: Scene) -> None:
    scene.kubelet.unstage(scene.made["volume"].volume_id, STAGING)


def _node_publish(scene: Scene) -> None:
    scene.kubelet.publish(scene.made["volume"], STAGING, TARGET, scene.made.get("capability"))


def _node_unpublish(scene: Scene) -> None:
    scene.kubelet.unpublish(scene.made["volume"].volume_id, TARGET)


def _snapshot(scene: Scene) -> None:
    name = scene.made.setdefault("snapshot name", f"snapshot-{next(scene.names)}")
    scene.made["snapshot"] = scene.controller.snapshot(scene.made["volume"].volume_id, name)


def _delete_snapshot(scene: Scene) -> None:
    scene.controller.delete_snapshot(scene.made["snapshot"].snapshot_id)


def _expand(scene: Scene) -> None:
    scene.controller.expand(scene.made["volume"].volume_id, 2 * SIZE)


def _node_expand(scene: Scene) -> None:
    volume_id = scene.made["volume"].volume_id
    scene.kubelet.expand(volume_id, TARGET, 2 * SIZE, staging=STAGING)


def _write(scene: Scene) -> None:
    scene.node.sh(f"seq 100000 >{TARGET}/numbers; sync -f {TARGET}/numbers")


def _numbers_are_there(scene: Scene) -> None:
    assert scene.node.sh(f"seq 100000 | cmp - {TARGET}/numbers && echo same").text == "same"


def _holds_the_numbers(key: str) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        volume: pb.Volume = scene.made[key]
        path = f"{STAGING}-{key}"
        scene.node.run(["mkdir", "-p", path])
        scene.controller.publish(volume.volume_id, NODE)
        scene.kubelet.stage(volume, path)
        text = scene.node.sh(f"seq 100000 | cmp - {path}/numbers && echo same").text
        scene.kubelet.unstage(volume.volume_id, path)
        scene.controller.unpublish(volume.volume_id, NODE)
        scene.node.run(["rmdir", path])
        assert text == "same"

    return check


def _modify(scene: Scene) -> None:
    scene.controller.modify(scene.made["volume"].volume_id, readIops="500")


def _soil(scene: Scene) -> None:
    """What a deleted neighbour has left."""
    scene.node.sh(f"lvcreate -q -y -Zn -L {2 * SIZE}b -n former vg0")
    scene.node.sh("tr '\\0' x </dev/zero | dd of=/dev/vg0/former bs=1M status=none || true")
    scene.node.sh("lvremove -q -y vg0/former")


def _what_is_new_is_empty(scene: Scene) -> None:
    _node_expand(scene)
    scene.node.sh(f"cmp -n {2 * SIZE} {TARGET} /dev/zero")


def _use_block(scene: Scene) -> None:
    scene.made["capability"] = block()


def _use_key(scene: Scene) -> None:
    scene.made["secrets"] = {"encryptionKey": "correct horse"}


def _encrypted_is_empty(scene: Scene) -> None:
    source = scene.node.run(["findmnt", "-no", "SOURCE", STAGING]).text
    assert "xlss-crypt-" in source
    assert scene.node.run(["ls", STAGING]).text == "lost+found"


COPY = f"{STAGING}-copy"


def _publish_copy(scene: Scene) -> None:
    scene.controller.publish(scene.made["copy"].volume_id, NODE)


def _stage_copy(scene: Scene) -> None:
    scene.kubelet.stage(scene.made["copy"], COPY)


def _delete_copy(scene: Scene) -> None:
    volume_id = scene.made["copy"].volume_id
    scene.kubelet.unstage(volume_id, COPY)
    scene.controller.unpublish(volume_id, NODE)
    scene.controller.delete(volume_id)
    scene.node.sh(f"if [ -e {COPY} ]; then rmdir {COPY}; fi")


def _copy_holds_the_numbers(scene: Scene) -> None:
    assert scene.node.sh(f"seq 100000 | cmp - {COPY}/numbers && echo same").text == "same"


def _copy_has_grown(scene: Scene) -> None:
    _copy_holds_the_numbers(scene)
    size = scene.node.run(["stat", "-fc", "%b * %S", COPY]).text
    blocks, block_bytes = map(int, size.split(" * "))
    assert blocks * block_bytes > 1.5 * SIZE


_SERVED = (_publish, _stage, _node_publish)
_RELEASED = (_node_unpublish, _unstage, _unpublish)
_ENCRYPTED = {"parameters": {"encryption": "luks2"}}
# The smallest btrfs is one of 109 MiB (mkfs.btrfs(8)).
_BTRFS = {"size": 128 * MIB, "capability": mount("btrfs")}
_THICK = {"parameters": {"provision": "thick"}}

OPERATIONS = {
    "create thin": Operation(_create(), after=(_delete(),)),
    "create thick": Operation(_create(**_THICK), after=(_delete(),)),
    "create thick block": Operation(_create(**_THICK, capability=block()), after=(_delete(),)),
    "delete thin": Operation(_delete(), before=(_create(),)),
    "delete thick": Operation(_delete(), before=(_create(**_THICK),)),
    "publish": Operation(_publish, before=(_create(),), after=(_unpublish, _delete())),
    "unpublish": Operation(_unpublish, before=(_create(), _publish), after=(_delete(),)),
    "modify": Operation(_modify, before=(_create(),), after=(_delete(),)),
    "stage ext4": Operation(
        _stage,
        before=(_create(), _publish),
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
    ),
    "stage thick xfs": Operation(
        _stage,
        before=(
            lambda scene: scene.made.update(capability=mount("xfs")),
            lambda scene: scene.made.update(
                volume=scene.controller.create(
                    f"xfs-{next(scene.names)}", 320 * MIB, capability=mount("xfs"), **_THICK
                )
            ),
            _publish,
        ),
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
    ),
    "stage block": Operation(
        _stage,
        before=(_use_block, _create(capability=block()), _publish),
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
    ),
    "stage encrypted": Operation(
        _stage,
        before=(_use_key, _create(**_ENCRYPTED), _publish),
        check=_encrypted_is_empty,
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
        # Each staging derives the key twice, which takes a node's time.
        only="luksFormat|ioctl.* xlss-crypt-|mkfs",
    ),
    "stage clone beside its source": Operation(
        _stage_copy,
        once=(_create(**_BTRFS), *_SERVED, _write),
        before=(_create("copy", clone="volume", **_BTRFS), _publish_copy),
        check=_copy_holds_the_numbers,
        after=(_delete_copy,),
        at_last=(*_RELEASED, _delete()),
        by_kubelet=True,
    ),
    "stage restored and larger": Operation(
        _stage_copy,
        once=(_create(), *_SERVED, _write, _snapshot),
        before=(_create("copy", size=2 * SIZE, snapshot="snapshot"), _publish_copy),
        check=_copy_has_grown,
        after=(_delete_copy,),
        at_last=(_delete_snapshot, *_RELEASED, _delete()),
        by_kubelet=True,
    ),
    "unstage": Operation(
        _unstage,
        before=(_create(), _publish, _stage),
        after=(_unpublish, _delete()),
        by_kubelet=True,
    ),
    "node publish": Operation(
        _node_publish,
        before=(_create(), _publish, _stage),
        after=(*_RELEASED, _delete()),
        by_kubelet=True,
    ),
    "node unpublish": Operation(
        _node_unpublish,
        before=(_create(), *_SERVED),
        after=(_unstage, _unpublish, _delete()),
        by_kubelet=True,
    ),
    "expand mounted": Operation(
        _expand,
        before=(_create(), *_SERVED, _write),
        check=_numbers_are_there,
        after=(*_RELEASED, _delete()),
    ),
    "expand thick block": Operation(
        _expand,
        before=(_use_block, _soil, _create(capability=block(), **_THICK), *_SERVED),
        check=_what_is_new_is_empty,
        after=(*_RELEASED, _delete()),
    ),
    "node expand": Operation(
        _node_expand,
        before=(_create(), *_SERVED, _write, _expand),
        check=_numbers_are_there,
        after=(*_RELEASED, _delete()),
        by_kubelet=True,
    ),
    "snapshot mounted thin": Operation(
        _snapshot,
        before=(_create(), *_SERVED, _write),
        check=_numbers_are_there,
        after=(_delete_snapshot, *_RELEASED, _delete()),
    ),
    "snapshot mounted thick": Operation(
        _snapshot,
        before=(_create(**_THICK), *_SERVED, _write),
        check=_numbers_are_there,
        after=(_delete_snapshot, *_RELEASED, _delete()),
    ),
    "delete snapshot": Operation(
        _delete_snapshot, before=(_create(), _snapshot), after=(_delete(),)
    ),
    "restore thin": Operation(
        _create("copy", snapshot="snapshot"),
        before=(_create(), *_SERVED, _write, _snapshot),
        check=_holds_the_numbers("copy"),
        after=(_delete("copy"), _delete_snapshot, *_RELEASED, _delete()),
    ),
    "clone mounted thick": Operation(
        _create("copy", clone="volume", **_THICK),
        before=(_create(**_THICK), *_SERVED, _write),
        check=_holds_the_numbers("copy"),
        after=(_delete("copy"), *_RELEASED, _delete()),
    ),
}
