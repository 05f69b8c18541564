"""Secrets stay inside: the headers a storage receives, the requested URLs, the text of errors."""

import asyncio
import io
import logging
import pickle
import random
import string
import traceback

import aiohttp
import pytest
from streams import fetch_by

from adepoll.api.client import AdeClient
from adepoll.emulator import Emulator, JobPlan
from adepoll.errors import (
    AdePollError,
    ResultMalformedError,
    ResultRefusedError,
    ResultTransferError,
    ResultUrlError,
    TransportError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.throttling.waiting_times import RetryPolicy

KEY = "canary-key-0123456789abcdef"
SIGNATURE = "canarysignature0123456789abcdef0123456789abcdef"
TOKEN = "canarytoken/of/some+length=="
QUOTED_TOKEN = "canarytoken%2Fof%2Fsome%2Blength%3D%3D"
SECRETS = (KEY, SIGNATURE, TOKEN, QUOTED_TOKEN, "canarycookie", "canarylocation")
QUERY = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20250615T150640Z&X-Amz-Expires=3600"
    f"&X-Amz-Security-Token={QUOTED_TOKEN}&X-Amz-Signature={SIGNATURE}"
)
RETRY = RetryPolicy(attempts=2, base=0.001, max_wait=0.001)


@pytest.fixture
async def client():
    """A client with the canary key and an API over http."""
    async with AdeClient(KEY, base_url="http://127.0.0.1:9", retry=RETRY) as running:
        yield running


@pytest.fixture
async def fetcher(client):
    async with ResultFetcher(client, patience=0) as running:
        yield running


@pytest.fixture
async def https_fetcher():
    """A fetcher whose API uses https, as the real one."""
    async with (
        AdeClient(KEY, base_url="https://127.0.0.1:9", retry=RETRY) as client,
        ResultFetcher(client, patience=0) as running,
    ):
        yield running


def fields(head):
    """Return the header fields of a raw request: name in lower case -> values."""
    found = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        if line:
            name, _, value = line.partition(":")
            found.setdefault(name.lower(), []).append(value.strip())
    return found


# --- Sent bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/bucket/extract%20jobs/a%2Fb/data+v1%2Bfull.json?" + QUERY,
        "//bucket//double///slashes//?x=1",
        "/a/../b/./c/%2e%2e/d?x=../y",
        "/p?empty=&bare&&twice=1&twice=2&=nameless&trailing==",
        "/p?tilde=~&plus=+&plus=%2B&blank=%20&lower=%2f&upper=%2F&double=%252F",
        "/p?q=1?still=the&query=/a:b@c",
        "/%E2%82%AC/%ff?x=%00%0d%0a",
        "/p?quote=\"'&angle=<>&brace={}[]|\\^`&bang=!$()*,;:",
        "/~user/!$&'()*+,;=:@",
        "/",
        "/%",
        "/%zz?%",
        "/p?" + "x" * 5_000,
    ],
)
async def test_path_and_query_are_sent_byte_for_byte(storage, fetcher, stored, result_body, target):
    storage.answers = [storage.reply(result_body())]
    await fetcher.result(stored(storage.url(target)))
    assert storage.targets == [target]


async def test_visible_characters_are_sent_byte_for_byte(storage, fetcher, stored, result_body):
    storage.answers = [storage.keeping(storage.reply(result_body()))]
    rng = random.Random(0)
    visible = "".join(char for char in string.printable if char.isprintable() and char not in " #?")
    targets = [
        f"/{''.join(rng.choices(visible, k=20))}?x{''.join(rng.choices(visible + '?', k=20))}"
        for _ in range(300)
    ]
    for target in targets:
        await fetcher.result(stored(storage.url(target)))
    assert storage.targets == targets


async def test_a_url_without_a_path_requests_the_root(storage, fetcher, stored, result_body):
    storage.answers = [storage.reply(result_body())]
    await fetcher.result(stored(storage.url("?x=1")))
    assert storage.targets == ["/?x=1"]


async def test_a_fragment_is_not_sent(storage, fetcher, stored, result_body):
    storage.answers = [storage.reply(result_body())]
    await fetcher.result(stored(storage.url("/p?x=1#fragment")))
    assert storage.targets == ["/p?x=1"]


async def test_a_storage_gets_these_header_fields_and_no_others(
    storage, fetcher, stored, result_body
):
    storage.answers = [storage.reply(result_body())]
    await fetcher.result(stored(storage.url("/p?" + QUERY)))
    (head,) = storage.heads
    sent = fields(head)
    assert set(sent) == {"host", "accept", "accept-encoding", "user-agent"}
    assert sent["host"] == [storage.origin.removeprefix("http://")]
    assert sent["accept-encoding"] == ["identity"]
    assert KEY.encode() not in head


async def test_cookies_of_a_storage_are_not_sent_back(storage, fetcher, stored, result_body):
    headers = ["Set-Cookie: session=canarycookie; Path=/", "Set-Cookie: other=1; Domain=127.0.0.1"]
    storage.answers = [storage.keeping(storage.reply(result_body(), headers=headers))]
    for _ in range(2):
        await fetcher.result(stored(storage.url("/p?" + QUERY)))
    assert len(storage.heads) == 2
    assert not [head for head in storage.heads if "cookie" in fields(head)]


async def test_neither_key_nor_cookie_reaches_the_storage_of_a_real_job(tmp_path):
    async with Emulator(api_key=KEY) as ade:
        job_id = ade.submit(JobPlan(result_bytes=1_100_000))
        async with (
            AdeClient(KEY, base_url=ade.base_url) as client,
            ResultFetcher(client, patience=0) as fetcher,
        ):
            await fetcher.result(job_id)
            await fetcher.download(job_id, tmp_path / "out")
        assert (ade.world.traffic.result, ade.world.traffic.leaks) == (2, 0)


@pytest.mark.parametrize("variable", ["NETRC", "HOME"])
async def test_netrc_is_not_read(
    storage, fetcher, stored, result_body, tmp_path, monkeypatch, variable
):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv(variable, str(netrc if variable == "NETRC" else tmp_path))
    storage.answers = [storage.reply(result_body())]
    await fetcher.result(stored(storage.url()))
    assert "authorization" not in fields(storage.heads[0])


# --- Allowed URLs -------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["result", "download", "stream"])
async def test_http_is_refused_if_the_api_uses_https(storage, https_fetcher, stored, tmp_path, use):
    with pytest.raises(ResultUrlError, match="https"):
        await fetch_by(use, https_fetcher, stored(storage.url("/p?" + QUERY)), tmp_path / "out")
    assert storage.connections == 0
    assert list(tmp_path.iterdir()) == []


async def test_https_is_allowed_for_any_api(fetcher, https_fetcher, stored):
    hellos = []

    async def hang_up(reader, writer):
        hellos.append(await reader.read(3))
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for asked in (fetcher, https_fetcher):
            hellos.clear()
            with pytest.raises(ResultTransferError):
                await asked.result(stored(f"HTTPS://127.0.0.1:{port}/p"))
            assert hellos == [b"\x16\x03\x01"] * RETRY.attempts  # TLS only, no plain text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "result.json",
        "/result.json",
        "//127.0.0.1/result.json",
        "file:///etc/passwd",
        "ftp://127.0.0.1/result.json",
        "ws://127.0.0.1/",
        "unix:///run/docker.sock",
        "data:application/json,{}",
        "http:result.json",
        "http://",
        "http:///result.json",
        "http://:80/result.json",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://[::1/",
        "http://127.0.0.1\\@example.invalid/",
    ],
)
@pytest.mark.parametrize("query", ["", "?" + QUERY])
async def test_a_url_of_another_scheme_is_refused(fetcher, stored, url, query):
    with pytest.raises(ResultUrlError) as caught:
        await fetcher.result(stored(url + query))
    assert_shows_no_secret(caught.value)


@pytest.mark.parametrize("userinfo", ["user@", "user:password@", ":@", "user:@", ":p@", "a@b@"])
async def test_a_user_or_password_is_refused(storage, fetcher, stored, userinfo):
    url = storage.url("/p?" + QUERY).replace("//", f"//{userinfo}", 1)
    with pytest.raises(ResultUrlError, match="user or password") as caught:
        await fetcher.result(stored(url))
    assert "user@" not in str(caught.value)
    assert "user:" not in str(caught.value)
    assert storage.connections == 0


@pytest.mark.parametrize(
    "bad",
    ["\r\n", "\n", "\r", "\t", "\0", "\x1b", "\x7f", "\ud800"],
)
@pytest.mark.parametrize("place", ["/p{}?x=1", "/p?x={}1", "{}/p", "/p?x=1{}"])
async def test_an_invalid_character_in_a_url_is_refused(storage, fetcher, stored, bad, place):
    storage.answers = [b""]
    with pytest.raises(ResultUrlError, match="character") as caught:
        await fetcher.result(stored(storage.url(place.format(bad))))
    assert str(caught.value).isprintable()
    assert storage.connections == 0


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a b?x= 1", "/a%20b?x=%201"),
        ("/März.json?x=ü", "/M%C3%A4rz.json?x=%C3%BC"),
        ("/😀%20%e4+?x=a%2Fb é", "/%F0%9F%98%80%20%e4+?x=a%2Fb%20%C3%A9"),
        ("/\x85\u2028", "/%C2%85%E2%80%A8"),
    ],
)
async def test_spaces_and_characters_beyond_ascii_are_percent_encoded(
    storage, fetcher, stored, result_body, path, sent
):
    """The `output_save_url` of a caller can contain them; browsers encode them in this way."""
    storage.answers = [storage.reply(result_body())]
    assert await fetcher.result(stored(storage.url(path)))
    assert storage.targets == [sent]


@pytest.mark.parametrize("bad", [" ", "é", "\x85", "\u2028", "😀"])
async def test_an_invalid_character_in_a_host_is_refused(storage, fetcher, stored, bad):
    with pytest.raises(ResultUrlError, match="character"):
        await fetcher.result(stored(storage.url(f"{bad}/p")))
    assert storage.connections == 0


async def test_a_url_cannot_smuggle_a_second_request(storage, fetcher, stored):
    smuggled = " HTTP/1.1\r\nHost: a\r\n\r\nDELETE /bucket HTTP/1.1\r\nHost: a\r\n\r\n"
    with pytest.raises(ResultUrlError):
        await fetcher.result(stored(storage.url("/p" + smuggled)))
    assert storage.connections == 0


@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_with_the_usual_headers_only(
    storage, other_storage, fetcher, stored, result_body, tmp_path, status, use
):
    location = other_storage.url("/elsewhere%2F?x=%2B" + QUERY)
    cookie = "Set-Cookie: a=canarycookie; Domain=127.0.0.1; Path=/"
    storage.answers = [
        storage.reply(status=f"{status} Moved", headers=[f"Location: {location}", cookie])
    ]
    other_storage.answers = [other_storage.reply(result_body())]
    await fetch_by(use, fetcher, stored(storage.url("/p?" + QUERY)), tmp_path / "out")
    assert other_storage.targets == ["/elsewhere%2F?x=%2B" + QUERY]
    (head,) = other_storage.heads
    allowed = {
        "host",
        "accept",
        "accept-encoding",
        "user-agent",
        *(["range"] * (use == "download")),
    }
    assert set(fields(head)) == allowed
    assert KEY.encode() not in head
    assert SIGNATURE.encode() not in head.partition(b"\r\n")[2]  # no Referer, for example


@pytest.mark.parametrize("status", [300, 304, 305, 306])
async def test_a_3xx_status_that_is_not_a_redirect_is_refused(
    storage, other_storage, fetcher, stored, status
):
    location = other_storage.url("/elsewhere?canarylocation")
    storage.answers = [storage.reply(status=f"{status} Moved", headers=[f"Location: {location}"])]
    with pytest.raises(ResultRefusedError, match=str(status)) as caught:
        await fetcher.result(stored(storage.url("/p?" + QUERY)))
    assert (len(storage.heads), other_storage.connections) == (1, 0)
    assert_shows_no_secret(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_without_location_is_refused(storage, fetcher, stored, status):
    storage.answers = [storage.reply(status=f"{status} Moved")]
    with pytest.raises(ResultRefusedError, match=str(status)):
        await fetcher.result(stored(storage.url("/p?" + QUERY)))
    assert len(storage.heads) == 1


async def test_a_renewed_url_is_checked_like_the_first(storage, other_storage, answering, stored):
    expired = b"<Error><Message>Request has expired</Message></Error>"
    storage.answers = [storage.reply(expired, status="403 Forbidden")]
    fresh = other_storage.url().replace("//", "//user:password@")
    async with ResultFetcher(answering(stored(fresh)), patience=0) as fetcher:
        with pytest.raises(ResultUrlError):
            await fetcher.result(stored(storage.url("/p?" + QUERY)))
    assert other_storage.connections == 0


# --- Errors, logs and reprs ---------------------------------------------------------------------


def everything_in(error):
    """Return all text of an error: its own, and that of its attributes, causes and contexts."""
    texts, waiting, seen = [], [error], set()
    while waiting:
        exc = waiting.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        assert not type(exc).__module__.startswith(("aiohttp", "yarl"))
        texts += [str(exc), repr(exc), repr(exc.args), repr(exc.__dict__)]
        texts += [repr(getattr(exc, name, None)) for name in ("filename", "filename2", "strerror")]
        texts += getattr(exc, "__notes__", [])
        waiting += [exc.__cause__, exc.__context__, *getattr(exc, "exceptions", ())]
        waiting += [value for value in exc.__dict__.values() if isinstance(value, BaseException)]
    return "\n".join([*texts, *traceback.format_exception(error)])


def assert_shows_no_secret(error):
    """Check that an error shows no secret, and is linked to no error of the HTTP layer.

    Those errors have requests, URLs and headers in their attributes.
    """
    texts = everything_in(error)
    assert not [secret for secret in SECRETS if secret in texts]
    if isinstance(error, AdePollError):
        pickled = pickle.dumps(error)
        assert not [secret for secret in SECRETS if secret.encode() in pickled]
        assert str(pickle.loads(pickled)) == str(error)


def troubles(storage, body):
    """Return, by name, responses of a storage that end in an error, some of them malicious."""
    reply, cookie = storage.reply, ["Set-Cookie: a=canarycookie"]
    quoted = f"{SIGNATURE} {TOKEN} {QUOTED_TOKEN}"
    signed = f"<Error><Message>X-Amz-Signature={SIGNATURE} is wrong</Message></Error>".encode()
    echoed = f"<Error><Message>Got {quoted}</Message><Sent>{quoted}</Sent></Error>".encode()
    return {
        "403": reply(b"<Error><Message>Access Denied</Message></Error>", status="403 No"),
        "403 that quotes the query": reply(signed, status="403 No", headers=cookie),
        "403 that quotes bare values": reply(echoed, status="403 No"),
        "400 expired": reply(b"<Message>has expired</Message>" + signed, status="400 Bad"),
        "404": reply(signed, status="404 No"),
        "500": reply(echoed, status="500 Oops", headers=cookie),
        "status text that quotes": reply(status=f"418 {SIGNATURE}"),
        "302": reply(status="302 Found", headers=["Location: /x?canarylocation"]),
        "short": reply(body[:100], length=len(body), headers=cookie),
        "chunked without end": reply(
            b"5\r\n{abcd\r\n", length=None, headers=["Transfer-Encoding: chunked"]
        ),
        "reset": storage.resetting(reply(body[:100], length=len(body))),
        "no HTTP": b"\x16\x03\x01",
        "body without headers": b'{"extraction":' + quoted.encode() + body,
        "header that is none": reply(body, headers=[quoted]),
        "header that is too long": reply(body, headers=["X: " + quoted * 2_000]),
        "length that is none": reply(body, length=quoted),
        "chunk that is none": reply(
            quoted.encode(), length=None, headers=["Transfer-Encoding: chunked"]
        ),
        "disconnected": b"",
        "html": reply(f"<html>{quoted}</html>".encode()),
        "malformed": reply(b'{"extraction":' + quoted.encode() + b"}"),
        "no result": reply(f'{{"metadata":"{quoted}"}}'.encode()),
        "encoded": reply(b"\x1f\x8b" + body, headers=["Content-Encoding: gzip"]),
    }


TROUBLES = (
    "403",
    "403 that quotes the query",
    "403 that quotes bare values",
    "400 expired",
    "404",
    "500",
    "status text that quotes",
    "302",
    "short",
    "chunked without end",
    "reset",
    "no HTTP",
    "body without headers",
    "header that is none",
    "header that is too long",
    "length that is none",
    "chunk that is none",
    "disconnected",
    "html",
    "malformed",
    "no result",
    "encoded",
)


@pytest.fixture
def logged(caplog):
    """Return everything that is logged by any logger, from DEBUG on."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="adepoll")
    return lambda: "\n".join([caplog.text, *(repr(vars(record)) for record in caplog.records)])


@pytest.mark.parametrize("use", ["result", "download", "stream"])
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_no_error_and_no_log_line_shows_a_secret(
    storage, answering, stored, result_body, tmp_path, logged, trouble, use
):
    asyncio.get_running_loop().set_debug(True)
    storage.answers = [troubles(storage, result_body())[trouble]]
    job = stored(storage.url("/p?" + QUERY))
    client = answering(job, attempts=2)
    async with ResultFetcher(client, patience=0) as fetcher:
        if use != "result" and trouble in {"malformed", "no result"}:
            return  # only `result` parses the JSON
        with pytest.raises(AdePollError) as caught:
            await fetch_by(use, fetcher, job, tmp_path / "out")
    assert_shows_no_secret(caught.value)
    assert not [secret for secret in SECRETS if secret in logged()]


async def test_a_retry_is_logged_at_debug_level(storage, fetcher, stored, caplog):
    caplog.set_level(logging.DEBUG, logger="adepoll")
    storage.answers = [storage.reply(status="500 Oops")]
    with pytest.raises(ResultRefusedError):
        await fetcher.result(stored(storage.url("/p?" + QUERY)))
    places = [record.name.removeprefix("adepoll.fetcher.") for record in caplog.records]
    assert places == ["storage_client", "patience", "storage_client"]
    assert "?REDACTED: 500 (whole)" in caplog.text
    assert "?REDACTED answered 500" in caplog.text


async def test_a_log_says_which_bytes_were_requested(storage, fetcher, stored, caplog, tmp_path):
    caplog.set_level(logging.DEBUG, logger="adepoll")
    storage.answers = [storage.reply(status="404 No")]
    with pytest.raises(ResultRefusedError):
        await fetcher.download(stored(storage.url("/p?" + QUERY)), tmp_path / "out")
    assert "?REDACTED: 404 (bytes=0-" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/p?" + QUERY,  # no server listens there
        "https://127.0.0.1:1/p?" + QUERY,
        "http://nowhere.invalid/p?" + QUERY,
        "ftp://127.0.0.1/p?" + QUERY,
        "http://127.0.0.1:99999/p?" + QUERY,
        "http://[::1/p?" + QUERY,
        f"http://user:{SIGNATURE}@127.0.0.1/p?" + QUERY,
        "http://127.0.0.1/p\n?" + QUERY,
        "http://127.0.0.1/p#" + QUERY,
    ],
)
async def test_no_error_of_a_url_shows_a_secret(fetcher, stored, logged, url):
    with pytest.raises(AdePollError) as caught:
        await fetcher.result(stored(url))
    assert_shows_no_secret(caught.value)
    assert not [secret for secret in SECRETS if secret in logged()]


@pytest.mark.parametrize("use", ["result", "download", "stream"])
async def test_no_warning_of_a_cancelled_or_closed_transfer_shows_a_secret(
    storage, fetcher, stored, tmp_path, logged, use
):
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    loop.set_debug(True)
    begun = asyncio.Event()

    async def half(reader, writer):
        writer.write(storage.reply(b'{"', length=1_000))
        begun.set()
        await reader.read()

    storage.answers = [half]
    for _ in range(2):
        begun.clear()
        job = stored(storage.url("/p?" + QUERY))
        task = asyncio.create_task(fetch_by(use, fetcher, job, tmp_path / "out"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert_shows_no_secret(caught.value)
    await fetcher.aclose()
    await storage.left_alone()
    assert complaints == []
    assert not [secret for secret in SECRETS if secret in logged()]


async def test_tracing_of_all_sessions_gets_the_urls_of_the_api_only(
    monkeypatch, storage, client, stored, result_body
):
    """sentry_sdk and OpenTelemetry trace every session, and store the complete URLs."""
    traced = []

    async def record(_session, _context, params):
        params.headers["baggage"] = "canary"
        traced.append(str(params.url))

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(record)
    init = aiohttp.ClientSession.__init__
    monkeypatch.setattr(
        aiohttp.ClientSession,
        "__init__",
        lambda *args, **options: init(*args, **{**options, "trace_configs": [tracing]}),
    )
    storage.answers = [storage.reply(result_body())]
    async with ResultFetcher(client, patience=0) as fetcher:
        await fetcher.result(stored(storage.url(f"/result.json?{QUERY}")))
        with pytest.raises(TransportError):
            await client.get_job("job-1")
    assert set(traced) == {"http://127.0.0.1:9/v1/ade/extract/jobs/job-1"}
    [head] = storage.heads
    assert fields(head).keys().isdisjoint({"baggage", "authorization"})


async def test_no_repr_shows_a_secret(storage, client, fetcher, stored, result_body, tmp_path):
    storage.answers = [storage.reply(result_body(), headers=["Set-Cookie: a=canarycookie"])]
    job = stored(storage.url("/p?" + QUERY))
    report = await fetcher.download(job, tmp_path / "out")
    async with fetcher.stream(job) as stream:
        shown = [repr(thing) for thing in (report, fetcher, stream, job, client)]
        shown += [str(thing) for thing in (report, fetcher, stream, job, client)]
    assert not [secret for secret in SECRETS if secret in "".join(shown)]


async def test_an_error_names_the_host_and_path_but_not_the_query(storage, fetcher, stored):
    storage.answers = [storage.reply(status="404 Not Found")]
    with pytest.raises(ResultRefusedError) as caught:
        await fetcher.result(stored(storage.url("/bucket/p.json?" + QUERY)))
    assert caught.value.url == storage.url("/bucket/p.json?REDACTED")
    assert caught.value.url in str(caught.value)


async def test_the_error_of_a_malformed_result_does_not_quote_the_document(
    storage, fetcher, stored
):
    storage.answers = [storage.reply(b'{"iban":"CH93-0076","metadata":["secret"]}')]
    with pytest.raises(ResultMalformedError) as caught:
        await fetcher.result(stored(storage.url("/p?" + QUERY)))
    texts = everything_in(caught.value)
    assert "CH93-0076" not in texts
    assert "'secret'" not in texts


async def test_a_crash_report_of_the_interpreter_shows_no_secret(storage, fetcher, stored):
    storage.answers = [storage.reply(status="500 Oops")]
    report = io.StringIO()
    try:
        await fetcher.result(stored(storage.url("/p?" + QUERY)))
    except AdePollError as error:
        traceback.print_exception(error, file=report)
    assert "ResultServerError" in report.getvalue()
    assert not [secret for secret in SECRETS if secret in report.getvalue()]
