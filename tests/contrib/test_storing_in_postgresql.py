"""50 deploys with a consumer that stores to PostgreSQL: no job is lost or marked wrongly."""

import asyncio
import os
import re
import shutil
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from waiting import supervised

from adepoll import AdeClient, Fixed, JobWatcher, UnresolvedJob, repeat_query, store_outcomes
from adepoll.emulator import JobPlan, Outcome

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
DOCS = Path(__file__).parents[2] / "docs"
USER = "nobody"  # PostgreSQL does not run as root
IS_ROOT = os.getuid() == 0

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(BIN is None, reason="PostgreSQL of Debian is not installed"),
]


@pytest.fixture
def folder():
    """A folder of the server's user; pytest's own folders are private to the user of the tests."""
    with TemporaryDirectory(prefix="adepoll-postgresql-") as name:
        if IS_ROOT:
            shutil.chown(name, USER)
        yield Path(name)


@pytest.fixture
async def postgresql(folder):
    """The folder with the socket of a new server."""
    run = partial(
        asyncio.create_subprocess_exec,
        cwd=folder,
        user=USER if IS_ROOT else None,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    data = folder / "data"
    init = await run(BIN / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync")
    assert await init.wait() == 0
    server = await run(BIN / "postgres", "-D", data, "-k", folder, "-h", "", "-F")
    async with supervised(server):
        while not (folder / ".s.PGSQL.5432").exists():  # noqa: ASYNC110 - there is no notification
            await asyncio.sleep(0.05)
        yield folder
        server.terminate()


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "jobs"
    job_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str | None]


@asynccontextmanager
async def sqlalchemy_table(folder):
    engine = create_async_engine(f"postgresql+asyncpg://postgres@/postgres?host={folder}")

    async def open_ids():
        async with engine.connect() as db:
            return (await db.scalars(select(Job.job_id).where(Job.status.is_(None)))).all()

    async def store(job):
        status = "unresolved" if isinstance(job, UnresolvedJob) else job.status.value
        async with engine.begin() as db:
            await db.execute(update(Job).where(Job.job_id == job.job_id).values(status=status))

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
    address = f"postgresql://postgres@/postgres?host={postgresql}"
    async with sqlalchemy_table(postgresql) as (engine, _):
        await deploy_until_stored(ade, engine, lambda watcher: names["run"](watcher, address))


async def deploy_until_stored(ade, engine, run):
    endings = [Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED]
    expected = {
        ade.submit(JobPlan(processing_time=0.1 * (n % 50), outcome=endings[n % 3])): endings[n % 3]
        for n in range(60)
    }
    async with engine.begin() as db:
        await db.run_sync(Base.metadata.create_all)
        await db.execute(Job.__table__.insert(), [{"job_id": job_id} for job_id in expected])
    for deploy in range(50):
        async with (
            AdeClient(ade.api_key, base_url=ade.base_url) as client,
            JobWatcher(client, schedule=Fixed(interval=0.05)) as watcher,
        ):
            storing = asyncio.create_task(run(watcher))
            await asyncio.sleep(0.01 * deploy)
            await watcher.aclose()  # SIGTERM
            await storing
    async with engine.connect() as db:
        stored = dict((await db.execute(select(Job.job_id, Job.status))).all())
    assert stored == {job_id: outcome.value for job_id, outcome in expected.items()}
