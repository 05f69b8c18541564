"""Configurable behaviour of the service: list order and lag, saved results, data retention."""

import asyncio
from email.utils import formatdate

import aiohttp
import pytest
from clocks import T0
from internals import plan_of
from yarl import URL

from adepoll.api.models import JobStatus
from adepoll.emulator import Emulator, JobPlan, ListOrder, Profile, World

JOBS = "/v1/ade/extract/jobs"
LARGE = 1_200_000


class TestLists:
    def world(self, order, clock, **options):
        world = World(clock=clock, list_order=order, seed=4, **options)
        for number in range(50):
            world.submit(JobPlan(), job_id=str(number), received_at=T0 - 100 + number)
        return world

    def read_all(self, world, size=7):
        pages = [world.page(page=page, page_size=size) for page in range(60 // size)]
        more = [page["has_more"] for page in pages]
        assert more == [(n + 1) * size < 50 for n in range(len(pages))]
        return [job["job_id"] for page in pages for job in page["jobs"]]

    def test_oldest_first(self, clock):
        listed = self.read_all(self.world(ListOrder.OLDEST, clock))
        assert listed == [str(number) for number in range(50)]

    def test_newest_first(self, clock):
        listed = self.read_all(self.world(ListOrder.NEWEST, clock))
        assert listed == [str(number) for number in range(49, -1, -1)]

    def test_a_shuffled_list_follows_the_seed_and_its_pages_fit_together(self, clock):
        world = self.world(ListOrder.SHUFFLED, clock)
        listed = self.read_all(world)
        assert sorted(listed, key=int) == [str(number) for number in range(50)]
        assert listed not in (sorted(listed, key=int), sorted(listed, key=int)[::-1])
        assert (
            listed == self.read_all(world) == self.read_all(self.world(ListOrder.SHUFFLED, clock))
        )

    def test_a_reshuffled_list_changes_at_every_request(self, clock):
        world = self.world(ListOrder.RESHUFFLED, clock)
        listed = self.read_all(world)
        assert len(listed) == 50
        assert len(set(listed)) < 50
        assert listed != self.read_all(world)
        assert listed == self.read_all(self.world(ListOrder.RESHUFFLED, clock))
        assert world.page(page=99, page_size=10)["jobs"] == []

    @pytest.mark.parametrize("order", ListOrder)
    def test_the_status_filter_works_in_every_order(self, clock, order):
        world = World(clock=clock, list_order=order)
        for number in range(20):
            world.submit(JobPlan(processing_time=number % 2 * 5), job_id=str(number))
        clock.now += 1
        active = world.page(page_size=100, status=JobStatus.PROCESSING)["jobs"]
        assert {job["job_id"] for job in active} == {str(number) for number in range(1, 20, 2)}
        clock.now += 5
        assert world.page(status=JobStatus.PROCESSING)["jobs"] == []

    def test_a_list_lags_behind_the_get(self, clock):
        world = World(clock=clock, list_lag=3.0)
        job_id = world.submit(JobPlan(processing_time=10))

        def seen():
            listed = world.page()["jobs"]
            return world.job(job_id)[1]["status"], listed[0]["status"] if listed else None

        assert (seen(), world.listed()) == (("processing", None), {})
        clock.now += 3
        assert world.listed() == {JobStatus.PROCESSING: 1}
        assert seen() == ("processing", "processing")
        clock.now += 7
        assert seen() == ("completed", "processing")
        assert world.page(status=JobStatus.PROCESSING)["jobs"]
        clock.now += 3
        assert seen() == ("completed", "completed")

    def test_a_list_stands_still_when_its_lag_becomes_longer(self, clock):
        world = World(clock=clock)
        world.submit(JobPlan(processing_time=4))
        clock.now += 1
        before = world.page()
        world.list_lag = 3.0
        for _ in range(6):
            assert world.page() == before
            clock.now += 1
        assert world.page()["jobs"][0]["status"] == "completed"

    async def test_the_emulator_passes_order_and_lag_on(self, clock):
        ade = Emulator(clock=clock, list_order="oldest", list_lag=2.0)
        assert (ade.world.list_order, ade.world.list_lag) == (ListOrder.OLDEST, 2.0)


def form(**fields):
    data = aiohttp.FormData({"schema": "{}", "markdown": "x"}, default_to_multipart=True)
    for name, value in fields.items():
        data.add_field(name, value)
    return data


async def get(api, job_id):
    async with api.get(f"{JOBS}/{job_id}") as answer:
        return await answer.json()


class TestSaving:
    @pytest.mark.parametrize("size", [5_000, LARGE])
    async def test_the_result_is_put_to_the_save_url_exactly_once(self, ade, api, clock, size):
        url = ade.save_url("a/b c.json")
        plan = JobPlan(processing_time=5, result_bytes=size)
        job_id = ade.submit(plan, output_save_url=url)
        assert (await get(api, job_id))["output_url"] is None
        assert ade.saved("a/b c.json") is None
        assert ade.truth(job_id).save_status is None
        clock.now += 5
        polls = await asyncio.gather(*(get(api, job_id) for _ in range(5)))
        assert {poll["output_url"] for poll in polls} == {url}
        assert all(poll["data"] is None for poll in polls)
        assert ade.saved("a/b c.json") == ade.world.result(job_id).read()
        assert ade.truth(job_id).save_status == 200
        assert ade.truth.requests.result == 1

    async def test_a_job_can_be_created_with_a_save_url(self, clock):
        profile = Profile(failed=0, cancelled=0, partial=0)
        async with (
            Emulator(clock=clock, profile=profile) as ade,
            aiohttp.ClientSession(
                ade.base_url, headers={"Authorization": f"Bearer {ade.api_key}"}
            ) as api,
        ):
            data = form(output_save_url=ade.save_url("one"))
            async with api.post(JOBS, data=data) as answer:
                assert answer.status == 202
                job_id = (await answer.json())["job_id"]
            clock.now = ade.truth(job_id).finished_at
            await get(api, job_id)
            assert ade.saved("one") == ade.world.result(job_id).read()

    async def test_a_url_presigned_for_put_only_cannot_be_read(self, ade, api, storage):
        job_id = ade.submit(JobPlan(), output_save_url=ade.save_url("one"))
        url = URL((await get(api, job_id))["output_url"], encoded=True)
        async with storage.get(url) as answer:
            assert answer.status == 403
            assert "<Code>SignatureDoesNotMatch</Code>" in await answer.text()

    async def test_a_readable_save_url_can_be_read(self, ade, api, storage):
        job_id = ade.submit(JobPlan(), output_save_url=ade.save_url("one", readable=True))
        url = URL((await get(api, job_id))["output_url"], encoded=True)
        async with storage.get(url, headers={"Range": "bytes=0-9"}) as answer:
            assert answer.status == 206
            assert await answer.read() == ade.saved("one")[:10]

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "not a url", "ftp://x/", "http://[/"])
    async def test_a_job_is_completed_even_if_its_save_url_is_unreachable(self, ade, api, url):
        job_id = ade.submit(JobPlan(), output_save_url=url)
        assert (await get(api, job_id))["output_url"] == url
        assert ade.truth(job_id).save_status == 0

    async def test_the_truth_contains_the_status_of_a_refused_save(self, ade, api, clock):
        url = ade.save_url("one")
        clock.now += 4_000
        job_id = ade.submit(JobPlan(), output_save_url=url)
        await get(api, job_id)
        assert ade.truth(job_id).save_status == 403
        assert ade.saved("one") is None

    async def test_results_can_be_put_under_the_save_prefix_only(self, ade, storage):
        url = ade.world.presigner.presign(
            origin=ade.results_url, raw_path="/elsewhere", now=T0, method="PUT"
        )
        async with storage.put(URL(url, encoded=True), data=b"x") as answer:
            assert answer.status == 405
        for path in ("/ade-saved/one", "/elsewhere"):
            async with storage.put(ade.results_url + path, data=b"x") as answer:
                assert answer.status == 403

    def test_a_save_url_requires_a_running_emulator(self):
        with pytest.raises(RuntimeError, match="not running"):
            Emulator().save_url("one")


class TestZeroDataRetention:
    @pytest.mark.parametrize("size", [5_000, LARGE])
    async def test_a_completed_job_has_neither_data_nor_url(self, ade, api, size):
        job_id = ade.submit(JobPlan(result_bytes=size, zero_data_retention=True))
        body = await get(api, job_id)
        assert (body["status"], body["data"], body["output_url"]) == ("completed", None, None)
        assert body["metadata"]["job_id"] == job_id
        assert ade.world.object_at(ade.world.result_path(job_id)) is None

    async def test_its_result_is_saved_to_the_save_url(self, ade, api):
        url = ade.save_url("one")
        job_id = ade.submit(JobPlan(zero_data_retention=True), output_save_url=url)
        assert (await get(api, job_id))["output_url"] is None
        assert ade.saved("one") == ade.world.result(job_id).read()

    async def test_a_submission_requires_a_save_url(self, clock):
        profile = Profile(zero_data_retention=True)
        async with (
            Emulator(clock=clock, profile=profile) as ade,
            aiohttp.ClientSession(
                ade.base_url, headers={"Authorization": f"Bearer {ade.api_key}"}
            ) as api,
        ):
            async with api.post(JOBS, data=form()) as answer:
                assert answer.status == 422
                [problem] = (await answer.json())["detail"]
            assert problem["loc"] == ["body", "output_save_url"]
            async with api.post(JOBS, data=form(output_save_url=ade.save_url("x"))) as answer:
                assert answer.status == 202
                job_id = (await answer.json())["job_id"]
            assert plan_of(ade.world, job_id).zero_data_retention


class TestConditions:
    @pytest.fixture
    async def large(self, ade):
        job_id = ade.submit(JobPlan(result_bytes=LARGE, processing_time=0.7))
        ade.world.clock.now += 100
        _, body = ade.world.job(job_id)
        return ade.world.result(job_id), URL(body["output_url"], encoded=True)

    MODIFIED = int(T0 + 0.7)

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"If-None-Match": "{etag}"}, 304),
            ({"If-None-Match": 'W/{etag}, "other"'}, 304),
            ({"If-None-Match": "*"}, 304),
            ({"If-None-Match": '"other"'}, 200),
            ({"If-Modified-Since": 0}, 304),
            ({"If-Modified-Since": -1}, 200),
            ({"If-Modified-Since": "yesterday"}, 200),
            ({"If-None-Match": '"other"', "If-Modified-Since": 0}, 200),
            ({"If-Unmodified-Since": 0}, 200),
            ({"If-Unmodified-Since": -1}, 412),
            ({"If-Match": "{etag}", "If-Unmodified-Since": -1}, 200),
            ({"If-Match": "W/{etag}"}, 412),
            ({"If-Match": '"other"', "If-None-Match": "{etag}"}, 412),
            ({"Range": "bytes=0-1", "If-Range": 0}, 206),
            ({"Range": "bytes=0-1", "If-Range": -1}, 200),
            ({"Range": "bytes=0-1", "If-Range": "W/{etag}"}, 200),
        ],
    )
    async def test_conditions_are_evaluated_as_in_s3(self, large, storage, headers, status):
        stored, url = large
        sent = {
            name: formatdate(self.MODIFIED + value, usegmt=True)
            if isinstance(value, int)
            else value.format(etag=stored.etag)
            for name, value in headers.items()
        }
        async with storage.get(url, headers=sent) as answer:
            assert answer.status == status
            body = await answer.read()
            assert (answer.headers.get("ETag") == stored.etag) == (status != 412)
        if status == 304:
            assert body == b""
        if status == 412:
            assert b"<Condition>If-" in body

    async def test_last_modified_is_the_end_of_the_job(self, ade, storage):
        plan = JobPlan(result_bytes=LARGE, processing_time=0.7)
        job_id = ade.submit(plan, received_at=T0)
        assert ade.truth(job_id).result_bytes == LARGE  # it is made before the job ends
        ade.world.clock.now += 100
        _, body = ade.world.job(job_id)
        async with storage.get(URL(body["output_url"], encoded=True)) as answer:
            assert answer.headers["Last-Modified"] == formatdate(self.MODIFIED, usegmt=True)

    async def test_the_error_for_an_expired_url_contains_its_expiry(
        self, ade, large, storage, clock
    ):
        _, url = large
        clock.now += 4_000
        async with storage.get(url) as answer:
            text = await answer.text()
        assert "<X-Amz-Expires>3600</X-Amz-Expires><Expires>2025-06-15T16:08:20Z</Expires>" in text
        assert "<ServerTime>2025-06-15T16:15:00Z</ServerTime>" in text

    async def test_the_error_for_a_key_repeats_it_as_in_s3(self, ade, large, storage):
        _, url = large
        async with storage.get(url, headers={"Authorization": "Bearer x<y"}) as answer:
            assert "<ArgumentValue>Bearer x&lt;y</ArgumentValue>" in await answer.text()

    async def test_the_error_for_a_range_past_the_end_contains_the_size(self, large, storage):
        _, url = large
        async with storage.get(url, headers={"Range": "bytes=9999999-"}) as answer:
            assert f"<ActualObjectSize>{LARGE}</ActualObjectSize>" in await answer.text()
