"""What several test files share."""

import asyncio
import contextlib
import gc
import socket
import struct
import traceback
from collections import Counter

import attrs
import pytest
from batching import Scene, make_client
from hypothesis import settings

from adepoll.client import AdeClient
from adepoll.emulator import Emulator, run
from adepoll.emulator.results import build_result
from adepoll.fetcher import ResultFetcher
from adepoll.models import JobSnapshot, JobStatus, from_timestamp
from adepoll.pacing import RetryPolicy

# No test asserts how long something takes, on a busy machine least of all.
settings.register_profile("adepoll", deadline=None)
settings.load_profile("adepoll")


@pytest.fixture
def replay():
    """Run a script (a coroutine function) in virtual time, and see that it leaves nothing behind.

    Anything that the loop complains of ("never retrieved", a failed callback), any task and any
    timer still set when the script is over fails the test.
    """

    def play(script):
        async def main():
            loop = asyncio.get_running_loop()
            complaints = []
            loop.set_exception_handler(lambda _loop, context: complaints.append(context))
            result = await script()
            for _ in range(3):  # for what a finalizer has only just set going
                await asyncio.sleep(0)
            gc.collect(1)
            await asyncio.sleep(0)
            assert not complaints
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert not [timer for timer in loop._scheduled if not timer.cancelled()]
            return result

        return run(main())

    return play


class ScriptedSource:
    """Answers each look at a job with the next line of its script; the last line repeats.

    A line is a status text, an error to raise (a bug too), a future to wait for, or a snapshot. A
    job without a script is completed.
    """

    def __init__(self, scripts=None, *, latency=0.1):
        self.scripts = {job_id: list(lines) for job_id, lines in (scripts or {}).items()}
        self.latency = latency
        self.looks = []  # (time, job_id), as they begin
        self.in_flight = Counter()
        self.most_in_flight = 0
        self.cancelled = 0

    def count(self, job_id=None):
        return sum(job_id in {None, looked_at} for _, looked_at in self.looks)

    def times(self, job_id):
        return [time for time, looked_at in self.looks if looked_at == job_id]

    async def get_job(self, job_id):
        self.looks.append((asyncio.get_running_loop().time(), job_id))
        self.in_flight[job_id] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight.total())
        script = self.scripts.get(job_id, ["completed"])
        line = script.pop(0) if len(script) > 1 else script[0]
        try:
            await asyncio.sleep(self.latency)
            if isinstance(line, asyncio.Future):
                line = await asyncio.shield(line)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight[job_id] -= 1
        if isinstance(line, BaseException):
            raise line
        return line if isinstance(line, JobSnapshot) else self.snapshot(job_id, line)

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        raise NotImplementedError

    @staticmethod
    def snapshot(job_id, status="completed"):
        return JobSnapshot(
            job_id=job_id,
            status=JobStatus.parse(status),
            status_text=status,
            received_at=from_timestamp(0),
            progress=0.0,
        )


@pytest.fixture
def scripted():
    """The class `ScriptedSource`."""
    return ScriptedSource


def _texts_within(value):
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _texts_within(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts_within(item)]
    return [str(value), repr(value)]


@pytest.fixture
def all_text_of():
    """Give all that printing, logging or pickling an exception could bring to light."""

    def texts(exc, seen):
        if exc is None or exc in seen:
            return []
        seen.append(exc)
        members = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
        found = [str(exc), repr(exc), *traceback.format_exception(exc)]
        found += [*_texts_within(exc.args), *_texts_within(vars(exc))]
        for other in (exc.__cause__, exc.__context__, *members):
            found += texts(other, seen)
        return found

    return lambda exc: "\n".join(texts(exc, []))


class RawStorage:
    """A storage on loopback that answers with the very bytes it was told; the last answer repeats.

    An answer is bytes, after which the connection is closed, or a coroutine function that is given
    reader and writer, and returns true where the connection is to be kept.
    """

    def __init__(self):
        self.answers = []
        self.heads = []  # of the requests, raw
        self.connections = 0
        self.origin = None
        self._handlers = set()
        self._left = asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def targets(self):
        """What stood in the request lines, between method and version."""
        lines = [head.partition(b"\r\n")[0].decode("latin-1") for head in self.heads]
        return [line.removeprefix("GET ").removesuffix(" HTTP/1.1") for line in lines]

    def url(self, target="/result.json"):
        return self.origin + target

    async def left_alone(self):
        """Wait until the other side has closed every connection."""
        async with asyncio.timeout(10):
            while self._handlers:
                self._left.clear()
                await self._left.wait()

    @staticmethod
    def reply(body=b"", *, status="200 OK", length=True, headers=()):
        """Give an answer as bytes; `length` is True for the right one, None for none."""
        lines = [f"HTTP/1.1 {status}", *headers]
        if length is not None:
            lines.append(f"Content-Length: {len(body) if length is True else length}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    @staticmethod
    def keeping(answer):
        """Give an answer that leaves the connection open for the next request."""

        async def send(_reader, writer):
            writer.write(answer)
            await writer.drain()
            return True

        return send

    @staticmethod
    def resetting(answer):
        """Give an answer that ends with a reset of the connection."""

        async def send(_reader, writer):
            writer.write(answer)
            await writer.drain()
            no_lingering = struct.pack("ii", 1, 0)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
            writer.transport.abort()

        return send

    async def _serve(self, reader, writer):
        handler = asyncio.current_task()
        self._handlers.add(handler)
        self.connections += 1
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                    break
                if not await answer(reader, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or the test is over
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._handlers.discard(handler)
            self._left.set()


class Bucket(RawStorage):
    """A storage that has one object, and gives it and its ranges as RFC 9110 has it.

    `answers` are made with `give`, and with what `RawStorage` offers for other ones.
    """

    def __init__(self):
        super().__init__()
        self.body = b""
        self.etag = '"one"'
        self.gives_ranges = True
        self.answers = [self.give()]

    @property
    def requests(self):
        """The header fields of each request, by their names in lower case."""
        return [self._fields(head) for head in self.heads]

    @property
    def ranges(self):
        """What ranges were asked for, as (start, stop); None for the whole, or no stop."""
        asked = []
        for fields in self.requests:
            first, _, last = fields.get("range", "").removeprefix("bytes=").partition("-")
            asked.append((int(first), int(last) + 1 if last else None) if first else None)
        return asked

    def give(self, most=None, *, then="keep", before=None):
        """Give what is asked for; or `most` bytes of it, and then "close", "reset" or "hang".

        `before` is called with the number of the request, before it is answered.
        """

        async def send(reader, writer):
            number = len(self.heads) - 1
            if before is not None:
                before(number)
            answer = self._answer(self._fields(self.heads[number]))
            head, blank, body = answer.partition(b"\r\n\r\n")
            writer.write(head + blank)
            for start in range(0, len(body) if most is None else min(most, len(body)), 2**18):
                writer.write(body[start : start + 2**18][: None if most is None else most - start])
                await writer.drain()
            if most is None or then == "keep":
                return True
            if then == "hang":
                await reader.read()  # until the client leaves
            if then == "reset":
                await self.resetting(b"")(reader, writer)
            return False

        return send

    def _answer(self, fields):
        size, tag = len(self.body), self.etag
        tags = [] if tag is None else [f"ETag: {tag}"]
        if tag is not None and fields.get("if-match", tag) != tag:
            return self.reply(status="412 Precondition Failed")
        asked = fields.get("range") if self.gives_ranges else None
        if asked is None or fields.get("if-range", tag) != tag:
            return self.reply(self.body, headers=tags)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        if start >= size:
            headers = [*tags, f"Content-Range: bytes */{size}"]
            return self.reply(status="416 Range Not Satisfiable", headers=headers)
        headers = [*tags, f"Content-Range: bytes {start}-{stop - 1}/{size}"]
        return self.reply(self.body[start:stop], status="206 Partial Content", headers=headers)

    @staticmethod
    def _fields(head):
        lines = head.decode("latin-1").split("\r\n")[1:]
        pairs = [line.partition(":")[::2] for line in lines if line]
        return {name.lower(): value.strip() for name, value in pairs}


@pytest.fixture
async def bucket():
    """A running `Bucket`."""
    async with Bucket() as running:
        yield running


@pytest.fixture
async def storage():
    """A running `RawStorage`."""
    async with RawStorage() as running:
        yield running


@pytest.fixture
async def other_storage():
    """Another `RawStorage`, at an origin of its own."""
    async with RawStorage() as running:
        yield running


@pytest.fixture
def result_body():
    """Make the JSON of a result, of about that many bytes."""

    def make(size=2_000):
        metadata = {
            "filename": "document.md",
            "org_id": None,
            "duration_ms": 1,
            "credit_usage": 1.0,
            "job_id": "job-1",
            "version": None,
        }
        return build_result(seed=0, job_id="job-1", size=size, metadata=metadata).read()

    return make


@pytest.fixture
def stored():
    """Make the snapshot of a completed job whose result is behind that URL."""

    def make(url=None, *, job_id="job-1", status="completed", **fields):
        snapshot = ScriptedSource.snapshot(job_id, status)
        return attrs.evolve(snapshot, output_url=url, **fields)

    return make


class AnsweringClient(AdeClient):
    """A client that makes no requests: each look at a job gives the next of its answers."""

    def __init__(self, *answers, base_url="http://127.0.0.1:9", attempts=3, **options):
        retry = RetryPolicy(attempts=attempts, base=0.001, max_wait=0.001)
        super().__init__("key", base_url=base_url, retry=retry, **options)
        self.answers = list(answers)
        self.asked = []

    async def get_job(self, job_id):
        self.asked.append(job_id)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def answering():
    """The class `AnsweringClient`."""
    return AnsweringClient


@pytest.fixture
async def fetch(answering):
    """Make a fetcher over a client that gives these answers."""
    made = []

    def make(*answers, attempts=3, **options):
        fetcher = ResultFetcher(answering(*answers, attempts=attempts), **options)
        made.append(fetcher)
        return fetcher

    yield make
    for fetcher in made:
        await fetcher.aclose()


@pytest.fixture
async def scene(tmp_path):
    """A `Scene`: a service in this loop, with a folder for batches."""
    async with Emulator() as ade, make_client(ade) as client:
        journal, out_dir = tmp_path / "batch.db", tmp_path / "results"
        yield Scene(ade=ade, client=client, journal=journal, out_dir=out_dir)
