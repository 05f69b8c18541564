"""No error shows a secret to an error tracker, which records the local variables of all frames."""

import asyncio
import base64
import copy
import hmac
import os
import pickle
import resource
import sqlite3
from contextlib import AsyncExitStack, closing, contextmanager

import pytest
from amounts import more
from lazyimport import lazy_import
from threadlimit import no_thread
from waiting import until

from adepoll import (
    AdeClient,
    Fixed,
    JobKind,
    JobWatcher,
    ResultFetcher,
    RetryPolicy,
    TransportOptions,
    WebhookVerifier,
)
from adepoll.common.redaction import Secret
from adepoll.emulator import FAULT_NAMES, Emulator, Endpoint, JobPlan, make_fault
from adepoll.errors import AdePollError, ConfigurationError, WebhookVerificationError
from adepoll.journal import Journal, Settled

trackers = lazy_import("trackers")

KEY = "CaNaRy-KeY-8f2e1"
SECRETS = (KEY, "X-Amz-Signature=", "X-Amz-Credential=", "CaNaRy-CoNtEnT")
RETRY = RetryPolicy(attempts=1, base=0.001, max_wait=0.01)
OFTEN = Fixed(interval=0.01)
SLOW = {"latency": {"shape": "constant", "median": 3_600.0}, "slow-body": {"rate": 500.0}}


def check(exc):
    text = trackers.recorded(exc)
    for secret in SECRETS:
        at = text.find(secret)
        assert at < 0, text[max(0, at - 300) : at + 100]


def possible(endpoint):
    return [name for name in FAULT_NAMES if endpoint in make_fault(name).effect.endpoints]


async def errors_of(*calls):
    """Return the errors of calls as they reach the caller of adepoll."""
    found = []
    for call in calls:
        try:
            async with asyncio.timeout(20):
                await call()
        except (AdePollError, TimeoutError) as exc:
            found.append(exc)
    return found


async def polled(ade, job_id, **options):
    """Return the snapshot of a job; the short timeouts of the tests do not apply to this poll."""
    async with AdeClient(KEY, base_url=ade.base_url, **options) as client:
        return await client.get_job(job_id)


USUAL = {
    Endpoint.GET: ("unauthorized", "forbidden", "server-error", "not-found", "redirect", "html"),
    Endpoint.LIST: ("unauthorized", "too-many-requests", "missing-status"),
    Endpoint.RESULT: ("server-error", "truncated", "redirect", "expired-mid-download"),
}
FAULTS = [(endpoint, name) for endpoint, names in USUAL.items() for name in names]
OTHERS = [(endpoint, name) for endpoint in USUAL for name in possible(endpoint)]


@pytest.mark.parametrize(
    ("endpoint", "name"), more(FAULTS, [case for case in OTHERS if case not in FAULTS])
)
async def test_no_error_shows_a_secret_in_the_locals_of_its_frames(tmp_path, endpoint, name):
    async with (
        Emulator(seed=3, api_key=KEY) as ade,
        AdeClient(KEY, base_url=ade.base_url, timeout=0.3, retry=RETRY, max_body_bytes=400_000)
        as client,
        JobWatcher(client, schedule=OFTEN, patience=0.05, not_found_grace=0.05) as watcher,
        JobWatcher(client, schedule=OFTEN) as patient_watcher,
        ResultFetcher(client, patience=0, read_timeout=0.3, connect_timeout=0.5) as fetcher,
    ):  # fmt: skip
        job_id = ade.submit(JobPlan(result_bytes=1_500_000))
        job = await polled(ade, job_id)
        ade.faults.add(name, endpoints=[endpoint], **SLOW.get(name, {}))

        async def stream():
            async with fetcher.stream(job) as chunks:
                async for _ in chunks:
                    pass

        calls = {
            Endpoint.GET: [
                lambda: client.get_job(job_id),
                lambda: watcher.wait(job_id, timeout=5),
                lambda: patient_watcher.wait(job_id, timeout=0.2),
                lambda: fetcher.result(job_id),
            ],
            Endpoint.LIST: [client.list_jobs],
            Endpoint.RESULT: [
                lambda: fetcher.result(job),
                lambda: fetcher.download(job, tmp_path / "result.json"),
                stream,
            ],
        }[endpoint]
        for exc in await errors_of(*calls):
            check(exc)


def is_in_locals(text, task):
    """Return whether a local variable of the functions that a task is in shows the text."""
    awaited = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        if any(text in repr(value) for value in frame.f_locals.values()):
            return True
        awaited = awaited.cr_await
    return False


async def say_nothing(_reader, _writer):
    await asyncio.Event().wait()


async def begin_an_answer(_reader, writer):
    """Send the first half of an answer with a secret, and nothing more."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"output_url":"' + KEY.encode())
    await writer.drain()
    await asyncio.Event().wait()


@pytest.mark.parametrize("call", ["get_job", "list_jobs", "result", "download", "stream"])
async def test_a_call_that_is_cancelled_shows_no_secret(storage, stored, tmp_path, call):
    """A TimeoutError of `asyncio.timeout` has the CancelledError as its context."""
    is_of_api = call in {"get_job", "list_jobs"}
    storage.answers = [begin_an_answer if is_of_api else say_nothing]
    job = stored(storage.url(f"/result.json?sig={KEY}"))
    async with (
        AdeClient("key", base_url=storage.origin) as client,
        ResultFetcher(client) as fetcher,
        AsyncExitStack() as stack,
    ):
        calls = {
            "get_job": lambda: client.get_job("job-1"),
            "list_jobs": client.list_jobs,
            "result": lambda: fetcher.result(job),
            "download": lambda: fetcher.download(job, tmp_path / "result.json"),
            "stream": lambda: stack.enter_async_context(fetcher.stream(job)),
        }
        task = asyncio.create_task(calls[call]())
        await until(lambda: storage.heads)
        if is_of_api:
            await until(lambda: is_in_locals(KEY, task))
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    check(caught.value)


@pytest.mark.parametrize("call", [AdeClient, WebhookVerifier])
def test_a_key_or_secret_that_is_refused_is_not_shown(call):
    with pytest.raises(ConfigurationError) as caught:
        call(KEY + " with a space")
    check(caught.value)
    with pytest.raises(ValueError, match="positive") as caught:
        call(KEY, **{"timeout" if call is AdeClient else "tolerance": -1})
    check(caught.value)


@pytest.mark.parametrize("name", ["base_url", "v2_base_url"])
@pytest.mark.parametrize(
    "url", ["https://user:{}@api.example", "https://api.example/?key={}", "https://u:{}@a:b"]
)
def test_a_base_url_that_is_refused_is_not_shown(monkeypatch, name, url):
    with pytest.raises(ConfigurationError, match=r"URL|user, query") as caught:
        AdeClient("key", **{name: url.format(KEY)})
    check(caught.value)
    monkeypatch.setenv(f"LANDINGAI_ADE_{name.upper()}", url.format(KEY))
    with pytest.raises(ConfigurationError, match=r"URL|user, query") as caught:
        AdeClient("key")
    check(caught.value)


async def test_connection_errors_show_no_secret():
    async with AdeClient(KEY, base_url="http://127.0.0.1:9", retry=RETRY) as client:
        (error,) = await errors_of(lambda: client.get_job("a"))
    check(error)


async def test_no_error_shows_the_password_of_a_proxy(monkeypatch, stored):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{KEY}@127.0.0.1:9")
    async with (
        AdeClient("key", retry=RETRY) as client,
        ResultFetcher(client, patience=0) as fetcher,
    ):
        calls = [
            lambda: client.get_job("a"),
            client.list_jobs,
            lambda: fetcher.result(stored("https://storage.example/a?b=c")),
        ]
        errors = await errors_of(*calls)
    assert len(errors) == len(calls)
    for error in errors:
        check(error)


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_a_proxy_that_is_refused_is_not_shown(monkeypatch, scheme):
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://user:{KEY}@proxy.example:x")
    with pytest.raises(ConfigurationError, match="proxy") as caught:
        AdeClient("key")
    check(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scheme": "socks5"}, "must be an http"),
        ({"ca_file": "/missing.pem"}, "cannot read the ca_file"),
        ({"client_certificate": "/missing.pem"}, "cannot read the client_certificate"),
        ({"max_headers": 0}, "max_headers must be positive"),
        ({"max_headers": "many"}, "not supported"),
    ],
)
def test_errors_of_transport_options_show_no_password_of_the_proxy(options, problem):
    others = {name: value for name, value in options.items() if name != "scheme"}
    with pytest.raises((ConfigurationError, ValueError, TypeError), match=problem) as caught:
        TransportOptions(
            proxy=f"{options.get('scheme', 'http')}://user:{KEY}@proxy.example:1", **others
        )
    check(caught.value)


@pytest.mark.parametrize("value", [KEY, KEY.encode()])
def test_a_secret_shows_nothing(value):
    secret = Secret(value)
    assert secret.reveal() == value
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", "%s" % secret):  # noqa: UP031 - is tested, too
        assert "CaNaRy" not in shown
    assert copy.copy(secret) is copy.deepcopy([secret])[0] is secret
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)


@contextmanager
def no_file():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("limit", [no_thread, no_file])
async def test_errors_of_an_exhausted_limit_show_no_secret(tmp_path, limit):
    async with (
        Emulator(seed=3, api_key=KEY) as ade,
        AdeClient(KEY, base_url=ade.base_url, timeout=0.5, retry=RETRY) as client,
        ResultFetcher(client, patience=0, read_timeout=0.5) as fetcher,
    ):
        job_id = ade.submit(JobPlan(result_bytes=1_500_000))
        job = await polled(ade, job_id)
        named = AdeClient(KEY, base_url=f"http://localhost:{ade.port}", timeout=0.5, retry=RETRY)
        async with named:
            with limit():
                errors = await errors_of(
                    lambda: named.get_job(job_id),
                    lambda: fetcher.download(job, tmp_path / "a"),
                    lambda: Journal.open(tmp_path / "a.db", endpoint=ade.base_url),
                )
    assert errors
    for error in errors:
        check(error)


@pytest.mark.parametrize("name", ["unauthorized", "server-error", "missing-status", "redirect"])
async def test_errors_of_a_renewal_show_no_secret(tmp_path, name):
    """The URL has expired, and the request for a new one fails."""
    async with (
        Emulator(seed=3, api_key=KEY) as ade,
        AdeClient(KEY, base_url=ade.base_url, timeout=0.3, retry=RETRY) as client,
        ResultFetcher(client, patience=0, read_timeout=0.3) as fetcher,
    ):
        job = await polled(ade, ade.submit(JobPlan(result_bytes=1_500_000)))
        ade.faults.add("expired-mid-download", endpoints=[Endpoint.RESULT])
        ade.faults.add(name, endpoints=[Endpoint.GET])
        errors = await errors_of(
            lambda: fetcher.result(job), lambda: fetcher.download(job, tmp_path / "a")
        )
    assert len(errors) == 2
    for error in errors:
        check(error)


@pytest.mark.parametrize("kind", [JobKind.V2_PARSE, JobKind.V2_EXTRACT, JobKind.V1_PARSE], ids=str)
@pytest.mark.parametrize("name", ["unauthorized", "server-error", "truncated", "html"])
async def test_errors_about_other_kinds_show_no_secret(tmp_path, kind, name):
    async with (
        Emulator(seed=3, api_key=KEY) as ade,
        AdeClient(KEY, base_url=ade.base_url, kind=kind, timeout=0.3, retry=RETRY) as client,
        ResultFetcher(client, patience=0, read_timeout=0.3) as fetcher,
    ):
        url = f"https://bucket.s3.example/r.json?{SECRETS[1]}CaNaRy-CoNtEnT"
        job_id = ade.submit(JobPlan(), kind=kind, output_save_url=url)
        job = await polled(ade, job_id, kind=kind)
        ade.faults.add(name, endpoints=[Endpoint.GET])
        errors = await errors_of(
            lambda: client.get_job(job_id),
            lambda: fetcher.result(job),
            lambda: fetcher.result(job_id),
            lambda: fetcher.download(job, tmp_path / "a"),
        )
    assert errors
    for error in errors:
        check(error)


async def test_errors_of_webhooks_show_no_secret():
    verifier = WebhookVerifier(KEY.encode() * 3)
    headers = {"webhook-id": "m", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
    for now in (1.0, 10_000.0):
        with pytest.raises(WebhookVerificationError) as caught:
            verifier.verify(headers, b'{"job_id":"a"}', now=now)
        check(caught.value)


def refused(verifier, body, signature):
    """Return the error for a webhook whose signature is wrong."""
    headers = {"webhook-id": "m", "webhook-timestamp": "1", "webhook-signature": signature}
    with pytest.raises(WebhookVerificationError, match="no signature matches") as caught:
        verifier.verify(headers, body, now=1.0)
    return caught.value


def test_the_right_signature_of_a_forged_webhook_is_not_shown():
    """A reader of the error tracker could send the webhook again, with this signature."""
    secret, body = b"x" * 32, b'{"job_id":"a"}'
    shown = trackers.recorded(refused(WebhookVerifier([b"y" * 32, secret]), body, "v1,AAAA"))
    digest = hmac.digest(secret, b"m.1." + body, "sha256")
    assert "v1,AAAA" in shown
    assert base64.b64encode(digest).decode() not in shown
    assert repr(digest) not in shown


async def test_errors_of_a_journal_show_no_secret(tmp_path, stored):
    path = tmp_path / "a.db"
    job = stored(f"https://bucket.s3.example/r.json?{SECRETS[1]}CaNaRy-CoNtEnT")
    errors = []
    async with await Journal.open(path, endpoint="https://api.va.landing.ai") as journal:
        calls = [
            lambda: Journal.open(path, endpoint="https://api.va.landing.ai"),  # busy
            lambda: journal.write(Settled(job, 1.0, fetching=True)),  # an unknown job
        ]
        errors += await errors_of(*calls)
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE data")
            other.commit()
        await journal.add(["job-1"])
        errors += await errors_of(lambda: journal.write(Settled(job, 1.0, fetching=True)))
    errors += await errors_of(lambda: Journal.open(path, endpoint="https://api.va.landing.ai"))
    assert len(errors) >= 3
    for error in errors:
        check(error)
