"""Polls and lag of the watcher beside the official SDK's waiter, for all kinds of workloads.

In virtual time, over the emulator's world. Three tables: 5,000 jobs of four kinds with GETs alone;
the laboratory, with every workload that is known to be hard; how soon a settled job is polled. Then
the estimated time left.
``--only TEXT`` plays the rows whose names contain the text, ``--list`` prints all names.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor

from _first_poll import IMMEDIATELY, WAYS, play_first_polls, play_settled_window
from _lab import PLAIN_LOOP, PRODUCT, SWEEP_REQUESTS, TARGET_LAG, Result
from _lab_rows import ROWS
from _time_left import ESTIMATED, play_time_left
from _workloads import EVENLY, WORKLOADS, Batch, N, Outcome, as_official, mean, play, watched
from attrs import evolve, frozen

from adepoll.scheduling.durations import Durations
from adepoll.scheduling.schedules import Adaptive

# Share of the SDK's mean lag to be reached with no more polls than it makes: with what an earlier
# batch of the kind taught, and from nothing. With full knowledge, the optimum is 0.47, 0.09, 0.24
# and 0.69. The lag bound costs polls where jobs surely do not end: of B, about seven of the SDK's
# eleven polls, and of C, three of thirteen. Hence the optimum is out of reach there.
GOALS = {"A": (0.55, 0.65), "B": (0.40, 0.48), "C": (0.44, 0.65), "D": (0.75, 0.85)}
TARGET = 2.0
SEEN = 200  # jobs after which TARGET is to be met within 20%
GETS_ONLY = {"discovery": "get", "concurrency": 8192}


@frozen(kw_only=True)
class Case:
    """A batch, and how it is followed.

    Attributes:
        batch: The jobs.
        knowing: Whether an earlier batch of the kind was watched before.
        target_lag: What the adaptive schedule aims at; None for the SDK's waits.
    """

    batch: Batch
    knowing: bool = False
    target_lag: float | None = None

    def play(self) -> Outcome:
        """Play it."""
        if self.target_lag is None:
            return play(self.batch, as_official)
        durations = Durations()
        policy = watched(durations, schedule=Adaptive(target_lag=self.target_lag), **GETS_ONLY)
        if self.knowing:
            play(evolve(self.batch, seed=self.batch.seed + 1_000), policy)
        return play(self.batch, policy)


@frozen(kw_only=True)
class Line:
    """A line of the table: the share of the SDK's lag that is the goal, and how it came out."""

    batch: Batch
    name: str
    goal: float

    def play(self) -> tuple[Outcome, Outcome]:
        """Play the SDK's policy and ours."""
        sdk = Case(batch=self.batch).play()
        target = AIMS[self.name][self.batch.workload] * self.goal * sdk.lag
        return sdk, Case(batch=self.batch, knowing=self.name == "knowing", target_lag=target).play()


# What target_lag is set to, relative to the goal, to stay below it and below the SDK's polls for
# any seed. D has little room for polls; where all end at nearly one age, there is more.
AIMS = {
    "knowing": {"A": 1.0, "B": 0.88, "C": 0.89, "D": 0.93},
    "learning": {"A": 0.87, "B": 0.87, "C": 0.87, "D": 0.87},
}


def main() -> None:
    """Play all, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=N, help="of the first table")
    parser.add_argument("--scale", type=float, default=1.0, help="of the laboratory's jobs")
    parser.add_argument("--only", action="append", help="part of a row's name; repeatable")
    parser.add_argument("--list", action="store_true", help="print the names of all rows")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()

    def is_chosen(name: str) -> bool:
        return not options.only or any(part in name for part in options.only)

    batches = {
        f"{workload} {'evenly' if spread else 'all together'}": Batch(
            workload=workload, spread=spread, jobs=options.jobs, seed=options.seed
        )
        for workload in WORKLOADS
        for spread in (0.0, EVENLY)
    }
    batches = {name: batch for name, batch in batches.items() if is_chosen(name)}
    rows = [name for name in ROWS if is_chosen(name)]
    ways = [(f"first poll: {way}, {how}", way, how) for way in WAYS for how in ("auto", "get")]
    ways = [line for line in ways if is_chosen(line[0])]
    windows = [(f"settled through a window: {how}", how) for how in ("auto", "get")]
    windows = [line for line in windows if is_chosen(line[0])]
    estimated = {f"time left: {name}": name for name in ESTIMATED}
    estimated = {label: name for label, name in estimated.items() if is_chosen(label)}
    if options.list:
        print(*batches, *rows, *(line[0] for line in (*ways, *windows)), *estimated, sep="\n")
        return
    with ProcessPoolExecutor(max_workers=options.processes) as pool:
        if batches:
            print_goals(pool, batches)
        if rows:
            print_laboratory(pool, rows, seed=options.seed, scale=options.scale)
        if ways:
            print_first_polls(pool, ways, seed=options.seed)
        for name, how in windows:
            took = pool.submit(play_settled_window, options.seed, how).result()
            print(f"{name:40} {took:6.1f} s")
        for label, name in estimated.items():
            print(label)
            for at, estimate, truth in pool.submit(play_time_left, name, options.seed).result():
                shown = "unknown" if estimate is None else f"{estimate:.0f} s"
                print(f"  at {at:.0f} s: {shown}; it takes {truth:.0f} s")


def print_goals(pool: Executor, batches: Mapping[str, Batch]) -> None:
    """Print the table of four kinds of jobs, GETs alone."""
    lines = [
        (label, Line(batch=batch, name=name, goal=goal))
        for label, batch in batches.items()
        for name, goal in zip(("knowing", "learning"), goals(batch), strict=True)
    ]
    rows = [(label, line, pool.submit(line.play)) for label, line in lines]
    targets = [
        (label, name, pool.submit(Case(batch=batch, knowing=knowing, target_lag=TARGET).play))
        for label, batch in batches.items()
        for name, knowing in (("knowing", True), ("learning", False))
    ]
    batch = next(iter(batches.values()))
    print(f"{batch.jobs} jobs, seed {batch.seed}; GETs only; polls per job, mean lag in s\n")
    print("                             official SDK      adaptive")
    print("kind                        polls   lag      polls   lag   lag/SDK  goal")
    for label, line, row in rows:
        sdk, ours = row.result()
        met = ours.each <= sdk.each and ours.lag <= line.goal * sdk.lag
        print(
            f"{label:14} {line.name:10}"
            f"  {sdk.each:5.2f}  {sdk.lag:5.2f}     {ours.each:5.2f}  {ours.lag:5.2f}"
            f"   {ours.lag / sdk.lag:5.3f}    {line.goal:.2f}{'' if met else '  missed'}",
            flush=True,
        )
    print(f"\ntarget_lag={TARGET}: mean lag once {SEEN} jobs have been seen (goal: 1.6 to 2.4)")
    for label, name, row in targets:
        ours = row.result()
        lag = mean(ours.detection_lag[SEEN:])
        print(
            f"{label:14} {name:10}  {lag:5.2f}  at {ours.each:5.2f} polls"
            f"{'' if abs(lag / TARGET - 1) <= 0.2 else '  missed'}",
            flush=True,
        )
    print()


def play_row(name: str, seed: int, scale: float) -> Result:
    """Play a row of the laboratory; the name is what a process can be given."""
    return ROWS[name].play(seed=seed, scale=scale)


def print_laboratory(pool: Executor, names: Sequence[str], *, seed: int, scale: float) -> None:
    """Print the laboratory, a row as soon as it and those before it were played."""
    print(
        f"Laboratory, seed {seed}, scale {scale:g}: lag in s, requests per job; product: requests x"
        f" mean lag,\nrelative to the SDK's. Goals: mean and p95 at most the SDK's; product at most"
        f" {PRODUCT}; mean at most\n{PLAIN_LOOP} times that of the plain loop, where the budget is"
        f" short; where marked *, the target lag of {TARGET_LAG:g} s\nwithin 20%, in auto at most"
        f" {SWEEP_REQUESTS} requests per job.\n"
    )
    print(f"{'':55}  {'adepoll':^31}  {'official SDK':^23}")
    print(
        f"{'':55}  {'mean':>7} {'p95':>7} {'max':>7} {'requ.':>7}"
        f"  {'mean':>7} {'p95':>7} {'requ.':>7}  product  verdict"
    )
    futures = [pool.submit(play_row, name, seed, scale) for name in names]
    missed = 0
    for future in futures:
        result = future.result()
        ours, sdk = result.ours, result.sdk
        verdict = ", ".join(result.missed())
        missed += bool(verdict)
        notes = [f"missed: {verdict}" if verdict else "ok", ours.note]
        if result.plain is not None:
            notes.append(f"(plain loop {result.plain.mean:.1f})")
        if result.clairvoyant is not None:
            notes.append(f"(clairvoyant {result.clairvoyant.mean:.1f})")
        print(
            f"{result.name + ' *' * result.meets_target:55}"
            f"  {ours.mean:7.2f} {ours.p95:7.2f} {ours.longest:7.2f} {ours.requests:7.2f}"
            f"  {sdk.mean:7.2f} {sdk.p95:7.2f} {sdk.requests:7.2f}"
            f"  {result.product:7.2f}  {' '.join(filter(None, notes))}",
            flush=True,
        )
    print(f"\n{len(futures) - missed} of {len(futures)} rows meet their goals\n")


def print_first_polls(pool: Executor, lines: Sequence[tuple[str, str, str]], *, seed: int) -> None:
    """Print how soon settled jobs are polled beside 50 active ones."""
    print("A settled job beside a watcher of 50 active jobs: s until its first poll")
    print(f"{'':40} {'mean':>6} {'max':>6}  goal: {IMMEDIATELY:g} s")
    futures = [(name, pool.submit(play_first_polls, way, how, seed)) for name, way, how in lines]
    for name, future in futures:
        polls = future.result()
        verdict = "" if polls.met else "  missed"
        print(f"{name:40} {polls.mean:6.2f} {max(polls.delays):6.2f}{verdict}", flush=True)
    print()


def goals(batch: Batch) -> tuple[float, float]:
    """Give the share of the SDK's lag to be reached, knowing and learning."""
    knowing, learning = GOALS[batch.workload]
    return knowing, learning if batch.spread else 1.0


if __name__ == "__main__":
    main()
