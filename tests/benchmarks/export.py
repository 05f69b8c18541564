"""Measures time and memory of `adepoll.export` for a journal of 1,000,000 jobs.

The journal is written before by another process. The goal is a peak memory of less than 300 MB.
With --files, the results are files, with 10,000 files in each folder. Otherwise they are inline in
the journal. With --large, each result has about 28 kB, most of it references; --jobs 20000 is
enough then.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import adepoll
from adepoll import Journal
from adepoll.api.models import JobSnapshot
from adepoll.journal import Fetched, Settled
from adepoll.journal.outcomes import ResultFile

ENDPOINT = "https://api.example"
CHUNK = 10_000
GOAL_MB = 300
WORDS = ("steel", "screw", "nut", "washer", "M6", "zinc", "plated", "hexagon", "box", "of", "100")


def extraction(number: int, rng: Random, *, large: bool) -> dict[str, object]:
    """Return the extracted data of an invoice."""
    lines = rng.randrange(20, 60) if large else rng.randrange(4)
    return {
        "invoice": {"number": f"INV-{number:08d}", "date": "2026-02-28", "currency": "EUR"},
        "total": rng.randrange(10**7) / 100,
        "paid": rng.choice((True, False, None)),
        "lines": [
            {"sku": f"S{rng.randrange(1000)}", "quantity": rng.randrange(9)}
            | (line_details(rng) if large else {})
            for _ in range(lines)
        ],
    }


def line_details(rng: Random) -> dict[str, object]:
    """Return the other values of a line of a large invoice."""
    return {
        "description": " ".join(rng.choice(WORDS) for _ in range(6)),
        "unit_price": rng.randrange(10**5) / 100,
        "discounts": [{"percent": rng.randrange(100) / 10} for _ in range(rng.randrange(3))],
    }


def references(value: object, rng: Random) -> object:
    """Return the metadata of an extraction: each value with the chunk that it was found in."""
    if isinstance(value, dict):
        return {key: references(item, rng) for key, item in value.items()}
    if isinstance(value, list):
        return [references(item, rng) for item in value]
    return {"value": value, "references": [f"{rng.getrandbits(128):032x}"]}


async def write_journal(path: Path, jobs: int, folder: Path | None, *, large: bool) -> None:
    """Write a journal of completed jobs."""
    rng = Random(20)
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        for start in range(0, jobs, CHUNK):
            numbers = range(start, min(start + CHUNK, jobs))
            await journal.add([f"job-{number}" for number in numbers])
            changes: list[Settled | Fetched] = []
            for number in numbers:
                job_id = f"job-{number}"
                metadata = {"filename": f"{number}.pdf", "duration_ms": 8_000, "credit_usage": 1.5}
                values = extraction(number, rng, large=large)
                found = references(values, rng) if large else None
                data = {"extraction": values, "extraction_metadata": found}
                job = {"job_id": job_id, "status": "completed", "received_at": 1_700_000_000}
                job |= {"progress": 1.0, "metadata": metadata}
                if folder is None:
                    job["data"] = data | {"metadata": metadata}
                snapshot = JobSnapshot.from_json(json.dumps(job))
                changes.append(Settled(snapshot, 1.7e9, fetching=folder is not None))
                if folder is not None:
                    file = folder / str(start // CHUNK) / f"{job_id}.json"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(data | {"metadata": metadata}))
                    result = ResultFile(path=file, bytes=file.stat().st_size, sha256="0" * 64)
                    changes.append(Fetched(job_id, result, 1, 1.7e9))
            await journal.write(*changes, durable=False)


def export(journal: Path, out: Path, explode: list[str], pipe: Connection) -> None:
    """Export a journal; send the seconds, CPU seconds, numbers of rows, and peak memory in MB."""
    began, cpu_began = time.perf_counter(), time.process_time()
    report = adepoll.export(journal, out, explode=explode)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send((seconds, cpu, report.rows, peak))


def main() -> None:
    """Print a row for each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--files", action="store_true", help="results in files, not inline")
    parser.add_argument("--large", action="store_true", help="results of about 28 kB")
    parser.add_argument("--explode", nargs="*", default=["lines"])
    parser.add_argument("--to", nargs="*", default=["parquet", "csv"])
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=".", prefix=".export-") as name:
        folder = Path(name).resolve()
        journal = folder / "b.db"
        results = folder / "results" if options.files else None
        asyncio.run(write_journal(journal, options.jobs, results, large=options.large))
        print(
            f"{'format':<10}{'jobs':>12}{'seconds':>9}{'CPU s':>9}{'jobs/s':>9}{'file MB':>9}"
            f"{'peak MB':>9}"
        )
        for kind in options.to:
            out = folder / f"t.{kind}"
            ours, theirs = spawn.Pipe(duplex=False)
            process = spawn.Process(target=export, args=(journal, out, options.explode, theirs))
            process.start()
            theirs.close()
            seconds, cpu, rows, peak = ours.recv()
            process.join()
            size = out.stat().st_size / 1e6
            verdict = "" if peak < GOAL_MB else f"  more than {GOAL_MB} MB"
            print(
                f"{kind:<10}{rows[0]:>12,}{seconds:>9.1f}{cpu:>9.1f}{rows[0] / seconds:>9,.0f}"
                f"{size:>9.1f}{peak:>9.0f}{verdict}"
            )


if __name__ == "__main__":
    main()
