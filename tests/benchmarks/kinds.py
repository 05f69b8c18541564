"""Watches jobs of all five kinds over HTTP, and measures the decoding of each kind.

The emulator runs in the same process. ``--jobs`` and ``--seed`` change the jobs.
"""

import argparse
import asyncio
import json
import math
from collections import Counter
from functools import partial
from random import Random
from statistics import fmean, quantiles

from decode import best_of

from adepoll import AdeClient, JobKind, JobRef, JobWatcher
from adepoll.api.kinds.registry import RULES
from adepoll.emulator import Emulator, JobPlan

MOST, LAG = 1.5, 2.4  # goals: requests per job; mean lag in seconds, 20% above the target lag
DECODE = 1.05  # goal: maximum time relative to v1 extract
EVENLY = 60.0  # seconds over which the jobs are received
LONGEST = 90.0  # maximum duration of a job in seconds


async def play(jobs: int, seed: int) -> None:
    """Watch jobs of all kinds, and print the requests and lags."""
    rng, loop = Random(seed), asyncio.get_running_loop()
    async with (
        Emulator(seed=seed) as ade,
        AdeClient(ade.api_key, base_url=ade.base_url) as client,
        JobWatcher(client) as watcher,
    ):

        async def submitted():
            start = loop.time()
            for number in range(jobs):
                await asyncio.sleep(start + number * EVENLY / jobs - loop.time())
                kind = JobKind.all()[number % len(JobKind.all())]
                plan = JobPlan(
                    queue_time=0.5, processing_time=min(LONGEST, 30 * math.exp(rng.gauss(0, 0.8)))
                )
                yield JobRef(ade.submit(plan, kind=kind), kind=kind)

        lags, kinds = [], Counter()
        async for job in watcher.watch(submitted()):
            lags.append((ade.clock(), job.job_id))
            kinds[str(job.kind)] += 1
        ends = {job.job_id: job.finished_at for job in ade.truth.jobs()}
        lags = [at - ends[job_id] for at, job_id in lags]
        stats = watcher.stats
        requests = stats.polls + stats.list_requests
    each, lag = requests / jobs, fmean(lags)
    print(f"{jobs} jobs over {EVENLY:g} s, {dict(kinds)}")
    print(f"requests per job {each:6.2f}   goal {MOST:.2f}{'' if each <= MOST else '  missed'}")
    print(f"mean lag, s      {lag:6.2f}   goal {LAG:.2f}{'' if lag <= LAG else '  missed'}")
    print(f"p95 lag, s       {quantiles(lags, n=20)[-1]:6.2f}")


def decode(rounds: int) -> None:
    """Print the time to decode an active and a completed job of each kind."""
    result = {
        JobKind.V1_EXTRACT: {"extraction": "x" * 400, "extraction_metadata": {}},
        JobKind.V1_PARSE: {"markdown": "x" * 400, "chunks": [], "splits": [], "grounding": {}},
        JobKind.V2_PARSE: {"markdown": "x" * 400, "structure": {}},
        JobKind.V2_EXTRACT: {"extraction": "x" * 400, "extraction_metadata": {}, "markdown": ""},
        JobKind.V2_WORKFLOW: {"output": {"a": "x" * 400}},
    }
    v1 = {"filename": "a", "org_id": "o", "duration_ms": 7, "credit_usage": 1.0, "job_id": "j"}
    v2 = {"job_id": "j", "duration_ms": 7, "openapi_spec": "1", "billing": {"total_credits": 1.0}}
    calls = []
    for kind, rules in RULES.items():
        if kind in {JobKind.V1_EXTRACT, JobKind.V1_PARSE}:
            active = {"job_id": "j", "status": "processing", "received_at": 1_782_907_200}
            active |= {"progress": 0.5}
            data = {**result[kind], "metadata": v1}
            completed = {**active, "status": "completed", "data": data, "metadata": v1}
        else:
            active = {"job_id": "j", "status": "processing", "created_at": "2026-07-01T12:00:00Z"}
            active |= {"progress": 0.5}
            completed = {**active, "status": "completed", "completed_at": "2026-07-01T12:00:00Z"}
            completed |= {"result": {**result[kind], "metadata": v2}}
        bodies = [json.dumps(raw).encode() for raw in (active, completed)]
        calls += [partial(rules.decode_job, body, 200) for body in bodies]
    times = best_of(rounds, calls, 200)
    print("\ndecoding, us     active  completed   of v1-extract")
    for number, kind in enumerate(RULES):
        active_time, completed_time = times[2 * number : 2 * number + 2]
        ratios = [active_time / times[0], completed_time / times[1]]
        missed = "" if max(ratios) <= DECODE else f"  goal {DECODE}, missed"
        print(
            f"{kind.name:14} {1e6 * active_time:8.1f} {1e6 * completed_time:10.1f}   "
            f"{ratios[0]:.2f} {ratios[1]:.2f}{missed}"
        )


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30, help="of decoding")
    parser.add_argument("--decode-only", action="store_true")
    options = parser.parse_args()
    if not options.decode_only:
        asyncio.run(play(options.jobs, options.seed))
    decode(options.rounds)


if __name__ == "__main__":
    main()
