"""The controller process: everything that it is made of, put together, served, and taken down."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from cluster.groups import Groups
from cluster.locks import ObjectLocks
from cluster.pools import PoolLedger
from cluster.reconcile import Reconciler
from cluster.reconcile_loop import ReconcileLoop
from cluster.snapshots import Snapshots
from cluster.sqlite_store import SqliteStore
from cluster.store import Store
from cluster.volumes import Volumes
from csi.controller.admin import AdminService
from csi.controller.admin_changes import ReplicationParts
from csi.controller.config import ControllerConfig
from csi.controller.groups import GroupController
from csi.controller.metrics import ClusterCollector, ObservedStore, ReplicationCollector
from csi.controller.service import Controller
from csi.identity import Identity
from csi.rpc import admin_pb2_grpc
from csi.server import serve_controller
from csi.stop_signal import StopSignal
from node_agent.client import GrpcAgents
from node_agent.metrics import Metrics, MetricsServer
from node_agent.replication_key import ReplicationKey
from node_agent.version import VERSION
from recovery.arbiter import Arbiter
from recovery.arbiter_service import ArbiterServer
from recovery.decisions import Decisions
from recovery.failover_loop import FailoverLoop
from recovery.repair_loop import RepairLoop
from recovery.replica_changes import ReplicaChanges
from recovery.verification import Verification
from replication import arbiter_rules

_log = logging.getLogger(__name__)
# Calls under way when SIGTERM comes get so long to end; what is cut off is taken up when it is
# repeated. Kubernetes kills after 30 seconds.
_GRACE_SECONDS = 10.0
# An answer of the arbiter is one write to the store.
_ARBITER_GRACE_SECONDS = 2.0


def run_controller(config: ControllerConfig) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Nodes need not answer for that. Raises Refused when another controller has the store, DataLoss
    when the store is lost or damaged, SocketError when the socket cannot be served.
    """
    with StopSignal() as stop, ExitStack() as stack:
        _start(config, stack)
        _log.info("serving", extra={"socket": str(config.csi_socket), "version": VERSION})
        stop.wait()
        _log.info("stopping")
    return 0


def _start(config: ControllerConfig, stack: ExitStack) -> None:
    """Start all parts; the stack ends them in the opposite order."""
    key = ReplicationKey(config.tls_directory) if config.arbiter_listen else None
    metrics = Metrics("controller")
    config.store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = ObservedStore(SqliteStore(config.store), metrics)
    stack.callback(store.close)
    arbiter = None
    if key is not None:
        arbiter = _start_arbiter(config, store, key, metrics, stack)
    agents = GrpcAgents(
        config.nodes,
        config.tls_directory,
        call_seconds=config.call_seconds,
        observe=metrics.observe_made,
    )
    pools = PoolLedger(agents, domain_key=config.failure_domain)
    agents.tell_of_silence(pools.doubt)
    locks = ObjectLocks()
    reconciler = Reconciler(store, agents, pools, locks)
    changes = parts = repair = None
    volumes = Volumes(store, agents, pools, locks)
    if arbiter is not None:
        volumes = Volumes(store, agents, pools, locks, arbiter_rules, arbiter.not_yet)
        changes = ReplicaChanges(store, agents, pools, locks, arbiter)
        seconds = config.repair_after_seconds
        repair = RepairLoop(
            store, arbiter.followed, changes, config.nodes, repair_after_seconds=seconds
        )
        verification = Verification(store, agents, interval_seconds=config.verify_interval_seconds)
        decisions = Decisions(store, locks, arbiter)
        parts = ReplicationParts(arbiter.followed, decisions, verification, changes)
        metrics.register(ReplicationCollector(arbiter))
    metrics.register(ClusterCollector(store, pools, reconciler))
    if config.metrics_listen:
        stack.callback(MetricsServer(metrics, config.metrics_listen).close)
    loop = ReconcileLoop(reconciler, pools, interval_seconds=config.reconcile_seconds)
    admin = AdminService(store, agents, config.nodes, reconciler, parts)
    server = serve_controller(
        config.csi_socket,
        Identity(),
        Controller(
            volumes,
            Snapshots(store, agents, locks),
            advertise_health=config.advertise_health,
            changes=changes,
        ),
        GroupController(Groups(store, agents, locks)),
        others=[lambda server: admin_pb2_grpc.add_AdminServicer_to_server(admin, server)],
        observe=metrics.observe_served,
    )
    loop.start()
    stack.callback(loop.stop)
    if parts is not None and repair is not None:
        parts.verification.start()
        stack.callback(parts.verification.stop)
        repair.start()
        stack.callback(repair.stop)
    stack.callback(admin.close)
    # With their channels closed, calls to agents end at once, and with them all who wait for one.
    stack.callback(agents.close)
    stack.callback(server.stop, _GRACE_SECONDS)


def _start_arbiter(
    config: ControllerConfig,
    store: Store,
    key: ReplicationKey,
    metrics: Metrics,
    stack: ExitStack,
) -> Arbiter:
    """What the agents of replicated volumes call; it needs nothing but the store."""
    arbiter = Arbiter(store, key.secret)
    arbiter.start()
    stack.callback(arbiter.stop)
    failover = FailoverLoop(arbiter.followed, config.nodes)
    failover.start()
    stack.callback(failover.stop)
    server = ArbiterServer(
        arbiter,
        config.nodes,
        config.arbiter_listen,
        config.tls_directory,
        observe=metrics.observe_served,
    )
    stack.callback(server.stop, _ARBITER_GRACE_SECONDS)
    return arbiter
