"""v2 workflow jobs: requests that create them, results and metadata. Does no I/O."""

import random
from typing import Final

from adepoll.api.models import Json
from adepoll.emulator.jobs import Job, Outcome
from adepoll.emulator.kinds.forms import Form, FormReader, Submission
from adepoll.emulator.kinds.v2 import OPENAPI_SPEC, V2Kind, billing, read_tier
from adepoll.emulator.kinds.v2_extract import VIOLATION, extraction_of
from adepoll.emulator.kinds.v2_parse import parse_metadata, parse_parts
from adepoll.emulator.odd_values import odd_metadata, odd_warnings
from adepoll.emulator.result_parts import ResultParts, dump, make_row, open_object
from adepoll.emulator.results import FIRST_ROW
from adepoll.emulator.schema_samples import leaves_replaced

STEP: Final = "parse-extract"
"""The only step that a workflow can have, and its name in `output`."""

_INPUTS: Final = "$inputs."
_OUTPUT: Final = f"$output.{STEP}."


class V2Workflow(V2Kind):
    """The kind of jobs that parse a document and extract values from its Markdown, in v2."""

    name = "v2-workflow"
    path = "/v2/workflow/jobs"
    id_prefix = "v2-workflow-"
    latest_model = "workflow-20260710"

    def read_submission(self, form: Form) -> Submission:
        """Read a request that creates a job; raise `InvalidRequestError` if it is invalid."""
        reader = FormReader(form)
        inputs = reader.json_object("inputs", required=True)
        schema, document = _read_steps(reader)
        source = inputs.get(document.removeprefix(_INPUTS))
        filename = ""
        if not reader.problems:
            if isinstance(source, dict):
                filename = _filename(source, reader)
            else:
                message = f"Value error, {document!r} is not one of the inputs"
                reader.problem("steps", message, "value_error")
        projection = reader.json_object("output")
        submission = Submission(
            filename=filename or "document.pdf",
            tier=read_tier(reader),
            schema=schema,
            options={"output": projection} if projection else {},
        )
        reader.check()
        return submission

    def metadata(self, job: Job) -> dict[str, Json]:
        """Return the `metadata` of the result of a job."""
        metadata = {
            "job_id": job.job_id,
            "duration_ms": job.duration_ms,
            "openapi_spec": OPENAPI_SPEC,
            "billing": billing(job, 4.0 * job.plan.pages),
        }
        return odd_metadata(metadata, job.plan.odd_values)

    def result(self, job: Job, *, seed: int | str, org_id: str) -> ResultParts:  # noqa: ARG002 - the signature of the base class
        """Return the parts of the JSON of a `result`; see `EmulatedKind.result`.

        Filler rows give the result its size. They are in the parsed document. But if the request
        that created the job has a field `output`, which chooses the values of the result, the rows
        are in a list `_rows` beside these values.
        """
        rng = self.rng(job, seed)
        end = f',"metadata":{dump(self.metadata(job))}}}'
        steps = _step_output(job, rng)
        if projection := job.options.get("output"):
            values = {name: _value_at(steps, path) for name, path in projection.items()}
            # {"output": {VALUES, "_rows": [{"row": N}, ROWS, "FILLER"]}, "metadata": {...}}
            return ResultParts(
                head=f'{{"output":{open_object(values)},"_rows":[{{"row":{FIRST_ROW - 1}}}',
                row=make_row(',{"row":', ',"text":"', '"}'),
                middle=',"',
                tail='"]}' + end,
            )
        # {"output": {"parse-extract": {STEPS, "parse": {...}}}, "metadata": {...}}
        begin = f'{{"output":{{"{STEP}":{open_object(steps)},"parse":'
        return parse_parts(job, parse_metadata(job)).within(begin, "}}" + end)


def _read_steps(reader: FormReader) -> tuple[Json, str]:
    """Return the schema of the workflow's only step, and its reference to an input document.

    If the steps are invalid, record a problem, and return None and an empty text.
    """
    steps = reader.json("steps")
    step = steps[0] if isinstance(steps, list) and len(steps) == 1 else None
    if steps is None:
        reader.missing("steps")
    elif not isinstance(step, dict) or step.get("name") != STEP:
        message = f"Value error, steps must be an array of one step, {STEP!r}"
        reader.problem("steps", message, "value_error")
    elif not isinstance(step.get("schema"), dict) or not isinstance(step.get("document"), str):
        message = "Value error, a step must have a schema and a document"
        reader.problem("steps", message, "value_error")
    else:
        return step["schema"], step["document"]
    return None, ""


def _filename(source: dict[str, Json], reader: FormReader) -> str:
    """Return the name of the document of an input: the name of its file, or the end of its URL.

    The text is empty if the URL ends with a slash, or if the input has neither.
    """
    part, url = source.get("document"), source.get("document_url")
    if isinstance(url, str) and url:
        return url.rpartition("/")[2]
    if isinstance(part, str) and part in reader.form.filenames:
        return reader.form.filenames[part]
    message = "Value error, an input must have a document, a file of the form, or a document_url"
    reader.problem("inputs", message, "value_error")
    return ""


def _step_output(job: Job, rng: random.Random) -> dict[str, Json]:
    """Return what the workflow's only step extracts; `result` adds the parsed document to it."""
    extraction, references = extraction_of(job.schema, rng)
    partial = job.plan.outcome is Outcome.PARTIAL
    box = {"xmin": 0.08, "ymin": 0.1, "xmax": 0.92, "ymax": 0.35}
    grounding = {"page": 1, "range": {"start": 0, "end": 9}, "box": box}
    block = [{"block_id": "text-1", "type": "text", "grounding": grounding}]
    extract = {
        "extraction": extraction,
        "extraction_metadata": references,
        "schema_violation_error": VIOLATION if partial else None,
        "warnings": odd_warnings([], job.plan.odd_values),
    }
    return {"extract": extract, "ground": leaves_replaced(extraction, lambda _leaf: block)}


def _value_at(steps: dict[str, Json], reference: Json) -> Json:
    """Return the value at a reference such as ``$output.parse-extract.extract.extraction.total``.

    Return None if `steps` does not contain the value, or if the reference leads to a part of the
    parsed document, which `steps` never contains.
    """
    if not isinstance(reference, str) or not reference.startswith(_OUTPUT):
        return None
    value: Json = steps
    for name in reference.removeprefix(_OUTPUT).split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


V2_WORKFLOW: Final = V2Workflow()
"""The rules of v2 workflow jobs."""
