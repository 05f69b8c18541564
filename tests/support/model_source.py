"""The service of the model test: jobs with known ends, and sources that answer with faults.

Times are seconds of the loop. `ModelService` knows the truth and checks each request; every watcher
polls it through a `ModelSource` of its own.
"""

import asyncio
import math
from contextvars import ContextVar
from itertools import count

from attrs import define, field
from model_faults import FATAL, LIST_ERRORS, STRAY, Behaviour, error_of

from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary, from_timestamp
from adepoll.emulator import EPOCH, VirtualTimeLoop
from adepoll.errors import TransportError

actor_name = ContextVar("actor_name", default=None)
"""Name of the consumer that owns the context. No poll may run in such a context."""


BETWEEN_REFUSALS = 100.0
"""Minimum seconds between two stray 401 or 403. With many of them, the key would count as bad."""


class StoppableLoop(VirtualTimeLoop):
    """A loop with virtual time that can stop like a process: time passes, and nothing runs."""

    stopped_for = 0.0

    def time(self):
        return super().time() + self.stopped_for

    def stop_process(self, seconds):
        self.stopped_for += seconds


@define(kw_only=True, eq=False)
class ModelJob:
    """A job, and what is wrong with the answers about it.

    Attributes:
        fault: None for a good job; else what every GET of it brings: "unknown" (404), "forbidden",
            "unprocessable", "malformed", "wrong" (an answer about another job), "down" (502).
        visible_at: Before this time, a GET brings 404.
    """

    job_id: str
    received_at: float
    started_at: float
    ended_at: float
    final: str = "completed"
    fault: str | None = None
    visible_at: float = -math.inf

    def status_at(self, now):
        if now >= self.ended_at:
            return self.final
        return "processing" if now >= self.started_at else "pending"


@define(kw_only=True, eq=False)
class Poll:
    """One GET of one job.

    Attributes:
        cause: Name of the reason why the poll failed; None if it succeeded or has not ended.
    """

    number: int
    job_id: str
    began: float
    ended: float = math.inf
    status: str | None = None
    cause: str | None = None


@define(kw_only=True, eq=False)
class Follow:
    """The time in which a consumer follows a job."""

    actor: object
    job_id: str
    began: float
    ended: float = math.inf


@define(kw_only=True, eq=False)
class ModelService:
    """The truth about all jobs.

    Attributes:
        violations: Descriptions of violated invariants.
        log: Time and text of each event.
        stops: Begin and end of each time in which the process was stopped.
        most_tasks: Maximum number of tasks, including those of the test.
    """

    behaviour: Behaviour
    jobs: dict = field(factory=dict)
    rng: object
    violations: list = field(factory=list)
    log: list = field(factory=list)
    stops: list = field(factory=list)
    most_tasks: int = 0
    numbers: object = field(factory=lambda: count(1))
    refused_at: float = -math.inf  # time of the last stray 401 or 403

    def now(self):
        return asyncio.get_running_loop().time()

    def note(self, text):
        self.log.append((self.now(), text))

    def violate(self, text):
        self.note(f"VIOLATION {text}")
        self.violations.append(text)

    def check_tasks(self):
        """Check that the number of tasks is at most `most_tasks`."""
        if len(asyncio.all_tasks()) > self.most_tasks:
            self.violate(f"3: there are {len(asyncio.all_tasks())} tasks")

    def received_at(self, job):
        match self.behaviour.received_at:
            case "absent":
                return from_timestamp(0)
            case "early":
                return from_timestamp(int(EPOCH + job.received_at - 10_800))
            case "late":
                return from_timestamp(int(EPOCH + job.received_at + 10_800))
        return from_timestamp(int(EPOCH + job.received_at))

    def progress(self, job):
        passed = (self.now() - job.received_at) / max(job.ended_at - job.received_at, 1.0)
        match self.behaviour.progress:
            case "true":
                return min(passed, 1.0)
            case "too fast":
                return min(3 * passed, 1.0)
            case "nonsense":
                return self.rng.choice((None, -1.0, math.nan, 0.5, 0.97, 1e9))
        return 0.0

    def completed_at(self, job, text):
        """Return the end of a settled job as its answer states it; this time can be wrong."""
        if text != job.final or self.behaviour.completed_at == "absent":
            return None
        wrong_by = {"exact": 0.0, "early": -7_200.0, "late": 7_200.0}
        return from_timestamp(EPOCH + job.ended_at + wrong_by[self.behaviour.completed_at])

    def disturb(self, source, job_id, began):
        """Return the error that a request meets, whatever it asks for; None for none."""
        now, behaviour = self.now(), self.behaviour
        if behaviour.fatal is not None and now >= behaviour.fatal_at:
            return behaviour.fatal, FATAL[behaviour.fatal]()
        if behaviour.in_outage(now):
            return "outage", TransportError("connection refused", job_id=job_id)
        if any(began <= begin < now for begin, _ in self.stops) and self.rng.random() < 0.5:
            return "stopped", TransportError("the connection was reset", job_id=job_id)
        if self.rng.random() < behaviour.stray:
            kind = self.rng.choice(behaviour.stray_kinds)
            if kind not in {"401", "403"}:
                return kind, STRAY[kind](job_id)
            if source.worked and now > self.refused_at + BETWEEN_REFUSALS:
                self.refused_at = now
                return kind, STRAY[kind](job_id)
        return None


@define(kw_only=True, eq=False)
class ModelSource:
    """The `JobSource` of one watcher, which also checks the requests of the watcher.

    Attributes:
        limit: Maximum number of requests in flight.
        semaphore: The semaphore of the user; None if the watcher has its own.
        follows: For each job, the times in which consumers followed the job.
        saturated: Begin and end of each time in which `limit` requests were in flight.
        shown: For each job, the request times of the pages that show the job as active.
    """

    service: ModelService
    name: str
    limit: int
    semaphore: object = None
    timed: bool = True
    polls: dict = field(factory=dict)
    in_flight: int = 0
    active: set = field(factory=set)
    follows: dict = field(factory=dict)
    saturated: list = field(factory=list)
    shown: dict = field(factory=dict)
    pages: int = 0
    closed: bool = False
    worked: bool = False  # True after the first successful GET

    def follow(self, job_id, actor):
        """Record that a consumer follows a job from now on."""
        follow = Follow(actor=actor, job_id=job_id, began=self.service.now())
        self.follows.setdefault(job_id, []).append(follow)
        return follow

    def is_followed(self, job_id, now):
        """Return whether a consumer follows a job, or has stopped at exactly this time."""
        return any(follow.ended >= now for follow in self.follows.get(job_id, ()))

    async def get_job(self, job_id):
        service = self.service
        now = service.now()
        poll = Poll(number=next(service.numbers), job_id=job_id, began=now)
        if job_id in self.active:
            service.violate(f"{self.name} polls {job_id} twice at the same time")
        if not self.is_followed(job_id, now):
            service.violate(f"5: {self.name} polls {job_id}, which nobody follows")
        self.active.add(job_id)
        self.polls.setdefault(job_id, []).append(poll)
        self._begin()
        try:
            await self._answer(poll)
            return self._snapshot(poll)
        except BaseException as error:
            poll.cause = poll.cause or type(error).__name__
            raise
        finally:
            poll.ended = service.now()
            self.active.discard(job_id)
            self._end()

    async def _answer(self, poll):
        """Wait for the answer, or raise the error."""
        service = self.service
        half = service.rng.uniform(*service.behaviour.latency) / 2
        if half:
            await asyncio.sleep(half)
        job = service.jobs[poll.job_id]
        poll.status = job.status_at(service.now())
        error = None
        if (disturbed := service.disturb(self, poll.job_id, poll.began)) is not None:
            poll.cause, error = disturbed
        elif service.now() < job.visible_at:
            poll.cause, error = "unknown", error_of("unknown", poll.job_id)
        elif job.fault is not None:
            poll.cause = job.fault
            error = None if job.fault == "wrong" else error_of(job.fault, poll.job_id)
        if half:
            await asyncio.sleep(half)
        if error is not None:
            service.note(f"{self.name} polled {poll.job_id}: {poll.cause}")
            raise error
        service.note(f"{self.name} polled {poll.job_id}: {poll.cause or poll.status}")
        self.worked |= poll.cause is None

    def _snapshot(self, poll):
        job = self.service.jobs[poll.job_id]
        return JobSnapshot(
            job_id="another-job" if poll.cause == "wrong" else poll.job_id,
            status=JobStatus.parse(poll.status),
            status_text=poll.status,
            received_at=self.service.received_at(job),
            progress=self.service.progress(job),
            completed_at=self.service.completed_at(job, poll.status),
            version=f"poll {poll.number}",
        )

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        service, behaviour = self.service, self.service.behaviour
        if behaviour.listing == "none":
            raise NotImplementedError
        began = service.now()
        self.pages += 1
        self._begin()
        try:
            half = service.rng.uniform(*behaviour.latency) / 2
            if half:
                await asyncio.sleep(half)
            listed = self._listed(status)
            disturbed = service.disturb(self, None, began)
            if disturbed is None and service.rng.random() < behaviour.list_error:
                kind = service.rng.choice(sorted(LIST_ERRORS))
                disturbed = kind, LIST_ERRORS[kind]()
            if half:
                await asyncio.sleep(half)
            if disturbed is not None:
                service.note(f"{self.name} read page {page} of the list: {disturbed[0]}")
                raise disturbed[1]
            first = page * page_size
            jobs = tuple(listed[first : first + page_size])
            for job in jobs:
                self.shown.setdefault(job.job_id, []).append(began)
            return JobPage(
                jobs=jobs,
                has_more=behaviour.listing == "endless" or first + page_size < len(listed),
            )
        finally:
            self._end()

    def _listed(self, status):
        service, behaviour = self.service, self.service.behaviour
        seen = service.now() - behaviour.list_lag
        listed = []
        for number, job in enumerate(service.jobs.values()):
            if job.received_at > seen or job.fault == "unknown" or behaviour.listing == "empty":
                continue
            if behaviour.listing == "misses half" and number % 2:
                continue
            text = job.status_at(seen)
            if behaviour.listing == "keeps settled" and text == job.final:
                text = "processing"
            if text == status.value:
                listed.append(_summary(job.job_id, text, service.received_at(job)))
        if status is JobStatus.PROCESSING:
            listed += FOREIGN[: behaviour.foreign]
        return listed

    def _begin(self):
        service = self.service
        self.in_flight += 1
        if self.closed:
            service.violate(f"5: {self.name} sends a request after it was closed")
        if (actor := actor_name.get()) is not None:
            service.violate(f"5: a request of {self.name} runs in the context of {actor}")
        if self.semaphore is not None:
            self.semaphore.in_flight += 1
            self.semaphore.check(service)
        elif self.in_flight > self.limit:
            service.violate(f"3: {self.in_flight} requests of {self.name} are in flight")
        self._note_saturation()

    def _end(self):
        if self.semaphore is not None:
            self.semaphore.check(self.service)
        self.in_flight -= 1
        if self.semaphore is not None:
            self.semaphore.in_flight -= 1
        self._note_saturation()
        if self.service.rng.random() < 0.05:
            self.service.check_tasks()

    def _note_saturation(self):
        now = self.service.now()
        full = self.semaphore.full if self.semaphore is not None else self.in_flight >= self.limit
        saturated = (self.semaphore or self).saturated
        if saturated and saturated[-1][1] == math.inf:
            if not full:
                saturated[-1] = (saturated[-1][0], now)
        elif full:
            saturated.append((now, math.inf))


class TimedModelSource(ModelSource):
    """A source that knows the time of the service's clock."""

    def service_time(self):
        return EPOCH + self.service.now()


def _summary(job_id, text, received_at):
    return JobSummary(
        job_id=job_id,
        status=JobStatus.parse(text),
        status_text=text,
        received_at=received_at,
        progress=0.0,
    )


FOREIGN = [_summary(f"foreign-{n}", "processing", from_timestamp(int(EPOCH))) for n in range(250)]
"""Jobs of other programs, which the list always shows as active."""
