"""What every call gets: an id, a log without secrets, metrics, and errors as codes."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster import errors
from csi.rpc import csi_pb2, csi_pb2_grpc
from node_agent.client import GrpcAgents
from node_agent.interceptors import (
    ObservedChannel,
    ServerInterceptor,
)
from node_agent.messages import loggable
from node_agent.request_id import current_request_id, new_request_id
from node_agent.rpc import node_agent_pb2, node_agent_pb2_grpc
from node_agent.tls import PeerRefused
from tests.unit.serving import refusal, serving

Answer = Callable[[Any], Any]


class Driver(csi_pb2_grpc.ControllerServicer, csi_pb2_grpc.SnapshotMetadataServicer):
    """A service that does what each test tells it to."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def CreateVolume(self, request, context):
        return self.answer(request)

    def ControllerGetCapabilities(self, request, context):
        return self.answer(request)

    def GetMetadataAllocated(self, request, context):
        return self.answer(request)


@contextmanager
def driver(
    directory: Path, answer: Answer, interceptor: ServerInterceptor | None = None
) -> Iterator[grpc.Channel]:
    service = Driver(answer)
    with serving(
        directory,
        lambda server: csi_pb2_grpc.add_ControllerServicer_to_server(service, server),
        lambda server: csi_pb2_grpc.add_SnapshotMetadataServicer_to_server(service, server),
        interceptor=interceptor,
    ) as channel:
        yield channel


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="node_agent.interceptors")


def raising(error: Exception) -> Answer:
    def answer(request: object) -> None:
        raise error

    return answer


def volume_answer(request: Any) -> Any:
    return csi_pb2.CreateVolumeResponse(volume=csi_pb2.Volume(volume_id=request.name))


def test_a_domain_error_arrives_as_its_code_with_its_text(tmp_path: Path) -> None:
    with driver(tmp_path, raising(errors.NoSpace("pool nvme is full"))) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        code, text = refusal(stub.CreateVolume, csi_pb2.CreateVolumeRequest(name="a"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text == "pool nvme is full"


def test_an_unexpected_error_shows_its_caller_nothing_but_an_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with driver(tmp_path, raising(KeyError("internal detail"))) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        code, text = refusal(
            lambda request: stub.CreateVolume(request, metadata=[("x-request-id", "abc123")]),
            csi_pb2.CreateVolumeRequest(name="a"),
        )
    assert code is grpc.StatusCode.INTERNAL
    assert text == "an error of the driver itself; its log has it under request abc123"
    record = caplog.records[-1]
    assert record.levelno == logging.ERROR
    assert "internal detail" in caplog.text


def test_a_call_that_is_not_served_says_so(tmp_path: Path) -> None:
    with driver(tmp_path, volume_answer) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        code, text = refusal(stub.DeleteVolume, csi_pb2.DeleteVolumeRequest(volume_id="v"))
    assert (code, text) == (grpc.StatusCode.UNIMPLEMENTED, "DeleteVolume is not served")


@pytest.mark.parametrize("text", ["é" * 100_000 + "\ud800", "\n" * 3000, "名" * 3000, "%" * 3000])
def test_a_text_of_any_length_and_content_can_be_an_error(tmp_path: Path, text: str) -> None:
    """Many times, since gRPC refuses large headers at random."""
    with driver(tmp_path, raising(errors.Refused(text))) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        request = csi_pb2.CreateVolumeRequest(name="a")
        answers = {refusal(stub.CreateVolume, request) for _ in range(20)}
    [(code, received)] = answers
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert received.startswith(text[:600])
    assert received.endswith(" bytes)")


@pytest.mark.parametrize(
    "raw",
    [b"\x0a\x02\xff\xfe", b"\x0a\xff", b"\xff" * 100],
    ids=["no UTF-8", "cut off", "no message"],
)
def test_what_is_no_message_is_an_invalid_argument(tmp_path: Path, raw: bytes) -> None:
    with driver(tmp_path, volume_answer) as channel:
        call: Callable[[bytes], object] = channel.unary_unary("/csi.v1.Controller/CreateVolume")
        code, _ = refusal(call, raw)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (csi_pb2.CreateVolumeRequest(name="a" * 5000), "name is longer than 4096 bytes"),
        (csi_pb2.CreateVolumeRequest(name="a\0b"), "name contains a NUL character"),
        (
            csi_pb2.CreateVolumeRequest(name="a", parameters={"pool": "a\0b"}),
            "parameters contains a NUL character",
        ),
        (
            csi_pb2.CreateVolumeRequest(
                name="a", parameters={str(number): "x" * 1000 for number in range(70)}
            ),
            "parameters has 70130 bytes, more than 65536",
        ),
        (
            csi_pb2.CreateVolumeRequest(
                accessibility_requirements=csi_pb2.TopologyRequirement(
                    requisite=[csi_pb2.Topology(segments={"zone": "a\0"})]
                )
            ),
            "segments contains a NUL character",
        ),
    ],
)
def test_text_without_bounds_reaches_no_service(tmp_path: Path, request_: Any, text: str) -> None:
    with driver(tmp_path, volume_answer) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        assert refusal(stub.CreateVolume, request_) == (grpc.StatusCode.INVALID_ARGUMENT, text)


def test_the_log_of_a_call_has_its_arguments_and_no_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with driver(tmp_path, volume_answer) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        stub.CreateVolume(
            csi_pb2.CreateVolumeRequest(
                name="data",
                parameters={"pool": "x" * 10_000},
                secrets={"encryptionKey": "correct horse"},
            )
        )
    begin, end = (vars(record) for record in caplog.records)
    assert begin["call"] == end["call"] == "csi.v1.Controller/CreateVolume"
    assert begin["arguments"]["name"] == "data"
    assert begin["arguments"]["parameters"]["pool"].endswith("… (10000 characters)")
    assert end["code"] == "OK"
    assert end["seconds"] >= 0
    assert "correct horse" not in str(begin)
    assert "encryptionKey" not in str(begin)


def test_no_secret_of_any_message_is_shown() -> None:
    """Every field of the protocol that has the option is filled, and none is found again."""
    checked = 0
    for descriptor in csi_pb2.DESCRIPTOR.message_types_by_name.values():
        for field in descriptor.fields:
            if field.GetOptions().Extensions[csi_pb2.csi_secret]:  # type: ignore[index]
                message = getattr(csi_pb2, descriptor.name)()
                getattr(message, field.name)["key"] = "correct horse"
                assert "correct horse" not in json.dumps(loggable(message))
                checked += 1
    assert checked == 22


def test_what_is_shown_of_a_large_message_is_small() -> None:
    topology = csi_pb2.Topology(segments={f"key{number}": "x" * 60 for number in range(100)})
    request = csi_pb2.CreateVolumeRequest(
        accessibility_requirements=csi_pb2.TopologyRequirement(requisite=[topology] * 1000)
    )
    assert len(json.dumps(loggable(request))) < 10_000


def test_questions_that_are_asked_all_the_time_are_logged_for_debugging_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: object) -> Any:
        return csi_pb2.ControllerGetCapabilitiesResponse()

    with driver(tmp_path, answer) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        stub.ControllerGetCapabilities(csi_pb2.ControllerGetCapabilitiesRequest())
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_calls_are_observed_with_their_outcome(tmp_path: Path) -> None:
    observed: list[tuple[str, str, float]] = []
    interceptor = ServerInterceptor(observe=lambda *seen: observed.append(seen))
    with driver(tmp_path, raising(errors.Busy("later")), interceptor) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        refusal(stub.CreateVolume, csi_pb2.CreateVolumeRequest(name="a"))
    [(method, code, seconds)] = observed
    assert (method, code) == ("csi.v1.Controller/CreateVolume", "ABORTED")
    assert seconds >= 0


def test_a_caller_that_is_refused_reaches_no_service(tmp_path: Path) -> None:
    reached = threading.Event()

    def refuse(context: object) -> None:
        raise PeerRefused("this agent serves controller.xlss")

    def answer(request: object) -> None:
        reached.set()

    with driver(tmp_path, answer, ServerInterceptor(authorize=refuse)) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        code, _ = refusal(stub.CreateVolume, csi_pb2.CreateVolumeRequest(name="a"))
        metadata = csi_pb2_grpc.SnapshotMetadataStub(channel)
        stream = metadata.GetMetadataAllocated(csi_pb2.GetMetadataAllocatedRequest())
        stream_code, _ = refusal(list, stream)
    assert code is stream_code is grpc.StatusCode.PERMISSION_DENIED
    assert not reached.is_set()


def test_a_stream_has_one_id_and_may_fail_in_its_middle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = set()

    def answer(request: object) -> Iterator[Any]:
        for _ in range(2):
            ids.add(current_request_id())
            yield csi_pb2.GetMetadataAllocatedResponse()
        raise errors.DataLoss("the map is damaged")

    received = []
    with driver(tmp_path, answer) as channel:
        stub = csi_pb2_grpc.SnapshotMetadataStub(channel)
        stream = stub.GetMetadataAllocated(csi_pb2.GetMetadataAllocatedRequest(snapshot_id="s"))
        code, text = refusal(lambda _: received.extend(stream), None)
    assert (code, text) == (grpc.StatusCode.DATA_LOSS, "the map is damaged")
    assert len(received) == 2
    assert len(ids) == 1
    assert "" not in ids
    assert [vars(record).get("code") for record in caplog.records] == [None, "DATA_LOSS"]


class Agent(node_agent_pb2_grpc.NodeAgentServicer):
    """Answers with the id of the request, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.deadlines: list[float] = []

    def GetInventory(self, request, context):
        self.deadlines.append(context.time_remaining())
        if self.error:
            raise self.error
        return node_agent_pb2.Inventory(node=current_request_id())


@contextmanager
def agent(directory: Path, service: Agent, **options: Any) -> Iterator[Any]:
    with serving(
        directory,
        lambda server: node_agent_pb2_grpc.add_NodeAgentServicer_to_server(service, server),
    ) as channel:
        observed = ObservedChannel(channel, "node n1", **{"deadline": 30, **options})
        yield node_agent_pb2_grpc.NodeAgentStub(observed)


def test_one_id_runs_from_the_csi_call_to_the_agent(tmp_path: Path) -> None:
    asked = node_agent_pb2.GetInventoryRequest()
    (tmp_path / "agent").mkdir()
    with agent(tmp_path / "agent", Agent()) as stub:

        def answer(request: Any) -> Any:
            return csi_pb2.CreateVolumeResponse(
                volume=csi_pb2.Volume(volume_id=stub.GetInventory(asked).node)
            )

        with driver(tmp_path, answer) as channel:
            create = csi_pb2_grpc.ControllerStub(channel).CreateVolume
            request = csi_pb2.CreateVolumeRequest(name="a")
            given = create(request, metadata=[("x-request-id", "from-outside")])
            made = create(request)
            forged = create(request, metadata=[("x-request-id", "two words")])
    assert given.volume.volume_id == "from-outside"
    assert len(made.volume.volume_id) == len(new_request_id())
    assert forged.volume.volume_id not in ("two words", made.volume.volume_id)
    assert current_request_id() == ""


def test_an_error_of_the_agent_is_raised_as_itself_and_says_which_node(tmp_path: Path) -> None:
    with (
        agent(tmp_path, Agent(errors.NoSpace("pool nvme is full"))) as stub,
        pytest.raises(errors.NoSpace, match=r"^node n1: pool nvme is full$"),
    ):
        stub.GetInventory(node_agent_pb2.GetInventoryRequest())


def test_a_node_that_is_away_is_unavailable(tmp_path: Path) -> None:
    """As is one whose channel was closed, by the end of the process for one."""
    with agent(tmp_path, Agent()) as stub:
        pass
    with pytest.raises(errors.Unavailable, match="node n1"):
        stub.GetInventory(node_agent_pb2.GetInventoryRequest())
    with grpc.insecure_channel(f"unix:{tmp_path}/nobody.sock") as channel:
        observed = ObservedChannel(channel, "node n1", deadline=30)
        stub = node_agent_pb2_grpc.NodeAgentStub(observed)
        with pytest.raises(errors.Unavailable, match="node n1"):
            stub.GetInventory(node_agent_pb2.GetInventoryRequest())


def test_every_call_to_an_agent_has_a_deadline(tmp_path: Path) -> None:
    service = Agent()
    observed: list[tuple[str, str, float]] = []
    with agent(tmp_path, service, deadline=30, observe=lambda *seen: observed.append(seen)) as stub:
        stub.GetInventory(node_agent_pb2.GetInventoryRequest())
        stub.GetInventory(node_agent_pb2.GetInventoryRequest(), timeout=500)
    default, given = service.deadlines
    assert 0 < default < 100 < given
    assert [seen[:2] for seen in observed] == [("xlss.node.v1.NodeAgent/GetInventory", "OK")] * 2


def test_an_answer_that_cannot_be_sent_is_an_error_of_the_driver(tmp_path: Path) -> None:
    with driver(tmp_path, lambda request: None) as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        code, _ = refusal(stub.CreateVolume, csi_pb2.CreateVolumeRequest(name="a"))
    assert code is grpc.StatusCode.INTERNAL


def test_of_a_node_that_does_not_answer_is_told(tmp_path: Path) -> None:
    agents = GrpcAgents({"n1": f"unix:{tmp_path}/nobody.sock"}, tmp_path, call_seconds=30)
    silent: list[str] = []
    agents.tell_of_silence(silent.append)
    with pytest.raises(errors.Unavailable, match="n1"):
        agents.agent("n1").inventory()
    assert silent == ["n1"]
    agents.close()


def test_a_node_that_says_that_something_is_unavailable_is_not_silent(tmp_path: Path) -> None:
    silent: list[str] = []
    service = Agent(errors.Unavailable("copying 40 %; repeat the request"))
    with (
        agent(tmp_path, service, silent=lambda: silent.append("n1")) as stub,
        pytest.raises(errors.Unavailable, match="copying 40 %"),
    ):
        stub.GetInventory(node_agent_pb2.GetInventoryRequest())
    assert silent == []


def test_after_the_end_nobody_connects_anew(tmp_path: Path) -> None:
    """A run that compares all nodes would else hold up the end for many deadlines."""
    agents = GrpcAgents({"n1": f"unix:{tmp_path}/nobody.sock"}, tmp_path, call_seconds=30)
    open_still = agents.agent("n1")
    agents.close()
    with pytest.raises(errors.Unavailable):
        open_still.inventory()
    with pytest.raises(errors.Unavailable, match="n1: the connection was closed"):
        agents.agent("n1")
