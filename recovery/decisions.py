"""What only a person may decide about a replicated volume (docs/membership.md, docs/operations.md).

Each is one compare-and-swap of the membership record under the volume's lock, and the volume's own
record is brought in line after it: a call that is cut off in between is repeated.
"""

from __future__ import annotations

from cluster.errors import Refused
from cluster.identifiers import key_of_id
from cluster.locks import ObjectLocks
from cluster.membership import Membership, newest_epoch
from cluster.model import Publication, Volume
from cluster.records import volume_table
from cluster.store import Store
from recovery.arbiter import Arbiter
from replication import arbiter_rules
from replication.record import Statement


class Decisions:
    """Every call may raise NotFound, Busy, Conflict and Unavailable; the last three: repeat it."""

    def __init__(self, store: Store, locks: ObjectLocks, arbiter: Arbiter) -> None:
        self._table = volume_table(store)
        self._locks = locks
        self._arbiter = arbiter

    def fail_over(self, volume_id: str, node: str) -> str:
        """That node of the set serves from now on, and need not wait for the other one.

        Loses nothing that was acknowledged: the other node is taken out of the set before the
        first acknowledgement. Returns what was done, in words. Raises Refused.
        """
        with self._locks.hold(key_of_id(volume_id), purpose="failover"):
            volume = self._replicated(volume_id)
            if not volume.published:
                raise Refused(
                    f"volume {volume.name} is published nowhere: start its pod on {node} instead"
                )
            answer = self._arbiter.decide(
                volume_id, lambda record: arbiter_rules.fail_over(record, node)
            )
            self._publish(volume_id, node)
        self._arbiter.followed.let_go_alone(volume_id, node)
        return f"{answer}; {node} need not wait for the other replica"

    def force_primary(self, volume_id: str, node: str, *, accept_data_loss: bool) -> str:
        """That replica is the volume, whatever the other one had acknowledged.

        Returns what was done, in words. Raises Refused, without ``accept_data_loss`` with what is
        known of both replicas.
        """
        with self._locks.hold(key_of_id(volume_id), purpose="force-primary"):
            volume = self._replicated(volume_id)
            if not accept_data_loss:
                raise Refused(self._what_is_at_stake(volume, node))
            answer = self._arbiter.decide(
                volume_id,
                lambda record: arbiter_rules.force_primary(
                    record, node, accept_data_loss, at_least=newest_epoch()
                ),
                whatever_was_seen=True,
            )
            self._publish(volume_id, node)
        self._arbiter.followed.let_go_alone(volume_id, node)
        return answer

    def _replicated(self, volume_id: str) -> Volume:
        volume = self._table.ready(volume_id).item
        if volume.replication is None:
            raise Refused(f"volume {volume.name} is not replicated: there is nothing to decide")
        return volume

    def _publish(self, volume_id: str, node: str) -> None:
        """The volume counts as published there; in which way, is as it was."""
        entry = self._table.ready(volume_id)
        former = next(iter(entry.item.published), None)
        wanted = Publication(node, False, "")  # the orchestrator's next call says the mode
        if former is not None:
            wanted = Publication(node, former.readonly, former.access_mode)
        if entry.item.published != (wanted,):
            self._table.update(entry, published=(wanted,))

    def _what_is_at_stake(self, volume: Volume, node: str) -> str:
        held, stated = self._arbiter.followed.find(volume.id)
        if held is None:
            known = "the store has no membership record"
        else:
            silent = self._arbiter.followed.silent()
            known = "; ".join(
                _known(one, held.record, stated.get(one), silent) for one in held.record.replicas
            )
        return (
            f"this makes the replica on {node} the volume {volume.name}: writes that were "
            "acknowledged and are only on the other replica are lost, and that replica is "
            f"overwritten when it comes back. Known: {known}. To go on: --accept-data-loss"
        )


def _known(node: str, record: Membership, stated: Statement | None, silent: frozenset[str]) -> str:
    words = [f"{node} is {'' if node in record.members else 'not '}in the set of complete replicas"]
    if node == record.active:
        words.append("was the last primary")
    if stated is None:
        words.append("has told this controller nothing since it started")
    else:
        view = stated.view
        words.append(f"said last: {view.role}, {view.disk}, {view.connection}")
        if record.generation and not view.generations.grown_from(record.generation):
            words.append("its data is older than the volume's generation")
    if node in silent:
        words.append("is silent now")
    return ", ".join(words)
