"""Compares downloads with other clients, and tests them with kills, faults and an outage.

The figures are speed, CPU time and memory. The server is nginx on loopback. Each client is a
separate process. The clients take turns, so that a busy machine slows all of them equally. A client
in Python fetches a small result first, and measures its own time and CPU time. For the other
clients, the time of the whole process counts. adepoll computes the digest and syncs the file. The
clients "aiohttp, digest" and "curl, digest" do both, too; the latter is a shell that runs curl,
openssl and sync. The clients "curl" and "curl, sync" compute no digest, and "aiohttp" and "curl" do
not sync.

adepoll receives its bytes with aiohttp and asyncio, which need more CPU time than curl does. So
where CPU time is the limit, as on a busy machine, adepoll cannot reach the speed of curl if
"aiohttp" does not reach it.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from attrs import frozen

sys.path.append(str(Path(__file__).parents[1] / "support"))

from _clients import DEFAULT_CONNECTIONS, DOWNLOADING, HEADER, MB, TINY, Clients, Race, reports
from crowd import download_together
from kills import CONNECTIONS as KILLED_CONNECTIONS
from kills import download_and_kill, kill_two_writers
from nginx import COMMAND, WHY_NOT, Nginx
from proxies import Authority

from adepoll.fetcher.segments import FIRST_SEGMENT

MIB = 2**20
# Options of the client for its event loop, and the size of the result in bytes.
MEMORY_OF = [((), 1_000 * MB), (("--uvloop",), 1_000 * MB), ((), 5_000 * MB)]
MOST_GROWTH = 24 * MIB
THROTTLED_SIZE = 300 * MB
THROTTLED_CONNECTIONS = 8
KILLED_SIZE = 256 * 2**20
CONTESTED_SIZE = 3 * 2**20
CROWD = 200
FAULTY = 0.2
OUTAGE = 10.0  # seconds in which all requests fail
SEED = 20
SERVER = "location /slow/ { alias %s/; limit_rate 10m; }"


# --- the results --------------------------------------------------------------------------------


def write_random(path: Path, size: int) -> None:
    """Write a JSON object of `size` bytes."""
    block = Random(SEED).randbytes(2**19).hex().encode()
    with path.open("wb") as file:
        left = size - file.write(b'{"extraction":"') - 2
        while left > 0:
            left -= file.write(block[:left])
        file.write(b'"}')


def write_sparse(path: Path, size: int) -> None:
    """Write a JSON object with a long string, whose bytes need no space on the disk."""
    with path.open("wb") as file:
        file.write(b'{"extraction":"')
        file.seek(size - 2)
        file.write(b'"}')


@contextmanager
def served(folder: Path) -> Iterator[Nginx]:
    """Serve a new folder inside `folder`, with and without TLS. It contains a small result."""
    home, files = folder / "nginx", folder / "served"
    home.mkdir()
    files.mkdir()
    write_random(files / TINY, 10_000)
    certificate = Authority(folder).certificate("127.0.0.1")
    server = SERVER % files
    with Nginx(home, files, server=server, log=False, certificate=certificate) as nginx:
        yield nginx


# --- the parts ----------------------------------------------------------------------------------


def speed(nginx: Nginx, out: Path, options: "Options") -> None:
    """Compare the download of one large file at the full speed of loopback."""
    write_random(nginx.folder / "large.json", options.size)
    clients = Clients(tiny=nginx.url(f"/{TINY}"))
    Race(
        name=f"{options.size / MB:,.0f} MB",
        size=options.size,
        url=nginx.url("/large.json"),
        clients={
            "adepoll": clients.adepoll,
            "aiohttp": clients.aiohttp,
            "aiohttp, digest": clients.aiohttp_and_digest,
            "curl": clients.curl,
            "curl, digest": clients.curl_and_digest,
        },
        goals={"aiohttp": 1.0, "curl": 1.0, "curl, digest": 1.0},
        out=out,
    ).run(options.rounds)
    (nginx.folder / "large.json").unlink()


def tls(nginx: Nginx, out: Path, options: "Options") -> None:
    """Compare the download of one large file over TLS; for a real disk, use ``--dir``."""
    write_random(nginx.folder / "large.json", options.size)
    ca = nginx.folder.parent / "authority.pem"
    clients = Clients(tiny=nginx.url(f"/{TINY}", tls=True), ca=ca)
    Race(
        name=f"{options.size / MB:,.0f} MB, TLS",
        size=options.size,
        url=nginx.url("/large.json", tls=True),
        clients={
            "adepoll": clients.adepoll,
            "adepoll, uvloop": clients.adepoll_on_uvloop,
            "aiohttp": clients.aiohttp,
            "aiohttp, digest": clients.aiohttp_and_digest,
            "curl, sync": clients.curl_and_sync,
        },
        goals={"aiohttp": 1.0, "aiohttp, digest": 1.0, "curl, sync": 1.0},
        cpu_goals={"aiohttp, digest": 1.05},
        out=out,
    ).run(options.rounds)
    (nginx.folder / "large.json").unlink()


def throttled(nginx: Nginx, out: Path, options: "Options") -> None:
    """Compare downloads from a server that sends at most 10 MiB/s on each connection."""
    write_random(nginx.folder / "middle.json", THROTTLED_SIZE)
    clients = Clients(tiny=nginx.url(f"/{TINY}"), connections=THROTTLED_CONNECTIONS)
    Race(
        name=f"{THROTTLED_SIZE / MB:,.0f} MB, 10 MiB/s x {THROTTLED_CONNECTIONS}",
        size=THROTTLED_SIZE,
        url=nginx.url("/slow/middle.json"),
        clients={"adepoll": clients.adepoll, "aria2c": clients.aria2c},
        goals={"aria2c": 0.9},
        out=out,
    ).run(min(3, options.rounds))
    (nginx.folder / "middle.json").unlink()


def memory(nginx: Nginx, out: Path, _options: "Options") -> None:
    """Measure how much a large result increases the memory, compared with a result of 2 MB."""
    print(f"{'size':<34}{'resident before MiB':>20}{'peak MiB':>12}{'growth MiB':>11}{'goal':>9}")
    path, ca = out / "sparse.json", nginx.folder.parent / "authority.pem"
    write_random(nginx.folder / "small.json", 2 * MB)
    for is_tls in (False, True):
        for loop, size in MEMORY_OF:
            write_sparse(nginx.folder / "sparse.json", size)
            small = nginx.url("/small.json", tls=is_tls)
            url = nginx.url("/sparse.json", tls=is_tls)
            client = [DOWNLOADING, "--ca", ca, *loop, DEFAULT_CONNECTIONS]
            first, second = reports(*client, tiny=small, url=url, path=path)
            growth = second["peak"] - first["resident"]
            where = [*["TLS"] * is_tls, *["uvloop"] * len(loop)]
            name = ", ".join([f"{size / MB:,.0f} MB", *where])
            print(
                f"{name:<34}{first['resident'] / MIB:>20.1f}{second['peak'] / MIB:>12.1f}"
                f"{growth / MIB:>11.1f}{f'<= {MOST_GROWTH // MIB}':>9}"
                f"{'' if growth <= MOST_GROWTH else '  missed'}"
            )
            path.unlink()


def kills(_nginx: Nginx, out: Path, options: "Options") -> None:
    """Kill a download at random moments, and start it again."""
    body = b'{"extraction":"' + Random(SEED).randbytes(KILLED_SIZE // 2).hex().encode() + b'"}'
    rng = Random(SEED)
    tally = asyncio.run(download_and_kill(body, out, kills=options.kills, rng=rng))
    again = [count for count, _ in tally.again]
    print(f"{tally.kills} kills of a download of {KILLED_SIZE / MB:,.0f} MB")
    print(f"  complete files, with no other file beside them: {tally.files}")
    mean, most = statistics.mean(again) / MB, max(again) / MB
    allowed = KILLED_CONNECTIONS * FIRST_SEGMENT / MB
    print(f"  MB fetched again for each kill: mean {mean:.1f}, maximum {most:.1f}")
    print(f"  {tally.most_open} connections; goal: one segment per connection, <= {allowed:.1f} MB")


def contest(_nginx: Nginx, out: Path, options: "Options") -> None:
    """Let two processes write the same file, and kill them; with and without file locks."""
    bodies = [b'{"extraction":"' + letter * CONTESTED_SIZE + b'"}' for letter in (b"a", b"b")]
    for locks in (True, False):
        rng = Random(SEED)
        done = asyncio.run(kill_two_writers(bodies, out, kills=options.kills, rng=rng, locks=locks))
        how = "flock works" if locks else "flock always succeeds"
        print(f"two processes with one target, {how}: {done.kills} kills, {done.published} files")
        print(f"  errors and wrong files: {len(done.wrong)}; goal: 0; left files: {len(done.left)}")
        for text in done.wrong:
            print(f"  {text.splitlines()[-1]}")


def crowd(_nginx: Nginx, out: Path, _options: "Options") -> None:
    """Download many results at the same time from a server with faults."""
    tally = asyncio.run(download_together(out, count=CROWD, share=FAULTY, seed=SEED))
    errors = ", ".join(f"{count} {name}" for name, count in tally.errors.most_common())
    hits = sum(tally.faults.values())
    print(f"{CROWD} downloads at once, {FAULTY:.0%} of requests faulty, {len(tally.faults)} kinds,")
    print(f"  each kind always for one job: {hits} faults in {tally.requests} requests")
    print(f"  identical: {tally.identical}; typed errors: {tally.errors.total()} ({errors})")
    print(f"  identical at the second call: {tally.later}; resumable files kept: {tally.partials}")
    print(f"  other errors: {len(tally.wrong)}; goal: 0")
    for line in tally.wrong:
        print(f"  {line}")


def outage(_nginx: Nginx, out: Path, _options: "Options") -> None:
    """Download many results at the same time; all requests fail for `OUTAGE` seconds."""
    options = {"count": CROWD, "share": FAULTY, "seed": SEED, "outage": OUTAGE}
    tally = asyncio.run(download_together(out, **options))
    hits = sum(tally.faults.values())
    print(f"{CROWD} downloads at once, {FAULTY:.0%} of requests faulty, {len(tally.faults)} kinds,")
    print(f"  and all requests fail for {OUTAGE:.0f} s: {hits} faults in {tally.requests} requests")
    print(f"  identical: {tally.identical}; goal: {CROWD}")
    for name, count in tally.errors.most_common():
        print(f"  {count} {name}")
    for line in tally.wrong:
        print(f"  {line}")


# --- all of it ----------------------------------------------------------------------------------

PARTS = {
    part.__name__: part for part in (speed, tls, throttled, memory, kills, contest, crowd, outage)
}
NEED = 2.2 * max(size for _, size in MEMORY_OF)


@frozen
class Options:
    """The options of the benchmark.

    Attributes:
        size: Size of the large file in bytes.
        rounds: Number of downloads of each client.
        kills: Number of kills.
        dir: Folder for all files; None for a folder in memory or, if it is too small, on the disk.
        only: Name of the only part that runs; empty for all parts.
    """

    size: int
    rounds: int
    kills: int
    dir: Path | None
    only: str

    def place(self) -> Path:
        """Return the folder for the files."""
        if self.dir is not None:
            return self.dir
        shared = Path("/dev/shm")
        if shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > NEED:
            return shared
        return Path(tempfile.gettempdir())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000 * MB, help="bytes of the large file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--dir", type=Path, help="folder for the files, on a real disk for example")
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
            if part in {speed, tls, throttled}:
                print(HEADER)
            part(nginx, out, options)
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
