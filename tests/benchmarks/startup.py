"""Measures the CPU seconds of a start: interpreter, imports, command, and its completions.

Each figure is the median of ``--runs`` processes, which run one at a time. It is the sum of user
and system time. The programs take turns, so that a busy machine slows all of them equally.
"""

import argparse
import os
import resource
import subprocess
import sys
from statistics import median

# Arguments of the interpreter, and maximum CPU seconds on the machine of the project; None without
# a goal.
STARTS = {
    "a bare interpreter": (["-c", "pass"], None),
    "import adepoll": (["-c", "import adepoll"], 0.1),
    "import aiohttp": (["-c", "import aiohttp"], None),
    "import adepoll.api.client": (["-c", "import adepoll.api.client"], None),
    "adepoll --version": (["-m", "adepoll", "--version"], 0.15),
    "adepoll --help": (["-m", "adepoll", "--help"], 0.15),
    "adepoll watch --help": (["-m", "adepoll", "watch", "--help"], None),
    "adepoll status --help": (["-m", "adepoll", "status", "--help"], None),
}
# Command lines whose last word the shell completes: one for each source of completions.
COMPLETIONS = (
    "adepoll wa",
    "adepoll watch --",
    "adepoll watch --discovery ",
    "adepoll watch --region ",
    "adepoll watch -f re",
    "adepoll get --kind ",
    "adepoll list --status ",
    "adepoll export --to ",
    "adepoll completion ",
    "adepoll emulate --fault rate",
)
COMPLETION_GOAL = 0.15
RUNS = 15


def completing(words: str) -> dict[str, str]:
    """Return the variables with which the completion of zsh starts the command."""
    return {
        "_ADEPOLL_COMPLETE": "zsh_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }


def cpu_of(arguments: list[str], variables: dict[str, str]) -> float:
    """Return the CPU seconds of one process of this interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **variables},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure all starts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    starts: dict[str, tuple[list[str], dict[str, str], float | None]] = {
        name: (arguments, {}, goal) for name, (arguments, goal) in STARTS.items()
    }
    starts |= {
        f"{words}<Tab>": (["-m", "adepoll"], completing(words), COMPLETION_GOAL)
        for words in COMPLETIONS
    }
    measured: dict[str, list[float]] = {name: [] for name in starts}
    for number in range(runs + 1):
        for name, (arguments, variables, _) in starts.items():
            seconds = cpu_of(arguments, variables)
            if number:  # the first round compiles modules and fills the page cache
                measured[name].append(seconds)
    bare = median(measured["a bare interpreter"])
    print(f"{'':34} CPU s  / bare    goal   (median of {runs} runs)")
    for name, (_, _, goal) in starts.items():
        seconds = median(measured[name])
        print(
            f"{name:34} {seconds:5.3f}  {seconds / bare:6.1f}"
            + ("" if goal is None else f"  {goal:6.2f}{'' if seconds <= goal else '  missed'}"),
            flush=True,
        )


if __name__ == "__main__":
    main()
