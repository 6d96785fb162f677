"""``xlss preflight``: can this machine be a storage node, and what would it lack."""

from __future__ import annotations

import os

import typer

from cli.output import Output, OutputOption, console, print_json, print_table
from host import preflight as of_volumes
from host.command import Runner
from replication import preflight as of_replicas


def preflight(output: OutputOption = Output.TABLE) -> None:
    """What this machine can do as a storage node. Changes nothing."""
    runner = Runner()
    found = [*of_volumes.look(runner), *of_replicas.look(runner)]
    if output is Output.JSON:
        print_json(found)
    else:
        print_table(
            ["", "what", "found", "without it"],
            [
                (
                    "ok" if one.found else "--",
                    one.subject,
                    one.detail,
                    f"no {one.needed_for}" if one.needed_for else "nothing works",
                )
                for one in found
            ],
        )
        if os.geteuid() != 0:
            console.print(
                "\nThis was looked at as another user than root, which `xlss node` needs."
            )
    if any(not one.found and not one.needed_for for one in found):
        raise typer.Exit(1)
