"""``xlss controller`` and ``xlss node``: the two processes that serve."""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from node_agent.logs import LogFormat, set_up_logging
from node_agent.request_id import current_request_id
from node_agent.toml_table import ConfigError

_log = logging.getLogger(__name__)
# sysexits.h: what a supervisor may take as "starting again will not help".
EXIT_CONFIG = 78
# mallopt(3)
_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1
_LARGE = 128 << 10  # bytes


def run_daemon(name: str, arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; failures are logged, not raised."""
    options = _parser(name).parse_args(arguments)
    # Where each thread is, to the log: for whoever finds that a call does not end.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    libc = ctypes.CDLL(None)
    # One heap for all threads: they take turns anyway, and each further heap costs memory.
    libc.mallopt(_M_ARENA_MAX, 1)
    # What LVM reports of hundreds of volumes is large and short-lived: it goes back to the kernel.
    # Left to itself the C library raises these limits with the first such piece that is freed.
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)
    try:
        return _controller(options) if name == "controller" else _node(options)
    except ConfigError as error:
        print(f"xlss {name}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except Exception as error:
        from cli.failures import EXPECTED  # it loads gRPC, which the node does not wait for

        if not isinstance(error, EXPECTED):
            raise
        _log.error("%s", error)
        return 1


def _parser(name: str) -> argparse.ArgumentParser:
    what = "the controller" if name == "controller" else "the agent of this storage node"
    parser = argparse.ArgumentParser(
        prog=f"xlss {name}", description=f"Run {what} until SIGTERM.", allow_abbrev=False
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(f"/etc/xlss/{name}.toml"),
        metavar="FILE",
        help="configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--log-format",
        choices=[str(choice) for choice in LogFormat],
        default=str(LogFormat.JSON),
        help="default: %(default)s",
    )
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        help="default: log_level of the configuration",
    )
    return parser


def _controller(options: argparse.Namespace) -> int:
    from csi.controller.config import load_controller_config
    from csi.controller.main import run_controller

    config = load_controller_config(options.config)
    _logging(options, config.log_level)
    return run_controller(config)


def _node(options: argparse.Namespace) -> int:
    from csi.node.main import run_node
    from node_agent.config import load_node_config

    config = load_node_config(options.config)
    _logging(options, config.log_level)
    return run_node(config)


def _logging(options: argparse.Namespace, configured_level: str) -> None:
    level = options.log_level or configured_level
    set_up_logging(LogFormat(options.log_format), level, current_request_id)
