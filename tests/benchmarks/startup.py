"""Measures the CPU seconds of a start: bare interpreter, imports of adepoll and aiohttp, command.

Each figure is the median of ``--runs`` processes, which run one at a time. It is the sum of user
and system time. The programs take turns, so that a busy machine slows all of them equally.
"""

import argparse
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
RUNS = 15


def cpu_of(arguments: list[str]) -> float:
    """Return the CPU seconds of one process of this interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure all starts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    measured: dict[str, list[float]] = {name: [] for name in STARTS}
    for number in range(runs + 1):
        for name, (arguments, _) in STARTS.items():
            seconds = cpu_of(arguments)
            if number:  # the first round compiles modules and fills the page cache
                measured[name].append(seconds)
    bare = median(measured["a bare interpreter"])
    print(f"{'':22} CPU s  / bare    goal   (median of {runs} runs)")
    for name, (_, goal) in STARTS.items():
        seconds = median(measured[name])
        print(
            f"{name:22} {seconds:5.3f}  {seconds / bare:6.1f}"
            + ("" if goal is None else f"  {goal:6.2f}{'' if seconds <= goal else '  missed'}"),
            flush=True,
        )


if __name__ == "__main__":
    main()
