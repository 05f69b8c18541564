"""Clients that fetch results in turns, and the table of their speeds. Used by ``fetch.py``."""

import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import field, frozen

MB = 1_000_000
DEFAULT_CONNECTIONS = 4
TINY = "tiny.json"
DOWNLOADING = Path(__file__).parents[1] / "support" / "downloading.py"
PLAIN = Path(__file__).with_name("_plain.py")


@frozen
class Cost:
    """The cost of one download.

    Attributes:
        seconds: Elapsed time.
        cpu: CPU seconds of the client, including system time.
    """

    seconds: float
    cpu: float


Fetch = Callable[[str, Path], Cost]
"""Fetches a URL to a path."""


def run(*command: object) -> str:
    """Run a client to its end; return its output."""
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def timed(*command: object) -> Cost:
    """Run a client; return the cost of its process."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - began, cpu)


def reports(*options: object, tiny: str, url: str, path: Path) -> list[dict[str, float]]:
    """Run a Python client that fetches a small result, then `url`; return its report of each."""
    first = path.with_name(TINY)
    first.unlink(missing_ok=True)
    out = run(sys.executable, *options, tiny, first, url, path)
    return [json.loads(line) for line in out.splitlines()]


@frozen(kw_only=True)
class Clients:
    """The clients that are compared.

    Attributes:
        tiny: URL of a small result.
        connections: Maximum number of connections, for clients that can use several.
        ca: PEM file of the certificate authority of the server; None without TLS.
    """

    tiny: str
    connections: int = DEFAULT_CONNECTIONS
    ca: Path | None = None

    def adepoll(self, url: str, path: Path) -> Cost:
        """Fetch with adepoll on asyncio's own event loop."""
        return self._python(DOWNLOADING, self.connections, url=url, path=path)

    def adepoll_on_uvloop(self, url: str, path: Path) -> Cost:
        """Fetch with adepoll on uvloop."""
        return self._python(DOWNLOADING, "--uvloop", self.connections, url=url, path=path)

    def aiohttp(self, url: str, path: Path) -> Cost:
        """Fetch with aiohttp alone, and write the body to a file."""
        return self._python(PLAIN, url=url, path=path)

    def aiohttp_and_digest(self, url: str, path: Path) -> Cost:
        """Fetch with aiohttp alone, compute the SHA-256, and sync the file."""
        return self._python(PLAIN, "--digest", url=url, path=path)

    def curl(self, url: str, path: Path) -> Cost:
        """Fetch with curl, over one connection."""
        return timed("curl", *self._trust("--cacert"), "-sf", "-o", path, url)

    def curl_and_sync(self, url: str, path: Path) -> Cost:
        """Fetch with curl, then run sync."""
        return self._curl_and('sync "$1"', url, path)

    def curl_and_digest(self, url: str, path: Path) -> Cost:
        """Fetch with curl, then compute the SHA-256 and run sync, because adepoll does both.

        Python computes the digest with OpenSSL, too. On many processors, it is much faster than
        sha256sum, which runs only where OpenSSL is not installed.
        """
        digest = 'openssl dgst -sha256 "$1" || sha256sum "$1"'
        return self._curl_and(f'{{ {digest}; }} && sync "$1"', url, path)

    def aria2c(self, url: str, path: Path) -> Cost:
        """Fetch with aria2c, over several connections."""
        many = self.connections
        how = [f"-x{many}", f"-s{many}", "-k1M", "--file-allocation=none", "--no-conf", "-q"]
        return timed("aria2c", *how, "-d", path.parent, "-o", path.name, url)

    def _trust(self, option: str) -> list[object]:
        return [] if self.ca is None else [option, self.ca]

    def _python(self, program: Path, *options: object, url: str, path: Path) -> Cost:
        options = (program, *self._trust("--ca"), *options)
        _, report = reports(*options, tiny=self.tiny, url=url, path=path)
        return Cost(report["seconds"], report["cpu"])

    def _curl_and(self, more: str, url: str, path: Path) -> Cost:
        script = f'p="$1" u="$2"; shift 2; curl "$@" -sf -o "$p" "$u" && set -- "$p" && {more}'
        return timed("sh", "-c", script, "sh", path, url, *self._trust("--cacert"))


HEADER = (
    f"{'what':<34}{'client':<18}{'median s':>9}{'all s':>14}{'MB/s':>7}{'CPU s':>7}"
    f"{'adepoll x':>11}{'goal':>9}{'CPU of adepoll x':>18}{'goal':>9}"
)


@frozen(kw_only=True)
class Race:
    """Clients that fetch the same result in turns.

    Attributes:
        name: Name of the result in the table.
        size: Bytes of the result.
        url: URL of the result.
        clients: The clients by their names.
        goals: Minimum speed of adepoll relative to a client, by the name of the client.
        cpu_goals: Maximum CPU time of adepoll relative to a client, by the name of the client.
        out: The folder for the downloaded files.
    """

    name: str
    size: int
    url: str
    clients: Mapping[str, Fetch] = field()
    goals: Mapping[str, float] = field()
    cpu_goals: Mapping[str, float] = field(factory=dict)
    out: Path

    def run(self, rounds: int) -> None:
        """Run the clients in turns, with a different order in each round; print their rows."""
        costs: dict[str, list[Cost]] = {}
        for name in self.clients:
            command = name.partition(",")[0]
            if command in {"curl", "aria2c"} and shutil.which(command) is None:
                print(f"{self.name:<34}{name:<18}is not installed")
            else:
                costs[name] = []
        order = [*costs]
        for _ in range(rounds):
            for name in order:
                path = self.out / f"{name}.json"
                path.unlink(missing_ok=True)
                costs[name].append(self.clients[name](self.url, path))
                if path.stat().st_size != self.size:
                    raise RuntimeError(f"{name} wrote {path.stat().st_size:,} of {self.size:,}")
                path.unlink()
            order.append(order.pop(0))
        ours = _median(costs["adepoll"])
        for name, all_of in costs.items():
            self._print(name, _median(all_of), [cost.seconds for cost in all_of], ours)

    def _print(self, name: str, cost: Cost, seconds: list[float], ours: Cost) -> None:
        spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
        speed = f"{cost.seconds / ours.seconds:.2f}" if name in self.goals else ""
        goal = f">= {self.goals[name]}" if name in self.goals else ""
        cpu = f"{ours.cpu / cost.cpu:.2f}" if name in self.cpu_goals else ""
        cpu_goal = f"<= {self.cpu_goals[name]}" if name in self.cpu_goals else ""
        print(
            f"{self.name:<34}{name:<18}{cost.seconds:>9.2f}{spread:>14}"
            f"{self.size / MB / cost.seconds:>7.0f}{cost.cpu:>7.2f}{speed:>11}{goal:>9}"
            f"{cpu:>18}{cpu_goal:>9}"
        )


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.cpu for cost in costs),
    )
