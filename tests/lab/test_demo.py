"""`make demo`, on the kernel of Debian's stable release: all other tests run the lab's default."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lab.kernel import STABLE
from lab.paths import PROJECT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


def test_the_demo_on_the_stable_kernel() -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "lab.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "XLSS_LAB_KERNEL": "stable"},
        check=False,
    )
    assert demo.returncode == 0, demo.stdout
    assert f"Linux {STABLE.release}" in demo.stdout
    assert "acknowledged, 0 lost" in demo.stdout
    assert demo.stdout.rstrip().endswith("Nothing is left.")
