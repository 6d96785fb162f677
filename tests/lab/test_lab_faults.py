"""The lab's faults do what they say, to nobody else, and are undone by one call."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from lab.errors import CommandFailed, CommandTimeout, NodeDown
from lab.paths import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.lab import Lab
    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20
LISTEN = """
import socket, time
listener = socket.create_server(("", 7777))
kept = []
while True:
    kept.append(listener.accept())
"""
CONNECT_AND_WATCH = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 7777), 5)
connection.settimeout(3)
print("connected", flush=True)
try:
    print("closed" if not connection.recv(1) else "data")
except TimeoutError:
    print("silence")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def nodes(make_module_nodes: Callable[..., list[Node]]) -> list[Node]:
    return make_module_nodes(3, disks=(64 * MIB,), memory=256 * MIB)


@pytest.fixture
def healed(lab: Lab, nodes: list[Node]) -> list[Node]:
    """Three nodes with every fault undone, by the call that is tested here."""
    lab.heal()
    return nodes


def reaches(one: Node, address: str, seconds: float = 0.7) -> bool:
    """Whether a refusal comes back in time from a port where nobody listens."""
    argv = ["timeout", str(seconds), "bash", "-c", f"</dev/tcp/{address}/9"]
    return b"refused" in one.run(argv, check=False).stderr


def comes_to_reach(one: Node, address: str) -> bool:
    """`reaches`, for as long as a neighbour that was given up may take to be found again."""
    return any(reaches(one, address, 5) for _ in range(5))


def check_reach(lab: Lab, nodes: list[Node], *, without: set[tuple[str, str]]) -> None:
    """Packets go there and back between all nodes, and to the host, but for these pairs."""
    targets = [(node.name, node.address) for node in nodes] + [("host", lab.host_address)]
    for node in nodes:
        for name, address in targets:
            if (node.name, name) in without:
                assert not reaches(node, address), f"{node.name} > {name}"
            elif node.name != name:
                assert comes_to_reach(node, address), f"{node.name} > {name}"


def test_two_nodes_cut_off_each_other_reach_everybody_else(lab: Lab, healed: list[Node]) -> None:
    a, b, _ = healed
    pair = {(a.name, b.name), (b.name, a.name)}
    for direction in ("both", "in", "out"):
        a.cut_from(b, direction)
        check_reach(lab, healed, without=pair)
    b.join_with(a)
    check_reach(lab, healed, without=set())


def test_a_cut_in_one_direction_lets_the_other_through(healed: list[Node]) -> None:
    a, b, _ = healed
    a.cut_from(b, "in")
    packet = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{}', 9999))"
    receive = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 9999));"
        "print('bound', flush=True); s.settimeout(4); print(s.recv(10))"
    )
    neighbours = "ip neigh replace {} dev eth0 lladdr {} nud permanent"
    for one, two in ((a, b), (b, a)):
        mac = two.run(["cat", "/sys/class/net/eth0/address"]).text
        one.sh(neighbours.format(two.address, mac))
    for sender, receiver, arrives in ((a, b, True), (b, a, False)):
        listener = receiver.spawn(["python3", "-c", receive], log="/run/receive.log")
        while "bound" not in listener.log():
            time.sleep(0.05)
        sender.run(["python3", "-c", packet.format(receiver.address)])
        assert (listener.wait() == 0) is arrives
    for one, two in ((a, b), (b, a)):
        one.sh(f"ip neigh del {two.address} dev eth0")


def test_a_node_without_the_arbiter_reaches_the_others(lab: Lab, healed: list[Node]) -> None:
    a, b, _ = healed
    a.cut_from("host")
    a.cut_from(b)
    host, pair = {(a.name, "host")}, {(a.name, b.name), (b.name, a.name)}
    check_reach(lab, healed, without=host | pair)
    a.join_with(b)
    check_reach(lab, healed, without=host)
    a.join()
    check_reach(lab, healed, without=set())


def test_a_cut_from_one_outlasts_a_cut_from_all_and_a_reboot(lab: Lab, healed: list[Node]) -> None:
    a, b, c = healed
    a.cut_from(b)
    a.cut("in")
    assert not reaches(a, c.address)
    a.cut()
    assert not reaches(a, c.address)
    a.restart()
    assert not reaches(a, c.address)
    lab.heal()
    check_reach(lab, healed, without=set())


@pytest.mark.parametrize("direction", ["both", "in", "out"])
def test_what_a_node_sends_or_gets_is_delayed(healed: list[Node], direction: str) -> None:
    a, b, _ = healed
    assert comes_to_reach(a, b.address)  # the neighbours are known: what follows is one exchange
    a.disturb("delay 1500ms", direction)
    assert not reaches(b, a.address, 1.0)
    assert comes_to_reach(b, a.address)
    a.cut_from(b)
    assert not reaches(b, a.address, 5)
    a.join()
    a.disturb("loss 100%", direction)
    assert not reaches(b, a.address, 2.0)
    a.disturb("")
    assert comes_to_reach(b, a.address)


def test_a_clock_is_wrong_until_it_is_healed(lab: Lab, healed: list[Node]) -> None:
    a, b, _ = healed

    def ahead(node: Node) -> float:
        return float(node.run(["date", "+%s.%N"]).text) - time.time()

    monotonic = ["python3", "-c", "import time; print(time.monotonic())"]
    before = float(a.run(monotonic).text)
    a.shift_clock(-86400)
    assert -86500 < ahead(a) < -86300
    a.shift_clock(7200)
    assert 7100 < ahead(a) < 7300
    assert abs(ahead(b)) < 100
    assert before < float(a.run(monotonic).text) < before + 600
    lab.heal()
    assert abs(ahead(a)) < 100


def test_a_process_is_paused_by_name_and_by_id(lab: Lab, healed: list[Node]) -> None:
    node = healed[0]
    script = "while :; do echo >>/run/beat; sleep 0.05; done"
    process = node.spawn(["bash", "-c", script], log="/run/beat.log")

    def beats() -> bool:
        def look() -> str:
            return node.run(["stat", "-c", "%s", "/run/beat"], check=False).text

        before = look()
        time.sleep(1)
        return look() != before

    assert beats()
    node.pause_process("[/]run/beat")
    assert not beats()
    node.resume_process("[/]run/beat")
    assert beats()
    node.pause_process(process.pid)
    assert not beats()
    lab.heal()
    assert beats()
    process.kill()
    with pytest.raises(CommandFailed):
        node.pause_process("no such process")


def test_a_paused_machine_says_nothing_and_goes_on(lab: Lab, healed: list[Node]) -> None:
    a, b, _ = healed
    process = a.spawn(["sleep", "1000"], log="/run/sleep.log")
    a.pause()
    assert not reaches(b, a.address)
    assert a.running
    with pytest.raises(NodeDown):
        a.run(["true"])
    lab.heal()
    assert comes_to_reach(b, a.address)
    assert process.alive
    process.kill()
    a.pause()
    a.kill()
    a.start()


def test_the_peers_of_a_dead_machine_hear_nothing(healed: list[Node]) -> None:
    a, b, _ = healed
    b.spawn(["python3", "-c", LISTEN], log="/run/listen.log")
    while ":7777" not in b.run(["ss", "-ltn"]).text:
        time.sleep(0.05)
    watcher = a.spawn(["python3", "-c", CONNECT_AND_WATCH, b.address], log="/run/watch.log")
    while "connected" not in watcher.log():
        time.sleep(0.05)
    b.kill()
    watcher.wait()
    assert watcher.log().split() == ["connected", "silence"]
    b.start()


@pytest.mark.parametrize(("silently", "heard"), [(True, "silence"), (False, "Connection")])
def test_the_host_hears_of_a_power_cut_unless_it_is_silent(
    lab: Lab, healed: list[Node], silently: bool, heard: str
) -> None:
    node = healed[2]
    node.spawn(["python3", "-c", LISTEN], log="/run/listen.log")
    while ":7777" not in node.run(["ss", "-ltn"]).text:
        time.sleep(0.05)
    argv = ["python3", "-c", CONNECT_AND_WATCH, node.address]
    watcher = lab.spawn(argv, log=f"watch-{silently}.log")
    while "connected" not in watcher.log():
        time.sleep(0.05)
    node.kill(silently=silently)
    watcher.wait()
    assert heard in watcher.log()
    node.start()


def test_a_disk_errs_hangs_and_recovers(lab: Lab, healed: list[Node]) -> None:
    node = healed[0]
    disk = node.faulty_disk("/dev/ubdb")
    assert node.faulty_disk("/dev/ubdb") is disk

    def write(letter: str) -> bool:
        script = f"printf %512s | tr ' ' {letter} | dd of={disk.path} oflag=direct,dsync"
        return node.sh(script, check=False).returncode == 0

    def read() -> str | None:
        script = f"dd if={disk.path} bs=512 count=1 iflag=direct status=none"
        result = node.sh(script, check=False)
        return result.text[:1] if result.returncode == 0 else None

    assert write("a")
    disk.fail()
    assert (write("b"), read()) == (False, None)
    disk.fail_writes()
    assert (write("b"), read()) == (False, "a")
    disk.lose_writes()
    assert (write("b"), read()) == (True, "a")
    disk.recover()
    assert (write("c"), read()) == (True, "c")
    for then, passes in ((disk.recover, True), (disk.fail, False)):
        disk.hang()
        script = f"dd if=/dev/zero of={disk.path} bs=512 count=1 oflag=direct,dsync"
        hanging = node.spawn(["bash", "-c", script], log="/run/hanging.log")
        with pytest.raises(CommandTimeout):
            hanging.wait(1)
        then()
        assert (hanging.wait() == 0) is passes
    lab.heal()
    assert write("d")
    disk.fail()
    node.restart()
    assert read() == "d", "it is there after a reboot, and healthy"


def test_a_new_node_does_not_inherit_the_cuts_of_its_number(lab: Lab, healed: list[Node]) -> None:
    a, b, _ = healed
    gone = lab.add_node(memory=256 * MIB)
    gone.cut_from(a)
    gone.cut("out")
    lab.remove_node(gone)
    successor = lab.add_node(memory=256 * MIB)
    try:
        assert successor.index == gone.index
        assert comes_to_reach(successor, a.address)
        assert comes_to_reach(successor, b.address)
    finally:
        lab.remove_node(successor)


def test_the_command_line_makes_and_undoes_them_too() -> None:
    def lab(*arguments: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "lab", *arguments]
        result = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=PROJECT, check=False
        )
        return result.returncode, result.stdout + result.stderr

    def reaches(address: str, seconds: str = "0.7") -> bool:
        probe = f"</dev/tcp/{address}/9"
        return "refused" in lab("exec", "alpha", "timeout", seconds, "bash", "-c", probe)[1]

    def comes_to_reach(address: str) -> bool:
        return any(reaches(address, "5") for _ in range(5))

    other, host = "10.77.0.2", "10.77.0.254"
    try:
        assert lab("up", "alpha", "beta", "--disk", "64M", "--memory", "256M")[0] == 0
        assert lab("cut", "alpha", "--from", "beta") == (0, "")
        assert (reaches(other), comes_to_reach(host)) == (False, True)
        assert lab("cut", "alpha", "--from", "host") == (0, "")
        assert lab("join", "beta", "--with", "alpha") == (0, "")
        assert (comes_to_reach(other), reaches(host)) == (True, False)
        assert lab("disturb", "alpha", "delay 1500ms") == (0, "")
        assert not reaches(other, "2.5")
        assert comes_to_reach(other)
        assert lab("clock", "alpha", "86400") == (0, "")
        assert lab("pause", "beta") == (0, "")
        assert not reaches(other, "5")
        assert lab("disk", "alpha", "/dev/ubdb", "fail") == (0, "/dev/mapper/faulty-ubdb\n")
        wipe = ("exec", "alpha", "dd", "if=/dev/zero", "of=/dev/mapper/faulty-ubdb", "count=1")
        assert lab(*wipe, "oflag=direct")[0] == 1
        assert lab("heal") == (0, "")
        assert lab(*wipe, "oflag=direct")[0] == 0
        assert comes_to_reach(other)
        assert comes_to_reach(host)
        year = time.strftime("%F")
        assert lab("exec", "alpha", "date", "+%F") == (0, f"{year}\n")
        assert lab("pause", "alpha", "no such process")[0] == 1
        assert lab("kill", "beta", "--silently") == (0, "")
    finally:
        assert lab("down")[0] == 0
