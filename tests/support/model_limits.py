"""What limits the requests of the model test: a semaphore of the user, the budget of a client."""

import asyncio
from contextlib import nullcontext

from attrs import evolve, field, frozen

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
    def make(cls, source, *, limiter, rng):
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


@frozen(kw_only=True)
class OwnRequests:
    """Requests of the user's own code, which take turns in the budget of the watchers.

    Attributes:
        sender: Sends the requests.
        service: Records a violation when one of them waits for too long.
        rate: Requests per second that the budget allows.
        others: Number of watchers that share the budget.
        excused: True if errors can close the gate, so that any wait is right.
        waiting: Begins of the user's requests that have not ended.
    """

    sender: RequestSender
    service: object
    rate: float
    others: int
    excused: bool
    waiting: list = field(factory=list)

    async def send(self):
        """Send one request, and check how long it waited for its turn."""
        loop = asyncio.get_running_loop()
        began, stopped = loop.time(), len(self.service.stops)
        # Each watcher has up to 4 polls and 8 pages that wait for their turns.
        longest = (12 * self.others + len(self.waiting)) / self.rate + 4.0
        self.waiting.append(began)
        await self.sender.call_once(lambda _at: asyncio.sleep(0.1))
        self.waiting.remove(began)
        waited = loop.time() - began - 0.1
        if not self.excused and len(self.service.stops) == stopped and waited > longest:
            self.service.violate(f"6: a request of the user waits {waited:.1f} s for its turn")


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
