"""Schemathesis finds no violation of the service's public OpenAPI description."""

import asyncio
import json
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from adepoll.emulator import Emulator, JobPlan, Outcome

SPEC = Path(__file__).parents[3] / "shared" / "spec" / "ade-v1-extract-jobs.openapi.json"

if not SPEC.is_file():
    reason = f"the service's description is not part of this repository, and not at {SPEC}"
    pytest.skip(reason, allow_module_level=True)
schemathesis = pytest.importorskip("schemathesis")

SCHEMA = schemathesis.openapi.from_dict(json.loads(SPEC.read_text("utf-8")))
PLANS = [
    *(JobPlan(outcome=outcome) for outcome in Outcome),
    JobPlan(queue_time=1e6),
    JobPlan(processing_time=1e6),
    JobPlan(result_bytes=1_200_000),
    JobPlan(zero_data_retention=True),
]
JOB_IDS = [f"job-{number}" for number in range(len(PLANS))]


@pytest.fixture(scope="module")
def ade():
    """An emulator on a loop in its own thread, since Schemathesis is synchronous."""
    started, stop = threading.Event(), asyncio.Event()
    running = {}

    async def main():
        async with Emulator() as emulator:
            for job_id, plan in zip(JOB_IDS, PLANS, strict=True):
                emulator.submit(plan, job_id=job_id)
            running.update(loop=asyncio.get_running_loop(), emulator=emulator)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(10)
    yield running["emulator"]
    running["loop"].call_soon_threadsafe(stop.set)
    thread.join(10)


# Only the text of the description requires a JSON object as `schema`, and markdown or markdown_url.
# Its formal part allows forms that the service correctly answers 422.
REQUIRED_BY_TEXT = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
# All fields of a form are text: 0, a wrong type in the description, is False to FastAPI.
AS_TEXT = [schemathesis.checks.CHECKS.get_one("negative_data_rejection")]


def check(ade, case, excluded=()):
    return case.call_and_validate(
        base_url=ade.base_url,
        headers={"Authorization": f"Bearer {ade.api_key}"},
        excluded_checks=[*excluded],
    )


BOUNDED = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@SCHEMA.include(method="GET").parametrize()
@BOUNDED
def test_answers_to_queries_and_ids_conform(ade, case):
    check(ade, case)


@SCHEMA.include(method="POST").parametrize()
@BOUNDED
def test_answers_to_forms_conform(ade, case):
    check(ade, case, REQUIRED_BY_TEXT)


@SCHEMA.include(method="POST").parametrize()
@BOUNDED
def test_answers_to_forms_with_all_required_fields_conform(ade, case):
    if isinstance(case.body, dict):
        case.body |= {"schema": '{"type": "object"}', "markdown": "# Invoice"}
    check(ade, case, REQUIRED_BY_TEXT + AS_TEXT)


def test_the_answer_for_a_created_job_conforms(ade):
    form = {"schema": "{}", "markdown": "# Invoice"}
    create = SCHEMA["/v1/ade/extract/jobs"]["POST"]
    made = check(ade, create.Case(body=form, media_type="multipart/form-data"))
    assert made.status_code == 202
    get = SCHEMA["/v1/ade/extract/jobs/{job_id}"]["GET"]
    found = check(ade, get.Case(path_parameters={"job_id": made.json()["job_id"]}))
    assert found.status_code == 200


@pytest.mark.parametrize("job_id", JOB_IDS)
def test_the_answer_for_every_plan_conforms(ade, job_id):
    operation = SCHEMA["/v1/ade/extract/jobs/{job_id}"]["GET"]
    check(ade, operation.Case(path_parameters={"job_id": job_id}))


@pytest.mark.parametrize(
    "query",
    [{}, {"pageSize": 100}, {"page": 1, "pageSize": 3}, {"status": "failed"}],
)
def test_pages_with_jobs_conform(ade, query):
    check(ade, SCHEMA["/v1/ade/extract/jobs"]["GET"].Case(query=query))
