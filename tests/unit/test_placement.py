"""Which node gets a volume, and what is said of those that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.agents import PoolReport, ThinPoolReport
from cluster.model import (
    ENCRYPTION_BYTES,
    TOPOLOGY_NODE_KEY,
    Layout,
    LayoutKind,
    Provision,
    VolumeSpec,
)
from cluster.placement import (
    NodeView,
    PlacementRequest,
    footprint,
    in_words,
    less,
    matches,
    place,
    room,
)

MIB = 1 << 20
GIB = 1 << 30
EXTENT = 4 * MIB
ZONE = "csi.xlss.io/zone"

THICK = VolumeSpec("fast", Provision.THICK)
THIN = VolumeSpec("fast", Provision.THIN)


def node(name: str, free: int = 10 * GIB, *, zone: str = "", trouble: str = "") -> NodeView:
    disks = (free // 2, free - free // 2)
    thin = ThinPoolReport("thin", 10 * GIB, GIB, 0.1, GIB, GIB + free, 64 * 1024)
    pool = PoolReport("fast", "vg", EXTENT, 20 * GIB, free, disks, thin)
    return NodeView(name, {ZONE: zone} if zone else {}, (pool,), trouble, f"{name}.test")


def with_pool(view: NodeView, **changes: object) -> NodeView:
    return replace(view, pools=(replace(view.pools[0], **changes),))  # type: ignore[arg-type]


def request(size: int = 4 * GIB, spec: VolumeSpec = THICK, **fields: object) -> PlacementRequest:
    return PlacementRequest("v1", size, spec, **fields)  # type: ignore[arg-type]


def on(*names: str) -> tuple[dict[str, str], ...]:
    return tuple({TOPOLOGY_NODE_KEY: name} for name in names)


def test_every_refusal_says_which_node_and_why() -> None:
    thin = node("x").pools[0].thin
    assert thin is not None
    nodes = [
        node("n1", 3 * GIB),
        node("n2", trouble="agent unreachable"),
        NodeView("n3"),
        with_pool(node("n4", 0), trouble="a disk is missing"),
        node("n5", zone="z2"),
        with_pool(node("n6", zone="z1"), thick_free_bytes=4 * GIB - MIB),
    ]
    assert place(request(), nodes[:4]).refused == (
        "n1/fast: 3.0 GiB free, 4.0 GiB needed",
        "n2: agent unreachable",
        "n3: no pool 'fast'",
        "n4/fast: a disk is missing",
    )
    zoned = place(request(requisite=({ZONE: "z1"},)), nodes[4:])
    assert zoned.refused == (
        "n5: not in the requested topology",
        "n6/fast: 3.9 GiB free, 4.0 GiB needed",
    )
    assert zoned.nodes == ()
    cloned = place(request(source_nodes=("n9",)), [node("n1")])
    assert cloned.refused == ("n1: does not hold the source",)
    thinly = [
        with_pool(node("n1"), thin=None),
        with_pool(node("n2"), thin=replace(thin, used_bytes=10 * GIB)),
        with_pool(node("n3"), thin=replace(thin, metadata_used=0.9)),
        node("n4", 3 * GIB),
    ]
    assert place(request(spec=THIN), thinly).refused == (
        "n1: pool 'fast' has no thin pool",
        "n2/fast: thin pool is 100% full",
        "n3/fast: thin pool's metadata is 90% full",
        "n4/fast: 3.0 GiB free, 4.0 GiB needed",
    )


def test_a_shortage_too_small_for_words_is_told_in_bytes() -> None:
    choice = place(request(4 * GIB + 1), [node("n1", 4 * GIB)])
    assert choice.refused == (f"n1/fast: {4 * GIB} B free, {4 * GIB + 1} B needed",)


def test_most_free_room_wins() -> None:
    assert place(
        request(), [node("n1", 5 * GIB), node("n2", 9 * GIB), node("n3", 7 * GIB)]
    ).nodes == (
        "n2",
        "n3",
        "n1",
    )


def test_a_tie_is_decided_by_the_volume_and_not_always_for_the_same_node() -> None:
    nodes = [node("n1"), node("n2"), node("n3")]
    first = {
        place(PlacementRequest(f"v{number}", GIB, THICK), nodes).nodes[0] for number in range(40)
    }
    assert first == {"n1", "n2", "n3"}
    assert place(request(), nodes) == place(request(), nodes)
    assert place(request(), nodes).nodes == place(request(), nodes[::-1]).nodes


def test_preferred_topologies_are_tried_in_their_order_before_room_counts() -> None:
    nodes = [node("n1", 9 * GIB), node("n2", 5 * GIB), node("n3", 7 * GIB)]
    everywhere = on("n1", "n2", "n3")
    wanted = request(requisite=everywhere, preferred=on("n2", "n3"))
    assert place(wanted, nodes).nodes == ("n2", "n3", "n1")
    full = [nodes[0], node("n2", GIB), nodes[2]]
    assert place(wanted, full).nodes == ("n3", "n1")


def test_preference_alone_does_not_exclude_other_nodes() -> None:
    nodes = [node("n1"), node("n2", GIB)]
    assert place(request(preferred=on("n2")), nodes).nodes == ("n1",)


def test_requisite_topologies_exclude_and_need_all_segments() -> None:
    nodes = [node("n1", zone="z1"), node("n2", zone="z1"), node("n3", zone="z2")]
    both = {ZONE: "z1", TOPOLOGY_NODE_KEY: "n2"}
    assert place(request(requisite=(both,)), nodes).nodes == ("n2",)
    assert set(place(request(requisite=({ZONE: "z1"},)), nodes).nodes) == {"n1", "n2"}
    assert place(request(requisite=({"rack": "r1"},)), nodes).nodes == ()


def test_the_examples_of_the_csi_specification() -> None:
    zones = [node(f"n{number}", zone=f"Z{number}") for number in (2, 3, 4, 5)]
    terms = tuple({ZONE: f"Z{number}"} for number in (2, 3, 4, 5))
    one = request(requisite=terms[:2], preferred=(terms[1],))
    assert place(one, zones).nodes == ("n3", "n2")
    two = request(requisite=terms, preferred=(terms[2], terms[0]))
    assert place(two, zones).nodes[:2] == ("n4", "n2")
    assert set(place(two, zones).nodes[2:]) == {"n3", "n5"}
    three = request(
        spec=replace(THICK, replicas=2), requisite=terms, preferred=(terms[3], terms[1])
    )
    assert place(three, zones, ZONE).nodes[:2] == ("n5", "n3")


def test_replicas_go_to_different_failure_domains() -> None:
    nodes = [
        node("n1", 9 * GIB, zone="z1"),
        node("n2", 8 * GIB, zone="z1"),
        node("n3", 5 * GIB, zone="z2"),
    ]
    twice = request(spec=replace(THICK, replicas=2))
    assert place(twice, nodes, ZONE).nodes == ("n1", "n3", "n2")
    alone = place(twice, nodes[:2], ZONE)
    assert alone.nodes == ()
    assert "2 replicas need as many failure domains: 1 left" in alone.refused
    assert place(twice, nodes[:2]).nodes == ("n1", "n2")


def test_a_pair_of_which_one_node_is_named_has_the_other_where_there_is_room() -> None:
    nodes = [node("n1", 5 * GIB), node("n2", 8 * GIB), node("n3", 9 * GIB)]
    twice = request(spec=replace(THICK, replicas=2), requisite=({TOPOLOGY_NODE_KEY: "n1"},))
    assert place(twice, nodes).nodes == ("n1", "n3", "n2")
    full = place(twice, [node("n1", GIB), *nodes[1:]])
    assert full.nodes == () and "no node of the requested topology can take it" in full.refused
    named = replace(twice, requisite=({TOPOLOGY_NODE_KEY: "n1"}, {TOPOLOGY_NODE_KEY: "n2"}))
    assert place(named, nodes).nodes == ("n2", "n1")
    zones = [node("n1", zone="z1"), node("n2", zone="z1"), node("n3", zone="z2")]
    assert set(place(replace(twice, requisite=({ZONE: "z1"},)), zones).nodes) == {"n1", "n2"}


def test_replicas_lie_on_disks_with_logical_blocks_of_one_size() -> None:
    large, *small = (
        with_pool(node("n1", 9 * GIB), block_bytes=4096),
        with_pool(node("n2", 8 * GIB), block_bytes=512),
        with_pool(node("n3", 7 * GIB), block_bytes=512),
    )
    twice = request(spec=replace(THICK, replicas=2))
    assert place(twice, [large, *small]).nodes == ("n2", "n3", "n1")
    assert place(request(), [large, *small]).nodes[0] == "n1"
    (reason,) = place(twice, [large, small[0]]).refused
    assert "1 left, as their disks have logical blocks of different sizes" in reason


@pytest.mark.parametrize(
    ("layout", "disks", "largest"),
    [
        (Layout(LayoutKind.LINEAR), (4 * GIB, 2 * GIB, GIB), 7 * GIB),
        (Layout(LayoutKind.STRIPED, 2), (4 * GIB, 2 * GIB, GIB), 4 * GIB),
        (Layout(LayoutKind.STRIPED, 3), (4 * GIB, 2 * GIB, GIB), 3 * GIB),
        (Layout(LayoutKind.STRIPED, 4), (4 * GIB, 2 * GIB, GIB), 0),
        (Layout(LayoutKind.RAID1, 2), (4 * GIB, 2 * GIB, GIB), 2 * GIB - EXTENT),
        (Layout(LayoutKind.RAID1, 3), (4 * GIB, 2 * GIB, GIB), GIB - EXTENT),
        (Layout(LayoutKind.RAID1, 2), (4 * GIB, 0), 0),
        (Layout(LayoutKind.LINEAR), (4 * GIB, EXTENT - 1), 4 * GIB),
    ],
)
def test_room_depends_on_how_a_layout_lies_on_the_disks(
    layout: Layout, disks: tuple[int, ...], largest: int
) -> None:
    pool = PoolReport("fast", "vg", EXTENT, sum(disks), sum(disks), disks)
    assert room(pool, replace(THICK, layout=layout))[0] == largest


def test_encryption_takes_its_header() -> None:
    pool = node("n1", GIB).pools[0]
    for spec in (THICK, THIN):
        assert room(pool, replace(spec, encrypted=True))[0] == GIB - ENCRYPTION_BYTES


def test_sizes_in_words() -> None:
    assert [in_words(size) for size in (512, MIB, 4 * GIB - 1, 3 << 40)] == [
        "512 B",
        "1.0 MiB",
        "3.9 GiB",
        "3.0 TiB",
    ]


sizes = st.integers(1, 64).map(lambda extents: extents * EXTENT)
layouts = st.one_of(
    st.just(Layout()),
    st.builds(Layout, st.just(LayoutKind.STRIPED), st.integers(2, 4)),
    st.builds(Layout, st.just(LayoutKind.RAID1), st.integers(2, 4)),
)
specs = st.builds(
    VolumeSpec,
    st.just("fast"),
    st.sampled_from([Provision.THIN, Provision.THICK]),
    layouts,
    replicas=st.integers(1, 3),
    encrypted=st.booleans(),
)
terms = st.fixed_dictionaries({ZONE: st.sampled_from(["z1", "z2", "z3"])})


@st.composite
def pools(draw: st.DrawFn) -> PoolReport:
    disks = tuple(draw(st.lists(sizes, min_size=1, max_size=4)))
    limit, promised = draw(sizes), draw(sizes)
    used = draw(st.integers(0, 100))
    thin = ThinPoolReport("t", 100, used, draw(st.floats(0, 1)), promised, limit, 65536)
    name = draw(st.sampled_from(["fast", "slow"]))
    trouble = draw(st.sampled_from(["", "", "", "broken"]))
    free = sum(disks)
    return PoolReport(
        name, "vg", EXTENT, free, free, disks, draw(st.sampled_from([thin, None])), trouble
    )


@st.composite
def clusters(draw: st.DrawFn) -> list[NodeView]:
    return [
        NodeView(
            f"n{number}",
            draw(st.one_of(terms, st.just({}))),
            tuple(draw(st.lists(pools(), max_size=2, unique_by=lambda pool: pool.name))),
            draw(st.sampled_from(["", "", "", "agent unreachable"])),
        )
        for number in range(draw(st.integers(0, 5)))
    ]


requests = st.builds(
    PlacementRequest,
    st.text("0123456789abcdef", min_size=4, max_size=4),
    sizes,
    specs,
    st.lists(terms, max_size=2).map(tuple),
    st.lists(terms, max_size=2).map(tuple),
    st.one_of(st.none(), st.just(("n0", "n1"))),
)


def test_a_trouble_of_the_pool_is_a_reason_only_where_it_leaves_no_room() -> None:
    thin = node("n1").pools[0].thin
    assert thin is not None
    full = replace(thin, virtual_limit_bytes=0)
    view = with_pool(node("n1"), thin=full, trouble="thin pool t is full")

    assert place(request(spec=THICK), [view]).nodes == ("n1",)
    assert place(request(spec=THIN), [view]).refused == ("n1/fast: thin pool t is full",)


@given(requests, clusters())
def test_every_node_is_either_chosen_with_room_or_refused_with_a_reason(
    wanted: PlacementRequest, nodes: list[NodeView]
) -> None:
    choice = place(wanted, nodes, ZONE)
    by_name = {view.name: view for view in nodes}
    assert len(set(choice.nodes)) == len(choice.nodes)
    for name in choice.nodes:
        view = by_name[name]
        (pool,) = (pool for pool in view.pools if pool.name == wanted.spec.pool)
        assert not view.trouble
        assert wanted.source_nodes is None or name in wanted.source_nodes
        assert not wanted.requisite or any(
            matches(view.topology, term) for term in wanted.requisite
        )
        taken = footprint(pool, wanted.spec, wanted.size_bytes)
        if wanted.spec.provision is Provision.THIN:
            assert pool.thin is not None
            assert pool.thin.virtual_bytes + taken.virtual_bytes <= pool.thin.virtual_limit_bytes
        else:
            assert taken.thick_bytes <= pool.thick_free_bytes
            if wanted.spec.layout.kind is not LayoutKind.LINEAR:
                fitting = [free for free in pool.disk_free_bytes if free >= taken.disk_bytes]
                assert len(fitting) >= wanted.spec.layout.copies
    if choice.nodes:
        first = [by_name[name].topology.get(ZONE, "") for name in choice.nodes]
        assert len(set(first[: wanted.spec.replicas])) == wanted.spec.replicas
    if choice.nodes or wanted.spec.replicas == 1:
        refused = [reason.split(":")[0].split("/")[0] for reason in choice.refused]
        assert sorted([*refused, *choice.nodes]) == sorted(by_name)


@given(requests, clusters())
def test_a_better_preference_is_never_passed_over(
    wanted: PlacementRequest, nodes: list[NodeView]
) -> None:
    single = replace(wanted, spec=replace(wanted.spec, replicas=1))
    topology = {view.name: {**view.topology, TOPOLOGY_NODE_KEY: view.name} for view in nodes}
    ranks = [
        next(
            (rank for rank, term in enumerate(single.preferred) if matches(topology[name], term)),
            len(single.preferred),
        )
        for name in place(single, nodes).nodes
    ]
    assert ranks == sorted(ranks)


@given(requests, clusters())
def test_what_fits_exactly_fits_once(wanted: PlacementRequest, nodes: list[NodeView]) -> None:
    """The room of a pool less the footprint of a volume of that room is none."""
    for view in nodes:
        for pool in view.pools:
            largest, reason = room(pool, wanted.spec)
            if reason or not largest:
                continue
            left = less(pool, footprint(pool, wanted.spec, largest))
            assert room(left, wanted.spec)[0] == 0
