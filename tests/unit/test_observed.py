"""What membership is told of each state that the kernel has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replication import record
from replication.observed import CONNECTIONS, DISKS, REPLICATIONS, ROLES, Surroundings, view_of
from replication.record import Connection, Disk, Generations, Users
from replication.status import (
    ConnectionState,
    ConnectionStatus,
    DiskState,
    PeerVolumeStatus,
    ReplicationState,
    ResourceStatus,
    Role,
    Suspension,
    VolumeStatus,
)

AROUND = Surroundings("a", "boot-1", Users.ALIVE, face_suspended=True, grant=True)
GENERATIONS = Generations("00000000000000a0")


def status(
    disk: DiskState = DiskState.UP_TO_DATE,
    state: ConnectionState = ConnectionState.CONNECTED,
    replication: ReplicationState = ReplicationState.ESTABLISHED,
) -> ResourceStatus:
    peer = PeerVolumeStatus(0, replication, DiskState.UP_TO_DATE)
    connection = ConnectionStatus(0, state, Role.SECONDARY, volumes=(peer,))
    volume = VolumeStatus(0, 1, disk)
    return ResourceStatus("v", Role.PRIMARY, frozenset(), (volume,), (connection,))


def connection(state: ConnectionState, replication: ReplicationState) -> Connection:
    return view_of(status(state=state, replication=replication), GENERATIONS, AROUND).connection


def test_every_word_of_the_kernel_has_one() -> None:
    assert set(DISKS) == set(DiskState)
    assert set(CONNECTIONS) == set(ConnectionState)
    assert set(REPLICATIONS) == set(ReplicationState)
    assert set(ROLES) == set(Role)


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (DiskState.DISKLESS, Disk.DISKLESS),
        (DiskState.FAILED, Disk.DISKLESS),
        (DiskState.ATTACHING, Disk.UNKNOWN),
        (DiskState.NEGOTIATING, Disk.UNKNOWN),
        (DiskState.DETACHING, Disk.UNKNOWN),
        (DiskState.INCONSISTENT, Disk.INCONSISTENT),
        (DiskState.OUTDATED, Disk.OUTDATED),
        (DiskState.CONSISTENT, Disk.CONSISTENT),
        (DiskState.UP_TO_DATE, Disk.UP_TO_DATE),
        (DiskState.DUNKNOWN, Disk.UNKNOWN),
        (DiskState.UNKNOWN, Disk.UNKNOWN),
    ],
)
def test_only_a_disk_that_is_surely_complete_is_told_so(kernel: DiskState, told: Disk) -> None:
    assert view_of(status(kernel), GENERATIONS, AROUND).disk is told


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (ConnectionState.STANDALONE, Connection.STANDALONE),
        (ConnectionState.DISCONNECTING, Connection.UNKNOWN),
        (ConnectionState.UNCONNECTED, Connection.CONNECTING),
        (ConnectionState.TIMEOUT, Connection.CONNECTING),
        (ConnectionState.BROKEN_PIPE, Connection.CONNECTING),
        (ConnectionState.NETWORK_FAILURE, Connection.CONNECTING),
        (ConnectionState.PROTOCOL_ERROR, Connection.CONNECTING),
        (ConnectionState.TEAR_DOWN, Connection.CONNECTING),
        (ConnectionState.CONNECTING, Connection.CONNECTING),
        (ConnectionState.UNKNOWN, Connection.UNKNOWN),
    ],
)
def test_only_a_connection_that_is_surely_cut_is_standalone(
    kernel: ConnectionState, told: Connection
) -> None:
    # Whatever was replicated in it before.
    assert {connection(kernel, one) for one in ReplicationState} == {told}


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (ReplicationState.OFF, Connection.UNKNOWN),
        (ReplicationState.ESTABLISHED, Connection.CONNECTED),
        (ReplicationState.STARTING_SYNC_S, Connection.SYNC_SOURCE),
        (ReplicationState.STARTING_SYNC_T, Connection.SYNC_TARGET),
        (ReplicationState.WF_BITMAP_S, Connection.SYNC_SOURCE),
        (ReplicationState.WF_BITMAP_T, Connection.SYNC_TARGET),
        (ReplicationState.WF_SYNC_UUID, Connection.SYNC_TARGET),
        (ReplicationState.SYNC_SOURCE, Connection.SYNC_SOURCE),
        (ReplicationState.SYNC_TARGET, Connection.SYNC_TARGET),
        (ReplicationState.VERIFY_S, Connection.CONNECTED),
        (ReplicationState.VERIFY_T, Connection.CONNECTED),
        (ReplicationState.PAUSED_SYNC_S, Connection.SYNC_SOURCE),
        (ReplicationState.PAUSED_SYNC_T, Connection.SYNC_TARGET),
        (ReplicationState.AHEAD, Connection.UNKNOWN),
        (ReplicationState.BEHIND, Connection.UNKNOWN),
        (ReplicationState.UNKNOWN, Connection.UNKNOWN),
    ],
)
def test_connected_is_what_replicates_every_write(
    kernel: ReplicationState, told: Connection
) -> None:
    assert connection(ConnectionState.CONNECTED, kernel) is told


def test_a_connection_without_a_volume_is_not_connected() -> None:
    bare = replace(
        status(), connections=(ConnectionStatus(0, ConnectionState.CONNECTED, Role.PRIMARY),)
    )

    assert view_of(bare, GENERATIONS, AROUND).connection is Connection.UNKNOWN


@pytest.mark.parametrize("missing", [None, replace(status(), volumes=())])
def test_what_the_kernel_does_not_have_is_absent(missing: ResourceStatus | None) -> None:
    view = view_of(missing, GENERATIONS, AROUND)

    assert (view.disk, view.role, view.connection) == (
        Disk.ABSENT,
        record.Role.SECONDARY,
        Connection.STANDALONE,
    )
    assert (view.boot_id, view.users, view.grant) == ("boot-1", Users.ALIVE, True)
    assert view.generations == GENERATIONS


@pytest.mark.parametrize("reason", list(Suspension))
def test_every_suspension_counts_as_frozen(reason: Suspension) -> None:
    frozen = replace(status(), suspended=frozenset({reason}))

    assert view_of(frozen, GENERATIONS, AROUND).suspended
    assert not view_of(status(), GENERATIONS, AROUND).suspended
