"""People's commands: all that ``xlss`` does besides the two daemons."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from cli import certs, nodes, preflight, recover_store, snapshots, status, volume, volumes
from cli.daemons import run_daemon
from cli.failures import EXPECTED
from node_agent.certificates import CertificateError

app = typer.Typer(
    name="xlss",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="LVM volumes for Kubernetes and CSI: state, certificates, recovery.",
)
app.command("status")(status.status)
app.command("nodes")(nodes.nodes)
app.command("volumes")(volumes.volumes)
app.command("snapshots")(snapshots.snapshots)
app.command("preflight")(preflight.preflight)
app.command("recover-store")(recover_store.recover_store)
app.add_typer(volume.app, name="volume")
app.add_typer(certs.app, name="certs")

# cli/main.py starts the daemons without coming here; these entries are for the list of commands.
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


@app.command("controller", context_settings=_PASS_ON, add_help_option=False)
def _controller(context: typer.Context) -> None:
    """Run the controller (started by a supervisor, not by hand)."""
    raise typer.Exit(run_daemon("controller", context.args))


@app.command("node", context_settings=_PASS_ON, add_help_option=False)
def _node(context: typer.Context) -> None:
    """Run the agent of a storage node (started by a supervisor, not by hand)."""
    raise typer.Exit(run_daemon("node", context.args))


def run(arguments: Sequence[str]) -> int:
    """Run a command; it ends the process. What went wrong is one line on standard error."""
    try:
        app(args=list(arguments), prog_name="xlss")
    except (CertificateError, *EXPECTED) as error:
        print(f"xlss: {error}", file=sys.stderr)
    return 1
