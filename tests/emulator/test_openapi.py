"""Schemathesis finds no violation of the service's public OpenAPI descriptions."""

import asyncio
import functools
import json
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from lazyimport import lazy_import

from adepoll.emulator import KINDS, Emulator, JobPlan, Outcome, Profile

FOLDER = Path(__file__).parents[3] / "shared" / "spec"

if not FOLDER.is_dir():
    reason = f"the service's descriptions are not part of this repository, and not in {FOLDER}"
    pytest.skip(reason, allow_module_level=True)
schemathesis = lazy_import("schemathesis")

NAMES = dict.fromkeys(KINDS, "v2") | {"v1-extract": "v1-extract", "v1-parse": "v1-parse"}
FILES = {
    "v1-extract": "ade-v1-extract-jobs",
    "v1-parse": "ade-v1-parse-jobs",
    "v2": "ade-v2-jobs",
}


@functools.cache
def read(name):
    text = (FOLDER / f"{FILES[name]}.openapi.json").read_text("utf-8")
    return schemathesis.openapi.from_dict(json.loads(text))


PLANS = {
    **{outcome.value: JobPlan(outcome=outcome) for outcome in Outcome},
    "pending": JobPlan(queue_time=1e6),
    "processing": JobPlan(processing_time=1e6),
    "large": JobPlan(result_bytes=1_200_000),
    "not kept": JobPlan(zero_data_retention=True),
    "one page": JobPlan(outcome=Outcome.PARTIAL, pages=1),
}
JOBS = {
    f"{kind} {name}".replace(" ", "-"): (kind, plan)
    for kind, rules in KINDS.items()
    for name, plan in PLANS.items()
    if plan.outcome in rules.outcomes
}
DOCUMENT = {"document": b"%PDF-1.7"}
STEP = {"name": "parse-extract", "document": "$inputs.a", "schema": {"type": "object"}}
BODIES = {
    "v1-extract": {"schema": '{"type": "object"}', "markdown": "# Invoice"},
    "v1-parse": DOCUMENT,
    "v2-parse": DOCUMENT,
    "v2-extract": {"schema": '{"type": "object"}', "markdown": "# Invoice"},
    "v2-workflow": {
        "inputs": '{"a": {"document_url": "https://example.com/a.pdf"}}',
        "steps": json.dumps([STEP]),
    },
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def ade():
    """An emulator on a loop in its own thread, since Schemathesis is synchronous."""
    started, stop = threading.Event(), asyncio.Event()
    running = {}

    async def main():
        # Of the created jobs, a drawn share would fail or be partial: another one in another order.
        profile = Profile(median=0, failed=0, cancelled=0, partial=0)
        async with Emulator(profile=profile) as emulator:
            for job_id, (kind, plan) in JOBS.items():
                emulator.submit(plan, job_id=job_id, kind=kind)
            emulator.submit(JobPlan(), job_id="spreadsheet", kind="v1-parse", filename="a.xlsx")
            url = emulator.save_url("saved")
            for kind in KINDS:
                emulator.submit(JobPlan(), job_id=f"{kind}-saved", kind=kind, output_save_url=url)
            running.update(loop=asyncio.get_running_loop(), emulator=emulator)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(10)
    yield running["emulator"]
    running["loop"].call_soon_threadsafe(stop.set)
    thread.join(10)


# Only the text of a description requires a JSON object as `schema`, a document or its URL, and so
# on. Its formal part allows forms that the service correctly answers 422.
REQUIRED_BY_TEXT = "positive_data_acceptance"
# All fields of a form are text: 0, a wrong type in the description, is False to FastAPI. A field
# with the content of a file is a file without a name.
AS_TEXT = "negative_data_rejection"


def check(ade, case, excluded=()):
    return case.call_and_validate(
        base_url=ade.base_url,
        headers={"Authorization": f"Bearer {ade.api_key}"},
        excluded_checks=[schemathesis.checks.CHECKS.get_one(name) for name in excluded],
    )


@pytest.fixture
def conform(ade):
    """Check the answers to requests that Schemathesis generates for a description."""
    # Its marker generates them when tests are collected, which takes each process 2 s of CPU. Its
    # lazy marker does not know the nodes of pytest 9.2, so this calls what both call.
    from schemathesis.pytest.lazy import get_all_tests  # noqa: PLC0415 - costs 0.6 s

    def run(name, method, *excluded, complete=None, share=2):
        def conforms(case):
            if complete is not None and isinstance(case.body, dict):
                case.body |= complete
            check(ade, case, excluded)

        generated = get_all_tests(
            schema=read(name).include(method=method),
            test_func=conforms,
            settings=settings(
                max_examples=settings.default.max_examples // share,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
            given_kwargs=None,
        )
        tests = [result.ok() for result in generated]
        assert tests
        for _, test in tests:
            test()

    return run


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", FILES)
def test_answers_to_queries_and_ids_conform(conform, name):
    conform(name, "GET")


@pytest.mark.hypothesis
def test_answers_to_v1_extract_forms_conform(conform):
    conform("v1-extract", "POST", REQUIRED_BY_TEXT)


@pytest.mark.thorough  # the default run posts forms of v1 extract jobs
@pytest.mark.hypothesis
def test_answers_to_v1_parse_forms_conform(conform):
    conform("v1-parse", "POST", REQUIRED_BY_TEXT, AS_TEXT)


@pytest.mark.thorough
@pytest.mark.hypothesis
def test_answers_to_v2_submissions_conform(conform):
    conform("v2", "POST", REQUIRED_BY_TEXT, AS_TEXT, share=4)  # slow to generate


@pytest.mark.hypothesis
def test_answers_to_forms_with_all_required_fields_conform(conform):
    complete = BODIES["v1-extract"]
    conform("v1-extract", "POST", REQUIRED_BY_TEXT, AS_TEXT, complete=complete)


@every_kind
def test_the_answer_for_a_created_job_conforms(ade, kind):
    path = KINDS[kind].path
    create = read(NAMES[kind])[path]["POST"]
    made = check(ade, create.Case(body=BODIES[kind], media_type="multipart/form-data"))
    assert made.status_code == 202
    get = read(NAMES[kind])[f"{path}/{{job_id}}"]["GET"]
    found = check(ade, get.Case(path_parameters={"job_id": made.json()["job_id"]}))
    assert found.status_code == 200


@pytest.mark.parametrize(
    ("kind", "job_id"),
    [
        *((kind, job_id) for job_id, (kind, _) in JOBS.items()),
        ("v1-parse", "spreadsheet"),
        *((kind, f"{kind}-saved") for kind in KINDS),
    ],
)
def test_the_answer_for_every_plan_conforms(ade, kind, job_id):
    operation = read(NAMES[kind])[f"{KINDS[kind].path}/{{job_id}}"]["GET"]
    answer = check(ade, operation.Case(path_parameters={"job_id": job_id}))
    assert answer.json()["job_id"] == job_id


@every_kind
@pytest.mark.parametrize("query", [{}, {"page": 1}, {"status": "failed"}])
@pytest.mark.parametrize("size", [3, 100])
def test_pages_with_jobs_conform(ade, kind, query, size):
    name = "pageSize" if kind.startswith("v1") else "page_size"
    operation = read(NAMES[kind])[KINDS[kind].path]["GET"]
    page = check(ade, operation.Case(query={**query, name: size})).json()
    assert len(page["jobs"]) <= size
