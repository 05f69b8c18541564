"""The facts about a world, to compare with what a client found out: `Emulator.truth`."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import attrs
from attrs import frozen

from adepoll.api.models import Json
from adepoll.emulator.jobs import JobTruth
from adepoll.emulator.request_log import EarlyRequest, Leak, Traffic
from adepoll.emulator.world import World


@frozen
class GroundTruth:
    """The facts about a world: ``truth(job_id)`` for one job, attributes for everything else.

    Attributes:
        world: The world.
    """

    world: World

    def __call__(self, job_id: str) -> JobTruth:
        """Return the facts about a job, the digest of its result included.

        Raises:
            KeyError: There is no such job.
        """
        return self.world.truth(job_id)

    def jobs(self, *, digests: bool = False) -> Iterator[JobTruth]:
        """Yield the facts about all jobs, in the order of submission.

        Args:
            digests: True to compute the SHA-256 of every result, which reads all results.
        """
        return self.world.truths(digests=digests)

    @property
    def requests(self) -> Traffic:
        """Numbers of requests by endpoint; `JobTruth` has the numbers for one job."""
        return self.world.traffic

    @property
    def early(self) -> int:
        """Number of requests before the end of a `Retry-After`.

        A request that arrives shortly after the header was sent is not counted, since it may have
        been on its way already.
        """
        return self.world.request_log.early

    @property
    def early_requests(self) -> Sequence[EarlyRequest]:
        """The first 1,000 requests before the end of a `Retry-After`."""
        return tuple(self.world.request_log.first_early)

    @property
    def leaks(self) -> Sequence[Leak]:
        """The first 1,000 keys and cookies that arrived at the storage of large results."""
        return tuple(self.world.request_log.first_leaks)

    @property
    def refused(self) -> Counter[int]:
        """Numbers of requests that a fault refused, by HTTP status."""
        return Counter(self.world.request_log.statuses)

    @property
    def faults(self) -> Counter[str]:
        """Numbers of requests to which a fault applied, by the fault's name."""
        return Counter(self.world.faults.counts)

    def as_json(self, *, digests: bool = False) -> Json:
        """Return all facts as parsed JSON, the body of ``GET /_emulator/truth``.

        Args:
            digests: As for `jobs`.
        """
        requests = attrs.asdict(self.requests)
        leaks = requests.pop("leaks")
        return {
            "jobs": [_as_json(job) for job in self.jobs(digests=digests)],
            "requests": requests,
            "leaks": leaks,
            "leaked": [attrs.asdict(leak) for leak in self.leaks],
            "early": self.early,
            "refused": {str(status): count for status, count in self.refused.items()},
            "faults": dict(self.faults),
        }


def _as_json(truth: JobTruth) -> dict[str, Json]:
    fields = attrs.asdict(truth)
    fields["outcome"] = truth.outcome.value
    if truth.finished_at == math.inf:  # JSON has no infinity
        fields["finished_at"] = None
    return fields
