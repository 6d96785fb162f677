"""The protocols: ours is CSI 1.13.0 to the letter, and the committed code is generated from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc_tools
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from csi.rpc import csi_pb2
from node_agent.rpc import arbiter_pb2, node_agent_pb2

ROOT = Path(__file__).resolve().parents[2]
SPECIFICATION = ROOT / "tests/data/csi-v1.13.0.descriptor.binpb"


def compiled(proto: str, directory: Path) -> descriptor_pb2.FileDescriptorProto:
    output = directory / "descriptors.binpb"
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--descriptor_set_out={output}", proto]
    assert protoc.main(["protoc", *arguments]) == 0
    return descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file[0]


def parts(file: descriptor_pb2.FileDescriptorProto) -> dict[str, str]:
    """Every part of a file under its name, so that a difference says where it is."""
    named: list[Any] = [*file.message_type, *file.enum_type, *file.service, *file.extension]
    result = {part.name: str(part) for part in named}
    assert len(result) == len(named)
    file.options.ClearField("go_package")
    result["package"] = f"{file.package} {file.syntax} {list(file.dependency)} {file.options}"
    return result


def test_the_csi_protocol_is_that_of_the_specification(tmp_path: Path) -> None:
    specification = descriptor_pb2.FileDescriptorProto.FromString(SPECIFICATION.read_bytes())
    ours = parts(compiled("csi.proto", tmp_path))
    theirs = parts(specification)
    assert sorted(ours) == sorted(theirs)
    for name, text in theirs.items():
        assert ours[name] == text, f"{name} differs from CSI 1.13.0"


def test_the_comparison_sees_options() -> None:
    """The secret and alpha marks are extensions: they have to show in the compared text."""
    specification = descriptor_pb2.FileDescriptorProto.FromString(SPECIFICATION.read_bytes())
    texts = parts(specification)
    assert "csi_secret" in texts["CreateVolumeRequest"]
    assert "alpha_field" in texts["Snapshot"]


def test_the_agents_protocol_has_a_versioned_package() -> None:
    assert node_agent_pb2.DESCRIPTOR.package == "xlss.node.v1"
    assert csi_pb2.DESCRIPTOR.package == "csi.v1"
    assert arbiter_pb2.DESCRIPTOR.package == "xlss.arbiter.v1"


@pytest.mark.parametrize("package", ["csi/rpc", "node_agent/rpc"])
def test_generating_again_changes_nothing(package: str, tmp_path: Path) -> None:
    script = ROOT / "scripts/generate_protocols.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, stdout=subprocess.DEVNULL)
    fresh = {path.name: path.read_text() for path in (tmp_path / package).iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / package).glob("*_pb2*")}
    assert sorted(fresh) == sorted(committed)
    assert {name for name, text in fresh.items() if text != committed[name]} == set()
