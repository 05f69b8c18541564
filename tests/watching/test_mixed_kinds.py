"""One watcher for jobs of several kinds, in virtual time."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import ClassVar

import pytest
from attrs import evolve

from adepoll import (
    Adaptive,
    AuthenticationError,
    CertificateError,
    Durations,
    Fixed,
    InvalidJobIdError,
    JobKind,
    JobNotFoundError,
    JobPage,
    JobRef,
    JobSnapshot,
    JobStatus,
    JobSummary,
    JobTimeoutError,
    JobWatcher,
    PermissionDeniedError,
    ServerError,
    UnresolvedJob,
    UnresolvedJobsError,
    store_outcomes,
)
from adepoll.emulator import VirtualTimeLoop
from adepoll.watching.kind_polling import KindPolling

PARSE, EXTRACT, V2 = JobKind.V1_PARSE, JobKind.V1_EXTRACT, JobKind.V2_PARSE
OWN = JobKind("toy-task")  # a kind that adepoll does not know
V2_ID = "parse-01aryz6s41tsv4rrffq69g5fav"


class Service:
    """Jobs that settle at a loop time, by kind and id; a source of all kinds."""

    def __init__(self, ends, *, kind=EXTRACT, polls=None, refusals=None):
        self.ends = {JobRef(job_id, kind=kind): end for (kind, job_id), end in ends.items()}
        self.kind = kind
        self.polls = [] if polls is None else polls
        self.refusals = {} if refusals is None else refusals  # errors of the first polls

    def for_kind(self, kind):
        ends = {(ref.kind, ref.job_id): end for ref, end in self.ends.items()}
        return Service(ends, kind=kind, polls=self.polls, refusals=self.refusals)

    def status(self, ref):
        ended = asyncio.get_running_loop().time() >= self.ends[ref]
        return JobStatus.COMPLETED if ended else JobStatus.PROCESSING

    async def get_job(self, job_id):
        ref = JobRef(job_id, kind=self.kind)
        self.polls.append(str(ref))
        await asyncio.sleep(0.05)
        if ref not in self.ends:
            raise JobNotFoundError(status=404, job_id=job_id)
        if refusals := self.refusals.get((self.kind, job_id)):
            raise refusals.pop()
        status = self.status(ref)
        return JobSnapshot(job_id=job_id, kind=self.kind, status=status, status_text=status.value)

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        await asyncio.sleep(0.05)
        found = [ref for ref in self.ends if ref.kind == self.kind and self.status(ref) is status]
        jobs = [
            JobSummary(job_id=ref.job_id, status=status, status_text=status.value) for ref in found
        ]
        start = page * page_size
        return JobPage(jobs=tuple(jobs[start : start + page_size]), has_more=len(jobs) > page_size)


def run(main):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def watcher_of(service, **options):
    return JobWatcher(service, **{"rng": Random(1), "schedule": Fixed(interval=1.0)} | options)


ENDS = {(EXTRACT, "a"): 1.0, (PARSE, "a"): 2.0, (PARSE, "b"): 3.0, (V2, V2_ID): 4.0}
REFS = ["a", JobRef("a", kind=PARSE, label="a.pdf"), "v1-parse/b", V2_ID]


@pytest.mark.parametrize("discovery", ["get", "list", "auto"])
def test_jobs_of_all_kinds_settle_in_one_watch_each_once(discovery):
    async def main():
        async with watcher_of(Service(ENDS), discovery=discovery) as watcher:
            jobs = [job async for job in watcher.watch(REFS)]
            stats = watcher.stats
        assert [(job.kind, job.job_id, job.label) for job in jobs] == [
            (EXTRACT, "a", None),
            (PARSE, "a", "a.pdf"),
            (PARSE, "b", None),
            (V2, V2_ID, None),
        ]
        assert (stats.settled, stats.watched) == (4, 0)
        assert {*watcher.durations_by_kind} == {EXTRACT, PARSE, V2}

    run(main())


def test_waiters_of_the_same_id_get_the_job_of_their_kind():
    async def main():
        async with watcher_of(Service(ENDS)) as watcher:
            refs = ["a", JobRef("a", kind=PARSE, label="x"), JobRef("a", kind=PARSE, label="y")]
            jobs = await asyncio.gather(*[watcher.wait(ref) for ref in refs])
        assert [(job.kind, job.label) for job in jobs] == [
            (EXTRACT, None),
            (PARSE, "x"),
            (PARSE, "y"),
        ]

    run(main())


def test_a_string_has_the_kind_of_the_source():
    async def main():
        async with watcher_of(Service(ENDS, kind=PARSE)) as watcher:
            jobs = [job async for job in watcher.watch(["a", "v1-extract/a", V2_ID, "v1-parse/a"])]
        assert [(job.kind, job.job_id) for job in jobs] == [
            (EXTRACT, "a"),
            (PARSE, "a"),
            (V2, V2_ID),
        ]

    run(main())


def test_an_unresolved_job_is_named_with_its_kind_and_label():
    odd = JobRef("%", label="odd.pdf")
    ids = ["lost", JobRef("lost", kind=PARSE, label="l.pdf"), "v1-parse/b", "v1-parse/?", odd]

    async def main():
        async with watcher_of(Service(ENDS), not_found_grace=2.0) as watcher:
            with pytest.raises(UnresolvedJobsError) as caught:
                _ = [job async for job in watcher.watch(ids)]
            yielded = [
                item
                async for item in watcher.watch(ids, errors="yield")
                if isinstance(item, UnresolvedJob)
            ]
        assert {*caught.value.causes} == {"lost", "v1-parse/lost", "?", "%"}
        assert {(job.job_id, job.kind, job.label) for job in yielded} == {
            ("lost", EXTRACT, None),
            ("lost", PARSE, "l.pdf"),
            ("?", EXTRACT, None),
            ("%", EXTRACT, "odd.pdf"),
        }

    run(main())


def test_an_id_that_was_not_read_in_time_keeps_its_label():
    async def main():
        refs = [JobRef(job_id, kind=PARSE, label=f"{job_id}.pdf") for job_id in ("b", "unread")]
        async with watcher_of(Service(ENDS)) as watcher:
            watch = watcher.watch(refs, window=1, timeout=1, errors="yield")
            found = [(item.job_id, item.label) async for item in watch]
        assert found == [("b", "b.pdf"), ("unread", "unread.pdf")]

    run(main())


def test_a_kind_that_the_source_does_not_have_is_the_error_of_its_job():
    class Plain:
        async def get_job(self, job_id):
            return JobSnapshot(job_id=job_id, status=JobStatus.COMPLETED, status_text="completed")

        async def list_jobs(self, **_options):
            raise NotImplementedError

    async def main():
        async with watcher_of(Plain()) as watcher:
            with pytest.raises(UnresolvedJobsError) as caught:
                _ = [job async for job in watcher.watch(["a", "v1-parse/b"])]
            [item] = [item async for item in watcher.watch(["v1-parse/b"], errors="yield")]
            assert (item.kind, item.job_id) == (PARSE, "b")
            with pytest.raises(InvalidJobIdError, match="no jobs of the kind v1-parse"):
                await watcher.wait("v1-parse/b")
        assert {*caught.value.causes} == {"v1-parse/b"}

    run(main())


def test_a_timeout_gives_up_jobs_of_every_kind():
    async def main():
        async with watcher_of(Service(ENDS)) as watcher:
            with pytest.raises(UnresolvedJobsError) as caught:
                _ = [job async for job in watcher.watch(REFS, timeout=2.5)]
        errors = caught.value.causes
        assert {*errors} == {"v1-parse/b", V2_ID}
        assert all(isinstance(error, JobTimeoutError) for error in errors.values())
        assert all(error.last_status == "processing" for error in errors.values())

    run(main())


def test_jobs_of_a_kind_of_your_own_settle_are_given_up_and_are_left():
    ends = {(OWN, "t-1"): 1.0, (OWN, "t-2"): 1_000_000.0}
    refs = [JobRef("t-1", kind=OWN, label="one"), JobRef("t-2", kind=OWN, label="two")]

    async def main():
        async with watcher_of(Service(ends)) as watcher:
            found = [job async for job in watcher.watch(refs, timeout=5, errors="yield")]
            assert [(job.kind, job.job_id, job.label) for job in found] == [
                (OWN, "t-1", "one"),
                (OWN, "t-2", "two"),
            ]
            assert isinstance(found[1].error, JobTimeoutError)
            async with watcher.status_updates(refs[1:]) as updates:
                assert (update := await anext(updates)).status is JobStatus.PROCESSING
                assert (update.kind, update.job_id) == (OWN, "t-2")
            assert watcher.stats.watched == 0

    run(main())


def test_a_slow_consumer_wakes_jobs_of_the_other_kind():
    ends = {(kind, f"j{n}"): 0.0 for kind in (EXTRACT, PARSE) for n in range(20)}
    refs = [JobRef(job_id, kind=kind) for kind, job_id in ends]

    async def main():
        found = []
        async with watcher_of(Service(ends), buffer=1, discovery="get") as watcher:
            async for job in watcher.watch(refs):
                found.append((job.kind, job.job_id))
                await asyncio.sleep(0.2)
        assert sorted(map(str, found)) == sorted(map(str, ends))
        assert asyncio.get_running_loop().time() < 30

    run(main())


def test_closing_a_watch_ends_the_polls_of_every_kind():
    async def main():
        service = Service(dict.fromkeys(ENDS, 1000000.0))
        async with watcher_of(service) as watcher:
            async with watcher.watch(REFS):
                await asyncio.sleep(5)
            assert watcher.stats.watched == 0
            polls = len(service.polls)
            await asyncio.sleep(100)
        assert len(service.polls) == polls

    run(main())


def test_a_cancelled_aclose_waits_for_the_polls_of_every_kind():
    in_flight = set()

    class Stubborn(Service):
        def for_kind(self, kind):
            return Stubborn({}, kind=kind)

        async def get_job(self, job_id):
            in_flight.add(self.kind)
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(5 if self.kind is EXTRACT else 8)
                in_flight.discard(self.kind)

    async def main():
        watcher = watcher_of(Stubborn({}), discovery="get")
        async with watcher.watch(["a", JobRef("a", kind=PARSE)]):
            await asyncio.sleep(1)
            assert in_flight == {EXTRACT, PARSE}
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await watcher.aclose()
            assert not in_flight
            assert asyncio.get_running_loop().time() == 1 + 8

    run(main())


def test_updates_of_the_same_id_are_told_apart():
    async def main():
        async with watcher_of(Service(ENDS)) as watcher:
            refs = ["a", JobRef("a", kind=PARSE, label="a.pdf")]
            seen = [(job.kind, job.status_text) async for job in watcher.updates(refs)]
            updates = [
                (update.kind, update.label, update.status_text)
                async for update in watcher.status_updates(refs, last_status={"a": "completed"})
            ]
        assert sorted(map(str, seen)) == sorted(
            f"({kind!r}, {text!r})"
            for kind in (EXTRACT, PARSE)
            for text in ("processing", "completed")
        )
        assert updates == [(PARSE, "a.pdf", "completed")]

    run(main())


def test_another_thread_may_read_the_statistics_while_a_kind_is_added(monkeypatch):
    """The event loop can add a kind between two steps of the other thread."""
    original, kinds = KindPolling.stats, iter([PARSE, V2])

    async def main():
        async with watcher_of(Service(ENDS)) as watcher:

            def stats(polling):
                if kind := next(kinds, None):
                    watcher._owner.named(JobRef("a", kind=kind))
                return original(polling)

            monkeypatch.setattr(KindPolling, "stats", stats)
            assert watcher.stats.watched == 0
            assert {*watcher.durations_by_kind} == {EXTRACT, PARSE}

    run(main())


def test_poll_now_finds_a_job_of_any_kind():
    async def main():
        async with watcher_of(Service(ENDS), schedule=Fixed(interval=50.0)) as watcher:
            waits = [asyncio.create_task(watcher.wait(ref)) for ref in REFS]
            await asyncio.sleep(5)
            assert watcher.poll_now("b")
            assert watcher.poll_now("v1-extract/a")
            assert watcher.poll_now(JobRef(V2_ID))
            assert not watcher.poll_now("v2-parse/b")
            assert not watcher.poll_now("bad/id")
            await asyncio.sleep(0.1)
            assert [wait.done() for wait in waits] == [True, False, True, True]
            for wait in waits:
                wait.cancel()

    run(main())


def test_a_key_that_has_just_worked_for_one_kind_is_not_bad_for_another():
    ends = {(EXTRACT, f"j{n}"): 20.0 for n in range(30)} | {(PARSE, "x"): 0.0}
    refused = AuthenticationError(status=401, detail="no", job_id="x")

    async def main():
        service = Service(ends, refusals={(PARSE, "x"): [refused]})
        async with (
            watcher_of(service, discovery="get") as watcher,
            watcher.watch([f"j{n}" for n in range(30)]) as watch,
        ):
            await asyncio.sleep(2)
            assert (await watcher.wait("v1-parse/x")).kind == PARSE
            assert len([job async for job in watch]) == 30

    run(main())


def test_what_was_learnt_can_be_passed_by_kind():
    async def main():
        learnt = {PARSE: Durations()}
        async with watcher_of(Service(ENDS), durations=learnt) as watcher:
            await watcher.wait("v1-parse/a")
        assert watcher.durations_by_kind[PARSE] is learnt[PARSE]
        assert watcher.durations is watcher.durations_by_kind[EXTRACT]

    run(main())


class Progressing:
    """One job of 100 seconds that reports its progress, at most up to `stops_at`."""

    def __init__(self, *, stops_at):
        self.stops_at = stops_at
        self.times = []

    @property
    def polls(self):
        return len(self.times)

    async def get_job(self, job_id):
        age = asyncio.get_running_loop().time()
        self.times.append(age)
        status = JobStatus.COMPLETED if age >= 100 else JobStatus.PROCESSING
        progress = min(age / 100, self.stops_at)
        return JobSnapshot(
            job_id=job_id, status=status, status_text=status.value, progress=progress
        )

    async def list_jobs(self, **_options):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("stops_at", "within", "polls"), [(1.0, 2.1, 8), (0.0, 20.0, 4), (0.5, 20.0, 6)]
)
def test_progress_brings_the_poll_at_the_end_forward_while_it_moves(stops_at, within, polls):
    source = Progressing(stops_at=stops_at)

    async def main():
        async with watcher_of(source, schedule=Fixed(interval=40.0, jitter=0)) as watcher:
            _ = [job async for job in watcher.watch(["a"])]
            return asyncio.get_running_loop().time()

    assert 100 <= run(main()) <= 100 + within
    assert source.polls <= polls


@pytest.mark.parametrize("minimum", [5.0, 30.0])
def test_neither_progress_nor_a_young_age_shortens_a_pause_below_the_minimum(minimum):
    source = Progressing(stops_at=0.9)

    async def main():
        async with watcher_of(source, schedule=Adaptive(minimum=minimum)) as watcher:
            _ = [job async for job in watcher.watch(["a"])]

    run(main())
    assert source.polls > 3
    assert min(after - before for before, after in pairwise(source.times)) >= minimum


class Exact(Progressing):
    """One job of 100 seconds, of which the service says when it began and ended."""

    start = datetime(2026, 7, 1, tzinfo=UTC)

    async def get_job(self, job_id):
        await asyncio.sleep(1)
        job = await super().get_job(job_id)
        ended = self.start + timedelta(seconds=100) if job.is_terminal else None
        return evolve(job, progress=None, created_at=self.start, completed_at=ended)

    def service_time(self):
        return self.start.timestamp() + asyncio.get_running_loop().time()


def test_the_lag_of_a_job_that_had_settled_before_it_was_watched_counts_from_then_on():
    async def main():
        async with watcher_of(Exact(stops_at=0.0)) as watcher:
            await asyncio.sleep(300)
            await watcher.wait("a")
            return watcher.stats.detection_lag.sum

    assert run(main()) == 1.0  # the time that the answer took


def test_the_end_that_the_service_states_makes_durations_and_lag_exact():
    async def main():
        source = Exact(stops_at=0.0)
        async with watcher_of(source, schedule=Fixed(interval=40.0, jitter=0)) as watcher:
            _ = [job async for job in watcher.watch(["a"])]
            return watcher

    watcher = run(main())
    assert watcher.stats.detection_lag.sum == pytest.approx(20, abs=1)  # between polls: 40
    [(_, active_at, ended_at, _)] = json.loads(watcher.durations.to_json())["seen"]
    assert active_at == ended_at  # numbers of bins


@pytest.mark.parametrize(("newest_first", "pages"), [(True, 2), (False, 21)])
def test_a_sweep_of_a_list_with_the_newest_jobs_first_ends_at_older_jobs(newest_first, pages):
    start = datetime(2026, 7, 1, tzinfo=UTC)
    ends = {(V2, f"new{n}"): 50.0 for n in range(150)}
    old = [
        JobSummary(
            job_id=f"old{number}",
            status=JobStatus.PROCESSING,
            status_text="processing",
            created_at=start - timedelta(hours=1),
        )
        for number in range(2_000)
    ]

    class Listed(Service):
        def service_time(self):
            return start.timestamp() + asyncio.get_running_loop().time()

        async def list_jobs(self, *, page=0, page_size=100, status=None):
            listed = await super().list_jobs(page=0, page_size=1_000, status=status)
            jobs = [evolve(job, created_at=start) for job in listed.jobs]
            if status is JobStatus.PROCESSING:
                jobs += old
            shown = jobs[page * page_size : (page + 1) * page_size]
            return JobPage(jobs=tuple(shown), has_more=len(jobs) > (page + 1) * page_size)

        async def get_job(self, job_id):
            return evolve(await super().get_job(job_id), created_at=start)

    async def main():
        source = Listed(ends, kind=V2)
        source.newest_first = newest_first
        async with watcher_of(source, schedule=Adaptive(), discovery="list") as watcher:
            jobs = [job async for job in watcher.watch([f"new{n}" for n in range(150)])]
            assert len(jobs) == 150
            return watcher.stats

    stats = run(main())
    assert stats.list_requests / stats.sweeps == pytest.approx(pages + 1, abs=1.5)


def test_outcomes_of_jobs_of_two_kinds_with_the_same_id_are_both_stored():
    async def main():
        stored = []

        async def store(outcome):
            await asyncio.sleep(5)  # the other one settles meanwhile
            stored.append((outcome.kind, outcome.job_id, outcome.label))

        refs = [*REFS, "v1-parse/a", "no-such-job", "not/an/id"]
        async with watcher_of(Service(ENDS), not_found_grace=1) as watcher:
            await store_outcomes(watcher, refs, store)
        assert sorted(stored, key=str) == [
            (EXTRACT, "a", None),
            (EXTRACT, "no-such-job", None),
            (EXTRACT, "not/an/id", None),
            (PARSE, "a", "a.pdf"),
            (PARSE, "b", None),
            (V2, V2_ID, None),
        ]

    run(main())


# --- kinds at two hosts -------------------------------------------------------------------------


class HostedService(Service):
    """A service whose v2 jobs are at a host of their own; `problem` is asked before each answer."""

    problem = None
    latency: ClassVar = {"v1": 0.0, "v2": 0.0}  # seconds that each host needs, besides 0.05

    @property
    def origin(self):
        return "v2" if self.kind == V2 else "v1"

    def for_kind(self, kind):
        view = HostedService(
            {(ref.kind, ref.job_id): end for ref, end in self.ends.items()},
            kind=kind,
            polls=self.polls,
        )
        view.problem, view.latency = self.problem, self.latency
        return view

    async def get_job(self, job_id):
        await asyncio.sleep(self.latency[self.origin])
        now = asyncio.get_running_loop().time()
        if self.problem and (error := self.problem(self.origin, job_id, now)):
            self.polls.append(job_id)
            await asyncio.sleep(0.05)
            raise error
        return await super().get_job(job_id)


def hosted(problem, *, ends=1_000.0):
    jobs = {(EXTRACT, f"v1-{n}"): ends for n in range(10)}
    jobs |= {(V2, f"parse-{n:026}"): ends for n in range(10)}
    service = HostedService(jobs)
    service.problem = problem
    return service, [JobRef(job_id, kind=kind) for kind, job_id in jobs]


async def outcomes(service, refs, **options):
    """Return the settled and the given-up jobs by id, each with its time."""
    loop, settled, given_up = asyncio.get_running_loop(), {}, {}
    options = {"discovery": "get", "schedule": Fixed(interval=10.0)} | options
    async with watcher_of(service, **options) as watcher:
        async for job in watcher.watch(refs, errors="yield"):
            if isinstance(job, UnresolvedJob):
                given_up[job.job_id] = loop.time()
            else:
                settled[job.job_id] = loop.time()
    return settled, given_up


def test_no_good_job_is_given_up_while_its_host_is_down_and_the_other_is_up():
    def down(origin, job_id, now):
        broken = origin == "v2" and 100 <= now < 900  # patience is 300 s, outage_patience 3,600 s
        return ServerError(status=503, job_id=job_id) if broken else None

    settled, given_up = run(outcomes(*hosted(down)))
    assert (len(settled), given_up) == (20, {})


def test_the_jobs_of_a_host_that_stays_down_are_given_up_after_outage_patience():
    def down(origin, job_id, now):
        return ServerError(status=503, job_id=job_id) if origin == "v2" else None

    settled, given_up = run(outcomes(*hosted(down, ends=2_000.0), outage_patience=1_200.0))
    assert len(settled) == 10
    assert len(given_up) == 10
    assert 1_200 <= min(given_up.values()) <= max(given_up.values()) <= 1_400


def test_a_bad_job_is_given_up_for_the_answers_of_its_own_host():
    def bad(_origin, job_id, _now):
        wrong = job_id.endswith("7")
        return ServerError(status=500, job_id=job_id) if wrong else None

    settled, given_up = run(outcomes(*hosted(bad)))
    assert len(settled) == 18
    assert sorted(given_up) == ["parse-00000000000000000000000007", "v1-7"]
    assert 300 <= min(given_up.values()) <= max(given_up.values()) <= 400


@pytest.mark.parametrize(
    "refusal",
    [
        lambda job_id: AuthenticationError(status=401, job_id=job_id),
        lambda job_id: PermissionDeniedError(status=403, job_id=job_id),
    ],
    ids=["401", "403"],
)
def test_a_host_that_refuses_the_key_ends_only_its_own_jobs(refusal):
    settled, given_up = run(
        outcomes(*hosted(lambda origin, job_id, _now: refusal(job_id) if origin == "v2" else None))
    )
    assert len(settled) == 10
    assert len(given_up) == 10
    assert max(given_up.values()) <= 450


@pytest.mark.parametrize(
    "refusal",
    [
        lambda job_id: AuthenticationError(status=401, job_id=job_id),
        lambda job_id: CertificateError("cannot be verified", job_id=job_id),
    ],
    ids=["401", "certificate"],
)
@pytest.mark.parametrize("starts_at", [0.0, 500.0])
def test_a_host_that_refuses_the_key_ends_nothing_while_another_may_accept_it(refusal, starts_at):
    """The other host answers after two seconds; and its jobs are polled only once a minute."""

    def refuse(origin, job_id, now):
        is_refused = origin == "v2" and starts_at <= now < starts_at + 200
        return refusal(job_id) if is_refused else None

    service, refs = hosted(refuse)
    service.latency = {"v1": 2.0, "v2": 0.0}
    settled, given_up = run(outcomes(service, refs, schedule=Fixed(interval=60.0)))
    assert (len(settled), given_up) == (20, {})


def test_a_key_that_both_hosts_refuse_ends_everything():
    def refuse(_origin, job_id, now):
        return AuthenticationError(status=401, job_id=job_id) if now >= 100 else None

    with pytest.raises(AuthenticationError):
        run(outcomes(*hosted(refuse)))


@pytest.mark.parametrize(
    ("durations", "got"),
    [
        ({"v1-parse": Durations()}, "the key 'v1-parse'"),
        ({PARSE: Durations(), None: Durations()}, "the key None"),
        ({PARSE: Durations().to_json()}, "a value of type str"),
        ({PARSE: None}, "a value of type NoneType"),
        (Durations().to_json(), "str"),
        ([(PARSE, Durations())], "list"),
        (Durations, "type"),
    ],
)
def test_durations_of_other_types_are_refused(durations, got):
    with pytest.raises(TypeError, match=f"mapping from JobKind to Durations .* got {got};"):
        JobWatcher(Service(ENDS), durations=durations)
