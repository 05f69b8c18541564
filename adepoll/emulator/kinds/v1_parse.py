"""v1 parse jobs: requests that create them, results and metadata. Does no I/O."""

import random
from typing import Final

from adepoll.api.models import Json
from adepoll.emulator.jobs import Job
from adepoll.emulator.kinds.forms import Form, FormReader, Submission
from adepoll.emulator.kinds.v1 import V1Kind
from adepoll.emulator.odd_values import odd_metadata
from adepoll.emulator.result_parts import ResultParts, dump, make_row
from adepoll.emulator.results import FIRST_ROW

SPREADSHEETS: Final = (".xlsx", ".xls", ".xlsm", ".csv", ".ods")
"""Endings of the names of spreadsheets, which have sheets; every other document has pages."""

# Share of the processing after which the progress is 1.0.
_FULL_PROGRESS_AT: Final = 0.95
_BOX: Final = {"left": 0.08, "top": 0.1, "right": 0.92, "bottom": 0.35}
_CELL_ID: Final = "cell-0"


class V1Parse(V1Kind):
    """The kind of jobs that parse a document or a spreadsheet, in v1."""

    name = "v1-parse"
    path = "/v1/ade/parse/jobs"
    latest_model = "dpt-2-20251103"

    def read_submission(self, form: Form) -> Submission:
        """Read a request that creates a job; raise `InvalidRequestError` if it is invalid."""
        reader = FormReader(form)
        reader.document("document", "document_url")
        reader.json_object("custom_prompts")
        submission = Submission(
            filename=reader.filename("document", "document_url"),
            model=reader.text("model"),
            output_save_url=reader.text("output_save_url"),
            options={"split": reader.choice("split", ["page"])},
        )
        reader.check()
        return submission

    def progress(self, job: Job, *, now: float) -> float:
        """Return the progress. It reaches 1.0 shortly before the job ends."""
        return round(min(job.share_done(now) / _FULL_PROGRESS_AT, 1.0), 4)

    def metadata(self, job: Job, *, org_id: str) -> dict[str, Json]:
        """Return the `metadata` of a completed job.

        The result of a spreadsheet contains other metadata; see `_sheet_metadata`.
        """
        metadata: dict[str, Json] = {
            "filename": job.filename,
            "org_id": org_id,
            "page_count": job.plan.pages,
            "duration_ms": job.duration_ms,
            "credit_usage": 3.0 * job.plan.pages,
            "job_id": job.job_id,
            "version": job.version,
        }
        if job.plan.pages_that_failed:
            metadata["failed_pages"] = [page - 1 for page in job.plan.pages_that_failed]
        return odd_metadata(metadata, job.plan.odd_values)

    def result(self, job: Job, *, seed: int | str, org_id: str) -> ResultParts:
        """Return the parts of the JSON of a result (`data`); see `EmulatedKind.result`."""
        rng = self.rng(job, seed)
        if job.filename.lower().endswith(SPREADSHEETS):
            return _spreadsheet_parts(job, self._sheet_metadata(job, org_id=org_id))
        return _document_parts(job, self.metadata(job, org_id=org_id), rng)

    def _sheet_metadata(self, job: Job, *, org_id: str) -> dict[str, Json]:
        """Return the metadata of a parsed spreadsheet."""
        pages = job.plan.pages
        metadata: dict[str, Json] = {
            "filename": job.filename,
            "org_id": org_id,
            "sheet_count": pages,
            "total_rows": 20 * pages,
            "total_cells": 100 * pages,
            "total_chunks": pages,
            "total_images": 0,
            "duration_ms": job.duration_ms,
            "credit_usage": 1.0 * pages,
            "job_id": job.job_id,
            "version": job.version,
        }
        return odd_metadata(metadata, job.plan.odd_values)


def _document_parts(job: Job, metadata: dict[str, Json], rng: random.Random) -> ResultParts:
    """Return the parts of the result of a document.

    The result has a chunk for each page that did not fail, and a table. Between them, chunks
    without meaning give the result its size.
    """
    failed = job.plan.pages_that_failed
    pages = [page for page in range(job.plan.pages) if page + 1 not in failed]
    chunks: list[dict[str, Json]] = []
    markdown, splits = "", []
    grounding: dict[str, Json] = {}
    for page in pages:
        chunk_id = f"chunk-{rng.getrandbits(48):012x}"
        text = f"<a id='{chunk_id}'></a>\n\n# Page {page + 1}\n\nTotal: {rng.randrange(10**6)}\n\n"
        markdown += text
        chunks.append(
            {"id": chunk_id, "type": "text", "grounding": _grounding(page), "markdown": text}
        )
        grounding[chunk_id] = {**_grounding(page), "type": "chunkText", "confidence": 0.97}
        splits.append(_split("page", f"page_{page}", {"pages": [page]}, text, [chunk_id]))
    first = pages[0] if pages else 0
    grounding[_CELL_ID] = {
        **_grounding(first),
        "type": "tableCell",
        "position": {"row": 0, "col": 0, "rowspan": 1, "colspan": 2, "chunk_id": "table-0"},
    }
    if job.options.get("split") != "page":
        ids = [str(chunk["id"]) for chunk in chunks]
        splits = [_split("full", "full", {"pages": pages}, markdown, ids)]
    row = f'","type":"text","grounding":{dump(_grounding(first))},"markdown":"'
    table = f',{{"id":"table-0","type":"table","grounding":{dump(_grounding(first))},"markdown":"'
    return ResultParts(
        head=f'{{"markdown":{dump(markdown)},"chunks":[{_items(chunks)}{{"id":"chunk-'
        f'{FIRST_ROW - 1}{row}"}}',
        row=make_row(',{"id":"chunk-', row, '"}'),
        middle=table,
        tail=f'"}}],"splits":{dump(splits)},"grounding":{dump(grounding)},'
        f'"metadata":{dump(metadata)}}}',
    )


def _spreadsheet_parts(job: Job, metadata: dict[str, Json]) -> ResultParts:
    """Return the parts of the result of a spreadsheet.

    The result has a table for each sheet. Then tables without meaning give the result its size.
    """
    chunks: list[dict[str, Json]] = []
    markdown, splits = "", []
    for sheet in range(job.plan.pages):
        name = f"Sheet{sheet + 1}"
        chunk_id = f"{name}-A1:E20"
        table = f"<a id='{chunk_id}'></a>\n\n<table><tr><td>{name}</td></tr></table>\n\n"
        markdown += table
        chunks.append({"id": chunk_id, "type": "table", "markdown": table})
        splits.append(_split("page", name, {"sheets": [sheet]}, table, [chunk_id]))
    if job.options.get("split") != "page":
        ids = [str(chunk["id"]) for chunk in chunks]
        splits = [_split("full", "full", {"sheets": [*range(job.plan.pages)]}, markdown, ids)]
    row = '","type":"table","markdown":"'
    return ResultParts(
        head=f'{{"markdown":{dump(markdown)},"chunks":[{_items(chunks)}{{"id":"Sheet1-A'
        f'{FIRST_ROW - 1}{row}"}}',
        row=make_row(',{"id":"Sheet1-A', row, '"}'),
        middle=f',{{"id":"Sheet1-B1{row}',
        tail=f'"}}],"splits":{dump(splits)},"metadata":{dump(metadata)}}}',
    )


def _grounding(page: int) -> dict[str, Json]:
    return {"box": _BOX, "page": page}


def _split(
    split_class: str, identifier: str, place: dict[str, Json], markdown: str, chunks: list[str]
) -> dict[str, Json]:
    """Return the JSON of one split of a document; `place` says which pages or sheets it has."""
    text = {"class": split_class, "identifier": identifier, "markdown": markdown, "chunks": chunks}
    return text | place


def _items(values: list[dict[str, Json]]) -> str:
    """Return the JSON of the items of an array, with a comma also after the last one."""
    return "".join(dump(value) + "," for value in values)


V1_PARSE: Final = V1Parse()
"""The rules of v1 parse jobs."""
