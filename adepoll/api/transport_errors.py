"""Translates the errors of aiohttp into errors of adepoll."""

import os
import re
import socket
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp

from adepoll.common.redaction import showable
from adepoll.common.system_errors import reason_of
from adepoll.common.threads import NO_THREAD, is_thread_limit
from adepoll.errors import (
    CertificateError,
    ConnectionFailedError,
    HeadersTooLargeError,
    ProxyError,
    ProxyRefusedError,
    RequestError,
    ResultError,
    ResultTransferError,
    TransportError,
)

REFUSED_BY_PROXY: Final = "the proxy refused the request: 407 Proxy Authentication Required"
"""Reason of an error after a request for an http URL. Only a proxy answers with 407 (RFC 9110)."""


class BrokenError(aiohttp.ClientError):
    """The connection broke before the response; ``args[0]`` is the error of aiohttp.

    `Connector.send_once` raises this error in place of the error of aiohttp, after which aiohttp
    would send the GET again.
    """


class StaleConnectionError(BrokenError):
    """The connection was stale: it had served an earlier request, and was closed without an answer.

    Every server may close a connection that it has kept open, also at the moment when the next
    request arrives. So this error shows nothing about the server. The request may be sent again on
    a new connection, because a GET is idempotent (RFC 9110, section 9.2.2).
    """


def error_of(exc: BaseException, *, job_id: str | None, has_proxy: bool = False) -> RequestError:
    """Return the error of adepoll for an error that a request to the API has raised.

    A RuntimeError is raised again, unless the system could not start the thread that resolves the
    name of the host.

    Args:
        exc: The error: of a class of aiohttp, of `body_decoding`, or an OSError or RuntimeError.
        job_id: The job of the request; None if the request is not about a job.
        has_proxy: Whether the request was sent to a proxy.
    """
    if isinstance(exc, BrokenError):
        exc = exc.args[0]
    cls: type[RequestError] = TransportError
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        cls = ProxyRefusedError if is_lasting_refusal(exc) else ProxyError
    elif _is_from_proxy(exc, has_proxy=has_proxy):
        cls = ProxyError
    elif is_certificate_problem(exc):
        cls = CertificateError
    elif isinstance(exc, aiohttp.ClientConnectorError | RuntimeError):
        cls = ConnectionFailedError
    elif isinstance(exc, aiohttp.ClientResponseError) and _has_too_large_headers(exc):
        cls = HeadersTooLargeError
    return cls(describe(exc, has_proxy=has_proxy), job_id=job_id)


def _is_from_proxy(exc: BaseException, *, has_proxy: bool) -> bool:
    """Return whether a request failed because its proxy could not be reached.

    With a proxy, aiohttp resolves only the name of the proxy. So if a name cannot be resolved, it
    is the name of the proxy.
    """
    return isinstance(exc, aiohttp.ClientProxyConnectionError) or (
        has_proxy and isinstance(exc, aiohttp.ClientConnectorDNSError)
    )


def is_lasting_refusal(exc: BaseException) -> bool:
    """Return whether a proxy refused a connection for a reason that will last, such as 407."""
    return (
        isinstance(exc, aiohttp.ClientHttpProxyError)
        # An invalid status, such as 600 or 099, means 5xx (RFC 9110, section 15).
        and HTTPStatus.CONTINUE <= exc.status < HTTPStatus.INTERNAL_SERVER_ERROR
        and exc.status not in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
    )


def is_certificate_problem(exc: BaseException) -> bool:
    """Return whether a certificate of the server, or that of the client, was not accepted."""
    if isinstance(exc, BrokenError):
        exc = exc.args[0]
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return True
    return isinstance(exc.__cause__, ssl.SSLError) and _rejection(exc.__cause__) is not None


# Alerts by which a server rejects the certificate of the client (RFC 8446, section 6.2), as OpenSSL
# names them.
_REJECTION: Final = re.compile(
    r"_ALERT_((?:BAD|UNSUPPORTED|NO)_CERTIFICATE|CERTIFICATE_[A-Z]+|UNKNOWN_CA|ACCESS_DENIED)"
)


def _rejection(exc: ssl.SSLError) -> str | None:
    """Return why the server rejected the certificate of the client; None if it did not."""
    found = _REJECTION.search(exc.reason or "")
    if found is None:
        return None
    if found[1] == "CERTIFICATE_REQUIRED":
        problem = "the server requires a client certificate"
    else:
        reason = found[1].replace("_", " ").lower()
        problem = f"the server rejected the client certificate ({reason})"
    return f"{problem}; see TransportOptions(client_certificate=...)"


def _has_too_large_headers(exc: aiohttp.ClientResponseError) -> bool:
    # aiohttp has no class for this error. The texts are the beginnings of its messages.
    return exc.message.startswith(("Got more than", "Too many headers"))


# The first entry with the class of the error, or with a base class, decides.
_TEXTS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (aiohttp.ServerDisconnectedError, "the connection was closed before an answer came"),
    (aiohttp.ClientPayloadError, "the connection broke within the body"),
    (ResultTransferError, "the body ended within its encoding"),
    (ResultError, "the body cannot be decoded"),
)
_BEFORE_QUOTE: Final = re.compile(r"[:\n\"']")


def describe(exc: BaseException, *, has_proxy: bool = False) -> str:
    """Return a description of an error of aiohttp, without the URL, headers and body.

    A RuntimeError is raised again as in `error_of`.

    Args:
        exc: The error.
        has_proxy: True if the request was sent to a proxy.
    """
    if isinstance(exc, BrokenError):
        exc = exc.args[0]
    if isinstance(exc, aiohttp.ClientConnectorError):
        what = "the proxy " if _is_from_proxy(exc, has_proxy=has_proxy) else ""
        host = f"[{exc.host}]" if ":" in exc.host else exc.host
        return f"cannot connect to {what}{host}:{exc.port}: {_reason(exc.os_error)}"
    if isinstance(exc, aiohttp.ClientResponseError):
        return _describe_response(exc)
    for cls, text in _TEXTS:
        if isinstance(exc, cls):
            return text
    if isinstance(exc, RuntimeError):
        if not is_thread_limit(exc):
            raise exc
        return f"the name of the host cannot be resolved: {NO_THREAD}"
    # With TLS 1.3, an alert of the server can arrive after the handshake. aiohttp then raises an
    # OSError that has the number of the TLS error.
    cause = exc.__cause__ if isinstance(exc.__cause__, ssl.SSLError) else exc
    reason = f": {_reason(cause)}" if isinstance(cause, OSError) else f" ({type(exc).__name__})"
    return f"the connection failed{reason}"


def _describe_response(exc: aiohttp.ClientResponseError) -> str:
    """Describe an error of aiohttp about a response that it could not read."""
    # Cut the message before the first quoted text, because it can be a part of a document or of the
    # URL's query. An apostrophe would count as the beginning of a quoted text.
    text = exc.message.replace("can't", "cannot")
    message = showable(_BEFORE_QUOTE.split(text, 1)[0].rstrip(), 120)
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        # Not the reason phrase of the proxy, which can repeat its password.
        phrase = HTTPStatus(exc.status).phrase if exc.status in {*HTTPStatus} else ""
        return f"the proxy refused the connection: {exc.status} {phrase}".rstrip()
    if _has_too_large_headers(exc):
        return (
            "the headers of the answer are too large, or too many; to accept them, pass "
            "transport=TransportOptions(max_header_bytes=..., max_headers=...)"
        )
    return f"the answer is not valid HTTP: {message}"


def _reason(exc: OSError) -> str:
    """Return why a connection failed, as a text without secrets."""
    if isinstance(exc, ssl.SSLCertVerificationError) and exc.verify_message:
        return f"its certificate cannot be verified: {showable(exc.verify_message, 120)}"
    if isinstance(exc, ssl.SSLError) and (rejection := _rejection(exc)) is not None:
        return rejection
    if exc.errno is None and isinstance(exc, ConnectionError):
        return "the connection was closed"  # asyncio gives no text, for example within a handshake
    # Look up the system's text for the number of the error, because asyncio has replaced the text.
    # DNS and TLS errors have numbers of their own, which the system does not know.
    if exc.errno is not None and not isinstance(exc, socket.gaierror | ssl.SSLError):
        return reason_of(OSError(exc.errno, os.strerror(exc.errno)))
    return showable(exc.strerror or type(exc).__name__, 120)
