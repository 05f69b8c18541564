"""Parse each document of a folder, extract data from its Markdown, and store one result for each.

    pip install . landingai-ade    # in the folder of adepoll's repository
    python docs/examples/pipeline.py documents schema.json results

The result of `invoice.pdf` is `results/invoice.pdf.json`. After a failure or a crash, run the same
command again: it continues. docs/pipelines.md says in which cases it creates a second job.
"""

import argparse
import asyncio
import logging
import sqlite3
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from attrs import define
from landingai_ade import APIConnectionError, APIStatusError, AsyncLandingAIADE
from landingai_ade.types import ExtractJobCreateResponse, ParseJobCreateResponse

import adepoll
from adepoll import AdeClient, JobKind, JobRef, JobSnapshot, JobWatcher, ResultFetcher

Create: TypeAlias = Callable[[str], Awaitable[ParseJobCreateResponse | ExtractJobCreateResponse]]
CLOCK_ERROR = 600.0  # seconds by which the clocks of this machine and of the service may differ
TABLE = """PRAGMA synchronous = FULL; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;
CREATE TABLE IF NOT EXISTS steps (document TEXT, kind TEXT, upload TEXT UNIQUE, begun REAL,
job_id TEXT, PRIMARY KEY (document, kind)); COMMIT"""
log = logging.getLogger("pipeline")


class Notes:
    """The job of each step of each document. A note is on the disk when its method returns."""

    def __init__(self, path: Path) -> None:
        """Open the notes; raises `sqlite3.OperationalError` while another process uses them."""
        database = sqlite3.connect(path, timeout=0, isolation_level=None)
        self.query, self.close = database.execute, database.close
        try:
            for statement in TABLE.split(";"):
                self.query(statement)
        except sqlite3.Error:
            self.close()
            raise

    def begin(self, document: str, kind: JobKind) -> tuple[str, str | None]:
        """Return the file name to upload a document with, and the id of its job if it has one."""
        row = (document, kind.name, f"{uuid.uuid4().hex}-{document}", time.time())
        self.query("INSERT OR IGNORE INTO steps VALUES (?, ?, ?, ?, NULL)", row)
        find = "SELECT upload, job_id FROM steps WHERE document = ? AND kind = ?"
        upload, job_id = self.query(find, row[:2]).fetchone()
        return upload, job_id

    def created(self, upload: str, job_id: str) -> None:
        """Note the id of the job of a step."""
        self.query("UPDATE steps SET job_id = ? WHERE upload = ?", (job_id, upload))

    def refused(self, upload: str) -> None:
        """Forget a step whose job was certainly not created."""
        self.query("DELETE FROM steps WHERE upload = ?", (upload,))

    def unclear(self, kind: JobKind) -> dict[str, float]:
        """Return the uploads whose job may have been created, and when each step began."""
        find = "SELECT upload, begun FROM steps WHERE kind = ? AND job_id IS NULL"
        return dict(self.query(find, (kind.name,)))

    def job_ids(self) -> set[str]:
        """Return the ids of all jobs."""
        return {job_id for (job_id,) in self.query("SELECT job_id FROM steps") if job_id}


@define
class Pipeline:
    """Two jobs for each document: parse, then extract."""

    sdk: AsyncLandingAIADE
    client: AdeClient
    watcher: JobWatcher
    fetcher: ResultFetcher
    notes: Notes
    options: argparse.Namespace
    failed: int = 0

    async def adopt_orphans(self) -> None:
        """Find the jobs that an earlier run created, but whose ids it could not note."""
        for kind in (JobKind.V1_PARSE, JobKind.V1_EXTRACT):
            if not (unclear := self.notes.unclear(kind)):
                continue
            # A job can be missing from the list for some time after its creation.
            await asyncio.sleep(max(unclear.values()) + self.options.list_lag - time.time())
            known, since = self.notes.job_ids(), min(unclear.values()) - CLOCK_ERROR
            unknown = [
                JobRef(job.job_id, kind=kind)
                async for job in self.client.iter_jobs(kind=kind)
                if job.job_id not in known
                and (job.submitted_at is None or job.submitted_at.timestamp() >= since)
            ]
            async for job in self.watcher.watch(unknown, errors="yield"):
                if isinstance(job, JobSnapshot) and job.facts and job.facts.filename in unclear:
                    self.notes.created(job.facts.filename, job.job_id)

    async def work(self, documents: Iterator[Path]) -> None:
        """Process one document after another. All workers take them from the same iterator."""
        for document in documents:
            try:
                await self.process(document)
            except (adepoll.AdePollError, APIConnectionError) as error:
                if isinstance(error, adepoll.AdePollError) and error.fatal:
                    raise  # a bad key, or no credits: the other documents would fail as well
                self.failed += 1
                cause = error.__cause__  # an error of the SDK has the words of the service
                reason = cause if isinstance(cause, APIStatusError) else error
                log.warning("%s: %s", document.name, reason)

    async def process(self, document: Path) -> None:
        """Parse a document, extract from its Markdown, and store the result."""
        name, schema = document.name, self.options.schema
        parse, extract = self.sdk.parse_jobs.create, self.sdk.extract_jobs.create
        content = await asyncio.to_thread(document.read_bytes)
        job = await self.settled(name, JobKind.V1_PARSE, lambda up: parse(document=(up, content)))
        parsed = await self.fetcher.result(job)
        if not isinstance(parsed, adepoll.ParseResult | adepoll.SpreadsheetParseResult):
            raise TypeError(f"{name}: not the result of a v1 parse job")
        text = parsed.markdown.encode()
        job = await self.settled(
            name, JobKind.V1_EXTRACT, lambda up: extract(schema=schema, markdown=(up, text))
        )
        await self.fetcher.download(job, self.options.results / f"{name}.json", overwrite=True)
        log.info("%s: %s", name, "incomplete result" if job.partial else "done")

    async def settled(self, document: str, kind: JobKind, create: Create) -> JobSnapshot:
        """Return the job of a step when it has settled; create it unless an earlier run has."""
        upload, job_id = self.notes.begin(document, kind)
        while job_id is None:
            try:
                async with self.client.turn():
                    try:
                        job_id = (await create(upload)).job_id
                    except APIStatusError as error:
                        answer = error.response
                        raise self.client.error_of(answer.status_code, answer.headers) from error
            except adepoll.RateLimitedError:
                continue  # the next turn comes when the service accepts requests again
            except adepoll.StatusError as error:
                if not error.transient:  # after a 5xx, the job may exist
                    self.notes.refused(upload)
                raise
            self.notes.created(upload, job_id)
        return await self.watcher.wait(JobRef(job_id, kind=kind, label=document))


async def main(options: argparse.Namespace, documents: list[Path], notes: Notes) -> int:
    """Process the documents; return the exit status."""
    async with (
        AsyncLandingAIADE(max_retries=0) as sdk,
        AdeClient() as client,
        JobWatcher(client) as watcher,
        ResultFetcher(client) as fetcher,
    ):
        pipeline = Pipeline(sdk, client, watcher, fetcher, notes, options)
        await pipeline.adopt_orphans()
        remaining = iter(documents)
        async with asyncio.TaskGroup() as group:
            for _ in range(options.in_flight):
                group.create_task(pipeline.work(remaining))
    return 1 if pipeline.failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Parse documents, and extract data from them.")
    parser.add_argument("documents", type=Path, help="folder")
    parser.add_argument("schema", type=lambda path: Path(path).read_text("utf-8"), help="file")
    parser.add_argument("results", type=Path, help="folder")
    parser.add_argument("--in-flight", type=int, default=16, help="most documents at a time")
    parser.add_argument("--list-lag", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.results.mkdir(exist_ok=True)
    documents = [path for path in sorted(options.documents.iterdir()) if path.is_file()]
    todo = [path for path in documents if not (options.results / f"{path.name}.json").exists()]
    sys.exit(asyncio.run(main(options, todo, Notes(options.results / "pipeline.db"))))
