"""Downloads: speed and memory beside peers, and what kills and faults do to them.

The server is nginx on loopback. Each client is a process of its own, and they take turns, so that
a busy machine is busy for each. Clients in Python have fetched a small result before the clock
starts, and report their own seconds; the seconds of the others are from start to end of the
process. Those of adepoll include the digest and the sync to disk. Of the others, only "curl,
digest" does both: a shell runs curl, sha256sum and sync.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random

from attrs import field, frozen

sys.path.append(str(Path(__file__).parents[1] / "support"))

from crowd import download_together
from kills import CONNECTIONS as KILLED_CONNECTIONS
from kills import download_and_kill
from nginx import COMMAND, WHY_NOT, Nginx

from adepoll.fetcher.segments import FIRST_SEGMENT

MB = 1_000_000
MEMORY_SIZES = (MB, 1_000 * MB, 5_000 * MB)
MOST_GROWTH = 48 * MB
THROTTLED_SIZE = 300 * MB
THROTTLED_CONNECTIONS = 8
DEFAULT_CONNECTIONS = 4
KILLS = 50
KILLED_SIZE = 256 * 2**20
CROWD = 200
FAULTY = 0.2
SEED = 20
TINY = "tiny.json"
DOWNLOADING = Path(__file__).parents[1] / "support" / "downloading.py"
PLAIN = Path(__file__).with_name("_plain.py")
SERVER = "location /slow/ { alias %s/; limit_rate 10m; }"

Fetch = Callable[[str, Path], float]
"""Fetches a URL to a path; gives the seconds."""


# --- what is fetched ----------------------------------------------------------------------------


def write_random(path: Path, size: int) -> None:
    """Write an object of JSON of that size."""
    block = Random(SEED).randbytes(2**19).hex().encode()
    with path.open("wb") as file:
        left = size - file.write(b'{"extraction":"') - 2
        while left > 0:
            left -= file.write(block[:left])
        file.write(b'"}')


def write_sparse(path: Path, size: int) -> None:
    """Write an object with a long string, whose bytes take no room on the disk."""
    with path.open("wb") as file:
        file.write(b'{"extraction":"')
        file.seek(size - 2)
        file.write(b'"}')


@contextmanager
def served(folder: Path) -> Iterator[Nginx]:
    """Serve a folder within this one, which has a small result in it."""
    home, files = folder / "nginx", folder / "served"
    home.mkdir()
    files.mkdir()
    write_random(files / TINY, 10_000)
    with Nginx(home, files, server=SERVER % files, log=False) as nginx:
        yield nginx


# --- the clients --------------------------------------------------------------------------------


def run(*command: object) -> str:
    """Run a client to its end; give what it printed."""
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def reports(connections: int, tiny: str, url: str, path: Path) -> list[dict[str, float]]:
    """Let adepoll fetch a small result and then this one; give what it tells of both."""
    first = path.with_name(TINY)
    first.unlink(missing_ok=True)
    out = run(sys.executable, DOWNLOADING, connections, tiny, first, url, path)
    return [json.loads(line) for line in out.splitlines()]


@frozen(kw_only=True)
class Clients:
    """Those that are compared.

    Attributes:
        tiny: The URL of a small result.
        connections: How many a client that knows how may use.
    """

    tiny: str
    connections: int = DEFAULT_CONNECTIONS

    def adepoll(self, url: str, path: Path) -> float:
        """A process of ours."""
        return reports(self.connections, self.tiny, url, path)[1]["seconds"]

    def plain(self, url: str, path: Path) -> float:
        """A loop over a body of aiohttp's."""
        out = run(sys.executable, PLAIN, self.tiny, path.with_name(TINY), url, path)
        return float(out.splitlines()[1])

    def curl(self, url: str, path: Path) -> float:
        """One connection, in C."""
        return timed("curl", "-sf", "-o", path, url)

    def curl_and_digest(self, url: str, path: Path) -> float:
        """What adepoll does beside fetching, by the tools that a shell has for it."""
        script = 'curl -sf -o "$1" "$2" && sha256sum "$1" && sync "$1"'
        return timed("sh", "-c", script, "sh", path, url)

    def aria2c(self, url: str, path: Path) -> float:
        """Several connections, in C++."""
        many = self.connections
        how = [f"-x{many}", f"-s{many}", "-k1M", "--file-allocation=none", "--no-conf", "-q"]
        return timed("aria2c", *how, "-d", path.parent, "-o", path.name, url)


def timed(*command: object) -> float:
    """Give the seconds that a process took."""
    began = time.perf_counter()
    run(*command)
    return time.perf_counter() - began


# --- the tables ---------------------------------------------------------------------------------


@frozen(kw_only=True)
class Race:
    """Clients that fetch the same in turns.

    Attributes:
        name: What is told of it.
        size: Bytes of the file.
        url: Where it is.
        clients: By their names.
        goals: What share of each peer's speed adepoll should have at least.
        out: The folder into which they write.
    """

    name: str
    size: int
    url: str
    clients: Mapping[str, Fetch] = field()
    goals: Mapping[str, float] = field()
    out: Path

    def go(self, rounds: int) -> None:
        """Let all take their turns, another one first in each round; print how it came out."""
        seconds: dict[str, list[float]] = {}
        for name in self.clients:
            command = name.partition(",")[0]
            if command in {"curl", "aria2c"} and shutil.which(command) is None:
                print(f"{self.name:<34}{name:<14}is not on this machine")
            else:
                seconds[name] = []
        order = [*seconds]
        for _ in range(rounds):
            for name in order:
                path = self.out / f"{name}.json"
                path.unlink(missing_ok=True)
                seconds[name].append(self.clients[name](self.url, path))
                if path.stat().st_size != self.size:
                    raise RuntimeError(f"{name} wrote {path.stat().st_size:,} of {self.size:,}")
                path.unlink()
            order.append(order.pop(0))
        ours = statistics.median(seconds["adepoll"])
        for name, all_of in seconds.items():
            middle = statistics.median(all_of)
            rate = self.size / MB / middle
            goal = f">= {self.goals[name]}" if name in self.goals else ""
            ratio = f"{middle / ours:.2f}" if name in self.goals else ""
            spread = f"{min(all_of):.2f}-{max(all_of):.2f}"
            print(
                f"{self.name:<34}{name:<14}{middle:>9.2f}{spread:>14}{rate:>9.0f}{ratio:>11}{goal:>9}"
            )


HEADER = (
    f"{'what':<34}{'client':<14}{'median s':>9}{'all s':>14}{'MB/s':>9}{'adepoll x':>11}{'goal':>9}"
)


def speed(nginx: Nginx, out: Path, options: "Options") -> None:
    """One large file at the full speed of loopback."""
    write_random(nginx.folder / "large.json", options.size)
    clients = Clients(tiny=nginx.url(f"/{TINY}"))
    Race(
        name=f"{options.size / MB:,.0f} MB, loopback",
        size=options.size,
        url=nginx.url("/large.json"),
        clients={
            "adepoll": clients.adepoll,
            "aiohttp": clients.plain,
            "curl": clients.curl,
            "curl, digest": clients.curl_and_digest,
        },
        goals={"aiohttp": 1.0, "curl": 0.9, "curl, digest": 1.0},
        out=out,
    ).go(options.rounds)
    (nginx.folder / "large.json").unlink()


def throttled(nginx: Nginx, out: Path, options: "Options") -> None:
    """A server that gives each connection 10 MB a second."""
    write_random(nginx.folder / "middle.json", THROTTLED_SIZE)
    clients = Clients(tiny=nginx.url(f"/{TINY}"), connections=THROTTLED_CONNECTIONS)
    Race(
        name=f"{THROTTLED_SIZE / MB:,.0f} MB, 10 MiB/s x {THROTTLED_CONNECTIONS}",
        size=THROTTLED_SIZE,
        url=nginx.url("/slow/middle.json"),
        clients={"adepoll": clients.adepoll, "aria2c": clients.aria2c},
        goals={"aria2c": 0.9},
        out=out,
    ).go(min(3, options.rounds))
    (nginx.folder / "middle.json").unlink()


def memory(nginx: Nginx, out: Path, _options: "Options") -> None:
    """By how much a process grows beyond what it had after a small result."""
    print(f"{'size':<34}{'resident before MB':>20}{'at most MB':>12}{'growth MB':>11}{'goal':>9}")
    for size in MEMORY_SIZES:
        write_sparse(nginx.folder / "sparse.json", size)
        path = out / "sparse.json"
        url = nginx.url("/sparse.json")
        first, second = reports(DEFAULT_CONNECTIONS, nginx.url(f"/{TINY}"), url, path)
        growth = second["peak"] - first["resident"]
        print(
            f"{f'{size / MB:,.0f} MB':<34}{first['resident'] / MB:>20.1f}"
            f"{second['peak'] / MB:>12.1f}{growth / MB:>11.1f}{f'<= {MOST_GROWTH // MB}':>9}"
        )
        path.unlink()


def kills(_nginx: Nginx, out: Path, _options: "Options") -> None:
    """Processes killed at random moments, and started again."""
    body = b'{"extraction":"' + Random(SEED).randbytes(KILLED_SIZE // 2).hex().encode() + b'"}'
    tally = asyncio.run(download_and_kill(body, out, kills=KILLS, rng=Random(SEED)))
    again = [count for count, _ in tally.again]
    print(f"{tally.kills} kills of a download of {KILLED_SIZE / MB:,.0f} MB; files that came out")
    print(f"  identical, with nothing beside them: {tally.files}")
    mean, most = statistics.mean(again) / MB, max(again) / MB
    allowed = KILLED_CONNECTIONS * FIRST_SEGMENT / MB
    print(f"  fetched twice for each kill, MB: {mean:.1f} in the mean, {most:.1f} at most")
    print(f"  over {tally.most_open} connections; goal: a part for each, <= {allowed:.1f}")


def crowd(_nginx: Nginx, out: Path, _options: "Options") -> None:
    """Many at once, from a server that fails."""
    tally = asyncio.run(download_together(out, count=CROWD, share=FAULTY, seed=SEED))
    errors = ", ".join(f"{count} {name}" for name, count in tally.errors.most_common())
    hits = sum(tally.faults.values())
    print(f"{CROWD} downloads at once, {FAULTY:.0%} of requests faulty, {len(tally.faults)} kinds")
    print(f"  for good for one job each: {hits} faults in {tally.requests} requests")
    print(f"  identical: {tally.identical}; typed errors: {tally.errors.total()} ({errors})")
    print(f"  identical at the next call: {tally.later}; resumable files kept: {tally.partials}")
    print(f"  anything else: {len(tally.wrong)}; goal: 0")
    for line in tally.wrong:
        print(f"  {line}")


# --- all of it ----------------------------------------------------------------------------------

PARTS = {"speed": speed, "throttled": throttled, "memory": memory, "kills": kills, "crowd": crowd}
NEED = 2.2 * max(MEMORY_SIZES)


@frozen
class Options:
    """What is measured.

    Attributes:
        size: Bytes of the file that is fetched at full speed.
        rounds: How often each client has its turn.
        dir: Where all files are; None for memory, where there is enough.
        only: The part that is run; empty for all.
    """

    size: int
    rounds: int
    dir: Path | None
    only: str

    def place(self) -> Path:
        """Give the folder in which the files are made: one in memory keeps the disk out of it."""
        if self.dir is not None:
            return self.dir
        shared = Path("/dev/shm")
        if shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > NEED:
            return shared
        return Path(tempfile.gettempdir())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000 * MB, help="of the large file, bytes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where the files are")
    parser.add_argument("--only", default="", choices=["", *PARTS])
    options = Options(**vars(parser.parse_args()))
    if COMMAND is None:
        parser.exit(1, f"{WHY_NOT}\n")
    place = options.place()
    print(f"files in {place} ({'memory' if place == Path('/dev/shm') else 'disk'})")
    chosen = [part for name, part in PARTS.items() if options.only in {"", name}]
    with tempfile.TemporaryDirectory(dir=place) as scratch, served(Path(scratch)) as nginx:
        for number, part in enumerate(chosen):
            out = Path(scratch) / f"out{number}"
            out.mkdir()
            if part in {speed, throttled}:
                print(HEADER)
            part(nginx, out, options)
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
