"""Sends requests to the storage of `output_url`, and follows redirects.

No request contains the API key or cookies. The URL is sent unchanged. The URL of each redirect is
checked like the first URL.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from yarl import URL

from adepoll.api.connections import Connections
from adepoll.api.connector import LONGEST_KEEP_ALIVE, Connector
from adepoll.api.transport import USER_AGENT
from adepoll.api.transport_errors import (
    REFUSED_BY_PROXY,
    StaleConnectionError,
    describe,
    is_certificate_problem,
    is_lasting_refusal,
)
from adepoll.api.transport_options import TransportOptions
from adepoll.common.redaction import REDACTED, redact_url
from adepoll.errors import (
    ResultCertificateError,
    ResultProxyRefusedError,
    ResultTransferError,
    ResultUrlError,
)
from adepoll.fetcher.response_body import ResponseBody
from adepoll.fetcher.responses import ObjectChangedError, ResponseInterpreter
from adepoll.fetcher.ssrf_guard import PrivateAddressError, SsrfGuard
from adepoll.fetcher.storage_rules import DEFAULT_HEADERS, ObjectVersion, Range, request_headers

_log = logging.getLogger(__name__)

# Sizes are in bytes. Each read from the socket has a fixed cost, which is half of the event loop's
# work for a fast body. So large reads save CPU time.
_READ_SIZE: Final = 2**18
_READ_SIZE_IN_BULK: Final = 2**19
# aiohttp buffers up to twice this size, then stops reading from the socket.
_READ_BUFFER: Final = 2**18
_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Characters that are not quoted: ASCII without the space. `SsrfGuard` refuses control characters.
_UNQUOTED: Final = "".join(map(chr, range(0x80))).replace(" ", "")
_ORIGIN: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//[^/?#]*", re.IGNORECASE)


class StorageClient(Connections):
    """Sends requests to storages. Each fetcher has one storage client."""

    def __init__(
        self,
        *,
        guard: SsrfGuard,
        options: TransportOptions | None = None,
        connect_timeout: float,
        read_timeout: float,
        min_rate: float,
    ) -> None:
        """Create a client; no connection is opened yet.

        Args:
            guard: Decides which URLs may be requested, and by which proxy.
            options: Certificates and header limits; None for the defaults.
            connect_timeout: Maximum seconds until a connection is established.
            read_timeout: Two limits in seconds: the longest time without a byte of the body, and
                the longest time from the connection to the end of the headers.
            min_rate: Minimum bytes per second, averaged over `read_timeout` seconds. Only the time
                in which the client waits for bytes counts.
        """
        super().__init__("fetcher")
        self._guard = guard
        self._options = options or TransportOptions()
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=connect_timeout,  # this limit includes name resolution and TLS
            sock_connect=connect_timeout,
            sock_read=read_timeout,
        )
        self._header_timeout = connect_timeout + read_timeout
        self._read_timeout = read_timeout
        self._min_rate = min_rate
        self._finished_bytes = 0  # bytes received from responses that are closed now

    @property
    def bytes_received(self) -> int:
        """Number of bytes of response bodies that were received so far."""
        # The set is copied, because a thread that exports metrics can read this at any time.
        arriving = sum(response.content.total_bytes for response in [*self.reading])
        return self._finished_bytes + arriving

    async def aclose(self) -> None:
        """Abort all transfers and close all connections."""
        try:
            await super().aclose()
        finally:  # also if this task is cancelled meanwhile
            await self._guard.close()

    def _make_session(self, *, force_close: bool) -> aiohttp.ClientSession:
        connector = Connector(
            ssl=self._options.ssl,
            resolver=self._guard,
            force_close=force_close,
            # If a body ends while reading is paused, aiohttp does not stop the read timeout of the
            # connection, which is idle then. aiohttp could reuse the connection just before the
            # timeout fires. So idle connections are closed earlier than that.
            keep_alive=min(LONGEST_KEEP_ALIVE, self._read_timeout / 2),
        )
        session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=connector,
            middlewares=(connector.send_once,),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**DEFAULT_HEADERS, "User-Agent": USER_AGENT},
            timeout=self._timeout,
            max_line_size=self._options.max_header_bytes,
            max_field_size=self._options.max_header_bytes,
            max_headers=self._options.max_headers,
        )
        # Error trackers and tracing libraries, such as sentry_sdk, add functions to every session
        # that store the complete URL of each request. A presigned URL is a secret.
        session.trace_configs.clear()
        return session

    @asynccontextmanager
    async def open(
        self,
        job_id: str,
        url: str,
        *,
        requested: Range | None = None,
        version: ObjectVersion | None = None,
        in_bulk: bool = False,
    ) -> AsyncGenerator[ResponseBody, None]:
        """Request a URL, and yield the body of a response that matches the request.

        The response to a range request may contain the whole object. Then the body starts at 0 and
        `is_partial` is False. If the range starts exactly at the end of the object, the body is
        empty.

        Args:
            job_id: The job, for errors.
            url: URL of its result; sent byte for byte.
            requested: The byte range; None for the whole object.
            version: The only version to accept; None accepts any.
            in_bulk: True to read large chunks, which need several megabytes of memory.

        Raises:
            RangePastEndError: The object ends before the range begins.
            ObjectChangedError: The object has another version.
            UnusableRangeError: The response to a range request cannot be used.
            ResultError: The storage refused the request, or did not respond.
        """
        headers = request_headers(requested, version)
        response, url = await self._follow(job_id, url, headers)
        async with response:
            _limit_read_size(response, _READ_SIZE_IN_BULK if in_bulk else _READ_SIZE)
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s: %d (%s)", redact_url(url), response.status, requested or "whole")
            interpreter = self.interpreter(job_id)
            with self.receiving(response):
                body = await interpreter.interpret(response, url, requested)
                if version is not None and version.differs(body.version):
                    # For an error page, `begin` raises `ResultMalformedError`: an error page is not
                    # another version of the object.
                    await body.begin()
                    raise ObjectChangedError
                yield body

    @contextmanager
    def receiving(self, response: aiohttp.ClientResponse) -> Iterator[None]:
        """Count the bytes of a response that the ``with`` block reads.

        If `aclose` is called while the block runs, the response is aborted. Raise `ClosedError` if
        it was called while the headers of the response were awaited.
        """
        self.check_open()
        self.begin_reading(response)
        try:
            yield
        finally:
            self._finished_bytes += response.content.total_bytes
            self.end_reading(response)

    def interpreter(self, job_id: str) -> ResponseInterpreter:
        """Return an object that checks the responses to requests of one job's result."""
        return ResponseInterpreter(job_id, self._read_timeout, self._min_rate)

    async def _follow(
        self, job_id: str, url: str, headers: dict[str, str]
    ) -> tuple[aiohttp.ClientResponse, str]:
        """Follow redirects; return the first response that is not a redirect, and its URL."""
        with suppress(UnicodeEncodeError):  # the guard refuses such a URL
            url = _quoted(url)
        for _ in range(_MAX_REDIRECTS + 1):
            target = await self._guard.check(job_id, url)
            response = await self._request(job_id, url, target, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response, url
            response.release()
            try:
                url = redirect_url(target, location)
            except ValueError:
                reason = "the URL of a redirect is malformed"
                raise ResultUrlError(job_id=job_id, url=REDACTED, reason=reason) from None
        raise ResultUrlError(
            job_id=job_id, url=url, reason=f"redirected more than {_MAX_REDIRECTS} times"
        )

    async def _request(
        self, job_id: str, url: str, target: URL, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """Send one GET request, and return its response, which may be a redirect.

        Raise an error of adepoll if there is no response. `url` is the requested address for error
        messages, and `target` is the same address in the form that aiohttp sends. If the connection
        was stale, the request is repeated once on a new connection.
        """
        private = ""
        cls = ResultTransferError
        proxies = self._guard.proxies
        has_proxy = proxies.for_url(target) is not None
        try:
            options: dict[str, Any] = {
                "allow_redirects": False,
                "read_bufsize": _READ_BUFFER,
                **proxies.options_for(target, headers),
            }
            # aiohttp's read timeout starts again with each byte, so it does not end an endless
            # header.
            async with asyncio.timeout(self._header_timeout):
                try:
                    response = await self.open_session().get(target, **options)
                except StaleConnectionError:
                    session = self.open_session(new_connection=True)
                    response = await session.get(target, **options)
            if not has_proxy or response.status != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                return response
            response.release()
            reason = REFUSED_BY_PROXY
            cls = ResultProxyRefusedError
        except TimeoutError:
            before = ", or the proxy before it," if has_proxy else ""
            reason = f"the storage{before} does not respond"
        except (aiohttp.ClientError, OSError, RuntimeError) as exc:
            reason = describe(exc, has_proxy=has_proxy)
            if is_lasting_refusal(exc):
                cls = ResultProxyRefusedError
            elif is_certificate_problem(exc):
                cls = ResultCertificateError
            if isinstance(exc, aiohttp.ClientConnectorError) and isinstance(
                exc.os_error, PrivateAddressError
            ):
                private = str(exc.os_error)
        # Raise outside of the handlers, because otherwise the traceback would also show the error
        # of aiohttp, which contains the secret URL.
        if private:
            raise ResultUrlError(job_id=job_id, url=url, reason=private)
        raise cls(reason, job_id=job_id, received=0, expected=None)


def _limit_read_size(response: aiohttp.ClientResponse, max_bytes: int) -> None:
    """Limit the number of bytes that one read from the socket of a response returns.

    This works with asyncio's own transport, whose default is 256 KiB. The transports of uvloop and
    of TLS have buffers of a fixed size, and stay unchanged.
    """
    connection = response.connection  # None if the whole body has arrived
    transport = None if connection is None else connection.transport
    if transport is not None and hasattr(transport, "max_size"):
        transport.max_size = max_bytes


def redirect_url(base: URL, location: str) -> str:
    """Return the URL to which a redirect leads, as curl does. `SsrfGuard` checks this URL.

    Args:
        base: The requested URL.
        location: The header `Location` of the response.

    Raises:
        ValueError: The location is malformed.
    """
    location = _quoted(location)
    return location if urlsplit(location).scheme else _joined(base, location)


def _quoted(location: str) -> str:
    """Percent-encode spaces and characters beyond ASCII in a URL, except in scheme and host.

    RFC 3986 does not allow such characters in a URL, but some servers send them. Browsers and other
    HTTP clients encode them in this way, too.

    Raises:
        UnicodeEncodeError: The URL contains an unpaired surrogate, which no encoding has.
    """
    origin = _ORIGIN.match(location)
    rest = location if origin is None else location[origin.end() :]
    quoted = quote(rest, safe=_UNQUOTED, errors="surrogateescape")
    return quoted if origin is None else origin[0] + quoted


def _joined(base: URL, location: str) -> str:
    """Return the URL of a relative location (RFC 3986, section 5.2), without decoding any part."""
    if not location.startswith(("/", "?", "#")) and location:
        # urljoin would remove empty segments ("//") from a relative path.
        location = f"{base.raw_path.rpartition('/')[0]}/{location}"
    return urljoin(str(base), location)
