"""Storage: the foreign host behind `output_url`. Imports addresses, answers and connections.

One GET at a time: it gets a session of its own, with no key and no cookies, the URL byte for byte,
and redirects by hand, each of them checked.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from adepoll.api.transport import USER_AGENT, Connections, describe, limit_read_size
from adepoll.errors import ResultTransferError, ResultUrlError
from adepoll.fetcher.addresses import Gatekeeper, PrivateAddressError
from adepoll.fetcher.answers import Answer, ChangedError, Interpreter, Range, Version
from adepoll.redaction import REDACTED, redact_url

_log = logging.getLogger(__name__)

_READ_AT_ONCE: Final = 2**18
# Half of the event loop's work for a fast body is what it does for each piece, however long.
_READ_AT_ONCE_IN_BULK: Final = 2**20
_READ_BUFFER: Final = 2**18  # aiohttp keeps up to twice as much, then lets the socket wait
_READ_BUFFER_IN_BULK: Final = 2**19
_KEEP_ALIVE: Final = 15.0  # seconds
_MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}


class Storage:
    """Asks for results; one for each fetcher."""

    def __init__(
        self,
        *,
        gatekeeper: Gatekeeper,
        connect_timeout: float,
        read_timeout: float,
        min_rate: float,
    ) -> None:
        """Open nothing yet.

        Args:
            gatekeeper: Says what may be requested.
            connect_timeout: Most seconds until a connection stands.
            read_timeout: Most seconds without a byte.
            min_rate: Fewest bytes per second, over each `read_timeout` of waiting for them.
        """
        self._gatekeeper = gatekeeper
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=connect_timeout,  # looking the name up and TLS included
            sock_connect=connect_timeout,
            sock_read=read_timeout,
        )
        self._read_timeout = read_timeout
        self._min_rate = min_rate
        self._connections = Connections("fetcher", self._make_session)
        self._received = 0  # by the answers that are not being read any more

    @property
    def bytes_received(self) -> int:
        """Bytes of bodies that have come so far."""
        reading = self._connections.reading
        return self._received + sum(response.content.total_bytes for response in reading)

    def check_open(self) -> None:
        """Raise `ClosedError` if it was closed."""
        self._connections.check_open()

    async def aclose(self) -> None:
        """Break off all transfers."""
        await self._connections.aclose()
        await self._gatekeeper.close()

    def _make_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(
                limit=0,
                resolver=self._gatekeeper,
                # Where a body ends while its reading is paused, aiohttp goes on to wait for bytes
                # of the idle connection, and would hand it out again as one that fell silent.
                keepalive_timeout=min(_KEEP_ALIVE, self._read_timeout / 2),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
        )

    @asynccontextmanager
    async def open(
        self,
        job_id: str,
        url: str,
        *,
        asked: Range | None = None,
        version: Version | None = None,
        in_bulk: bool = False,
    ) -> AsyncGenerator[Answer, None]:
        """Request a URL, and give the answer if it is one to what was asked.

        The answer to a range may be the whole all the same: then it starts at 0. Nothing is left
        of a range that starts where the object ends: then its body is empty.

        Args:
            job_id: Whose result it is; for errors.
            url: Where it is; requested byte for byte as it stands.
            asked: Which bytes; None for all.
            version: Of what they must be; None for whatever is there.
            in_bulk: Whether to read them in few large pieces, of some megabytes in memory.

        Raises:
            PastEndError: The object ends before the range begins.
            ChangedError: It is of another version.
            NoRangeError: It answers a range with something that cannot be used.
            ResultError: It is a refusal, or none came.
        """
        headers = {**_HEADERS} if asked is None else {**_HEADERS, "Range": str(asked)}
        if asked is not None and version is not None and version.etag and version.is_strong:
            # A weak one never matches there (RFC 9110, sections 13.1.1 and 13.1.5). Of the fields,
            # some know one, some the other; who knows both goes by If-Match first.
            headers["If-Match"] = headers["If-Range"] = version.etag
        response, url = await self._follow(job_id, url, headers, in_bulk=in_bulk)
        async with response:
            self._connections.reading.add(response)
            limit_read_size(response, _READ_AT_ONCE_IN_BULK if in_bulk else _READ_AT_ONCE)
            _log.debug("%s: %d (%s)", redact_url(url), response.status, asked or "whole")
            try:
                interpreter = Interpreter(job_id, self._read_timeout, self._min_rate)
                answer = await interpreter.interpret(response, url, asked)
                if version is not None and version.differs(answer.version):
                    await answer.begin()  # a page in the way is not another version
                    raise ChangedError
                yield answer
            finally:
                self._received += response.content.total_bytes
                self._connections.reading.discard(response)

    async def _follow(
        self, job_id: str, url: str, headers: dict[str, str], *, in_bulk: bool
    ) -> tuple[aiohttp.ClientResponse, str]:
        """Request a URL and where it redirects to; give the answer, and where it came from."""
        for _ in range(_MOST_REDIRECTS + 1):
            target = await self._gatekeeper.check(job_id, url)
            response = await self._request(job_id, url, target, headers, in_bulk=in_bulk)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response, url
            response.release()
            try:
                url = location if urlsplit(location).scheme else str(_joined(target, location))
            except ValueError:
                url = REDACTED  # which no check lets pass
        raise ResultUrlError(
            job_id=job_id, url=url, reason=f"redirected more than {_MOST_REDIRECTS} times"
        )

    async def _request(
        self, job_id: str, url: str, target: URL, headers: dict[str, str], *, in_bulk: bool
    ) -> aiohttp.ClientResponse:
        inside = ""
        try:
            self.check_open()
            return await self._connections.session().get(
                target,
                headers=headers,
                allow_redirects=False,
                read_bufsize=_READ_BUFFER_IN_BULK if in_bulk else _READ_BUFFER,
            )
        except TimeoutError:
            reason = "the storage does not answer"
        except (aiohttp.ClientError, OSError) as exc:
            reason = describe(exc)
            if isinstance(exc, aiohttp.ClientConnectorError) and isinstance(
                exc.os_error, PrivateAddressError
            ):
                inside = str(exc.os_error)
        self.check_open()  # broken off by aclose(), it failed for that reason
        # Raised out here: the foreign error carries the URL, and must not hang on ours.
        if inside:
            raise ResultUrlError(job_id=job_id, url=url, reason=inside)
        raise ResultTransferError(reason, job_id=job_id, received=0, expected=None)


def _joined(base: URL, location: str) -> URL:
    return base.join(URL(location, encoded=True))
