"""The state of the service, pure and synchronous: jobs on an injected clock, all else follows.

Nothing ticks: where a job stands is worked out from its plan and the time when it is looked at.
"""

import json
import math
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import quote, unquote

from attrs import Factory, define, field, frozen

from adepoll.emulator.jobs import Job, JobPlan, Outcome, Profile
from adepoll.emulator.listing import Listing
from adepoll.emulator.presign import Presigner
from adepoll.emulator.results import ResultBody, build_result
from adepoll.models import JobStatus, Json

INLINE_LIMIT: Final = 1_000_000
"""The largest result that comes as `data`, in bytes; anything larger is behind `output_url`."""

LATEST_VERSION: Final = "extract-20260314"
_NAMES_OF_LATEST: Final = (None, "", "extract-latest")
_VIOLATION: Final = "'total' is not of type 'string'"
_DEFAULT_FAILURE: Final = "The document could not be processed."


@frozen(kw_only=True)
class Truth:
    """What is really the case with a job, to be compared with what a client found out.

    Attributes:
        job_id: The job.
        received_at: When it arrived, in Unix seconds, with the fraction that the API cuts off.
        finished_at: When it ends or ended, in Unix seconds; ``math.inf`` for never.
        outcome: How it ends.
        result_bytes: Size of the JSON of `data`, in bytes; 0 where there is none.
        result_sha256: SHA-256 of these bytes, in hex; None where there are none, or where
            digests were not asked for.
        gets: How often the job was looked at.
    """

    job_id: str
    received_at: float
    finished_at: float
    outcome: Outcome
    result_bytes: int
    result_sha256: str | None
    gets: int


@define(kw_only=True)
class Traffic:
    """How many requests came, by kind, however they were answered.

    Attributes:
        create: Jobs submitted over HTTP.
        get: Looks at one job.
        list: Pages of the list.
        unauthorized: Requests to the API refused for their key; they count nowhere else.
        result: Requests to the origin of the results.
        leaks: Those among them that carried an `Authorization` or `Cookie` header.
    """

    create: int = 0
    get: int = 0
    list: int = 0
    unauthorized: int = 0
    result: int = 0
    leaks: int = 0


@define(kw_only=True, eq=False)
class World:
    """All jobs of one organisation.

    Attributes:
        clock: Gives Unix seconds, with a fraction. Where it goes back, the world stands still.
        seed: Everything random follows from it.
        profile: How jobs without a plan are drawn.
        org_id: The organisation.
        results_origin: Scheme, host and port that `output_url` points to.
        traffic: The requests so far.
        presigner: Signs and checks every `output_url`.
    """

    clock: Callable[[], float]
    seed: int = 0
    profile: Profile = Factory(Profile)
    org_id: str = "org-emulated"
    results_origin: str = "https://results.invalid"
    traffic: Traffic = field(init=False, factory=Traffic)
    presigner: Presigner = field(init=False)
    _rng: random.Random = field(init=False)
    _now: float = field(init=False, default=-math.inf)
    _jobs: dict[str, Job] = field(init=False, factory=dict)
    _listing: Listing = field(init=False, factory=Listing)

    @_rng.default
    def _seed_rng(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311 - reproducible, not secret

    @presigner.default
    def _make_presigner(self) -> Presigner:
        # A generator of its own, so that signing does not shift what is drawn for the jobs.
        rng = random.Random(f"{self.seed}/presigner")  # noqa: S311 - it guards nothing
        return Presigner(
            secret=rng.randbytes(32),
            access_key=f"ASIA{rng.getrandbits(64):016X}",
            session_token=f"{rng.getrandbits(256):064x}/+==",
        )

    def now(self) -> float:
        """Give the time of the world, in Unix seconds; it never goes back."""
        self._now = max(self._now, self.clock())
        return self._now

    def submit(
        self,
        plan: JobPlan | None = None,
        *,
        job_id: str | None = None,
        received_at: float | None = None,
        schema: Json = None,
        filename: str = "document.md",
        model: str | None = None,
    ) -> str:
        """Take a job in and give its id.

        Args:
            plan: What will happen to it; drawn from the profile when None.
            job_id: Its id; a UUID drawn from the seed when None.
            received_at: When it arrives, in Unix seconds; now when None. Until a time to come, the
                job is not found and not listed.
            schema: The JSON schema that the extraction should look like, parsed.
            filename: The document's name.
            model: The model asked for.

        Raises:
            ValueError: There is a job of that id already.
        """
        if job_id is None:
            job_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        if job_id in self._jobs:
            raise ValueError(f"job_id {job_id!r} is taken")
        job = Job(
            job_id=job_id,
            received_at=self.now() if received_at is None else received_at,
            number=len(self._jobs),
            plan=self.profile.draw(self._rng) if plan is None else plan,
            version=LATEST_VERSION if model in _NAMES_OF_LATEST else str(model),
            filename=filename,
            schema=schema,
        )
        self._jobs[job_id] = job
        self._listing.add(job)
        return job_id

    def job(self, job_id: str) -> tuple[int, Json]:
        """Answer GET of one job: the HTTP status, and the body as parsed JSON."""
        status, body = self.job_json(job_id)
        return status, json.loads(body)

    def job_json(self, job_id: str) -> tuple[int, bytes]:
        """Answer GET of one job: 200, 206 or 404, and the body as JSON."""
        self.traffic.get += 1
        job = self._jobs.get(job_id)
        now = self.now()
        status = None if job is None else job.status_at(now)
        if job is None or status is None:
            return 404, b'{"detail":"Job ID not found"}'
        job.gets += 1
        received_at = int(job.received_at)
        body: dict[str, Json] = {
            "job_id": job_id,
            "status": status.value,
            "received_at": received_at,
            "progress": 1.0 if status is JobStatus.COMPLETED else 0.0,
            "created_at": received_at,
            "org_id": self.org_id,
            "version": None,
            "output_url": None,
            "metadata": None,
            "failure_reason": _failure_reason(job, status),
        }
        if status is not JobStatus.COMPLETED:
            return 200, _dump(body | {"data": None})
        body["version"] = job.version
        body["metadata"] = self._metadata(job)
        result = self._result(job)
        http_status = 206 if job.plan.outcome is Outcome.NONCONFORMANT else 200
        if result.size > INLINE_LIMIT:
            body["output_url"] = self.presigner.presign(
                origin=self.results_origin, raw_path=self.result_path(job_id), now=now
            )
            return http_status, _dump(body | {"data": None})
        # The bytes of the result go in as they are: parsing up to 1 MB to dump it again is slow.
        return http_status, _dump(body)[:-1] + b',"data":' + result.read() + b"}"

    def page(self, *, page: int = 0, page_size: int = 10, status: JobStatus | None = None) -> Json:
        """Answer GET of the list, newest first: the body as parsed JSON.

        Args:
            page: From 0.
            page_size: 1 to 100.
            status: Only jobs that stand there; None for all.
        """
        self.traffic.list += 1
        now = self.now()
        self._listing.catch_up(now)
        jobs, has_more = self._listing.newest(skip=page * page_size, count=page_size, status=status)
        return {
            "jobs": [_summary(job, job.status_at(now)) for job in jobs],
            "org_id": self.org_id,
            "has_more": has_more,
        }

    def result(self, job_id: str) -> ResultBody | None:
        """Give the result that a job has or will have; None for one that ends without.

        Raises:
            KeyError: There is no such job.
        """
        job = self._jobs[job_id]
        return self._result(job) if job.plan.outcome.has_result else None

    def result_path(self, job_id: str) -> str:
        """Give the raw path of the result of a job, at the origin of the results.

        It holds a blank, a plus and an escaped plus, for clients that quote it anew.
        """
        job_part = quote(job_id, safe="")
        return f"/ade-results/{self.org_id}/extract%20jobs/{job_part}/data+v1%2Bfull.json"

    def result_at(self, raw_path: str) -> ResultBody | None:
        """Give the result stored at that raw path; None where there is none (yet)."""
        job_id = unquote(raw_path.rpartition("/")[0].rpartition("/")[2])
        job = self._jobs.get(job_id)
        if job is None or raw_path != self.result_path(job_id):
            return None
        if job.status_at(self.now()) is not JobStatus.COMPLETED:
            return None
        result = self._result(job)
        return result if result.size > INLINE_LIMIT else None

    def truth(self, job_id: str) -> Truth:
        """Tell what is really the case with a job, its digest included.

        Raises:
            KeyError: There is no such job.
        """
        return self._truth(self._jobs[job_id], digest=True)

    def truths(self, *, digests: bool = False) -> Iterator[Truth]:
        """Tell what is the case with all jobs, in the order of submission.

        Args:
            digests: Whether to work out the SHA-256 of every result, which reads them all.
        """
        for job in [*self._jobs.values()]:
            yield self._truth(job, digest=digests)

    def _truth(self, job: Job, *, digest: bool) -> Truth:
        result = self._result(job) if job.plan.outcome.has_result else None
        return Truth(
            job_id=job.job_id,
            received_at=job.received_at,
            finished_at=job.finished_at,
            outcome=job.plan.outcome,
            result_bytes=0 if result is None else result.size,
            result_sha256=result.sha256() if result is not None and digest else None,
            gets=job.gets,
        )

    def _result(self, job: Job) -> ResultBody:
        if job.result is not None:
            return job.result
        result = build_result(
            seed=self.seed,
            job_id=job.job_id,
            size=job.plan.result_bytes,
            metadata=self._metadata(job),
            schema=job.schema,
        )
        if result.size > INLINE_LIMIT:
            # Large ones are read in many ranges. Small ones are not kept, so that many are cheap.
            job.result = result
        return result

    def _metadata(self, job: Job) -> dict[str, Json]:
        violation = _VIOLATION if job.plan.outcome is Outcome.NONCONFORMANT else None
        seconds = job.plan.processing_time
        return {
            "filename": job.filename,
            "org_id": self.org_id,
            "duration_ms": round(seconds * 1_000) if seconds < math.inf else 0,
            "credit_usage": round(1 + job.plan.result_bytes / 100_000, 1),
            "job_id": job.job_id,
            "version": job.version,
            "schema_violation_error": violation,
            "fallback_model_version": None,
            "warnings": []
            if violation is None
            else [{"code": "nonconformant_schema", "msg": violation}],
        }


def _summary(job: Job, status: JobStatus | None) -> dict[str, Json]:
    if status is None:
        raise AssertionError("a job that is listed has arrived")
    received_at = int(job.received_at)
    return {
        "job_id": job.job_id,
        "status": status.value,
        "received_at": received_at,
        "progress": 1.0 if status is JobStatus.COMPLETED else 0.0,
        "created_at": received_at,
        "failure_reason": _failure_reason(job, status),
    }


def _failure_reason(job: Job, status: JobStatus) -> str | None:
    if status is not JobStatus.FAILED:
        return None
    return _DEFAULT_FAILURE if job.plan.failure_reason is None else job.plan.failure_reason


def _dump(body: dict[str, Json]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
