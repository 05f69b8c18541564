"""Results are fetched from moto's S3, with URLs that boto3 presigned (SigV4 in the query).

The server is in `tests/support/s3door.py`.
"""

import contextlib
import hashlib
import threading
from collections import Counter
from urllib.parse import urlsplit

import aiohttp
import pytest
from lazyimport import lazy_import
from streams import collect_of

from adepoll.api.kinds import v1_extract
from adepoll.errors import (
    ResultChangedError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultRangeError,
    ResultRefusedError,
    ResultTransferError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.segments import FIRST_SEGMENT

s3door = lazy_import("s3door")

MIB = 2**20
BUCKET = "results"
ODD_KEY = "out/ä b+c%2F~'(1)*!&=;:@,$?#.json"


@pytest.fixture(scope="module")
def server():
    """Return a `Door` before a moto server with a bucket, and its port."""
    door, running = s3door.make_door_and_server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    client = s3door.connect(f"http://127.0.0.1:{running.port}")
    with contextlib.suppress(
        client.exceptions.BucketAlreadyOwnedByYou
    ):  # on a slow machine, there are two requests
        client.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": s3door.REGION}
        )
    client.close()
    yield door, running.port
    running.shutdown()
    thread.join(60)
    assert not thread.is_alive(), "moto has not stopped after 60 s"
    running.server_close()


@pytest.fixture
def door(server):
    """Return the door without the state of the test before."""
    door, _ = server
    door.ahead, door.before_get, door.redirect, door.gets = 0.0, lambda: None, {}, []
    return door


class Bucket:
    """Creates objects, and presigns URLs for them."""

    def __init__(self, port):
        self.origin = f"http://127.0.0.1:{port}"
        self.other_origin = f"http://localhost:{port}"  # which have other signatures
        self.s3 = s3door.connect(self.origin)

    def put(self, body, key="r.json", **options):
        return self.s3.put_object(Bucket=BUCKET, Key=key, Body=body, **options)["ETag"]

    def put_in_parts(self, parts, key="r.json"):
        which = {"Bucket": BUCKET, "Key": key}
        upload = {**which, "UploadId": self.s3.create_multipart_upload(**which)["UploadId"]}
        done = [
            {
                "PartNumber": number,
                "ETag": self.s3.upload_part(**upload, PartNumber=number, Body=part)["ETag"],
            }
            for number, part in enumerate(parts, 1)
        ]
        completed = self.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
        return completed["ETag"]

    def presign(self, key="r.json", *, method="get_object", seconds=3600, **options):
        which = {"Bucket": BUCKET, "Key": key, **options}
        return self.s3.generate_presigned_url(method, Params=which, ExpiresIn=seconds)

    def presign_elsewhere(self, key="r.json"):
        other = s3door.connect(self.other_origin)
        with contextlib.closing(other):
            return other.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": key})


@pytest.fixture
def bucket(server, door):
    bucket = Bucket(server[1])
    yield bucket
    bucket.s3.close()


@pytest.fixture
async def fetch(answering, stored):
    """Return a fetcher whose client returns the later URLs, and a job with the first."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(url, *fresh, **options):
            client = answering(*map(stored, fresh or (url,)))
            return await stack.enter_async_context(
                ResultFetcher(client, patience=0, **options)
            ), stored(url)

        yield make


async def check_download(fetcher, job, out, body):
    report = await fetcher.download(job, out / "r.json")
    assert (out / "r.json").read_bytes() == body
    assert report.sha256 == hashlib.sha256(body).hexdigest()
    assert [entry.name for entry in out.iterdir()] == ["r.json"]
    return report


def statuses(door):
    return [status for status, _ in door.gets]


# --- Without failures ---------------------------------------------------------------------------


async def test_result_download_and_stream_return_the_same_bytes(
    bucket, door, fetch, out, result_body
):
    body = result_body(3 * MIB)
    etag = bucket.put(body)
    fetcher, job = await fetch(bucket.presign())
    assert await fetcher.result(job) == v1_extract.decode_result(body)
    assert await collect_of(fetcher, job) == body
    report = await check_download(fetcher, job, out, body)
    assert (report.etag, report.resumed) == (etag, 0)
    assert statuses(door) == [200, 200, 206]
    sent = {name for _, fields in door.gets for name in fields}
    assert sent == {"host", "accept", "accept_encoding", "user_agent", "range"}


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (5, 70_000), (MIB, None), (-9, None)])
async def test_only_the_requested_range_is_sent(bucket, door, fetch, make_json, start, stop):
    body = make_json(2 * MIB)
    etag = bucket.put(body)
    fetcher, job = await fetch(bucket.presign())
    async with fetcher.stream(job, start=start, stop=stop) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == body[start:stop]
        assert (chunks.size, chunks.etag) == (len(body), etag)
    assert set(statuses(door)) == {206}
    with pytest.raises(ResultRangeError) as caught:
        await fetcher.stream(job, start=len(body) + 5).__aenter__()
    assert caught.value.size == len(body)


@pytest.mark.parametrize("key", [ODD_KEY, "a//b/../c/./d.json", "+.json", "%41%2541.json"])
async def test_the_url_is_sent_as_it_was_signed(bucket, fetch, out, result_body, key):
    body = result_body()
    bucket.put(body, key)
    disposition = 'attachment; filename="ä b+c.json"'
    fetcher, job = await fetch(bucket.presign(key, ResponseContentDisposition=disposition))
    assert await collect_of(fetcher, job) == body
    await check_download(fetcher, job, out, body)


@pytest.mark.parametrize("encryption", ["AES256", "aws:kms"])
async def test_an_encrypted_object_is_like_any_other(bucket, fetch, out, make_json, encryption):
    body = make_json(FIRST_SEGMENT + 1)
    etag = bucket.put(body, ServerSideEncryption=encryption)
    fetcher, job = await fetch(bucket.presign())
    assert (await check_download(fetcher, job, out, body)).etag == etag


async def test_an_object_uploaded_in_parts_is_downloaded_in_other_segments(
    bucket, door, fetch, out, make_json
):
    body = make_json(12 * MIB)
    etag = bucket.put_in_parts([body[: 5 * MIB], body[5 * MIB : 10 * MIB], body[10 * MIB :]])
    assert etag.endswith('-3"')
    fetcher, job = await fetch(bucket.presign())
    assert (await check_download(fetcher, job, out, body)).etag == etag
    assert set(statuses(door)) == {206}
    later = [fields for _, fields in door.gets if not fields["range"].startswith("bytes=0-")]
    assert {fields["if_match"] for fields in later} == {etag}


# --- Expiry -------------------------------------------------------------------------------------


async def test_an_expired_url_is_renewed(bucket, door, fetch, out, result_body):
    body = result_body()
    bucket.put(body)
    door.ahead = 100
    fetcher, job = await fetch(bucket.presign(seconds=99), bucket.presign())
    assert await fetcher.result(job) == v1_extract.decode_result(body)
    assert await collect_of(fetcher, job) == body
    await check_download(fetcher, job, out, body)
    assert Counter(statuses(door))[200] == 2


async def test_a_url_may_expire_between_the_segments_of_a_download(
    bucket, door, fetch, out, make_json
):
    body = make_json(20 * MIB)
    bucket.put(body)

    def pass_an_hour():
        door.ahead = 3600 if door.gets else 0

    door.before_get = pass_an_hour
    fetcher, job = await fetch(bucket.presign(seconds=3500), bucket.presign(seconds=9000))
    await check_download(fetcher, job, out, body)
    seen = statuses(door)
    assert seen[0] == 206
    assert 403 in seen
    assert seen[-1] == 206


async def test_without_a_valid_url_the_error_says_so(bucket, door, fetch, out):
    bucket.put(b"{}")
    door.ahead = 7200
    url = bucket.presign()
    fetcher, job = await fetch(url, *(bucket.presign(seconds=60 + n) for n in range(9)))
    with pytest.raises(ResultExpiredError) as caught:
        await fetcher.download(job, out / "r.json")
    assert "Request has expired" in str(caught.value)
    assert urlsplit(url).query[-30:] not in str(caught.value)
    assert not list(out.iterdir())


# --- Error statuses -----------------------------------------------------------------------------


async def test_a_request_with_the_key_would_be_refused(bucket, door, fetch, out, result_body):
    body = result_body()
    bucket.put(body)
    url = bucket.presign()
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session,
        session.get(url) as answer,
    ):
        assert answer.status == 400
        assert "Only one auth mechanism allowed" in await answer.text()
    fetcher, job = await fetch(url)
    await fetcher.result(job)
    await check_download(fetcher, job, out, body)
    assert statuses(door) == [400, 200, 206]


async def test_a_url_presigned_for_writing_needs_resolve_url(bucket, fetch, out, result_body):
    body = result_body()
    bucket.put(body)
    saved_by = bucket.presign(method="put_object")
    fetcher, job = await fetch(saved_by)
    with pytest.raises(ResultForbiddenError) as caught:
        await fetcher.download(job, out / "r.json")
    assert "resolve_url" in str(caught.value)
    fetcher, _ = await fetch(saved_by, resolve_url=lambda _job: bucket.presign())
    await check_download(fetcher, job, out, body)


async def test_a_changed_signature_is_refused(bucket, fetch, out):
    bucket.put(b"{}")
    fetcher, job = await fetch(bucket.presign().replace("Expires=3600", "Expires=3601"))
    with pytest.raises(ResultForbiddenError):
        await collect_of(fetcher, job)


async def test_a_missing_object_raises_immediately(bucket, door, fetch, out):
    fetcher, job = await fetch(bucket.presign("no-such-key.json"))
    with pytest.raises(ResultRefusedError) as caught:
        await fetcher.download(job, out / "r.json")
    assert caught.value.status == 404
    assert statuses(door) == [404, 404]  # with a range, and without


async def test_an_empty_object_is_not_a_result(bucket, fetch, out):
    bucket.put(b"")
    fetcher, job = await fetch(bucket.presign())
    # A range of an empty object is refused with 416, and the whole object has no bytes.
    with pytest.raises(ResultTransferError, match="after 0 bytes"):
        await fetcher.download(job, out / "r.json")
    assert not list(out.iterdir())


# --- Redirects and replaced objects -------------------------------------------------------------


async def test_a_redirect_to_another_endpoint_is_followed_unchanged(
    bucket, door, fetch, out, result_body
):
    body = result_body()
    bucket.put(body, ODD_KEY)
    url, target = bucket.presign(ODD_KEY), bucket.presign_elsewhere(ODD_KEY)
    moved = urlsplit(url).path.replace("/results/", "/young/", 1)
    door.redirect = {moved: target}
    fetcher, job = await fetch(url.replace("/results/", "/young/", 1))
    assert await collect_of(fetcher, job) == body
    await check_download(fetcher, job, out, body)
    assert statuses(door) == [307, 200, 307, 206]


async def test_a_download_of_a_replaced_object_is_complete(bucket, door, fetch, out, make_json):
    old, new = make_json(20 * MIB), make_json(18 * MIB, seed=1)
    bucket.put(old)
    put = threading.Lock()

    def replace():
        if len(door.gets) >= 1 and put.acquire(blocking=False):
            bucket.put(new)

    door.before_get = replace
    fetcher, job = await fetch(bucket.presign())
    await check_download(fetcher, job, out, new)
    assert 412 in statuses(door)


async def test_a_cut_stream_of_a_replaced_object_raises(bucket, fetch, make_json, cutter):
    body = make_json(3 * MIB)
    bucket.put(body)
    async with cutter(urlsplit(bucket.origin).port) as proxy:
        # The signature includes the port, which is that of the proxy.
        near = Bucket(proxy.port)
        with contextlib.closing(near.s3):
            url = near.presign()
        proxy.cuts = [MIB]
        proxy.before_cut = lambda: bucket.put(make_json(3 * MIB, seed=1))
        fetcher, job = await fetch(url)
        with pytest.raises(ResultChangedError):
            await collect_of(fetcher, job)
