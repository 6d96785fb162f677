"""What only a person may decide, through `xlss`: before, the volume waits and says for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.errors import LabError
from lab.record_verdict import Written
from lab.records import differing, hashes
from tests.lab.replicated import ONE, OTHER, TWO
from tests.lab.told import insist, until_told, words, xlss

if TYPE_CHECKING:
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def two_of_three_nodes_die(service: Service) -> None:
    service.node(OTHER).kill(silently=True)
    service.power_off(ONE)


def all_are_back(service: Service) -> None:
    for name in (ONE, OTHER):
        service.power_on(name)
    service.until_in_sync()
    service.check()


def test_the_controller_stands_down_and_a_person_fails_over(service: Service) -> None:
    service.start(ONE).wait_for(50)
    two_of_three_nodes_die(service)
    service.give_up(TWO)
    until_told(service, r"2 of 3 nodes are silent at once \(n1, n3\): standing down")
    told = words(service)
    assert "It waits for a person's decision, or for the nodes to come back" in told
    assert "`xlss volume fail-over data --to n2`" in told
    assert service.role(TWO) == "Secondary"
    assert service.record.members == (ONE, TWO), "nobody has decided anything"

    said = xlss(service, "volume", "fail-over", "data", "--to", TWO)
    assert "n2 need not wait for the other replica" in said
    service.start(TWO).wait_for(50)
    assert "only n2 has all that was acknowledged" in words(service)
    all_are_back(service)


def test_a_person_fails_over_before_the_orchestrator_has_noticed(service: Service) -> None:
    service.start(ONE).wait_for(50)
    two_of_three_nodes_die(service)
    said = insist(service, "volume", "fail-over", "data", "--to", TWO)
    assert "failed over to n2" in said
    service.until_alone(TWO)
    assert "published on n2, SINGLE_NODE_WRITER" in words(service)
    service.start(TWO).wait_for(50)
    all_are_back(service)


def test_the_only_complete_replica_is_gone_and_a_person_takes_the_other(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    shared = writer.last
    service.power_off(TWO)
    service.until_alone(ONE)
    writer.wait_for(50)
    service.power_off(ONE)
    writer.wait_ended()
    service.power_on(TWO)
    service.refused(TWO, "n2 is not in the set of complete replicas")
    the_way_out_is_told_and_nothing_else_is_possible(service)

    force = ("volume", "force-primary", "data", "--node", TWO)
    with pytest.raises(LabError) as refused:
        xlss(service, *force)
    at_stake = " ".join(str(refused.value).split())
    assert "only on the other replica are lost" in at_stake
    assert "n1 is in the set of complete replicas, was the last primary" in at_stake
    assert "n2 is not in the set of complete replicas, said last: Secondary" in at_stake
    assert service.record.members == (ONE,), "asking what is at stake decides nothing"

    said = xlss(service, *force, "--accept-data-loss", "--yes")
    assert "n2 is the volume by a person's decision" in said
    successor = service.start(TWO)
    successor.wait_for(50)
    assert shared <= successor.found < writer.last
    assert "only n2 has all that was acknowledged" in words(service)

    service.power_on(ONE)
    service.until_in_sync()
    successor.wait_for(20)
    only_what_the_old_primary_wrote_alone_is_lost(service)


def the_way_out_is_told_and_nothing_else_is_possible(service: Service) -> None:
    told = words(service)
    assert "only n1 has all that was acknowledged" in told
    assert "nothing is served before it is back" in told
    assert "It waits for the missing nodes, or for a person's decision" in told
    assert "`xlss volume force-primary data --node n2 --accept-data-loss`" in told
    with pytest.raises(LabError, match="published nowhere"):
        xlss(service, "volume", "fail-over", "data", "--to", TWO)


def only_what_the_old_primary_wrote_alone_is_lost(service: Service) -> None:
    """And nothing of that is served by either replica, in one order or the other."""
    service.stop()
    former, successor = service.records.writers
    lost = {Written(1, number) for number in range(successor.found + 1, former.last + 1)}
    contents = []
    for name in (ONE, TWO):
        service.move(name)
        verdict = service.records.check(service.node(name), service.device)
        assert set(verdict.lost) == lost, (name, verdict)
        assert not (verdict.damaged or verdict.impossible or verdict.both_sides), (name, verdict)
        contents.append(hashes(service.node(name), service.device))
    assert differing(*contents) == []
