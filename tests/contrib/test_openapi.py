"""What FastAPI publishes about the routes of adepoll, and its response models."""

import json
import warnings
from datetime import UTC, datetime

import aiohttp
import pytest
import server_apps
from fastapi import FastAPI, Request
from lazyimport import lazy_import
from pydantic import ValidationError

from adepoll import ExtractResult, JobSnapshot, JobStatus
from adepoll.contrib.fastapi import JobModel, add_problem_details, adepoll_lifespan, openapi, wait
from adepoll.emulator import JobPlan
from adepoll.server.job_responses import job_as_json
from adepoll.server.problem_details import PROBLEM_MEDIA_TYPE

openapi_spec_validator = lazy_import("openapi_spec_validator")

URL = "https://bucket.s3.example/r.json?X-Amz-Signature=canary"


@pytest.fixture(scope="module")
def paths():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return server_apps.fastapi_app().openapi()["paths"]


@pytest.mark.parametrize(
    ("path", "method", "status", "media_type"),
    [
        ("/status/{job_id}", "get", "200", "application/json"),
        ("/status/{job_id}", "get", "202", "application/json"),
        ("/status/{job_id}", "get", "404", PROBLEM_MEDIA_TYPE),
        ("/status/{job_id}", "get", "503", PROBLEM_MEDIA_TYPE),
        ("/status/{job_id}", "get", "504", PROBLEM_MEDIA_TYPE),
        ("/events", "get", "200", "text/event-stream"),
        ("/result/{job_id}", "get", "200", "application/json"),
        ("/result/{job_id}", "get", "206", "application/json"),
        ("/result/{job_id}", "get", "410", PROBLEM_MEDIA_TYPE),
        ("/ready", "get", "200", "application/json"),
        ("/ready", "get", "503", "application/json"),
        ("/live", "get", "200", "application/json"),
        ("/hook", "post", "400", PROBLEM_MEDIA_TYPE),
    ],
)
def test_each_response_of_a_route_is_described(paths, path, method, status, media_type):
    response = paths[path][method]["responses"][status]
    assert media_type in response["content"]
    assert response["description"]
    if media_type == PROBLEM_MEDIA_TYPE:
        schema = response["content"][media_type]["schema"]
        assert {"type", "title", "status", "detail", "instance"} <= schema["properties"].keys()


def test_problems_are_described_alike_wherever_they_occur(paths):
    """FastAPI itself sends 422 as plain JSON; only 503 and 504 say when to try again."""
    described = [
        (status, {*response["content"]}, response.get("headers", {}))
        for operations in paths.values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        if PROBLEM_MEDIA_TYPE in response.get("content", {})
    ]
    assert {"422", "503", "504"} < {status for status, _, _ in described}
    for status, content, headers in described:
        assert ("application/json" in content) is (status == "422")
        assert ("Retry-After" in headers) is (status in {"503", "504"})


def test_each_route_has_a_summary_and_no_internal_text(paths):
    for path in ("/status/{job_id}", "/events", "/result/{job_id}", "/ready", "/live", "/hook"):
        (operation,) = paths[path].values()
        assert operation["summary"][0].isupper()
        assert "`" not in operation.get("description", "")


def test_the_webhook_has_a_body_and_its_headers(paths):
    hook = paths["/hook"]["post"]
    assert hook["requestBody"]["required"]
    headers = hook["parameters"]
    names = ["webhook-id", "webhook-timestamp", "webhook-signature"]
    assert [header["name"] for header in headers] == names
    assert {(header["in"], header["required"]) for header in headers} == {("header", True)}
    assert "204" in hook["responses"]
    assert "200" not in hook["responses"]


def snapshot(**fields):
    return JobSnapshot(
        job_id="a", status=JobStatus.COMPLETED, status_text="done", output_url=URL, **fields
    )


def test_the_model_and_the_json_of_a_job_are_the_same():
    job = snapshot(received_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    model = JobModel.model_validate(job)
    assert model.model_dump(mode="json") == job_as_json(job)
    assert JobModel.model_validate(job_as_json(job)) == model
    with pytest.raises(ValidationError):
        model.label = "another"
    assert "canary" not in model.model_dump_json()


def test_a_subclass_can_publish_more_of_a_snapshot():
    class WithUrl(JobModel):
        output_url: str | None = None

    assert WithUrl.model_validate(snapshot()).output_url == URL


def test_a_subclass_can_publish_the_result():
    class WithData(JobModel):
        data: dict[str, object] | None = None

    job = snapshot(data=ExtractResult(extraction={"total": "7"}))
    assert WithData.model_validate(job).data["extraction"] == {"total": "7"}


def test_an_argument_of_a_constant_can_be_replaced():
    app = FastAPI()

    @app.get("/{job_id}", **openapi.STATUS | {"summary": "How far is it?"})
    async def status(job_id: str):
        return job_id

    operation = app.openapi()["paths"]["/{job_id}"]["get"]
    assert operation["summary"] == "How far is it?"
    assert "202" in operation["responses"]


def test_the_description_is_valid_openapi():
    openapi_spec_validator.validate(server_apps.fastapi_app().openapi())


async def test_a_route_can_return_a_snapshot(ade):
    app = FastAPI(lifespan=adepoll_lifespan(**server_apps.options_for(ade)))
    add_problem_details(app)

    @app.get("/{job_id}", **openapi.WAIT)
    async def settled(request: Request, job_id: str):
        return await wait(request, job_id)

    job_id = ade.submit(JobPlan(result_bytes=2_000_000))
    async with (
        server_apps.run_uvicorn(app) as server,
        aiohttp.ClientSession() as http,
        http.get(f"{server.url}/{job_id}") as response,
    ):
        body = await response.text()
    assert json.loads(body)["status"] == "completed"
    assert "X-Amz" not in body
    assert ade.results_url not in body


def test_a_response_that_can_be_repeated_later_has_retry_after():
    responses = openapi.STATUS["responses"]
    with_header = {status for status, found in responses.items() if "headers" in found}
    assert with_header == {202, 503, 504}
    assert all("Retry-After" in responses[status]["headers"] for status in with_header)
    own = {status for status, found in responses.items() if "application/json" in content(found)}
    assert own == {422}
    assert {status for status, found in responses.items() if content(found)} == {
        404, 422, 500, 502, 503, 504,
    }  # fmt: skip


def content(response):
    return response.get("content", {})
