"""What limits the requests of the model test: a semaphore of the user, the budget of a client."""

import asyncio
from contextlib import nullcontext

from attrs import evolve, frozen

from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender


@frozen(kw_only=True)
class BudgetedSource:
    """A source behind the request budget of a client; it has the methods that a client has.

    Attributes:
        source: The source.
        sender: Sends its requests.
        slot: Held during each request.
    """

    source: object
    sender: RequestSender
    slot: object = nullcontext()

    @classmethod
    def make(cls, source, *, max_rate, rng):
        limiter = RateLimiter(max_rate=max_rate, rng=rng)
        return cls(source=source, sender=RequestSender(limiter, rng=rng))

    def for_polling(self, slot):
        return evolve(self, slot=slot)

    def service_time(self):
        return getattr(self.source, "service_time", lambda: None)()

    async def get_job(self, job_id):
        return await self.sender.call_once(
            lambda _at: self.source.get_job(job_id), semaphore=self.slot
        )

    async def list_jobs(self, **query):
        return await self.sender.call_once(
            lambda _at: self.source.list_jobs(**query), semaphore=self.slot
        )


class CountingSemaphore(asyncio.Semaphore):
    """A user's semaphore that knows how many hold it, and compares that with the requests."""

    def __init__(self, value):
        super().__init__(value)
        self.places = value
        self.held = 0
        self.in_flight = 0
        self.saturated = []

    async def acquire(self):
        await super().acquire()
        self.held += 1
        return True

    def release(self):
        self.held -= 1
        super().release()

    def check(self, service):
        if self.held != self.in_flight:
            service.violate(f"3: {self.held} hold the semaphore of {self.in_flight} requests")

    @property
    def full(self):
        return self.held >= self.places
