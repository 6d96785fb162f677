"""Mutual TLS between the controller and the agents: who may call, and who is called.

A certificate says who somebody is, and the name decides what they may do: on an agent's port only
the controller is served, on the arbiter's each node for itself.

TLS 1.3 only; how, is said in ``node_agent/__init__.py``, and proved with other implementations in
``tests/unit/test_certificates.py``.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import grpc.experimental

import node_agent

AUTHORITY_FILE = "ca.crt"
CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"

CONTROLLER = "controller.xlss"
_NODE_SUFFIX = ".node.xlss"
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,240}[a-z0-9])?")

# id-ecPublicKey (RFC 5480) in DER: the type of the key that a certificate is for.
_EC_KEY = bytes.fromhex("06072a8648ce3d0201")

# A node that lost its power does not close its connections: pings find out.
_KEEPALIVE_SECONDS = 10
_KEEPALIVE_TIMEOUT_SECONDS = 5
# The inventory of 10,000 volumes has some 20 MB.
_MAX_ANSWER_BYTES = 64 << 20
_MAX_REQUEST_BYTES = 1 << 20

Option = tuple[str, int | str]

AGENT_SERVER_OPTIONS: tuple[Option, ...] = (
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", _MAX_ANSWER_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_SECONDS * 500),
    ("grpc.keepalive_permit_without_calls", 1),
)
ARBITER_SERVER_OPTIONS: tuple[Option, ...] = (
    *AGENT_SERVER_OPTIONS,
    # A stream to a node that lost its power keeps a thread until this finds out.
    ("grpc.keepalive_time_ms", _KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_SECONDS * 1000),
)
AGENT_CHANNEL_OPTIONS: tuple[Option, ...] = (
    ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A node that comes back is used at once, not after the default's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3000),
)
ARBITER_CHANNEL_OPTIONS: tuple[Option, ...] = (
    *AGENT_CHANNEL_OPTIONS,
    # Who waits for a message of the stream waits in gRPC's core. Else it looks ten times a second
    # whether another thread has one, which looks five times.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
)


class TlsFilesError(Exception):
    """Certificate or key cannot be read or do not fit together; the text names the directory."""


class PeerRefused(Exception):
    """The caller is not one that this server serves."""


def node_identity(node: str) -> str:
    """The name in a node's certificate. Raises ValueError for a name that cannot be one."""
    if not _NODE_NAME.fullmatch(node):
        raise ValueError(f"{node[:64]!r} cannot be the name of a node in a certificate")
    return node + _NODE_SUFFIX


@dataclass(frozen=True)
class TlsFiles:
    """Key, certificate and authority as they were read together. The key is in no ``repr``."""

    authority: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"TlsFiles({len(self.certificate)} bytes of certificate)"


def load(directory: Path) -> TlsFiles:
    """Read a holder's directory.

    Raises TlsFilesError, also when key and certificate differ, or are not ECDSA.
    """
    if not node_agent.TLS_1_2_IS_OUT:
        raise RuntimeError("gRPC was imported before node_agent, and would agree on TLS 1.2")
    try:
        files = TlsFiles(
            authority=(directory / AUTHORITY_FILE).read_bytes(),
            certificate=(directory / CERTIFICATE_FILE).read_bytes(),
            key=(directory / KEY_FILE).read_bytes(),
        )
        # This compares the key with the certificate, which gRPC only does in the handshake.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # An empty password, or a key that has one would make it ask the terminal.
        context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE, password="")
        context.load_verify_locations(directory / AUTHORITY_FILE)
        if _EC_KEY not in ssl.PEM_cert_to_DER_cert(_first(files.certificate.decode())):
            raise TlsFilesError(f"{directory}: not an ECDSA certificate: TLS 1.2 could come in")
    except (OSError, ValueError) as error:  # of which ssl.SSLError is one
        raise TlsFilesError(f"{directory}: {error}") from error
    return files


def _first(chain: str) -> str:
    """The holder's own certificate, which comes first in a file with intermediate ones."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return begin + chain.partition(begin)[2].partition(end)[0] + end


def version(directory: Path) -> tuple[int, ...]:
    """Changes whenever a file of the directory is replaced; empty while one is missing."""
    stamps: list[int] = []
    for name in (AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE):
        try:
            found = (directory / name).stat()
        except OSError:
            return ()
        stamps += [found.st_ino, found.st_mtime_ns]
    return tuple(stamps)


class _Reloading:
    """Gives gRPC the current files of a directory at every handshake."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._version = version(directory)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            found = version(self._directory)
            if found == self._version:
                return None
            # Caught between the replacement of the key and that of the certificate, the old
            # pair serves on, and the next handshake looks again.
            with contextlib.suppress(TlsFilesError):
                configuration = _server_configuration(load(self._directory))
                self._version = found
                return configuration
            return None


def _server_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificate)], root_certificates=files.authority
    )


def server_credentials(directory: Path) -> grpc.ServerCredentials:
    """Credentials of an agent; its callers must have a certificate of the same authority.

    A renewed certificate is used from the next handshake on. Raises TlsFilesError.
    """
    # The stubs do not know that None means "no change".
    fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], _Reloading(directory))
    return grpc.dynamic_ssl_server_credentials(
        _server_configuration(load(directory)), fetch, require_client_authentication=True
    )


def agent_channel(
    address: str, node: str, directory: Path, options: Sequence[Option] = AGENT_CHANNEL_OPTIONS
) -> grpc.Channel:
    """A channel to the agent of ``node`` at ``address``, with the controller's certificate.

    An agent with another node's certificate is not talked to. The channel keeps the certificate
    with which it was made: make a new one when ``version(directory)`` changes. Raises
    TlsFilesError.
    """
    return _channel(address, node_identity(node), directory, options)


def controller_channel(address: str, directory: Path) -> grpc.Channel:
    """A channel to a controller's arbiter, with a node's certificate; else as ``agent_channel``."""
    return _channel(address, CONTROLLER, directory, ARBITER_CHANNEL_OPTIONS)


def _channel(
    address: str, identity: str, directory: Path, options: Sequence[Option]
) -> grpc.Channel:
    files = load(directory)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=files.authority,
        private_key=files.key,
        certificate_chain=files.certificate,
    )
    name: Option = ("grpc.ssl_target_name_override", identity)
    return grpc.secure_channel(address, credentials, options=[*options, name])


def require_peer(*identities: str) -> Callable[[grpc.ServicerContext], None]:
    """A check for the server's interceptor: the caller's certificate must name one of these.

    It raises PeerRefused.
    """
    accepted = frozenset(identities)

    def check(context: grpc.ServicerContext) -> None:
        names = _names(context)
        if not names & accepted:
            raise PeerRefused(
                f"this agent serves {', '.join(sorted(accepted))}; "
                f"the certificate names {_shown(names)}"
            )

    return check


def require_node(context: grpc.ServicerContext, node: str) -> None:
    """Raises PeerRefused unless the caller's certificate is that of the node it speaks for.

    Raises ValueError for what cannot be the name of a node.
    """
    names = _names(context)
    if node_identity(node) not in names:
        raise PeerRefused(
            f"a node speaks for itself only: not for {node}; the certificate names {_shown(names)}"
        )


def _names(context: grpc.ServicerContext) -> frozenset[str]:
    """Those in the caller's certificate."""
    properties = cast(Mapping[str, Sequence[bytes]], context.auth_context())
    found = properties.get("x509_subject_alternative_name", ())
    return frozenset(name.decode(errors="replace") for name in found)


def _shown(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))[:256] or "nobody"
