"""When a server is ready, and when it probes the service; in virtual time."""

import asyncio
import math

import pytest
from attrs import define, evolve, field, frozen

from adepoll.api.models import JobPage
from adepoll.errors import ClosedError, PermissionDeniedError, RateLimitedError, ServerError
from adepoll.server.health import LIVE, Condition, Health, HealthCheck
from adepoll.throttling.statistics import ClientStats

NO_REQUESTS = ClientStats(
    requests=0, retries=0, throttled=0, failures=0, bytes_received=0, in_flight=0, window=8,
    rate_limit=None, retry_budget=math.inf, gate_closed_for=0.0,
)  # fmt: skip


@frozen
class OtherStats:
    """The statistics of a watcher or fetcher."""

    jobs: int = 0
    rate: float = math.nan


@define(eq=False, slots=False)
class Parts:
    """A client, a watcher and a fetcher in one object.

    Attributes:
        stats: Statistics of the client.
        error: Error of each page of the job list; a number is the latency of a page in seconds.
        probes: Times at which a page was requested.
        down: Error of the service, if it is down.
    """

    stats: ClientStats = NO_REQUESTS
    error: Exception | float = 0.0
    probes: list = field(factory=list)
    down: Exception | None = None
    is_closed: bool = False

    def outage(self):
        return self.down

    async def list_jobs(self, *, page_size, **_options):
        assert page_size == 1
        self.probes.append(asyncio.get_running_loop().time())
        if isinstance(self.error, Exception):
            raise self.error
        await asyncio.sleep(self.error)
        return JobPage(jobs=())

    def hear(self, **changes):
        """Let the service send another byte; change other statistics."""
        received = self.stats.bytes_received + 1
        self.stats = evolve(self.stats, bytes_received=received, **changes)


class Watching:
    def __init__(self, parts):
        self.parts = parts
        self.stats = OtherStats()

    @property
    def is_closed(self):
        return self.parts.is_closed


def check_of(parts, probe_every=10.0):
    return HealthCheck(parts, Watching(parts), Watching(parts), probe_every=probe_every)


async def condition_of(check, *, is_stopping=False):
    return (await check.check(is_stopping=is_stopping)).condition


def test_only_a_server_that_can_wait_for_jobs_is_ready():
    assert [Health(condition=condition, stats={"a": 1}).http_status for condition in Condition] == [
        200,
        503,
        503,
        503,
    ]
    health = Health(condition=Condition.REFUSED, stats={"a": 1})
    assert health.body == {"status": "refused", "a": 1}
    assert health.headers == {"Cache-Control": "no-store"}
    assert (LIVE.http_status, LIVE.body) == (200, {"status": "ok"})


def test_numbers_that_json_does_not_have_and_texts_of_errors_are_left_out(replay):
    async def script():
        parts = Parts()
        parts.hear(last_failure="a text", gate_closed_for=1.5)
        return await check_of(parts).check(is_stopping=False)

    stats = replay(script).stats
    assert stats["client"]["retry_budget"] is None
    assert stats["client"]["gate_closed_for"] == 1.5
    assert stats["client"]["window"] == 8
    assert "last_failure" not in stats["client"]
    assert stats["watcher"] == stats["fetcher"] == {"jobs": 0, "rate": None}


def test_a_probe_is_sent_after_30_seconds_of_silence(replay):
    async def script():
        parts = Parts()
        parts.hear()
        check = check_of(parts)
        start = asyncio.get_running_loop().time()
        for passed in (0.0, 29.0, 29.5):
            await asyncio.sleep(start + passed - asyncio.get_running_loop().time())
            assert await condition_of(check) is Condition.OK
        assert parts.probes == []
        await asyncio.sleep(0.5)
        assert await condition_of(check) is Condition.OK
        assert parts.probes == [start + 30.0]
        parts.hear()
        await asyncio.sleep(29.5)  # the byte is noticed now, but may have arrived at any time
        await condition_of(check)
        await asyncio.sleep(29.5)
        await condition_of(check)
        assert parts.probes == [start + 30.0]

    replay(script)


def test_an_answer_to_a_probe_ends_the_silence(replay):
    async def script():
        parts = Parts()
        check = check_of(parts, probe_every=0.0)

        async def page(**_options):
            parts.probes.append(asyncio.get_running_loop().time())
            parts.hear()
            return JobPage(jobs=())

        parts.list_jobs = page
        await condition_of(check)
        await asyncio.sleep(29.5)
        await condition_of(check)
        assert len(parts.probes) == 1
        await asyncio.sleep(0.5)
        await condition_of(check)
        assert len(parts.probes) == 2

    replay(script)


@pytest.mark.parametrize("error", [ServerError(status=500), math.inf])
def test_a_failed_probe_is_an_outage_until_a_probe_succeeds(replay, error):
    async def script():
        parts = Parts(error=error)
        check = check_of(parts)
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await condition_of(check) is Condition.OUTAGE
        assert loop.time() - start == (3.0 if error == math.inf else 0.0)
        await asyncio.sleep(start + 9.5 - loop.time())
        parts.error = 0.0
        assert await condition_of(check) is Condition.OUTAGE  # no other probe is due
        await asyncio.sleep(0.5)
        assert await condition_of(check) is Condition.OK
        assert parts.probes == [start, start + 10.0]

    replay(script)


@pytest.mark.parametrize("error", [ServerError(status=500), math.inf])
@pytest.mark.parametrize(("failures", "condition"), [(0, Condition.OK), (1, Condition.OUTAGE)])
def test_a_request_that_succeeds_after_a_failed_probe_ends_the_outage(
    replay, error, failures, condition
):
    async def script():
        parts = Parts(error=error)
        check = check_of(parts)
        assert await condition_of(check) is Condition.OUTAGE
        parts.hear(failures_in_a_row=failures)
        assert await condition_of(check) is condition
        parts.hear(failures_in_a_row=1)
        assert await condition_of(check) is condition
        assert len(parts.probes) == 1

    replay(script)


def test_answers_that_arrive_while_a_probe_waits_for_its_turn_show_that_the_service_works(replay):
    async def script():
        parts = Parts(error=math.inf)
        parts.hear(failures_in_a_row=1)
        asyncio.get_running_loop().call_later(1.0, lambda: parts.hear(failures_in_a_row=0))
        assert await condition_of(check_of(parts)) is Condition.OK
        assert len(parts.probes) == 1

    replay(script)


def test_a_service_that_asked_for_a_pause_is_not_probed_for_its_silence(replay):
    async def script():
        parts = Parts(error=math.inf)
        parts.hear()
        check = check_of(parts)
        await condition_of(check)
        await asyncio.sleep(40)
        parts.stats = evolve(parts.stats, gate_closed_for=1.0)
        assert await condition_of(check) is Condition.OK
        assert parts.probes == []
        parts.stats = evolve(parts.stats, gate_closed_for=0.0)
        assert await condition_of(check) is Condition.OUTAGE

    replay(script)


def test_a_probe_that_takes_three_seconds_has_failed(replay):
    async def script():
        parts = Parts(error=2.5)
        check = check_of(parts, probe_every=0.0)
        assert await condition_of(check) is Condition.OK
        parts.error = 3.5
        assert await condition_of(check) is Condition.OUTAGE

    replay(script)


def test_simultaneous_checks_share_a_probe(replay):
    async def script():
        parts = Parts(error=1.0)
        check = check_of(parts, probe_every=0.0)
        found = await asyncio.gather(*(condition_of(check) for _ in range(5)))
        assert found == [Condition.OK] * 5
        assert len(parts.probes) == 1
        await condition_of(check)
        assert len(parts.probes) == 2

    replay(script)


@pytest.mark.parametrize(
    ("changes", "condition", "probes"),
    [
        ({}, Condition.OK, 0),
        ({"failures_in_a_row": 1}, Condition.OK, 1),
        ({"refused": 401}, Condition.REFUSED, 1),
    ],
)
def test_a_probe_follows_a_failed_request_or_a_refused_key(replay, changes, condition, probes):
    async def script(probe_every):
        parts = Parts()
        parts.hear(**changes)
        assert await condition_of(check_of(parts, probe_every)) is condition
        assert len(parts.probes) == (0 if probe_every is None else probes)

    for probe_every in (10.0, None):
        replay(lambda every=probe_every: script(every))


def test_an_outage_is_probed(replay):
    async def script():
        parts = Parts(down=ServerError(status=500))
        parts.hear()
        assert await condition_of(check_of(parts)) is Condition.OUTAGE
        assert len(parts.probes) == 1

    replay(script)


@pytest.mark.parametrize(
    ("changes", "is_stopping"), [({}, True), ({"is_closed": True}, False), ({}, False)]
)
def test_a_stopping_server_sends_no_probe(replay, changes, is_stopping):
    async def script():
        parts = Parts(**changes)
        parts.hear(failures_in_a_row=int(is_stopping), refused=401 if is_stopping else None)
        check = check_of(parts)
        closed = is_stopping or "is_closed" in changes
        expected = Condition.CLOSED if closed else Condition.OK
        assert await condition_of(check, is_stopping=is_stopping) is expected
        assert parts.probes == []

    replay(script)


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (PermissionDeniedError(status=403), Condition.OUTAGE, Condition.OK),
        (RateLimitedError(status=429, retry_after=60.0), Condition.OUTAGE, Condition.OK),
        (ClosedError("closed"), Condition.OUTAGE, Condition.OUTAGE),
    ],
)
def test_a_403_or_429_for_a_probe_shows_that_the_service_works(replay, error, before, after):
    async def script():
        parts = Parts(error=ServerError(status=500))
        check = check_of(parts, probe_every=0.0)
        assert await condition_of(check) is before
        parts.error = error
        assert await condition_of(check) is after

    replay(script)


def test_closing_ends_a_probe(replay):
    async def script():
        parts = Parts(error=2.0)
        check = check_of(parts)
        checking = asyncio.create_task(condition_of(check))
        await asyncio.sleep(0.5)
        await check.aclose()
        assert await checking is Condition.OK
        assert asyncio.get_running_loop().time() == parts.probes[0] + 0.5

    replay(script)
