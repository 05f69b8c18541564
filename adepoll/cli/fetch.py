"""``adepoll fetch``: download the result of one job."""

from collections.abc import Callable
from pathlib import Path

import adepoll
from adepoll import JobRef
from adepoll.api.file_names import result_name
from adepoll.cli.exit_codes import ExitCode
from adepoll.cli.messages import say, shown
from adepoll.cli.progress import DownloadView
from adepoll.cli.run import run
from adepoll.cli.stdout_writer import write_bytes_async


def fetch(
    job_id: str,
    *,
    out: str | None,
    overwrite: bool,
    connections: int,
    allow_private: bool,
    connect: Callable[[], "adepoll.AdeClient"],
) -> None:
    """Download the result of the job `job_id`; see `commands.fetch`."""
    target: Path | None = None

    async def main() -> ExitCode:
        nonlocal target
        name = JobRef.of(job_id).job_id  # without the kind
        target = None if out == "-" else Path(out or result_name(name))
        async with (
            connect() as client,
            adepoll.ResultFetcher(
                client, connections=connections, allow_private=allow_private
            ) as fetcher,
        ):
            if target is None:
                async with fetcher.stream(job_id) as chunks:
                    async for chunk in chunks:
                        await write_bytes_async(chunk)
            else:
                with DownloadView(target.name) as view:
                    done = await fetcher.download(
                        job_id, target, progress=view.update, overwrite=overwrite
                    )
                say(f"{shown(str(done.path))}: {done.bytes} bytes, sha256 {done.sha256}")
        return ExitCode.COMPLETED

    def say_what_is_kept() -> None:
        if target is not None and adepoll.ResultFetcher.can_resume(job_id, target):
            say("adepoll: the partial download is kept; the same command continues it")

    run(main, on_stop=say_what_is_kept, on_error=say_what_is_kept)
