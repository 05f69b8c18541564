"""v1 extract jobs: requests that create them, results and metadata. Does no I/O."""

import random
from typing import Final

from adepoll.api.models import Json
from adepoll.emulator.jobs import Job, Outcome
from adepoll.emulator.kinds.forms import Form, FormReader, Submission
from adepoll.emulator.kinds.v1 import V1Kind
from adepoll.emulator.odd_values import odd_metadata
from adepoll.emulator.result_parts import ResultParts, dump, make_row, open_object
from adepoll.emulator.results import FIRST_ROW
from adepoll.emulator.schema_samples import invoice, references_for, sample_object

VIOLATION: Final = "'total' is not of type 'string'"
"""`schema_violation_error` of a job with a partial result."""


class V1Extract(V1Kind):
    """The kind of jobs that extract values from Markdown, in v1."""

    name = "v1-extract"
    path = "/v1/ade/extract/jobs"
    latest_model = "extract-20260314"

    def read_submission(self, form: Form) -> Submission:
        """Read a request that creates a job; raise `InvalidRequestError` if it is invalid."""
        reader = FormReader(form)
        schema = reader.json_object("schema", required=True)
        reader.document("markdown", "markdown_url")
        reader.check_boolean("strict")
        submission = Submission(
            filename=form.filenames.get("markdown", "document.md"),
            model=reader.text("model"),
            output_save_url=reader.text("output_save_url"),
            schema=schema,
        )
        reader.check()
        return submission

    def progress(self, job: Job, *, now: float) -> float:  # noqa: ARG002 - the signature of the base class
        """Return 0.0, as the real service does until an extract job has ended."""
        return 0.0

    def metadata(self, job: Job, *, org_id: str) -> dict[str, Json]:
        """Return the `metadata` of a completed job. The result contains the same metadata."""
        violation = VIOLATION if job.plan.outcome is Outcome.PARTIAL else None
        metadata: dict[str, Json] = {
            "filename": job.filename,
            "org_id": org_id,
            "duration_ms": job.duration_ms,
            "credit_usage": round(1 + job.plan.result_bytes / 100_000, 1),
            "job_id": job.job_id,
            "version": job.version,
            "schema_violation_error": violation,
            "fallback_model_version": None,
            "warnings": []
            if violation is None
            else [{"code": "nonconformant_schema", "msg": violation}],
        }
        return odd_metadata(metadata, job.plan.odd_values)

    def result(self, job: Job, *, seed: int | str, org_id: str) -> ResultParts:
        """Return the parts of the JSON of a result (`data`); see `EmulatedKind.result`."""
        rng = self.rng(job, seed)
        return extraction_parts(job.schema, self.metadata(job, org_id=org_id), rng)


def extraction_parts(schema: Json, metadata: dict[str, Json], rng: random.Random) -> ResultParts:
    """Return the parts of the JSON of an extract job's result.

    Filler rows without meaning give the result its size. With a schema, the extraction conforms to
    the schema, and the filler rows are in `extraction_metadata`. Without a schema, the filler rows
    are the line items of an invoice.

    Args:
        schema: JSON schema from the request; None for no schema.
        metadata: The `metadata` of the result.
        rng: Draws the values.
    """
    first_row = f'[{{"row":{FIRST_ROW - 1}}}'
    if schema is None:
        extraction = invoice(rng)
        head = f'{{"extraction":{open_object(extraction)},"line_items":{first_row}'
        middle = '],"notes":"'
        tail = f'"}},"extraction_metadata":{dump(references_for(extraction, rng))}'
    else:
        extraction = sample_object(schema, rng)
        references = {"_source": f"{rng.getrandbits(48):012x}", **references_for(extraction, rng)}
        head = f'{{"extraction":{dump(extraction)},"extraction_metadata":{open_object(references)}'
        head += f',"_chunks":{first_row}'
        middle = '],"_notes":"'
        tail = '"}'
    tail += f',"metadata":{dump(metadata)}}}'
    return ResultParts(head=head, row=_row(rng), middle=middle, tail=tail)


def _row(rng: random.Random) -> tuple[str, str]:
    """Return a random row of `ResultParts`: the text before its number, and the text after it."""
    known = {
        "code": f"{rng.getrandbits(64):016x}",
        "quantity": rng.randrange(1, 1_000),
        "price": rng.randrange(100, 10**6) / 100,
        "taxes": [{"rate": 0.081, "kind": "vat"}, {"rate": 0.0, "kind": None}],
    }
    return make_row(',{"row":', f',{dump(known)[1:-1]},"text":"', '"}')


V1_EXTRACT: Final = V1Extract()
"""The rules of v1 extract jobs."""
