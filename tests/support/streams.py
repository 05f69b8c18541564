"""Results that are read to their end, as a stream or with any method of a fetcher."""


async def collect(stream):
    """Return all bytes of an open stream."""
    return b"".join([chunk async for chunk in stream])


async def collect_of(fetcher, job):
    """Open the stream of a job's result, and return all its bytes."""
    async with fetcher.stream(job) as stream:
        return await collect(stream)


async def fetch_by(method, fetcher, job, path):
    """Fetch a result by "result", "download" or "stream"; return what this method has returned.

    For a stream, return all its bytes.
    """
    if method == "stream":
        return await collect_of(fetcher, job)
    if method == "download":
        return await fetcher.download(job, path)
    return await fetcher.result(job)
