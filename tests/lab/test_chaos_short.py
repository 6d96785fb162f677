"""A little of `make chaos`, always the same."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests import chaos

if TYPE_CHECKING:
    from lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]


def test_a_little_chaos_loses_no_record(lab: Lab) -> None:
    found = chaos.run(lab, 20.0, 1, 3, lambda line: print(line, file=sys.stderr))  # noqa: T201
    assert found.checks and found.world.acknowledged() > 100
