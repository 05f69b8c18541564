"""TransportOptions: proxies, certificates, header limits and name resolution of connections."""

import errno
import os
import re
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address, ip_network
from os import PathLike
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import getproxies_environment

from aiohttp.abc import AbstractResolver
from attrs import field, frozen
from yarl import URL

from adepoll.common.redaction import Credentials, Secret, redact_url, showable
from adepoll.common.safe_repr import SafeRepr
from adepoll.common.system_errors import reason_of
from adepoll.errors import ConfigurationError
from adepoll.errors.frames import without_arguments


def _show_proxy(proxy: str | None) -> str:
    return repr(proxy and redact_url(proxy))


@without_arguments  # `proxy` can contain a password
@frozen(kw_only=True)
class TransportOptions(SafeRepr):
    """How an `AdeClient` and a `ResultFetcher` open their connections.

    Attributes:
        proxy: URL of a proxy for all requests: ``http://`` or ``https://``, with user and password
            if the proxy needs them. None for the proxies of the environment.
        trust_env: True to read the environment variables ``HTTP_PROXY``, ``HTTPS_PROXY``,
            ``ALL_PROXY`` and ``NO_PROXY`` when the client or fetcher is created. Names in lower
            case take precedence. ``NO_PROXY`` also applies to `proxy`. False to ignore the
            variables.
        ca_file: PEM file with certificates of authorities that are trusted in addition to those of
            the system. Use it for a proxy that inspects TLS, or for a service in your own network.
        client_certificate: PEM file with a certificate and its private key, which must not be
            encrypted, for servers that require a certificate.
        ssl_context: Your own TLS context. It excludes `ca_file` and `client_certificate`.
        max_header_bytes: Longest accepted header line of a response, in bytes.
        max_headers: Largest accepted number of response headers.
        resolver: Your own name resolution. adepoll does not close it.

    Raises:
        ConfigurationError: A file or a proxy cannot be used.
        ValueError: A number is out of range, or options contradict each other.
    """

    proxy: str | None = field(default=None, repr=_show_proxy)
    trust_env: bool = True
    ca_file: str | PathLike[str] | None = None
    client_certificate: str | PathLike[str] | None = None
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    max_header_bytes: int = 65_536
    max_headers: int = 1_000
    resolver: AbstractResolver | None = field(default=None, repr=False)
    _loaded: ssl.SSLContext | None = field(init=False, default=None, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        """Check the options, and load the certificates and the private key from their files."""
        for name in ("max_header_bytes", "max_headers"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.proxy is not None:
            _read_proxy(Secret(self.proxy), "proxy")
        if self.ca_file is None and self.client_certificate is None:
            return
        if self.ssl_context is not None:
            raise ValueError("pass ssl_context or files with certificates, not both")
        context = ssl.create_default_context()
        if self.ca_file is not None:
            _load(context.load_verify_locations, "ca_file", self.ca_file)
        if self.client_certificate is not None:
            load = partial(context.load_cert_chain, password=_refuse_encrypted_key)
            _load(load, "client_certificate", self.client_certificate)
        object.__setattr__(self, "_loaded", context)

    @property
    def ssl(self) -> ssl.SSLContext | bool:
        """The TLS context, as aiohttp expects it; True for the default of aiohttp."""
        return self.ssl_context or self._loaded or True

    def proxies(self) -> "Proxies":
        """Return the proxies of these options and of the current environment.

        Raises:
            ConfigurationError: A proxy of the environment cannot be used.
        """
        environment = {
            name: Secret(text)
            for name, text in (getproxies_environment() if self.trust_env else {}).items()
        }
        no_proxy = environment.pop("no", Secret("")).reveal()
        if self.proxy is not None:
            environment = {"all": Secret(self.proxy)}
        if {"http", "https"} <= environment.keys():
            # It is not needed. On many desktops it is a SOCKS proxy, which cannot be used.
            environment.pop("all", None)
        return Proxies(
            by_scheme={
                scheme: _read_proxy(text, f"{scheme.upper()}_PROXY")
                for scheme, text in environment.items()
                if scheme in _SCHEMES
            },
            no_proxy=tuple(re.split(r"[,\s]+", no_proxy.strip())) if no_proxy.strip() else (),
        )


@frozen
class Proxy:
    """A proxy.

    Attributes:
        url: Its URL, without user and password.
        authorization: Value of the header Proxy-Authorization; None without user and password.
    """

    url: str
    authorization: Credentials | None = None


@frozen(kw_only=True)
class Proxies:
    """Decides which proxy a request uses.

    Attributes:
        by_scheme: The proxy, by scheme of the requested URL: ``http``, ``https`` or ``all``.
        no_proxy: Entries of ``NO_PROXY``: hosts that are requested without a proxy.
    """

    by_scheme: Mapping[str, Proxy] = field(factory=dict)
    no_proxy: tuple[str, ...] = ()

    @property
    def hosts(self) -> frozenset[str]:
        """The host names of all proxies."""
        return frozenset(urlsplit(proxy.url).hostname or "" for proxy in self.by_scheme.values())

    def options_for(self, url: URL, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments of `aiohttp.ClientSession.get` for a request.

        The result contains ``proxy`` only if the request uses a proxy. No default header of the
        session may be a secret: aiohttp also sends the default headers to the proxy, with the value
        of Authorization as Proxy-Authorization.

        Args:
            url: The requested URL.
            headers: Headers of the request.
        """
        proxy = self.for_url(url)
        if proxy is None:
            return {"headers": headers}
        # aiohttp would show a password in the URL, or in its argument `proxy_auth`, in the repr of
        # each connection, and therefore in its warnings.
        own = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        if url.scheme == "https":  # aiohttp sends `proxy_headers` to open a tunnel, only
            return {"headers": headers, "proxy": proxy.url, "proxy_headers": own}
        return {"headers": {**headers, **own}, "proxy": proxy.url}

    def for_url(self, url: URL) -> Proxy | None:
        """Return the proxy for a URL; None for a direct connection.

        ``NO_PROXY`` has the same meaning as for curl (curl's manual, "Environment"). An entry can
        be one of these:

        - The name of a host, with or without ``.`` or ``*.`` before it. It includes subdomains.
        - An address or a network.
        - ``*`` for every host.

        An entry with a port is valid for this port only. curl does not know ports and ``*.`` here,
        but Go does.
        """
        proxy = self.by_scheme.get(url.scheme) or self.by_scheme.get("all")
        if proxy is None:
            return None
        # An entry can contain the Unicode form of a name, or its ASCII form ("xn--...").
        hosts = {(host or "").lower().rstrip(".") for host in (url.raw_host, url.host)}
        is_excluded = any(
            _matches(entry, host, url.port) for entry in self.no_proxy for host in hosts
        )
        return None if is_excluded else proxy


_SCHEMES: Final = ("http", "https", "all")
_WITH_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:]*):(\d+)", re.ASCII)


def _read_proxy(text: Secret[str], name: str) -> Proxy:
    """Return the proxy with a URL; ``http`` is the default scheme, as for curl.

    Args:
        text: Value of an option or environment variable, which may contain a password. It is a
            `Secret`, because error trackers record the variables of a function that raises.
        name: Name of the option or variable, for the error.

    Raises:
        ConfigurationError: The text is not the URL of a proxy that can be used.
    """
    url = Secret(text.reveal().strip())
    if "://" not in text.reveal():
        url = Secret(f"http://{url.reveal()}")
    if (problem := _proxy_problem(url.reveal())) is not None:
        shown = showable(redact_url(url.reveal()), 120)
        raise ConfigurationError(f"{name} {problem}: {shown}")
    parts = urlsplit(url.reveal())
    user, _, host = parts.netloc.rpartition("@")
    return Proxy(parts._replace(netloc=host).geturl(), _basic(user) if user else None)


def _basic(user: str) -> Credentials:
    """Return the value of Proxy-Authorization for ``user:password`` of a URL (RFC 7617)."""
    # curl also sends the bytes of the URL, decoded, whatever their charset is.
    name, _, password = (unquote_to_bytes(part) for part in user.partition(":"))
    return Credentials(f"Basic {b64encode(b'%b:%b' % (name, password)).decode()}")


def _proxy_problem(url: str) -> str | None:
    """Return the reason why a proxy cannot be used; None if it can be used.

    This function raises nothing, because a traceback would contain the password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port, URL(url)  # raises if aiohttp cannot request the URL
    except ValueError:
        return "is not the URL of a proxy"
    if parts.scheme not in {"http", "https"}:
        return "must be an http:// or https:// proxy"
    if not parts.hostname or not (url.isascii() and url.isprintable()) or " " in url:
        return "is not the URL of a proxy"
    return None


def _matches(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of ``NO_PROXY`` includes this host and port."""
    entry = entry.lower()
    if entry == "*":
        return True
    if with_port := _WITH_PORT.fullmatch(entry):
        entry = with_port[1]
        if with_port[2].lstrip("0") != str(port):
            return False
    entry = entry.strip("[]").removeprefix("*.").lstrip(".").rstrip(".")
    try:
        address = ip_address(host)
    except ValueError:
        return bool(entry) and (host == entry or host.endswith(f".{entry}"))
    try:
        return address in ip_network(entry, strict=False)
    except ValueError:
        return False


def _refuse_encrypted_key() -> NoReturn:
    """Raise the error for a private key that is encrypted.

    Without this function, OpenSSL would ask for the password on the terminal, and wait.
    """
    raise OSError(errno.EACCES, "its private key is encrypted; decrypt the key first")


def _load(
    load: Callable[[str | PathLike[str]], None], name: str, path: str | PathLike[str]
) -> None:
    """Load a PEM file with `load(path)`; raise `ConfigurationError` if that fails.

    Args:
        load: Loads the file into a TLS context.
        name: Name of the option with the path, for the error.
        path: The file.
    """
    shown = showable(os.fspath(path), 200)
    try:
        load(path)
    except ssl.SSLError as exc:
        reason = exc.reason or "it is not a PEM file"
    except OSError as exc:
        reason = reason_of(exc)
    else:
        return
    raise ConfigurationError(f"cannot read the {name} {shown}: {reason}")
