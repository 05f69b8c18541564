"""Downloads results in a separate process: ``downloading.py CONNECTIONS URL PATH [URL ...]``.

After each download it prints a line of JSON: its outcome, and the current and maximum memory of
the process in bytes.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from adepoll import AdeClient, JobSnapshot, JobStatus, ResultFetcher


def memory():
    """Return the memory of this process in bytes, from /proc; empty without /proc."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in text.splitlines())
    kilobytes = {"resident": fields["VmRSS"], "peak": fields["VmHWM"]}
    return {name: int(value.split()[0]) * 1024 for name, value in kilobytes.items()}


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


async def main(connections, *pairs):
    async with (
        # No API is requested there; its loopback address allows results from loopback.
        AdeClient("key", base_url="http://127.0.0.1:9") as client,
        ResultFetcher(client, connections=int(connections)) as fetcher,
    ):
        for url, path in zip(pairs[::2], pairs[1::2], strict=True):
            report = await fetcher.download(completed(url), path)
            outcome = {name: getattr(report, name) for name in ("bytes", "sha256", "resumed")}
            line = json.dumps({**outcome, "seconds": report.seconds, **memory()})
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
