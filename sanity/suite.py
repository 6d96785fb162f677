"""Run csi-sanity in a lab node, beside a real controller and a real node over unix sockets."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.csi_client import ControllerClient
from lab.deployment import AGENT_PORT, ARBITER_PORT, NODE_SOCKET, Deployment, Pool
from lab.errors import LabError
from lab.guest_process import GuestProcess
from lab.lab import Lab
from lab.node import Node
from lab.paths import CACHE, PROJECT, PYTHON
from sanity import report
from sanity.report import Spec
from sanity.variants import FOLDER, MIB, Variant

VERSION = "v5.5.0"
SECRET = "sanity-secret-that-must-not-leak"  # as in secrets.yaml
NODE_MEMORY = 640 * MIB
DISK = 24 << 30
SPEC_SECONDS = 300.0  # without the end of any spec: it hangs
SERVING_SECONDS = 90.0
# Identifiers of volumes, snapshots and groups, wherever they turn up.
_OURS = "[vsg][0-9a-f]{28}"
_STORE = "/var/lib/xlss/store.sqlite"
_CONTROLLER_SOCKET = "/run/xlss/controller.sock"
_LOG, _JUNIT = "/run/csi-sanity.log", "/run/csi-sanity.xml"

Progress = Callable[[int], None]
"""Is told how many specs have ended."""


@dataclass(frozen=True)
class Run:
    """A finished run of one variant."""

    variant: Variant
    specs: tuple[Spec, ...]
    problems: tuple[str, ...]
    seconds: float
    output: str

    def text(self) -> str:
        """What a person wants to read: counts, then every problem."""
        head = f"csi-sanity {VERSION}, {self.variant.name}: {report.summary(self.specs)}"
        return "\n".join([f"{head}, {self.seconds:.0f} s", *self.problems])


def find_binary() -> Path:
    """The csi-sanity that `scripts/setup.sh sanity` has built. Raises LabError."""
    places = [
        os.environ.get("CSI_SANITY", ""),
        f"{CACHE}/csi-sanity-{VERSION}/csi-sanity",
        shutil.which("csi-sanity") or "",
        str(Path.home() / "go" / "bin" / "csi-sanity"),
    ]
    for place in places:
        if place and Path(place).is_file():
            return Path(place)
    raise LabError("csi-sanity is not there: run scripts/setup.sh sanity")


def run_variant(lab: Lab, variant: Variant, progress: Progress = lambda done: None) -> Run:
    """Boot a node, run the whole suite in it, look at what is left, remove the node.

    Replicas need more nodes: the suite runs in the first one, beside the controller.
    """
    binary = find_binary()
    began = time.monotonic()
    names = [f"sanity-{variant.name}", *(f"peer-{n}" for n in range(1, variant.nodes))]
    nodes = lab.add_nodes(names, disks=(DISK,), memory=NODE_MEMORY)
    try:
        if variant.nodes > 1:
            # The suite calls once, where sidecars and kubelet call again: it would fail of
            # replicas that lose each other, starved by the nodes of other tests.
            for node in nodes:
                node.prefer()
        plugin = _Plugin(lab, nodes, variant)
        try:
            output, specs, problems = plugin.run(binary, progress)
        finally:
            plugin.close()
    finally:
        for node in nodes:
            lab.remove_node(node)
    return Run(variant, specs, tuple(problems), time.monotonic() - began, output)


class _Plugin:
    """Controller and node service of one lab node, both inside it: sockets cross no kernels."""

    def __init__(self, lab: Lab, nodes: Sequence[Node], variant: Variant) -> None:
        self._node, self._nodes, self._variant = nodes[0], nodes, variant
        self._deployment = Deployment(
            lab,
            nodes,
            pools=(Pool(settings={"thin_size": "80%"}),),
            replication=variant.nodes > 1,
            arbiter=self._node.address,
            name=f"sanity-{variant.name}",
        )
        self._controller = self._start_controller()

    def run(self, binary: Path, progress: Progress) -> tuple[str, tuple[Spec, ...], list[str]]:
        """Returns what the suite printed, its specs, and all problems."""
        process = self._node.spawn(self._suite(binary), log=_LOG)
        self._follow(process, progress)
        output = process.log()
        try:
            specs = report.parse_report(self._node.get(_JUNIT))
        except (LabError, ValueError) as error:
            return output, (), [f"no report: {error}\n{output[-4000:]}"]
        found = report.problems(specs, report.read_skips(FOLDER / "skips.toml"), self._variant.name)
        return output, specs, found + self._leftovers() + self._leaks()

    def close(self) -> None:
        self._deployment.close()

    def _start_controller(self) -> GuestProcess:
        names = [node.name for node in self._nodes]
        for name in names:
            self._deployment.spawn_agent(name)
        listen = f"{self._node.address}:{ARBITER_PORT}" if len(names) > 1 else ""
        lines = "".join(f'{node.name} = "{node.address}:{AGENT_PORT}"\n' for node in self._nodes)
        config = (
            f'csi_socket = "{_CONTROLLER_SOCKET}"\n'
            f'store = "{_STORE}"\n'
            f'tls_directory = "{self._deployment.tls / "controller"}"\n'
            f'arbiter_listen = "{listen}"\n'
            f"[nodes]\n{lines}"
        )
        self._node.put("/etc/xlss/controller.toml", config.encode())
        argv = [
            str(PYTHON),
            "-m",
            "cli.main",
            "controller",
            "--config",
            "/etc/xlss/controller.toml",
        ]
        controller = self._node.spawn(argv, log="/run/xlss-controller.log")
        for name in names:
            self._deployment.wait_for_agent(name)
        client = ControllerClient(self._node.grpc_target(_CONTROLLER_SOCKET))
        try:
            deadline = time.monotonic() + SERVING_SECONDS
            while not client.probe():
                if not controller.alive or time.monotonic() > deadline:
                    raise LabError(f"the controller does not serve: {controller.log()[-4000:]}")
                time.sleep(0.05)
        finally:
            client.close()
        return controller

    def _suite(self, binary: Path) -> list[str]:
        variant = self._variant
        return [
            str(binary),
            "--ginkgo.no-color",
            "--ginkgo.seed=1",
            f"--ginkgo.junit-report={_JUNIT}",
            f"--csi.endpoint=unix:{NODE_SOCKET}",
            f"--csi.controllerendpoint=unix:{_CONTROLLER_SOCKET}",
            "--csi.mountdir=/run/csi-sanity-mount",
            "--csi.stagingdir=/run/csi-sanity-staging",
            f"--csi.secrets={FOLDER / 'secrets.yaml'}",
            f"--csi.testvolumeparameters={variant.parameters}",
            f"--csi.testvolumemutableparameters={FOLDER / 'mutable.yaml'}",
            f"--csi.testvolumeaccesstype={variant.access}",
            f"--csi.testvolumesize={variant.size}",
            f"--csi.testvolumeexpandsize={variant.expanded}",
            "--csi.testnodevolumeattachlimit",
        ]

    def _follow(self, process: GuestProcess, progress: Progress) -> None:
        ended, deadline = 0, time.monotonic() + SPEC_SECONDS
        while process.alive:
            # Ginkgo prints a dot, or an S for a skip, as each spec ends.
            before, ended = ended, sum(map(process.log().count, "•S"))
            if ended > before:
                deadline = time.monotonic() + SPEC_SECONDS
            elif time.monotonic() > deadline:
                process.kill()
                return
            progress(ended)
            time.sleep(1.0)

    def _leftovers(self) -> list[str]:
        """Every trace of a volume or snapshot that the suite has left behind."""
        places = {
            "logical volumes": "lvs --noheadings -o lv_full_name,lv_tags",
            "device-mapper devices": "dmsetup ls",
            "mounts": "cat /proc/self/mountinfo",
            "files": "find /run/xlss /dev/mapper /dev/disk /run/csi-sanity* -print",
            "control groups": "find /sys/fs/cgroup -type d",
        }
        found = []
        for node, (what, command) in itertools.product(self._nodes, places.items()):
            lines = node.sh(
                f"{{ {command} || true; }} 2>/dev/null | {{ grep -E '{_OURS}' || true; }}"
            )
            if lines.text:
                found.append(f"LEFT BEHIND {what} in {node.name}:\n{lines.text}")
        return found + self._records()

    def _records(self) -> list[str]:
        """Records in the store's file: what the controller may have hidden from the lists."""
        self._controller.stop()
        dump = (
            "import sqlite3; "
            f"store = sqlite3.connect({_STORE!r}); "
            "print(*(row[0] for row in store.execute('SELECT value FROM record')), sep='\\n')"
        )
        text = self._node.run([str(PYTHON), "-c", dump], cwd=str(PROJECT)).text
        return [f"LEFT BEHIND records:\n{text}"] if text else []

    def _leaks(self) -> list[str]:
        logs = {node.name: self._deployment.agent(node.name).log() for node in self._nodes}
        logs["controller"] = self._controller.log()
        found = [f"SECRET in the log of the {name}" for name, log in logs.items() if SECRET in log]
        found += [
            f"TRACEBACK in the log of the {name}:\n{log[log.index('Traceback') :][:3000]}"
            for name, log in logs.items()
            if "Traceback" in log
        ]
        files = f"grep -rlF {SECRET} /var/lib/xlss /run/xlss /etc/xlss 2>/dev/null || true"
        paths = self._node.sh(files).text
        return found + ([f"SECRET in files:\n{paths}"] if paths else [])
