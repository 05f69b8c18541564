"""Results are fetched from moto's S3, with URLs that boto3 presigned (SigV4 in the query).

moto implements the objects, their ETags (also of multipart uploads), ranges, If-Match, and errors
in XML. As of 5.2, moto does not check the signature, expiry and method of a presigned URL, and
accepts a second authentication mechanism; `set_initial_no_auth_action_count` only checks the
header. So a door before moto, in the same server, refuses what S3 refuses, with the same messages.
It computes the signature of the received request with botocore, the signing part of boto3.
"""

import contextlib
import hashlib
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.client import responses
from urllib.parse import parse_qs, urlsplit

import aiohttp
import boto3
import pytest
from attrs import define, field
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from streams import collect_of
from werkzeug.serving import WSGIRequestHandler, make_server

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

MIB = 2**20
REGION = "eu-west-1"
BUCKET = "results"
CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", "a secret", "a/session+token==")
ODD_KEY = "out/ä b+c%2F~'(1)*!&=;:@,$?#.json"
ONE_ONLY = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query "
    "string parameter or the Authorization header should be specified"
)
NO_MATCH = (
    "The request signature we calculated does not match the signature you provided. Check your "
    "key and signing method."
)


@define
class Door:
    """Refuses presigned requests that S3 would refuse; other requests are boto3's own.

    Attributes:
        ahead: Seconds by which this clock is ahead of the clock of the signer.
        before_get: Called before each presigned GET is checked.
        redirect: Path -> URL to which a GET is redirected, as S3 does with a new bucket.
        gets: Status and header fields (in lower case) of each presigned GET.
    """

    app: object
    ahead: float = 0.0
    before_get: object = lambda: None
    redirect: dict = field(factory=dict)
    gets: list = field(factory=list)

    def __call__(self, environ, start_response):
        target = urlsplit(environ["RAW_URI"])
        query = parse_qs(target.query)
        if "X-Amz-Signature" not in query:
            return self.app(environ, start_response)
        self.before_get()
        fields = {name[5:].lower(): environ[name] for name in environ if name[:5] == "HTTP_"}

        def start(status, *rest):
            self.gets.append((int(status[:3]), fields))
            return start_response(status, *rest)

        status, code, message = self.judge(environ, target, query, fields)
        if status == 200:
            return self.app(environ, start)
        headers = [("Content-Type", "application/xml")]
        if status == 307:
            headers.append(("Location", self.redirect[target.path]))
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        headers.append(("Content-Length", str(len(body))))
        start(f"{status} {responses[status]}", headers)
        return [body]

    def judge(self, environ, target, query, fields):
        if "authorization" in fields:
            return 400, "InvalidArgument", ONE_ONLY
        if target.path in self.redirect:
            return 307, "TemporaryRedirect", "Please re-send this request to the endpoint"
        (signed,) = query["X-Amz-Date"]
        since = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if time.time() + self.ahead > since + int(query["X-Amz-Expires"][0]):
            return 403, "AccessDenied", "Request has expired"
        unsigned = environ["RAW_URI"].partition("&X-Amz-Signature=")[0]
        request = AWSRequest(
            method=environ["REQUEST_METHOD"],
            url=f"http://{fields['host']}{unsigned}",
            headers={"host": fields["host"]},
        )
        request.context["timestamp"] = signed
        auth = S3SigV4QueryAuth(CREDENTIALS, "s3", REGION)
        signature = auth.signature(
            auth.string_to_sign(request, auth.canonical_request(request)), request
        )
        if [signature] != query["X-Amz-Signature"]:
            return 403, "SignatureDoesNotMatch", NO_MATCH
        return 200, "", ""


class Quiet(WSGIRequestHandler):
    def log_request(self, *_):
        pass


def connect(url):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=CREDENTIALS.access_key,
        aws_secret_access_key=CREDENTIALS.secret_key,
        aws_session_token=CREDENTIALS.token,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


@pytest.fixture(scope="module")
def server():
    """Return a `Door` before a moto server with a bucket, and its port."""
    door = Door(DomainDispatcherApplication(create_backend_app))
    running = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    client = connect(f"http://127.0.0.1:{running.port}")
    with contextlib.suppress(
        client.exceptions.BucketAlreadyOwnedByYou
    ):  # on a slow machine, there are two requests
        client.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
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
        self.s3 = connect(self.origin)

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
        other = connect(self.other_origin)
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
    assert statuses(door) == [404]


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
