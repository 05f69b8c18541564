"""A service, or a proxy before it, that repeats the API key: the key is in no output of adepoll."""

import json
import logging
import pickle

import pytest
from lazyimport import lazy_import

from adepoll import AdeClient, JobKind, JobWatcher, ResultFetcher, RetryPolicy
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
    "not JSON": KEY,
    "an array": [KEY],
    "the type": {"jobs": KEY, "job_id": [KEY]},
}


def shown_by(text):
    """Return which forms of the key a text contains."""
    return [form for form in (KEY, json.dumps(KEY)[1:-1], repr(KEY)[1:-1]) if form in text]


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
