"""The arbiter cannot be reached, and meanwhile something else fails: nobody goes on without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.replicated import ONE, TWO

if TYPE_CHECKING:
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

# The primary is ONE.
UNREACHABLE = {"primary": (ONE,), "secondary": (TWO,), "both": (ONE, TWO)}
unreachable_from = pytest.mark.parametrize("cut_off", list(UNREACHABLE.values()), ids=UNREACHABLE)


def cut(service: Service, names: tuple[str, ...]) -> None:
    for name in names:
        service.node(name).cut_from("host")


def join(service: Service, names: tuple[str, ...]) -> None:
    for name in names:
        service.node(name).join_with("host")


@unreachable_from
def test_alone_it_stops_nothing(service: Service, cut_off: tuple[str, ...]) -> None:
    writer = service.start(ONE)
    cut(service, cut_off)
    service.holds_on(writer)
    join(service, cut_off)
    writer.wait_for(20)
    assert service.record.members == (ONE, TWO)
    service.check()


@unreachable_from
def test_the_primary_loses_power(service: Service, cut_off: tuple[str, ...]) -> None:
    service.start(ONE).wait_for(20)
    cut(service, cut_off)
    service.power_off(ONE)
    if TWO in cut_off:
        service.refused(TWO, "no arbiter")
    join(service, cut_off)
    service.fail_over(TWO).wait_for(20)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()


@unreachable_from
def test_the_secondary_loses_power(service: Service, cut_off: tuple[str, ...]) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    cut(service, cut_off)
    service.power_off(TWO)
    if ONE in cut_off:
        service.until_frozen(ONE)
        service.holds_still(writer)
    join(service, cut_off)
    service.until_alone(ONE)
    writer.wait_for(20)
    service.power_on(TWO)
    service.until_in_sync()
    service.check()


def test_the_link_is_cut_and_the_primary_has_no_arbiter(service: Service) -> None:
    isolated = service.start(ONE)
    isolated.wait_for(20)
    cut(service, (ONE,))
    service.cut_link()
    service.until_frozen(ONE)
    service.fail_over(TWO).wait_for(20)
    service.holds_still(isolated)
    join(service, (ONE,))
    assert not isolated.wait_ended().stopped
    service.join_link()
    service.until_in_sync()
    service.check()


def test_the_link_is_cut_and_the_secondary_has_no_arbiter(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    cut(service, (TWO,))
    service.cut_link()
    service.until_alone(ONE)
    writer.wait_for(20)
    service.join_link()
    join(service, (TWO,))
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("first", ["link", "arbiter"])
def test_the_link_is_cut_and_nobody_has_an_arbiter(service: Service, first: str) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    cut(service, (ONE, TWO))
    service.cut_link()
    service.until_frozen(ONE)
    service.holds_still(writer)
    if first == "link":
        service.join_link()
        writer.wait_for(20)
        assert service.record.members == (ONE, TWO), "it needed nobody's permission"
    join(service, (ONE, TWO))
    writer.wait_for(20)
    service.join_link()
    service.until_in_sync()
    service.check()


def test_the_link_is_bad_and_the_arbiter_comes_and_goes(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.node(ONE).disturb("delay 20ms loss 10%", "both")
    for cut_off in UNREACHABLE.values():
        cut(service, cut_off)
        service.holds_on(writer)
        join(service, cut_off)
        writer.wait_for(20)
    service.node(ONE).disturb("")
    service.until_in_sync()
    service.check()
