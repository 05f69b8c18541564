"""Batches against an emulator over HTTP: one service, one journal, one folder, and many runs."""

import asyncio

import attrs
from internals import end_now

from adepoll import AdeClient, Batch, RetryPolicy
from adepoll.emulator import JobPlan
from adepoll.journal import JournalReader

LARGE = 1_050_000
NEVER = float("inf")


@attrs.define(kw_only=True)
class Scene:
    """Where batches run: a service, who asks it, and where journal and results lie.

    Attributes:
        grace: Seconds after which jobs are given up that the service does not know; None for the
            default.
    """

    ade: object
    client: AdeClient
    journal: object
    out_dir: object
    grace: float | None = None

    def submit(self, job_id=None, **plan):
        return self.ade.submit(JobPlan(**plan), job_id=job_id)

    def end(self, job_id):
        """Have a job end now that would never."""
        end_now(self.ade.world, job_id)

    def many(self, count, **plan):
        return [self.submit(**plan) for _ in range(count)]

    def batch(self, **options):
        given = {"journal": self.journal, "out_dir": self.out_dir}
        if self.grace is not None:
            given |= {"not_found_grace": self.grace, "patience": self.grace}
        return Batch(self.client, **(given | options))

    async def run(self, job_ids=(), *, timeout=None, replay=False, **options):  # noqa: ASYNC109 - it is the run's
        """Give all outcomes of one run of a batch of its own, by job id; each came once."""
        async with self.batch(**options) as batch:
            return await gather(batch.run(job_ids, timeout=timeout, replay=replay))

    @property
    def requests(self):
        """How often the service and the storage were asked so far."""
        traffic = self.ade.world.traffic
        return traffic.get + traffic.list + traffic.result

    def records(self):
        """Give what the journal holds now, as another connection sees it, by job id."""
        with JournalReader(self.journal) as reader:
            return {record.job_id: record for record in reader.records()}

    def path(self, job_id):
        return self.out_dir / f"{job_id}.json"

    def truth(self, job_id):
        return self.ade.world.result(job_id).read()

    def leftovers(self):
        """Give the names in the folder that are no results."""
        return sorted(p.name for p in self.out_dir.iterdir() if p.name.startswith("."))


async def gather(run):
    """Give all outcomes of a run, by job id; each came once."""
    found = {}
    async for outcome in run:
        assert outcome.job_id not in found
        found[outcome.job_id] = outcome
    return found


async def gather_until(run, error):
    """Give the outcomes that a run tells before an error of that class ends it, and the error."""
    told = {}
    try:
        async for outcome in run:
            assert outcome.job_id not in told
            told[outcome.job_id] = outcome
    except error as caught:
        assert await anext(run, None) is None  # it is told once
        return told, caught
    raise AssertionError(f"ended without {error}")


async def until(condition):
    """Wait until something is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - of a batch as its user sees it, who has no event
            await asyncio.sleep(0.002)


def make_client(ade, **options):
    retry = RetryPolicy(attempts=3, base=0.001, max_wait=0.001)
    given = {"api_key": ade.api_key, "base_url": ade.base_url, "retry": retry}
    return AdeClient(**(given | options))
