"""The facts about an emulated service, which `Emulator.truth` returns.

A test compares them with what a client has found out.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import attrs
from attrs import frozen

from adepoll.api.models import Json
from adepoll.common.safe_repr import SafeRepr
from adepoll.emulator.jobs import JobTruth
from adepoll.emulator.request_log import EarlyRequest, Leak, Traffic
from adepoll.emulator.world import World


@frozen
class GroundTruth(SafeRepr):
    """The facts about a world: ``truth(job_id)`` for one job, attributes for everything else.

    Attributes:
        world: The world.
    """

    world: World

    def __call__(self, job_id: str) -> JobTruth:
        """Return the facts about a job, including the SHA-256 of its result.

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
        """Numbers of requests by endpoint; `JobTruth` counts the requests for one job."""
        return self.world.traffic

    @property
    def early(self) -> int:
        """Number of requests to the API before the end of a `Retry-After`.

        A request that arrives shortly after the header was sent is not counted, because the client
        may have sent the request before it received the header.
        """
        return self.world.request_log.early

    @property
    def early_requests(self) -> Sequence[EarlyRequest]:
        """The first 1,000 of the requests that `early` counts."""
        return tuple(self.world.request_log.first_early)

    @property
    def leaks(self) -> Sequence[Leak]:
        """The first 1,000 headers with a key or cookie that the storage received."""
        return tuple(self.world.request_log.first_leaks)

    @property
    def refused(self) -> Counter[int]:
        """For each HTTP status, how many requests a fault refused with it."""
        return Counter(self.world.request_log.statuses)

    @property
    def faults(self) -> Counter[str]:
        """For each fault, by its name, to how many requests it applied."""
        return Counter(self.world.faults.counts)

    def as_json(self, *, digests: bool = False) -> Json:
        """Return all facts as parsed JSON, the body of ``GET /_emulator/truth``.

        Args:
            digests: True to include the SHA-256 of every result, which reads all results.
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
    """Return the facts about a job as JSON."""
    fields = attrs.asdict(truth)
    fields["outcome"] = truth.outcome.value
    if truth.finished_at == math.inf:  # JSON has no infinity
        fields["finished_at"] = None
    return fields
