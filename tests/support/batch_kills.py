"""Kill the command of a batch many times, continue the batch, and check journal and output."""

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
from waiting import first_lines, supervised

from adepoll.cli.batch_options import IDS_NOTE, READ
from adepoll.journal import JournalReader
from adepoll.journal.outcomes import Stage

COMMAND = (sys.executable, "-W", "error", "-m", "adepoll")
CHECK_EVERY = 0.001  # seconds between two checks of the disk or the output
LONGEST_WAIT = 4  # maximum seconds until a kill
LONGEST_RUN = 300  # maximum seconds of a run without a kill
MOST_RUNS = 3  # per kill, because some runs end before their kill
DELIVERY_TIME = 0.02  # seconds until the service has read the requests sent before a kill


class Service:
    """The emulator in a separate process that is not killed: ``with Service(folder, ...)``.

    Attributes:
        environment: Environment variables for commands that use this service.
        job_ids: Ids of its jobs.
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
        exports = first_lines(self._process, 4)
        variables = dict(export.split()[1].split("=", 1) for export in exports)
        self.environment = {**os.environ, **variables}
        self._url = variables["LANDINGAI_ADE_BASE_URL"]
        self._key = variables["VISION_AGENT_API_KEY"]
        self.job_ids = list(self.truth()["jobs"])
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(LONGEST_RUN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def truth(self, *, digests=False):
        """Return the emulator's truth, with its jobs by id."""
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
    """The files of one batch and the commands that run it.

    Attributes:
        folder: Folder of the journal; contains nothing else.
        command: Start of the command line, before the subcommand.
        ids: File with the ids.
    """

    folder: Path
    command: tuple
    ids: Path
    journal: Path = field(init=False)
    out: Path = field(init=False)
    has_read_ids: bool = field(default=False, init=False)

    def __attrs_post_init__(self):
        self.folder.mkdir()
        self.journal = self.folder / "batch.db"
        self.out = self.folder.with_name(f"{self.folder.name}-results")

    def watch(self):
        """Return the command that starts the batch."""
        options = ("--journal", self.journal, "--out", self.out)
        return (*self.command, "watch", "-f", self.ids, *options)

    def resume(self):
        """Return the command that continues the batch."""
        return (*self.command, "resume", self.journal, "--out", self.out)

    def records(self):
        """Return all records by id, read from a copy so that the journal is not changed.

        Also note whether the journal says that all ids have been read.
        """
        self.has_read_ids = False
        if not self.journal.exists():
            return {}
        with tempfile.TemporaryDirectory() as scratch:
            for path in self.folder.glob("batch.db*"):
                if not path.name.endswith((".lock", "-shm")):
                    shutil.copy(path, scratch)
            copy = Path(scratch, self.journal.name)
            if not copy.stat().st_size or (copy.with_name("batch.db-journal")).exists():
                return {}  # the journal was being created
            with JournalReader(copy) as journal:
                self.has_read_ids = journal.notes().get(IDS_NOTE) == READ
                return {record.job_id: record for record in journal.records()}

    def outcomes(self):
        """Return what the journal records of each job, and the digests of the result files."""
        recorded = {}
        for job_id, record in self.records().items():
            file = record.file and (record.file.path.name, record.file.bytes, record.file.sha256)
            error = record.error and (record.error.error_class, str(record.error))
            recorded[job_id] = (str(record.stage), record.status_text, error, file)
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.out.iterdir()
        }
        return recorded, files

    def left_over(self):
        """Return the names of all other files in the folder of the journal."""
        return sorted(path.name for path in self.folder.iterdir() if path != self.journal)


@define(kw_only=True)
class Run:
    """One run of the command.

    Attributes:
        status: Exit status; -9 if it was killed.
        lines: Lines of stdout, decoded from JSON.
        rest: Bytes of stdout after the last line end.
        stderr: Text of stderr.
        moment: Name of the moment for the kill.
    """

    status: int
    lines: list
    rest: bytes
    stderr: str
    moment: str

    @property
    def printed_ids(self):
        return [line["job_id"] for line in self.lines]


class Kill:
    """When to kill a run: at the named moment, or earlier after `most_lines` or some seconds.

    The moment "unknown" is when the run has given up a job that the service does not know; it has
    no earlier limit.
    """

    def __init__(self, moment, most_lines, rng):
        self.moment = moment
        self._most_lines = math.inf if moment == "unknown" else most_lines
        self._most_seconds = None if moment == "unknown" else rng.uniform(1, LONGEST_WAIT)
        self._rng = rng

    @property
    def is_sigterm(self):
        """True if the run gets SIGTERM and can close, instead of SIGKILL."""
        return self.moment == "stop"

    async def wait(self, place, process, lines):
        """Wait for the moment; `lines` has the lines printed so far."""
        limit = asyncio.create_task(self._lines(lines, self._most_lines))
        moment = asyncio.create_task(self._moment(place, process, lines))
        try:
            await asyncio.wait(
                [limit, moment], return_when=asyncio.FIRST_COMPLETED, timeout=self._most_seconds
            )
        finally:
            for task in (limit, moment):
                task.cancel()
        if self.is_sigterm and process.returncode is None:
            process.send_signal(signal.SIGTERM)

    async def _moment(self, place, process, lines):
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
                while not any("error" in line for line in lines):  # noqa: ASYNC110 - another process prints the line
                    await asyncio.sleep(CHECK_EVERY)
            case "lines" | "stop":
                await asyncio.Event().wait()

    async def _lines(self, lines, count):
        while len(lines) < count:  # noqa: ASYNC110 - another process prints the line
            await asyncio.sleep(CHECK_EVERY)
        if count == self._most_lines:
            await asyncio.sleep(self._rng.uniform(0, 0.02))

    async def _appears(self, folder, pattern):
        """Wait for a file that is new or was written again."""
        before = _stamps(folder, pattern)
        while _stamps(folder, pattern) <= before:  # noqa: ASYNC110 - another process creates it
            await asyncio.sleep(CHECK_EVERY)


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
    """Run the command until it ends or is killed."""
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
        async with supervised(process, LONGEST_RUN):
            ended = asyncio.create_task(process.wait())
            await asyncio.wait({ended, moment} - {None}, return_when=asyncio.FIRST_COMPLETED)
            if kill is not None and not kill.is_sigterm:
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
        stderr=tasks[1].result().decode(),
        moment=kill.moment if kill else "",
    )


@define
class Tally:
    """Numbers and problems of all runs of a batch.

    Attributes:
        kills: Killed runs by moment.
        found: States of the batch after a kill, by name.
        stops: Runs that got SIGTERM.
        runs: All runs.
        lines: Lines on stdout of all runs.
        doubled: Jobs printed twice.
        partial: Lines truncated by a kill.
        fetching: Jobs that were settled but not fetched after a kill.
        settled: Jobs that were settled at the start of a run, summed over the runs.
        polls: GETs of all runs.
        wrong: Descriptions of problems.
        final: The last run, which was not killed.
        outcomes: Records of the journal and result files; see `Place.outcomes`.
        last: Last line of each job.
        unmarked: Jobs that were printed, and that the journal does not have as delivered.
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

    def last_lines(self):
        """Return the last line of each job, without the folder of its result."""
        lines = {}
        for job_id, line in self.last.items():
            result = line.get("result")
            name = result and {**result, "path": Path(result["path"]).name}
            lines[job_id] = line | {"result": name}
        return lines


def write_ids(folder, service, *, unknown):
    """Write the file with all ids of the service and `unknown` other ids."""
    ids = [*service.job_ids, *(str(uuid.UUID(int=n, version=4)) for n in range(unknown))]
    path = folder / "ids.txt"
    path.write_text("".join(f"{job_id}\n" for job_id in ids))
    return path, ids


async def undisturbed(place, service):
    """Run a batch without kills."""
    only = await run(place, place.watch(), service.environment)
    tally = Tally(runs=1, lines=len(only.lines), final=only)
    tally.last = {line["job_id"]: line for line in only.lines}
    tally.outcomes = place.outcomes()
    return tally


async def kill_again_and_again(place, service, ids, *, kills, rng):
    """Start a batch, then kill and continue it many times; let the last run finish.

    After each run, compare the journal with the printed lines, and the requests at the service with
    the earlier state of the journal.
    """
    tally = Tally()
    printed = Counter()  # lines by job id
    records = {}
    truth = service.truth()
    first_gets = truth["requests"]["get"]
    while True:
        left = kills - tally.kills.total() if tally.runs < MOST_RUNS * kills else 0
        known = len(records) == len(ids) and place.has_read_ids
        kill = None
        if left > 0:
            open_ = len(ids) - len(printed)
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
        await asyncio.sleep(DELIVERY_TIME)
        before, records = records, place.records()
        truth_before, truth = truth, service.truth()
        _check_lines(tally, ran, printed, records)
        _check_requests(tally, before, truth_before, truth)
        if kill is None:
            break
        if kill.is_sigterm:
            tally.stops += 1
        elif ran.status == -signal.SIGKILL:
            tally.kills[ran.moment] += 1
            tally.found[_state(records, ids)] += 1
            tally.fetching += _count(records, Stage.FETCHING)
        elif ran.status < 0 and ran.moment != "closing":  # SIGTERM came before its handler
            tally.wrong.append(f"a run ended with {ran.status}")
    tally.final = ran
    tally.polls = truth["requests"]["get"] - first_gets
    tally.doubled = sum(count - 1 for count in printed.values())
    tally.wrong += [f"{job_id} was never printed" for job_id in ids if job_id not in printed]
    tally.outcomes = place.outcomes()
    return tally


def _count(records, stage):
    return sum(record.stage is stage for record in records.values())


def _state(records, ids):
    """Return the name of the state of a batch."""
    if not records:
        return "no job recorded"
    if len(records) < len(ids):
        return "some ids recorded"
    ended = sum(record.done_at is not None for record in records.values())
    if not ended:
        return "all ids recorded"
    if ended < len(ids):
        return "some settled"
    is_delivered = all(record.delivered_at is not None for record in records.values())
    return "all delivered" if is_delivered else "all settled"


def _check_lines(tally, ran, printed, records):
    """Check that jobs printed before the last line are delivered, and delivered jobs printed."""
    for word in ("Traceback", "bug in adepoll"):
        if word in ran.stderr:
            tally.wrong.append(f"{word}: {ran.stderr[-2_000:]}")
    unmarked_before = tally.unmarked
    again = {job_id for job_id in ran.printed_ids if printed[job_id]} - unmarked_before
    tally.wrong += [f"{job_id} was printed again" for job_id in again]
    printed.update(ran.printed_ids)
    tally.last |= {line["job_id"]: line for line in ran.lines}
    marked = {job_id for job_id, r in records.items() if r.delivered_at is not None}
    last = set(ran.printed_ids[-1:]) if ran.status == -signal.SIGKILL else set()
    if early := marked - set(printed):
        tally.wrong.append(f"delivered, but not printed: {early}")
    tally.unmarked = set(printed) - marked
    if late := tally.unmarked - last - unmarked_before:
        tally.wrong.append(f"printed, but not delivered by a run with status {ran.status}: {late}")


def _check_requests(tally, before, truth_before, truth):
    """Check that a run sends no request for jobs that were settled when it started."""
    settled = [r for r in before.values() if r.stage is Stage.DONE or r.lasting]
    tally.settled += len(settled)
    for record in settled:
        if _requests(truth_before, record.job_id) != _requests(truth, record.job_id):
            tally.wrong.append(f"{record.job_id} was settled and requested again")
    # The emulator counts requests for unknown jobs only in the total.
    unknown = [job_id for job_id, r in before.items() if r.lasting]
    if before and len(unknown) == len(before) - len(truth["jobs"]):
        for_unknown = [
            at["requests"]["get"] - sum(job["polls"] for job in at["jobs"].values())
            for at in (truth_before, truth)
        ]
        if for_unknown[0] != for_unknown[1]:
            tally.wrong.append("an unknown job was requested again")


def _requests(truth, job_id):
    job = truth["jobs"].get(job_id)
    return job and (job["polls"], job["result_requests"])
