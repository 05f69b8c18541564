"""A service, or a proxy before it, that repeats the API key: the key is in no output of adepoll."""

import html
import json
import logging
import pickle
from urllib.parse import quote

import pytest
from fuzzing import counted_calls
from lazyimport import lazy_import

from adepoll import AdeClient, JobKind, JobWatcher, ResultFetcher, RetryPolicy
from adepoll.api.kinds.registry import RULES
from adepoll.api.protocol import read_job
from adepoll.common.redaction import ApiKey
from adepoll.errors import AdePollError

trackers = lazy_import("trackers")

KEY = "CaNaRy-KeY/8f2e1+x=" + '"\\<&'
RETRY = RetryPolicy(attempts=1, base=0.001, max_wait=0.01)
JOB = {"job_id": "job-1", "status": "completed", "received_at": 1, "progress": 1}
RESULT = {"extraction": {"total": KEY}, "extraction_metadata": {}, "metadata": {"filename": "a"}}
SETTLED = {**JOB, "data": RESULT}


def changed(**fields):
    return {**SETTLED, **fields}


ANSWERS = {
    "another job": changed(job_id=KEY),
    "unknown status": changed(status=KEY),
    "known status with the key": changed(status=f"failed {KEY}"),
    "reason": changed(status="failed", data=None, failure_reason=f"not allowed: {KEY}"),
    "object as reason": changed(status="failed", data=None, failure_reason={"message": KEY}),
    "object as error": changed(status="failed", data=None, error={"code": KEY, "message": KEY}),
    "unknown field": changed(headers={"Authorization": [f"Bearer {KEY}"], KEY: 1}),
    "unreadable field": changed(progress=KEY),
    "version": changed(version=KEY, org_id=KEY),
    "URL": changed(data=None, output_url=f"https://storage.example/{KEY}"),
    "warning": changed(
        data={**RESULT, "metadata": {"warnings": [{"code": KEY, "msg": KEY}], "filename": KEY}}
    ),
    "no result": changed(data=None, output_url=None, metadata={"filename": KEY}),
    "escaped twice": changed(new=json.dumps({"key": [json.dumps(KEY)]}), failure_reason=quote(KEY)),
    "not JSON": KEY,
    "an array": [KEY],
    "the type": {"jobs": KEY, "job_id": [KEY]},
}


def shown_by(text):
    """Return which forms of the key a text contains."""
    forms = (KEY, json.dumps(KEY)[1:-1], repr(KEY)[1:-1], quote(KEY), quote(KEY, safe=""))
    return [form for form in forms if form in text]


def escaped(raw):
    """Return JSON text in which most characters of the key are written as escapes."""
    return json.dumps(raw).replace("/", "\\/").replace("=", "\\u003d").replace("CaN", "\\u0043aN")


@pytest.mark.parametrize("write", [json.dumps, escaped])
@pytest.mark.parametrize("kind", [JobKind.V1_EXTRACT, JobKind.V2_EXTRACT], ids=str)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_a_key_in_an_answer_is_in_no_output(storage, caplog, answer, kind, write):
    caplog.set_level(logging.DEBUG)
    field = "result" if kind is JobKind.V2_EXTRACT else "data"
    if isinstance(answer, dict):
        answer = {field if name == "data" else name: value for name, value in answer.items()}
    page = {"jobs": [answer], "has_more": False, "org_id": KEY}
    reply = storage.reply(
        write(answer).encode(), headers=[f"Content-Type: text/html; x={KEY}", f"Set-Cookie: {KEY}"]
    )
    of_page = storage.reply(write(page).encode(), headers=[f"Content-Type: {KEY}"])
    storage.answers = [reply, reply, reply, reply, of_page]
    found = []
    async with (
        AdeClient(KEY, base_url=storage.origin, kind=kind, retry=RETRY) as client,
        JobWatcher(client, patience=0.01) as watcher,
        ResultFetcher(client, patience=0) as fetcher,
    ):
        for call in (
            lambda: client.get_job("job-1"),
            lambda: watcher.wait("job-1", timeout=2),
            lambda: fetcher.result("job-1"),
            lambda: fetcher.result("job-1"),
            client.list_jobs,
        ):
            try:
                outcome = await call()
            except (AdePollError, TimeoutError) as exc:
                found += [trackers.recorded(exc), repr(exc), str(exc), repr(vars(exc))]
                continue
            found.append(repr(outcome))
            if hasattr(outcome, "without_data"):
                without_data = outcome.without_data()
                found += [without_data.to_json(), repr(pickle.dumps(without_data))]
                assert outcome.data is None or outcome.data.extraction == RESULT["extraction"]
    for text in [*found, caplog.text]:
        assert not shown_by(text), text[max(0, text.find("CaNaRy") - 500) :][:900]


async def test_a_short_key_is_not_removed_because_it_could_be_a_word(storage):
    answer = changed(status="failed", data=None, failure_reason="a test of a test-key")
    storage.answers = [storage.reply(json.dumps(answer).encode())]
    async with AdeClient("test-key", base_url=storage.origin) as client:
        job = await client.get_job("job-1")
    assert job.failure_reason == "a test of a test-key"


OK, END = b"HTTP/1.1 200 OK\r\n", b"\r\nContent-Length: 0\r\n\r\n"
RAW_KEY = KEY.encode()
RESPONSES = {
    "reason phrase": b"HTTP/1.1 500 " + RAW_KEY + END,
    "reason phrase of a success": b"HTTP/1.1 200 " + RAW_KEY + END,
    "reason phrase of a proxy": b"HTTP/1.1 407 " + RAW_KEY + END,
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: https://x/" + RAW_KEY + END,
    "status line": RAW_KEY + b" HTTP/1.1\r\n\r\n",
    "name of a header": OK + RAW_KEY + b" x: 1" + END,
    "control character in a header": OK + b"X: \x01" + RAW_KEY + END,
    "length": OK + b"Content-Length: " + RAW_KEY + b"\r\n\r\n",
    "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n" + RAW_KEY + b"\r\n",
    "transfer encoding": OK + b"Transfer-Encoding: " + RAW_KEY + b"\r\n\r\n",
    "content encoding": OK + b"Content-Encoding: " + RAW_KEY + b"\r\n\r\n{}",
    "content type": OK + b"Content-Type: " + RAW_KEY + b"\r\n\r\nx",
    "Retry-After": b"HTTP/1.1 429 No\r\nRetry-After: " + RAW_KEY + END,
    "date": OK + b"Date: " + RAW_KEY + END,
    "page": b"HTTP/1.1 500 E\r\n\r\n<p>" + RAW_KEY + b"</p>",
    "page with entities": b"HTTP/1.1 401 E\r\n\r\n<p>" + html.escape(KEY).encode() + b"</p>",
    "JSON within JSON": b"HTTP/1.1 403 E\r\n\r\n"
    + json.dumps({"detail": [{"loc": ["header", KEY], "msg": json.dumps({"k": KEY})}]}).encode(),
}


@pytest.mark.parametrize("kind", [JobKind.V1_EXTRACT, JobKind.V2_EXTRACT], ids=str)
@pytest.mark.parametrize("name", RESPONSES)
async def test_a_key_in_any_part_of_a_response_is_in_no_output(storage, caplog, name, kind):
    caplog.set_level(logging.DEBUG)

    async def answer(_reader, writer):
        writer.write(RESPONSES[name])
        await writer.drain()
        writer.close()

    storage.answers = [answer] * 12
    found = []
    async with (
        AdeClient(KEY, base_url=storage.origin, kind=kind, retry=RETRY, timeout=2) as client,
        JobWatcher(client, patience=0.01) as watcher,
        ResultFetcher(client, patience=0) as fetcher,
    ):
        for call in (
            lambda: client.get_job("job-1"),
            lambda: watcher.wait("job-1", timeout=1),
            lambda: fetcher.result("job-1"),
            client.list_jobs,
        ):
            with pytest.raises((AdePollError, TimeoutError)) as caught:
                await call()
            found += [trackers.recorded(caught.value), repr(caught.value), repr(vars(caught.value))]
    for text in [*found, caplog.text]:
        assert not shown_by(text), text[max(0, text.find("CaNaRy") - 500) :][:900]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("nABCDEFGHIJKLMNOP", "\nABCDEFGHIJKLMNOP"),  # in JSON, the line feed is a backslash and n
        ("e9ABCDEFGHIJKLMNOP", "éABCDEFGHIJKLMNOP"),
        ('ABCDEFGHIJKLMNOP"', "ABCDEFGHIJKLMNOP"),  # in JSON, a quotation mark follows the text
    ],
)
async def test_a_text_that_has_the_key_only_in_its_json_stays_as_it_is(storage, key, text):
    answer = changed(new=[text, f"a {key}"])
    storage.answers = [storage.reply(json.dumps(answer).encode())]
    async with AdeClient(key, base_url=storage.origin) as client:
        job = await client.get_job("job-1")
    assert job.extra["new"] == [text, "a REDACTED"]


def test_a_long_answer_with_escapes_is_searched_with_few_calls():
    """A call for each text would take more than a second for a megabyte."""
    texts = ["\n"] * 20_000
    body = json.dumps(changed(new=texts)).encode()
    key = ApiKey(KEY)
    with counted_calls() as count:
        job = read_job(RULES[JobKind.V1_EXTRACT], "job-1", 200, {}, body, secret=key)
    assert job.extra["new"] == texts
    assert count() < 2_000
