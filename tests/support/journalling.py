"""A process of its own that writes to a journal, and says on stdout what has been acknowledged.

journalling.py JOURNAL FIRST COUNT: adds COUNT ids from FIRST, then settles them, some at once.
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


def say(what):
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def settle_every(journal, job_ids, durable):
    for job_id in job_ids:
        await journal.write(settled(job_id), durable=durable)
        say(job_id)


async def main(path, first, count):
    job_ids = [f"j{n}" for n in range(first, first + count)]
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        say("open")
        await journal.add(job_ids)
        say("added")
        await asyncio.gather(
            *(settle_every(journal, job_ids[n::8], durable=bool(n % 2)) for n in range(8))
        )
    say("closed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
