"""A world as the source of a watcher, in memory: the real codec, no sockets, virtual time.

Imports models, wire and errors of the library.
"""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Final

from attrs import field, frozen

from adepoll import wire
from adepoll.emulator.world import World
from adepoll.errors import AdePollError, JobNotFoundError
from adepoll.models import JobPage, JobSnapshot, JobStatus

EPOCH: Final = 1_750_000_000.0
"""Unix seconds at the beginning of a virtual loop's time."""


def loop_clock(epoch: float = EPOCH) -> Callable[[], float]:
    """Give a clock for a `World`: the time of whichever loop is running, from `epoch` on."""

    def clock() -> float:
        return epoch + asyncio.get_running_loop().time()

    return clock


def _default_rng() -> random.Random:
    return random.Random(0)  # noqa: S311 - reproducible, not secret


@frozen(kw_only=True)
class WorldSource:
    """Answers looks at a world as a client would: a `JobSource` without a network.

    A look takes a simulated latency, and sees the world as it is in the middle of it.

    Attributes:
        world: What is looked at; in a virtual loop its clock is a `loop_clock`.
        latency: Shortest and longest latency, in seconds; uniform between.
        rng: Draws the latencies.
        failures: Asked in the middle of every look with the job id, None for a list; an error it
            gives is raised in place of an answer.
    """

    world: World
    latency: tuple[float, float] = (0.02, 0.2)
    rng: random.Random = field(factory=_default_rng, repr=False)
    failures: Callable[[str | None], AdePollError | None] | None = field(default=None, repr=False)

    async def get_job(self, job_id: str) -> JobSnapshot:
        """Look at one job.

        Raises:
            JobNotFoundError: There is no such job, or it has not arrived yet.
            AdePollError: One that `failures` gave.
        """
        latency = self.rng.uniform(*self.latency)
        await asyncio.sleep(latency / 2)
        self._fail_perhaps(job_id)
        status, body = self.world.job_json(job_id)
        await asyncio.sleep(latency / 2)
        if status == 404:  # noqa: PLR2004 - HTTP
            raise JobNotFoundError(status=status, detail="Job ID not found", job_id=job_id)
        return wire.decode_job(body, conforms=status != 206)  # noqa: PLR2004 - HTTP

    async def list_jobs(
        self, *, page: int = 0, page_size: int = 100, status: JobStatus | None = None
    ) -> JobPage:
        """List one page of jobs, newest first.

        Raises:
            ValueError: `page` or `page_size` is out of range, or nothing can have that `status`.
            AdePollError: One that `failures` gave.
        """
        if page < 0 or not 1 <= page_size <= 100 or status is JobStatus.UNKNOWN:  # noqa: PLR2004 - as documented
            raise ValueError(f"no such page: {page=}, {page_size=}, {status=}")
        latency = self.rng.uniform(*self.latency)
        await asyncio.sleep(latency / 2)
        self._fail_perhaps(None)
        body = json.dumps(self.world.page(page=page, page_size=page_size, status=status))
        await asyncio.sleep(latency / 2)
        return wire.decode_page(body)

    def _fail_perhaps(self, job_id: str | None) -> None:
        if self.failures is not None and (error := self.failures(job_id)) is not None:
            raise error
