"""Replicated volumes whose nodes lose each other: cuts, loss, delay, and links that come back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from lab.network import DIRECTIONS, Direction
from tests.lab.replicated import KUBELET, ONE, TWO

if TYPE_CHECKING:
    from tests.lab.replicated import Service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BOOT = "/proc/sys/kernel/random/boot_id"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_link_between_the_replicas_is_cut(service: Service, direction: Direction) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    service.node(ONE).cut_from(service.node(TWO), direction)
    service.until_alone(ONE)
    writer.wait_for(50)
    service.join_link()
    service.until_in_sync()
    writer.wait_for(50)
    service.check()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_primary_is_cut_off_from_everybody(service: Service, direction: Direction) -> None:
    cut_off = service.start(ONE)
    cut_off.wait_for(50)
    service.node(ONE).cut(direction)
    service.until_frozen(ONE)
    service.fail_over(TWO).wait_for(50)
    service.holds_still(cut_off)
    service.node(ONE).join()
    # Its agent ends what still runs there; nobody is told that a pending write was made.
    assert not cut_off.wait_ended().stopped
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("service", [{"filesystem": "ext4"}], ids=["ext4"], indirect=True)
def test_a_fenced_primary_ends_its_pod_and_its_mounts_without_a_reboot(service: Service) -> None:
    one = service.node(ONE)
    cut_off = service.start(ONE)
    cut_off.wait_for(50)
    pod = f"{KUBELET}/pod-{service.id}"
    idle = one.spawn(["sleep", "infinity"], log="/run/idle.log", cwd=pod)
    one.cut()
    service.until_frozen(ONE)
    service.fail_over(TWO).wait_for(50)
    boot, mounted = one.get(BOOT), one.sh(f"grep -c {service.id} /proc/mounts").text
    assert mounted == "2", "staged and published"
    one.join()
    assert not cut_off.wait_ended().stopped
    idle.wait()
    service.until("unmounted", lambda: service.id not in one.get("/proc/mounts").decode())
    service.until("no primary any more", lambda: service.role(ONE) == "Secondary")
    assert one.get(BOOT) == boot
    service.until_in_sync()
    service.check()


def test_the_secondary_is_cut_off_from_everybody(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(50)
    service.node(TWO).cut()
    service.until_alone(ONE)
    writer.wait_for(50)
    service.node(TWO).join()
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("rule", ["loss 25%", "delay 50ms 20ms", "delay 20ms loss 5%"])
def test_a_link_with_loss_and_delay(service: Service, rule: str) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.node(ONE).disturb(rule, "both")
    writer.wait_for(50, timeout=120)
    service.node(ONE).disturb("")
    service.until_in_sync()
    writer.wait_for(20)
    service.check()


def test_the_primary_loses_power_while_the_link_is_bad(service: Service) -> None:
    service.node(TWO).disturb("delay 20ms loss 5%", "both")
    service.start(ONE).wait_for(50, timeout=120)
    service.power_off(ONE)
    service.fail_over(TWO).wait_for(50)
    service.power_on(ONE)
    service.node(TWO).disturb("")
    service.until_in_sync()
    service.check()


def test_the_link_comes_back_after_any_time(service: Service) -> None:
    writer = service.start(ONE)
    for seconds in (0.1, 0.4, 0.8, 1.2, 1.6, 2.5, 4.0):
        writer.wait_for(20)
        service.cut_link()
        time.sleep(seconds)
        service.join_link()
    writer.wait_for(20)
    service.until_in_sync()
    service.check()


def test_the_link_is_back_before_the_frozen_primary_asked(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.pause_agent(ONE)
    service.cut_link()
    service.until_frozen(ONE)
    service.holds_still(writer)
    service.join_link()
    service.resume_agent(ONE)
    writer.wait_for(20)
    service.until_in_sync()
    service.check()


def test_the_link_is_back_when_the_other_is_just_out(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.cut_link()
    service.until_alone(ONE)
    service.join_link()
    writer.wait_for(20)
    service.until_in_sync()
    service.check()


@pytest.mark.parametrize("moment", ["published", "permitted", "serving"])
def test_the_old_primary_is_back_during_a_failover(service: Service, moment: str) -> None:
    cut_off = service.start(ONE)
    cut_off.wait_for(50)
    service.node(ONE).cut()
    service.until_frozen(ONE)
    service.give_up(TWO)
    if moment == "permitted":
        service.until_alone(TWO)
    if moment == "serving":
        service.serve(TWO)
    service.node(ONE).join()
    service.start(TWO).wait_for(50)
    assert not cut_off.wait_ended().stopped
    service.until_in_sync()
    service.check()


def test_the_source_of_a_resync_dies(service: Service) -> None:
    writer = service.start(ONE)
    writer.wait_for(20)
    service.power_off(TWO)
    service.until_alone(ONE)
    writer.wait_for(20)
    behind = "dd if=/dev/urandom bs=1M seek=20 count=40 oflag=direct conv=notrunc status=none"
    service.node(ONE).sh(f"{behind} of={service.device}")
    service.node(ONE).disturb("rate 8mbit")
    service.power_on(TWO)
    service.until("resyncing", lambda: (s := service.drbd(TWO)) and s.connection == "SyncTarget")
    service.power_off(ONE)
    service.refused(TWO, rf"(wait|waiting) for {ONE}|not in the set|out of the set")
    service.power_on(ONE)
    service.start(ONE).wait_for(20)
    service.until_in_sync()
    service.check()


def test_the_target_of_a_resync_dies(service: Service) -> None:
    writer = service.start(ONE)
    service.power_off(TWO)
    service.until_alone(ONE)
    writer.wait_for(200)
    service.node(ONE).disturb("rate 2mbit")
    service.power_on(TWO)
    service.until("resyncing", lambda: (s := service.drbd(TWO)) and s.connection == "SyncTarget")
    service.power_off(TWO)
    writer.wait_for(20)
    service.node(ONE).disturb("")
    service.power_on(TWO)
    service.until_in_sync()
    service.check()
