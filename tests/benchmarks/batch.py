"""Measures a batch: the time to the first outcome, the peak memory, and the effects of kills.

Each figure is measured on the command ``adepoll watch --journal`` in a separate process. The memory
is the peak resident memory of the process (wait4(2)), including the interpreter. Times are seconds
since the start of the process. The service is another process that answers immediately. It is the
emulator if jobs are active; otherwise it sends prepared bytes, faster than any client can read
them.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Final

from attrs import evolve, frozen
from emulator import pin
from throughput import KEY, completed, served

sys.path.append(str(Path(__file__).parents[1] / "support"))

from batch_kills import Place, Service, kill_again_and_again, undisturbed, write_ids

from adepoll import JobSnapshot, Journal
from adepoll.api.config import API_KEY_VARIABLE, BASE_URL_VARIABLE
from adepoll.emulator import Emulator, JobPlan
from adepoll.journal import Acknowledged, JournalReader, Settled

MB = 1_000_000
COMMAND: Final = (sys.executable, "-m", "adepoll")
SEED = 20
HOUR = 3_600.0
STARTED = 50_000
SETTLED = 45_000
FIRST_WITHIN = 2.0  # goal: seconds to the first line
MOST_RESIDENT = 300  # goal: peak memory in MB
SIZES = (1_000, 10_000, 100_000)
TAKEN = 10_000_000
KILLS = 100
KILLED = 2_000
UNKNOWN = 20
CHECK_INTERVAL = 1.0  # seconds between two readings of the journal, at least
TICK = 0.1  # seconds; lines are counted per interval of this length


def make_ids(count: int) -> Iterator[str]:
    """Return `count` ids in the form of the service."""
    rng = Random(SEED)
    return (str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count))


def write_lines(path: Path, job_ids: Iterable[str]) -> Path:
    """Write ids to a file, one per line."""
    with path.open("w") as file:
        file.writelines(f"{job_id}\n" for job_id in job_ids)
    return path


# --- the command --------------------------------------------------------------------------------


@frozen(kw_only=True)
class Ran:
    """The figures of one run of the command.

    Attributes:
        first: Seconds from the start of the process to its first line.
        seconds: Seconds from the start of the process to its last line.
        resident: Peak resident memory in bytes.
        lines: Number of lines that were read.
        longest_pause: Longest time between two lines, and the time at which it began, in seconds.
        each_tenth: Lines in each tenth of the time between the first and the last line.
    """

    first: float
    seconds: float
    resident: int
    lines: int
    longest_pause: tuple[float, float]
    each_tenth: list[int]


def run(
    base_url: str,
    *arguments: object,
    lines: int | None = None,
    until: Callable[[], bool] | None = None,
) -> Ran:
    """Run the command to its end; stop it after `lines` lines, or when `until` returns True.

    Raises:
        RuntimeError: The command ended before that, or printed no line.
    """
    given = {API_KEY_VARIABLE: KEY, BASE_URL_VARIABLE: base_url}
    began = time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **given},
    )
    assert process.stdout is not None and process.stderr is not None  # noqa: PT018 - only for the type checker
    first, seconds, count = 0.0, 0.0, 0
    longest_pause = (0.0, 0.0)
    by_tick: Counter[int] = Counter()
    for _ in process.stdout:
        count += 1
        last, seconds = seconds, time.monotonic() - began
        longest_pause = max(longest_pause, (seconds - last, last) if first else longest_pause)
        by_tick[int(seconds / TICK)] += 1
        first = first or seconds
        if count == lines or (until is not None and until()):
            process.send_signal(signal.SIGTERM)
            lines = until = None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if lines is not None or until is not None or not count:
        raise RuntimeError(f"it ended with {process.returncode} after {count} lines: {said}")
    tenths = [0] * 10
    for tick, lines_then in by_tick.items():
        tenth = int(10 * (tick * TICK - first) / max(seconds - first, TICK))
        tenths[min(max(tenth, 0), 9)] += lines_then
    return Ran(
        first=first,
        seconds=seconds,
        resident=usage.ru_maxrss * 1024,
        lines=count,
        longest_pause=longest_pause,
        each_tenth=tenths,
    )


HEADER = f"{'batch':<52}{'first line s':>14}{'goal':>8}{'peak MB':>10}{'goal':>8}{'lines/s':>10}"


def show(what: str, ran: Ran) -> None:
    """Print one row."""
    rate = ran.lines / (ran.seconds - ran.first) if ran.lines > 1 else 0.0
    print(
        f"{what:<52}{ran.first:>14.2f}{f'<= {FIRST_WITHIN:.0f}':>8}{ran.resident / MB:>10.1f}"
        f"{f'<= {MOST_RESIDENT}':>8}{rate:>10,.0f}",
        flush=True,
    )


# --- start --------------------------------------------------------------------------------------


def serve_started(control: Connection) -> None:
    """Run an emulator with jobs, most of which ended long ago. Runs in a separate process."""

    async def serve() -> None:
        async with Emulator(api_key=KEY) as ade:
            began = time.time() - HOUR
            plans = [JobPlan(result_bytes=1_000)] * SETTLED
            plans += [JobPlan(processing_time=2 * HOUR)] * (STARTED - SETTLED)
            Random(SEED).shuffle(plans)
            ids = list(make_ids(STARTED))
            for job_id, plan in zip(ids, plans, strict=True):
                ade.submit(plan, job_id=job_id, received_at=began)
            control.send(ade.base_url)
            await asyncio.get_running_loop().run_in_executor(None, control.recv)

    pin(0)
    asyncio.run(serve())


@contextmanager
def started() -> Iterator[str]:
    """Run `serve_started` in a separate process; yield the base URL of the emulator."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_started, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join()


async def write_journal(
    path: Path, base_url: str, ids: Sequence[str], *, settled: int, delivered: bool
) -> None:
    """Write the journal of an earlier run that has recorded the outcomes of `settled` jobs."""
    snapshot = JobSnapshot.from_json(json.dumps(completed("x" * 36)))
    async with await Journal.open(path, endpoint=base_url) as journal:
        await journal.add(ids)
        for start in range(0, settled, 1_000):
            some = ids[start : start + 1_000]
            await journal.write(*(_settled(snapshot, job_id) for job_id in some))
            if delivered:
                await journal.write(*(Acknowledged(job_id, time.time()) for job_id in some))


def _settled(snapshot: JobSnapshot, job_id: str) -> Settled:
    return Settled(evolve(snapshot, job_id=job_id), time.time(), fetching=False)


def start(folder: Path, _options: "Options") -> None:
    """Measure how soon a large batch prints its first outcome."""
    ids = list(make_ids(STARTED))
    path = write_lines(folder / "ids.txt", ids)
    print(HEADER)
    with started() as base_url:
        journal = folder / "fresh.db"
        show(
            f"{STARTED:,} jobs, of which {SETTLED:,} have settled",
            run(base_url, "watch", "-f", path, "--journal", journal, lines=SETTLED),
        )
        where = ("--journal", folder / "files.db", "--out", folder / "out")
        show(
            "the same jobs, results written to files",
            run(base_url, "watch", "-f", path, *where, lines=SETTLED),
        )
    with served(completed) as base_url:
        for delivered in (True, False):
            journal = folder / f"{delivered}.db"
            asyncio.run(write_journal(journal, base_url, ids, settled=SETTLED, delivered=delivered))
            state = "delivered" if delivered else "not delivered"
            what = f"{SETTLED:,} of {STARTED:,} outcomes recorded, {state}"
            show(what, run(base_url, "resume", journal, "--discovery", "get"))


# --- memory -------------------------------------------------------------------------------------


def memory(folder: Path, _options: "Options") -> None:
    """Measure the peak memory for increasing numbers of settled jobs."""
    print(HEADER)
    grown = []
    with served(completed) as base_url:
        for size in SIZES:
            path = write_lines(folder / "ids.txt", make_ids(size))
            where = ("--journal", folder / f"{size}.db", "--discovery", "get")
            ran = run(base_url, "watch", "-f", path, *where)
            show(f"{size:,} jobs, settled before the start", ran)
            grown.append(ran.resident)
    growth = (grown[-1] - grown[1]) / MB
    print(f"growth from {SIZES[1]:,} to {SIZES[-1]:,} jobs: {growth:.1f} MB; goal: about 0")


# --- intake -------------------------------------------------------------------------------------


def intake(folder: Path, options: "Options") -> None:
    """Measure a batch whose ids come from a file with very many ids."""
    path = write_lines(folder / "ids.txt", make_ids(options.ids))
    journal = folder / "batch.db"
    next_check = 0.0
    seconds = 0.0
    began = time.monotonic()

    def all_taken() -> bool:
        nonlocal next_check, seconds
        if time.monotonic() < next_check:
            return False
        with JournalReader(journal) as reader:
            known = reader.counts().jobs
        seconds = time.monotonic() - began
        # The pause grows with the journal, because counting its jobs takes longer, too.
        next_check = time.monotonic() + CHECK_INTERVAL + seconds / 50
        return known == options.ids

    print(HEADER)
    with served(completed) as base_url:
        where = ("--journal", journal, "--discovery", "get")
        ran = run(base_url, "watch", "-f", path, *where, until=all_taken)
    show(f"a file of {options.ids:,} ids", ran)
    print(f"all ids in the journal after {seconds:.0f} s; outcomes until then: {ran.lines:,}")
    pause, began_at = ran.longest_pause
    print(f"longest time without an outcome: {pause:.1f} s, {began_at:.0f} s after the start")
    print(f"outcomes in each tenth of the time: {' '.join(f'{n:,}' for n in ran.each_tenth)}")
    print(f"size of the journal: {journal.stat().st_size / MB:,.0f} MB")


# --- kills --------------------------------------------------------------------------------------


def kills(folder: Path, options: "Options") -> None:
    """Kill and restart the command many times; compare it with a run that is not killed."""
    profile = {
        "median": 60.0, "sigma": 0.4, "failed": 0.05, "cancelled": 0.03, "partial": 0.02,
        "large": 0.05, "large_bytes": [1_000_001, 3_000_000], "small_bytes": [2_000, 20_000],
    }  # fmt: skip
    with Service(folder, jobs=KILLED, **profile) as service:
        path, ids = write_ids(folder, service, unknown=UNKNOWN)
        place = Place(folder=folder / "killed", command=COMMAND, ids=path)
        tally = asyncio.run(
            kill_again_and_again(place, service, ids, kills=options.kills, rng=Random(SEED))
        )
        whole = Place(folder=folder / "whole", command=COMMAND, ids=path)
        beside = asyncio.run(undisturbed(whole, service))
    alike = tally.outcomes == beside.outcomes and tally.last_lines() == beside.last_lines()
    same = "equal" if alike else "NOT EQUAL"
    moments = ", ".join(f"{count} {name}" for name, count in tally.kills.most_common())
    found = ", ".join(f"{count} {name}" for name, count in tally.found.most_common())
    print(
        f"{tally.kills.total()} kills of a batch of {len(ids):,} jobs, "
        f"and {tally.stops} stops with SIGTERM"
    )
    print(f"  killed at: {moments}")
    print(f"  found: {found}")
    print(f"  outcomes, lines and digests compared with a run without kills: {same}; goal: equal")
    print(f"  other files beside the journals: {place.left_over() + whole.left_over()}; goal: none")
    print(f"  {tally.runs} runs have printed {len(tally.last):,} jobs in {tally.lines:,} lines")
    print(
        f"  printed twice, because the kill came before the acknowledgement: {tally.doubled}; "
        f"incomplete lines: {tally.partial}"
    )
    print(f"  settled jobs at the start of a run, sum of all runs: {tally.settled:,}")
    print(f"  polls: {tally.polls:,}; settled jobs found without result: {tally.fetching:,}")
    print(f"  errors: {len(tally.wrong)}; goal: 0")
    for line in tally.wrong:
        print(f"    {line}")


# --- all of it ----------------------------------------------------------------------------------

PARTS = {"start": start, "memory": memory, "kills": kills, "intake": intake}


@frozen
class Options:
    """The options of the benchmark.

    Attributes:
        ids: Number of ids in the file of the part `intake`.
        kills: Number of times that the part `kills` kills the command.
        dir: Folder for all files; None for the temporary folder of the system.
        only: Name of the only part that runs; empty for all parts.
    """

    ids: int
    kills: int
    dir: Path | None
    only: str


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=TAKEN, help="ids in the file of the part intake")
    parser.add_argument("--kills", type=int, default=KILLS, help="kills in the part kills")
    parser.add_argument("--dir", type=Path, help="folder for all files")
    parser.add_argument("--only", default="", choices=["", *PARTS])
    options = Options(**vars(parser.parse_args()))
    pin(1)
    for name, part in PARTS.items():
        if options.only in {"", name}:
            with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
                part(Path(scratch), options)


if __name__ == "__main__":
    main()
