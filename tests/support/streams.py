"""A result stream read to its end."""


async def collect(stream):
    """Return all bytes of an open stream."""
    return b"".join([chunk async for chunk in stream])


async def collect_of(fetcher, job):
    """Open the stream of a job's result, and return all its bytes."""
    async with fetcher.stream(job) as stream:
        return await collect(stream)
