"""Downloads results in a separate process: ``downloading.py [options] CONNECTIONS URL PATH ...``.

After each download it prints a line of JSON: its outcome, the seconds and the CPU seconds that it
took, and the current and maximum memory of the process in bytes.
"""

import argparse
import asyncio
import json
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path

from adepoll import AdeClient, JobSnapshot, JobStatus, ResultFetcher, TransportOptions


def memory():
    """Return the memory of this process in bytes, from /proc; empty without /proc."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in text.splitlines())
    kilobytes = {"resident": fields["VmRSS"], "peak": fields["VmHWM"]}
    return {name: int(value.split()[0]) * 1024 for name, value in kilobytes.items()}


def cpu():
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def completed(url):
    """Return a completed job whose result is at this URL."""
    return JobSnapshot(
        job_id="job-1",
        status=JobStatus.COMPLETED,
        status_text="completed",
        received_at=datetime.now(UTC),
        progress=1.0,
        output_url=url,
    )


async def main(options):
    transport = TransportOptions(ca_file=options.ca)
    urls, paths = options.pairs[::2], options.pairs[1::2]
    async with (
        # No API is requested there; its loopback address allows results from loopback.
        AdeClient("key", base_url="http://127.0.0.1:9", transport=transport) as client,
        ResultFetcher(client, connections=options.connections, transport=transport) as fetcher,
    ):
        for url, path in zip(urls, paths, strict=True):
            before = cpu()
            report = await fetcher.download(completed(url), path, overwrite=options.overwrite)
            outcome = {name: getattr(report, name) for name in ("bytes", "sha256", "resumed")}
            times = {"seconds": report.seconds, "cpu": cpu() - before}
            sys.stdout.write(f"{json.dumps({**outcome, **times, **memory()})}\n")
            sys.stdout.flush()


def make_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ca", help="PEM file of the authority of the server")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--no-locks", action="store_true", help="flock succeeds for everybody")
    parser.add_argument("connections", type=int)
    parser.add_argument("pairs", nargs="+", metavar="URL PATH")
    return parser


def run(options):
    if options.no_locks:
        import fcntl  # noqa: PLC0415 - Windows does not have it

        fcntl.flock = lambda _fd, _operation: None
    loop_factory = None
    if options.uvloop:
        import uvloop  # noqa: PLC0415 - of the extra `speed`

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main(options))


if __name__ == "__main__":
    run(make_parser().parse_args())
