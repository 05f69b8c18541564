"""Batches that are stopped at random moments, with faults, slow consumers and lost files.

Each seed draws its own jobs, faults and stops. `nox -s thorough` runs four seeds, or as many as
`ADEPOLL_BATCH_SEEDS` says; the name of a failing test contains its seed.
"""

import asyncio
from random import Random

import pytest
from amounts import seeds
from batching import Scene, make_client

from adepoll.emulator import Emulator, JobPlan
from adepoll.emulator import Outcome as Ends
from adepoll.errors import AdePollError, JobNotFoundError, ResultUnavailableError
from adepoll.journal.outcomes import RecordedError

SEEDS = seeds("ADEPOLL_BATCH_SEEDS", default=range(1), most=4)
RUNS = 30
FAULTS = [
    ("server-error", ["get", "list", "result"]),
    ("reset-in-body", ["get", "result"]),
    ("truncated", ["get", "result"]),
    ("invalid-json", ["get"]),
    ("latency", ["get", "result"]),
]
LASTING = {JobNotFoundError.__name__, ResultUnavailableError.__name__}


class Storm:
    """The jobs and faults of one seed, and the outcomes delivered so far."""

    def __init__(self, seed, scene):
        self.rng = Random(seed)
        self.scene = scene
        self.job_ids = [self.draw_job() for _ in range(40)] + ["unknown-1", "unknown-2"]
        self.acknowledged = set()  # jobs with a final outcome that was acknowledged
        # Jobs with a final outcome, perhaps not acknowledged, or with a file lost afterwards.
        self.perhaps = set()
        self.delivered = 0

    def draw_job(self):
        rng = self.rng
        plan = JobPlan(
            processing_time=rng.choice([0.0, 0.0, 0.1, 0.4, 1.0]),
            result_bytes=rng.choice([2_000, 50_000, 1_050_000, 3_000_000]),
            outcome=rng.choice([*Ends, Ends.COMPLETED, Ends.COMPLETED]),
            zero_data_retention=rng.random() < 0.05,
        )
        return self.scene.ade.submit(plan)

    def draw_faults(self):
        self.scene.ade.faults.clear()
        for name, endpoints in FAULTS:
            options = {"shape": "exponential", "median": 0.02} if name == "latency" else {}
            if self.rng.random() < 0.5:
                chance = self.rng.choice([0.05, 0.3])
                self.scene.ade.faults.add(name, endpoints=endpoints, chance=chance, **options)

    def harm_a_file(self):
        files = sorted(self.scene.out_dir.glob("*.json"))
        if files and self.rng.random() < 0.3:
            file = self.rng.choice(files)
            file.unlink()
            if file.stem in self.acknowledged:  # its outcome must be delivered again
                self.acknowledged.discard(file.stem)
                self.perhaps.add(file.stem)

    def check(self, outcome):
        assert outcome.job_id not in self.acknowledged, "delivered again after acknowledgement"
        self.delivered += 1
        if outcome.file is not None:
            held = outcome.file.path.read_bytes()
            assert held == self.scene.truth(outcome.job_id)

    async def consume(self, batch):
        """Take outcomes slowly or quickly; return True if the run ended before it was left."""
        leave_after = self.rng.choice([1, 3, 10, 100])
        pause = self.rng.choice([0.0, 0.0, 0.02])
        in_hand = None
        run = batch.run(self.rng.sample(self.job_ids, k=len(self.job_ids)))
        for _ in range(leave_after):
            if in_hand is not None and is_final(in_hand):
                self.perhaps.add(in_hand.job_id)
            try:
                outcome = await anext(run)
            except StopAsyncIteration:
                outcome = None
            if in_hand is not None and is_final(in_hand):
                self.perhaps.discard(in_hand.job_id)
                self.acknowledged.add(in_hand.job_id)
            if outcome is None:
                return True
            self.check(outcome)
            in_hand = outcome
            await asyncio.sleep(pause)
        return False


def is_final(outcome):
    error = outcome.error
    kind = error.error_class if isinstance(error, RecordedError) else type(error).__name__
    return error is None or kind in LASTING


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_job_has_one_outcome_although_its_batch_is_stopped_often(tmp_path, seed):
    async with Emulator(seed=seed) as ade, make_client(ade) as client:
        journal, out_dir = tmp_path / "batch.db", tmp_path / "results"
        scene = Scene(ade=ade, client=client, journal=journal, out_dir=out_dir, grace=0.5)
        storm = Storm(seed, scene)
        for _ in range(RUNS):
            storm.draw_faults()
            storm.harm_a_file()
            window, downloads = storm.rng.choice([1, 5, 1_000]), storm.rng.choice([1, 8])
            batch = scene.batch(window=window, downloads=downloads)
            async with asyncio.timeout(60), batch:
                consuming = asyncio.create_task(storm.consume(batch))
                await asyncio.wait([consuming], timeout=storm.rng.expovariate(5.0))
                consuming.cancel()
                await asyncio.wait([consuming])
                if not consuming.cancelled() and (error := consuming.exception()) is not None:
                    assert isinstance(error, AdePollError), error
                    raise error
        ade.faults.clear()
        for _ in range(5):  # the next run tries again what a fault has interrupted
            async for outcome in once(scene):
                storm.check(outcome)
                if is_final(outcome):
                    storm.perhaps.discard(outcome.job_id)
                    storm.acknowledged.add(outcome.job_id)
        assert storm.acknowledged | storm.perhaps == set(storm.job_ids)
        records = scene.records()
        assert set(records) == set(storm.job_ids)
        assert all(record.delivered_at for record in records.values())
        for job_id in storm.job_ids:
            has_file = records[job_id].file is not None
            assert has_file == scene.path(job_id).exists()
            if has_file:
                assert scene.path(job_id).read_bytes() == scene.truth(job_id)
        assert scene.leftovers() == []
        assert not ade.truth.leaks


async def once(scene):
    async with scene.batch() as batch:
        async for outcome in batch.run():
            yield outcome
