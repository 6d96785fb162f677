"""``xlss recover-store``: rebuild the store of a controller from what the nodes hold."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Output, OutputOption, console, print_json, print_table, progress
from cluster.errors import InvalidArgument
from cluster.recover import Recovery, recover
from cluster.sqlite_store import rebuilt_store
from csi.controller.config import load_controller_config
from node_agent.client import GrpcAgents


def recover_store(
    config: Annotated[
        Path, typer.Option("--config", help="The configuration of the controller.")
    ] = Path("/etc/xlss/controller.toml"),
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-missing",
            metavar="NODE",
            help="Go on without this node: what it holds will be unknown. Repeatable.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Rebuild a lost or damaged store from the nodes. The controller must not be running.

    A store that is sound and holds records is never touched; a damaged one is kept beside the new.
    """
    settings = load_controller_config(config)
    missing = set(allow_missing or ())
    if unknown := missing - set(settings.nodes):
        raise InvalidArgument(
            f"--allow-missing {', '.join(sorted(unknown))}: the configuration has only"
            f" {', '.join(settings.nodes)}"
        )
    agents = GrpcAgents(settings.nodes, settings.tls_directory, call_seconds=settings.call_seconds)
    settings.store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with rebuilt_store(settings.store) as store, progress.status(_asked(settings.nodes)):
            found = recover(store, agents, missing)
    finally:
        agents.close()
    if output is Output.JSON:
        print_json(found)
    else:
        _print(found, settings.store)
    if found.differences:
        raise typer.Exit(2)


def _asked(nodes: Collection[str]) -> str:
    return f"asking {', '.join(nodes)} for what they hold …"


def _print(found: Recovery, store: Path) -> None:
    console.print(
        f"{store}: {found.volumes} volumes, {found.snapshots} snapshots and {found.groups} group"
        " snapshots",
        highlight=False,
        markup=False,
    )
    if not found.differences:
        return
    print_table(
        ["look at", "node", "object", "what it is"],
        [(one.kind, one.node, one.object_id, one.text) for one in found.differences],
    )
