"""``xlss``: the entry of both daemons and of people's commands.

The daemons are dispatched before anything for people is imported: typer and rich would cost them
start-up time and memory that they are held to.
"""

from __future__ import annotations

import os
import sys

from node_agent.version import VERSION

DAEMONS = ("controller", "node")


def main() -> int:
    arguments = sys.argv[1:]
    # gRPC's own messages are no JSON, and what matters of them is in our errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if arguments in (["--version"], ["version"]):
        print(f"xlss {VERSION}")
        return 0
    if arguments and arguments[0] in DAEMONS:
        from cli.daemons import run_daemon

        return run_daemon(arguments[0], arguments[1:])
    from cli.people import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
