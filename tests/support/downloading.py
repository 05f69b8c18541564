"""Downloads results as a process of its own: ``downloading.py CONNECTIONS URL PATH [URL ...]``.

After each one it prints, as a line of JSON, what came of it and how much memory the process has,
and has had at most, in bytes.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from adepoll import AdeClient, JobSnapshot, JobStatus, ResultFetcher


def memory():
    """Give what /proc tells of the memory of this process; nothing where there is no /proc."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in text.splitlines())
    kilobytes = {"resident": fields["VmRSS"], "peak": fields["VmHWM"]}
    return {name: int(value.split()[0]) * 1024 for name, value in kilobytes.items()}


def completed(url):
    """Give a job whose result is there."""
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
        # Nobody is asked there; but as it is on loopback, results may be.
        AdeClient("key", base_url="http://127.0.0.1:9") as client,
        ResultFetcher(client, connections=int(connections)) as fetcher,
    ):
        for url, path in zip(pairs[::2], pairs[1::2], strict=True):
            report = await fetcher.download(completed(url), path)
            told = {name: getattr(report, name) for name in ("bytes", "sha256", "resumed")}
            line = json.dumps({**told, "seconds": report.seconds, **memory()})
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
