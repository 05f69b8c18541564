"""The rows of the laboratory, which `_lab` plays. Durations are seconds."""

import math
from collections.abc import Iterator
from random import Random

from _lab import Draw, Group, Row
from _lab_source import JobListing
from attrs import evolve

HOUR = 3_600.0


def about(mean: float, spread: float = 0.1) -> Draw:
    """Draw from a normal distribution; `spread` is its standard deviation, relative to the mean."""
    return lambda rng, _: rng.gauss(mean, spread * mean)


def log_normal(median: float, sigma: float = 0.5) -> Draw:
    """Draw from a log-normal distribution."""
    return lambda rng, _: median * math.exp(rng.gauss(0, sigma))


def exponential(mean: float) -> Draw:
    """Draw from an exponential distribution."""
    return lambda rng, _: rng.expovariate(1 / mean)


def pareto(exponent: float, shortest: float, longest: float = 4 * HOUR) -> Draw:
    """Draw from a Pareto distribution, cut off at `longest`."""
    return lambda rng, _: min(shortest * rng.paretovariate(exponent), longest)


def mixed(first: Draw, second: Draw, share: float = 0.5) -> Draw:
    """Draw from the first distribution with the chance `share`, else from the second."""
    return lambda rng, at: (first if rng.random() < share else second)(rng, at)


def uniform(shortest: float, longest: float) -> Draw:
    """Draw uniformly."""
    return lambda rng, _: rng.uniform(shortest, longest)


def drifting(first: Draw, last: Draw) -> Draw:
    """Draw from the first distribution for the first half of the jobs, then from the second."""
    return lambda rng, at: (first if at < 0.5 else last)(rng, at)


UP, DOWN = drifting(about(10), about(200)), drifting(about(200), about(10))


def growing(first: float, last: float) -> Draw:
    """Draw near a mean that changes exponentially from `first` to `last` over the jobs."""

    def draw(rng: Random, at: float) -> float:
        return rng.gauss(1, 0.1) * first * (last / first) ** at

    return draw


def _single(name: str, draw: Draw, jobs: int = 300, **options: object) -> Row:
    """Return a row in which a separate watcher waits for each job with `wait`."""
    return Row(name=f"wait: {name}", groups=(Group(draw=draw, jobs=jobs),), alone=True, **options)


def _taught(draw: Draw, jobs: int = 400) -> Group:
    return Group(draw=draw, jobs=jobs, spread=600.0)


def _single_rows() -> Iterator[Row]:
    """Yield rows in which a separate watcher waits for each job."""
    minute = _taught(about(60), 1_000)
    yield _single("5 s, after learning 60 s", about(5), learnt=minute)
    ten_minutes = _taught(about(600), 200)
    yield _single("5 s, after learning 600 s", about(5), learnt=ten_minutes)
    yield _single("30 s, after learning 600 s", about(30), learnt=ten_minutes)
    five = _taught(about(5))
    yield _single("120 s, after learning 5 s", about(120), learnt=five)
    yield _single("600 s, after learning 5 s", about(600), 100, learnt=five)
    yield _single("60 s, received_at absent", about(60), received_at=None)
    yield _single("60 s, received_at 3 h early", about(60), received_at=-3 * HOUR)
    yield _single("2 h 5 min, handed over after 2 h", about(7_500, 0.04), 150, handed_after=7_200.0)
    for seconds, jobs in ((1_800, 60), (3_600, 40), (7_200, 30)):
        yield _single(f"{seconds} s, nothing learnt", about(seconds), jobs)
    for seconds in (1, 5, 15, 60, 200):
        yield _single(f"{seconds} s, nothing learnt", about(seconds, 0.3))
    yield _single("exponential 60 s", exponential(60))
    yield _single("ended long before", about(60), handed_after=HOUR)
    yield _single("60 s, GET only", about(60), discovery="get")
    yield _single("60 s, received_at 3 h late", about(60), received_at=3 * HOUR)
    yield _single("60 s, Date one day ahead", about(60), clock_ahead=86_400.0)
    yield _single("60 s, Date one day behind", about(60), clock_ahead=-86_400.0)
    yield _single("60 s, after learning both 5 and 600 s", about(60), learnt=_taught(_short_long()))
    yield _single("600 s, budget 1/s", about(600), 50, budget=1.0)


def _short_long() -> Draw:
    return mixed(about(5), about(600))


def _watch(
    name: str, draw: Draw, *, jobs: int = 300, spread: float = 0.0, **options: object
) -> Row:
    """Return a row in which one watch has all jobs."""
    return Row(name=name, groups=(Group(draw=draw, jobs=jobs, spread=spread),), **options)


def _auto_rows() -> Iterator[Row]:
    """Yield rows with the default discovery."""
    late = JobListing(lag=5)
    yield _watch("auto: list 5 s behind, log-normal 60 s", log_normal(60), listing=late)
    later = JobListing(lag=60)
    yield _watch("auto: list 60 s behind, log-normal 600 s", log_normal(600), listing=later)
    kept = JobListing(keeps_settled=1.0)
    yield _watch("auto: list keeps settled jobs, log-normal 60 s", log_normal(60), listing=kept)
    yield _watch("auto: list keeps settled jobs, log-normal 600 s", log_normal(600), listing=kept)
    some = JobListing(keeps_settled=0.05)
    yield _watch(
        "auto: list keeps 5% of settled jobs, log-normal 60 s", log_normal(60), listing=some
    )
    yield _watch(
        "auto: list keeps 5% of settled jobs, log-normal 600 s", log_normal(600), listing=some
    )
    many = JobListing(keeps_settled=0.2)
    yield _watch(
        "auto: list keeps 20% of settled jobs, log-normal 60 s", log_normal(60), listing=many
    )
    hanging = JobListing(hanging=2)
    yield _watch("auto: two list requests hang", log_normal(60), jobs=100, listing=hanging)
    yield _watch("auto: 500 that fail immediately", about(0), jobs=500, spread=300)
    yield _watch("auto: 5 and 300 s mixed, one every 2 s", mixed(about(5), about(300)), spread=600)
    yield Row(
        name="auto: last 1% of a Pareto(1.1) batch",
        groups=(Group(draw=pareto(1.1, 5), jobs=2_000),),
        last_share=0.01,
    )
    honest = {"jobs": 1_000, "meets_target": True}
    yield _watch("auto: 1,000, log-normal 60 s", log_normal(60), **honest)
    yield _watch("auto: 1,000, log-normal 60 s, over 10 min", log_normal(60), spread=600, **honest)
    yield _watch("auto: 1,000, exponential 20 s", exponential(20), **honest)
    yield _watch("auto: 1,000 of 120 s with jitter", about(120, 0.02), **honest)
    yield _watch("auto: 1,000, uniform 0 to 200 s", uniform(0, 200), **honest)
    yield Row(
        name="auto: bursts of 100, log-normal 60 s",
        groups=(Group(draw=log_normal(60), jobs=1_000, bursts=10, spread=600.0),),
        meets_target=True,
    )
    yield Row(
        name="auto: pending for 90% of 120 s",
        groups=(Group(draw=log_normal(120), jobs=1_000, spread=300.0, pending_share=0.9),),
        meets_target=True,
    )
    yield _watch("auto: 300, log-normal 60 s", log_normal(60))
    yield _watch("auto: 300, uniform 0.2 to 3 s", uniform(0.2, 3))
    yield _watch("auto: 300, uniform 1 to 6 s", uniform(1, 6))
    yield _watch("auto: 100 of 2 s", about(2), jobs=100)
    yield _watch("auto: uniform 0.5 to 3 s, one every 0.5 s", uniform(0.5, 3), spread=150)
    failing, slow = JobListing(failing=0.3), JobListing(page_time=10.0)
    yield _watch("auto: 30% of the list requests fail", log_normal(60), listing=failing)
    yield _watch("auto: list requests take 10 s", log_normal(60), listing=slow)
    yield _watch("auto: list misses 30%", log_normal(60), listing=JobListing(missing=0.3))
    yield _watch("auto: list misses all", log_normal(60), listing=JobListing(missing=1.0))
    foreign = JobListing(foreign=5_000)
    yield _watch("auto: 5,000 foreign jobs, log-normal 60 s", log_normal(60), listing=foreign)
    crowd = JobListing(foreign=100_000)
    yield _watch("auto: 100,000 foreign jobs, log-normal 60 s", log_normal(60), listing=crowd)
    yield _watch(
        "auto: 5,000 foreign jobs, 5 s behind, 1,000 of 200 s",
        log_normal(200),
        jobs=1_000,
        listing=JobListing(foreign=5_000, lag=5),
    )
    yield _watch("auto: from 10 s to 200 s in mid-batch", UP, spread=600)
    yield _watch("auto: from 200 s to 10 s in mid-batch", DOWN, spread=600)
    yield _watch("auto: growing from 5 to 300 s", growing(5, 300), spread=900)
    yield _watch("auto: received_at absent, log-normal 60 s", log_normal(60), received_at=None)
    yield _watch("auto: Date one day ahead", log_normal(60), clock_ahead=86_400.0)
    yield _watch("auto: Date 90 s ahead", log_normal(60), clock_ahead=90.0)
    yield _watch(
        "auto: 100 handed over after 2 h", about(7_500, 0.02), jobs=100, handed_after=7_200
    )


def _get_rows() -> Iterator[Row]:
    """Yield rows without list sweeps."""
    get = {"discovery": "get"}
    yield Row(
        name="get: 1,000 that end at one instant",
        groups=(Group(draw=about(900), jobs=1_000, spread=600.0, end_at=900.0),),
        **get,
    )
    yield _watch("get: 1,000 of 60 s within 3%", about(60, 0.01), jobs=1_000, **get)
    yield Row(
        name="get: last 1% of a Pareto(1.1) batch",
        groups=(Group(draw=pareto(1.1, 5), jobs=2_000),),
        last_share=0.01,
        **get,
    )
    target = {"meets_target": True, **get}
    yield _watch("get: 30, log-normal 60 s", log_normal(60), jobs=30, **get)
    yield _watch("get: 100, log-normal 600 s", log_normal(600), jobs=100, **get)
    yield _watch("get: 300, log-normal 60 s", log_normal(60), **target)
    yield _watch("get: 1,000, Pareto(2), from 20 s", pareto(2, 20), jobs=1_000, **target)
    yield _watch("get: 1,000, Pareto(0.8), from 2 s", pareto(0.8, 2), jobs=1_000, **get)
    yield _watch("get: exponential 10 s", exponential(10), jobs=1_000, spread=100, **target)
    yield _watch("get: 70% of 3 s, 30% of 900 s", mixed(about(3), about(900), 0.7), **get)
    yield _watch("get: from 10 s to 200 s in mid-batch", UP, spread=600, **get)
    yield _watch("get: from 200 s to 10 s in mid-batch", DOWN, spread=600, **get)
    yield _watch("get: growing from 5 to 300 s", growing(5, 300), spread=900, **get)
    yield _watch(
        "get: 5 s, after learning 600 s",
        about(5),
        spread=300,
        learnt=_taught(about(600), 200),
        **get,
    )
    yield _watch(
        "get: 600 s, after learning 5 s",
        about(600),
        jobs=100,
        spread=300,
        learnt=_taught(about(5)),
        **get,
    )
    shorter = {"spread": 300, "learnt": _taught(about(600), 400), **get}
    yield _watch("get: 100 s, after learning 600 s", about(100), **shorter)
    yield _watch("get: uniform 50 to 600 s, after learning 600 s", uniform(50, 600), **shorter)
    yield Row(
        name="get: 300 that end at one instant, after learning 600 s",
        groups=(Group(draw=about(600), jobs=300, spread=100.0, end_at=200.0),),
        learnt=_taught(about(600), 400),
        **get,
    )
    second = log_normal(1, 0.2)
    yield _watch("get: 1 s, one every 0.5 s", second, spread=150, **get)
    yield _watch("get: 100 of 1 s, one every 5 s", second, jobs=100, spread=500, **get)
    yield _watch("get: 50 of 1 s", second, jobs=50, **get)
    yield _watch("get: 300 of 2 s", log_normal(2, 0.2), **get)
    yield _watch("get: 0.2 s, one every 0.2 s", uniform(0.2, 0.2), jobs=600, spread=120, **get)
    yield _watch(
        "get: received_at absent, log-normal 60 s",
        log_normal(60),
        spread=300,
        received_at=None,
        **get,
    )


def _budget_rows() -> Iterator[Row]:
    """Yield rows with a short budget."""
    for how in ("auto", "get"):
        yield _watch(
            f"{how}: 2,000, log-normal 600 s, budget 1/s",
            log_normal(600),
            jobs=2_000,
            discovery=how,
            budget=1.0,
        )
    yield _watch(
        "get: 200, log-normal 60 s over 10 min, budget 1/s",
        log_normal(60),
        jobs=200,
        spread=600,
        discovery="get",
        budget=1.0,
    )
    yield _watch(
        "get: 400, exponential 100 s over 800 s, budget 1.5/s",
        exponential(100),
        jobs=400,
        spread=800,
        discovery="get",
        budget=1.5,
    )
    yield _watch("auto: 1,500 of 1 h, budget 3/s", about(HOUR), jobs=1_500, budget=3.0)
    yield Row(
        name="auto: 20 s jobs beside 600 long ones, budget 1/s",
        groups=(
            Group(draw=about(2 * HOUR), jobs=600, measured=False),
            Group(draw=about(20), jobs=600, spread=1_200.0),
        ),
        budget=1.0,
    )
    yield _watch(
        "auto: 2,000, log-normal 60 s, budget 30/s", log_normal(60), jobs=2_000, budget=30.0
    )
    yield _watch("auto: 300, log-normal 60 s, budget 2/s", log_normal(60), budget=2.0)
    yield _watch(
        "auto: 600, exponential 300 s over 20 min, budget 1/s",
        exponential(300),
        jobs=600,
        spread=1_200,
        budget=1.0,
    )
    yield _watch(
        "auto: 500 of 10 min, 10 s behind, budget 2/s",
        log_normal(600),
        jobs=500,
        budget=2.0,
        listing=JobListing(lag=10),
    )
    yield _watch(
        "auto: 500 of 10 min, 2,000 foreign, budget 2/s",
        log_normal(600),
        jobs=500,
        budget=2.0,
        listing=JobListing(foreign=2_000),
    )
    yield _watch(
        "auto: 1,000 settled before, budget 10/s",
        about(60),
        jobs=1_000,
        handed_after=HOUR,
        budget=10.0,
    )


def _waits_rows() -> Iterator[Row]:
    """Yield rows in which one watcher waits for each job with its own call of `wait`."""
    yield _watch("waits: 300, log-normal 60 s", log_normal(60), waits=True)
    yield _watch(
        "waits: 2,000, log-normal 60 s, budget 30/s", log_normal(60), jobs=2_000, **_short(30.0)
    )
    yield _watch(
        "waits: 300, log-normal 60 s over 10 min, budget 2/s",
        log_normal(60),
        spread=600,
        **_short(2.0),
    )
    yield _watch("waits: 100, log-normal 60 s, budget 2/s", log_normal(60), jobs=100, **_short(2.0))
    yield _watch("waits: 300, log-normal 600 s, budget 1/s", log_normal(600), **_short(1.0))
    yield _watch(
        "waits: 600, exponential 300 s over 20 min, budget 1/s",
        exponential(300),
        jobs=600,
        spread=1_200,
        **_short(1.0),
    )
    for jobs, budget in ((50, 2), (300, 5)):
        yield _watch(
            f"waits: {jobs}, about 60 s, budget {budget}/s, with a timeout of 1 s in a loop",
            about(60),
            jobs=jobs,
            wait_timeout=1.0,
            **_short(budget),
        )


def _beside_rows() -> Iterator[Row]:
    """Yield rows with calls of `wait` beside a watch, and with a short budget."""
    for count, jobs, budget in ((1, 2_000, 1.0), (15, 100, 1.0), (30, 1_000, 2.0)):
        yield Row(
            name=f"get: waits ({count}) beside a watch of {jobs:,}, budget {budget:g}/s",
            groups=(
                Group(draw=log_normal(600), jobs=jobs, measured=False),
                Group(draw=log_normal(60), jobs=count, awaited=True),
            ),
            discovery="get",
            budget=budget,
        )
    beside = (
        (20, "and 200 waits of 60 s", 60, Group(draw=log_normal(60), jobs=200), 2.0),
        (50, "and 50 waits of 60 s", 60, Group(draw=log_normal(60), jobs=50), 2.0),
        (1_000, "and 30 waits of 600 s", 600, Group(draw=log_normal(600), jobs=30), 2.0),
        (600, "and 300 waits of 3 s", 600, Group(draw=about(3), jobs=300, spread=600), 1.0),
        (600, "and 150 waits of 20 s", 600, Group(draw=about(20), jobs=150, spread=750), 1.0),
    )
    for jobs, name, seconds, waits, budget in beside:
        yield Row(
            name=f"get: watch of {jobs:,} {name}, budget {budget:g}/s",
            groups=(Group(draw=log_normal(seconds), jobs=jobs), evolve(waits, awaited=True)),
            discovery="get",
            budget=budget,
        )
    yield _watch(
        "waits: 300, log-normal 60 s over 10 min, budget 2/s, GET only",
        log_normal(60),
        spread=600,
        discovery="get",
        **_short(2.0),
    )
    slow = JobListing(foreign=2_000, page_time=1.0)
    yield _watch(
        "auto: pages of 1 s, 2 requests in flight, log-normal 60 s",
        log_normal(60),
        listing=slow,
        concurrency=2,
    )


def _short(budget: float) -> dict[str, object]:
    return {"waits": True, "budget": budget}


ROWS = {
    row.name: row
    for rows in (_single_rows, _waits_rows, _auto_rows, _get_rows, _budget_rows, _beside_rows)
    for row in rows()
}
