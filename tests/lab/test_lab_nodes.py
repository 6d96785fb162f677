"""The lab itself: nodes boot, obey, fail and vanish as the other tests need it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import faults, processors
from lab.errors import BootFailed, CommandFailed, CommandTimeout, LabError, NodeDown
from lab.node import BOOT_SECONDS
from lab.paths import PROJECT, RUN

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.lab import Lab
    from lab.node import Node

pytestmark = pytest.mark.lab

MIB = 1 << 20
ECHO_SERVER = """
import socket, sys
kind, where = sys.argv[1:]
family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
listener = socket.socket(family)
listener.bind(where if kind == "unix" else ("", int(where)))
listener.listen()
print("listening", flush=True)
while True:
    client, _ = listener.accept()
    while data := client.recv(1000):
        client.sendall(data)
    client.close()
"""
ECHO_CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as connection:
    connection.sendall(b"hello")
    print(connection.recv(1000).decode())
"""


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def start_echo_server(node: Node, kind: str, where: str) -> None:
    argv = ["python3", "-c", ECHO_SERVER, kind, where]
    server = node.spawn(argv, log="/var/log/echo.log")
    wait_until(lambda: "listening" in server.log())


def echo(target: str) -> bytes:
    host, port = target.split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(b"hello")
        try:
            return connection.recv(1000)
        except ConnectionResetError:
            return b""


@pytest.fixture(scope="module")
def node(make_module_node: Callable[..., Node]) -> Node:
    return make_module_node(disks=(2048 * MIB, 2048 * MIB))


class TestCommands:
    def test_get_their_input_and_give_their_output_and_exit_code(self, node: Node) -> None:
        script = ["sh", "-c", "cat; echo oops >&2; exit 3"]
        result = node.run(script, input=b"in\n", check=False)
        assert (result.returncode, result.stdout, result.stderr) == (3, b"in\n", b"oops\n")
        with pytest.raises(CommandFailed) as failed:
            node.run(script)
        assert failed.value.returncode == 3
        assert "oops" in str(failed.value)

    def test_carry_megabytes(self, node: Node) -> None:
        data = os.urandom(2 * MIB)
        assert node.run(["cat"], input=data).stdout == data

    def test_see_a_clean_environment(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAB_TEST_SECRET", "hidden")
        lines = node.run(["env"], env={"MINE": "1"}).text.splitlines()
        assert "MINE=1" in lines
        assert not [line for line in lines if "SECRET" in line]

    def test_are_killed_with_their_children_at_their_deadline(self, node: Node) -> None:
        with pytest.raises(CommandTimeout):
            node.run(["sh", "-c", "sleep 4321 & sleep 4321"], timeout=0.5)
        wait_until(lambda: node.run(["pgrep", "-f", "sleep 4321"], check=False).returncode == 1)

    def test_do_not_wait_for_a_daemon_that_they_left_behind(self, node: Node) -> None:
        result = node.run(["sh", "-c", "sleep 1234 & echo started"], timeout=30)
        assert result.text == "started"
        node.run(["pkill", "-f", "sleep 1234"])

    def test_that_do_not_exist_are_an_error(self, node: Node) -> None:
        with pytest.raises(LabError, match="FileNotFoundError"):
            node.run(["/no/such/program"])

    def test_run_the_projects_python(self, node: Node) -> None:
        python = str(PROJECT / ".venv" / "bin" / "python")
        assert node.run([python, "-c", "import grpc, lab; print(lab.__file__)"]).text == str(
            PROJECT / "lab" / "__init__.py"
        )


def test_a_long_running_process_is_watched_signalled_and_its_end_seen(node: Node) -> None:
    script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    process = node.spawn(["bash", "-c", script], log="/var/log/daemon.log")
    wait_until(lambda: "ready" in process.log())
    assert process.alive
    assert process.stop() == 7
    assert "bye" in process.log()
    assert not process.alive
    killed = node.spawn(["sleep", "100"], log="/var/log/sleep.log")
    killed.kill()
    assert killed.poll() == -signal.SIGKILL


def test_a_node_is_moved_to_a_processor_with_all_that_runs_in_it(node: Node) -> None:
    before = node.spawn(["sleep", "1000"], log="/run/sleep.log")
    assert node.pid is not None
    kernel = faults.kernel_pid(node.pid)

    def all_are_on(processor: int) -> bool:
        processors.move(kernel, processor)  # what balances all labs may move it as well
        after = node.spawn(["sleep", "1000"], log="/run/sleep.log")
        places: list[set[int]] = []
        for task in processors.tasks(kernel):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                places.append(os.sched_getaffinity(task))
        after.kill()
        return len(places) > 2 and all(place == {processor} for place in places)

    for processor in os.sched_getaffinity(0):
        wait_until(lambda processor=processor: all_are_on(processor))
    before.kill()


def test_a_preferred_node_is_so_with_all_that_runs_in_it(node: Node) -> None:
    assert node.pid is not None
    kernel = faults.kernel_pid(node.pid)
    if not Path(f"/proc/{kernel}/autogroup").exists():
        pytest.skip("this host does not group processes by session")
    node.prefer()
    sleeper = node.spawn(["sleep", "1000"], log="/run/sleep.log")
    groups: set[str] = set()
    for task in processors.tasks(kernel):
        with suppress(FileNotFoundError):  # it has ended meanwhile
            groups.add(Path(f"/proc/{task}/autogroup").read_text())
    sleeper.kill()
    (group,) = groups
    assert int(group.split()[-1]) < 0


def test_nodes_reach_a_process_on_the_host(lab: Lab, node: Node) -> None:
    argv = [sys.executable, "-c", ECHO_SERVER, "tcp", "7777"]
    server = lab.spawn(argv, log="host-echo.log")
    wait_until(lambda: "listening" in server.log())
    echoed = node.run(["python3", "-c", ECHO_CLIENT, lab.host_address, "7777"])
    assert echoed.text == "hello"
    assert server.stop() == -signal.SIGTERM


def test_files_go_in_and_out_and_a_folder_is_shared(lab: Lab, node: Node) -> None:
    node.put("/etc/made/by/test", b"\x00data", mode=0o600)
    assert node.get("/etc/made/by/test") == b"\x00data"
    assert node.run(["stat", "-c", "%a", "/etc/made/by/test"]).text == "600"
    assert not Path("/etc/made").exists()
    (lab.share / "from-host").write_text("one")
    assert node.get(str(lab.share / "from-host")) == b"one"
    (lab.share / "from-host").write_text("another")
    assert node.get(str(lab.share / "from-host")) == b"another"
    node.put(str(lab.share / "from-node"), b"two")
    assert (lab.share / "from-node").read_bytes() == b"two"


def test_a_unix_socket_of_the_node_is_reached_also_when_cut_off_and_after_a_reboot(
    make_node: Callable[..., Node],
) -> None:
    node = make_node()
    start_echo_server(node, "unix", "/run/echo.sock")
    target = node.grpc_target("/run/echo.sock")
    assert echo(target) == b"hello"
    node.cut()
    assert echo(target) == b"hello"
    node.restart()
    assert node.grpc_target("/run/echo.sock") == target
    assert echo(target) == b""
    start_echo_server(node, "unix", "/run/echo.sock")
    assert echo(target) == b"hello"


def test_cut_off_nodes_do_not_reach_each_other_but_obey(
    make_nodes: Callable[..., list[Node]],
) -> None:
    one, two = make_nodes(2)
    start_echo_server(two, "tcp", "7777")

    def reached() -> bool:
        argv = ["python3", "-c", ECHO_CLIENT, two.address, "7777"]
        return one.run(argv, check=False).returncode == 0

    assert reached()
    for direction in ("both", "in", "out"):
        two.cut(direction)
        assert not reached(), direction
        assert two.run(["hostname"]).text == two.name
        two.join()
        assert reached(), direction
    one.disturb("loss 100%")
    assert not reached()
    one.disturb("")
    assert reached()
    two.cut()
    two.restart()
    start_echo_server(two, "tcp", "7777")
    assert not reached(), "a reboot does not undo a cut"


class TestPower:
    def test_what_was_fsynced_survives_and_nothing_else(
        self, make_node: Callable[..., Node]
    ) -> None:
        node = make_node(disks=(64 * MIB,))
        node.sh(
            "mkfs.ext4 -q /dev/ubdb; mkdir /data; mount /dev/ubdb /data; touch /root/file;"
            "dd if=/dev/zero of=/data/file bs=1M count=5 conv=fsync status=none"
        )
        process = node.spawn(["sleep", "1000"], log="/var/log/sleep.log")
        node.kill()
        assert not node.running
        assert process.poll() == -signal.SIGKILL
        with pytest.raises(NodeDown):
            node.run(["true"])
        node.start()
        node.sh("mkdir /data; mount /dev/ubdb /data; test $(stat -c %s /data/file) = 5242880")
        node.sh("test ! -e /root/file")
        assert process.stop() == -signal.SIGKILL

    def test_a_command_under_way_ends_at_once(self, make_node: Callable[..., Node]) -> None:
        node = make_node()
        with ThreadPoolExecutor(1) as executor:
            command = executor.submit(node.run, ["sh", "-c", "touch /run/begun; sleep 1000"])
            wait_until(lambda: node.run(["ls", "/run/begun"], check=False).returncode == 0)
            node.kill()
            with pytest.raises(NodeDown):
                command.result()

    def test_a_panic_or_a_shutdown_powers_a_node_off(self, make_node: Callable[..., Node]) -> None:
        node = make_node()
        for command in ("echo c > /proc/sysrq-trigger", "echo o > /proc/sysrq-trigger"):
            with pytest.raises(NodeDown):
                node.sh(command + "; sleep 100")
            wait_until(lambda: not node.running)
            node.start()

    def test_a_disk_can_be_pulled(self, make_node: Callable[..., Node]) -> None:
        node = make_node(disks=(64 * MIB, 64 * MIB))
        node.kill()
        pulled, node.disks[0] = node.disks[0], None
        node.start()
        node.sh("test ! -e /dev/ubdb; test -b /dev/ubdc")
        node.kill()
        node.disks[0] = pulled
        node.start()
        node.sh("test -b /dev/ubdb; test -b /dev/ubdc")

    def test_a_node_that_does_not_boot_is_an_error_and_leaves_nothing(self, lab: Lab) -> None:
        before = dict(lab.nodes)
        with pytest.raises(BootFailed):
            lab.add_node(memory=1 * MIB)
        assert lab.nodes == before


class TestKernel:
    def test_lvm_and_the_file_systems_work_without_udev(self, node: Node) -> None:
        node.sh(
            "export DM_DISABLE_UDEV=1; vgcreate -q vg /dev/ubdb /dev/ubdc;"
            "lvcreate -qq -y -T -L 512M vg/pool 2>/dev/null;"
            "lvcreate -qq -y --type raid1 -m 1 -L 64M -n mirrored vg; mkdir -p /mnt/a",
            timeout=120,
        )
        for kind in ("ext4", "xfs", "btrfs"):
            node.sh(
                f"export DM_DISABLE_UDEV=1; lvcreate -qq -y -T -V 400M -n {kind} vg/pool 2>&1;"
                f"mkfs.{kind} -q /dev/vg/{kind}; mount /dev/vg/{kind} /mnt/a; touch /mnt/a/x;"
                "umount /mnt/a"
            )
        node.sh("DM_DISABLE_UDEV=1 vgremove -qq -f vg")

    def test_stock_lvm_works_with_udev(self, make_node: Callable[..., Node]) -> None:
        node = make_node(disks=(256 * MIB,), udev=True)
        node.sh("vgcreate -q vg /dev/ubdb; lvcreate -q -y -L 64M -n lv vg; test -b /dev/vg/lv")

    @pytest.mark.parametrize("module", ["drbd", "dm-clone", "dm-crypt", "dm-flakey", "nbd"])
    def test_modules_load(self, node: Node, module: str) -> None:
        node.run(["modprobe", module])

    def test_cgroups_limit_what_they_should(self, node: Node) -> None:
        assert set(node.get("/sys/fs/cgroup/cgroup.subtree_control").decode().split()) == {
            "cpu",
            "memory",
            "pids",
            "io",
        }


PARENT = """
import sys, time
from lab.lab import Lab
lab = Lab()
process = lab.spawn(["sleep", "1000"], log="sleep.log")
node = lab.add_node(disks=(1 << 20,))
print("up", flush=True)
time.sleep(1000)
"""


def processes_of_session(session: int) -> set[int]:
    """Process ids whose session is this one, or that hang below one of its processes."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
            if int(fields[3]) == session:
                found.add(int(folder.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_lab_whose_process_dies(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        # A shell starts what is in the background with SIGINT ignored, and Python keeps to that.
        ["env", "--default-signal=INT,TERM", sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT,
        start_new_session=True,
    )
    assert parent.stdout is not None
    try:
        with parent.stdout:
            assert parent.stdout.readline() == b"up\n"
            processes = processes_of_session(parent.pid)
            assert len(processes) > 4
            network = Path(f"/proc/{parent.pid}/ns/net").readlink()
            parent.send_signal(number)
            parent.wait(30)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
    assert network not in living_networks()


@pytest.mark.parametrize(
    "program",
    [("sanity", "--jobs", "1", "thin-block", "thick-block"), ("benchmarks", "--only", "rate")],
    ids=lambda program: program[0],
)
def test_ctrl_c_ends_a_program_whose_threads_work_in_a_lab(program: tuple[str, ...]) -> None:
    parent = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=PROJECT,
        # It ends before it would run the suite, which need not be there.
        env={**os.environ, "CSI_SANITY": "/bin/true"},
        start_new_session=True,
    )
    try:
        # Before it has entered its own, it is in this process's namespace, with the nodes of here.
        here, there = Path("/proc/self/ns/mnt").readlink(), Path(f"/proc/{parent.pid}/ns/mnt")
        wait_until(lambda: there.readlink() != here, BOOT_SECONDS)
        consoles = Path(f"/proc/{parent.pid}/root{RUN}/nodes")
        wait_until(
            lambda: any("lab: ready" in log.read_text() for log in consoles.glob("*/console.log")),
            BOOT_SECONDS,
        )
        processes = processes_of_session(parent.pid)
        network = Path(f"/proc/{parent.pid}/ns/net").readlink()
        os.killpg(parent.pid, signal.SIGINT)
        output, _ = parent.communicate(timeout=30)
    finally:
        parent.kill()
        parent.wait()
    assert parent.returncode == 130
    assert output.endswith(b"\ninterrupted\n")
    assert b"Traceback" not in output
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
    assert network not in living_networks()


def living_networks() -> set[Path]:
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):  # the process has ended meanwhile
            found.add(link.readlink())
    return found


def test_the_command_line_tells_the_same_story() -> None:
    def lab(*arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-m", "lab", *arguments]
        return subprocess.run(argv, input=input, capture_output=True, cwd=PROJECT, check=False)

    assert b"no lab is up" in lab("status").stderr
    try:
        assert lab("up", "alpha", "--disk", "64M").returncode == 0
        echoed = lab(
            "exec", "alpha", "sh", "-c", "sleep 1.5; cat; hostname >&2; exit 5", input=b"in"
        )
        assert (echoed.returncode, echoed.stdout, echoed.stderr) == (5, b"in", b"alpha\n")
        assert b"lab: ready" in lab("console", "alpha").stdout
        assert lab("cut", "alpha", "in").returncode == 0
        assert lab("join", "alpha").returncode == 0
        lab("kill", "alpha")
        assert b"down" in lab("status").stdout
        assert b"alpha is down" in lab("exec", "alpha", "true").stderr
        lab("start", "alpha")
        assert lab("exec", "alpha", "test", "-b", "/dev/ubdb").returncode == 0
        assert b"no node beta" in lab("kill", "beta").stderr
        assert lab("remove", "alpha").returncode == 0
        assert lab("status").stdout == b""
    finally:
        assert lab("down").returncode == 0
    assert b"no lab is up" in lab("status").stderr
