"""How faults are made in a node: the commands behind `lab.node.Node`'s methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.network import Direction

# What arrives has no queue of its own: it goes through a device that has one.
_ARRIVING = (
    "modprobe -a sch_netem sch_ingress cls_matchall act_mirred; modprobe ifb numifbs=0;"
    " ip link show arriving >/dev/null 2>&1 || ip link add arriving type ifb;"
    " ip link set arriving up; tc qdisc replace dev arriving root netem {rule};"
    " tc qdisc add dev eth0 ingress; tc filter add dev eth0 parent ffff: matchall"
    " action mirred egress redirect dev arriving"
)
_LEAVING = "modprobe sch_netem; tc qdisc replace dev eth0 root netem {rule}"
_CALM = "for queue in root ingress; do tc qdisc del dev eth0 $queue 2>/dev/null || true; done"


def disturb_script(rule: str, direction: Direction) -> str:
    """A bash script that replaces what disturbs eth0 by this rule of tc-netem(8), or by none."""
    steps = [_CALM]
    if rule and direction in ("out", "both"):
        steps.append(_LEAVING.format(rule=rule))
    if rule and direction in ("in", "both"):
        steps.append(_ARRIVING.format(rule=rule))
    return "; ".join(steps)


def signal_argv(name: str, which: int | str) -> list[str]:
    """A command that signals a process id, or all whose command line matches (pkill -f)."""
    if isinstance(which, int):
        return ["kill", f"-{name}", str(which)]
    return ["pkill", f"-{name}", "-f", "--", which]


def kernel_pid(unshare: int) -> int:
    """The host's process id of a node's kernel: below `unshare`, its parent, is a shell."""
    return _only_child(_only_child(unshare))


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
