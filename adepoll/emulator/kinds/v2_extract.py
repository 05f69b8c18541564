"""v2 extract jobs: requests that create them, results and metadata. Does no I/O."""

import random
import re
from typing import Final

from adepoll.api.models import Json
from adepoll.emulator.jobs import Job, Outcome
from adepoll.emulator.kinds.forms import Form, FormReader, Submission
from adepoll.emulator.kinds.v2 import OPENAPI_SPEC, V2Kind, billing, read_tier
from adepoll.emulator.odd_values import odd_metadata, odd_warnings
from adepoll.emulator.result_parts import ResultParts, dump, make_row, open_object
from adepoll.emulator.results import FIRST_ROW
from adepoll.emulator.schema_samples import invoice, leaves_replaced, sample_object

VIOLATION: Final = "the schema contains fields that could not be extracted: total"
"""`schema_violation_error` of a job with a partial result."""

_TITLE: Final = "# Invoice\n\n"
_DOC_ID: Final = re.compile(r"<!-- doc_id=(\S{1,200}) -->")
_OPTIONS: Final = frozenset({"strict", "grounding"})  # the official SDK sends both options


class V2Extract(V2Kind):
    """The kind of jobs that extract values from Markdown, in v2. Results repeat the Markdown."""

    name = "v2-extract"
    path = "/v2/extract/jobs"
    id_prefix = "extract-"
    latest_model = "extract-20260710"

    def read_submission(self, form: Form) -> Submission:
        """Read a request that creates a job; raise `InvalidRequestError` if it is invalid."""
        reader = FormReader(form)
        schema = reader.json_object("schema", required=True)
        reader.document("markdown", "markdown_url", only_one=True)
        reader.check_options(_OPTIONS)
        submission = Submission(
            filename=form.filenames.get("markdown", "document.md"),
            model=reader.text("model"),
            output_save_url=reader.text("output_save_url"),
            tier=read_tier(reader),
            schema=schema,
            markdown=reader.text("markdown"),
        )
        reader.check()
        return submission

    def metadata(self, job: Job) -> dict[str, Json]:
        """Return the `metadata` of the result of a job."""
        markdown = job.markdown or _TITLE
        doc_id = _DOC_ID.search(markdown)
        metadata = {
            "job_id": job.job_id,
            "model_version": job.version,
            "duration_ms": job.duration_ms,
            "openapi_spec": OPENAPI_SPEC,
            "range_units": "unicode_codepoints",
            "doc_id": None if doc_id is None else doc_id[1],
            "input_markdown_chars": len(markdown),
            "billing": billing(job, round(1 + job.plan.result_bytes / 100_000, 1)),
        }
        return odd_metadata(metadata, job.plan.odd_values)

    def result(self, job: Job, *, seed: int | str, org_id: str) -> ResultParts:  # noqa: ARG002 - the signature of the base class
        """Return the parts of the JSON of a `result`; see `EmulatedKind.result`."""
        rng = self.rng(job, seed)
        return _parts(job, self.metadata(job), rng)


def extraction_of(schema: Json, rng: random.Random) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return a random extraction, and its `extraction_metadata`.

    The metadata is a copy of the extraction. But in place of each single value, it has an object
    with the value and its position in the Markdown (`ranges`).
    """
    extraction = invoice(rng) if schema is None else sample_object(schema, rng)
    ranges = [{"start": 0, "end": len(_TITLE)}]
    return extraction, leaves_replaced(extraction, lambda leaf: {"value": leaf, "ranges": ranges})


def _parts(job: Job, metadata: dict[str, Json], rng: random.Random) -> ResultParts:
    """Return the parts of the result of an extract job.

    Filler rows without meaning give the result its size. If the request that created the job
    contained the Markdown, the result repeats the Markdown, and the rows are in
    `extraction_metadata`. If not, the rows are in the Markdown of the result.
    """
    extraction, references = extraction_of(job.schema, rng)
    partial = job.plan.outcome is Outcome.PARTIAL
    rest = dump(
        {
            "schema_violation_error": VIOLATION if partial else None,
            "warnings": odd_warnings([], job.plan.odd_values),
            "metadata": metadata,
        }
    )
    opened = f'{{"extraction":{dump(extraction)},'
    if job.markdown is None:
        head = opened + f'"extraction_metadata":{dump(references)},"markdown":{dump(_TITLE)[:-1]}'
        row = make_row("row ", " ", "\\n")
        return ResultParts(head=head, row=row, middle="", tail=f'",{rest[1:]}')
    references = {"_source": f"{rng.getrandbits(48):012x}", **references}
    head = opened + f'"markdown":{dump(job.markdown)},"extraction_metadata":'
    head += f'{open_object(references)},"_chunks":[{{"row":{FIRST_ROW - 1}}}'
    row = make_row(',{"row":', ',"text":"', '"}')
    return ResultParts(head=head, row=row, middle='],"_notes":"', tail=f'"}},{rest[1:]}')


V2_EXTRACT: Final = V2Extract()
"""The rules of v2 extract jobs."""
