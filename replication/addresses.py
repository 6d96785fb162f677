"""Addresses in the kernel's form: struct sockaddr_in and sockaddr_in6 (ip(7), ipv6(7))."""

from __future__ import annotations

import ipaddress
import socket
import struct

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
