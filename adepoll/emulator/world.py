"""The state of the emulated service, and its answers to requests. Does no I/O.

There is no timer: the status of a job is computed from the job's plan and the current time.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import quote, unquote

from attrs import Factory, define, field

from adepoll.api.job_kind import JobKind
from adepoll.api.models import JobStatus, Json
from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator import validators
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.faults import Faults
from adepoll.emulator.job_factory import JobFactory
from adepoll.emulator.job_list import JobList, ListOrder
from adepoll.emulator.jobs import Job, JobPlan, JobTruth
from adepoll.emulator.kinds import DEFAULT_KIND, KINDS, rules_of
from adepoll.emulator.kinds.emulated_kind import EmulatedKind, JobAnswer, PageQuery
from adepoll.emulator.kinds.forms import Submission
from adepoll.emulator.presigned_urls import ANY_METHOD, Presigner, Verdict
from adepoll.emulator.profiles import TIERS, Profile
from adepoll.emulator.request_log import RequestLog, Traffic
from adepoll.emulator.result_parts import dump
from adepoll.emulator.results import ResultBody
from adepoll.emulator.stored_objects import SavedObject, StoredObject, saved_path

_LARGEST_UNCACHED: Final = 1_000_000  # bytes; larger results are cached
# A larger page number is replaced by this number, because both pages are empty.
_LARGEST_PAGE: Final = 2**31


@define(kw_only=True, eq=False)
class World(SafeRepr):
    """The jobs, results and faults of one organisation, and a log of the requests of its clients.

    Attributes:
        clock: Returns the time in Unix seconds, as a float. If the clock goes back, the time of the
            world stands still until the clock is ahead again.
        seed: Determines everything random.
        profile: Durations, outcomes and sizes of the jobs that are submitted without a `JobPlan`.
        profiles: Profiles that replace `profile` for some kinds of jobs, by the name of the kind.
        org_id: Id of the organisation.
        results_origin: Scheme, host and port of every presigned URL.
        list_order: Order of the v1 job lists; the v2 lists begin with the newest jobs.
        list_lag: Seconds by which a page of the list is out of date. If it becomes longer, the list
            stands still for a while.
        faults: The active faults.
        request_log: Counts all requests; records leaked secrets, and requests that came before the
            end of a Retry-After.
        saved: Results that were PUT into the storage, by percent-encoded path.
        presigner: Signs and checks the presigned URLs.
    """

    clock: Callable[[], float]
    seed: int = 0
    profile: Profile = Factory(Profile)
    profiles: Mapping[str, Profile] = field(factory=dict)
    org_id: str = "org-emulated"
    results_origin: str = "https://results.invalid"
    list_order: ListOrder = ListOrder.NEWEST
    list_lag: float = field(default=0.0, validator=validators.FINITE)
    faults: Faults = field(init=False)
    request_log: RequestLog = field(init=False, factory=RequestLog)
    saved: dict[str, SavedObject] = field(init=False, factory=dict, repr=False)
    presigner: Presigner = field(init=False)
    _factory: JobFactory = field(init=False)
    _now: float = field(init=False, default=-math.inf)
    _jobs: dict[str, Job] = field(init=False, factory=dict)
    _lists: dict[str, JobList] = field(init=False)
    _expired: set[str] = field(init=False, factory=set)

    @_factory.default
    def _make_factory(self) -> JobFactory:
        return JobFactory(seed=self.seed, profile=self.profile, profiles=self.profiles)

    @faults.default
    def _make_faults(self) -> Faults:
        return Faults(seed=self.seed, clock=self.now)

    @_lists.default
    def _make_lists(self) -> dict[str, JobList]:
        newest = ListOrder.NEWEST
        return {
            name: JobList(newest if rules.is_newest_first else self.list_order, self.seed)
            for name, rules in KINDS.items()
        }

    @presigner.default
    def _make_presigner(self) -> Presigner:
        return Presigner.seeded(f"{self.seed}/presigner")

    @property
    def traffic(self) -> Traffic:
        """Numbers of requests so far, by endpoint."""
        return self.request_log.traffic

    def now(self) -> float:
        """Return the time of the world, in Unix seconds; it never goes back."""
        self._now = max(self._now, self.clock())
        return self._now

    def profile_of(self, kind: str) -> Profile:
        """Return the profile of the jobs of a kind, which is given by name."""
        return self._factory.profile_of(kind)

    def submit(
        self,
        plan: JobPlan | None = None,
        *,
        kind: str | JobKind = DEFAULT_KIND,
        job_id: str | None = None,
        received_at: float | None = None,
        schema: Json = None,
        filename: str = "document.md",
        model: str | None = None,
        output_save_url: str | None = None,
        tier: str | None = None,
    ) -> str:
        """Add a job and return its id.

        Args:
            plan: What happens to the job; None to draw a plan from the profile.
            kind: Kind of the job: a name, such as ``v2-parse``, or an `adepoll.JobKind`.
            job_id: Id of the job; None to draw an id of the form that the kind has.
            received_at: Time of arrival, in Unix seconds; None for now. A job that has not arrived
                is neither found nor listed.
            schema: JSON schema of the extraction, as parsed JSON; None for no schema.
            filename: Name of the document. A name such as ``book.xlsx`` gives a v1 parse job the
                result of a spreadsheet.
            model: Requested model; None for the latest one.
            output_save_url: URL to which the result is PUT; see `save_url`. None for no PUT.
            tier: `service_tier` of a v2 job, ``standard`` or ``priority``; None to draw a tier.

        Raises:
            ValueError: A job has this id already, or no such kind exists, or jobs of this kind
                cannot have the tier or the outcome of the plan.
        """
        rules = rules_of(kind)
        submission = Submission(
            filename=filename, model=model, output_save_url=output_save_url, tier=tier,
            schema=schema,
        )  # fmt: skip
        if tier is not None and not (rules.has_tiers and tier in TIERS):
            raise ValueError(f"a {rules.name} job cannot have the tier {tier!r}")
        if plan is not None and plan.outcome not in rules.outcomes:
            raise ValueError(f"a {rules.name} job cannot end {plan.outcome.value}")
        job = self.add(rules, submission, plan=plan, job_id=job_id, received_at=received_at)
        return job.job_id

    def add(
        self,
        rules: EmulatedKind,
        submission: Submission,
        *,
        plan: JobPlan | None = None,
        job_id: str | None = None,
        received_at: float | None = None,
    ) -> Job:
        """Add the job that a request creates, and return it.

        Args:
            rules: Rules of the kind of the job.
            submission: The request that creates the job.
            plan: What happens to the job; None to draw a plan from the profile.
            job_id: Id of the job; None to draw an id.
            received_at: Time of arrival, in Unix seconds; None for now.

        Raises:
            ValueError: A job has this id already.
        """
        received_at = self.now() if received_at is None else received_at
        if job_id is None:
            job_id = self._factory.new_id(rules, received_at)
        if job_id in self._jobs:
            raise ValueError(f"job_id {job_id!r} is taken")
        job = self._factory.make(
            rules, submission, plan=plan, job_id=job_id, received_at=received_at
        )
        self._jobs[job_id] = job
        self._lists[rules.name].add(job)
        return job

    def kind_of(self, job_id: str | None) -> str:
        """Return the name of the kind of a job; `DEFAULT_KIND` for None or an unknown job."""
        job = None if job_id is None else self._jobs.get(job_id)
        return DEFAULT_KIND if job is None else job.kind

    def job(self, job_id: str) -> tuple[int, Json]:
        """Answer a poll of a job: return the HTTP status, and the body as parsed JSON."""
        status, body = self.job_json(job_id)
        return status, json.loads(body)

    def job_json(self, job_id: str) -> tuple[int, bytes]:
        """Answer a poll of a job: return the HTTP status, and the body as JSON text in bytes."""
        answer = self.answer(KINDS[self.kind_of(job_id)], job_id)
        return answer.status, answer.read()

    def answer(self, rules: EmulatedKind, job_id: str) -> JobAnswer:
        """Answer a poll of a job of a kind: 200 or 206; 404 for an unknown or deleted job."""
        now = self.now()
        self.count(Endpoint.GET, job_id)
        job = self._jobs.get(job_id)
        status = None if job is None or job.kind != rules.name else job.status_at(now)
        if job is None or status is None or now >= job.finished_at + job.plan.retention:
            return JobAnswer(status=404, head=dump(rules.error(Endpoint.GET, 404)).encode())
        result = url = None
        if status is JobStatus.COMPLETED and job.has_result:
            job.result_polls += 1
            if (url := job.output_save_url) is None:
                result = self._result(job)
                if (limit := rules.limit_of(job)) is not None and result.size > limit:
                    result, path = None, self.result_path(job_id)
                    origin = self.results_origin
                    url = self.presigner.presign(origin=origin, raw_path=path, now=now)
        return rules.answer(job, now=now, org_id=self.org_id, result=result, url=url)

    def count(self, endpoint: Endpoint, job_id: str | None) -> None:
        """Count a request to an endpoint.

        `job_id` is None for a request for the list, and for one that creates a job.

        Methods that answer a request, such as `job` and `page`, call this method.
        """
        self.request_log.record(endpoint, job_id, self.now())
        job = None if job_id is None else self._jobs.get(job_id)
        if job is None:
            return
        if endpoint is Endpoint.RESULT:
            job.result_requests += 1
        elif endpoint is Endpoint.GET and self._now >= job.received_at:  # the API knows the job
            job.polls += 1

    def page(
        self,
        *,
        kind: str | JobKind = DEFAULT_KIND,
        page: int = 0,
        page_size: int = 10,
        status: JobStatus | None = None,
    ) -> Json:
        """Answer a request for a page of the list: return the body as parsed JSON.

        Args:
            kind: Kind of the jobs: a name or an `adepoll.JobKind`.
            page: Page number, from 0.
            page_size: Largest number of jobs on the page, 1 to 100.
            status: Only jobs with this status; None for all.
        """
        query = PageQuery(page=page, page_size=page_size, status=status)
        return self.answer_page(rules_of(kind), query)

    def answer_page(self, rules: EmulatedKind, query: PageQuery, *, shift: int = 0) -> Json:
        """Answer a request for a page of the list of a kind, as `page` does.

        `shift` is the number of jobs by which the page begins too late; negative if too early.
        """
        self.count(Endpoint.LIST, None)
        listed = self._lists[rules.name]
        now = listed.update(self._now - self.list_lag)
        skip = max(min(query.page, _LARGEST_PAGE) * query.page_size + shift, 0)
        jobs, has_more = listed.page(skip=skip, count=query.page_size, status=query.status)
        if query.impossible:
            jobs, has_more = [], False
        return rules.page(jobs, query, now=now, org_id=self.org_id, has_more=has_more)

    def listed(self) -> dict[JobStatus, int]:
        """Return how many jobs the lists of all kinds contain, by status; count no request."""
        counts: Counter[JobStatus] = Counter()
        for listed in self._lists.values():
            listed.update(self.now() - self.list_lag)
            counts.update(listed.counts())
        return counts

    def result(self, job_id: str) -> ResultBody | None:
        """Return the result of a job, even before the job ends; None if the job does not complete.

        Raises:
            KeyError: There is no such job.
        """
        job = self._jobs[job_id]
        return self._result(job) if job.plan.outcome.has_result else None

    def result_path(self, job_id: str) -> str:
        """Return the percent-encoded path of the result of a job in the storage.

        The path contains ``%20``, ``+`` and ``%2B``. A client that changes the encoding requests a
        wrong path, and a test detects that.
        """
        kind = self.kind_of(job_id).rpartition("-")[2]
        job_part = quote(job_id, safe="")
        return f"/ade-results/{self.org_id}/{kind}%20jobs/{job_part}/data+v1%2Bfull.json"

    def job_id_at(self, raw_path: str) -> str | None:
        """Return the id of the job that has this `result_path`; None if no job has it."""
        job_id = unquote(raw_path.rpartition("/")[0].rpartition("/")[2])
        known = job_id in self._jobs and raw_path == self.result_path(job_id)
        return job_id if known else None

    def object_at(self, raw_path: str) -> StoredObject | None:
        """Return the object at a percent-encoded path of the storage; None if it is not there."""
        if (job_id := self.job_id_at(raw_path)) is None:
            return self.saved.get(raw_path)
        job = self._jobs[job_id]
        limit = KINDS[job.kind].limit_of(job)
        kept = job.output_save_url is None and not job.plan.zero_data_retention
        if limit is None or not kept or job.status_at(self.now()) is not JobStatus.COMPLETED:
            return None
        result = self._result(job)
        return result if result.size > limit else None

    def replace_result(self, job_id: str) -> None:
        """Replace the result of a job permanently by another result of the same size.

        Raises:
            KeyError: There is no such job.
        """
        job = self._jobs[job_id]
        job.result_version += 1
        job.result = None

    def save_url(self, name: str, *, readable: bool = False) -> str:
        """Return a presigned `output_save_url` in the storage of the emulator.

        Args:
            name: Name of the object.
            readable: True for a URL that allows PUT and GET, as some storage vendors have it. False
                for a URL like those of S3, which allow one method only: a GET gets a 403.
        """
        method = ANY_METHOD if readable else "PUT"
        return self.presigner.presign(
            origin=self.results_origin, raw_path=saved_path(name), now=self.now(), method=method
        )

    def pending_save(self, job_id: str) -> tuple[str, ResultBody] | None:
        """Return the `output_save_url` of a completed job, and the result to upload there.

        Return None if the job has not completed or has no such URL, or after the upload.
        """
        job = self._jobs.get(job_id)
        if (
            job is None
            or job.output_save_url is None
            or job.save_status is not None
            or job.status_at(self.now()) is not JobStatus.COMPLETED
        ):
            return None
        return job.output_save_url, self._result(job)

    def record_save(self, job_id: str, status: int) -> None:
        """Record the HTTP status of the PUT of a result, or 0 if the PUT got no answer."""
        self._jobs[job_id].save_status = status

    def expire(self, raw_target: str) -> None:
        """Make a presigned URL expire now. `raw_target` is its path and query, as received."""
        self._expired.add(raw_target)

    def check_signature(self, *, method: str, host: str, raw_target: str) -> Verdict:
        """Check the signature of a request to the storage; see `Presigner.check`."""
        verdict = self.presigner.check(
            method=method, host=host, raw_target=raw_target, now=self.now()
        )
        expired = verdict is Verdict.VALID and raw_target in self._expired
        return Verdict.EXPIRED if expired else verdict

    def truth(self, job_id: str) -> JobTruth:
        """Return the facts about a job, including the SHA-256 of its result.

        Raises:
            KeyError: There is no such job.
        """
        return self._truth(self._jobs[job_id], digest=True)

    def truths(self, *, digests: bool = False) -> Iterator[JobTruth]:
        """Yield the facts about all jobs, in the order of submission.

        Args:
            digests: True to compute the SHA-256 of every result, which reads all results.
        """
        for job in [*self._jobs.values()]:
            yield self._truth(job, digest=digests)

    def _truth(self, job: Job, *, digest: bool) -> JobTruth:
        """Return what really happened to a job; with the SHA-256 of its result if `digest`."""
        result = self._result(job) if job.plan.outcome.has_result else None
        return JobTruth.of(job, result, digest=digest)

    def _result(self, job: Job) -> ResultBody:
        """Return the result of a job; create it if it is not cached."""
        if job.result is not None:
            return job.result
        seed = f"{self.seed}/{job.result_version}" if job.result_version else self.seed
        parts = KINDS[job.kind].result(job, seed=seed, org_id=self.org_id)
        result = parts.fit(job.plan.result_bytes, modified=job.finished_at)
        if result.size > _LARGEST_UNCACHED:
            # Only large results are read in many ranges; caching every result would cost memory.
            job.result = result
        return result
