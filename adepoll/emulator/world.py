"""The state of the emulated service: its jobs, on an injected clock. Pure and synchronous.

There is no timer: the status of a job is computed from its plan and the current time.
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
from adepoll.emulator import validators
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.faults import Faults
from adepoll.emulator.job_list import JobList, ListOrder
from adepoll.emulator.jobs import Job, JobPlan, JobTruth, Outcome, Profile
from adepoll.emulator.payloads import dump, job_payload, result_metadata, summary_payload
from adepoll.emulator.presigned_urls import ANY_METHOD, Presigner, Verdict
from adepoll.emulator.request_log import RequestLog, Traffic
from adepoll.emulator.results import ResultBody, build_result
from adepoll.emulator.stored_objects import SavedObject, StoredObject, saved_path

INLINE_LIMIT: Final = 1_000_000
"""Largest result sent as `data`, in bytes; larger results are behind `output_url`."""

LATEST_VERSION: Final = "extract-20260314"
_ALIASES_OF_LATEST: Final = (None, "", "extract-latest")


@define(kw_only=True, eq=False)
class World:
    """The jobs of one organisation, and what clients did with them.

    Attributes:
        clock: Returns Unix seconds, with a fraction. While it goes back, the world's time stops.
        seed: Determines everything random.
        profile: Distribution of the jobs without a plan.
        org_id: Id of the organisation.
        results_origin: Scheme, host and port of every `output_url`.
        list_order: Order of the job list.
        list_lag: Seconds by which the list lags behind the GET of a job.
        faults: The active faults.
        request_log: The requests so far.
        saved: Objects saved to the storage, by raw path.
        presigner: Signs and checks every `output_url`.
    """

    clock: Callable[[], float]
    seed: int = 0
    profile: Profile = Factory(Profile)
    org_id: str = "org-emulated"
    results_origin: str = "https://results.invalid"
    list_order: ListOrder = ListOrder.NEWEST
    list_lag: float = field(default=0.0, validator=validators.FINITE)
    faults: Faults = field(init=False)
    request_log: RequestLog = field(init=False, factory=RequestLog)
    saved: dict[str, SavedObject] = field(init=False, factory=dict, repr=False)
    presigner: Presigner = field(init=False)
    _rng: random.Random = field(init=False)
    _now: float = field(init=False, default=-math.inf)
    _jobs: dict[str, Job] = field(init=False, factory=dict)
    _list: JobList = field(init=False)
    _expired: set[str] = field(init=False, factory=set)

    @_rng.default
    def _seed_rng(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311 - reproducible, not secret

    @faults.default
    def _make_faults(self) -> Faults:
        return Faults(seed=self.seed, clock=self.now)

    @_list.default
    def _make_list(self) -> JobList:
        return JobList(self.list_order, self.seed)

    @presigner.default
    def _make_presigner(self) -> Presigner:
        # Its own generator, so that signing does not change what is drawn for the jobs.
        rng = random.Random(f"{self.seed}/presigner")  # noqa: S311 - it guards nothing
        return Presigner(
            secret=rng.randbytes(32),
            access_key=f"ASIA{rng.getrandbits(64):016X}",
            session_token=f"{rng.getrandbits(256):064x}/+==",
        )

    @property
    def traffic(self) -> Traffic:
        """Numbers of requests so far, by endpoint."""
        return self.request_log.traffic

    def now(self) -> float:
        """Return the time of the world, in Unix seconds; it never goes back."""
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
        """Add a job and return its id.

        Args:
            plan: What happens to the job; None to draw it from the profile.
            job_id: Id of the job; None for a UUID drawn from the seed.
            received_at: Arrival, in Unix seconds; None for now. Before a later arrival, the job is
                not found and not listed.
            schema: JSON schema of the extraction, as parsed JSON.
            filename: Name of the document.
            model: Requested model.
            output_save_url: URL to which the result is PUT; see `save_url`.

        Raises:
            ValueError: There is a job with that id already.
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
            version=LATEST_VERSION if model in _ALIASES_OF_LATEST else str(model),
            filename=filename,
            schema=schema,
            output_save_url=output_save_url or None,
        )
        self._jobs[job_id] = job
        self._list.add(job)
        return job_id

    def job(self, job_id: str) -> tuple[int, Json]:
        """Answer a GET of one job: return the HTTP status, and the body as parsed JSON."""
        status, body = self.job_json(job_id)
        return status, json.loads(body)

    def job_json(self, job_id: str) -> tuple[int, bytes]:
        """Answer a GET of one job: return 200, 206 or 404, and the body as JSON."""
        now = self.now()
        self.count(Endpoint.GET, job_id)
        job = self._jobs.get(job_id)
        status = None if job is None else job.status_at(now)
        if job is None or status is None:
            return 404, b'{"detail":"Job ID not found"}'
        body = job_payload(job, now=now, org_id=self.org_id)
        if status is not JobStatus.COMPLETED:
            return 200, dump(body | {"data": None})
        http_status = 206 if job.plan.outcome is Outcome.NONCONFORMANT else 200
        if not job.plan.zero_data_retention:
            body["output_url"] = job.output_save_url
            if body["output_url"] is None:
                result = self._result(job)
                if result.size <= INLINE_LIMIT:
                    # Insert the bytes unchanged: parsing and dumping up to 1 MB again is slow.
                    return http_status, dump(body)[:-1] + b',"data":' + result.read() + b"}"
                body["output_url"] = self.presigner.presign(
                    origin=self.results_origin, raw_path=self.result_path(job_id), now=now
                )
        return http_status, dump(body | {"data": None})

    def count(self, endpoint: Endpoint, job_id: str | None) -> None:
        """Count a request; `job`, `job_json` and `page` do that themselves."""
        self.request_log.record(endpoint, job_id, self.now())
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
        """Answer a GET of the list: return the body as parsed JSON.

        Args:
            page: Page number, from 0.
            page_size: 1 to 100.
            status: Only jobs with this status; None for all.
            shift: Number of places by which the list has moved since the previous page.
        """
        self.count(Endpoint.LIST, None)
        now = self._now - self.list_lag
        self._list.update(now)
        skip = max(page * page_size + shift, 0)
        jobs, has_more = self._list.page(skip=skip, count=page_size, status=status)
        return {
            "jobs": [summary_payload(job, now=now) for job in jobs],
            "org_id": self.org_id,
            "has_more": has_more,
        }

    def listed(self) -> dict[JobStatus, int]:
        """Return the number of listed jobs by status, without counting a request."""
        self._list.update(self.now() - self.list_lag)
        return self._list.counts()

    def result(self, job_id: str) -> ResultBody | None:
        """Return the result that a job has or will have; None if it ends without a result.

        Raises:
            KeyError: There is no such job.
        """
        job = self._jobs[job_id]
        return self._result(job) if job.plan.outcome.has_result else None

    def result_path(self, job_id: str) -> str:
        """Return the raw path of the result of a job in the storage.

        It contains a blank, a plus and an escaped plus, to detect clients that quote a URL again.
        """
        job_part = quote(job_id, safe="")
        return f"/ade-results/{self.org_id}/extract%20jobs/{job_part}/data+v1%2Bfull.json"

    def job_id_at(self, raw_path: str) -> str | None:
        """Return the id of the job whose result belongs at a raw path; None without such a job."""
        job_id = unquote(raw_path.rpartition("/")[0].rpartition("/")[2])
        known = job_id in self._jobs and raw_path == self.result_path(job_id)
        return job_id if known else None

    def object_at(self, raw_path: str) -> StoredObject | None:
        """Return the object at a raw path of the storage; None if there is no object (yet)."""
        if (job_id := self.job_id_at(raw_path)) is None:
            return self.saved.get(raw_path)
        job = self._jobs[job_id]
        kept = job.output_save_url is None and not job.plan.zero_data_retention
        if not kept or job.status_at(self.now()) is not JobStatus.COMPLETED:
            return None
        result = self._result(job)
        return result if result.size > INLINE_LIMIT else None

    def replace_result(self, job_id: str) -> None:
        """Replace the result of a job permanently by another result of the same size.

        Raises:
            KeyError: There is no such job.
        """
        job = self._jobs[job_id]
        job.result_version += 1
        job.result = None

    def save_url(self, name: str, *, readable: bool = False) -> str:
        """Return a presigned `output_save_url` in the storage of large results.

        Args:
            name: Name of the object.
            readable: True for a URL that also allows GET. S3 presigns for one method only, so a
                URL for PUT answers 403 to a GET; other vendors allow both.
        """
        method = ANY_METHOD if readable else "PUT"
        return self.presigner.presign(
            origin=self.results_origin, raw_path=saved_path(name), now=self.now(), method=method
        )

    def pending_save(self, job_id: str) -> tuple[str, ResultBody] | None:
        """Return the URL and the result of a PUT that is due; None if no PUT is due (yet)."""
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
        """Record the HTTP status of the PUT of a result, or 0 if it got no answer."""
        self._jobs[job_id].save_status = status

    def expire(self, raw_target: str) -> None:
        """Make a presigned URL, given as raw path and query, expire immediately."""
        self._expired.add(raw_target)

    def check_signature(self, *, method: str, host: str, raw_target: str) -> Verdict:
        """Check the signature of a request to the storage; see `Presigner.check`."""
        verdict = self.presigner.check(
            method=method, host=host, raw_target=raw_target, now=self.now()
        )
        expired = verdict is Verdict.VALID and raw_target in self._expired
        return Verdict.EXPIRED if expired else verdict

    def truth(self, job_id: str) -> JobTruth:
        """Return the facts about a job, the digest of its result included.

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
        result = self._result(job) if job.plan.outcome.has_result else None
        return JobTruth(
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
            seed=f"{self.seed}/{job.result_version}" if job.result_version else self.seed,
            job_id=job.job_id,
            size=job.plan.result_bytes,
            metadata=result_metadata(job, org_id=self.org_id),
            schema=job.schema,
            modified=min(job.finished_at, self._now),
        )
        if result.size > INLINE_LIMIT:
            # Only large results are read in many ranges; caching every result would cost memory.
            job.result = result
        return result
