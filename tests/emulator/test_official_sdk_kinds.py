"""The official SDK creates, gets, lists and waits for jobs of the kinds that it knows."""

import asyncio

import attrs
import pytest
from lazyimport import lazy_import

from adepoll import (
    AdeClient,
    JobKind,
    JobRef,
    JobWatcher,
    ResultFetcher,
    V2ExtractResult,
    V2ParseResult,
)
from adepoll.emulator import Emulator, JobPlan, Outcome, Profile

landingai_ade = lazy_import("landingai_ade")

SCHEMA = {"type": "object", "properties": {"total": {"type": "number"}}}
GOOD = Profile(median=0.03, sigma=0, failed=0, cancelled=0, partial=0, large=0)
PDF = ("invoice.pdf", b"%PDF-1.7", "application/pdf")


@pytest.fixture
async def ade():
    """An emulator with the real time, in which jobs take 0.03 s."""
    async with Emulator(profile=GOOD) as ade:
        yield ade


@pytest.fixture
async def sdk(ade):
    # Only the base URL of v1 is given: the SDK sends v2 requests to it, too.
    async with landingai_ade.AsyncLandingAIADE(
        apikey=ade.api_key, base_url=ade.base_url, max_retries=0
    ) as sdk:
        yield sdk


def calls(sdk):
    """Return the resource and the arguments of `create` by kind."""
    return {
        "v1-extract": (sdk.extract_jobs, {"schema": "{}", "markdown": "# Invoice"}),
        "v1-parse": (sdk.parse_jobs, {"document": PDF}),
        "v2-parse": (sdk.v2.parse_jobs, {"document": PDF}),
        "v2-extract": (sdk.v2.extract_jobs, {"schema": SCHEMA, "markdown": "# Invoice"}),
    }


KINDS_OF_SDK = ["v1-extract", "v1-parse", "v2-parse", "v2-extract"]


async def completed(resource, job_id):
    """Poll a v1 job until it has completed; the SDK waits for v2 jobs only."""
    async with asyncio.timeout(60):
        while (job := await resource.get(job_id)).status != "completed":  # noqa: ASYNC110 - polls
            await asyncio.sleep(0.01)
    return job


@pytest.mark.parametrize("kind", KINDS_OF_SDK)
async def test_a_job_is_created_listed_and_polled_to_its_end(ade, sdk, kind):
    resource, arguments = calls(sdk)[kind]
    created = await resource.create(**arguments)
    assert ade.truth(created.job_id).kind == kind
    listed = await resource.list(page_size=5)
    jobs = listed if kind.startswith("v2") else listed.jobs
    assert [job.job_id for job in jobs] == [created.job_id]
    if kind.startswith("v2"):
        job = await resource.wait(created.job_id, poll_interval=0.01)
        assert job.result.metadata.job_id == created.job_id
        assert job.completed_at.timestamp() == pytest.approx(
            ade.truth(created.job_id).finished_at, abs=1e-5
        )
    else:
        job = await completed(resource, created.job_id)
        assert job.data.metadata.job_id == created.job_id


@pytest.mark.parametrize("kind", KINDS_OF_SDK)
async def test_adepoll_waits_for_a_job_that_the_sdk_created(kind):
    async with (
        Emulator(profile=attrs.evolve(GOOD, median=0)) as ade,
        landingai_ade.AsyncLandingAIADE(apikey=ade.api_key, base_url=ade.base_url) as sdk,
        AdeClient(ade.api_key, base_url=ade.base_url) as client,
        JobWatcher(client.for_kind(JobKind.named(kind))) as watcher,
    ):
        resource, arguments = calls(sdk)[kind]
        created = await resource.create(**arguments)
        job = await watcher.wait(created.job_id)
    assert job.status.value == "completed"
    assert job.data is not None


async def test_adepoll_fetches_what_the_sdk_created(tmp_path):
    large = attrs.evolve(GOOD, median=0, large=1, large_bytes=(1_500_000, 2_500_000))
    async with (
        Emulator(profile=large) as ade,
        landingai_ade.AsyncLandingAIADE(apikey=ade.api_key, base_url=ade.base_url) as sdk,
        AdeClient(ade.api_key, base_url=ade.base_url) as client,
        JobWatcher(client) as watcher,
        ResultFetcher(client) as fetcher,
    ):
        refs = []
        for kind, (resource, arguments) in calls(sdk).items():
            job_id = (await resource.create(**arguments)).job_id
            refs.append(JobRef(job_id, kind=JobKind.named(kind), label=f"{kind}.pdf"))
        async for job in watcher.watch(refs):
            done = await fetcher.download(job, tmp_path / job.label)
            truth = ade.truth(job.job_id)
            assert (done.bytes, done.sha256) == (truth.result_bytes, truth.result_sha256)
    assert {path.name for path in tmp_path.iterdir()} == {ref.label for ref in refs}


async def test_the_v2_results_are_those_of_the_submission(sdk):
    parsed = await sdk.v2.parse_jobs.create(document=PDF, service_tier="priority")
    job = await sdk.v2.parse_jobs.wait(parsed.job_id, poll_interval=0.01)
    assert job.result.metadata.billing.service_tier == "priority"
    assert job.result.structure.children[0].type == "page"
    markdown = job.result.markdown
    extract = await sdk.v2.extract_jobs.create(schema=SCHEMA, markdown=markdown, strict=True)
    job = await sdk.v2.extract_jobs.wait(extract.job_id, poll_interval=0.01)
    assert job.result.markdown == markdown
    assert job.result.extraction.keys() == {"total"}
    assert job.result.metadata.doc_id == parsed.job_id


async def test_documents_can_be_given_by_url(ade, sdk):
    url = "https://example.com/documents/report.pdf"
    created = [
        await sdk.parse_jobs.create(document_url=url, split="page", custom_prompts={"figure": "x"}),
        await sdk.v2.parse_jobs.create(document_url=url, options={"pages": [1]}, password="p"),
        await sdk.v2.extract_jobs.create(markdown_url=url, schema=SCHEMA, grounding=False),
    ]
    kinds = [ade.truth(job.job_id).kind for job in created]
    assert kinds == ["v1-parse", "v2-parse", "v2-extract"]
    job = await completed(sdk.parse_jobs, created[0].job_id)
    assert job.metadata.filename == "report.pdf"


async def test_a_spreadsheet_has_sheets(sdk):
    created = await sdk.parse_jobs.create(document=("book.xlsx", b"PK"), split="page")
    job = await completed(sdk.parse_jobs, created.job_id)
    assert job.data.splits[0].sheets == [0]
    assert job.data.metadata.sheet_count == len(job.data.splits)


async def test_a_failed_v2_job_has_an_error(ade, sdk):
    plan = JobPlan(outcome=Outcome.FAILED, failure_reason="no text", error_code="empty")
    job = await sdk.v2.parse_jobs.get(ade.submit(plan, kind="v2-parse"))
    assert (job.error.code, job.error.message) == ("empty", "no text")
    [listed] = await sdk.v2.parse_jobs.list(status="failed")
    assert listed.error.message == "no text"


async def test_a_saved_v2_result_has_a_receipt(ade, sdk):
    url = ade.save_url("saved", readable=True)
    created = await sdk.v2.parse_jobs.create(document=PDF, output_save_url=url)
    job = await sdk.v2.parse_jobs.wait(created.job_id, poll_interval=0.01)
    assert job.result is None
    assert job.raw["output_url"] == url
    assert job.metadata["job_id"] == created.job_id


async def test_refusals_raise_the_errors_of_the_sdk(ade, sdk):
    with pytest.raises(landingai_ade.NotFoundError):
        await sdk.v2.parse_jobs.get("nobody")
    with pytest.raises(landingai_ade.UnprocessableEntityError):
        await sdk.v2.extract_jobs.list(page_size=101)
    with pytest.raises(landingai_ade.UnprocessableEntityError):
        await sdk.v2.parse_jobs.create(document=PDF, options={"unknown": 1})
    ade.faults.add("conflict", times=1)
    with pytest.raises(landingai_ade.ConflictError):
        await sdk.v2.parse_jobs.create(document=PDF)
    ade.faults.add("too-many-requests", endpoints=["create"], kinds=["v2-extract"])
    with pytest.raises(landingai_ade.RateLimitError):
        await sdk.v2.extract_jobs.create(schema=SCHEMA, markdown="x")


async def test_results_of_both_kinds_have_their_class(ade):
    async with AdeClient(ade.api_key, base_url=ade.base_url) as client:
        for kind, cls in (("v2-parse", V2ParseResult), ("v2-extract", V2ExtractResult)):
            job = await client.get_job(ade.submit(JobPlan(), kind=kind))
            assert isinstance(job.data, cls)
