"""Generate the Python code of the protocols: ``python scripts/generate_protocols.py [directory]``.

The virtual path makes protoc emit ``from csi.rpc import csi_pb2`` without any editing afterwards.
The code is written below the directory, by default the root of the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
# The package that receives the code, and the file in proto/ that it comes from.
PROTOCOLS = (
    ("csi/rpc", "csi.proto"),
    ("node_agent/rpc", "node_agent.proto"),
    ("csi/rpc", "admin.proto"),
    ("node_agent/rpc", "arbiter.proto"),
)


def generate(destination: Path) -> list[Path]:
    """Write the generated files below ``destination`` and return their paths.

    Raises RuntimeError when protoc refuses a file; protoc itself prints why.
    """
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    # Every package, since a protocol may import that of another one.
    virtual_paths = sorted({f"-I{package}={ROOT / 'proto'}" for package, _ in PROTOCOLS})
    written: list[Path] = []
    for package, name in PROTOCOLS:
        (destination / package).mkdir(parents=True, exist_ok=True)
        exit_code = protoc.main(
            [
                "protoc",
                *virtual_paths,
                f"-I{well_known}",
                f"--python_out={destination}",
                f"--pyi_out={destination}",
                f"--grpc_python_out={destination}",
                f"{package}/{name}",
            ]
        )
        if exit_code != 0:
            raise RuntimeError(f"protoc refused {name}: exit code {exit_code}")
        stem = destination / package / name.removesuffix(".proto")
        written += [Path(f"{stem}{end}") for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")]
    return written


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT):
        print(path)
