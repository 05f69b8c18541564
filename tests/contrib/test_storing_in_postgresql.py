"""50 deploys with a consumer that stores to PostgreSQL: no job is lost or marked wrongly."""

import asyncio
import os
import random
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from deploying import Deploys
from lazyimport import lazy_import
from postgresql import BIN, USER, closed_folder, running_postgresql
from waiting import bounded

from adepoll import AdeClient, Fixed, JobWatcher, UnresolvedJob, repeat_query, store_outcomes
from adepoll.emulator import JobPlan, Outcome

jobstable = lazy_import("jobstable")

DEPLOYS = int(os.environ.get("ADEPOLL_DEPLOYS", "8"))
DOCS = Path(__file__).parents[2] / "docs"

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(BIN is None, reason="PostgreSQL of Debian is not installed"),
]


@pytest.fixture
async def postgresql():
    """A new server."""
    if (folder := closed_folder()) is not None:
        pytest.skip(f"the user {USER!r} of PostgreSQL cannot enter {folder}; set TMPDIR")
    async with running_postgresql() as server:
        yield server


@asynccontextmanager
async def sqlalchemy_table(postgresql):
    engine = jobstable.connect(postgresql.engine_url)

    async def open_ids():
        async with engine.connect() as db:
            return (await db.scalars(jobstable.OPEN)).all()

    async def store(job):
        status = "unresolved" if isinstance(job, UnresolvedJob) else job.status.value
        async with engine.begin() as db:
            await db.execute(jobstable.stored(job.job_id, status))

    yield engine, lambda watcher: store_outcomes(watcher, repeat_query(open_ids, every=0.05), store)
    await engine.dispose()


async def test_fifty_deploys_with_sqlalchemy(postgresql, ade):
    async with sqlalchemy_table(postgresql) as (engine, run):
        await deploy_until_stored(ade, engine, run)


async def test_fifty_deploys_with_the_recipe_for_asyncpg(postgresql, ade):
    (recipe,) = re.findall(
        r"```python\n(import asyncpg\n.*?)```", (DOCS / "workers.md").read_text("utf-8"), re.DOTALL
    )
    names = {}
    exec(recipe, names)  # as it is printed
    async with sqlalchemy_table(postgresql) as (engine, _):
        await deploy_until_stored(
            ade, engine, lambda watcher: names["run"](watcher, postgresql.url)
        )


async def until_none_is_open(engine):
    async with bounded("for all outcomes to be stored"):
        while True:
            async with engine.connect() as db:
                if not (await db.scalars(jobstable.OPEN)).all():
                    return
            await asyncio.sleep(0.05)


async def deploy_until_stored(ade, engine, run):
    endings = [Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED]
    expected = {
        ade.submit(JobPlan(processing_time=0.1 * (n % 50), outcome=endings[n % 3])): endings[n % 3]
        for n in range(60)
    }
    async with engine.begin() as db:
        await db.run_sync(jobstable.Base.metadata.create_all)
        await db.execute(jobstable.added(expected))
    for deploy in range(51):
        async with (
            AdeClient(ade.api_key, base_url=ade.base_url) as client,
            JobWatcher(client, schedule=Fixed(interval=0.05)) as watcher,
        ):
            storing = asyncio.create_task(run(watcher))
            if deploy < 50:
                await asyncio.sleep(0.01 * deploy)
            else:  # a slow machine may have stored only a part of the outcomes until now
                await until_none_is_open(engine)
            await watcher.aclose()  # SIGTERM
            await storing
    async with engine.connect() as db:
        stored = dict((await db.execute(jobstable.ALL)).all())
    assert stored == {job_id: outcome.value for job_id, outcome in expected.items()}


@pytest.mark.timeout(180 + 120 * DEPLOYS)
async def test_processes_that_are_ended_under_load_store_every_outcome(postgresql, ade, tmp_path):
    """`ADEPOLL_DEPLOYS` is their number; `nox -s bench -- deploys` prints the figures."""
    tally = await Deploys(ade, postgresql, tmp_path, random.Random(20)).run(DEPLOYS)
    assert tally.wrong == []
    assert tally.ends.total() == DEPLOYS + 1
    assert tally.stores >= tally.jobs > 0
