"""Mutual TLS: who gets in, who is kept out, and how certificates are renewed while in use."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from node_agent import certificates, tls
from node_agent.certificates import CertificateError, issue, issue_controller, issue_node
from node_agent.interceptors import ServerInterceptor
from node_agent.rpc import node_agent_pb2, node_agent_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]


class Agent(node_agent_pb2_grpc.NodeAgentServicer):
    def GetInventory(self, request, context):
        return node_agent_pb2.Inventory(node="n1")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An authority, the certificate of node n1 and that of the controller."""
    certificates.make_authority(tmp_path / "authority")
    issue_node(tmp_path / "authority", tmp_path / "n1", "n1")
    issue_controller(tmp_path / "authority", tmp_path / "controller")
    return tmp_path


@contextmanager
def agent_with(files: Path) -> Iterator[int]:
    """The port of an agent that serves with these certificates."""
    interceptor = ServerInterceptor(authorize=tls.require_peer(tls.CONTROLLER))
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(
            pool, interceptors=[interceptor], options=list(tls.AGENT_SERVER_OPTIONS)
        )
        node_agent_pb2_grpc.add_NodeAgentServicer_to_server(Agent(), server)
        port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(files))
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


def ask(port: int, files: Path, node: str = "n1") -> str:
    with tls.agent_channel(f"127.0.0.1:{port}", node, files) as channel:
        stub = node_agent_pb2_grpc.NodeAgentStub(channel)
        return stub.GetInventory(node_agent_pb2.GetInventoryRequest(), timeout=10).node


def refused(port: int, files: Path, node: str = "n1") -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        ask(port, files, node)
    return caught.value.code()


def test_the_controller_reaches_the_agent_that_it_means(directory: Path) -> None:
    with agent_with(directory / "n1") as port:
        assert ask(port, directory / "controller") == "n1"
        assert refused(port, directory / "controller", "n2") is grpc.StatusCode.UNAVAILABLE


def test_a_node_cannot_act_as_the_controller(directory: Path) -> None:
    """Its certificate is good, and its name is not the one that an agent serves."""
    issue_node(directory / "authority", directory / "n2", "n2")
    with agent_with(directory / "n1") as port:
        assert refused(port, directory / "n2") is grpc.StatusCode.PERMISSION_DENIED


def test_a_client_certificate_of_another_identity_is_refused_by_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that the authority has made for a client."""
    monkeypatch.setattr(certificates, "CONTROLLER", "backup.xlss")
    issue(directory / "authority", directory / "backup", "backup.xlss")
    with (
        agent_with(directory / "n1") as port,
        pytest.raises(grpc.RpcError, match=r"the certificate names backup\.xlss") as caught,
    ):
        ask(port, directory / "backup")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_an_expired_certificate_is_refused_on_either_side(directory: Path) -> None:
    issue_controller(directory / "authority", directory / "old", days=-1)
    with agent_with(directory / "n1") as port:
        assert refused(port, directory / "old") is grpc.StatusCode.UNAVAILABLE
    issue_node(directory / "authority", directory / "n1", "n1", days=-1)
    with agent_with(directory / "n1") as port:
        assert refused(port, directory / "controller") is grpc.StatusCode.UNAVAILABLE


def test_the_certificate_of_another_authority_is_refused_on_either_side(directory: Path) -> None:
    certificates.make_authority(directory / "foreign")
    issue_controller(directory / "foreign", directory / "intruder")
    with agent_with(directory / "n1") as port:
        assert refused(port, directory / "intruder") is grpc.StatusCode.UNAVAILABLE
        # An intruder that trusts our authority, and shows a certificate of its own.
        (directory / "intruder/ca.crt").write_bytes((directory / "n1/ca.crt").read_bytes())
        assert refused(port, directory / "intruder") is grpc.StatusCode.UNAVAILABLE


def test_nobody_gets_in_without_a_certificate(directory: Path) -> None:
    authority = (directory / "n1/ca.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    name = [("grpc.ssl_target_name_override", "n1.node.xlss")]
    with (
        agent_with(directory / "n1") as port,
        grpc.secure_channel(f"127.0.0.1:{port}", credentials, name) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        stub = node_agent_pb2_grpc.NodeAgentStub(channel)
        stub.GetInventory(node_agent_pb2.GetInventoryRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def handshake(port: int, directory: Path, tls_version: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context(cafile=str(directory / "n1/ca.crt"))
    context.load_cert_chain(directory / "controller/tls.crt", directory / "controller/tls.key")
    context.minimum_version = context.maximum_version = tls_version
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="n1.node.xlss") as wrapped,
    ):
        return wrapped.version()


def test_the_agent_speaks_tls_1_3_and_nothing_older(directory: Path) -> None:
    with agent_with(directory / "n1") as port:
        assert handshake(port, directory, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(port, directory, ssl.TLSVersion.TLSv1_2)


def test_the_controller_speaks_tls_1_3_and_nothing_older(directory: Path) -> None:
    """To a server that knows no more than TLS 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "n1/tls.crt", directory / "n1/tls.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def accept() -> str | None:
            connection, _ = listener.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except (ssl.SSLError, ConnectionError):
                    return None
                return "agreed"

        outcome = pool.submit(accept)
        assert refused(listener.getsockname()[1], directory / "controller") in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
        assert outcome.result() is None


@pytest.mark.parametrize("first", ["cli", "csi", "node_agent.interceptors"])
def test_our_packages_bring_grpc_in_with_tls_1_2_left_out(first: str) -> None:
    program = f"import {first}, grpc, node_agent; assert node_agent.TLS_1_2_IS_OUT"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_process_in_which_the_setting_came_too_late_does_not_serve(directory: Path) -> None:
    program = """
import sys, pathlib
import grpc
from node_agent import tls
tls.server_credentials(pathlib.Path(sys.argv[1]))
"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, directory / "n1"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert "gRPC was imported before node_agent" in done.stderr


def test_a_certificate_that_would_let_tls_1_2_in_is_not_used(directory: Path) -> None:
    """One of RSA, from an authority of somebody else."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n1.node.xlss")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("n1.node.xlss")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (directory / "n1/ca.crt").write_bytes(pem)
    # An intermediate certificate of ECDSA behind it does not change what it is.
    (directory / "n1/tls.crt").write_bytes(pem + (directory / "controller/tls.crt").read_bytes())
    (directory / "n1/tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(tls.TlsFilesError, match="not an ECDSA certificate"):
        tls.server_credentials(directory / "n1")


def test_a_renewed_certificate_is_used_without_a_restart(directory: Path) -> None:
    issue_node(directory / "authority", directory / "n1", "n1", days=5)
    with agent_with(directory / "n1") as port:
        before = served_certificate(port, directory)
        assert not certificates.renew(directory / "authority", directory / "n1", before_days=1)
        assert certificates.renew(directory / "authority", directory / "n1", before_days=30)
        after = served_certificate(port, directory)
        assert before != after
        assert ask(port, directory / "controller") == "n1"


def served_certificate(port: int, directory: Path) -> bytes | None:
    context = ssl.create_default_context(cafile=str(directory / "n1/ca.crt"))
    context.load_cert_chain(directory / "controller/tls.crt", directory / "controller/tls.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="n1.node.xlss") as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True)


def test_an_agent_serves_on_while_key_and_certificate_do_not_fit(directory: Path) -> None:
    """As between the replacement of the one and of the other."""
    with agent_with(directory / "n1") as port:
        other = directory / "other"
        issue_node(directory / "authority", other, "n1")
        (other / "tls.key").replace(directory / "n1/tls.key")
        with pytest.raises(tls.TlsFilesError):
            tls.load(directory / "n1")
        assert ask(port, directory / "controller") == "n1"
        (other / "tls.crt").replace(directory / "n1/tls.crt")
        assert ask(port, directory / "controller") == "n1"


def test_keys_are_for_their_owner_only(directory: Path) -> None:
    for key in (directory / "authority/ca.key", directory / "n1/tls.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sorted(path.name for path in (directory / "n1").iterdir()) == [
        "ca.crt",
        "tls.crt",
        "tls.key",
    ]
    assert b"PRIVATE" not in repr(tls.load(directory / "n1")).encode()


def test_an_authority_is_never_made_over_another(directory: Path) -> None:
    with pytest.raises(CertificateError, match="holds an authority already"):
        certificates.make_authority(directory / "authority")


def test_status_says_whose_certificate_it_is(directory: Path) -> None:
    assert certificates.status(directory / "n1").identity == "n1.node.xlss"
    with pytest.raises(CertificateError, match="no certificate can be read"):
        certificates.status(directory / "nowhere")


@pytest.mark.parametrize("name", ["", "../n1", "n1,n2", "N 1", "a" * 250])
def test_a_name_that_is_none_gets_no_certificate(directory: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="cannot be the name of a node"):
        issue_node(directory / "authority", directory / "x", name)
