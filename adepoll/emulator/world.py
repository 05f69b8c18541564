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

from attrs import Factory, define, field

from adepoll.api.models import JobStatus, Json
from adepoll.emulator import checks
from adepoll.emulator.effects import Endpoint
from adepoll.emulator.faults import Faults
from adepoll.emulator.jobs import Job, JobPlan, Outcome, Profile
from adepoll.emulator.ledger import Ledger, Traffic, Truth
from adepoll.emulator.listing import Listing, ListOrder
from adepoll.emulator.presign import ANY_METHOD, Presigner, Verdict
from adepoll.emulator.results import ResultBody, build_result
from adepoll.emulator.store import Saved, saved_path

INLINE_LIMIT: Final = 1_000_000
"""The largest result that comes as `data`, in bytes; anything larger is behind `output_url`."""

LATEST_VERSION: Final = "extract-20260314"
_NAMES_OF_LATEST: Final = (None, "", "extract-latest")
_VIOLATION: Final = "'total' is not of type 'string'"


@define(kw_only=True, eq=False)
class World:
    """All jobs of one organisation.

    Attributes:
        clock: Gives Unix seconds, with a fraction. Where it goes back, the world stands still.
        seed: Everything random follows from it.
        profile: How jobs without a plan are drawn.
        org_id: The organisation.
        results_origin: Scheme, host and port that `output_url` points to.
        list_order: In which order jobs are listed.
        list_lag: How far the list lags behind the GET of a job, in seconds.
        faults: What goes wrong, and when.
        ledger: What has happened so far.
        saved: The store at the origin of the results that jobs may save to, by raw path.
        presigner: Signs and checks every `output_url`.
    """

    clock: Callable[[], float]
    seed: int = 0
    profile: Profile = Factory(Profile)
    org_id: str = "org-emulated"
    results_origin: str = "https://results.invalid"
    list_order: ListOrder = ListOrder.NEWEST
    list_lag: float = field(default=0.0, validator=checks.finite)
    faults: Faults = field(init=False)
    ledger: Ledger = field(init=False, factory=Ledger)
    saved: dict[str, Saved] = field(init=False, factory=dict, repr=False)
    presigner: Presigner = field(init=False)
    _rng: random.Random = field(init=False)
    _now: float = field(init=False, default=-math.inf)
    _jobs: dict[str, Job] = field(init=False, factory=dict)
    _listing: Listing = field(init=False)
    _expired: set[str] = field(init=False, factory=set)

    @_rng.default
    def _seed_rng(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311 - reproducible, not secret

    @faults.default
    def _make_faults(self) -> Faults:
        return Faults(seed=self.seed, clock=self.now)

    @_listing.default
    def _make_listing(self) -> Listing:
        return Listing(self.list_order, self.seed)

    @presigner.default
    def _make_presigner(self) -> Presigner:
        # A generator of its own, so that signing does not shift what is drawn for the jobs.
        rng = random.Random(f"{self.seed}/presigner")  # noqa: S311 - it guards nothing
        return Presigner(
            secret=rng.randbytes(32),
            access_key=f"ASIA{rng.getrandbits(64):016X}",
            session_token=f"{rng.getrandbits(256):064x}/+==",
        )

    @property
    def traffic(self) -> Traffic:
        """The requests so far, by kind."""
        return self.ledger.traffic

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
        output_save_url: str | None = None,
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
            output_save_url: Where the result is to be PUT; see `save_url`.

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
            output_save_url=output_save_url or None,
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
        now = self.now()
        self.count(Endpoint.GET, job_id)
        job = self._jobs.get(job_id)
        status = None if job is None else job.status_at(now)
        if job is None or status is None:
            return 404, b'{"detail":"Job ID not found"}'
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
            "failure_reason": job.failure_reason_at(now),
        }
        if status is not JobStatus.COMPLETED:
            return 200, _dump(body | {"data": None})
        body["version"] = job.version
        body["metadata"] = self._metadata(job)
        http_status = 206 if job.plan.outcome is Outcome.NONCONFORMANT else 200
        if not job.plan.zero_data_retention:
            body["output_url"] = job.output_save_url
            if body["output_url"] is None:
                result = self._result(job)
                if result.size <= INLINE_LIMIT:
                    # Its bytes go in as they are: parsing up to 1 MB to dump it again is slow.
                    return http_status, _dump(body)[:-1] + b',"data":' + result.read() + b"}"
                body["output_url"] = self.presigner.presign(
                    origin=self.results_origin, raw_path=self.result_path(job_id), now=now
                )
        return http_status, _dump(body | {"data": None})

    def count(self, endpoint: Endpoint, job_id: str | None) -> None:
        """Write down a request; the methods that answer one have done so."""
        self.ledger.request(endpoint, job_id, self.now())
        job = None if job_id is None else self._jobs.get(job_id)
        if job is not None and endpoint is Endpoint.GET:
            job.gets += self._now >= job.received_at
        elif job is not None and endpoint is Endpoint.RESULT:
            job.result_requests += 1

    def page(
        self,
        *,
        page: int = 0,
        page_size: int = 10,
        status: JobStatus | None = None,
        shift: int = 0,
    ) -> Json:
        """Answer GET of the list: the body as parsed JSON.

        Args:
            page: From 0.
            page_size: 1 to 100.
            status: Only jobs that stand there; None for all.
            shift: By how many places the list has moved under the pages.
        """
        self.count(Endpoint.LIST, None)
        now = self._now - self.list_lag
        self._listing.catch_up(now)
        skip = max(page * page_size + shift, 0)
        jobs, has_more = self._listing.page(skip=skip, count=page_size, status=status)
        return {
            "jobs": [job.summary_at(now) for job in jobs],
            "org_id": self.org_id,
            "has_more": has_more,
        }

    def listed(self) -> dict[JobStatus, int]:
        """Give how many jobs a list shows in each status, without a request."""
        self._listing.catch_up(self.now() - self.list_lag)
        return self._listing.counts()

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

    def job_at(self, raw_path: str) -> str | None:
        """Give the id of the job whose result that raw path would be; None where there is none."""
        job_id = unquote(raw_path.rpartition("/")[0].rpartition("/")[2])
        known = job_id in self._jobs and raw_path == self.result_path(job_id)
        return job_id if known else None

    def result_at(self, raw_path: str) -> ResultBody | Saved | None:
        """Give what is stored at that raw path; None where there is nothing (yet)."""
        if (job_id := self.job_at(raw_path)) is None:
            return self.saved.get(raw_path)
        job = self._jobs[job_id]
        kept = job.output_save_url is None and not job.plan.zero_data_retention
        if not kept or job.status_at(self.now()) is not JobStatus.COMPLETED:
            return None
        result = self._result(job)
        return result if result.size > INLINE_LIMIT else None

    def replace_result(self, job_id: str) -> None:
        """Store another result of the same size in the place of a job's, for good.

        Raises:
            KeyError: There is no such job.
        """
        job = self._jobs[job_id]
        job.version_of_result += 1
        job.result = None

    def save_url(self, name: str, *, readable: bool = False) -> str:
        """Presign an `output_save_url` in the store at the origin of the results.

        Args:
            name: The object's name in the store.
            readable: Whether the URL is good for reading, too. S3 presigns for one method alone,
                so that a URL to PUT to answers 403 to a GET; other stores can do both.
        """
        method = ANY_METHOD if readable else "PUT"
        return self.presigner.presign(
            origin=self.results_origin, raw_path=saved_path(name), now=self.now(), method=method
        )

    def to_be_saved(self, job_id: str) -> tuple[str, ResultBody] | None:
        """Give where the result of a job is to be PUT, and the result; None where nowhere, yet."""
        job = self._jobs.get(job_id)
        if (
            job is None
            or job.output_save_url is None
            or job.save_status is not None
            or job.status_at(self.now()) is not JobStatus.COMPLETED
        ):
            return None
        return job.output_save_url, self._result(job)

    def note_saved(self, job_id: str, status: int) -> None:
        """Write down how the PUT of a result was answered: its HTTP status, or 0."""
        self._jobs[job_id].save_status = status

    def expire(self, raw_target: str) -> None:
        """Let a presigned URL, given as path and query, expire before its time."""
        self._expired.add(raw_target)

    def judge(self, *, method: str, host: str, raw_target: str) -> Verdict:
        """Judge a request to the origin of the results, as `Presigner.check` does."""
        verdict = self.presigner.check(
            method=method, host=host, raw_target=raw_target, now=self.now()
        )
        expired = verdict is Verdict.VALID and raw_target in self._expired
        return Verdict.EXPIRED if expired else verdict

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
            result_requests=job.result_requests,
            save_status=job.save_status,
        )

    def _result(self, job: Job) -> ResultBody:
        if job.result is not None:
            return job.result
        result = build_result(
            seed=f"{self.seed}/{job.version_of_result}" if job.version_of_result else self.seed,
            job_id=job.job_id,
            size=job.plan.result_bytes,
            metadata=self._metadata(job),
            schema=job.schema,
            modified=min(job.finished_at, self._now),
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


def _dump(body: dict[str, Json]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
