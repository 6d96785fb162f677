"""Rebuilding a lost store from what the nodes hold.

Each logical volume of ours carries its record, as it was when it was made, in its tags. What has
changed since is taken from the node: the size, and who uses it. Not known any more: the access mode
of a publication (any mode is accepted once), the names of groups (their keys are known), and
whether a group that was just being cut or deleted was whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from cluster.agents import Agents, Inventory, SnapshotReport, VolumeReport, ask_all
from cluster.differences import Difference, DifferenceKind
from cluster.errors import ClusterError, DataLoss, Refused, Unavailable
from cluster.identifiers import key_of_id
from cluster.model import (
    Group,
    Phase,
    Publication,
    Snapshot,
    Volume,
    snapshot_from_json,
    volume_from_json,
)
from cluster.records import group_table, snapshot_table, volume_table
from cluster.replicas import ReplicaRecords, unknown_membership
from cluster.store import RecordKind, Store


@dataclass(frozen=True)
class Recovery:
    """How many records were rebuilt, and what a person has to look at."""

    volumes: int
    snapshots: int
    groups: int
    differences: tuple[Difference, ...]


def recover(store: Store, agents: Agents, allow_missing: Collection[str] = ()) -> Recovery:
    """Fill an empty store from the inventories of all nodes, less those in ``allow_missing``.

    Raises Refused when the store is not empty, and Unavailable naming the nodes that do not answer:
    what they hold would be unknown to the store, and made a second time.
    """
    for kind in RecordKind:
        if store.list(kind, limit=1)[0]:
            raise Refused("the store holds records: only an empty one can be rebuilt")
    inventories = _inventories(agents, allow_missing)
    differences: list[Difference] = []
    volumes = _volumes(inventories, differences)
    snapshots = _snapshots(inventories, differences)
    groups = _groups(snapshots, differences)
    for snapshot in snapshots:
        snapshot_table(store).create(snapshot)
    for group in groups:
        group_table(store).create(group)
    for volume in volumes:
        volume_table(store).create(volume)
        if volume.replication is not None:
            replicas = ReplicaRecords(store)
            replicas.memberships.create(volume.id, unknown_membership(volume))
            if not replicas.claim(volume):
                text = "another volume has the same DRBD minor and port"
                where = ", ".join(volume.nodes)
                differences.append(Difference(DifferenceKind.CONFLICT, where, volume.id, text))
    return Recovery(len(volumes), len(snapshots), len(groups), tuple(differences))


def _inventories(agents: Agents, allow_missing: Collection[str]) -> dict[str, Inventory]:
    answers = ask_all(agents, agents.names(), lambda _, agent: agent.inventory())
    silent = {
        node: str(answer)
        for node, answer in answers.items()
        if isinstance(answer, ClusterError) and node not in allow_missing
    }
    if silent:
        texts = "; ".join(f"{node}: {text}" for node, text in silent.items())
        raise Unavailable(f"all nodes are needed, and these do not answer: {texts}")
    found = {node: answer for node, answer in answers.items() if isinstance(answer, Inventory)}
    for node, inventory in found.items():
        if inventory.node != node:
            raise Refused(f"the agent configured as {node} is that of {inventory.node}")
    return found


def _volumes(inventories: Mapping[str, Inventory], notes: list[Difference]) -> list[Volume]:
    by_key: dict[str, list[tuple[Volume, VolumeReport]]] = {}
    for node, inventory in inventories.items():
        for report in inventory.volumes:
            try:
                volume = _volume(node, report)
            except DataLoss as error:
                notes.append(Difference(DifferenceKind.UNREADABLE, node, report.id, str(error)))
            else:
                by_key.setdefault(key_of_id(volume.id), []).append((volume, report))
    return [
        volume
        for candidates in by_key.values()
        for volume in _choose(_joined(candidates, notes), notes)
    ]


def _joined(
    candidates: list[tuple[Volume, VolumeReport]], notes: list[Difference]
) -> list[tuple[Volume, VolumeReport]]:
    """With the replicas of one volume as one candidate: those that tell of the same replicas.

    Minor, port and generation are the same for all replicas of one making, and for no others.
    """
    found: dict[object, list[tuple[Volume, VolumeReport]]] = {}
    for number, (volume, report) in enumerate(candidates):
        key = number if volume.replication is None else (volume.id, volume.replication)
        found.setdefault(key, []).append((volume, report))
    return [_join(replicas, notes) for replicas in found.values()]


def _join(
    replicas: list[tuple[Volume, VolumeReport]], notes: list[Difference]
) -> tuple[Volume, VolumeReport]:
    (volume, report), *others = replicas
    if volume.replication is None:
        return volume, report
    places = tuple(place.node for place in volume.replication.places)
    text = "which of its replicas is complete is not known: it is not published until they report"
    notes.append(Difference(DifferenceKind.NO_MEMBERSHIP, ", ".join(places), volume.id, text))
    return (
        replace(
            volume,
            size_bytes=min(each.size_bytes for each, _ in replicas),
            phase=max((each.phase for each, _ in replicas), key=Phase.READY.__eq__),
            nodes=places,
            published=(),  # a mount proves nothing: the membership record says who is primary
        ),
        next((each for _, each in others if each.complete and each.used), report),
    )


def _volume(node: str, report: VolumeReport) -> Volume:
    volume = volume_from_json(report.record)
    if volume.id != report.id:
        raise DataLoss(f"the record in the tags is that of {volume.id}")
    published = tuple(Publication(node, False, "") for _ in report.mounts[:1])
    return replace(
        volume,
        size_bytes=report.size_bytes,
        # Half-made: nobody was told of it, so the reconcile loop removes it unless the call that
        # was making it is repeated.
        phase=Phase.READY if report.complete else Phase.CREATING,
        nodes=(node,),
        published=published,
        leftovers=(),
    )


def _choose(
    candidates: list[tuple[Volume, VolumeReport]], notes: list[Difference]
) -> Iterator[Volume]:
    """The one record of several that claim the same name.

    A creation that went on on another node leaves a copy that nobody ever used or completed. If
    that does not tell them apart, a person must.
    """
    for better in (
        lambda _: True,
        lambda report: report.complete,
        lambda report: report.complete and report.used,
    ):
        left = [volume for volume, report in candidates if better(report)]
        if len(left) == 1:
            yield _take(left[0], candidates, notes)
            return
    places = ", ".join(f"{volume.id} on {volume.nodes[0]}" for volume, _ in candidates)
    for volume, _ in candidates:
        text = f"several volumes claim the name {volume.name!r}: {places}; none was taken"
        notes.append(Difference(DifferenceKind.CONFLICT, volume.nodes[0], volume.id, text))


def _take(
    chosen: Volume, candidates: list[tuple[Volume, VolumeReport]], notes: list[Difference]
) -> Volume:
    leftovers: list[str] = []
    for other, report in candidates:
        if other is chosen:
            continue
        if other.id == chosen.id and not report.complete:
            leftovers += other.nodes
        else:
            text = f"claims the same name as {chosen.id} on {chosen.nodes[0]}, which was taken"
            notes.append(Difference(DifferenceKind.CONFLICT, other.nodes[0], other.id, text))
    return replace(chosen, leftovers=tuple(leftovers))


def _snapshots(inventories: Mapping[str, Inventory], notes: list[Difference]) -> list[Snapshot]:
    found: dict[str, Snapshot] = {}
    for node, inventory in inventories.items():
        for report in inventory.snapshots:
            try:
                snapshot = snapshot_from_json(report.record)
                if snapshot.id != report.id:
                    raise DataLoss(f"the record in the tags is that of {snapshot.id}")
            except DataLoss as error:
                notes.append(Difference(DifferenceKind.UNREADABLE, node, report.id, str(error)))
                continue
            key = key_of_id(snapshot.id)
            if key in found and found[key].id == snapshot.id and snapshot.spec.replicas > 1:
                found[key] = _with_replica(found[key], node, report)
                continue
            if key in found:
                text = f"{found[key].id} on {found[key].nodes[0]} has the same name: that was taken"
                notes.append(Difference(DifferenceKind.CONFLICT, node, snapshot.id, text))
                continue
            found[key] = replace(
                snapshot,
                size_bytes=report.size_bytes,
                # One that was cut to make a clone is removed by the reconcile loop.
                phase=(
                    Phase.READY if report.complete and not snapshot.clone_id else Phase.CREATING
                ),
                nodes=(node,),
            )
    return list(found.values())


def _with_replica(snapshot: Snapshot, node: str, report: SnapshotReport) -> Snapshot:
    """What is half-made on one node was cut in an attempt that did not finish."""
    return replace(
        snapshot,
        size_bytes=min(snapshot.size_bytes, report.size_bytes),
        phase=snapshot.phase if report.complete else Phase.CREATING,
        nodes=(*snapshot.nodes, node),
    )


def _groups(snapshots: list[Snapshot], notes: list[Difference]) -> list[Group]:
    """The groups whose snapshots are complete.

    That all nodes had held their I/O still until the last cut was in the lost store alone: a group
    over several nodes is kept, because it is most likely good, and a person is told.
    """
    members: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        if snapshot.group_id:
            members.setdefault(snapshot.group_id, []).append(snapshot)
    groups = [
        Group(
            id=group_id,
            name="",
            volume_ids=tuple(cut.volume_id for cut in cuts),
            snapshot_ids=tuple(cut.id for cut in cuts),
            phase=Phase.READY,
            created_at=cuts[0].created_at,
        )
        for group_id, unsorted in members.items()
        if (cuts := sorted(unsorted, key=lambda cut: cut.volume_id))
        and all(cut.phase is Phase.READY for cut in cuts)
    ]
    for group in groups:
        nodes = sorted({node for cut in members[group.id] for node in cut.nodes})
        if len(nodes) > 1:
            text = "kept; if it was being cut when the store was lost, not at one instant"
            notes.append(Difference(DifferenceKind.UNCONFIRMED, ", ".join(nodes), group.id, text))
    return groups
