"""A slot is held while a request is on the wire, whatever the source."""

import asyncio

import pytest

from adepoll.api.client import AdeClient
from adepoll.api.models import JobPage, JobStatus
from adepoll.api.source import PollingSource, for_polling


class Plain:
    """Knows nothing of slots."""

    def __init__(self, slot):
        self.slot = slot
        self.seen = []

    async def get_job(self, job_id):
        self.seen.append((job_id, self.slot.locked()))
        if job_id == "bad":
            raise LookupError(job_id)
        return job_id

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        self.seen.append(((page, page_size, status), self.slot.locked()))
        return JobPage(jobs=())


class Slotted(Plain):
    """Waits for its turn first, and holds the slot only then."""

    def for_polling(self, slot):
        return View(self, slot)


class View:
    def __init__(self, source, slot):
        self.source, self.slot = source, slot

    async def get_job(self, job_id):
        await asyncio.sleep(5)
        self.source.seen.append(("waiting", self.slot.locked()))
        async with self.slot:
            return await self.source.get_job(job_id)


def test_a_call_to_a_plain_source_holds_the_slot(replay):
    async def script():
        slot = asyncio.Semaphore(1)
        source = Plain(slot)
        assert await for_polling(source, slot).get_job("one") == "one"
        assert not slot.locked()
        return source.seen

    assert replay(script) == [("one", True)]


def test_a_list_of_a_plain_source_holds_the_slot_and_keeps_its_arguments(replay):
    async def script():
        slot = asyncio.Semaphore(1)
        source = Plain(slot)
        held = for_polling(source, slot)
        await held.list_jobs()
        await held.list_jobs(page=3, page_size=7, status=JobStatus.PENDING)
        assert not slot.locked()
        return source.seen

    assert replay(script) == [((0, 100, None), True), ((3, 7, JobStatus.PENDING), True)]


def test_an_error_gives_the_slot_back(replay):
    async def script():
        slot = asyncio.Semaphore(1)
        with pytest.raises(LookupError):
            await for_polling(Plain(slot), slot).get_job("bad")
        assert not slot.locked()

    replay(script)


def test_a_cancelled_call_gives_the_slot_back(replay, scripted):
    async def script():
        slot = asyncio.Semaphore(1)
        call = asyncio.create_task(for_polling(scripted(), slot).get_job("one"))
        await asyncio.sleep(0.05)
        assert slot.locked()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert not slot.locked()

    replay(script)


def test_a_source_that_knows_of_slots_decides_itself_when_it_holds_one(replay):
    async def script():
        slot = asyncio.Semaphore(1)
        source = Slotted(slot)
        await for_polling(source, slot).get_job("one")
        return source.seen

    assert replay(script) == [("waiting", False), ("one", True)]


def test_the_client_knows_of_slots():
    assert isinstance(AdeClient("key"), PollingSource)
    assert not isinstance(Plain(None), PollingSource)
