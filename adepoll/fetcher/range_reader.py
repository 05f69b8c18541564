"""Creates the reader of a range of a stored result, which can count from the end of the result."""

from contextlib import aclosing

from attrs import evolve

from adepoll.errors import ResultChangedError
from adepoll.fetcher.responses import RemoteResult
from adepoll.fetcher.sequential_reader import SequentialReader
from adepoll.fetcher.storage_rules import ObjectVersion


async def make_reader(stored: RemoteResult, start: int, stop: int | None) -> SequentialReader:
    """Return a reader of the bytes of a result from `start` to `stop`.

    A negative `start` counts from the end of the result; then the size is requested first.

    Raises:
        ResultError: The size could not be requested, for a reason that `SequentialReader.read`
            documents.
        RequestError: The API failed when a new URL was requested.
    """
    if start >= 0:
        return SequentialReader(stored, start=start, stop=stop)
    version = await _find_size(stored)
    start = max(0, start + (version.size or 0))
    reader = SequentialReader(stored, start=start, stop=stop, version=version)
    try:
        await reader.begin()
    except ResultChangedError as changed:
        # The object need not have changed: replicas in a storage can have different ETags, or the
        # storage can misunderstand If-Match. So request the whole object, of any version.
        reader = SequentialReader(stored, start=start, stop=stop, ranges_work=False)
        await reader.begin()
        if reader.version.size is None:
            reader.version = evolve(reader.version, size=version.size)
        elif reader.version.size != version.size:  # `start` is wrong for this version
            await reader.aclose()
            raise changed from None
    return reader


async def _find_size(stored: RemoteResult) -> ObjectVersion:
    """Return the version of the object, including its size.

    Request one byte. If the response does not state the size of the object, read the whole object.
    """
    async with aclosing(SequentialReader(stored, stop=1)) as reader:
        await reader.begin()
    if reader.version.size is not None:
        return reader.version
    async with aclosing(SequentialReader(stored)) as reader:
        while await reader.read():
            pass
    return evolve(reader.version, size=reader.received)
