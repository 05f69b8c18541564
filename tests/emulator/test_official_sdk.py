"""The official SDK works with the emulator as it does with the service."""

import asyncio
import json

import pytest
from clocks import T0
from lazyimport import lazy_import

from adepoll.emulator import Emulator, JobPlan, Outcome, Profile

landingai_ade = lazy_import("landingai_ade")

SCHEMA = '{"type": "object", "properties": {"total": {"type": "number"}}}'


@pytest.fixture
async def sdk(ade):
    async with landingai_ade.AsyncLandingAIADE(
        apikey=ade.api_key, base_url=ade.base_url, max_retries=0
    ) as sdk:
        yield sdk


@pytest.mark.parametrize(
    "document",
    ["# Invoice\n\nTotal: 12", b"# Invoice", ("invoice.md", b"# Invoice")],
    ids=["string", "bytes", "named file"],
)
async def test_a_created_job_can_be_polled(ade, sdk, clock, document):
    created = await sdk.extract_jobs.create(schema=SCHEMA, markdown=document)
    job = await sdk.extract_jobs.get(created.job_id)
    assert (job.status, job.progress, job.received_at) == ("pending", 0.0, int(T0))
    clock.now = ade.truth(created.job_id).finished_at
    job = await sdk.extract_jobs.get(created.job_id)
    assert job.status in {"completed", "failed", "cancelled"}


async def test_all_options_of_create_are_accepted(sdk):
    created = await sdk.extract_jobs.create(
        schema=SCHEMA, markdown_url="https://example.com/a.md", model="extract-latest", strict=True
    )
    assert created.job_id


async def test_the_data_of_a_completed_job_conforms_to_the_schema(ade, sdk):
    job_id = ade.submit(JobPlan(), schema={"properties": {"total": {"type": "number"}}})
    job = await sdk.extract_jobs.get(job_id)
    assert job.status == "completed"
    assert job.progress == 1.0
    assert job.data.extraction.keys() == {"total"}
    assert job.data.metadata.job_id == job_id
    assert job.metadata == type(job.metadata)(**job.data.metadata.model_dump())
    assert job.output_url is None


async def test_a_partial_job_is_completed_and_has_its_violation(ade, sdk):
    job = await sdk.extract_jobs.get(ade.submit(JobPlan(outcome=Outcome.PARTIAL)))
    assert job.status == "completed"
    assert job.metadata.schema_violation_error
    assert job.metadata.warnings[0].code == "nonconformant_schema"


async def test_a_failed_job_has_its_reason(ade, sdk):
    plan = JobPlan(outcome=Outcome.FAILED, failure_reason="no text")
    job = await sdk.extract_jobs.get(ade.submit(plan))
    assert (job.status, job.failure_reason, job.data) == ("failed", "no text", None)


async def test_a_large_result_has_an_output_url(ade, sdk):
    job = await sdk.extract_jobs.get(ade.submit(JobPlan(result_bytes=2_000_000)))
    assert job.data is None
    assert job.output_url.startswith(ade.results_url)


async def test_jobs_are_listed_by_page_size_and_status(ade, sdk):
    for n in range(12):
        ade.submit(JobPlan(processing_time=n % 2), job_id=str(n))
    everything = await sdk.extract_jobs.list()
    assert len(everything.jobs) == 10
    assert everything.has_more
    page = await sdk.extract_jobs.list(page=1, page_size=4, status="completed")
    assert [job.job_id for job in page.jobs] == ["2", "0"]
    assert not page.has_more
    assert page.org_id == ade.world.org_id


async def test_refusals_raise_the_errors_of_the_sdk(ade, sdk):
    with pytest.raises(landingai_ade.NotFoundError):
        await sdk.extract_jobs.get("nobody")
    with pytest.raises(landingai_ade.UnprocessableEntityError):
        await sdk.extract_jobs.list(page_size=101)
    with pytest.raises(landingai_ade.UnprocessableEntityError):
        await sdk.extract_jobs.create(schema="not json", markdown="x")
    async with landingai_ade.AsyncLandingAIADE(
        apikey="wrong", base_url=ade.base_url, max_retries=0
    ) as stranger:
        with pytest.raises(landingai_ade.AuthenticationError):
            await stranger.extract_jobs.list()


async def test_the_synchronous_sdk_works_as_well(ade):
    def use():
        with landingai_ade.LandingAIADE(apikey=ade.api_key, base_url=ade.base_url) as sdk:
            job_id = sdk.extract_jobs.create(schema=SCHEMA, markdown="# Invoice").job_id
            return (
                sdk.extract_jobs.get(job_id).job_id
                == job_id
                == sdk.extract_jobs.list().jobs[0].job_id
            )

    assert await asyncio.to_thread(use)


class TestRetries:
    """The SDK retries transient errors; its waits are reduced to 0 s here."""

    FAULTS = ("server-error", "too-many-requests", "reset-before-headers", "request-timeout")

    @pytest.fixture
    def waits(self, monkeypatch):
        """The waits of the SDK, in seconds."""
        waits = []
        for cls in (landingai_ade.AsyncLandingAIADE, landingai_ade.LandingAIADE):
            calculate = cls._calculate_retry_timeout

            def record(self, *args, calculate=calculate, **options):
                waits.append(calculate(self, *args, **options))
                return 0

            monkeypatch.setattr(cls, "_calculate_retry_timeout", record)
        return waits

    @pytest.mark.parametrize("name", FAULTS)
    async def test_the_asynchronous_sdk_retries_successfully(self, ade, waits, name):
        job_id = ade.submit(JobPlan())
        ade.faults.add(name, times=2)
        async with landingai_ade.AsyncLandingAIADE(
            apikey=ade.api_key, base_url=ade.base_url, max_retries=2
        ) as sdk:
            assert (await sdk.extract_jobs.get(job_id)).status == "completed"
        assert len(waits) == 2
        assert ade.truth(job_id).polls == 3

    @pytest.mark.parametrize("name", FAULTS)
    async def test_the_synchronous_sdk_retries_successfully(self, ade, waits, name):
        job_id = ade.submit(JobPlan())
        ade.faults.add(name, times=2)

        def use():
            with landingai_ade.LandingAIADE(
                apikey=ade.api_key, base_url=ade.base_url, max_retries=2
            ) as sdk:
                return sdk.extract_jobs.get(job_id).status

        assert await asyncio.to_thread(use) == "completed"
        assert len(waits) == 2

    async def test_the_sdk_waits_for_the_retry_after(self, ade, sdk, waits):
        job_id = ade.submit(JobPlan())
        ade.faults.add("too-many-requests", retry_after="seconds", wait=7, times=1)
        patient = sdk.with_options(max_retries=1)
        assert (await patient.extract_jobs.get(job_id)).status == "completed"
        assert waits == [7.0]


async def test_the_same_submission_gives_the_same_data(clock):
    async def submitted():
        profile = Profile(failed=0, cancelled=0, partial=0, large=0)
        async with (
            Emulator(clock=clock, seed=9, profile=profile) as ade,
            landingai_ade.AsyncLandingAIADE(apikey=ade.api_key, base_url=ade.base_url) as sdk,
        ):
            line = {"type": "object", "properties": {"sku": {"type": "string"}}}
            fields = {"total": {"type": "number"}, "lines": {"type": "array", "items": line}}
            schema = json.dumps({"type": "object", "properties": fields})
            created = await sdk.extract_jobs.create(schema=schema, markdown="# Invoice")
            clock.now = max(clock.now, ade.truth(created.job_id).finished_at)
            return (await sdk.extract_jobs.get(created.job_id)).data

    first, again = await submitted(), await submitted()
    assert first.extraction == again.extraction
    assert isinstance(first.extraction["total"], float)
    assert [line.keys() for line in first.extraction["lines"]] == [{"sku"}, {"sku"}]
