"""A real HTTP proxy on loopback, and certificates of a private authority."""

import asyncio
import base64
import contextlib
import datetime as dt
import ipaddress
import ssl
from urllib.parse import urlsplit

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from loopback import LoopbackServer


class Proxy(LoopbackServer):
    """A proxy that opens tunnels (CONNECT), and forwards requests for http URLs.

    Attributes:
        targets: What clients asked for: ``host:port`` of tunnels, URLs of other requests.
        heads: Request line and headers of each request to the proxy.
        refusal: A status line such as ``403 Forbidden``, the answer to everything; or None.
        credentials: The ``user:password`` that the proxy demands; or None.
        route: The host and port that every tunnel leads to, instead of the one asked for; or None.
    """

    def __init__(self):
        super().__init__()
        self.targets = []
        self.heads = []
        self.refusal = self.credentials = self.route = None

    @property
    def url(self):
        return self.origin

    async def serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.partition(b"\r\n")[0].decode().split(" ")
        self.targets.append(target)
        self.heads.append(head)
        token = base64.b64encode((self.credentials or "").encode())
        if self.credentials and b"\r\nProxy-Authorization: Basic %b\r\n" % token not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        if self.refusal:
            writer.write(f"HTTP/1.1 {self.refusal}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        parts = urlsplit(target if method != "CONNECT" else f"//{target}")
        host, port = self.route or (parts.hostname, parts.port or 80)
        remote, to_remote = await asyncio.open_connection(host, port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = target.removeprefix(f"{parts.scheme}://{parts.netloc}")
                to_remote.write(head.replace(target.encode(), path.encode(), 1))
            await asyncio.gather(_copy(reader, to_remote), _copy(remote, writer))
        finally:
            to_remote.close()


async def _copy(reader, writer):
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@attrs.frozen
class Authority:
    """A private certificate authority; `file` contains its certificate."""

    folder: object
    key: object = attrs.field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __attrs_post_init__(self):
        made = self._build("private authority", self.key, x509.BasicConstraints(True, None))
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    @property
    def file(self):
        return self.folder / "authority.pem"

    def certificate(self, *names):
        """Return a PEM file with a certificate for host names or addresses, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        found = x509.SubjectAlternativeName([_general_name(name) for name in names])
        made = self._build(names[0], key, found)
        form = serialization.PrivateFormat.PKCS8
        pem = serialization.Encoding.PEM
        path = self.folder / f"{names[0]}.pem"
        path.write_bytes(
            key.private_bytes(pem, form, serialization.NoEncryption()) + made.public_bytes(pem)
        )
        return path

    def server_context(self, *names, demand_certificate=False):
        """Return the TLS context of a server; it can demand a certificate of this authority."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate(*names))
        if demand_certificate:
            context.load_verify_locations(self.file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _build(self, name, key, extension):
        """Return a certificate with all that Python 3.13 demands (`ssl.VERIFY_X509_STRICT`)."""
        now = dt.datetime.now(dt.UTC)
        is_authority = isinstance(extension, x509.BasicConstraints)
        usage = dict.fromkeys(_USAGES, False) | {
            "digital_signature": not is_authority,
            "key_cert_sign": is_authority,
        }
        own, issuer = key.public_key(), self.key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(_common_name(name))
            .issuer_name(_common_name("private authority"))
            .public_key(own)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(extension, critical=is_authority)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _common_name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general_name(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
