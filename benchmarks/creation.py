"""CreateVolume and DeleteVolume through CSI against lvcreate and lvremove typed by hand."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.figures import (
    Figure,
    Target,
    at_most,
    interleave,
    milliseconds,
    ratio,
)
from benchmarks.site import GROUP, MIB, THIN_POOL, Site

SIZE = 64 * MIB
MANY = 300
CLIENTS = 16
_names = itertools.count()


@dataclass(frozen=True)
class Way:
    """A kind of volume, and how a person makes it."""

    name: str
    provision: str
    raw: bool
    by_hand: str
    target: Target | None


_REACH = at_most(0.8)
_THICK_BY_HAND = f"lvcreate -L {SIZE}b -n byhand {GROUP}"
WAYS = (
    Way("thick", "thick", False, _THICK_BY_HAND, _REACH),
    Way("thin", "thin", False, f"lvcreate -V {SIZE}b -T {GROUP}/{THIN_POOL} -n byhand", _REACH),
    # Ours does more: whoever is given the raw device must not read what was on the disk before.
    Way("thick, raw and so zeroed", "thick", True, _THICK_BY_HAND, None),
)


def through_csi(site: Site, way: Way) -> float:
    """Seconds to create and delete one volume."""
    name = f"bench-{next(_names)}"
    begin = time.perf_counter()
    volume_id = site.create(name, SIZE, way.provision, raw=way.raw)
    site.controller.delete(volume_id)
    return time.perf_counter() - begin


def by_hand(site: Site, way: Way) -> float:
    """Seconds for the two commands; the round trip to the node's shell is left out."""
    return site.timed(f"{way.by_hand} >/dev/null && lvremove -y {GROUP}/byhand")


def against_hand(site: Site, way: Way, rounds: int) -> tuple[list[float], list[float]]:
    """(ours, typed by hand), in turn."""

    def settled(run: Callable[[Site, Way], float]) -> float:
        # Neither pays for what udevd still has to do after the other.
        site.host.run(["udevadm", "settle"])
        return run(site, way)

    ours, theirs = interleave(rounds, lambda _: settled(through_csi), lambda _: settled(by_hand))
    return ours, theirs


def populate(site: Site, count: int, step: Callable[[int], None]) -> None:
    """Add volumes until there are `count`, thick and thin in turn."""
    there = len(site.controller.volumes())
    with ThreadPoolExecutor(4) as pool:
        kinds = ("thick", "thin")
        jobs = [
            pool.submit(site.create, f"there-{number}", 4 * MIB, kinds[number % 2])
            for number in range(there, count)
        ]
        for done, job in enumerate(jobs, 1):
            job.result()
            step(done)


def per_second(site: Site, clients: int, volumes: int) -> float:
    """Volumes created per second by so many clients at once; they are deleted afterwards."""
    names = [f"rate-{next(_names)}" for _ in range(volumes)]
    with ThreadPoolExecutor(clients) as pool:
        begin = time.perf_counter()
        created = list(pool.map(lambda name: site.create(name, 4 * MIB, "thin"), names))
        seconds = time.perf_counter() - begin
        list(pool.map(site.controller.delete, created))
    return volumes / seconds


def few_figures(way: Way, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    return Figure(
        f"create + delete, {way.name}",
        "CSI / by hand, 1 volume there",
        ratio(ours, theirs),
        "",
        way.target,
        f"{milliseconds(ours)} / {milliseconds(theirs)}",
    )


def many_figures(
    way: Way,
    there: int,
    few: Sequence[float],
    many: Sequence[float],
    by_hand: Sequence[float],
) -> list[Figure]:
    group = f"create + delete, {way.name}"
    return [
        Figure(
            group,
            f"CSI, {there} volumes there / 1 there",
            ratio(many, few),
            "",
            at_most(1.5),
            f"{milliseconds(many)} / {milliseconds(few)}",
        ),
        Figure(
            group,
            f"CSI / by hand, {there} volumes there",
            ratio(many, by_hand),
            "",
            way.target,
            f"{milliseconds(many)} / {milliseconds(by_hand)}",
        ),
    ]


def rate_figures(one: Sequence[float], many: Sequence[float]) -> Figure:
    return Figure(
        "volumes created per second",
        f"{CLIENTS} clients / 1 client",
        ratio(many, one),
        "",
        None,  # LVM takes one command a group at a time, and a lab node has one processor
        f"{statistics.median(many):.1f} / {statistics.median(one):.1f} per second",
    )
