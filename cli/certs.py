"""``xlss certs``: the certificates of controllers and nodes, from an authority of one's own.

One directory holds everything that was issued, on a machine that only administrators reach::

    authority/        ca.crt ca.key               stays here
    controller/       ca.crt tls.crt tls.key      to the controllers' tls_directory
                      replication.key
    nodes/<name>/     ca.crt tls.crt tls.key      to the tls_directory of that node
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Output, OutputOption, console, print_json, print_table
from cluster.errors import InvalidArgument
from node_agent import certificates
from node_agent.tls import CERTIFICATE_FILE

app = typer.Typer(no_args_is_help=True, help="Make, show and renew the certificates.")

DirectoryOption = Annotated[
    Path, typer.Option("--directory", "-d", help="Where the authority and all it issued is kept.")
]
DaysOption = Annotated[int, typer.Option("--days", min=1, help="Validity in days.")]
_DEFAULT_DIRECTORY = Path("/etc/xlss/certs")


@app.command()
def init(directory: DirectoryOption = _DEFAULT_DIRECTORY) -> None:
    """Make the authority, and the certificate and the replication key of the controllers."""
    certificates.init(directory)
    console.print(f"{directory / 'authority'}: the authority; keep its key off all other machines")
    console.print(f"{directory / 'controller'}: to the controllers' tls_directory")


@app.command()
def issue(
    nodes: Annotated[
        list[str], typer.Option("--node", help="Name of a node, as in its node.toml; repeatable.")
    ],
    directory: DirectoryOption = _DEFAULT_DIRECTORY,
    days: DaysOption = certificates.CERTIFICATE_DAYS,
) -> None:
    """Make a new key and certificate for each node, in place of any former one."""
    for node in nodes:
        holder = directory / "nodes" / node
        try:
            certificates.issue_node(directory / "authority", holder, node, days=days)
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        console.print(f"{holder}: to the tls_directory of {node}")


@app.command()
def renew(
    directory: DirectoryOption = _DEFAULT_DIRECTORY,
    before: Annotated[
        float, typer.Option("--before", help="Renew what ends within so many days.")
    ] = 30,
    days: DaysOption = certificates.CERTIFICATE_DAYS,
) -> None:
    """Issue anew what ends soon. Running processes take the new files up by themselves."""
    for holder in _holders(directory):
        if certificates.renew(directory / "authority", holder, before_days=before, days=days):
            console.print(f"{holder}: renewed")
        else:
            console.print(f"{holder}: still good")


@app.command()
def show(
    directory: DirectoryOption = _DEFAULT_DIRECTORY, output: OutputOption = Output.TABLE
) -> None:
    """Whose certificates there are, and how long they last."""
    now = datetime.now(UTC)
    found = [(holder, certificates.status(holder)) for holder in _holders(directory)]
    if output is Output.JSON:
        print_json(
            [
                {
                    "directory": str(holder),
                    "identity": status.identity,
                    "not_after": status.not_after.isoformat(),
                    "days_left": round(status.days_left(now), 1),
                }
                for holder, status in found
            ]
        )
        return
    print_table(
        ["holder", "valid until", ">days left", "directory"],
        [
            (
                status.identity,
                f"{status.not_after:%Y-%m-%d %H:%M} UTC",
                f"{status.days_left(now):.0f}",
                str(holder),
            )
            for holder, status in found
        ],
    )


def _holders(directory: Path) -> Iterator[Path]:
    """The directories with a certificate: this one itself, or all that were issued below it."""
    candidates = (directory, directory / "controller", *sorted(directory.glob("nodes/*")))
    found = [path for path in candidates if (path / CERTIFICATE_FILE).exists()]
    if not found:
        raise InvalidArgument(f"{directory} holds no certificates: `xlss certs init` makes them")
    yield from found
