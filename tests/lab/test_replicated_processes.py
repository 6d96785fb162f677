"""Agents and the controller die, pause or forget while a replicated volume is in trouble."""

from __future__ import annotations

import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.replicated import ONE, OTHER, TWO

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

PAUSE = 60.0


def test_the_agent_dies_while_its_volume_is_frozen(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.node(ONE).cut_from("host")
    service.cut_link()
    service.until_frozen(ONE)
    service.restart_agent(ONE)
    service.holds_still(writer)
    service.node(ONE).join_with("host")
    service.until_alone(ONE)
    writer.wait_for(20)
    service.join_link()
    service.until_in_sync()
    service.check()


def test_no_agent_runs_when_its_volume_freezes(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.cluster.stop_agent(ONE, signal.SIGKILL)
    service.cut_link()
    service.until_frozen(ONE)
    service.holds_still(writer)
    service.cluster.start_agent(ONE)
    service.until_alone(ONE)
    writer.wait_for(20)
    service.join_link()
    service.until_in_sync()
    service.check()


def test_agents_that_die_stop_no_writer(service: Service) -> None:
    writer = service.start(ONE)
    for name in (ONE, TWO):
        service.restart_agent(name)
        writer.wait_for(20)
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("moment", ["before", "published", "permitted", "serving"])
def test_the_controller_dies_during_a_failover(service: Service, moment: str) -> None:
    service.start(ONE).wait_for(20)
    service.power_off(ONE)
    if moment != "before":
        service.give_up(TWO)
    if moment == "permitted":
        service.until_alone(TWO)
    if moment == "serving":
        service.serve(TWO)
    service.cluster.stop_controller(signal.SIGKILL)
    service.cluster.start_controller()
    service.fail_over(TWO).wait_for(20)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()


def test_the_controller_dies_while_a_primary_is_frozen(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.cluster.stop_controller(signal.SIGKILL)
    service.power_off(TWO)
    service.until_frozen(ONE)
    service.holds_still(writer)
    service.cluster.start_controller()
    writer.wait_for(20)
    service.power_on(TWO)
    service.until_in_sync()
    service.check()


def test_the_agent_of_a_frozen_primary_pauses_after_the_yes(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    # The answer is that long on its way; so is whatever the other side says.
    service.node(ONE).disturb("delay 1s", "in")
    service.cut_link()
    service.until_alone(ONE)
    service.pause_agent(ONE)
    service.node(ONE).disturb("")
    service.join_link()
    service.holds_still(writer, PAUSE)
    service.refused(TWO, "not in the set|out of the set")
    service.resume_agent(ONE)
    # Unpublished by then, which it may hear of only after the peer: both have what it writes so.
    assert not writer.wait_ended().stopped
    service.until_in_sync()
    service.start(TWO).wait_for(20)
    service.check()


def test_the_agent_of_a_survivor_pauses_after_the_yes(service: Service) -> None:
    cut_off = service.start(ONE)
    cut_off.wait_for(20)
    service.node(ONE).cut()
    service.until_frozen(ONE)
    service.node(TWO).disturb("delay 1s", "in")
    service.give_up(TWO)
    service.until_alone(TWO)
    service.pause_agent(TWO)
    service.node(TWO).disturb("")
    service.node(ONE).join()
    assert not cut_off.wait_ended(PAUSE).stopped, "the old primary is out, whoever pauses"
    time.sleep(PAUSE)
    service.resume_agent(TWO)
    service.start(TWO).wait_for(20)
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("seconds", [86_400, -60], ids=["ahead", "behind"])
def test_clocks_jump_before_and_during_a_failover(service: Service, seconds: int) -> None:
    writer = service.start(ONE)
    service.node(ONE).shift_clock(seconds)
    service.node(TWO).shift_clock(-60)
    service.holds_on(writer)
    service.power_off(ONE)
    service.give_up(TWO)
    service.node(TWO).shift_clock(seconds)
    survivor = service.start(TWO)
    survivor.wait_for(20)
    service.power_on(ONE)
    service.node(ONE).shift_clock(-60)
    service.until_in_sync()
    service.check()


def test_a_clock_from_before_the_certificates_holds_the_service_and_loses_nothing(
    service: Service,
) -> None:
    service.start(ONE).wait_for(20)
    service.node(TWO).shift_clock(-86_400)
    service.cluster.stop_controller(signal.SIGKILL)  # connections that are there would go on
    service.cluster.start_controller()
    service.power_off(ONE)
    service.refused(TWO, "no arbiter|certificate")
    service.node(TWO).shift_clock(0)
    service.fail_over(TWO).wait_for(20)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()


def test_the_store_is_rolled_back_to_before_a_failover(service: Service, tmp_path: Path) -> None:
    cluster = service.cluster
    service.start(ONE).wait_for(20)
    cluster.stop_controller()
    shutil.copytree(cluster.store.parent, tmp_path / "store")
    cluster.start_controller()
    service.power_off(ONE)
    survivor = service.fail_over(TWO)
    survivor.wait_for(50)
    cluster.stop_controller()
    shutil.rmtree(cluster.store.parent)
    shutil.copytree(tmp_path / "store", cluster.store.parent)
    cluster.start_controller()
    # The store names the primary that is off; its node comes back and asks to be that.
    service.until("quarantined", lambda: service.record.quarantine)
    survivor.wait_for(20)
    service.power_on(ONE)
    service.until("decided", lambda: not service.record.quarantine)
    assert service.record.primary == TWO
    survivor.wait_for(20)
    service.until_in_sync()
    service.check()


def test_a_bystander_that_dies_is_nobodys_business(service: Service) -> None:
    writer = service.start(ONE)
    service.node(OTHER).kill()
    service.holds_on(writer)
    service.power_off(ONE)
    service.power_on(OTHER)
    service.fail_over(TWO).wait_for(20)
    service.power_on(ONE)
    service.until_in_sync()
    service.check()
