"""Commands: what comes back, what goes wrong, and what a command that hangs may not break."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from host.command import Runner, tool_name
from host.errors import CommandFailed, CommandStuck, Missing
from host.stuck import Breaker, StuckChildren


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def runner() -> Runner:
    return Runner()


def test_a_command_gives_its_output_and_exit_code(runner: Runner) -> None:
    result = runner.run(["sh", "-c", "echo out; echo err >&2; exit 3"], deadline=10, ok=(0, 3))
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)


def test_the_environment_is_small_and_speaks_c(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "x")
    output = runner.run(["env"], deadline=10, env={"LVM_SYSTEM_DIR": "/x"}).stdout.decode()
    assert {line.split("=")[0] for line in output.splitlines()} <= {
        "PATH",
        "LC_ALL",
        "LVM_SYSTEM_DIR",
        "PWD",
    }
    assert "LC_ALL=C\n" in output


def test_nobody_can_be_asked_a_question(runner: Runner) -> None:
    assert runner.run(["cat"], deadline=10).stdout == b""


def test_a_large_input_goes_in_while_the_output_comes_out(runner: Runner) -> None:
    data = os.urandom(3 << 20)
    assert runner.run(["cat"], deadline=30, input=data).stdout == data


def test_input_that_the_command_does_not_read_does_no_harm(runner: Runner) -> None:
    assert runner.run(["true"], deadline=10, input=b"x" * (1 << 20)).exit_code == 0


def test_a_failure_carries_argv_exit_code_and_the_end_of_stderr(runner: Runner) -> None:
    with pytest.raises(CommandFailed) as caught:
        runner.run(["sh", "-c", "echo it broke >&2; exit 5"], deadline=10)
    assert caught.value.exit_code == 5
    assert caught.value.argv[0] == "sh"
    assert "it broke" in str(caught.value)


def test_input_is_in_no_log_and_no_error(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(CommandFailed) as caught:
        runner.run(["sh", "-c", "read x; exit 1"], deadline=10, input=b"the-passphrase\n")
    assert caplog.records
    assert "the-passphrase" not in caplog.text + str(caught.value)


def test_a_program_that_is_not_there_is_missing(runner: Runner) -> None:
    with pytest.raises(Missing, match="no-such-program"):
        runner.run(["no-such-program"], deadline=10)


def test_too_much_output_ends_the_command() -> None:
    with pytest.raises(CommandFailed, match="more than 65536 bytes"):
        Runner(output_limit=1 << 16).run(["yes"], deadline=30)


def test_a_deadline_kills_the_command_and_its_children(runner: Runner, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $$ $! > {pids}; wait"
    with pytest.raises(CommandStuck, match="did not end within 1 s"):
        runner.run(["sh", "-c", script], deadline=1)
    # Nobody waits for what a child has started: it is gone when the kernel has come to it.
    left = [int(pid) for pid in pids.read_text().split()]
    give_up = time.monotonic() + 10
    while any(map(alive, left)) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not any(map(alive, left))
    assert runner.stuck == 0


def test_a_daemon_that_keeps_the_pipes_is_not_waited_for(runner: Runner, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    result = runner.run(["sh", "-c", f"sleep 1000 & echo $! > {pid}; echo done"], deadline=20)
    os.kill(int(pid.read_text()), 9)
    assert result.stdout == b"done\n"


def test_observers_hear_of_every_outcome() -> None:
    heard: list[tuple[str, str]] = []
    runner = Runner(observers=[lambda tool, outcome, seconds: heard.append((tool, outcome))])
    runner.run(["true"], deadline=10)
    with pytest.raises(CommandFailed):
        runner.run(["false"], deadline=10)
    with pytest.raises(CommandStuck):
        runner.run(["sleep", "1000"], deadline=0.1)
    assert heard == [("true", "ok"), ("false", "failed"), ("sleep", "stuck")]


def test_the_subcommand_is_part_of_the_name_in_metrics() -> None:
    assert tool_name(["/sbin/lvm", "lvs", "-o", "lv_name"]) == "lvm lvs"
    assert tool_name(["mkfs.ext4", "/dev/x"]) == "mkfs.ext4"
    assert tool_name(["dmsetup", "--version"]) == "dmsetup"


def test_deadlines_missed_in_a_row_open_the_breaker_of_that_resource_only() -> None:
    runner = Runner(breaker_limit=2, breaker_seconds=1000)
    for _ in range(2):
        with pytest.raises(CommandStuck, match="did not end"):
            runner.run(["sleep", "1000"], deadline=0.05, resource="vg0")
    with pytest.raises(CommandStuck, match="vg0: 2 commands in a row"):
        runner.run(["true"], deadline=10, resource="vg0")
    runner.run(["true"], deadline=10, resource="vg1")
    runner.run(["true"], deadline=10)


def test_an_answer_in_time_closes_the_count() -> None:
    runner = Runner(breaker_limit=2, breaker_seconds=1000)
    for _ in range(3):
        with pytest.raises(CommandStuck, match="did not end"):
            runner.run(["sleep", "1000"], deadline=0.05, resource="vg0")
        runner.run(["false"], deadline=10, resource="vg0", ok=(1,))


def test_an_open_breaker_lets_one_try_through_after_its_time() -> None:
    now = 0.0
    breaker = Breaker(limit=1, seconds=30, clock=lambda: now)
    breaker.missed("disk")
    with pytest.raises(CommandStuck, match="next attempt in 30 s"):
        breaker.check("disk")
    now = 31.0
    breaker.check("disk")
    with pytest.raises(CommandStuck):
        breaker.check("disk")
    breaker.answered("disk")
    breaker.check("disk")


def test_a_child_that_does_not_die_is_counted_until_it_does() -> None:
    freed: list[str] = []
    stuck = StuckChildren(freed.append)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:  # stands for a D state
        stuck.add(process, ("lvm", "lvs"), "vg0")
        (command,) = stuck.commands()
        assert (command.argv, command.resource) == (("lvm", "lvs"), "vg0")
        assert command.seconds >= 0
        assert stuck.holds("vg0") is not None
        assert stuck.holds("vg1") is None
        process.kill()
        process.wait()
        assert freed == []
        assert stuck.commands() == []
        assert freed == ["vg0"]


def test_a_spawned_child_is_spoken_with_and_given_up(runner: Runner) -> None:
    child = runner.spawn(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(b"hello\n")
    assert child.stdout.readline() == b"hello\n"
    assert child.poll() is None
    runner.abandon(child, "vg0")
    assert child.poll() == -9
    runner.check("vg0")


def test_many_threads_may_run_commands_at_once(runner: Runner) -> None:
    results: list[bytes] = []

    def work(number: int) -> None:
        for _ in range(5):
            results.append(runner.run(["echo", str(number)], deadline=30).stdout)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted([f"{number}\n".encode() for number in range(8)] * 5)


def _uses_up_no_descriptor() -> None:
    keep = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(keep, True)
    before = sorted(Path("/proc/self/fd").iterdir())
    runner = Runner()
    listing = [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"]
    assert runner.run(listing, deadline=30).stdout == b"4\n"  # three, and the listing's own
    assert runner.run(listing, deadline=30, pass_fds=(keep,)).stdout == b"5\n"
    with pytest.raises(CommandStuck):
        runner.run(["sleep", "1000"], deadline=0.05)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_no_descriptor_leaks_and_none_is_inherited() -> None:
    # In a process of its own: what other tests have left is closed whenever Python finds it.
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        fresh.submit(_uses_up_no_descriptor).result()
