"""The ledger of pools: nothing promised twice, nothing refused that there is room for."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.errors import NoSpace, OutOfRange, Unavailable
from cluster.model import TOPOLOGY_NODE_KEY, Phase, Provision, Volume, VolumeSpec
from cluster.placement import PlacementRequest
from cluster.pools import PoolLedger, Reservation
from tests.unit.fake_agent import GIB, MIB, FakeAgents, FakeNode, FakePool

THICK = VolumeSpec("default", Provision.THICK)
THIN = VolumeSpec("default", Provision.THIN)


def node(name: str, size: int = 4 * GIB) -> FakeNode:
    return FakeNode(name, {"default": FakePool((size,), thin_limit=size)}, {"zone": f"z-{name}"})


def request(volume_id: str, size: int = GIB, spec: VolumeSpec = THICK) -> PlacementRequest:
    return PlacementRequest(volume_id, size, spec)


def reserve(ledger: PoolLedger, wanted: PlacementRequest) -> Reservation:
    (reservation,) = ledger.reserve(wanted)
    return reservation


def volume(volume_id: str, size: int = GIB, spec: VolumeSpec = THICK) -> Volume:
    return Volume(volume_id, volume_id, size, spec, Phase.CREATING)


def test_reserved_room_is_not_given_twice_and_comes_back() -> None:
    agents = FakeAgents(node("n1", GIB), node("n2", GIB))
    ledger = PoolLedger(agents, wait_seconds=0)
    with reserve(ledger, request("v1")) as first, reserve(ledger, request("v2")) as second:
        assert {first.node, second.node} == {"n1", "n2"}
        with pytest.raises(Unavailable, match="other creations are under way"):
            reserve(ledger, request("v3"))
    with reserve(ledger, request("v3")), reserve(ledger, request("v4")):
        pass


def test_a_request_waits_for_a_creation_in_flight_rather_than_being_refused() -> None:
    """The report has the volume in it already: taken off twice, there would be no room."""
    agents = FakeAgents(node("n1", 2 * GIB))
    ledger = PoolLedger(agents)
    first = reserve(ledger, request("v1"))
    _, pool = agents.agent("n1").create_volume(volume("v1"))
    ledger.refresh()
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(reserve, ledger, request("v2"))
        while agents.nodes["n1"].calls.count("pools") < 2:
            time.sleep(0.001)  # until it has looked itself, and found the volume counted twice
        assert not second.done()
        with first:
            first.report(pool)
        assert second.result().node == "n1"


def test_an_answer_that_is_lost_is_settled_by_the_next_report() -> None:
    agents = FakeAgents(node("n1", 2 * GIB))
    ledger = PoolLedger(agents, wait_seconds=0)
    with reserve(ledger, request("v1")):
        agents.agent("n1").create_volume(volume("v1"))
    assert reserve(ledger, request("v2")).node == "n1"
    with pytest.raises(Unavailable):
        reserve(ledger, request("v3"))


def test_a_report_that_was_overtaken_does_not_bring_back_the_past() -> None:
    agents = FakeAgents(node("n1", 2 * GIB))
    ledger = PoolLedger(agents, wait_seconds=0)
    early = ledger.ticket()
    ledger.refresh()
    (before,) = agents.agent("n1").pools(fresh=True)
    agents.agent("n1").create_volume(volume("v1", 2 * GIB))
    ledger.refresh()
    ledger.report("n1", before, early)
    assert ledger.capacity(THICK, None)[0] == 0


def test_a_refusal_rests_on_a_fresh_report() -> None:
    agents = FakeAgents(node("n1", GIB))
    agents.agent("n1").create_volume(volume("old"))
    ledger = PoolLedger(agents)
    with pytest.raises(NoSpace, match=r"n1/default: 0 B free, 1\.0 GiB needed"):
        reserve(ledger, request("v1"))
    agents.agent("n1").delete_volume("old")
    assert reserve(ledger, request("v1")).node == "n1"


def test_a_node_that_does_not_answer_is_no_reason_to_refuse_the_others() -> None:
    agents = FakeAgents(node("n1"), node("n2"))
    agents.nodes["n1"].down = True
    ledger = PoolLedger(agents)
    assert reserve(ledger, request("v1")).node == "n2"
    assert ledger.troubled() == ("n1",)
    only_n1 = PlacementRequest("v2", GIB, THICK, ({TOPOLOGY_NODE_KEY: "n1"},))
    with pytest.raises(Unavailable, match=r"n1: agent unreachable \(n1 is down\)"):
        reserve(ledger, only_n1)
    agents.nodes["n1"].down = False
    assert reserve(ledger, only_n1).node == "n1"
    assert ledger.troubled() == ()


def test_a_node_in_doubt_is_given_volumes_and_asked_how_it_is() -> None:
    agents = FakeAgents(node("n1"))
    ledger = PoolLedger(agents)
    ledger.refresh()
    asked_before = ledger.ticket()
    ledger.doubt("n1")
    ledger.observe("n1", agents.agent("n1").inventory(), asked_before)
    assert ledger.troubled() == ("n1",), "what it was asked before the call failed tells nothing"
    assert reserve(ledger, request("v1")).node == "n1"
    ledger.refresh(ledger.troubled())
    assert ledger.troubled() == ()


def test_a_size_that_no_pool_could_ever_have() -> None:
    agents = FakeAgents(node("n1", 4 * GIB), node("n2", 2 * GIB))
    ledger = PoolLedger(agents)
    with pytest.raises(OutOfRange, match=r"5\.0 GiB is more than any pool"):
        reserve(ledger, request("v1", 5 * GIB))
    agents.nodes["n2"].down = True
    with pytest.raises(NoSpace):  # n2 may have had a disk added
        reserve(ledger, request("v1", 5 * GIB))


def test_an_agent_that_is_another_node_is_not_used() -> None:
    agents = FakeAgents(node("n1"))
    agents.nodes["n1"].name = "n7"
    ledger = PoolLedger(agents)
    with pytest.raises(Unavailable, match="it answers as node 'n7'"):
        reserve(ledger, request("v1"))


def test_capacity_counts_what_a_request_would_be_given() -> None:
    agents = FakeAgents(node("n1", 4 * GIB), node("n2", 2 * GIB))
    ledger = PoolLedger(agents)
    assert ledger.capacity(THICK, None) == (6 * GIB, 4 * GIB, 4 * MIB)
    assert ledger.capacity(THIN, {"zone": "z-n2"}) == (2 * GIB, 2 * GIB, 4 * MIB)
    assert ledger.capacity(VolumeSpec("other"), None) == (0, 0, 0)
    with reserve(ledger, request("v1")):
        assert ledger.capacity(THICK, None)[0] == 5 * GIB
    agents.nodes["n1"].down = True
    ledger.refresh()
    assert ledger.capacity(THICK, None)[0] == 2 * GIB


@pytest.mark.parametrize("spec", [THICK, THIN])
def test_fifty_at_once_on_room_for_thirty(spec: VolumeSpec) -> None:
    """With agents that are the final judges, and answers that overtake each other."""
    agents = FakeAgents(*(node(name, 10 * GIB) for name in ("n1", "n2", "n3")))
    for each in agents.nodes.values():
        each.delay = 0.002
    ledger = PoolLedger(agents)
    started = threading.Barrier(50)

    def create(number: int) -> str:
        started.wait()
        wanted = volume(f"v{number}", GIB, spec)
        try:
            with reserve(ledger, request(wanted.id, GIB, spec)) as reservation:
                _, pool = agents.agent(reservation.node).create_volume(wanted)
                if number % 3:
                    reservation.report(pool)
        except NoSpace:
            return "no space"
        return "created"

    with ThreadPoolExecutor(50) as threads:
        outcomes = list(threads.map(create, range(50)))
    assert outcomes.count("created") == 30
    assert len(agents.volume_ids()) == 30


def test_requests_that_come_together_share_the_reports() -> None:
    agents = FakeAgents(node("n1", GIB))
    agents.agent("n1").create_volume(volume("old"))
    agents.set_fault(lambda node, call, when: time.sleep(0.05))
    ledger = PoolLedger(agents)

    def ask(number: int) -> None:
        with pytest.raises(NoSpace):
            reserve(ledger, request(f"v{number}"))

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(ask, range(20)))
    assert agents.nodes["n1"].calls.count("pools") < 20


def hanging(agents: FakeAgents, name: str) -> threading.Event:
    """From now on the node answers nothing until the event is set."""
    go_on = threading.Event()
    agents.nodes[name].fault = lambda node, call, when: _ignore(go_on.wait(20))
    return go_on


def _ignore(result: bool) -> None:
    pass


def on(*names: str) -> PlacementRequest:
    return PlacementRequest("v", GIB, THICK, tuple({TOPOLOGY_NODE_KEY: name} for name in names))


def test_a_node_that_hangs_costs_requests_for_others_nothing() -> None:
    agents = FakeAgents(node("n1"), node("n2"))
    ledger = PoolLedger(agents)
    go_on = hanging(agents, "n1")
    with ThreadPoolExecutor(1) as threads:
        never_asked = threads.submit(ledger.reserve, on("n1"))
        assert reserve(ledger, on("n2")).node == "n2"  # the first request after a start
        assert not never_asked.done()
        go_on.set()
        never_asked.result()
        go_on = hanging(agents, "n1")
        looking = threads.submit(ledger.refresh, ["n1"])
        while agents.nodes["n1"].calls.count("pools") < 1:
            time.sleep(0.001)
        assert reserve(ledger, request("v1", 4 * GIB - MIB, THIN)).node in ("n1", "n2")
        ledger.refresh(["n2"])
        with pytest.raises(OutOfRange):
            reserve(ledger, PlacementRequest("v2", 5 * GIB, THICK, ({"zone": "z-n2"},)))
        assert not looking.done()
        go_on.set()


def test_whoever_needs_a_node_that_hangs_does_without_in_the_end() -> None:
    agents = FakeAgents(node("n1"), node("n2", GIB))
    ledger = PoolLedger(agents, patience_seconds=0.05)
    go_on = hanging(agents, "n1")
    with pytest.raises(Unavailable, match="n1: agent does not answer within"):
        reserve(ledger, on("n1"))
    assert ledger.troubled() == ("n1",)
    with pytest.raises(NoSpace, match="n1: agent does not answer"):  # which asks it no second time
        reserve(ledger, request("v1", 2 * GIB))
    assert agents.nodes["n1"].calls == ["inventory"]
    go_on.set()
    while ledger.troubled():
        time.sleep(0.001)
    assert reserve(ledger, on("n1")).node == "n1"
