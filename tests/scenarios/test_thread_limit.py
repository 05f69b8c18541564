"""The system refuses to start a thread: the work is done anyway, or a typed error is raised."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest
from threadlimit import no_thread

from adepoll import AdeClient, JobSnapshot, RetryPolicy, TransportOptions
from adepoll.common.threads import items_of_thread, run_in_thread
from adepoll.errors import ConnectionFailedError, JournalAccessError, ResultTransferError
from adepoll.journal import Journal
from adepoll.sync import Session

ENDPOINT = "https://api.va.landing.ai"


async def test_blocking_work_is_done_in_the_thread_of_the_loop():
    with no_thread():
        assert await run_in_thread(threading.current_thread) is threading.current_thread()
        with pytest.raises(ZeroDivisionError):
            await run_in_thread(divmod, 1, 0)


async def test_work_that_the_executor_has_queued_is_not_done_twice():
    """An executor queues the work before it fails to start a thread for it."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=2))
    go_on = threading.Event()
    busy = loop.run_in_executor(None, go_on.wait)
    done = []
    with no_thread():
        await run_in_thread(done.append, "once")
    go_on.set()
    await busy
    await run_in_thread(done.append, "later")
    assert done == ["once", "later"]


async def test_another_runtime_error_is_not_hidden(monkeypatch):
    executor = ThreadPoolExecutor()
    executor.shutdown()
    monkeypatch.setattr(asyncio.get_running_loop(), "_default_executor", executor)
    with pytest.raises(RuntimeError, match="after shutdown"):
        await run_in_thread(int)


async def test_a_result_is_downloaded(bucket, result_body, fetch, stored, tmp_path):
    bucket.body = result_body(3_000_000)
    job = stored(bucket.url())
    with no_thread():
        report = await fetch().download(job, tmp_path / "out")
    assert report.path.read_bytes() == bucket.body


async def test_a_host_name_that_cannot_be_resolved_is_a_failed_connection(
    fetch, stored, bucket, tmp_path
):
    transport = TransportOptions(resolver=aiohttp.ThreadedResolver())
    base_url, retry = "http://localhost:9", RetryPolicy(attempts=1)
    client = AdeClient("key", base_url=base_url, retry=retry, transport=transport)
    job = stored(bucket.url().replace("127.0.0.1", "localhost"))
    with no_thread():
        async with client:
            with pytest.raises(ConnectionFailedError, match="cannot start another thread"):
                await client.get_job("job-1")
            with pytest.raises(ResultTransferError, match="cannot start another thread"):
                await fetch(transport=transport).download(job, tmp_path / "out")


async def test_a_large_answer_is_decoded(storage):
    unknown = ",".join(["{}"] * 3_000)
    answer = b'{"job_id":"job-1","status":"pending","new":[%b]}' % unknown.encode()
    storage.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)]
    async with AdeClient("key", base_url=storage.url().rpartition("/")[0]) as client:
        with no_thread():
            job = await client.get_job("job-1")
    assert isinstance(job, JobSnapshot)
    assert len(job.extra["new"]) == 3_000


async def test_what_needs_a_thread_of_its_own_raises_a_typed_error(tmp_path):
    with no_thread(), pytest.raises(JournalAccessError, match="cannot start another thread"):
        await Journal.open(tmp_path / "a.db", endpoint=ENDPOINT)
    with no_thread(), pytest.raises(OSError, match="cannot start another thread"):
        await anext(items_of_thread(lambda _emit: None, ahead=1, name="items"))
    with no_thread(), pytest.raises(OSError, match="cannot start another thread"):
        Session(lambda: AdeClient("key")).__enter__()
