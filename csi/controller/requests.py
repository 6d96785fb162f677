"""What the controller's calls have in common: parts of requests, parsed once and checked.

Error codes: CSI 1.13, "Error Scheme" and the table of each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.errors import Conflict, InvalidArgument, NotFound, OutOfRange
from cluster.identifiers import Kind, is_id, is_key
from cluster.model import AccessType, Source, SourceKind, Volume, VolumeSpec
from csi.capability import Capability, parse_capability
from csi.rpc import csi_pb2 as pb
from host.filesystem import MINIMUM_BYTES

DEFAULT_BYTES = 1 << 30
# One extent at the least, which rounds this up.
_LEAST_BLOCK_BYTES = 1 << 20
# No node has more, and sums of such sizes still fit into 64 bits.
_MAXIMUM_BYTES = 1 << 60

# Lists without a limit of their own end here: gRPC's clients take 4 MiB in one answer.
LONGEST_PAGE = 5000


@dataclass(frozen=True)
class Range:
    """Sizes in bytes; ``required`` 0 leaves the choice, ``limit`` 0 is none."""

    required: int
    limit: int


def minimum_bytes(spec: VolumeSpec) -> int:
    """The smallest volume that can be what the class asks for."""
    return MINIMUM_BYTES.get(spec.filesystem, _LEAST_BLOCK_BYTES)


def parse_range(message: pb.CapacityRange) -> Range:
    """Raises InvalidArgument for a range that is none, OutOfRange for an impossible one."""
    required, limit = message.required_bytes, message.limit_bytes
    if required < 0 or limit < 0:
        raise InvalidArgument("capacity_range: a size is negative")
    if limit and required > limit:
        raise InvalidArgument(f"capacity_range: required {required} is more than limit {limit}")
    if required > _MAXIMUM_BYTES:
        raise OutOfRange(f"capacity_range: {required} bytes are more than any volume can have")
    return Range(required, limit)


def size_of_new(wanted: Range, spec: VolumeSpec, default: int) -> Range:
    """The range of a new volume: at least what its file system needs, and never undecided.

    Raises OutOfRange when the limit is below that.
    """
    least = minimum_bytes(spec)
    if wanted.limit and wanted.limit < least:
        what = spec.filesystem or "block"
        raise OutOfRange(
            f"capacity_range: limit {wanted.limit} is less than the {least} bytes that a"
            f" {what} volume needs"
        )
    required = wanted.required or (min(default, wanted.limit) if wanted.limit else default)
    return Range(max(required, least), wanted.limit)


def require(text: str, field: str) -> str:
    """Return a text that must be there. Raises InvalidArgument."""
    if not text:
        raise InvalidArgument(f"{field} is missing")
    return text


def require_capability(message: pb.VolumeCapability, *, given: bool) -> Capability:
    """Parse a capability that must be there. Raises InvalidArgument."""
    if not given:
        raise InvalidArgument("volume_capability is missing")
    return parse_capability(message)


def parse_capabilities(messages: Sequence[pb.VolumeCapability]) -> tuple[Capability, ...]:
    """Parse capabilities of which there must be one. Raises InvalidArgument."""
    require_complete(messages)
    return tuple(map(parse_capability, messages))


def require_complete(messages: Sequence[pb.VolumeCapability]) -> None:
    """Raise InvalidArgument where capabilities, or required fields of one, are missing."""
    if not messages:
        raise InvalidArgument("volume_capabilities are missing")
    for message in messages:
        if not message.HasField("access_mode") or message.WhichOneof("access_type") is None:
            raise InvalidArgument("a volume_capability has no access_mode or no access_type")


def misfit(volume: Volume, capability: Capability) -> str:
    """Why a volume cannot be used in that way, or an empty text."""
    spec = volume.spec
    if capability.access is not spec.access:
        made_for = "block" if spec.access is AccessType.BLOCK else "mount"
        return f"volume {volume.id} was made for {made_for} access, not for {capability.access}"
    if capability.filesystem and capability.filesystem != spec.filesystem:
        return (
            f"volume {volume.id} has a file system {spec.filesystem}, not {capability.filesystem}"
        )
    return ""


def parse_source(request: pb.CreateVolumeRequest) -> Source | None:
    """What a new volume is filled from. Raises InvalidArgument, NotFound."""
    if not request.HasField("volume_content_source"):
        return None
    source = request.volume_content_source
    kind = source.WhichOneof("type")
    if kind == "snapshot":
        found = Source(SourceKind.SNAPSHOT, require(source.snapshot.snapshot_id, "snapshot_id"))
        known = is_id(Kind.SNAPSHOT, found.id)
    elif kind == "volume":
        found = Source(SourceKind.VOLUME, require(source.volume.volume_id, "volume_id"))
        known = is_id(Kind.VOLUME, found.id)
    else:
        raise InvalidArgument("volume_content_source names neither a snapshot nor a volume")
    if not known:
        raise NotFound(f"source {kind} {found.id[:64]!r} does not exist")
    return found


def parse_topologies(messages: Iterable[pb.Topology]) -> tuple[Mapping[str, str], ...]:
    """Segments of each topology. Raises InvalidArgument for one without any."""
    topologies = tuple(dict(message.segments) for message in messages)
    if not all(topologies):
        raise InvalidArgument("a topology has no segments")
    return topologies


def parse_page(max_entries: int, starting_token: str) -> tuple[str, int]:
    """The key to go on behind, and the number of entries of a page.

    Raises InvalidArgument for a negative number, and Conflict, which is answered as ABORTED, for a
    token that cannot have come from one of our lists (CSI 1.13: the list is to be started again).
    """
    if max_entries < 0:
        raise InvalidArgument("max_entries is negative")
    if starting_token and not is_key(starting_token):
        raise Conflict(f"starting_token {starting_token[:64]!r} is none of this list: start again")
    return starting_token, min(max_entries or LONGEST_PAGE, LONGEST_PAGE)
