"""What all tests share: the lab's namespaces, and what the nodes said when a test failed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

import node_agent  # noqa: F401 - has to come before every import of gRPC
from lab import sandbox
from lab.kernel import default_kernel
from lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Generator

    from xdist.remote import Producer

# Files whose tests are dealt out by their first parameter: each value has lab nodes of its own.
_BY_PARAMETER = ("tests/lab/test_crash_at_every_step.py", "tests/lab/test_sanity.py")
_LONG = (
    *_BY_PARAMETER,
    "tests/lab/test_replicated_crashes.py",
    "tests/lab/test_chaos_short.py",
    "tests/lab/test_demo.py",
)
# Property of a test: the longest pause of a write that changes of replicas have caused, in seconds.
LONGEST_PAUSE = "longest pause of a write while its replicas change"


class ByLabNodes(LoadScopeScheduling):
    """Gives the tests of a file to one worker: they share lab nodes, which take time to boot.

    (xdist 3.8 knows groups of tests as well, but its ``loadgroup`` does nothing with pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path in _BY_PARAMETER:
            return f"{path}[{nodeid.partition('[')[2].partition('-')[0]}"
        return path


def pytest_report_header() -> list[str]:
    kernel = default_kernel()
    # Tests of the Python code alone run where the lab was never set up.
    return [f"lab nodes: Linux {kernel.release}"] if kernel.program.exists() else []


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return ByLabNodes(config, log)


def on_nodes_for_replicas(item: pytest.Item) -> bool:
    """Whether a test uses the three nodes that the tests of replicated volumes share."""
    return "group" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker is left with one; then those that share their nodes."""

    def order(item: pytest.Item) -> tuple[bool, bool]:
        is_long = item.nodeid.partition("::")[0] in _LONG
        return not is_long, not on_nodes_for_replicas(item)

    items.sort(key=order)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Enter the lab's namespaces before any test starts a thread, which would stay outside."""
    if os.geteuid() == 0 and any(item.get_closest_marker("lab") for item in session.items):
        sandbox.enter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the consoles and the logs of the lab's nodes to the report of a failed test."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        report.sections += lab.evidence()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what no test holds against a limit, as machines differ: the longest over parameters."""
    longest: dict[str, float] = {}
    for report in (one for reports in terminalreporter.stats.values() for one in reports):
        test = getattr(report, "nodeid", "").rpartition("::")[2].partition("[")[0]
        for name, value in getattr(report, "user_properties", ()):
            if name == LONGEST_PAUSE:
                longest[test] = max(value, longest.get(test, 0.0))
    if longest:
        terminalreporter.section(LONGEST_PAUSE)
        for test, seconds in sorted(longest.items(), key=lambda item: -item[1]):
            terminalreporter.line(f"{seconds:6.2f} s  {test}")
