"""Storage: the foreign host behind `output_url`. Imports connections and errors.

It gets a session of its own, with no key and no cookies, and the URL byte for byte.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from html import unescape
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import aiohttp
from yarl import URL

from adepoll.connections import USER_AGENT, Connections, describe
from adepoll.errors import (
    ResultError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultRefusedError,
    ResultServerError,
    ResultTransferError,
    ResultUrlError,
)
from adepoll.redaction import REDACTED, showable

_READ_BUFFER: Final = 2**20
_ERROR_BODY: Final = 4096
_MOST_BLANKS: Final = 2**16  # in a row; JSON allows any number, and a body of them need never end
_MAY_MEAN_EXPIRED: Final = frozenset({400, 401, 403})
_PASSING: Final = frozenset({408, 429})
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}


class ResultStream:
    """The bytes of one result, as they arrive; an async iterator of chunks.

    Attributes:
        size: How many bytes there will be; None where the storage does not say.
        etag: What the storage calls this version; None where it does not.
        received: Bytes handed out so far.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        *,
        job_id: str,
        size: int | None,
        etag: str | None,
    ) -> None:
        """Made by `ResultFetcher.stream`; `read` gives the next bytes, none at the end."""
        self.size = size
        self.etag = etag
        self.received = 0
        self._read = read
        self._job_id = job_id
        self._ahead: list[bytes] = []
        self._arrived = 0
        self._last = b""  # the last byte so far that is no blank
        self._blanks = 0  # those after it

    def __aiter__(self) -> Self:
        """Give the stream itself."""
        return self

    async def __anext__(self) -> bytes:
        """Give the next chunk.

        Raises:
            ResultTransferError: The connection broke, or the bytes ended too early.
            ResultMalformedError: What comes is no JSON object, or blanks without end.
        """
        chunk = self._ahead.pop() if self._ahead else await self._take()
        self.received += len(chunk)
        return chunk

    async def begin(self) -> Self:
        """Wait for the first bytes, which show whether it is a result; give the stream itself."""
        self._ahead.append(await self._take())
        return self

    async def _take(self) -> bytes:
        try:
            chunk = await self._read()
        except TimeoutError:
            reason = "the storage fell silent"
        except (aiohttp.ClientError, OSError) as exc:
            reason = describe(exc)
        else:
            if not chunk:
                self._check_end()
                raise StopAsyncIteration
            if not self._last and (begun := chunk.lstrip()) and not begun.startswith(b"{"):
                raise ResultMalformedError(["expected an object @ $"], job_id=self._job_id)
            self._arrived += len(chunk)
            text = chunk.rstrip()
            self._last = text[-1:] or self._last
            self._blanks = len(chunk) - len(text) + (0 if text else self._blanks)
            if self._blanks > _MOST_BLANKS:
                raise ResultMalformedError(["blanks without end @ $"], job_id=self._job_id)
            return chunk
        raise self._broken(reason)

    def _check_end(self) -> None:
        if self.size is not None and self._arrived != self.size:
            raise self._broken("the bytes ended too early")
        if self._last != b"}":
            # A cut that nobody announced, or that was announced as the whole: it would go unseen.
            raise self._broken("the bytes ended within the result")

    def _broken(self, reason: str) -> ResultTransferError:
        return ResultTransferError(
            reason, job_id=self._job_id, received=self._arrived, expected=self.size
        )


class Storage:
    """Opens results; one for each fetcher."""

    def __init__(self, *, api_url: str, timeout: aiohttp.ClientTimeout) -> None:
        """Open nothing yet.

        Args:
            api_url: Where the API is: a result may come over plain http only if the API does.
            timeout: Of each transfer.
        """
        self._api_url = api_url
        self._timeout = timeout
        self._connections = Connections("fetcher", self._make_session)

    def check_open(self) -> None:
        """Raise `ClosedError` if it was closed."""
        self._connections.check_open()

    async def aclose(self) -> None:
        """Break off all transfers."""
        await self._connections.aclose()

    def _make_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_BUFFER,
            timeout=self._timeout,
        )

    @asynccontextmanager
    async def open(self, job_id: str, url: str) -> AsyncGenerator[ResultStream, None]:
        """Request a URL byte for byte as it was given, and stream what comes."""
        target = self._check_url(job_id, url)
        async with await self._request(job_id, target) as response:
            self._connections.reading.add(response)
            try:
                if response.status != 200:  # noqa: PLR2004 - an HTTP status
                    raise await _refusal(job_id, url, response)
                if (response.headers.get("Content-Encoding") or "identity").lower() != "identity":
                    # Asked for as it is; what was encoded on the way has no length to check.
                    raise ResultMalformedError(["it came encoded, unasked @ $"], job_id=job_id)
                yield ResultStream(
                    response.content.readany,
                    job_id=job_id,
                    size=response.content_length,
                    etag=response.headers.get("ETag"),
                )
            finally:
                self._connections.reading.discard(response)

    async def _request(self, job_id: str, url: URL) -> aiohttp.ClientResponse:
        try:
            session = self._connections.session()
            return await session.get(url, headers=_HEADERS, allow_redirects=False)
        except TimeoutError:
            reason = "the storage does not answer"
        except (aiohttp.ClientError, OSError) as exc:
            reason = describe(exc)
        # Raised out here: the foreign error carries the URL, and must not hang on ours.
        raise ResultTransferError(reason, job_id=job_id, received=0, expected=None)

    def _check_url(self, job_id: str, url: str) -> URL:
        """Give the URL as aiohttp must send it, if it may be requested at all."""
        reason = "the URL holds a character that no URL has"
        if _VISIBLE.fullmatch(url):
            schemes = {"https", urlsplit(self._api_url).scheme}
            try:
                # encoded=True: re-quoting would break the signature (%2F is not / there).
                target = URL(url, encoded=True)
                # yarl reads host and port no sooner than here.
                if target.user is not None or target.password is not None:
                    reason = "the URL holds a user or password"
                elif target.scheme not in schemes or not target.host:
                    reason = "a result is only fetched over https"
                else:
                    return target
            except ValueError:
                reason = "the URL cannot be read"
        # Raised out here: what cannot be read is quoted by the foreign error.
        raise ResultUrlError(job_id=job_id, url=url, reason=reason)


_MESSAGE: Final = re.compile(rb"<Message>(.*?)</Message>", re.DOTALL)
_LEAST_SECRET: Final = 20  # shorter values are dates, numbers and names of algorithms


async def _refusal(job_id: str, url: str, response: aiohttp.ClientResponse) -> ResultError:
    """Give the error of a status that is no success, with what the storage said."""
    body = b""
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        while piece := await response.content.read(_ERROR_BODY - len(body)):
            body += piece
    status = response.status
    said = _MESSAGE.search(body)
    detail = unescape((said[1] if said else b"").decode("utf-8", "replace"))
    detail = showable(_without_query(detail, url), 200)
    cls: type[ResultRefusedError] = ResultRefusedError
    if status in _MAY_MEAN_EXPIRED:
        cls = ResultExpiredError if b"expired" in body.lower() else ResultForbiddenError
    elif status in _PASSING or status >= 500:  # noqa: PLR2004 - a class of HTTP statuses
        cls = ResultServerError
    return cls(job_id=job_id, status=status, detail=detail, url=url)


def _without_query(text: str, url: str) -> str:
    """Take out what the text quotes of the URL's query: that is where its secrets are."""
    for pair in urlsplit(url).query.split("&"):
        value = pair.partition("=")[2]
        for quoted in (value, unquote(value)):
            if len(quoted) >= _LEAST_SECRET:
                text = text.replace(quoted, REDACTED)
    return text
