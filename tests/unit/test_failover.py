"""When a survivor need not wait, told as stories."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.membership import Membership
from recovery.failover import Replicated, Verdict, isolated, judge
from replication.record import Connection, Disk, Role, Statement, View

NODES = ("a", "b", "c", "d")
BOTH = Membership(("a", "b"), ("a", "b"), primary="b", active="a", epoch=4, generation="g")


def sees(node: str, connection: Connection) -> Statement:
    view = View(node, "boot", Role.SECONDARY, disk=Disk.UP_TO_DATE, connection=connection)
    return Statement(view, revision=7, epoch=4)


LOST = Replicated("v1", BOTH, {"b": sees("b", Connection.CONNECTING)})


def test_the_survivor_goes_on_alone() -> None:
    assert judge(LOST, {"a"}, NODES).go_alone == "b"


@pytest.mark.parametrize("node", ["a", "b"])
def test_nobody_goes_alone_while_all_speak_or_the_wrong_one_is_silent(node: str) -> None:
    silent = set() if node == "a" else {"b"}
    assert judge(LOST, silent, NODES) == Verdict()


def test_a_link_that_stays_away_is_not_waited_for_once_the_other_is_no_primary() -> None:
    both = {"b": sees("b", Connection.CONNECTING), "a": sees("a", Connection.CONNECTING)}
    volume = replace(LOST, statements=both)
    assert judge(volume, set(), NODES, apart_seconds=2) == Verdict()
    assert judge(volume, set(), NODES, apart_seconds=4).go_alone == "b"
    setting_up = replace(volume, statements=both | {"a": sees("a", Connection.STANDALONE)})
    assert judge(setting_up, set(), NODES, apart_seconds=4) == Verdict()
    assert judge(setting_up, set(), NODES, apart_seconds=20).go_alone == "b"
    frozen = replace(both["a"], view=replace(both["a"].view, role=Role.PRIMARY))
    for a in (frozen, None):
        statements = {"b": both["b"]} | ({"a": a} if a else {})
        primary = replace(LOST, statements=statements)
        assert judge(primary, set(), NODES, apart_seconds=1e9) == Verdict()


def test_a_living_link_is_believed_more_than_a_silent_agent() -> None:
    for alive in (Connection.CONNECTED, Connection.SYNC_SOURCE, Connection.SYNC_TARGET):
        verdict = judge(replace(LOST, statements={"b": sees("b", alive)}), {"a"}, NODES)
        assert not verdict.go_alone and "link is alive" in verdict.reason


def test_two_silent_replicas_are_waited_for() -> None:
    verdict = judge(LOST, {"a", "b"}, (*NODES, "e", "f"))
    assert not verdict.go_alone and "both silent" in verdict.reason


def test_a_survivor_that_has_told_nothing_yet_waits() -> None:
    verdict = judge(replace(LOST, statements={}), {"a"}, NODES)
    assert not verdict.go_alone and "has not told" in verdict.reason


def test_a_controller_that_hears_nobody_stands_down() -> None:
    verdict = judge(LOST, {"a", "c"}, NODES)
    assert not verdict.go_alone and "standing down" in verdict.reason
    early = judge(LOST, {"a"}, NODES, doubtful={"c"})
    assert not early.go_alone and "(a, c)" in early.reason
    assert not isolated({"a"}, {"a", "b"})
    assert not isolated({"a", "b"}, {"a", "b", "c", "d", "e"})


@pytest.mark.parametrize(
    "record",
    [
        replace(BOTH, primary=""),
        replace(BOTH, members=("b",)),
        replace(BOTH, members=("a",)),
        replace(BOTH, quarantine="the store is older than what its nodes have seen"),
    ],
)
def test_where_nobody_is_waited_for_nothing_is_decided(record: Membership) -> None:
    assert judge(replace(LOST, record=record), {"a"}, NODES) == Verdict()
