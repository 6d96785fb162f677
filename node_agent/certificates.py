"""The project's own certificate authority: made, used and renewed by ``xlss certs``.

ECDSA P-256 throughout: ``node_agent/tls.py`` relies on it to keep TLS 1.2 out. A certificate names
its holder in the subject alternative name, ``controller.xlss`` or ``<node>.node.xlss``. The name
decides what the holder may do, not the side of the connection that it is on: the controller calls
the agents, the nodes call the arbiter. A key stolen from a node opens no other node, since an agent
serves ``controller.xlss`` only.

A holder's directory has the files of a Kubernetes TLS secret: ``ca.crt``, ``tls.crt``, ``tls.key``.
The authority's has ``ca.crt`` and ``ca.key``, and belongs on no node. Every file is replaced
atomically; keys have mode 0600 from their first byte on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from host.file_replacement import replace_file
from node_agent import replication_key
from node_agent.tls import AUTHORITY_FILE, CERTIFICATE_FILE, CONTROLLER, KEY_FILE, node_identity

AUTHORITY_KEY_FILE = "ca.key"
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
# Nodes' clocks differ; a certificate that is not valid yet looks like an attack.
_BACKDATE = timedelta(minutes=5)


class CertificateError(Exception):
    """A certificate or key that cannot be made, read or used; the text says which file."""


@dataclass(frozen=True)
class CertificateStatus:
    """What a person asks of a holder's certificate."""

    identity: str
    not_after: datetime

    def days_left(self, now: datetime) -> float:
        return (self.not_after - now) / timedelta(days=1)


def init(directory: Path) -> None:
    """All that ``xlss certs init`` makes: the authority, and what the controllers need.

    In ``directory``/authority and ``directory``/controller. Raises CertificateError where there is
    an authority.
    """
    make_authority(directory / "authority")
    issue_controller(directory / "authority", directory / "controller")
    replication_key.make_key(directory / "controller")


def make_authority(directory: Path, *, days: int = AUTHORITY_DAYS) -> None:
    """Make a certificate authority. Raises CertificateError where one is already."""
    if (directory / AUTHORITY_KEY_FILE).exists():
        raise CertificateError(f"{directory} holds an authority already: its key is in use")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "XLSS certificate authority")])
    certificate = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(directory / AUTHORITY_KEY_FILE, _key_bytes(key), 0o600)
    _write(directory / AUTHORITY_FILE, _certificate_bytes(certificate), 0o644)


def issue_controller(authority: Path, directory: Path, *, days: int = CERTIFICATE_DAYS) -> None:
    """Make a new key and certificate for the controllers. Raises CertificateError."""
    issue(authority, directory, CONTROLLER, days=days)


def issue_node(
    authority: Path, directory: Path, node: str, *, days: int = CERTIFICATE_DAYS
) -> None:
    """Make a new key and certificate for a storage node. Raises CertificateError."""
    try:
        identity = node_identity(node)
    except ValueError as error:
        raise CertificateError(str(error)) from error
    issue(authority, directory, identity, days=days)


def issue(authority: Path, directory: Path, identity: str, *, days: int = CERTIFICATE_DAYS) -> None:
    """Write key, certificate and the authority's certificate of ``identity`` into ``directory``.

    What is there is replaced: a process that runs picks the new ones up by itself. Raises
    CertificateError.
    """
    authority_certificate = _load_certificate(authority / AUTHORITY_FILE)
    authority_key = _load_key(authority / AUTHORITY_KEY_FILE)
    if authority_key.public_key() != authority_certificate.public_key():
        raise CertificateError(f"{authority}: key and certificate do not belong together")
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    key = ec.generate_private_key(ec.SECP256R1())
    # The common name is for people and has room for 64 characters; what counts is the SAN.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity[:64])])
    certificate = (
        _builder(subject, authority_certificate.subject, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(identity)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    # The key comes before the certificate: readers take the pair only when it fits together.
    _write(directory / AUTHORITY_FILE, _certificate_bytes(authority_certificate), 0o644)
    _write(directory / KEY_FILE, _key_bytes(key), 0o600)
    _write(directory / CERTIFICATE_FILE, _certificate_bytes(certificate), 0o644)


def status(directory: Path) -> CertificateStatus:
    """Whose certificate it is and how long it lasts. Raises CertificateError."""
    path = directory / CERTIFICATE_FILE
    certificate = _load_certificate(path)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound as error:
        raise CertificateError(f"{path} names no holder") from error
    identities: Sequence[str] = names.value.get_values_for_type(x509.DNSName)
    if len(identities) != 1:
        raise CertificateError(f"{path} names {len(identities)} holders instead of one")
    return CertificateStatus(identities[0], certificate.not_valid_after_utc)


def renew(
    authority: Path, directory: Path, *, before_days: float = 30, days: int = CERTIFICATE_DAYS
) -> bool:
    """Issue the certificate in ``directory`` anew if it ends within ``before_days``.

    Returns whether it did. Raises CertificateError.
    """
    current = status(directory)
    if current.days_left(datetime.now(UTC)) > before_days:
        return False
    issue(authority, directory, current.identity, days=days)
    return True


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - _BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certificate_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"no certificate can be read from {path}: {error}") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise CertificateError(f"no key can be read from {path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"the key in {path} is not an elliptic curve key")
    return key


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file atomically; it survives a power failure whole, old or new."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, content, mode, durable=True)
    except OSError as error:
        raise CertificateError(f"{path} cannot be written: {error}") from error
