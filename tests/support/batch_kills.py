"""A batch whose command is killed, again and again, and what came of it."""

import asyncio
import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections import Counter
from pathlib import Path

import forkserver
from attrs import define, field
from waiting import supervised

from adepoll.journal import JournalReader
from adepoll.journal.outcomes import Stage

COMMAND = (sys.executable, "-m", "adepoll")
LOOK = 0.001  # seconds between looks at the disk
LONGEST_WAIT = 4  # seconds until a kill, whatever comes
LONGEST = 300  # seconds that one run may take
MOST_RUNS = 3  # for each kill: some end before it comes
ON_ITS_WAY = 0.02  # seconds after which the service has read what was sent before a kill


class Service:
    """The emulator, in a process of its own that nobody kills: ``with Service(folder, ...)``.

    Attributes:
        environment: What points the command to it.
        job_ids: Its jobs.
    """

    def __init__(self, folder, *, jobs, seed=1, **profile):
        self._settings = folder / "ade.toml"
        lines = [f"seed = {seed}", f"jobs = {jobs}", "[profile]"]
        lines += [f"{key} = {value}" for key, value in profile.items()]
        self._settings.write_text("\n".join(lines))

    def __enter__(self):
        command = (*COMMAND, "emulate", "--port", "0", "--until-eof", "--profile", self._settings)
        self._process = forkserver.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        exports = [self._process.stdout.readline().decode().split()[1] for _ in range(2)]
        given = dict(export.split("=", 1) for export in exports)
        self.environment = {**os.environ, **given}
        self._url, self._key = given.values()
        self.job_ids = list(self.truth()["jobs"])
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def truth(self, *, digests=False):
        """Give what the service knows, its jobs by id."""
        request = urllib.request.Request(
            f"{self._url}/_emulator/truth?digests={int(digests)}",
            headers={"Authorization": f"Bearer {self._key}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            truth = json.load(answer)
        truth["jobs"] = {job["job_id"]: job for job in truth["jobs"]}
        return truth


@define(kw_only=True)
class Place:
    """Where one batch lies.

    Attributes:
        folder: Its journal is in it, and nothing else.
        command: What stands before the subcommand.
        ids: The file of the ids.
    """

    folder: Path
    command: tuple
    ids: Path
    journal: Path = field(init=False)
    out: Path = field(init=False)

    def __attrs_post_init__(self):
        self.folder.mkdir()
        self.journal = self.folder / "batch.db"
        self.out = self.folder.with_name(f"{self.folder.name}-results")

    def watch(self):
        """Give the command that begins it."""
        where = ("--journal", self.journal, "--out", self.out)
        return (*self.command, "watch", "-f", self.ids, *where)

    def resume(self):
        """Give the command that goes on with it."""
        return (*self.command, "resume", self.journal)

    def records(self):
        """Give all records of the journal, by id; of a copy, so that it stays as it was left."""
        if not self.journal.exists():
            return {}
        with tempfile.TemporaryDirectory() as scratch:
            for path in self.folder.glob("batch.db*"):
                if not path.name.endswith((".lock", "-shm")):
                    shutil.copy(path, scratch)
            copy = Path(scratch, self.journal.name)
            if not copy.stat().st_size or (copy.with_name("batch.db-journal")).exists():
                return {}  # it was about to be made
            with JournalReader(copy) as journal:
                return {record.job_id: record for record in journal.records()}

    def outcomes(self):
        """Give what the journal says of each job, and what lies on the disk."""
        told = {}
        for job_id, record in self.records().items():
            file = record.file and (record.file.path.name, record.file.bytes, record.file.sha256)
            error = record.error and (record.error.kind, str(record.error))
            told[job_id] = (str(record.stage), record.status_text, error, file)
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.out.iterdir()
        }
        return told, files

    def left_over(self):
        """Give what lies beside the journal."""
        return sorted(path.name for path in self.folder.iterdir() if path != self.journal)


@define(kw_only=True)
class Run:
    """One run of the command.

    Attributes:
        status: How it ended; -9 if it was killed.
        lines: What it wrote on stdout, each line as JSON.
        rest: What stood after the last line end.
        said: What it wrote on stderr.
        moment: At which moment it was to be killed.
    """

    status: int
    lines: list
    rest: bytes
    said: str
    moment: str

    @property
    def told(self):
        return [line["job_id"] for line in self.lines]


class Kill:
    """When to kill: at a moment of that name, but not after so many lines or some seconds.

    The moment "unknown" is when it has given up a job that the service does not know; no other
    comes before it.
    """

    def __init__(self, moment, most_lines, rng):
        self.moment = moment
        self._most_lines = math.inf if moment == "unknown" else most_lines
        self._most_seconds = None if moment == "unknown" else rng.uniform(1, LONGEST_WAIT)
        self._rng = rng

    @property
    def in_order(self):
        """Whether the run is only asked to end."""
        return self.moment == "stop"

    async def wait(self, place, process, lines):
        """Wait until it is time. `lines` are those so far."""
        reached = asyncio.create_task(self._lines(lines, self._most_lines))
        come = asyncio.create_task(self._come(place, process, lines))
        try:
            await asyncio.wait(
                [reached, come], return_when=asyncio.FIRST_COMPLETED, timeout=self._most_seconds
            )
        finally:
            for task in (reached, come):
                task.cancel()
        if self.in_order and process.returncode is None:
            process.send_signal(signal.SIGTERM)

    async def _come(self, place, process, lines):
        match self.moment:
            case "start":
                await asyncio.sleep(self._rng.uniform(0, 0.5))
            case "opening":
                await self._appears(place.folder, "batch.db.lock")
                await asyncio.sleep(self._rng.uniform(0, 0.03))
            case "intake":
                await self._appears(place.folder, "batch.db-wal")
                await asyncio.sleep(self._rng.uniform(0, 0.05))
            case "first line":
                await self._lines(lines, 1)
                await asyncio.sleep(self._rng.uniform(0, 0.005))
            case "download":
                await self._appears(place.out, "*.part")
                await asyncio.sleep(self._rng.uniform(0, 0.02))
            case "closing":
                await self._lines(lines, self._rng.randint(0, self._most_lines))
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(self._rng.uniform(0, 0.05))
            case "unknown":
                while not any("error" in line for line in lines):  # noqa: ASYNC110 - as below
                    await asyncio.sleep(LOOK)
            case "lines" | "stop":
                await asyncio.Event().wait()

    async def _lines(self, lines, count):
        while len(lines) < count:  # noqa: ASYNC110 - as below
            await asyncio.sleep(LOOK)
        if count == self._most_lines:
            await asyncio.sleep(self._rng.uniform(0, 0.02))

    async def _appears(self, folder, pattern):
        """Wait for a file that was not there, or has been written since."""
        before = _stamps(folder, pattern)
        while _stamps(folder, pattern) <= before:  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(LOOK)


def _stamps(folder, pattern):
    stamps = set()
    for path in folder.glob(pattern) if folder.exists() else ():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            stamps.add((path.name, status.st_ino, status.st_mtime_ns))
    return stamps


MOMENTS = (
    "start", "opening", "intake", "first line", "download", "closing", "lines", "lines", "stop",
)  # fmt: skip


EARLY = ("start", "opening", "intake")


async def run(place, command, environment, kill=None):
    """Let the command run until its end, or until it is killed."""
    process = await forkserver.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        limit=2**24,
    )
    lines, rest = [], b""

    async def read():
        nonlocal rest
        async for line in process.stdout:
            if line.endswith(b"\n"):
                lines.append(json.loads(line))
            else:
                rest = line

    tasks = [asyncio.create_task(read()), asyncio.create_task(process.stderr.read())]
    moment = asyncio.create_task(kill.wait(place, process, lines)) if kill else None
    try:
        async with supervised(process, LONGEST):
            ended = asyncio.create_task(process.wait())
            await asyncio.wait({ended, moment} - {None}, return_when=asyncio.FIRST_COMPLETED)
            if kill is not None and not kill.in_order:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await ended
            await asyncio.gather(*tasks)
    finally:
        for task in (*tasks, moment):
            if task is not None:
                task.cancel()
    return Run(
        status=process.returncode,
        lines=lines,
        rest=rest,
        said=tasks[1].result().decode(),
        moment=kill.moment if kill else "",
    )


@define
class Tally:
    """What it came to.

    Attributes:
        kills: How many runs were killed, by moment.
        found: In which state the batch was found after a kill, by name.
        stops: How many runs were asked to end.
        runs: How many runs there were.
        lines: Lines on stdout, of all runs.
        doubled: Jobs told twice.
        partial: Lines that a kill has cut.
        fetching: Jobs that a kill has found between their end and their result.
        settled: Jobs that were settled when a run began, summed up over the runs.
        polls: GETs, of all runs.
        wrong: What should not be, in words.
        final: The run that was not killed, and told the rest.
        outcomes: What the journal tells, and what the disk holds.
        last: For each job its last line.
        unmarked: Jobs whose last line came before a kill, and their mark did not.
    """

    kills: Counter = field(factory=Counter)
    found: Counter = field(factory=Counter)
    stops: int = 0
    runs: int = 0
    lines: int = 0
    doubled: int = 0
    partial: int = 0
    fetching: int = 0
    settled: int = 0
    polls: int = 0
    wrong: list = field(factory=list)
    final: Run | None = None
    outcomes: tuple = ()
    last: dict = field(factory=dict)
    unmarked: set = field(factory=set)

    def told(self):
        """Give the last line of each job, but not the folder of its result."""
        lines = {}
        for job_id, line in self.last.items():
            result = line.get("result")
            name = result and {**result, "path": Path(result["path"]).name}
            lines[job_id] = line | {"result": name}
        return lines


def write_ids(folder, service, *, unknown):
    """Write the file of the ids: all that the service has, and some that it has not."""
    ids = [*service.job_ids, *(str(uuid.UUID(int=n, version=4)) for n in range(unknown))]
    path = folder / "ids.txt"
    path.write_text("".join(f"{job_id}\n" for job_id in ids))
    return path, ids


async def undisturbed(place, service):
    """Let a batch run that nobody kills."""
    only = await run(place, place.watch(), service.environment)
    tally = Tally(runs=1, lines=len(only.lines), final=only)
    tally.last = {line["job_id"]: line for line in only.lines}
    tally.outcomes = place.outcomes()
    return tally


async def kill_again_and_again(place, service, ids, *, kills, rng):
    """Begin a batch, kill it, go on with it, and so on; then let it come to its end.

    After each kill the journal is compared with what was told, and what the service was asked with
    what the journal knew.
    """
    tally = Tally()
    told = Counter()
    records = {}
    truth = service.truth()
    began_with = truth["requests"]["get"]
    while True:
        left = kills - tally.kills.total() if tally.runs < MOST_RUNS * kills else 0
        known = len(records) == len(ids)
        kill = None
        if left > 0:
            open_ = len(ids) - len(told)
            is_early = not open_ or tally.kills.total() < max(1, kills // 10)
            moments = EARLY if is_early else MOMENTS
            moment = rng.choice([name for name in moments if not (known and name == "intake")])
            if left == kills // 2 and len(ids) > len(truth["jobs"]):
                moment = "unknown"
            kill = Kill(moment, max(1, rng.randint(0, 2 * open_ // left)), rng)
        command = place.resume() if known else place.watch()
        ran = await run(place, command, service.environment, kill)
        tally.runs += 1
        tally.lines += len(ran.lines)
        tally.partial += bool(ran.rest)
        await asyncio.sleep(ON_ITS_WAY)
        before, records = records, place.records()
        asked, truth = truth, service.truth()
        _check_lines(tally, ran, told, records)
        _check_looks(tally, before, asked, truth)
        if kill is None:
            break
        if kill.in_order:
            tally.stops += 1
        elif ran.status == -signal.SIGKILL:
            tally.kills[ran.moment] += 1
            tally.found[_state(records, ids)] += 1
            tally.fetching += _count(records, Stage.FETCHING)
        elif ran.status < 0 and ran.moment != "closing":  # asked before it could listen
            tally.wrong.append(f"a run ended with {ran.status}")
    tally.final = ran
    tally.polls = truth["requests"]["get"] - began_with
    tally.doubled = sum(count - 1 for count in told.values())
    tally.wrong += [f"{job_id} was never told" for job_id in ids if job_id not in told]
    tally.outcomes = place.outcomes()
    return tally


def _count(records, stage):
    return sum(record.stage is stage for record in records.values())


def _state(records, ids):
    """Name the state in which a batch was found."""
    if not records:
        return "no job written down"
    if len(records) < len(ids):
        return "some ids written down"
    ended = sum(record.done_at is not None for record in records.values())
    if not ended:
        return "all ids written down"
    if ended < len(ids):
        return "under way"
    return "all settled" if any(r.delivered_at is None for r in records.values()) else "all taken"


def _check_lines(tally, ran, told, records):
    """What was told before the last line is marked; what is marked was told."""
    for word in ("Traceback", "bug in adepoll"):
        if word in ran.said:
            tally.wrong.append(f"{word}: {ran.said[-2_000:]}")
    free = tally.unmarked
    again = {job_id for job_id in ran.told if told[job_id]} - free
    tally.wrong += [f"{job_id} was told again" for job_id in again]
    told.update(ran.told)
    tally.last |= {line["job_id"]: line for line in ran.lines}
    marked = {job_id for job_id, r in records.items() if r.delivered_at is not None}
    last = set(ran.told[-1:]) if ran.status == -signal.SIGKILL else set()
    if early := marked - set(told):
        tally.wrong.append(f"marked and not told: {early}")
    tally.unmarked = set(told) - marked
    if late := tally.unmarked - last - free:
        tally.wrong.append(f"told, and not marked by a run that ended with {ran.status}: {late}")


def _check_looks(tally, before, asked, truth):
    """Nothing is asked about jobs that were settled when the run began."""
    settled = [r for r in before.values() if r.stage is Stage.DONE or r.lasting]
    tally.settled += len(settled)
    for record in settled:
        polls = [_looks(at, record.job_id) for at in (asked, truth)]
        if polls[0] != polls[1]:
            tally.wrong.append(f"{record.job_id} was settled, and asked for again")
    # Of jobs that the service does not know, it counts the requests alone.
    unknown = [job_id for job_id, r in before.items() if r.lasting]
    if before and len(unknown) == len(before) - len(truth["jobs"]):
        strange = [
            at["requests"]["get"] - sum(job["gets"] for job in at["jobs"].values())
            for at in (asked, truth)
        ]
        if strange[0] != strange[1]:
            tally.wrong.append("a job that is not known was asked for again")


def _looks(truth, job_id):
    job = truth["jobs"].get(job_id)
    return job and (job["gets"], job["result_requests"])
