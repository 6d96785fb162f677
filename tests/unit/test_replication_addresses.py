"""Where a replica is to listen: what is told where it cannot."""

from __future__ import annotations

import socket

import pytest

from host.errors import InUse, Missing
from replication.addresses import require_free


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_the_port_of_another_program_is_told(address: str, everywhere: bool) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    where = "" if everywhere else address
    with socket.create_server((where, 0), family=family) as other:
        port = other.getsockname()[1]
        with pytest.raises(InUse, match=f"another program listens at .*:{port}"):
            require_free(address, port)
    require_free(address, port)


def test_connections_that_have_ended_there_do_not_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            pass
    require_free("127.0.0.1", port)


def test_an_address_that_is_not_of_this_node_is_told() -> None:
    with pytest.raises(Missing, match=r"no address 192\.0\.2\.1"):
        require_free("192.0.2.1", 11000)
