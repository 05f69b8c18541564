"""The client against a scripted server on 127.0.0.1, and its rate limiter in virtual time."""

import asyncio
import contextlib
import gzip
import json
import logging
import math
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import zlib
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace

import aiohttp
import pytest
from attrs import evolve
from internals import clock_of, responses_read
from loopback import LoopbackServer
from waiting import bounded

from adepoll import errors
from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobKind
from adepoll.api.job_requests import job_path
from adepoll.api.kinds.v1_extract import V1_EXTRACT
from adepoll.api.models import JobStatus
from adepoll.api.transport import USER_AGENT
from adepoll.api.transport_errors import describe
from adepoll.emulator import Emulator, JobPlan, VirtualTimeLoop, run
from adepoll.errors import (
    AnswerTimeoutError,
    AnswerTooLargeError,
    CertificateError,
    ClosedError,
    ConfigurationError,
    HeadersTooLargeError,
    InvalidJobIdError,
    MalformedAnswerError,
    MissingApiKeyError,
    RateLimitedError,
    RedirectRefusedError,
    RequestError,
    ServerError,
    StatusError,
    TransportError,
    WrongJobError,
)
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.waiting_times import RetryPolicy

KEY = "cAnArYkEy0123456789+/abc=="
SIGNATURE = "cAnArYsIgNaTuRe"
PRESIGNED = f"https://bucket.s3.example/r?X-Amz-Signature={SIGNATURE}"
FAST = RetryPolicy(attempts=3, base=0.001, max_wait=0.002)
ONCE = RetryPolicy(attempts=1)

JOB = {"job_id": "j-1", "status": "pending", "received_at": 1_780_000_000, "progress": 0}


class RawServer(LoopbackServer):
    """A scripted HTTP server: each request gets the next answer, and then always the last one.

    An answer is the bytes to send before the connection is closed, or a coroutine function that
    is given the writer and does as it likes.
    """

    def __init__(self, answers, **options):
        super().__init__(**options)
        self.answers = [*answers]
        self.requests = []
        self.arrivals = asyncio.Semaphore(0)

    @property
    def targets(self):
        return [request.split(b" ", 2)[1].decode() for request in self.requests]

    async def serve(self, reader, writer):
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        self.arrivals.release()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer, self.requests[-1])


@pytest.fixture
async def start_server():
    async with contextlib.AsyncExitStack() as servers:

        async def start(*answers, **options):
            return await servers.enter_async_context(RawServer(answers, **options))

        yield start


def client_of(server, **options):
    return AdeClient(KEY, base_url=server.origin, **{"retry": FAST, "rng": Random(1), **options})


# Without it, the client could take the connection for its next request while it is being closed.
CLOSE = "Connection: close"


def answer(status=200, body=b"", *headers, content_type="application/json"):
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", CLOSE, *headers]
    if content_type:
        head.append(f"Content-Type: {content_type}")
    return "\r\n".join([*head, "", ""]).encode() + body


def answer_json(payload, status=200, *headers):
    return answer(status, json.dumps(payload).encode(), *headers)


GOOD = answer_json(JOB)


def reset(writer):
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def reset_after(sent):
    async def reply(writer, _request):
        writer.write(sent)
        await writer.drain()
        reset(writer)

    return reply


def endless(head, piece):
    async def reply(writer, _request):
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return reply


async def echo(writer, request):
    """Send the request back, as a TCP echo service does. It contains the key."""
    writer.write(request)
    await writer.drain()


def quoting(status, template, content_type="text/html"):
    """Return a handler that sends an error page with the request in it."""

    async def reply(writer, request):
        quoted = template.replace(b"{}", request)
        writer.write(answer(status, quoted, content_type=content_type))
        await writer.drain()

    return reply


async def silent(_writer, _request):
    await asyncio.Event().wait()


def assert_no_secret_in(text):
    assert KEY not in text
    assert KEY[:12] not in text
    assert SIGNATURE not in text


@pytest.fixture
def logged(caplog):
    """Return all log records, of all loggers from DEBUG on, with their arguments."""
    caplog.set_level(logging.DEBUG)
    for name in ("asyncio", "aiohttp", "adepoll"):
        caplog.set_level(logging.DEBUG, logger=name)
    return lambda: "\n".join(f"{r.getMessage()} {r.args!r} {r.exc_info}" for r in caplog.records)


# --- answers that are none ----------------------------------------------------------------------

HUGE = b'{"a": "' + b"x" * 100_000 + b'"}'
BOMB = gzip.compress(b" " * 20_000_000)
OK = f"HTTP/1.1 200 OK\r\n{CLOSE}\r\n".encode()
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GZIPPED = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"

NO_ANSWER = {
    "garbage": b"\x00\xff\x01 garbage\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "no status": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "an invalid header": OK + b"no colon here\r\n\r\n{}",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "an invalid length": OK + b"Content-Length: -5\r\n\r\n{}",
    "closed before a byte": b"",
    "closed within the headers": OK + b"Content-Le",
    "closed within the body": GOOD[:-5],
    "closed before the body": OK + b"Content-Length: 5\r\n\r\n",
    "a length that promises more": OK + b"Content-Length: 999\r\n\r\n{}",
    "chunks that end too early": CHUNKED + b"5\r\n{}",
    "chunks without their last": CHUNKED + b"2\r\n{}\r\n",
    "a chunk size that is none": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "gzip that is none": GZIPPED % 20 + b"x" * 20,
    "reset before a byte": reset_after(b""),
    "reset within the headers": reset_after(OK + b"Content-Le"),
    "reset within the body": reset_after(GOOD[:-5]),
    "the request itself": echo,
}

MALFORMED = {
    "HTML on 200": answer(200, b"<html>welcome to the hotel wifi", content_type="text/html"),
    "an empty body": answer(200),
    "an array": answer(200, b"[]"),
    "deep nesting": answer(200, b'{"a":' * 9_000),
    "an integer of 5,000 digits": answer(200, b'{"a": ' + b"9" * 5_000 + b"}"),
    "no UTF-8": answer(200, b'{"a": "\xff\xfe\xfa"}'),
    "a missing field": answer_json({"job_id": "j-1"}),
    "a length that cuts": OK + b"Content-Length: 5\r\n\r\n" + GOOD,
    "brotli, which is not decoded": OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\nxx",
    "gzip that stops in the middle": GZIPPED % 30 + gzip.compress(json.dumps(JOB).encode())[:30],
    "the key and a signature": answer_json({"job_id": "j-1", KEY: PRESIGNED, "status": [KEY]}),
    "HTML that quotes the request on 200": quoting(200, b"<p>you sent: {}</p>"),
}

TOO_LARGE = {
    "a body over the limit": answer(200, HUGE),
    "an endless body": endless(OK + b"\r\n", b"x" * 10_000),
    "endless chunks": endless(CHUNKED, b"2710\r\n" + b"x" * 10_000 + b"\r\n"),
    "a gzip bomb": GZIPPED % len(BOMB) + BOMB,
}

# Bodies of error statuses that do not end well. Each follows the status line.
BAD_ERROR_BODIES = {
    "endless": endless(b"\r\n", b"x" * 10_000),
    "closed within the body": b"Content-Length: 99\r\n\r\n<html>",
    "reset within the body": reset_after(b"Content-Length: 99\r\n\r\n<html>"),
    **{
        f"{coding} that is none": b"Content-Encoding: %b\r\nContent-Length: 20\r\n\r\n%b"
        % (coding.encode(), b"x" * 20)
        for coding in ("gzip", "deflate", "br", "zstd", "compress", "gzip, br", "a-new-coding")
    },
    "gzip that stops in the middle": b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
    + BOMB[:9],
    "deflate that stops in the middle": (
        b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\nx\x9c"
    ),
    "chunked brotli": (
        b"Content-Encoding: br\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n"
    ),
    "over the limit": b"Content-Length: %d\r\n\r\n" % len(HUGE) + HUGE,
}

FAILURES = [
    *((name, sent, TransportError, 3) for name, sent in NO_ANSWER.items()),
    *((name, sent, (MalformedAnswerError, TransportError), 3) for name, sent in MALFORMED.items()),
    *((name, sent, AnswerTooLargeError, 1) for name, sent in TOO_LARGE.items()),
    ("a header without end", OK + b"X: " + b"x" * 100_000, HeadersTooLargeError, 3),
    ("another job", answer_json({**JOB, "job_id": "j-2"}), WrongJobError, 3),
    ("the key as another job", answer_json({**JOB, "job_id": f"Bearer {KEY}"}), WrongJobError, 3),
    *(
        (f"{status} {name}", quoting(status, page, kind), RequestError, 3 if retried else 1)
        for status, retried in {
            302: False,
            400: True,
            401: False,
            402: False,
            403: False,
            404: False,
            408: True,
            422: False,
            429: True,
            500: True,
            502: True,
            503: True,
        }.items()
        for name, page, kind in (
            ("quoting the request", b"<pre>{}</pre>", "text/html"),
            ("quoting the key", json.dumps({"detail": f"bad key {KEY}"}).encode(), "a/json"),
            (
                "quoting the key and a signature as FastAPI does",
                json.dumps(
                    {"detail": [{"loc": ["header", KEY], "msg": PRESIGNED, "input": KEY}]}
                ).encode(),
                "application/json",
            ),
        )
    ),
]


@pytest.mark.parametrize("case", FAILURES, ids=[name for name, *_ in FAILURES])
async def test_bad_responses_are_retried_if_temporary_and_reported_without_a_secret(
    case, start_server, all_text_of, logged
):
    _, sent, expected, requests = case
    server = await start_server(sent)
    async with client_of(server, max_body_bytes=50_000) as client:
        with pytest.raises(expected) as caught:
            await client.get_job("j-1")
        error = caught.value
        assert len(server.requests) == client.stats.requests == requests
        assert client.stats.failures == requests
        assert client.stats.retries == requests - 1
        assert client.stats.in_flight == 0
        assert error.job_id == "j-1"
        assert error.transient is (requests > 1)
        assert_no_secret_in(all_text_of(error))
        assert_no_secret_in(f"{client!r} {client} {client.stats} {vars(client)}")
        assert_no_secret_in(logged())
        assert error.__cause__ is None
        assert error.__context__ is None
        assert len(str(error)) < 1_500
        assert "\n" not in str(error)


@pytest.mark.parametrize("body", BAD_ERROR_BODIES.values(), ids=list(BAD_ERROR_BODIES))
@pytest.mark.parametrize("status", [307, 402, 404, 429, 503])
async def test_an_error_status_counts_whatever_happens_to_its_body(status, body, start_server):
    async def reply(writer, request):
        writer.write(f"HTTP/1.1 {status} X\r\n{CLOSE}\r\nRetry-After: 30\r\n".encode())
        if isinstance(body, bytes):
            writer.write(body)
            await writer.drain()
        else:
            await body(writer, request)

    server = await start_server(reply)
    async with client_of(server, retry=ONCE, max_body_bytes=50_000) as client:
        with pytest.raises(StatusError) as caught:
            await client.get_job("j-1")
        assert client.stats.gate_closed_for > 0
    assert (caught.value.status, caught.value.retry_after) == (status, 30)
    assert caught.value.__context__ is None


async def test_an_error_status_counts_although_its_body_does_not_arrive_in_time(start_server):
    async def stop(writer, _request):
        writer.write(b"HTTP/1.1 429 X\r\nRetry-After: 30\r\nContent-Length: 9\r\n\r\n{")
        await asyncio.Event().wait()

    server = await start_server(stop)
    async with client_of(server, retry=ONCE, timeout=0.05) as client:
        with pytest.raises(RateLimitedError) as caught:
            await client.get_job("j-1")
        assert not responses_read(client)
    assert caught.value.retry_after == 30


@pytest.mark.parametrize(
    "sent",
    [
        NO_ANSWER["closed within the body"],
        MALFORMED["an array"],
        quoting(500, b"<p>{}</p>"),
        answer_json({"detail": f"key {KEY} is wrong"}, 503),
    ],
)
async def test_bad_responses_to_a_list_are_reported_in_the_same_manner(
    sent, start_server, all_text_of
):
    server = await start_server(sent)
    async with client_of(server) as client:
        with pytest.raises(RequestError) as caught:
            await client.list_jobs()
    assert len(server.requests) == 3
    assert caught.value.job_id is None
    assert_no_secret_in(all_text_of(caught.value))


async def test_a_silent_service_causes_a_timeout(start_server, all_text_of):
    server = await start_server(silent)
    async with client_of(server, timeout=0.05, retry=ONCE) as client, asyncio.timeout(60):
        with pytest.raises(
            AnswerTimeoutError, match=r"no complete answer within 0\.05 s"
        ) as caught:
            await client.get_job("j-1")
    assert caught.value.timeout == 0.05
    assert caught.value.__context__ is None
    assert isinstance(caught.value, TimeoutError)
    assert_no_secret_in(all_text_of(caught.value))


async def test_the_timeout_includes_a_slow_body(start_server):
    async def trickle(writer, _request):
        writer.write(GOOD[:-1])
        await writer.drain()
        await asyncio.Event().wait()

    server = await start_server(trickle)
    async with client_of(server, timeout=0.05, retry=ONCE) as client:
        with pytest.raises(AnswerTimeoutError):
            await client.get_job("j-1")


async def test_bytes_within_an_answer_that_are_not_http_are_reported_immediately(
    start_server, all_text_of
):
    async def answer(writer, _request):
        writer.write(CHUNKED + b"1\r\n{\r\n")
        async with bounded("for the client to read the body"):
            while not responses_read(client):  # noqa: ASYNC110 - nothing outside tells of it
                await asyncio.sleep(0)
        writer.write(b"zz\r\n")
        await asyncio.Event().wait()

    server = await start_server(answer)
    async with client_of(server, retry=ONCE) as client:
        with pytest.raises(TransportError, match="not valid HTTP: Invalid character") as caught:
            await client.get_job("j-1")
        assert not responses_read(client)
    assert caught.value.__context__ is None
    assert_no_secret_in(all_text_of(caught.value))


async def test_a_refused_connection_is_reported_with_the_address(all_text_of):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with AdeClient(KEY, base_url=f"http://127.0.0.1:{port}", retry=FAST) as client:
        with pytest.raises(TransportError, match=f"cannot connect to 127.0.0.1:{port}: ") as caught:
            await client.get_job("j-1")
        assert client.stats.requests == 3
    assert caught.value.__context__ is None
    assert_no_secret_in(all_text_of(caught.value))


PLACE = SimpleNamespace(host="h", port=1, ssl=True)


def unnamed_tls_error(text):
    """Return an error of OpenSSL for which Python's `ssl` has no name."""
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, text)
    error.reason = None
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            aiohttp.ClientConnectorError(PLACE, socket.gaierror(-2, "Name not known")),
            "cannot connect to h:1: Name not known",
        ),
        (
            aiohttp.ClientConnectorError(PLACE, OSError(111, "Connect call failed ('::1', 1)")),
            f"cannot connect to h:1: {os.strerror(111)}",
        ),
        (aiohttp.ClientOSError(104, PRESIGNED), f"the connection failed: {os.strerror(104)}"),
        (aiohttp.InvalidURL(PRESIGNED), "the connection failed (InvalidURL)"),
        (OSError(), "the connection failed: OSError"),
        (unnamed_tls_error("unknown error"), "the connection failed: unknown error"),
        (
            aiohttp.ClientResponseError(
                None, (), message=f"Transfer-Encoding can't be present with 'x': {PRESIGNED}"
            ),
            "the answer is not valid HTTP: Transfer-Encoding cannot be present with",
        ),
    ],
)
def test_the_description_of_a_foreign_error_has_no_url(error, text):
    assert describe(error) == text


SELF_SIGNED = """\
-----BEGIN CERTIFICATE-----
MIIBfjCCASWgAwIBAgIUXd8M9du7Vf6gvcTQbzdszcsFREEwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyMzE4MTE1NloYDzIxMjYxMDMw
MTgxMTU2WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASVkpiqYncbMeru2/CdmVzNrCUYOJ8TekLpWDgbA6LTki6YNV9iV09b
7jd/VXsieXryqtEdjtHyr1COt+GBZ2P4o1MwUTAdBgNVHQ4EFgQUG6QKrd2wXIVk
H3Z7B+PNwat5xlgwHwYDVR0jBBgwFoAUG6QKrd2wXIVkH3Z7B+PNwat5xlgwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBKFng0rr9OoE6OCheqHkJz
xm0JVrtuhDWFuagKzL/ZWQIgGA9ZO6B4VFsSUnsAg1ro5TntuKX6t0Sc/EASQzS0
o64=
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgM40qPxPNX2rIk4zn
sgoXBUeII/gnV97DeqwPk3OvPwqhRANCAASVkpiqYncbMeru2/CdmVzNrCUYOJ8T
ekLpWDgbA6LTki6YNV9iV09b7jd/VXsieXryqtEdjtHyr1COt+GBZ2P4
-----END PRIVATE KEY-----
"""


async def test_the_key_is_not_sent_to_a_server_with_an_unverified_certificate(
    start_server, tmp_path, all_text_of
):
    pem = tmp_path / "self-signed.pem"
    pem.write_text(SELF_SIGNED)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = await start_server(GOOD, ssl=context)
    async with client_of(server, retry=ONCE) as client:
        with pytest.raises(CertificateError, match="cannot be verified: self-signed") as caught:
            await client.get_job("j-1")
    assert server.requests == []
    assert caught.value.__context__ is None
    assert_no_secret_in(all_text_of(caught.value))


# --- answers ------------------------------------------------------------------------------------


async def test_a_valid_response_is_returned_after_one_request(start_server):
    server = await start_server(GOOD)
    async with client_of(server) as client:
        job = await client.get_job("j-1")
        assert job.job_id == "j-1"
        assert job.status is JobStatus.PENDING
        assert client.stats.requests == 1
        assert client.stats.retries == client.stats.failures == client.stats.throttled == 0
        assert client.stats.bytes_received == len(json.dumps(JOB))


ODD = {
    "400 digits": ({**JOB, "new": 10**400}, {"new": 10**400}),
    "400 digits of progress": ({**JOB, "progress": 10**400}, {"progress": 10**400}),
    "NaN": ({**JOB, "progress": float("nan")}, {}),
    "a lone surrogate": ({**JOB, "new": "\ud800"}, {"new": "\ud800"}),
    "a null character": ({**JOB, "new": "\x00"}, {"new": "\x00"}),
}


@pytest.mark.parametrize(("payload", "extra"), ODD.values(), ids=ODD)
async def test_unusual_but_valid_json_is_accepted(payload, extra, start_server):
    server = await start_server(answer_json(payload))
    async with client_of(server) as client:
        assert (await client.get_job("j-1")).extra == extra


async def test_206_means_that_the_data_does_not_conform(start_server):
    server = await start_server(answer_json({**JOB, "status": "completed"}, 206))
    async with client_of(server) as client:
        job = await client.get_job("j-1")
    assert job.status is JobStatus.COMPLETED
    assert not job.conforms


@pytest.mark.parametrize("content_type", ["text/html", "", "application/json; charset=nonsense"])
async def test_json_is_read_whatever_the_content_type_says(content_type, start_server):
    server = await start_server(answer(200, json.dumps(JOB).encode(), content_type=content_type))
    async with client_of(server) as client:
        assert (await client.get_job("j-1")).job_id == "j-1"


async def test_bytes_received_are_counted_after_decompression(start_server):
    body = json.dumps({**JOB, "new": "x" * 5_000}).encode()
    packed = gzip.compress(body)
    server = await start_server(GZIPPED % len(packed) + packed)
    async with client_of(server) as client:
        await client.get_job("j-1")
        assert client.stats.bytes_received == len(body)
        with pytest.raises(AnswerTooLargeError, match="larger max_body_bytes"):
            await client_limited_to(client, len(body) - 1)


async def client_limited_to(client, limit):
    async with AdeClient(KEY, base_url=client.base_url, max_body_bytes=limit) as other:
        await other.get_job("j-1")


async def test_a_body_of_exactly_the_limit_is_accepted(start_server):
    server = await start_server(GOOD)
    limit = len(json.dumps(JOB))
    async with client_of(server, max_body_bytes=limit) as client:
        await client.get_job("j-1")
    async with client_of(server, max_body_bytes=limit - 1) as client:
        with pytest.raises(AnswerTooLargeError) as caught:
            await client.get_job("j-1")
    assert caught.value.limit == limit - 1


async def test_an_unknown_status_causes_one_warning(start_server, caplog):
    strange = {**JOB, "status": f"paused \x1b[31m sig={SIGNATURE}"}
    server = await start_server(answer_json(strange))
    async with client_of(server) as client:
        for _ in range(3):
            job = await client.get_job("j-1")
            assert job.status is JobStatus.UNKNOWN
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "paused" in record.getMessage()
    assert "\x1b" not in record.getMessage()
    assert_no_secret_in(record.getMessage())


async def test_fields_that_cannot_be_read_cause_one_warning_each(start_server, caplog):
    metadata = {"filename": SIGNATURE, "duration_ms": f"sig={SIGNATURE}", "warnings": 7, "new": 1}
    data = {"extraction": {}, "metadata": metadata}
    job = {**JOB, "status": "completed", "progress": [], "data": data}
    page = {"jobs": [JOB, {}]}
    server = await start_server(*[answer_json(job)] * 3, *[answer_json(page)] * 2)
    async with client_of(server) as client:
        for _ in range(3):
            await client.get_job("j-1")
        for _ in range(2):
            assert len((await client.list_jobs()).jobs) == 1
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    odd = ["$.progress", "$.data.metadata.duration_ms", "$.data.metadata.warnings", "$.jobs"]
    assert [text.split(" for ")[1].split(" that ")[0] for text in texts] == odd
    assert_no_secret_in("".join(texts))


async def test_costly_bodies_are_decoded_in_a_thread(start_server):
    threads = []

    def decode(body, status):
        threads.append(threading.current_thread())
        return V1_EXTRACT.decode_job(body, status)

    bodies = [
        *({**JOB, "new": "x" * size} for size in (100, 100_000, 300_000)),
        *({**JOB, "new": [value] * 1_500} for value in ({}, [[]], {"a": "b", "c": [1]})),
        {**JOB, "new": [0] * 2_500},
        {**JOB, "new": ["a text of some length"] * 400},
    ]
    bad = answer(200, b"[" + b"0," * 10_000)
    server = await start_server(*map(answer_json, bodies), bad)
    rules = evolve(V1_EXTRACT, decode_job=decode)
    async with client_of(server, kinds=[rules], retry=ONCE) as client:
        for _ in bodies:
            assert (await client.get_job("j-1")).job_id == "j-1"
        with pytest.raises(MalformedAnswerError):
            await client.get_job("j-1")
    here = threading.current_thread()
    in_loop = [thread is here for thread in threads]
    assert in_loop == [True, True, False, False, False, False, False, True, False]


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (401, "AuthenticationError"),
        (402, "PaymentRequiredError"),
        (403, "PermissionDeniedError"),
        (404, "JobNotFoundError"),
        (422, "UnprocessableError"),
        (429, "RateLimitedError"),
        (500, "ServerError"),
        (418, "UnexpectedStatusError"),
    ],
)
async def test_every_documented_status_has_its_error(status, name, start_server):
    detail = [{"loc": ["path", "job_id"], "msg": "is no id", "type": "value_error"}]
    server = await start_server(answer_json({"detail": detail}, status))
    async with client_of(server, retry=ONCE) as client:
        with pytest.raises(getattr(errors, name)) as caught:
            await client.get_job("j-1")
    assert type(caught.value).__name__ == name
    assert caught.value.status == status
    assert caught.value.detail == "is no id @ path.job_id"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ([], None),
        (["Retry-After: 7"], 7.0),
        (["Retry-After: 0"], 0.0),
        (["Retry-After: 1.5"], 1.5),
        (["Retry-After: 99999999999"], 300.0),
        (["Retry-After: soon"], None),
        (["Retry-After: -1"], None),
        (["Retry-After:"], None),
        (
            ["Retry-After: Wed, 01 Jul 2026 12:00:30 GMT", "Date: Wed, 01 Jul 2026 12:00:00 GMT"],
            30.0,
        ),
        (["Retry-After: Thu, 01 Jan 1970 00:00:00 GMT"], 0.0),
        (["Retry-After: Fri, 31 Dec 2999 23:59:59 GMT"], 300.0),
    ],
)
async def test_retry_after_closes_the_gate_for_at_least_that_time(headers, wait, start_server):
    server = await start_server(answer(429, b"", *headers))
    async with client_of(server, retry=ONCE) as client:
        with pytest.raises(RateLimitedError) as caught:
            await client.get_job("j-1")
        assert caught.value.retry_after == wait
        assert client.stats.throttled == 1
        closed_for = client.stats.gate_closed_for
        assert (wait or 0.0) - 1.0 < closed_for <= (wait or 0.0) + 1.0


# --- requests -----------------------------------------------------------------------------------


async def test_a_request_contains_the_key_and_a_user_agent(start_server):
    server = await start_server(GOOD)
    async with client_of(server) as client:
        await client.get_job("j-1")
    head = server.requests[0].decode()
    assert head.startswith("GET /v1/ade/extract/jobs/j-1 HTTP/1.1\r\n")
    assert f"\r\nAuthorization: Bearer {KEY}\r\n" in head
    assert f"\r\nUser-Agent: {USER_AGENT}\r\n" in head
    assert "\r\nAccept: application/json\r\n" in head
    assert head.count(KEY) == 1


@pytest.mark.parametrize(
    "job_id", ["a+b", "a:b@c", "é漢", "a&b=c;d,e", "~a'(b)*!", "..a", "a|b^c`"]
)
async def test_the_id_is_sent_encoded_exactly_once(job_id, start_server):
    server = await start_server(answer_json({**JOB, "job_id": job_id}))
    async with client_of(server) as client:
        assert (await client.get_job(job_id)).job_id == job_id
    assert server.targets == [job_path(V1_EXTRACT, job_id)]


async def test_a_base_url_may_have_a_path_and_a_trailing_slash(start_server):
    server = await start_server(GOOD)
    base_url = f"{server.origin}/ade%2Fproxy//"
    async with AdeClient(KEY, base_url=base_url) as client:
        await client.get_job("j-1")
        assert client.base_url == f"{server.origin}/ade%2Fproxy"
    assert server.targets == ["/ade%2Fproxy/v1/ade/extract/jobs/j-1"]


@pytest.mark.parametrize("job_id", ["", "a/b", "..", "a b", None])
async def test_an_invalid_id_is_refused_before_a_request(job_id, start_server):
    server = await start_server(GOOD)
    async with client_of(server) as client:
        with pytest.raises(InvalidJobIdError):
            await client.get_job(job_id)
        assert client.stats.requests == 0
    assert server.requests == []


@pytest.mark.parametrize("arguments", [{"page": -1}, {"page_size": 0}, {"page_size": 101}])
async def test_invalid_page_arguments_are_refused_before_a_request(arguments, start_server):
    server = await start_server(GOOD)
    async with client_of(server) as client:
        with pytest.raises(ValueError, match="page"):
            await client.list_jobs(**arguments)
    assert server.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_key_is_not_sent_to_the_target_of_a_redirect(status, start_server, all_text_of):
    elsewhere = await start_server(GOOD)
    server = await start_server(answer(status, b"", f"Location: {elsewhere.origin}/?{SIGNATURE}"))
    async with client_of(server) as client:
        with pytest.raises(RedirectRefusedError, match="check base_url") as caught:
            await client.get_job("j-1")
    assert elsewhere.requests == []
    assert len(server.requests) == 1
    assert_no_secret_in(all_text_of(caught.value))


async def test_cookies_are_not_kept(start_server):
    server = await start_server(answer_json(JOB, 200, "Set-Cookie: a=b"))
    # By name: aiohttp keeps no cookies of IP addresses.
    base_url = server.origin.replace("127.0.0.1", "localhost")
    async with AdeClient(KEY, base_url=base_url) as client:
        for _ in range(2):
            await client.get_job("j-1")
    assert b"cookie" not in server.requests[1].lower()


async def test_retries_end_with_the_first_valid_response(start_server, logged):
    server = await start_server(answer(503), NO_ANSWER["reset before a byte"], GOOD)
    async with client_of(server) as client:
        assert (await client.get_job("j-1")).job_id == "j-1"
        stats = client.stats
    assert (stats.requests, stats.retries, stats.failures, stats.throttled) == (3, 2, 2, 0)
    assert "attempt 1 failed, will retry: job j-1: the service answered 503" in logged()


@pytest.mark.parametrize("sent", [NO_ANSWER["closed before a byte"], reset_after(b"")])
async def test_aiohttp_does_not_repeat_a_request(sent, start_server):
    """It repeats a GET by default, which neither the rate nor the budget would count."""
    server = await start_server(sent)
    async with client_of(server, retry=ONCE) as client:
        with pytest.raises(TransportError):
            await client.get_job("j-1")
        assert client.stats.requests == len(server.requests) == 1


async def test_a_connection_closed_while_idle_fails_no_call(start_server):
    server = await start_server(GOOD.replace(CLOSE.encode(), b"Connection: keep-alive"))
    async with client_of(server) as client:
        for _ in range(10):
            assert (await client.get_job("j-1")).job_id == "j-1"


@pytest.mark.parametrize("retry", [ONCE, RetryPolicy(budget=0)])
async def test_without_attempts_or_budget_nothing_is_retried(retry, start_server):
    server = await start_server(answer(500))
    async with client_of(server, retry=retry) as client:
        with pytest.raises(ServerError):
            await client.get_job("j-1")
    assert len(server.requests) == 1


async def test_all_calls_share_one_retry_budget(start_server):
    server = await start_server(answer(500))
    retry = RetryPolicy(attempts=10, base=0.001, max_wait=0.001, budget=4)
    async with client_of(server, retry=retry) as client:
        failures = await asyncio.gather(
            *(client.get_job("j-1") for _ in range(6)), return_exceptions=True
        )
        assert client.stats.retry_budget == 0
    assert {type(failure) for failure in failures} == {ServerError}
    assert len(server.requests) == 6 + 4


async def test_the_number_of_open_connections_is_limited(start_server):
    open_now = most = 0

    async def slow(writer, _request):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        for _ in range(20):
            await asyncio.sleep(0)
        open_now -= 1
        writer.write(GOOD)
        await writer.drain()

    server = await start_server(slow)
    async with client_of(server, max_connections=3) as client:
        await asyncio.gather(*(client.get_job("j-1") for _ in range(20)))
    assert most == 3


async def test_a_cancelled_call_returns_its_connection(start_server):
    server = await start_server(silent, GOOD)
    async with client_of(server, max_connections=1) as client:
        task = asyncio.create_task(client.get_job("j-1"))
        await server.arrivals.acquire()
        assert client.stats.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.stats.in_flight == 0
        assert (await client.get_job("j-1")).job_id == "j-1"


# --- lists --------------------------------------------------------------------------------------


def page_of(*job_ids, has_more=True):
    jobs = [{**JOB, "job_id": job_id} for job_id in job_ids]
    return answer_json({"jobs": jobs, "org_id": "o", "has_more": has_more})


async def test_a_page_is_requested_with_the_parameters_of_the_service(start_server):
    server = await start_server(page_of("a", "b"))
    async with client_of(server) as client:
        page = await client.list_jobs(page=3, page_size=7, status=JobStatus.FAILED)
        assert [job.job_id for job in page.jobs] == ["a", "b"]
        await client.list_jobs()
    assert server.targets == [
        "/v1/ade/extract/jobs?page=3&pageSize=7&status=failed",
        "/v1/ade/extract/jobs?page=0&pageSize=100",
    ]


async def test_jobs_that_move_between_pages_are_yielded_once(start_server):
    server = await start_server(
        page_of("a", "b", "b"), page_of("b", "c"), page_of("c", "d", has_more=False)
    )
    async with client_of(server) as client:
        jobs = [job.job_id async for job in client.iter_jobs(status=JobStatus.PENDING)]
    assert jobs == ["a", "b", "c", "d"]
    assert server.targets == [
        f"/v1/ade/extract/jobs?page={page}&pageSize=100&status=pending" for page in range(3)
    ]


async def test_a_list_that_always_has_more_but_nothing_new_ends(start_server):
    server = await start_server(page_of("a"), page_of("b"), page_of("a", "b"))
    async with client_of(server) as client:
        assert [job.job_id async for job in client.iter_jobs()] == ["a", "b"]
    assert len(server.requests) == 5


async def test_two_pages_without_new_jobs_do_not_end_the_list(start_server):
    server = await start_server(
        *(page_of(job_id) for job_id in "aaabbb"), page_of("c", has_more=False)
    )
    async with client_of(server) as client:
        assert [job.job_id async for job in client.iter_jobs()] == ["a", "b", "c"]


async def test_an_empty_page_ends_the_list(start_server):
    server = await start_server(page_of())
    async with client_of(server) as client:
        assert [job async for job in client.iter_jobs()] == []
    assert len(server.requests) == 1


# --- the session --------------------------------------------------------------------------------


async def test_the_callers_session_is_used_and_left_open(start_server):
    server = await start_server(GOOD)
    async with aiohttp.ClientSession(headers={"X-Mine": "yes"}) as session:
        async with client_of(server, session=session) as client:
            await client.get_job("j-1")
        assert not session.closed
    assert b"X-Mine: yes" in server.requests[0]


async def test_settings_of_the_callers_session_do_not_change_what_a_status_means(start_server):
    server = await start_server(answer(404))
    async with (
        aiohttp.ClientSession(
            raise_for_status=True,
            base_url="http://127.0.0.1:1",
            headers={"Authorization": "Bearer another"},
            timeout=aiohttp.ClientTimeout(total=1e-9),
        ) as session,
        client_of(server, session=session) as client,
    ):
        with pytest.raises(errors.JobNotFoundError):
            await client.get_job("j-1")
    assert f"Authorization: Bearer {KEY}".encode() in server.requests[0]
    assert b"another" not in server.requests[0]


@pytest.mark.parametrize("decompresses", [True, False])
async def test_compressed_answers_are_read_with_every_session(start_server, decompresses):
    packed = gzip.compress(json.dumps(JOB).encode())
    server = await start_server(GZIPPED % len(packed) + packed)
    async with (
        aiohttp.ClientSession(auto_decompress=decompresses) as session,
        client_of(server, session=session) as client,
    ):
        assert (await client.get_job("j-1")).status is JobStatus.PENDING
    assert b"\r\nAccept-Encoding: gzip, deflate\r\n" in server.requests[0]


ENCODINGS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "x-gzip": gzip.compress,
    "deflate, gzip": lambda body: gzip.compress(zlib.compress(body)),
    "br": lambda body: body,  # some servers name a coding that they have not applied
    "aws-chunked": lambda body: body,
}


@pytest.mark.parametrize("coding", ENCODINGS)
async def test_an_encoded_answer_is_decoded(start_server, coding):
    packed = ENCODINGS[coding](json.dumps(JOB).encode())
    headers = f"Content-Encoding: {coding}\r\nContent-Length: {len(packed)}\r\n\r\n"
    server = await start_server(OK + headers.encode() + packed)
    async with client_of(server) as client:
        assert (await client.get_job("j-1")).status is JobStatus.PENDING
        assert client.stats.bytes_received == len(json.dumps(JOB))


async def test_traces_of_the_callers_session_do_not_show_the_key(start_server):
    shown = []

    async def note(_session, _context, params):
        shown.append(repr(params))

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(note)
    trace.on_request_end.append(note)
    trace.on_request_exception.append(note)
    trace.on_request_headers_sent.append(note)
    server = await start_server(GOOD)
    async with (
        aiohttp.ClientSession(trace_configs=[trace]) as session,
        client_of(server, session=session) as client,
    ):
        await client.get_job("j-1")
        with pytest.raises(WrongJobError):
            await client.get_job("j-2")
    assert "Authorization" in "".join(shown)
    assert_no_secret_in("".join(shown))


async def test_a_closed_client_raises_closed_error(start_server):
    server = await start_server(GOOD)
    client = client_of(server)
    await client.get_job("j-1")
    await client.aclose()
    await client.aclose()
    for call in (client.get_job("j-1"), client.list_jobs()):
        with pytest.raises(ClosedError, match="the client is closed"):
            await call
    assert len(server.requests) == 1


async def test_a_client_closed_before_its_first_call_opens_nothing():
    client = AdeClient(KEY, base_url="http://127.0.0.1:1")
    await client.aclose()
    with pytest.raises(ClosedError):
        await client.get_job("j-1")


async def test_a_session_closed_by_its_owner_raises_closed_error(start_server):
    server = await start_server(GOOD)
    session = aiohttp.ClientSession()
    await session.close()
    async with client_of(server, session=session) as client:
        with pytest.raises(ClosedError, match="session that was given"):
            await client.get_job("j-1")


async def test_closing_ends_the_calls_in_flight(start_server):
    server = await start_server(silent)
    client = client_of(server)
    calls = [asyncio.create_task(client.get_job("j-1")) for _ in range(3)]
    for _ in calls:
        await server.arrivals.acquire()
    await client.aclose()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in ended} == {ClosedError}
    assert client.stats.in_flight == 0


async def test_stats_read_in_another_thread_show_how_long_the_gate_is_closed():
    session = FakeSession(plan={1: (429, 0.0, {"Retry-After": "30"})})
    one = AdeClient(KEY, base_url="http://h", session=session, retry=ONCE)
    with pytest.raises(RateLimitedError):
        await one.get_job("j-1")
    assert (await asyncio.to_thread(lambda: one.stats)).gate_closed_for > 0
    await one.aclose()


def test_stats_can_be_read_after_the_loop_was_closed():
    async def main():
        async with AdeClient(KEY, base_url="http://h", session=FakeSession(429), retry=ONCE) as one:
            with pytest.raises(RateLimitedError):
                await one.get_job("j-1")
            assert one.stats.gate_closed_for > 0
            return one

    assert run(main()).stats.gate_closed_for == 0.0


# --- a budget that clients share -----------------------------------------------------------------


def test_clients_with_one_rate_limiter_share_its_gate_and_count_for_themselves():
    refusing, answering = FakeSession(plan={1: (429, 0.001, {"Retry-After": "30"})}), FakeSession()

    async def main():
        limiter = RateLimiter(rng=Random(1))
        async with (
            fake_client(refusing, rate_limiter=limiter, retry=ONCE) as one,
            fake_client(answering, rate_limiter=limiter) as two,
        ):
            with pytest.raises(RateLimitedError):
                await one.get_job("j-1")
            await two.get_job("j-2")
            return one.stats, two.stats

    one, two = run(main())
    assert answering.sent[0] >= 30.0
    assert (one.requests, one.throttled, two.requests, two.throttled) == (1, 1, 1, 0)
    assert one.rate_limit == two.rate_limit


def test_closing_one_client_leaves_the_shared_rate_limiter_to_the_others():
    async def main():
        limiter = RateLimiter(max_rate=1)
        one = fake_client(FakeSession(), rate_limiter=limiter)
        two = fake_client(FakeSession(), rate_limiter=limiter)
        await one.get_job("j-1")
        waiting = asyncio.create_task(one.get_job("j-2"))
        await asyncio.sleep(0.1)
        await one.aclose()
        with pytest.raises(ClosedError):
            await waiting
        async with two:
            assert (await two.get_job("j-3")).job_id == "j-3"

    run(main())


def test_a_rate_limiter_of_another_event_loop_is_refused():
    limiter = RateLimiter()

    async def main():
        async with fake_client(FakeSession(), rate_limiter=limiter) as client:
            await client.get_job("j-1")

    run(main())
    with pytest.raises(ClosedError, match="create one for each loop"):
        run(main())


def test_a_client_with_a_rate_limiter_uses_its_retry_policy_or_an_own_one():
    limiter = RateLimiter(retry=RetryPolicy(attempts=3))
    assert AdeClient(KEY, rate_limiter=limiter).retry is limiter.retry
    assert AdeClient(KEY, rate_limiter=limiter, retry=ONCE).retry is ONCE


@pytest.mark.parametrize("option", ["max_rate", "max_connections"])
def test_limits_beside_a_rate_limiter_are_refused(option):
    with pytest.raises(ValueError, match="pass max_rate and max_connections to the RateLimiter"):
        AdeClient(KEY, rate_limiter=RateLimiter(), **{option: 5})


# --- configuration ------------------------------------------------------------------------------


@pytest.fixture
def no_environment(monkeypatch):
    for name in ("VISION_AGENT_API_KEY", "LANDINGAI_ADE_ENVIRONMENT", "LANDINGAI_ADE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


US, EU = "https://api.va.landing.ai", "https://api.va.eu-west-1.landing.ai"


async def test_the_key_argument_takes_precedence_over_the_environment(no_environment):
    no_environment.setenv("VISION_AGENT_API_KEY", f"  {KEY}\n")
    async with Emulator(api_key=KEY) as ade, Emulator(api_key="other") as other:
        for service, arguments in ((ade, ()), (other, ("other",))):
            async with AdeClient(*arguments, base_url=service.base_url) as client:
                assert (await client.get_job(service.submit(JobPlan()))).is_terminal


@pytest.mark.parametrize("key", [None, "", "  ", "\n"])
def test_a_missing_key_is_reported_with_the_name_of_the_variable(key, no_environment):
    with pytest.raises(MissingApiKeyError, match="VISION_AGENT_API_KEY") as caught:
        AdeClient(key)
    assert caught.value.variable == "VISION_AGENT_API_KEY"
    no_environment.setenv("VISION_AGENT_API_KEY", " ")
    with pytest.raises(MissingApiKeyError):
        AdeClient()


@pytest.mark.parametrize("junk", ["\r\nX: y", " ", "é", "\x00", "\x7f", "\u200b"])
def test_a_key_that_could_break_a_header_is_refused_and_not_shown(junk, all_text_of):
    with pytest.raises(ConfigurationError) as caught:
        AdeClient(f"{KEY}{junk}{KEY}")
    assert_no_secret_in(all_text_of(caught.value))


@pytest.mark.parametrize(
    ("region", "variable", "url"),
    [
        (None, None, US),
        (None, "", US),
        (None, "production", US),
        (None, "eu", EU),
        ("us", "eu", US),
        ("eu", None, EU),
        ("eu", "nonsense", EU),
    ],
)
def test_the_region_comes_from_the_argument_then_the_environment_then_is_us(
    region, variable, url, no_environment
):
    if variable is not None:
        no_environment.setenv("LANDINGAI_ADE_ENVIRONMENT", variable)
    assert AdeClient(KEY, region=region).base_url == url


def test_the_base_url_variable_takes_precedence_over_the_region_variable(no_environment):
    no_environment.setenv("LANDINGAI_ADE_BASE_URL", "http://127.0.0.1:8000/")
    no_environment.setenv("LANDINGAI_ADE_ENVIRONMENT", "eu")
    assert AdeClient(KEY).base_url == "http://127.0.0.1:8000"
    assert AdeClient(KEY, region="us").base_url == US
    assert AdeClient(KEY, base_url="http://127.0.0.1:9").base_url == "http://127.0.0.1:9"


def test_an_unknown_region_is_refused(no_environment):
    with pytest.raises(ConfigurationError, match="unknown region 'asia'"):
        AdeClient(KEY, region="asia")
    no_environment.setenv("LANDINGAI_ADE_ENVIRONMENT", "staging")
    with pytest.raises(ConfigurationError, match="unknown region 'staging'"):
        AdeClient(KEY)


def test_region_and_base_url_exclude_each_other():
    with pytest.raises(ConfigurationError, match="not both"):
        AdeClient(KEY, region="eu", base_url="https://h")


@pytest.mark.parametrize(
    "base_url",
    [
        "127.0.0.1:8000",
        "ftp://h",
        "https://",
        "https:///path",
        "https://h:port",
        "https://h:99999",
        "https://[::1",
        "https://h?",
        "https://h#",
        f"https://h?token={SIGNATURE}",
        f"https://h#{SIGNATURE}",
        f"https://user:{SIGNATURE}@h",
        f"https://{SIGNATURE}@h",
        f"https://user:pa/{SIGNATURE}@h",
        "https://@h",
        "https://:@h",
        "https://h /x",
        "https://h\n",
        "https://hé",
    ],
)
def test_an_invalid_base_url_is_refused_and_shown_redacted(base_url, all_text_of):
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        AdeClient(KEY, base_url=base_url)
    assert_no_secret_in(all_text_of(caught.value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout", bad) for bad in (0, -1, float("inf"), float("nan"))),
        ("max_body_bytes", 0),
        ("max_body_bytes", math.nan),
        ("inline_limit", 0),
        ("inline_limit", math.nan),
        ("outage_wait", -0.1),
        ("outage_wait", float("nan")),
        ("max_connections", 0),
        *(("max_rate", bad) for bad in (0, -1, float("inf"), float("nan"))),
    ],
)
def test_a_number_out_of_range_is_refused_under_its_name(name, value):
    with pytest.raises(ValueError, match=name):
        AdeClient(KEY, **{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 1e-9, "outage_wait": 0.0, "max_body_bytes": 1, "inline_limit": 1},
        {"outage_wait": float("inf"), "max_connections": 1, "max_rate": 1e-9},
    ],
)
def test_numbers_at_the_bounds_are_accepted(options):
    assert AdeClient(KEY, **options).stats.requests == 0


def test_the_repr_of_a_client_shows_the_address_and_not_the_key():
    client = AdeClient(KEY, base_url="https://h")
    assert repr(client) == "AdeClient(base_url='https://h')"
    assert_no_secret_in(f"{client} {vars(client)}")


def test_creating_a_client_needs_no_loop_and_no_connection(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    assert AdeClient(KEY, region="eu").stats.requests == 0


# --- pacing, in virtual time --------------------------------------------------------------------


class FakeSession:
    """Answers every GET with a status, or by a plan for the n-th request."""

    closed = False

    def __init__(self, status=200, plan=None):
        self.status = status
        self.plan = plan or {}
        self.sent = []

    def get(self, url, **_options):
        return FakeRequest(self, url)


class FakeRequest:
    def __init__(self, session, url):
        self.session = session
        self.job_id = url.path.rpartition("/")[2]

    def __await__(self):
        return self.answer().__await__()

    async def answer(self):
        sent = self.session.sent
        sent.append(asyncio.get_running_loop().time())
        status, lasts, headers = self.session.plan.get(len(sent), (self.session.status, 0.001, {}))
        await asyncio.sleep(lasts)
        return FakeResponse(status, headers, json.dumps({**JOB, "job_id": self.job_id}).encode())


class FakeResponse:
    """A response whose body has arrived completely."""

    closed = True

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.content = self
        self.body = body
        self.total_bytes = len(body)

    def read_nowait(self):
        return self.body


def fake_client(session, **options):
    return AdeClient(KEY, base_url="http://h", session=session, rng=Random(1), **options)


def test_the_rate_is_kept_after_a_stall_with_queued_calls():
    session = FakeSession(plan={1: (200, 29.0, {})})

    async def main():
        async with fake_client(session, max_rate=10, max_connections=1) as client:
            await asyncio.gather(*(client.get_job(f"j-{n}") for n in range(100)))

    run(main())
    assert len(session.sent) == 100
    for start in session.sent:
        assert sum(start <= time < start + 1 for time in session.sent) <= 12


@pytest.mark.parametrize("status", [409, 429, 503])
@pytest.mark.parametrize(("headers", "minutes"), [({}, 4), ({"Retry-After": "999"}, 30)])
def test_a_call_ends_within_the_documented_time(status, headers, minutes):
    session = FakeSession(plan=dict.fromkeys(range(1, 100), (status, 29.9, headers)))

    async def main():
        async with fake_client(session) as client:
            with pytest.raises(StatusError):
                await client.get_job("j-1")
            began = asyncio.get_running_loop().time()
            with pytest.raises(StatusError):
                await client.get_job("j-1")  # the gate can be closed when it begins
            return asyncio.get_running_loop().time() - began

    seconds = run(main())
    assert len(session.sent) == 10
    assert 60 * (minutes - 2) < seconds < 60 * minutes


def test_a_429_delays_all_calls_until_retry_after_has_passed():
    session = FakeSession(plan={1: (429, 0.001, {"Retry-After": "30"})})

    async def main():
        async with fake_client(session, max_connections=2) as client:
            await asyncio.gather(*(client.get_job(f"j-{n}") for n in range(50)))
            return client.stats

    stats = run(main())
    early = [time for time in session.sent if time < 30.0]
    assert len(early) <= 3, "only those that were on the wire when the gate closed"
    assert stats.throttled == 1
    assert stats.requests == 51


def test_the_semaphore_is_free_while_the_gate_is_closed():
    session = FakeSession(plan={1: (429, 0.001, {"Retry-After": "30"})})

    async def main():
        semaphore = asyncio.Semaphore(1)
        async with fake_client(session) as client:
            view = client.for_polling(semaphore)
            call = asyncio.create_task(view.get_job("j-1"))
            await asyncio.sleep(0.0005)
            assert semaphore.locked()
            with pytest.raises(RateLimitedError):  # the view makes one attempt
                await call
            call = asyncio.create_task(view.get_job("j-1"))
            for _ in range(28):
                await asyncio.sleep(1.0)
                assert not semaphore.locked()
            assert (await call).job_id == "j-1"

    run(main())


def test_an_outage_costs_only_the_retry_budget():
    session = FakeSession(500)

    async def main():
        patient = {"retry": RetryPolicy(budget=10), "outage_wait": float("inf")}
        async with fake_client(session, **patient) as client:
            await asyncio.gather(
                *(client.get_job(f"j-{n}") for n in range(200)), return_exceptions=True
            )

    run(main())
    assert len(session.sent) == 210


def test_a_run_with_the_same_seed_is_identical():
    def times():
        session = FakeSession(plan={n: (503, 0.01, {}) for n in range(1, 20)})

        async def main():
            async with fake_client(session) as client:
                await asyncio.gather(
                    *(client.get_job(f"j-{n}") for n in range(10)), return_exceptions=True
                )

        run(main())
        return session.sent

    assert times() == times()


# --- the log of an outage -------------------------------------------------------------------------


async def test_ten_failures_in_a_row_and_their_end_cause_one_warning_each(start_server, caplog):
    server = await start_server(*[answer(503)] * 12, answer(body=json.dumps(JOB).encode()))
    async with client_of(server, retry=ONCE) as client:
        for number in range(12):
            with pytest.raises(ServerError):
                await client.get_job(f"j-{number}")
        await client.get_job("j-1")
        await client.get_job("j-1")
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    failed = "is down: 10 requests in a row failed, the last with: job j-9: "
    assert warnings[0].startswith("the service at http://127.0.0.1:")
    assert failed in warnings[0]
    assert warnings[1].endswith("works again, after 12 failed requests")


async def test_404s_are_not_an_outage(start_server, caplog):
    server = await start_server(answer(404))
    async with client_of(server) as client:
        for _ in range(15):
            with pytest.raises(RequestError):
                await client.get_job("j-1")
        assert client.stats.failures == 15
    assert not caplog.records


async def test_the_status_of_a_list_may_be_a_text(start_server):
    server = await start_server(answer(body=b'{"jobs": []}'))
    async with client_of(server) as client:
        await client.list_jobs(status="failed")
        with pytest.raises(ValueError, match="no-such-status"):
            await client.list_jobs(status="no-such-status")
    assert server.targets == ["/v1/ade/extract/jobs?page=0&pageSize=100&status=failed"]


# --- closing while calls wait --------------------------------------------------------------------


async def test_closing_the_client_aborts_the_body_of_a_call(start_server):
    async def half(writer, _request):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        await asyncio.Event().wait()

    server = await start_server(half)
    client = client_of(server, retry=ONCE, timeout=3600)
    call = asyncio.create_task(client.get_job("j-1"))
    while not responses_read(client):  # noqa: ASYNC110 - nothing outside tells of it
        await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(ClosedError):
        await call


async def test_closing_ends_calls_that_wait_for_the_gate_or_a_retry(start_server):
    server = await start_server(answer(429, b"", "Retry-After: 300"))
    client = client_of(server)
    calls = [asyncio.create_task(client.get_job("j-1")) for _ in range(3)]
    while not client.stats.throttled:  # noqa: ASYNC110 - nothing outside tells of it
        await asyncio.sleep(0)
    late = asyncio.create_task(client.get_job("j-1"))
    await asyncio.sleep(0)
    await client.aclose()
    for call in [*calls, late]:
        with pytest.raises(ClosedError):
            await call


def test_using_a_client_in_another_event_loop_raises_closed_error():
    session = FakeSession()
    client = fake_client(session)

    async def main():
        return (await client.get_job("j-1")).job_id

    assert run(main()) == "j-1"
    with pytest.raises(ClosedError, match=r"^the client belongs to another event loop"):
        run(main())


def test_a_client_is_not_closed_from_another_event_loop():
    """Its connections belong to its own loop, which can run in another thread."""
    client = fake_client(FakeSession())

    async def end():
        await client.aclose()
        with pytest.raises(ClosedError, match="the client is closed"):
            await client.get_job("j-1")

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(client.get_job("j-1"))
        with pytest.raises(ClosedError, match="belongs to another event loop"):
            run(client.aclose())
        assert runner.run(client.get_job("j-1")).job_id == "j-1"
        runner.run(end())


FORKING = """
import asyncio, contextlib, os
from adepoll import AdeClient, RetryPolicy, errors

async def main():
    once = RetryPolicy(attempts=1)
    async with AdeClient("k", base_url="http://127.0.0.1:9", retry=once) as client:
        with contextlib.suppress(errors.TransportError):
            await client.get_job("j-1")
        child = os.fork()
        if not child:
            try:
                asyncio.run(client.get_job("j-1"))
            except errors.ClosedError as error:
                print(error, flush=True)
            finally:
                os._exit(0)
        os.waitpid(child, 0)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_child_does_not_use_the_connections_of_its_parent():
    said = subprocess.run(
        [sys.executable, "-c", FORKING], check=True, capture_output=True, text=True, timeout=60
    )
    assert "belongs to another event loop" in said.stdout


@pytest.mark.parametrize("status", [200, 404, 429, 503])
async def test_every_response_updates_the_service_time(status, start_server):
    date = "Date: Wed, 01 Jul 2026 12:00:00 GMT"
    server = await start_server(answer_json(JOB, status, date))
    async with client_of(server, retry=ONCE) as client:
        view = client.for_polling(asyncio.Semaphore())
        assert client.service_time() is view.service_time() is None
        with contextlib.suppress(StatusError):
            await client.get_job("j-1")
        noon = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()
        assert noon <= client.service_time() <= view.service_time() < noon + 2


async def test_one_date_is_recorded_for_requests_sent_at_nearly_the_same_time(
    start_server, monkeypatch
):
    server = await start_server(answer_json(JOB))
    heard = []
    async with client_of(server) as client:
        clock = clock_of(client)
        monkeypatch.setattr(clock, "record", lambda *args: heard.append(args))
        for enough_until, count in ((-math.inf, 5), (math.inf, 0)):
            clock.enough_until = enough_until
            for _ in range(5):
                await client.get_job("j-1")
            assert len(heard) == count
            heard.clear()


@pytest.mark.parametrize(
    ("base_url", "warned"),
    [
        ("http://emulator.example:8300", True),
        ("http://10.0.0.1", True),
        ("http://127.0.0.1:1", False),
        ("http://[::1]:1", False),
        ("http://localhost", False),
        ("https://proxy.example", False),
    ],
)
def test_a_base_url_without_encryption_causes_a_warning(base_url, warned, caplog):
    AdeClient(KEY, base_url=base_url)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert KEY not in caplog.text


async def test_each_request_is_logged_without_the_key(ade, caplog):
    async with AdeClient("canary-key-0123456789", base_url=ade.base_url) as client:
        with (
            caplog.at_level(logging.DEBUG, logger="adepoll.api.transport"),
            pytest.raises(errors.StatusError),
        ):
            await client.get_job("job-1")
    [line] = [record.getMessage() for record in caplog.records]
    assert (match := re.fullmatch(r"/v1/ade/extract/jobs/job-1: 401 in (\d+) ms", line))
    assert 0 <= int(match[1]) < 180_000  # the time limit of a test
    assert "canary" not in caplog.text


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, "cancelled"])
async def test_a_list_of_cancelled_v2_jobs_is_empty_without_a_request(start_server, status):
    server = await start_server()
    async with client_of(server) as client:
        listed = await client.list_jobs(status=status, kind=JobKind.V2_PARSE)
        assert (listed.jobs, listed.has_more) == ((), False)
        with pytest.raises(ValueError, match="page"):
            await client.list_jobs(page=-1, status=status, kind=JobKind.V2_PARSE)
    assert server.targets == []


@pytest.mark.parametrize("polls", [False, True])
async def test_a_client_of_one_kind_has_the_first_page_as_default_and_the_same_clock(
    start_server, polls
):
    server = await start_server(answer(body=b'{"jobs": []}'))
    async with client_of(server) as client:
        of_kind = client.for_kind(JobKind.V1_PARSE)
        source = of_kind.for_polling(contextlib.nullcontext()) if polls else of_kind
        assert (await source.list_jobs()).jobs == ()
        assert source.service_time == client.service_time
    assert server.targets == ["/v1/ade/parse/jobs?page=0&pageSize=100"]


@pytest.mark.parametrize(
    ("kind", "status"), [(JobKind.V2_PARSE, None), (JobKind.V1_EXTRACT, JobStatus.CANCELLED)]
)
async def test_any_other_list_is_requested(start_server, kind, status):
    server = await start_server(answer(body=b'{"jobs": []}'))
    async with client_of(server) as client:
        await client.list_jobs(status=status, kind=kind)
    assert len(server.targets) == 1
