"""What is drawn from a seed for a scenario of the model test."""

import asyncio
import sys
from random import Random

from model_actors import Actor
from model_faults import STRAY, Behaviour
from model_scenarios import Scenario
from model_source import ModelJob

INVALID_IDS = ("", "a/b", "..", "white space")


def draw_scenario(seed):
    """Draw a scenario."""
    rng = Random(f"model/{seed}")
    flow = rng.random() < 0.15
    jobs = _draw_flow(rng) if flow else _draw_jobs(rng)
    behaviour = _draw_behaviour(rng)
    count = rng.choice((1, 1, 1, 2))
    shared = rng.choice((None, None, 1, 3, 20)) if rng.random() < 0.5 else None
    watchers = [
        {
            "discovery": rng.choice(("auto", "auto", "get", "list")),
            "concurrency": rng.choice((1, 3, 8, 64, 64)),
            "buffer": rng.choice((None, None, 1, 3)),
            "patience": rng.choice((300.0, 300.0, 60.0)),
            "timed": rng.random() < 0.7,
            "budget": rng.choice((None, None, None, None, 1.0, 5.0)),
            "learnt": rng.choice((None, None, None, 5.0, 40.0, 600.0)),
        }
        for _ in range(count)
    ]
    actors = [_draw_actor(rng, jobs, number, count) for number in range(rng.randint(1, 6))]
    if flow:
        actors[0] = _draw_reader(rng, jobs)
    ids = [job.job_id for job in jobs]
    more = Random(f"model/{seed}/budget")  # separate, so that the other draws stay the same
    shared_budget = more.choice((0.5, 1.0, 5.0, 30.0)) if more.random() < 0.12 else None
    if shared_budget is not None:
        watchers = [options | {"budget": shared_budget} for options in watchers]
    return Scenario(
        seed=seed,
        behaviour=behaviour,
        jobs=jobs,
        watchers=watchers,
        shared_semaphore=shared,
        shared_budget=shared_budget,
        own_requests=sorted(more.uniform(0, 120) for _ in range(more.choice((0, 3, 20))))
        if shared_budget is not None
        else [],
        actors=actors,
        polled_now=[
            (rng.uniform(0, 100), rng.choice(ids)) for _ in range(rng.choice((0, 0, 3, 20)))
        ],
        stops=[
            (rng.uniform(0, 60), rng.choice((5.0, 90.0, 400.0, 3_600.0)))
            for _ in range(rng.choice((0, 0, 0, 1, 2)))
        ],
        close_at=rng.uniform(0, 100) if rng.random() < 0.05 else None,
        eager=sys.version_info >= (3, 12) and rng.random() < 0.3,
    )


def _draw_jobs(rng):
    count = rng.choice((1, 1, 2, 4, 8, 12, 16, 30, 60, 60))
    mean = rng.choice((0.0, 2.0, 10.0, 40.0, 40.0, 200.0, 200.0, 600.0))
    spread = rng.choice((0.0, 0.1, 1.0))
    faulty = rng.choice((0.0, 0.0, 0.1, 0.3, 1.0))
    begin = rng.choice((0.0, 0.0, 0.0, -30.0, -3_000.0))
    jobs = []
    for number in range(count):
        duration = mean * (rng.expovariate(1) if spread == 1.0 else rng.gauss(1, spread))
        duration = max(duration, 0.0) if rng.random() < 0.97 else 1e9
        received_at = begin + rng.uniform(-5, 0)
        fault = rng.choice(("unknown", "forbidden", "unprocessable", "malformed", "wrong", "down"))
        late = rng.random() < 0.05
        jobs.append(
            ModelJob(
                job_id=f"job-{number}",
                received_at=received_at,
                started_at=received_at + duration * rng.choice((0.0, 0.2, 0.9)),
                ended_at=received_at + duration,
                final=rng.choice(("completed", "completed", "completed", "failed", "cancelled")),
                fault=fault if rng.random() < faulty else None,
                visible_at=rng.uniform(0, 8) if late else -1e9,
            )
        )
    return jobs


def _draw_flow(rng):
    """Draw jobs that arrive one after the other, the first one before all that is watched."""
    count, seconds = rng.choice((40, 120)), rng.choice((30.0, 120.0))
    mean = rng.choice((2.0, 10.0, 10.0, 40.0))
    jobs = []
    for number in range(count):
        received_at = number * seconds / count - 1.0
        duration = mean * max(rng.gauss(1, 0.3), 0.0)
        jobs.append(
            ModelJob(
                job_id=f"job-{number}",
                received_at=received_at,
                started_at=received_at + duration * rng.choice((0.0, 0.2, 0.9)),
                ended_at=received_at + duration,
                visible_at=received_at + rng.choice((0.0, 0.0, 0.5)),
            )
        )
    return jobs


def _draw_reader(rng, jobs):
    """Draw a consumer that gets the ids of jobs as they arrive."""
    kind = rng.choice(("watch", "watch", "updates", "status_updates"))
    return Actor(
        name="actor 0",
        kind=kind,
        source=0,
        ids=[job.job_id for job in jobs],
        source_kind="as they arrive",
        window=rng.choice((None, None, 5, 40)) if kind == "watch" else None,
        errors=rng.choice(("raise", "yield")) if kind == "watch" else "raise",
        slow=rng.choice((0.0, 0.0, 0.0, 0.1, 1.0)),
        cancel_at=rng.choice((None, None, None, rng.uniform(0, 200))),
    )


def _draw_behaviour(rng):
    stray = rng.choice((0.0, 0.0, 0.0, 0.03, 0.2))
    fatal = rng.choice(("bad key", "no credits", "bug")) if rng.random() < 0.08 else None
    outages = []
    if rng.random() < 0.2:
        begin = rng.uniform(0, 60)
        outages.append((begin, begin + rng.choice((5.0, 60.0, 400.0, 650.0))))
    return Behaviour(
        latency=rng.choice(((0.0, 0.0), (0.02, 0.2), (0.02, 0.2), (0.02, 0.2), (0.5, 3.0))),
        stray=stray,
        stray_kinds=tuple(rng.sample(sorted(STRAY), 3)),
        outages=tuple(outages),
        fatal=fatal,
        fatal_at=rng.choice((0.0, rng.uniform(0, 40))),
        listing=rng.choice(
            ("honest", "honest", "honest", "none", "keeps settled", "empty", "misses half")
            + (("endless",) if rng.random() < 0.5 else ())
        ),
        list_lag=rng.choice((0.0, 0.0, 0.0, 5.0, 60.0)),
        foreign=rng.choice((0, 0, 0, 250)),
        list_error=rng.choice((0.0, 0.0, 0.02, 0.3)),
        received_at=rng.choice(("exact", "exact", "exact", "absent", "early", "late")),
        progress=rng.choice(("none", "none", "true", "too fast", "nonsense")),
        completed_at=rng.choice(("absent", "absent", "exact", "early", "late")),
    )


def _draw_actor(rng, jobs, number, watchers):
    kind = rng.choice(
        (
            "wait",
            "wait",
            "long_poll",
            "watch",
            "watch",
            "watch",
            "watch",
            "updates",
            "status_updates",
        )
    )
    start = rng.choice((0.0, 0.0, rng.uniform(0, 30), rng.uniform(0, 200)))
    ids = [job.job_id for job in jobs if job.received_at <= start]
    source_kind = "list"
    if kind in {"wait", "long_poll"}:
        ids = [rng.choice(ids)]
    else:
        ids = rng.sample(ids, rng.randint(1, len(ids)))
        ids += rng.choices(ids, k=rng.choice((0, 0, 2)))
        source_kind = rng.choice(("list", "list", "iterator", "stream", "endless"))
        if rng.random() < 0.15:
            ids.insert(rng.randrange(len(ids) + 1), rng.choice(INVALID_IDS))
    never_ends = source_kind == "endless" or any(j.ended_at > 1e8 for j in jobs if j.job_id in ids)
    # Without one of these, the actor would rightly follow its jobs forever.
    leave = cancel_at = timeout = None
    match rng.choice(
        ("timeout", "leave", "cancel") if never_ends else ("", "", "timeout", "leave", "cancel")
    ):
        case "timeout" if kind not in {"status_updates", "long_poll"} and source_kind != "endless":
            timeout = rng.choice((0.0, 1.0, 20.0, 100.0, 1_000.0))
        case "leave" if kind not in {"wait", "long_poll"} and not never_ends:
            leave = rng.choice(("break", "break by name", "async with", "aclose"))
        case "":
            pass
        case _:
            cancel_at = rng.choice((0.0, rng.uniform(0, 10), rng.uniform(0, 300)))
    return Actor(
        name=f"actor {number}",
        kind=kind,
        source=rng.randrange(watchers),
        ids=ids,
        source_kind=source_kind,
        start=start,
        timeout=timeout,
        window=rng.choice((None, None, 1, 5)) if kind == "watch" else None,
        errors=rng.choice(("raise", "yield")) if kind == "watch" else "raise",
        slow=rng.choice((0.0, 0.0, 0.0, 0.1, 5.0)) if kind not in {"wait", "long_poll"} else 0.0,
        leave=leave,
        leave_after=rng.randint(1, max(len(ids) // rng.choice((1, 4)), 1)),
        cancel_at=cancel_at,
        broken_after=rng.randrange(len(ids))
        if source_kind in {"iterator", "stream"} and rng.random() < 0.05
        else None,
        broken_by=rng.choice((LookupError, asyncio.CancelledError)),
    )
