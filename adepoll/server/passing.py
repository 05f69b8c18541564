"""Passing a result through a server to a browser: what it needs beside the bytes. Imports serving.

Knows no web framework.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

from attrs import frozen

from adepoll.api.models import JobSnapshot
from adepoll.fetcher import ResultFetcher
from adepoll.server.result_responses import reply_with_result

_NOT_MODIFIED: Final = 304
_HAS_BODY: Final = (200, 206)
_NOT_IN_A_TOKEN: Final = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME: Final = 150  # characters


@frozen(kw_only=True)
class Passage:
    """An HTTP answer with a result, or a part of it, as its body.

    Attributes:
        status: 200, 206, 304 or 416.
        headers: Its headers. None of them comes from the storage but the ``ETag``.
        chunks: Its body; None where it has none.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] | None


@asynccontextmanager
async def passage(
    fetcher: ResultFetcher,
    job: JobSnapshot | str,
    *,
    method: str,
    headers: Mapping[str, str],
    filename: str | None = None,
) -> AsyncGenerator[Passage, None]:
    """Open the result of a job as the answer to a request.

    As `adepoll.reply_with_result`; besides, browsers save it as a file, and are not sent again
    what they have (``If-None-Match``).

    Args:
        fetcher: Brings the result.
        job: A snapshot of the job, or its id.
        method: ``GET`` or ``HEAD``.
        headers: Those of the request, in a mapping that minds no case.
        filename: The name under which a browser saves it; None for the job id and ``.json``.

    Raises:
        AdePollError: As for `ResultFetcher.stream`, on entering or from the chunks.
    """
    job_id = job if isinstance(job, str) else job.job_id
    replying = reply_with_result(
        fetcher,
        job,
        method=method,
        range_header=headers.get("Range"),
        if_range=headers.get("If-Range"),
    )
    async with replying as reply:
        told = {
            "Content-Disposition": _attachment(f"{job_id}.json" if filename is None else filename),
            "Cache-Control": "private, no-cache",
            "X-Content-Type-Options": "nosniff",
            **reply.headers,
        }
        if _names(headers.get("If-None-Match"), told.get("ETag")):
            told.pop("Content-Length", None)
            yield Passage(status=_NOT_MODIFIED, headers=told, chunks=None)
        else:
            has_body = reply.status in _HAS_BODY and method != "HEAD"
            yield Passage(
                status=reply.status, headers=told, chunks=reply.chunks if has_body else None
            )


def _names(header: str | None, etag: str | None) -> bool:
    """Tell whether ``If-None-Match`` names this version; weak names do (RFC 9110, 13.1.2)."""
    if header is None or etag is None:
        return False
    names = {name.strip().removeprefix("W/") for name in header.split(",")}
    return "*" in names or etag.removeprefix("W/") in names


def _attachment(filename: str) -> str:
    """Give a ``Content-Disposition`` for any name (RFC 6266, 2011, appendix D)."""
    name = filename[-_LONGEST_NAME:]
    plain = _NOT_IN_A_TOKEN.sub("_", name)
    extended = f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return f'attachment; filename="{plain}"{"" if plain == name else extended}'
