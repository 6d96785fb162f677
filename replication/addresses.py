"""Addresses of replicas, and their form in the kernel: struct sockaddr_in and sockaddr_in6.

Source: ip(7), ipv6(7).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

from host.errors import InUse, Missing

_FAMILY = struct.Struct("=H")
_PORT = struct.Struct("!H")


def pack(address: str, port: int) -> bytes:
    """The kernel's form of an address and a port."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return _FAMILY.pack(socket.AF_INET) + _PORT.pack(port) + parsed.packed + bytes(8)
    head = _FAMILY.pack(socket.AF_INET6) + _PORT.pack(port)
    return head + bytes(4) + parsed.packed + bytes(4)


def unpack(data: bytes) -> str | None:
    """``10.0.0.2:7000`` or ``[fd00::2]:7000``; None for what is neither IPv4 nor IPv6."""
    if len(data) < _FAMILY.size + _PORT.size:
        return None
    family = _FAMILY.unpack_from(data)[0]
    port = _PORT.unpack_from(data, _FAMILY.size)[0]
    if family == socket.AF_INET and len(data) >= 8:
        return join(str(ipaddress.IPv4Address(data[4:8])), port)
    if family == socket.AF_INET6 and len(data) >= 24:
        return join(str(ipaddress.IPv6Address(data[8:24])), port)
    return None


def join(address: str, port: int) -> str:
    """Address and port as one text."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def require_free(address: str, port: int) -> None:
    """DRBD can listen there: the module itself only goes back to standing alone where it cannot.

    Raises InUse where another program has the port, Missing where this node has no such address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # As the module does; without it a connection that has just ended would count.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place = join(address, port)
        try:
            trial.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InUse(
                    f"another program listens at {place}, which a replica needs: find it with "
                    f"'ss -ltnp sport = :{port}', and give it another port"
                ) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise Missing(f"this node has no address {address}, where a replica is") from error
            raise
