"""What all tests share: the lab's namespaces, and what the nodes said when a test failed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import node_agent  # noqa: F401 - has to come before every import of gRPC
from lab import sandbox
from lab.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Generator


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
