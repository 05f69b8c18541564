"""A process that writes to a journal and prints what is acknowledged.

journalling.py JOURNAL FIRST COUNT: adds COUNT ids from FIRST, then settles them in eight tasks.
"""

import asyncio
import json
import sys

from adepoll import Journal
from adepoll.api.models import JobSnapshot
from adepoll.journal import Settled

ENDPOINT = "https://api.example"


def snapshot(job_id, status="completed", **fields):
    """Return a snapshot with its JSON, as a client reads it."""
    raw = {"job_id": job_id, "status": status, "received_at": 1_700_000_000, "progress": 1.0}
    return JobSnapshot.from_json(json.dumps(raw | fields))


def settled(job_id):
    return Settled(snapshot(job_id, "failed", failure_reason="x" * 500), 1.0, fetching=False)


def print_line(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def settle_all(journal, job_ids, durable):
    for job_id in job_ids:
        await journal.write(settled(job_id), durable=durable)
        print_line(job_id)


async def main(path, first, count):
    job_ids = [f"j{n}" for n in range(first, first + count)]
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        print_line("open")
        await journal.add(job_ids)
        print_line("added")
        await asyncio.gather(
            *(settle_all(journal, job_ids[n::8], durable=bool(n % 2)) for n in range(8))
        )
    print_line("closed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
