"""One table says which error is which gRPC code, for both layers and in both directions."""

from __future__ import annotations

import inspect
from pathlib import Path

import grpc
import pytest

import cluster.errors
import host.errors
from cluster.store import RevisionExpired
from host.block_device import wait_for_node
from node_agent import status_codes
from node_agent.status_codes import code_of, error_of
from node_agent.tls import PeerRefused

CLUSTER_ERRORS = [
    found
    for _, found in inspect.getmembers(cluster.errors, inspect.isclass)
    if issubclass(found, cluster.errors.ClusterError)
]
HOST_ERRORS = [
    found
    for _, found in inspect.getmembers(host.errors, inspect.isclass)
    if issubclass(found, host.errors.HostError)
]


@pytest.mark.parametrize("error_class", [*CLUSTER_ERRORS, *HOST_ERRORS, PeerRefused])
def test_every_error_of_both_layers_has_a_line_of_its_own(error_class: type[Exception]) -> None:
    assert error_class in status_codes._CODES


def test_an_error_is_answered_with_the_code_of_its_most_specific_class() -> None:
    class PoolFull(host.errors.NoSpace):
        pass

    assert code_of(PoolFull()) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert code_of(RevisionExpired()) is grpc.StatusCode.INTERNAL
    stuck = host.errors.CommandFailed(["lvs"], 5, "")
    assert code_of(stuck) is grpc.StatusCode.INTERNAL


def test_a_node_that_udev_makes_late_may_be_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(host.errors.HostError) as late:
        wait_for_node(str(tmp_path / "vol"), seconds=0)
    assert code_of(late.value) is grpc.StatusCode.UNAVAILABLE


def test_what_nobody_raised_on_purpose_has_no_code() -> None:
    assert code_of(KeyError("volume")) is None


# Conflict is answered as ABORTED, "come again", which a caller knows as Busy.
@pytest.mark.parametrize(
    "error_class", [found for found in CLUSTER_ERRORS if found is not cluster.errors.Conflict]
)
def test_an_error_crosses_from_the_agent_to_the_controller_as_itself(
    error_class: type[cluster.errors.ClusterError],
) -> None:
    code = code_of(error_class("the pool is full"))
    assert code is not None
    received = error_of(code, "the pool is full")
    assert type(received) is error_class
    assert str(received) == "the pool is full"


@pytest.mark.parametrize("code", [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED])
def test_a_call_without_an_answer_may_be_repeated(code: grpc.StatusCode) -> None:
    assert type(error_of(code, "late")) is cluster.errors.Unavailable


def test_a_message_over_grpcs_limit_is_not_taken_for_a_lack_of_storage() -> None:
    text = "CLIENT: Received message larger than max (70000000 vs. 67108864)"
    received = error_of(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    assert type(received) is cluster.errors.ClusterError
