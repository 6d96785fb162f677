"""csi-sanity against the real driver on a real kernel, for every kind of volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sanity.suite import run_variant
from sanity.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_conformance_suite_passes(lab: Lab, variant: Variant) -> None:
    run = run_variant(lab, variant)

    assert not run.problems, run.text()
