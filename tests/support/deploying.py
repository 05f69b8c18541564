"""Deploys of a server that stores outcomes in PostgreSQL: signals under load, and what was stored.

Each deploy is a real uvicorn process (`storing_server`), which a signal ends at a random moment:
while it starts, or while clients wait for jobs. Some are killed, some overlap with the next.
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import asyncpg
import attrs
from ports import free_port
from waiting import LONGEST, bounded, supervised, until

from adepoll.api.config import API_KEY_VARIABLE, BASE_URL_VARIABLE
from adepoll.emulator import JobPlan, Outcome

CLIENTS = 30
JOBS = 40  # number of jobs for each deploy
LONGEST_JOB = 6.0  # maximum duration of a job in seconds
LONGEST_DEPLOY = 2.5  # maximum seconds until a process gets its signal
STORED_BYTES = 1_200_000  # size of a result that is at a URL
SUPPORT = Path(__file__).parent
WARNINGS = ("Traceback", "Task was destroyed", "never retrieved", "never awaited", "Unclosed")
TABLES = """
CREATE TABLE jobs (job_id text PRIMARY KEY, status text, reason text, result bytea);
CREATE TABLE stores (job_id text, status text, at double precision);
CREATE FUNCTION note_store() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO stores VALUES (NEW.job_id, NEW.status, extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION note_store();
"""


@attrs.define
class Tally:
    """What the deploys have come to.

    Attributes:
        jobs: Number of jobs.
        ends: Numbers of processes by how they were ended.
        answers: Numbers of answers to clients, by status or by the name of the error.
        wrong: Everything that should not be: jobs lost or marked wrongly, answers, warnings.
        stores: Number of stores.
        again: Number of stores of a job whose outcome was stored before.
        open_at_end: Number of jobs without a stored outcome at each end of a process.
        longest_end: Longest time from SIGTERM to the end of a process, in seconds.
    """

    jobs: int = 0
    ends: Counter = attrs.field(factory=Counter)
    answers: Counter = attrs.field(factory=Counter)
    wrong: list = attrs.field(factory=list)
    stores: int = 0
    again: int = 0
    open_at_end: list = attrs.field(factory=list)
    longest_end: float = 0.0


@attrs.frozen
class Server:
    """A server process.

    Attributes:
        process: The process.
        url: URL of the server.
        log: File with the stderr of the process.
        breaks: Number of restarts of the database before the process started.
    """

    process: asyncio.subprocess.Process
    url: str
    log: Path
    breaks: int


@attrs.frozen
class Ending:
    """How one deploy ends.

    Attributes:
        signal: Name of the signal.
        is_starting: True if the process has not begun to serve.
        after: Seconds until the signal, from the start of the process if `is_starting`, otherwise
            from the moment at which the process serves.
        overlap: Seconds for which the process still runs when the process of the next deploy
            serves.
        breaks_database: True if the database is restarted before the signal.
    """

    signal: str
    is_starting: bool
    after: float
    overlap: float
    breaks_database: bool


def draw_ending(rng):
    """Return a random end of a deploy."""
    return Ending(
        signal="SIGKILL" if rng.random() < 0.25 else "SIGTERM",
        is_starting=rng.random() < 0.15,
        after=rng.uniform(0.0, LONGEST_DEPLOY),
        overlap=rng.choice((0.0, 0.0, rng.uniform(0.5, 4.0))),
        breaks_database=rng.random() < 0.1,
    )


def draw_plan(rng):
    """Return a random plan of a job."""
    return JobPlan(
        processing_time=rng.uniform(0.0, LONGEST_JOB),
        outcome=rng.choices(list(Outcome), weights=[80, 5, 10, 5])[0],
        result_bytes=STORED_BYTES if rng.random() < 0.1 else 4_000,
    )


@attrs.define
class Deploys:
    """Deploys of one server, its database and its clients.

    Attributes:
        ade: The emulator.
        database: The `PostgreSQL`.
        folder: Folder for the logs of the processes.
        rng: Random numbers.
        tally: The counts of all deploys.
    """

    ade: object
    database: object
    folder: Path
    rng: object
    tally: Tally = attrs.field(factory=Tally)
    pool: object = attrs.field(init=False)
    job_ids: list = attrs.field(init=False, factory=list)
    url: str | None = attrs.field(init=False, default=None)  # URL for the clients
    breaks: int = attrs.field(init=False, default=0)  # number of restarts of the database

    async def run(self, deploys):
        """Run this number of deploys, then let one process finish all jobs; return the tally."""
        async with (
            asyncpg.create_pool(self.database.url, min_size=0) as self.pool,
            asyncio.TaskGroup() as tasks,
        ):
            await self.pool.execute(TABLES)
            clients = [tasks.create_task(self.ask()) for _ in range(CLIENTS)]
            for number in range(deploys):
                await self.submit()
                next_may_start = asyncio.Event()
                tasks.create_task(self.deploy(number, draw_ending(self.rng), next_may_start))
                await next_may_start.wait()
            async with self.server(deploys) as server:
                await self.started(server)
                async with bounded("for all outcomes to be stored", 120):
                    while await self.open_jobs():  # noqa: ASYNC110 - nothing tells when
                        await asyncio.sleep(0.2)
                await self.end(server, "SIGTERM")
            for client in clients:
                client.cancel()
            await self.compare()
        return self.tally

    async def deploy(self, number, ending, next_may_start):
        """Run one process, and end it."""
        async with self.server(number) as server:
            if ending.is_starting:
                await asyncio.sleep(ending.after)
            else:
                await self.started(server)
                await asyncio.sleep(ending.after)
                if ending.breaks_database:
                    self.breaks += 1
                    await self.database.crash()
                    await self.database.start()
                if ending.overlap:
                    next_may_start.set()
                    await until(lambda: self.url != server.url, longest=LONGEST)
                    await asyncio.sleep(ending.overlap)
            await self.end(server, ending.signal, while_starting=ending.is_starting)
        self.tally.open_at_end.append(await self.open_jobs())
        next_may_start.set()

    @asynccontextmanager
    async def server(self, number):
        """Start a process; yield it before it serves."""
        port = free_port()
        log = self.folder / f"{number}.log"
        environment = {
            API_KEY_VARIABLE: self.ade.api_key,
            BASE_URL_VARIABLE: self.ade.base_url,
            "DATABASE": self.database.engine_url,
        }
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-X", "dev", "-m", "uvicorn", "--app-dir", SUPPORT),
                *("storing_server:app", "--port", str(port), "--log-level", "warning"),
                *("--timeout-graceful-shutdown", "4"),
                env=os.environ | environment,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
            )
        async with supervised(process):
            yield Server(process, f"http://127.0.0.1:{port}", log, self.breaks)

    async def started(self, server):
        """Wait until a process serves, then direct the clients to it."""
        async with aiohttp.ClientSession(server.url) as http:
            while server.process.returncode is None:
                with suppress(aiohttp.ClientError):
                    async with http.get("/live"):
                        break
                await asyncio.sleep(0.05)
        self.url = server.url

    async def end(self, server, name, *, while_starting=False):
        """Send a signal, wait for the end of the process, and check its exit code and its log."""
        if server.process.returncode is None:
            server.process.send_signal(getattr(signal, name))
        began = time.monotonic()
        code = await server.process.wait()
        if self.url == server.url:
            self.url = None
        self.tally.ends[f"{name} while starting" if while_starting else name] += 1
        if name == "SIGKILL":
            return
        self.tally.longest_end = max(self.tally.longest_end, time.monotonic() - began)
        if code not in {0, -signal.SIGTERM}:
            self.tally.wrong.append(f"{server.log.name}: ended with {code}")
        if server.breaks == self.breaks and not while_starting:
            log = server.log.read_text("utf-8", "replace")
            self.tally.wrong += [f"{server.log.name}: {word}" for word in WARNINGS if word in log]

    async def ask(self):
        """Act as a client: request the status or the events of one job after another."""
        async with aiohttp.ClientSession() as http:
            while True:
                if not (self.url and self.job_ids):
                    await asyncio.sleep(0.05)
                    continue
                job_id = self.rng.choice(self.job_ids[-2 * JOBS :])
                path = self.rng.choice(("", "/events"))
                try:
                    async with http.get(f"{self.url}/jobs/{job_id}{path}") as response:
                        body = await response.read()
                except aiohttp.ClientError as error:
                    self.tally.answers[type(error).__name__] += 1
                    await asyncio.sleep(0.05)
                    continue
                self.tally.answers[response.status] += 1
                self.check_answer(job_id, path, response.status, body)

    def check_answer(self, job_id, path, status, body):
        """Compare an answer with the truth."""
        if status not in {200, 202, 503, 504}:  # 504: the service was slow on a busy machine
            self.tally.wrong.append(f"a client got {status}: {body[:200]}")
        elif status == 200 and not path:
            truth = self.ade.truth(job_id)
            said = json.loads(body)["status"]
            if said != truth.outcome.status.value or truth.finished_at > time.time():
                self.tally.wrong.append(f"a client got the answer that {job_id} is {said}")

    async def submit(self):
        """Submit the jobs of a deploy, and note them in the table."""
        added = [self.ade.submit(draw_plan(self.rng)) for _ in range(JOBS)]
        rows = [(job_id,) for job_id in added]
        await self.when_possible("executemany", "INSERT INTO jobs (job_id) VALUES ($1)", rows)
        self.job_ids += added

    async def open_jobs(self):
        """Return the number of jobs without a stored outcome."""
        query = "SELECT count(*) FROM jobs WHERE status IS NULL"
        return await self.when_possible("fetchval", query)

    async def when_possible(self, method, *arguments):
        """Query the database; repeat the query if the database is restarted during it."""
        while True:
            try:
                return await getattr(self.pool, method)(*arguments)
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.1)

    async def compare(self):
        """Compare what was stored with the truth."""
        self.tally.jobs = len(self.job_ids)
        stored = {row["job_id"]: row for row in await self.pool.fetch("SELECT * FROM jobs")}
        for job_id in self.job_ids:
            truth, row = self.ade.truth(job_id), stored.pop(job_id)
            if row["status"] != truth.outcome.status.value:
                self.tally.wrong.append(f"{job_id} is {truth.outcome}, stored: {row['status']}")
            elif truth.outcome.has_result and truth.result_sha256 != sha256(row["result"]):
                self.tally.wrong.append(f"{job_id}: another result was stored")
        self.tally.wrong += [f"stored, but not submitted: {job_id}" for job_id in stored]
        seen = set()
        for job_id, status, at in await self.pool.fetch("SELECT * FROM stores ORDER BY at"):
            truth = self.ade.truth(job_id)
            if status != truth.outcome.status.value or at < truth.finished_at:
                self.tally.wrong.append(f"{job_id} was stored as {status} at {at}: {truth}")
            self.tally.stores += 1
            self.tally.again += job_id in seen
            seen.add(job_id)


def sha256(content):
    return None if content is None else hashlib.sha256(content).hexdigest()
