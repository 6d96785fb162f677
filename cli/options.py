"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SocketOption = Annotated[
    Path,
    typer.Option("--socket", "-s", envvar="XLSS_SOCKET", help="The csi_socket of the controller."),
]
