"""The truth about a world, to be compared with what a client found out: ``ade.truth``."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import attrs
from attrs import frozen

from adepoll.api.models import Json
from adepoll.emulator.ledger import EarlyRequest, Leak, Traffic, Truth
from adepoll.emulator.world import World


@frozen
class TruthTeller:
    """Tells what really happened: ``truth(job_id)`` of one job, the rest as attributes.

    Attributes:
        world: Which world.
    """

    world: World

    def __call__(self, job_id: str) -> Truth:
        """Tell what is really the case with a job, its digest included.

        Raises:
            KeyError: There is no such job.
        """
        return self.world.truth(job_id)

    def jobs(self, *, digests: bool = False) -> Iterator[Truth]:
        """Tell what is the case with all jobs, in the order of submission.

        Args:
            digests: Whether to work out the SHA-256 of every result, which reads them all.
        """
        return self.world.truths(digests=digests)

    @property
    def requests(self) -> Traffic:
        """How many requests came, by kind; those of one job are in its own truth."""
        return self.world.traffic

    @property
    def early(self) -> int:
        """How many requests came though a `Retry-After` had asked to wait.

        Not counted are those that arrived so soon after it that they were on their way.
        """
        return self.world.ledger.early

    @property
    def early_requests(self) -> Sequence[EarlyRequest]:
        """The first thousand of them."""
        return tuple(self.world.ledger.first_early)

    @property
    def leaks(self) -> Sequence[Leak]:
        """The keys and cookies that were seen at the origin of the results; the first thousand."""
        return tuple(self.world.ledger.first_leaks)

    @property
    def refused(self) -> Counter[int]:
        """How many requests were refused by a fault, by HTTP status."""
        return Counter(self.world.ledger.statuses)

    @property
    def faults(self) -> Counter[str]:
        """How often each fault has met a request, by its name."""
        return Counter(self.world.faults.counts)

    def as_json(self, *, digests: bool = False) -> Json:
        """Give all of it as ``GET /_emulator/truth`` does; see `jobs` for `digests`."""
        requests = attrs.asdict(self.requests)
        leaks = requests.pop("leaks")
        return {
            "jobs": [_plain(job) for job in self.jobs(digests=digests)],
            "requests": requests,
            "leaks": leaks,
            "leaked": [attrs.asdict(leak) for leak in self.leaks],
            "early": self.early,
            "refused": {str(status): count for status, count in self.refused.items()},
            "faults": dict(self.faults),
        }


def _plain(truth: Truth) -> dict[str, Json]:
    plain = attrs.asdict(truth)
    plain["outcome"] = truth.outcome.value
    if truth.finished_at == math.inf:  # JSON has no infinity
        plain["finished_at"] = None
    return plain
