"""Counts lost and wrong outcomes of a server that is deployed many times under load.

The server stores outcomes in PostgreSQL. Each deploy starts a uvicorn process, and ends it at a
random moment with SIGTERM or, more rarely, SIGKILL. Some processes overlap, and sometimes the
database is restarted. Needs PostgreSQL.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).parents[1] / "support"))

from deploying import CLIENTS, Deploys, Tally
from postgresql import BIN, running_postgresql

from adepoll.emulator import Emulator

DEPLOYS = 50


async def measure(deploys: int, seed: int) -> Tally:
    """Run the deploys; return the counts."""
    with TemporaryDirectory() as folder:
        async with running_postgresql() as database, Emulator(seed=seed) as ade:
            rng = random.Random(seed)
            return await Deploys(ade, database, Path(folder), rng).run(deploys)


def show(tally: Tally) -> None:
    """Print the figures."""
    ends = ", ".join(f"{count} {name}" for name, count in tally.ends.most_common())
    answers = ", ".join(f"{count:,} {name}" for name, count in tally.answers.most_common())
    print(f"  ends of processes: {ends}; longest after SIGTERM: {tally.longest_end:.1f} s")
    print(f"  open jobs at the end of a process, sum of all processes: {sum(tally.open_at_end):,}")
    print(f"  {CLIENTS} clients; their answers: {answers}")
    print(f"  {tally.jobs:,} jobs, {tally.stores:,} stored outcomes, {tally.again} stored again")
    print(f"  lost or wrong outcomes, and other errors: {len(tally.wrong)}; goal: 0")
    for line in tally.wrong:
        print(f"    {line}")


def main() -> None:
    """Run the deploys, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deploys", type=int, default=DEPLOYS)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    if BIN is None:
        parser.error("PostgreSQL is not installed")
    began = time.monotonic()
    tally = asyncio.run(measure(options.deploys, options.seed))
    print(f"{options.deploys} deploys in {time.monotonic() - began:.0f} s")
    show(tally)


if __name__ == "__main__":
    main()
