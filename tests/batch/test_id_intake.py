"""How ids are taken into a journal: beside what else it has to write."""

import asyncio

import pytest

from adepoll.api.models import JobStatus
from adepoll.batch.id_intake import IdIntake
from adepoll.batch.progress import RunCounters
from adepoll.emulator import run

LOTS = 3
LOT = 100_000
TAKES = 2.0  # seconds


class SlowJournal:
    """A journal that takes so long for each lot, and notes when."""

    def __init__(self):
        self.added = []

    async def add(self, job_ids):
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(TAKES)
        self.added.append((began, began + TAKES, len(job_ids)))
        return len(job_ids)


async def many():
    for number in range(LOTS * LOT):
        yield f"job-{number}"


async def refuse(error):
    raise AssertionError(error)


@pytest.mark.parametrize("ending", [True, False])
def test_a_journal_busy_with_ids_has_as_much_time_for_what_ends(ending):
    async def main():
        journal, counters = SlowJournal(), RunCounters()

        async def end():
            while ending:
                await asyncio.sleep(0.1)
                counters.settled[JobStatus.COMPLETED] += 1

        ending_task = asyncio.create_task(end())
        await IdIntake(journal, many(), counters, refuse).add_all()
        ending_task.cancel()
        assert sum(count for _, _, count in journal.added) == LOTS * LOT == counters.known
        return [
            later[0] - earlier[1]
            for earlier, later in zip(journal.added, journal.added[1:], strict=False)
        ]

    rests = run(main())
    assert len(rests) >= LOTS - 1
    assert rests == pytest.approx([TAKES if ending else 0.0] * len(rests))


def test_the_first_ids_do_not_wait_for_very_many():
    async def main():
        journal = SlowJournal()
        await IdIntake(journal, many(), RunCounters(), refuse).add_all()
        return [count for _, _, count in journal.added]

    counts = run(main())
    assert counts[0] == 1_000
    assert all(count <= max(1_000, sum(counts[:place])) for place, count in enumerate(counts))
    assert max(counts) == LOT
