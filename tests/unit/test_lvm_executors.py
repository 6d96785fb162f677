"""The two ways of running LVM, against a stand-in for ``lvm`` that misbehaves on command."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from host.command import Runner
from host.errors import CommandFailed, CommandLost, CommandStuck
from host.lvm.config import GroupDirectory
from host.lvm.executor import FallbackExecutor, LvmExecutor, ShellUnavailable, checked
from host.lvm.fork import ForkExecutor
from host.lvm.report import Message, Report
from host.lvm.shell import ShellExecutor

# What it is told to do is the first word of a command: as a shell (no arguments) it reads commands
# from standard input, else its arguments are the command.
STAND_IN = r"""#!/bin/sh
exec 3>&1
[ -n "$LVM_REPORT_FD" ] && exec 3>/dev/fd/$LVM_REPORT_FD
log() {
  printf '  {\n"log": [{"log_type":"error", "log_context":"x", "log_message":"%s"}' "$1" >&3
  [ -n "$SHELL_MODE" ] &&
    printf ', {"log_type":"status", "log_context":"shell", "log_ret_code":"%s"}' "$2" >&3
  printf ']\n  }\n' >&3
}
do_it() {
  echo "$*" >> "$WORLD/commands"
  case $1 in
    die) kill -9 $$ ;;
    die-once|lvs) [ -e "$WORLD/died" ] || { touch "$WORLD/died"; kill -9 $$; }; log ok 1 ;;
    hang) sleep 1000 ;;
    fail) log "no such thing" 5; return 5 ;;
    silent) return 3 ;;
    complain) echo "  what was that?" >&2; return 3 ;;
    late) log ok 1; sleep 0.1; log again 1; touch "$WORLD/late" ;;
    pieces) printf '  {"report": [{"lv": [{"lv_name":"a"}' >&3; sleep 0.2
      printf ', {"lv_name":"b"}]}]\n,' >&3; sleep 0.2
      printf '"log": [{"log_context":"shell", "log_ret_code":"1"}]}\n' >&3 ;;
    *) log ok 1 ;;
  esac
}
if [ $# -gt 0 ]; then do_it "$@"; exit $?; fi
[ -e "$WORLD/no-shell" ] && exit 1
SHELL_MODE=yes
while read -r line; do do_it $line; done
"""


class StandIn(GroupDirectory):
    """A directory in whose world ``lvm`` is the stand-in."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "vg0", udev=False)
        self.world = path
        program = path / "lvm"
        program.write_text(STAND_IN)
        program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.world}:{os.environ['PATH']}", "WORLD": str(self.world)}

    @property
    def commands(self) -> list[str]:
        lines = (self.world / "commands").read_text().splitlines()
        return [line.removesuffix(' --config log/command_log_selection="all"') for line in lines]


@pytest.fixture
def world(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


@pytest.fixture
def runner() -> Runner:
    return Runner(breaker_limit=1000)


@pytest.fixture
def shell(runner: Runner, world: StandIn) -> ShellExecutor:
    return ShellExecutor(runner, world)


@pytest.fixture(params=["shell", "fork"])
def either(request: pytest.FixtureRequest, runner: Runner, world: StandIn) -> LvmExecutor:
    return (ShellExecutor if request.param == "shell" else ForkExecutor)(runner, world)


def test_a_report_comes_back(either: LvmExecutor) -> None:
    assert either.execute(["anything", "-o", "x"]).ok
    either.close()


def test_a_failure_is_in_the_report(either: LvmExecutor) -> None:
    report = either.execute(["fail"])
    assert (report.ok, report.return_code, report.errors) == (False, 5, ("no such thing",))
    either.close()


def test_death_over_a_change_is_told_and_the_change_not_repeated(
    either: LvmExecutor, world: StandIn
) -> None:
    with pytest.raises(CommandLost):
        either.execute(["die"])
    assert world.commands.count("die") == 1
    assert either.execute(["anything"]).ok
    either.close()


def test_a_deadline_ends_the_command_and_the_next_one_works(
    either: LvmExecutor, runner: Runner
) -> None:
    with pytest.raises(CommandStuck):
        either.execute(["hang"], 1)
    assert runner.stuck == 0
    assert either.execute(["anything"]).ok
    either.close()


def test_missed_deadlines_open_the_breaker_of_the_group(world: StandIn) -> None:
    for executor in (ShellExecutor, ForkExecutor):
        runner = Runner(breaker_limit=1)
        with pytest.raises(CommandStuck):
            executor(runner, world).execute(["hang"], 1)
        with pytest.raises(CommandStuck, match="volume group vg0"):
            executor(runner, world).execute(["anything"])


def test_observers_hear_of_every_command(world: StandIn) -> None:
    for executor in (ShellExecutor, ForkExecutor):
        heard: list[tuple[str, str]] = []
        runner = Runner(observers=[lambda tool, outcome, _, to=heard: to.append((tool, outcome))])
        way = executor(runner, world)
        way.execute(["anything"])
        way.execute(["fail"])
        way.close()
        assert heard == [("lvm anything", "ok"), ("lvm fail", "failed")]


def test_a_shell_is_started_once(shell: ShellExecutor, world: StandIn) -> None:
    shell.execute(["first"])
    pid = shell.pid
    shell.execute(["second"])
    assert shell.pid == pid
    assert world.commands == ["version", "first", "second"]
    shell.close()
    assert shell.pid is None


def test_a_shell_that_died_between_commands_is_replaced(shell: ShellExecutor) -> None:
    shell.execute(["first"])
    assert shell.pid is not None
    os.kill(shell.pid, signal.SIGKILL)
    os.waitid(os.P_PID, shell.pid, os.WEXITED | os.WNOWAIT)
    assert shell.execute(["second"]).ok
    shell.close()


def test_a_report_is_asked_for_again_when_the_shell_died_over_it(
    shell: ShellExecutor, world: StandIn
) -> None:
    assert shell.execute(["lvs"]).ok
    assert world.commands == ["version", "lvs", "version", "lvs"]
    shell.close()


def test_a_report_in_pieces_is_put_together(shell: ShellExecutor) -> None:
    assert [row["lv_name"] for row in shell.execute(["pieces"]).rows] == ["a", "b"]
    shell.close()


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(
    shell: ShellExecutor, world: StandIn
) -> None:
    shell.execute(["late"])
    while not (world.world / "late").exists():
        time.sleep(0.01)
    assert shell.execute(["fail"]).errors == ("no such thing",)
    shell.close()


def test_what_lvm_cannot_parse_is_told_on_standard_error(runner: Runner, world: StandIn) -> None:
    report = ForkExecutor(runner, world).execute(["complain"])
    assert (report.return_code, report.messages) == (3, (Message("error", "what was that?"),))


def test_no_report_and_no_word_is_still_a_failure(runner: Runner, world: StandIn) -> None:
    assert not ForkExecutor(runner, world).execute(["silent"]).ok


def test_where_no_shell_starts_every_command_is_forked(runner: Runner, world: StandIn) -> None:
    (world.world / "no-shell").touch()
    now = 0.0
    shell = ShellExecutor(runner, world)
    either_way = FallbackExecutor(shell, ForkExecutor(runner, world), clock=lambda: now)
    assert either_way.execute(["first"]).ok
    (world.world / "no-shell").unlink()
    assert either_way.execute(["second"]).ok
    assert world.commands == ["first", "second"]
    now = 61.0
    assert either_way.execute(["third"]).ok
    assert world.commands == ["first", "second", "version", "third"]
    either_way.close()


def test_what_a_shell_has_begun_is_not_forked(runner: Runner, world: StandIn) -> None:
    either_way = FallbackExecutor(ShellExecutor(runner, world), ForkExecutor(runner, world))
    with pytest.raises(CommandLost):
        either_way.execute(["die"])
    assert world.commands.count("die") == 1
    either_way.close()


def test_a_shell_that_does_not_start_says_so(shell: ShellExecutor, world: StandIn) -> None:
    (world.world / "no-shell").touch()
    with pytest.raises(ShellUnavailable):
        shell.execute(["first"])


@pytest.mark.parametrize(
    "argument", ["a b", "a\nb", "", "'a'", '"', "$(x)", "`x`", "a;b", "\\", "*", "é", "a\0"]
)
def test_an_argument_that_a_shell_could_read_otherwise_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match="not an argument"):
        checked(["lvs", argument])


def test_more_words_than_lvms_shell_takes_are_refused() -> None:
    assert len(checked(["x"] * 63)) == 63
    with pytest.raises(ValueError, match="too many"):
        checked(["x"] * 64)


def test_a_fork_without_any_report_is_no_success(runner: Runner, world: StandIn) -> None:
    (world.world / "lvm").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(CommandFailed, match="no report"):
        ForkExecutor(runner, world).execute(["lvs"])


def test_the_report_type_is_the_same_for_both(runner: Runner, world: StandIn) -> None:
    reports = []
    for executor in (ShellExecutor(runner, world), ForkExecutor(runner, world)):
        reports.append(executor.execute(["fail"]))
        executor.close()
    assert reports[0].errors == reports[1].errors
    assert all(isinstance(report, Report) for report in reports)
