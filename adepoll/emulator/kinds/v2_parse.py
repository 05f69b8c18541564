"""v2 parse jobs: requests that create them, results and metadata. Does no I/O."""

from typing import Final

from adepoll.api.models import Json
from adepoll.emulator.jobs import Job
from adepoll.emulator.kinds.forms import Form, FormReader, Submission
from adepoll.emulator.kinds.v2 import OPENAPI_SPEC, V2Kind, billing, read_tier
from adepoll.emulator.odd_values import odd_metadata
from adepoll.emulator.result_parts import ResultParts, dump, make_row, open_object
from adepoll.emulator.results import FIRST_ROW

_BOX: Final = {"xmin": 0.08, "ymin": 0.1, "xmax": 0.92, "ymax": 0.35}
_WHOLE_PAGE: Final = {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}
_OPTIONS: Final = frozenset({"atomic_grounding", "blocks", "inline_markdown", "pages", "password"})


class V2Parse(V2Kind):
    """The kind of jobs that parse a document, in v2."""

    name = "v2-parse"
    path = "/v2/parse/jobs"
    id_prefix = "parse-"
    latest_model = "dpt-3-pro-20260710"

    def read_submission(self, form: Form) -> Submission:
        """Read a request that creates a job; raise `InvalidRequestError` if it is invalid."""
        reader = FormReader(form)
        reader.document("document", "document_url", only_one=True)
        reader.check_options(_OPTIONS)
        submission = Submission(
            filename=reader.filename("document", "document_url"),
            model=reader.text("model"),
            output_save_url=reader.text("output_save_url"),
            tier=read_tier(reader),
        )
        reader.check()
        return submission

    def metadata(self, job: Job) -> dict[str, Json]:
        """Return the `metadata` of the result of a job."""
        return odd_metadata(parse_metadata(job), job.plan.odd_values)

    def result(self, job: Job, *, seed: int | str, org_id: str) -> ResultParts:  # noqa: ARG002 - the signature of the base class
        """Return the parts of the JSON of a `result`; see `EmulatedKind.result`."""
        return parse_parts(job, self.metadata(job))


def parse_metadata(job: Job) -> dict[str, Json]:
    """Return the `metadata` of a parsed document."""
    return {
        "job_id": job.job_id,
        "model_version": job.version,
        "page_count": job.plan.pages,
        "output_markdown_chars": len(_markdown(job)),
        "range_units": "unicode_codepoints",
        "openapi_spec": OPENAPI_SPEC,
        "failed_pages": [*job.plan.pages_that_failed],
        "duration_ms": job.duration_ms,
        "billing": billing(job, 3.0 * job.plan.pages),
    }


def parse_parts(job: Job, metadata: dict[str, Json]) -> ResultParts:
    """Return the parts of a parsed document.

    In the last page that did not fail, elements without meaning give the result its size.

    Args:
        job: The job.
        metadata: The `metadata` of the document.
    """
    failed = job.plan.pages_that_failed
    pages, start, last = [], 0, job.plan.pages - 1
    for number in range(1, job.plan.pages + 1):
        if number in failed:
            range_ = {"start": start, "end": start}
            node = {"page": number, "range": range_, "box": _WHOLE_PAGE}
            page: dict[str, Json] = {"type": "page", "status": "failed", "grounding": node}
            pages.append(page | {"reason": "the page could not be read", "children": []})
            continue
        end = start + len(_page_text(number))
        node = {"page": number, "range": {"start": start, "end": end}, "box": _WHOLE_PAGE}
        grounding = {**node, "box": _BOX}
        element: dict[str, Json] = {"type": "text", "id": f"text-{number}", "grounding": grounding}
        element["atomic_grounding"] = [grounding]
        pages.append({"type": "page", "status": "ok", "grounding": node, "children": [element]})
        start, last = end, len(pages) - 1
    ends = dump({"page": job.plan.pages, "range": {"start": 0, "end": 0}, "box": _BOX})
    row = f'","type":"text","grounding":{ends},"atomic_grounding":[],"markdown":"'
    before = [dump(page) + "," for page in pages[:last]]
    after = ["," + dump(page) for page in pages[last + 1 :]]
    opened = pages[last]
    children = [dump(child) + "," for child in opened.pop("children")]
    return ResultParts(
        head=f'{{"markdown":{dump(_markdown(job))},"structure":{{"type":"document","children":['
        f'{"".join(before)}{open_object(opened)},"children":[{"".join(children)}'
        f'{{"id":"text-{FIRST_ROW - 1}{row}"}}',
        row=make_row(',{"id":"text-', row, '"}'),
        middle=f',{{"id":"text-0{row}',
        tail=f'"}}]}}{"".join(after)}]}},"metadata":{dump(metadata)}}}',
    )


def _markdown(job: Job) -> str:
    failed = job.plan.pages_that_failed
    pages = [_page_text(number) for number in range(1, job.plan.pages + 1) if number not in failed]
    return "".join(pages) + f"<!-- doc_id={job.job_id} -->"


def _page_text(number: int) -> str:
    return f"# Page {number}\n\nAmber \N{EURO SIGN} {number * 37 % 1_000}\n\n"


V2_PARSE: Final = V2Parse()
"""The rules of v2 parse jobs."""
