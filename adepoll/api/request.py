"""A request to the API, and the base URL to which it is sent."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen
from yarl import URL

from adepoll.api.connector import DirectRequests, Response
from adepoll.api.large_answer import LargeAnswer

_T = TypeVar("_T")


@frozen
class Root:
    """A base URL of the API, and how requests are sent to it.

    Attributes:
        url: The base URL.
        options: Arguments of `aiohttp.ClientSession.get`, such as ``proxy``.
        direct: Sends requests without a session; None if each request needs a session.
        path: Path of the base URL, without a slash at the end.
    """

    url: URL
    options: Mapping[str, Any] = field(repr=False)  # can contain the password of a proxy, or a key
    direct: DirectRequests | None = None
    path: str = field(init=False)

    @path.default
    def _find_path(self) -> str:
        return self.url.raw_path.rstrip("/")

    def url_of(self, target: str) -> URL:
        """Return the whole URL of a request with this `Request.target`."""
        path, _, query = target.partition("?")
        # The path is encoded already. Without `encoded`, yarl would encode "%" again, as "%25".
        url = self.url.with_path(path, encoded=True)
        return url.with_query(query) if query else url


@define(eq=False, kw_only=True)
class Request(Generic[_T]):
    """One GET request.

    Attributes:
        root: The base URL of the API.
        target: Path and query of the URL, percent-encoded, including the path of the base URL.
        read: Interprets the response. Its arguments are status, headers and body. If the status is
            not 200, it also gets the arguments ``now`` and ``secret`` of `protocol.read_job`.
        job_id: Id of the job that the request is about, for errors; None for a page of the list.
        large: Creates the `LargeAnswer` for an answer that is larger than `inline_limit`. `read`
            then gets the resulting `ReadAnswer` as ``large``. None if the answer is never large.
        headers: Headers that differ from those of other requests. The request then needs a session.
            None for no such headers.
        adopt: Returns the response if its body should not be read, see `Transport.adopt`; None to
            read the body of every response.
    """

    root: Root
    target: str
    read: Callable[..., _T]
    job_id: str | None = None
    large: Callable[[], LargeAnswer] | None = None
    headers: Mapping[str, str] | None = None
    adopt: Callable[[Response], _T | None] | None = None
