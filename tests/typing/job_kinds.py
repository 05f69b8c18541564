"""A user's program that matches on the results of all kinds. Checked by mypy and pyright."""

import asyncio
from typing import assert_never, assert_type

from adepoll import (
    AdeClient,
    ExtractMetadata,
    ExtractResult,
    JobKind,
    JobRef,
    JobResult,
    JobSnapshot,
    JobStatus,
    JobSummary,
    JobWatcher,
    Json,
    ParseMetadata,
    ParseResult,
    ResultFetcher,
    SpreadsheetParseMetadata,
    SpreadsheetParseResult,
    StatusError,
    V2Billing,
    V2ExtractResult,
    V2Metadata,
    V2ParseResult,
    WorkflowResult,
)


def summary(job: JobSnapshot) -> str:  # noqa: PLR0911 - one for each class
    """Every class of `data` is handled: otherwise `assert_never` is an error of the checker."""
    match job.data:
        case ExtractResult() as data:
            assert_type(data.metadata, ExtractMetadata)
            assert_type(data.extraction, Json)
            return data.metadata.schema_violation_error or "conforms"
        case ParseResult() as data:
            assert_type(data.metadata, ParseMetadata)
            return f"{data.metadata.page_count} pages, {len(data.markdown)} characters"
        case SpreadsheetParseResult() as data:
            assert_type(data.metadata, SpreadsheetParseMetadata)
            return f"{data.metadata.sheet_count} sheets, {len(data.markdown)} characters"
        case V2ParseResult(markdown=markdown, metadata=V2Metadata(billing=V2Billing() as billing)):
            assert_type(markdown, str)
            return billing.service_tier or "standard"
        case V2ParseResult() as data:
            assert_type(data.structure, Json)
            return data.markdown
        case V2ExtractResult() as data:
            assert_type(data.markdown, str | None)
            return ", ".join(warning.code or "" for warning in data.warnings)
        case WorkflowResult(output=output):
            assert_type(output, Json)
            return "output"
        case None:
            return "too large" if job.data_omitted else job.failure_reason or job.status.value
        case _:
            assert_never(job.data)


def status_of(job: JobSnapshot) -> str:
    """An error of mypy --strict if the type of the value is not known."""
    return job.status.value


def markdown_of(result: JobResult | None) -> str | None:
    """Several classes with the same attribute are one case."""
    if isinstance(result, ParseResult | SpreadsheetParseResult | V2ParseResult):
        return assert_type(result.markdown, str)
    return None


def facts(job: JobSnapshot) -> None:
    assert_type(job.kind, JobKind)
    assert_type(job.label, str | None)
    assert_type(job.credits, float | None)
    assert_type(job.page_count, int | None)
    assert_type(job.failed_pages, tuple[int, ...])
    assert_type(job.partial, bool)
    assert_type(job.conforms, bool | None)
    assert_type(job.error_code, str | None)
    if job.facts is not None:
        assert_type(job.facts.filename, str | None)


async def main() -> None:
    ref = JobRef("cmg4x0q5p0001", kind=JobKind.V1_PARSE, label="invoice-17.pdf")
    assert_type(str(ref), str)
    assert_type(JobKind.named("v2-parse"), JobKind)
    async with (
        AdeClient("key", kind=JobKind.V2_EXTRACT, v2_base_url="https://ade.example") as client,
        JobWatcher(client) as watcher,
        JobWatcher(client.for_kind(JobKind.V1_PARSE)) as parse_watcher,
        ResultFetcher(client) as fetcher,
    ):
        async for job in watcher.watch([ref, "v1-parse/cmg4x0q5p0002"]):
            summary(job)
            markdown_of(job.data)
            assert_type(job.status, JobStatus)
        assert_type(await parse_watcher.wait("cmg4x0q5p0001"), JobSnapshot)
        async for listed in client.iter_jobs(kind=JobKind.V2_PARSE):
            assert_type(listed, JobSummary)
        match await fetcher.result(ref):
            case ParseResult(markdown=text) | SpreadsheetParseResult(markdown=text):
                assert_type(text, str)
        async with client.turn():
            error = client.error_of(429, {"Retry-After": "3"})
            assert_type(error, StatusError)
            assert_type(error.retry_after, float | None)
            raise error


asyncio.run(main())
