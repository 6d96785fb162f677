"""What csi-sanity is run with: kinds of volumes, each in a lab node of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).resolve().parent
MIB = 1 << 20


@dataclass(frozen=True)
class Variant:
    """One run of the whole suite. Sizes are bytes, whole extents: the suite compares exactly."""

    name: str  # its StorageClass parameters are in <name>.yaml
    access: Literal["mount", "block"]
    size: int
    expanded: int
    nodes: int = 1  # each replica is on one of its own

    @property
    def parameters(self) -> Path:
        return FOLDER / f"{self.name}.yaml"


VARIANTS = (
    # The smallest that mkfs.xfs of Debian bookworm makes is 300 MiB (mkfs.xfs(8)).
    Variant("thin-mount", "mount", size=320 * MIB, expanded=400 * MIB),
    Variant("thin-block", "block", size=32 * MIB, expanded=64 * MIB),
    Variant("thick-mount", "mount", size=64 * MIB, expanded=96 * MIB),
    Variant("thick-block", "block", size=32 * MIB, expanded=64 * MIB),
    Variant("replicated-mount", "mount", size=32 * MIB, expanded=64 * MIB, nodes=2),
)
