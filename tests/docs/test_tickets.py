"""The example with tickets in docs/server-events.md: who has the URL of the events from a log."""

import re
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
responses = pytest.importorskip("starlette.responses", reason="FastAPI is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "server-events.md").read_text("utf-8")
(CODE,) = [
    block
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    if "/tickets" in block
]


class Clock:
    """A clock that the test sets; it takes the place of the module `time`."""

    now = 1_700_000_000.5

    def time(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def http(clock):
    """Return a client of the example's application, whose events are one word."""
    example = {"__name__": "example"}
    exec(CODE, example)
    example["time"] = clock
    example["events"] = lambda request, ids: responses.PlainTextResponse(",".join(ids))
    transport = httpx.ASGITransport(example["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


async def url_of(http, ids):
    signed_in = {"Authorization": "mine"}
    response = await http.post("/tickets", params={"ids": ids}, headers=signed_in)
    return response.json()["url"]


async def test_only_a_user_who_has_signed_in_gets_a_ticket(http):
    assert (await http.post("/tickets", params={"ids": "job-1"})).status_code == 403


async def test_a_ticket_opens_the_events_of_its_jobs(http, clock):
    url = await url_of(http, "job-1,v1-parse/job-2")
    clock.now += 59
    response = await http.get(url)
    assert (response.status_code, response.text) == (200, "job-1,v1-parse/job-2")


@pytest.mark.parametrize("headers", [{}, {"Last-Event-ID": "x"}])
async def test_an_expired_ticket_is_refused_whatever_headers_are_sent(http, clock, headers):
    url = await url_of(http, "job-1")
    clock.now += 61
    assert (await http.get(url, headers=headers)).status_code == 403


async def test_a_changed_ticket_is_refused(http):
    url = await url_of(http, "job-1")
    issued = re.search(r"issued=(\d+)", url)[1]
    for changed in (
        url.replace("job-1", "job-2"),
        url.replace(issued, str(int(issued) + 3600)),
        f"{url}&ids=job-2",
        url[:-1] + ("0" if url[-1] != "0" else "1"),
    ):
        assert (await http.get(changed)).status_code == 403
