"""Replicated volumes whose nodes lose power: the primary, the secondary, both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.replicated import ONE, TWO

if TYPE_CHECKING:
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

FSYNC: dict[str, object] = {}
DSYNC, EXT4 = {"dsync": True}, {"filesystem": "ext4"}


@pytest.mark.parametrize(
    "service", [FSYNC, DSYNC, EXT4], ids=["fsync", "dsync", "ext4"], indirect=True
)
def test_the_primary_loses_power(service: Service) -> None:
    service.start(ONE).wait_for(50)
    service.power_off(ONE)
    service.fail_over(TWO).wait_for(50)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("service", [FSYNC, EXT4], ids=["fsync", "ext4"], indirect=True)
def test_the_secondary_loses_power(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    service.power_off(TWO)
    service.until_alone(ONE)
    writer.wait_for(50)
    service.power_on(TWO)
    service.until_in_sync()
    writer.wait_for(50)
    service.check()


def test_both_lose_power_and_the_primary_is_back_first(service: Service) -> None:
    service.start(ONE).wait_for(50)
    service.power_off(ONE)
    service.power_off(TWO)
    service.power_on(ONE)
    service.start(ONE).wait_for(50)
    service.power_on(TWO)
    service.until_in_sync()
    service.check()


def test_both_lose_power_and_the_secondary_is_back_first(service: Service) -> None:
    service.start(ONE).wait_for(50)
    service.power_off(TWO)
    service.power_off(ONE)
    service.power_on(TWO)
    # What its disk's cache held may be gone: only the last primary surely has everything.
    service.refused(TWO, rf"(wait|waiting) for {ONE}|not in the set|out of the set")
    service.power_on(ONE)
    service.fail_over(TWO).wait_for(50)
    service.until_in_sync()
    service.check()


def test_the_primary_loses_power_again_and_again(service: Service) -> None:
    service.start(ONE)
    for old, new in ((ONE, TWO), (TWO, ONE), (ONE, TWO)):
        assert service.writer is not None
        service.writer.wait_for(20)
        service.power_off(old)
        service.fail_over(new)
        service.power_on(old)
        service.until_in_sync()
    service.check()


def test_the_survivor_loses_power_before_the_other_is_back(service: Service) -> None:
    service.start(ONE).wait_for(50)
    service.power_off(ONE)
    service.fail_over(TWO).wait_for(50)
    service.power_off(TWO)
    service.power_on(ONE)
    # It lacks what the survivor acknowledged alone.
    service.refused(ONE, rf"(wait|waiting) for {TWO}|not in the set|out of the set")
    service.power_on(TWO)
    service.fail_over(TWO).wait_for(50)
    service.until_in_sync()
    service.check()


def test_an_orderly_move_loses_nothing_and_costs_no_resync(service: Service) -> None:
    service.start(ONE).wait_for(50)
    for name in (TWO, ONE):
        service.move(name)
        service.start(name).wait_for(50)
    service.check()
