"""Proxies, private certificate authorities and header limits, through a real proxy."""

import gc
import json
import math
import socket
import ssl
from base64 import b64encode
from contextlib import asynccontextmanager, contextmanager, suppress
from threading import Event, Thread
from urllib.parse import quote

import pytest
from aiohttp import ThreadedResolver, web
from aiohttp.client_reqrep import ConnectionKey
from cryptography.hazmat.primitives import serialization
from downloading import completed
from proxies import Authority, Proxy
from rawstorage import RawStorage
from yarl import URL

from adepoll.api.client import AdeClient
from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.transport_options import Proxies, TransportOptions
from adepoll.api.transport_options import Proxy as ChosenProxy
from adepoll.errors import (
    CertificateError,
    ConfigurationError,
    ConnectionFailedError,
    HeadersTooLargeError,
    ProxyError,
    ProxyRefusedError,
    ResultCertificateError,
    ResultMalformedError,
    ResultProxyRefusedError,
    ResultTransferError,
    ResultUrlError,
    TransportError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.throttling.waiting_times import RetryPolicy

KEY = "key-1"
ONCE = RetryPolicy(attempts=1)
JOB = {"job_id": "j-1", "status": "processing", "received_at": 1, "progress": 0.0}
API = "api.ade.example"  # no such name: only the proxy knows where it is


@pytest.fixture
async def proxy():
    async with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def serving(answer, context=None, host="127.0.0.1"):
    """Serve on loopback; yield the port and the requests."""
    requests = []

    async def handle(request):
        requests.append(request)
        return answer(request)

    runner = web.AppRunner(_app(handle), handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=context)
    await site.start()
    try:
        yield site._server.sockets[0].getsockname()[1], requests
    finally:
        await runner.cleanup()


def _app(handle):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


def send_job(_request):
    return web.json_response(JOB)


def client_of(base_url=f"https://{API}", **options):
    return AdeClient(KEY, base_url=base_url, retry=ONCE, transport=TransportOptions(**options))


# --- a proxy ------------------------------------------------------------------------------------


async def test_a_tunnel_leads_to_a_service_with_a_private_authority(proxy, authority):
    async with serving(send_job, authority.server_context(API)) as (port, requests):
        proxy.route = "127.0.0.1", port
        async with client_of(proxy=proxy.url, ca_file=authority.file) as client:
            assert (await client.get_job("j-1")).job_id == "j-1"
            await client.get_job("j-1")
    assert proxy.targets == [f"{API}:443"]  # one tunnel for both
    assert requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "Proxy-Authorization" not in requests[0].headers


@pytest.mark.parametrize("credentials", ["user:se cret", "user:", ":cañary", "u:a:b"])
async def test_the_proxy_gets_its_credentials_and_the_service_does_not(
    proxy, authority, credentials
):
    proxy.credentials = credentials
    url = proxy.url.replace("//", f"//{quote(credentials, safe=':')}@")
    async with serving(send_job, authority.server_context(API)) as (port, requests):
        proxy.route = "127.0.0.1", port
        async with client_of(proxy=url, ca_file=authority.file) as client:
            await client.get_job("j-1")
    assert "Proxy-Authorization" not in requests[0].headers


async def get_job(client):
    await client.get_job("j-1")


async def open_answer(client):
    async with client.open_answer(JobRef("j-1", kind=JobKind.V2_PARSE), {}):
        pass


@pytest.mark.parametrize("request_job", [get_job, open_answer])
@pytest.mark.parametrize("user", ["", "user:canary@"])
async def test_the_proxy_of_a_tunnel_does_not_get_the_key(proxy, authority, user, request_job):
    """aiohttp sends the default headers of a session to the proxy, too."""
    url = proxy.url.replace("//", f"//{user}")
    async with serving(send_job, authority.server_context(API)) as (port, requests):
        proxy.route = "127.0.0.1", port
        async with client_of(proxy=url, ca_file=authority.file) as client:
            await request_job(client)
    (head,) = proxy.heads
    assert KEY.encode() not in head
    assert b"\r\nUser-Agent: adepoll/" in head
    assert (b"\r\nProxy-Authorization: " in head) == bool(user)
    assert requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("request_job", [get_job, open_answer])
async def test_the_proxy_gets_its_credentials_with_a_request_for_an_http_url(proxy, request_job):
    proxy.credentials = "user:canary"
    async with serving(send_job) as (port, requests):
        options = {"proxy": proxy.url.replace("//", "//user:canary@")}
        async with client_of(f"http://127.0.0.1:{port}", **options) as client:
            await request_job(client)
    assert requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_repr_of_a_connection_shows_the_password_of_the_proxy(proxy, authority, scheme):
    """aiohttp shows connections in its warnings, for example about unclosed connections."""
    proxy.credentials = "user:canary"
    host = "127.0.0.1"
    context = authority.server_context(host) if scheme == "https" else None
    async with serving(send_job, context) as (port, _):
        url = f"{scheme}://{host}:{port}"
        options = {"proxy": proxy.url.replace("//", "//user:canary@"), "ca_file": authority.file}
        async with (
            client_of(url, **options) as client,
            ResultFetcher(client, allow_private=True) as fetcher,
        ):
            await client.get_job("j-1")
            with pytest.raises(ResultMalformedError):
                await fetcher.result(completed(f"{url}/r.json"))
            keys = [key for key in gc.get_objects() if isinstance(key, ConnectionKey)]
            shown = repr([key for key in keys if key.port == port])
    assert shown.count(str(proxy.port)) >= 2
    assert "canary" not in shown
    assert b64encode(b"user:canary").decode() not in shown


async def test_a_redirect_past_the_proxy_takes_no_credentials_along(proxy, monkeypatch):
    proxy.credentials = "user:canary"
    monkeypatch.setenv("NO_PROXY", "127.0.0.2")

    def answer(request):
        if request.host.startswith("127.0.0.1"):
            raise web.HTTPFound(f"http://127.0.0.2:{request.url.port}/r.json")
        return web.json_response(RESULT)

    async with serving(answer, host="0.0.0.0") as (port, requests):
        transport = TransportOptions(proxy=proxy.url.replace("//", "//user:canary@"))
        async with (
            client_of() as client,
            ResultFetcher(client, allow_private=True, transport=transport) as fetcher,
        ):
            await fetcher.result(completed(f"http://127.0.0.1:{port}/r.json"))
    assert len(proxy.heads) == 1
    assert "Proxy-Authorization" not in requests[1].headers


async def test_an_http_service_is_requested_through_the_proxy(proxy):
    async with (
        serving(send_job) as (port, requests),
        client_of(f"http://127.0.0.1:{port}", proxy=proxy.url) as client,
    ):
        await client.get_job("j-1")
    assert proxy.targets == [f"http://127.0.0.1:{port}/v1/ade/extract/jobs/j-1"]
    assert len(requests) == 1


async def test_407_for_an_http_service_comes_from_the_proxy(proxy):
    proxy.refusal = "407 Proxy Authentication Required"
    async with client_of("http://127.0.0.1:9", proxy=proxy.url) as client:
        with pytest.raises(ProxyRefusedError, match="the proxy refused the request: 407"):
            await client.get_job("j-1")
    assert len(proxy.targets) == 1


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden"])
async def test_a_refusal_of_the_proxy_is_the_proxys_and_is_not_retried(proxy, status):
    proxy.refusal = status
    options = TransportOptions(proxy=proxy.url)
    async with AdeClient(KEY, base_url=f"https://{API}", transport=options) as client:
        with pytest.raises(ProxyRefusedError, match=f"the proxy refused the connection: {status}"):
            await client.get_job("j-1")
        assert client.stats.refused is None
    assert len(proxy.targets) == 1


def test_proxies_do_not_show_their_passwords():
    assert "canary" not in repr(TransportOptions(proxy="http://user:canary@p").proxies())


@pytest.mark.parametrize("code", ["407", "403", "502", "600"])
async def test_the_reason_phrase_of_a_proxy_is_not_shown(proxy, code):
    """It could repeat the password."""
    proxy.refusal = f"{code} no canary"
    url = proxy.url.replace("//", "//user:canary@")
    async with client_of(proxy=url) as client:
        with pytest.raises((ProxyError, ProxyRefusedError), match=code) as caught:
            await client.get_job("j-1")
    assert "canary" not in f"{caught.value!r}"


async def test_wrong_credentials_are_the_proxys_and_appear_in_no_message(proxy):
    proxy.credentials = "user:right"
    url = proxy.url.replace("//", "//user:canary@")
    async with client_of(proxy=url) as client:
        with pytest.raises(ProxyRefusedError, match="407") as caught:
            await client.get_job("j-1")
    assert "canary" not in f"{caught.value!r} {client.transport!r}"
    assert caught.value.__context__ is None


@pytest.mark.parametrize("status", ["502 Bad Gateway", "600 Invalid", "099 Invalid"])
async def test_a_failure_of_the_proxy_is_the_proxys_and_is_retried(proxy, status):
    proxy.refusal = status
    retry = RetryPolicy(attempts=3, base=0.001)
    options = TransportOptions(proxy=proxy.url)
    async with AdeClient(KEY, base_url=f"https://{API}", retry=retry, transport=options) as client:
        with pytest.raises(ProxyError, match=f"refused the connection: {int(status[:3])}"):
            await client.get_job("j-1")
    assert len(proxy.targets) == 3


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1"])
async def test_a_proxy_that_cannot_be_reached_is_named(address):
    async with client_of(proxy=f"http://{address}") as client:
        with pytest.raises(ProxyError) as caught:
            await client.get_job("j-1")
    assert f"cannot connect to the proxy {address}: " in str(caught.value)


async def test_a_proxy_whose_name_is_not_known_is_named():
    class Resolver:
        async def resolve(self, host, port=0, family=0):
            raise OSError(None, "no such name")

        async def close(self):
            raise AssertionError("it belongs to the caller")

    async with client_of(proxy="http://proxy.example:8", resolver=Resolver()) as client:
        with pytest.raises(
            ProxyError, match=r"cannot connect to the proxy proxy\.example:8: no su"
        ):
            await client.get_job("j-1")


# --- name resolution ----------------------------------------------------------------------------


class NoAddress:
    """A resolver that knows every name, but no address."""

    async def resolve(self, host, port=0, family=0):
        return []

    async def close(self):
        raise AssertionError("it belongs to the caller")


@pytest.mark.parametrize(
    ("host", "resolver"),
    [
        (API, NoAddress()),
        # Without aiodns, Python itself resolves names. It raises a UnicodeError for this name.
        (f"{'a' * 64}.example", ThreadedResolver),
    ],
)
async def test_a_name_without_an_address_raises_a_typed_error(host, resolver):
    resolver = resolver if isinstance(resolver, NoAddress) else resolver()
    async with client_of(f"https://{host}", resolver=resolver) as client:
        with pytest.raises(ConnectionFailedError, match=r": the name of the host has no address$"):
            await client.get_job("j-1")
    async with client_of(proxy=f"http://{host}:8", resolver=resolver) as client:
        with pytest.raises(ProxyError, match=r": the name of the host has no address$"):
            await client.get_job("j-1")


async def test_a_storage_without_an_address_raises_a_typed_error():
    async with client_of() as client:
        options = TransportOptions(resolver=NoAddress())
        async with ResultFetcher(client, patience=0, transport=options) as fetcher:
            with pytest.raises(ResultTransferError, match="the name of the host has no address"):
                await fetcher.result(completed(f"https://{STORAGE}/r.json"))


# --- the environment ----------------------------------------------------------------------------


async def test_the_proxy_of_the_environment_is_used_and_netrc_is_not(
    proxy, authority, monkeypatch, tmp_path
):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {API} login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    async with serving(send_job, authority.server_context(API)) as (port, requests):
        proxy.route = "127.0.0.1", port
        async with client_of(ca_file=authority.file) as client:
            await client.get_job("j-1")
    assert requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("options", [{"trust_env": False}, {}])
async def test_the_environment_can_be_ignored_or_exclude_a_host(proxy, monkeypatch, options):
    monkeypatch.setenv("http_proxy", proxy.url)
    if not options:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with (
        serving(send_job) as (port, _),
        client_of(f"http://127.0.0.1:{port}", **options) as client,
    ):
        await client.get_job("j-1")
    assert proxy.targets == []


def chosen(url, monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = TransportOptions().proxies().for_url(URL(url))
    return found and found.url


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://h", {}, None),
        ("https://h", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h", {"HTTPS_PROXY": "p:1"}, "http://p:1"),  # curl's default scheme
        ("https://h", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://h", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://h", {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, None),  # httpoxy
        ("https://h", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h", {"ALL_PROXY": "http://p:1", "https_proxy": "http://q:1"}, "http://q:1"),
        ("https://h", {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"}, "http://q:1"),
        (
            "https://h",
            {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://q:1", "all_proxy": "socks://s:1"},
            "http://p:1",
        ),
        ("https://h", {"HTTPS_PROXY": "http://p:1", "https_proxy": ""}, None),
        ("https://h", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
    ],
)
def test_the_environment_is_read_as_curl_reads_it(url, environment, proxy, monkeypatch):
    assert chosen(url, monkeypatch, **environment) == proxy


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("https://landing.ai", "landing.ai", True),
        ("https://api.landing.ai", "landing.ai", True),
        ("https://api.landing.ai", ".landing.ai", True),
        ("https://landing.ai", ".landing.ai", True),
        ("https://api.landing.ai", "*.landing.ai", True),
        ("https://notlanding.ai", "*.landing.ai", False),
        ("https://API.Landing.AI.", "landing.ai", True),
        ("https://notlanding.ai", "landing.ai", False),
        ("https://landing.ai", "a.example, landing.ai", True),
        ("https://landing.ai", "a.example landing.ai", True),
        ("https://landing.ai:444", "landing.ai:443", False),
        ("https://landing.ai", "landing.ai:443", True),
        ("https://landing.ai", "landing.ai:0443", True),
        ("https://landing.ai", "landing.ai:" + "4" * 5_000, False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://11.1.2.3", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://110.1.2.3", "10.1.2.3", False),
        ("https://[fd00::1]", "fd00::/8", True),
        ("https://[fd00::1]:8443", "[fd00::1]:8443", True),
        ("https://[fd00::1]", "10.0.0.0/8", False),
        ("https://10.1.2.3", "example.com", False),
        ("https://10.1.2.3", "10.1.2.4/8", True),
        ("https://h.example", "h.example.", True),
        ("https://xn--mnchen-3ya.de", "xn--mnchen-3ya.de", True),
        ("https://xn--mnchen-3ya.de", "münchen.de", True),
        ("https://münchen.de", "xn--mnchen-3ya.de", True),
        ("https://h", ",", False),
        ("https://h", "", False),
        ("https://h", "  ", False),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(url, no_proxy, direct, monkeypatch):
    found = chosen(url, monkeypatch, HTTPS_PROXY="http://p:1", NO_PROXY=no_proxy)
    assert found == (None if direct else "http://p:1")


@pytest.mark.parametrize(
    "value",
    [
        "socks5://p:1",
        "http://",
        "http://p:port",
        "http://.[::]",  # `urlsplit` accepts it, but aiohttp does not
        "http://p q:1",
        "ftp://p",
        "http://p\t:1",
        "http://é:1",
        "http://p\x7f:1",
        "https://p q:1",
        "http://p:1/a b",
        "//p:1",
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(value, monkeypatch):
    with pytest.raises(ConfigurationError, match="proxy"):
        TransportOptions(proxy=value)
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY"):
        AdeClient(KEY)


def test_session_and_transport_exclude_each_other():
    with pytest.raises(ValueError, match="pass session or transport, not both"):
        AdeClient(KEY, session=object(), transport=TransportOptions())


# --- certificates -------------------------------------------------------------------------------


async def test_a_certificate_of_an_unknown_authority_is_refused(authority):
    async with (
        serving(send_job, authority.server_context("127.0.0.1")) as (port, requests),
        client_of(f"https://127.0.0.1:{port}") as client,
    ):
        with pytest.raises(CertificateError):
            await client.get_job("j-1")
    assert requests == []


async def test_a_client_certificate_is_shown_to_servers_that_demand_one(authority):
    context = authority.server_context("127.0.0.1", demand_certificate=True)
    certificate = authority.certificate("client.example")
    async with serving(send_job, context) as (port, _):
        url = f"https://127.0.0.1:{port}"
        async with client_of(url, ca_file=authority.file) as client:
            with pytest.raises(TransportError):
                await client.get_job("j-1")
        own = {"ca_file": authority.file, "client_certificate": certificate}
        async with client_of(url, **own) as client:
            await client.get_job("j-1")


@contextmanager
def rejecting(context):
    """Serve TLS in a thread, and read what follows the alert; yield the URL.

    asyncio's own server closes the connection without an alert.
    """

    def serve():
        while not is_over.is_set():
            connection, _ = server.accept()
            tls = context.wrap_socket(connection, True, do_handshake_on_connect=False)
            with tls, suppress(OSError):
                with suppress(ssl.SSLError):
                    tls.do_handshake()
                tls.shutdown(socket.SHUT_WR)
                while tls.recv(1_000):  # otherwise, the alert could be lost
                    pass

    is_over = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.getsockname()[1]}"
        finally:
            is_over.set()
            socket.create_connection(server.getsockname()).close()
            thread.join()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_rejected_client_certificate_is_reported_as_that(authority, tmp_path, version):
    """With TLS 1.3, the alert comes after the handshake, in the place of the response."""
    context = authority.server_context("127.0.0.1", demand_certificate=True)
    context.minimum_version = context.maximum_version = version
    wrong = Authority(tmp_path).certificate("client.example")
    options = {"ca_file": authority.file, "client_certificate": wrong}
    with rejecting(context) as url:
        async with (
            client_of(url, **options) as client,
            ResultFetcher(client, allow_private=True, patience=600) as fetcher,
        ):
            text = r"the server rejected the client certificate \(unknown ca\); see Transport"
            with pytest.raises(CertificateError, match=text):
                await client.get_job("j-1")
            with pytest.raises(ResultCertificateError, match=text):
                await fetcher.result(completed(f"{url}/r.json"))


async def test_a_missing_client_certificate_is_reported_as_that(authority):
    context = authority.server_context("127.0.0.1", demand_certificate=True)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # older versions have no alert of their own
    with rejecting(context) as url:
        async with client_of(url, ca_file=authority.file) as client:
            with pytest.raises(CertificateError, match="the server requires a client certificate;"):
                await client.get_job("j-1")


async def test_a_tls_version_that_the_server_does_not_speak_is_no_certificate_problem(authority):
    context = authority.server_context("127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    own = ssl.create_default_context(cafile=authority.file)
    own.minimum_version = ssl.TLSVersion.TLSv1_3
    with rejecting(context) as url:
        async with client_of(url, ssl_context=own) as client:
            with pytest.raises(TransportError, match="cannot connect") as caught:
                await client.get_job("j-1")
    assert not isinstance(caught.value, CertificateError)


async def test_an_own_context_is_used(authority):
    context = ssl.create_default_context(cafile=authority.file)
    async with (
        serving(send_job, authority.server_context("127.0.0.1")) as (port, _),
        client_of(f"https://127.0.0.1:{port}", ssl_context=context) as client,
    ):
        await client.get_job("j-1")


def test_an_encrypted_private_key_is_refused_without_asking_for_its_password(authority, tmp_path):
    """OpenSSL would ask on the terminal, and block the event loop."""
    plain = authority.certificate("client.example").read_bytes()
    key = serialization.load_pem_private_key(plain, None)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = serialization.BestAvailableEncryption(b"password")
    path = tmp_path / "encrypted.pem"
    path.write_bytes(
        plain[plain.index(b"-----BEGIN CERT") :] + key.private_bytes(pem, form, secret)
    )
    with pytest.raises(ConfigurationError, match=r"encrypted\.pem: its private key is encrypted;"):
        TransportOptions(client_certificate=path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("nothing")
    for options, reason in (
        ({"ca_file": tmp_path / "absent.pem"}, "No such file or directory"),
        ({"ca_file": no_pem}, "NO_CERTIFICATE_OR_CRL_FOUND"),
        ({"client_certificate": no_pem}, "it is not a PEM file"),
        ({"client_certificate": tmp_path / "absent.pem"}, "No such file or directory"),
    ):
        (name,) = options
        with pytest.raises(ConfigurationError, match=rf"cannot read the {name} .*pem: {reason}$"):
            TransportOptions(**options)
    with pytest.raises(ValueError, match="pass ssl_context or files"):
        TransportOptions(ca_file=no_pem, ssl_context=ssl.create_default_context())


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{"X-Big": "x" * 60_000}, {f"X-{n}": "y" for n in range(900)}], ids=["big", "many"]
)
async def test_large_and_many_headers_are_accepted(headers):
    async with (
        serving(lambda _: web.json_response(JOB, headers=headers)) as (port, _),
        client_of(f"http://127.0.0.1:{port}") as client,
    ):
        assert (await client.get_job("j-1")).job_id == "j-1"


@pytest.mark.parametrize(
    "headers", [{"X-Big": "x" * 70_000}, {f"X-{n}": "y" for n in range(1_100)}], ids=["big", "many"]
)
async def test_headers_beyond_the_limits_are_reported_as_that(headers):
    async with serving(lambda _: web.json_response(JOB, headers=headers)) as (port, _):
        url = f"http://127.0.0.1:{port}"
        async with client_of(url) as client:
            with pytest.raises(HeadersTooLargeError, match="TransportOptions"):
                await client.get_job("j-1")
        async with client_of(url, max_header_bytes=100_000, max_headers=2_000) as client:
            await client.get_job("j-1")


@pytest.mark.parametrize("value", [0, math.nan])
@pytest.mark.parametrize("name", ["max_header_bytes", "max_headers"])
def test_limits_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        TransportOptions(**{name: value})


# --- results ------------------------------------------------------------------------------------

RESULT = {"extraction": {}, "extraction_metadata": {}, "metadata": {}}
STORAGE = "storage.example"


def stored_at(url):
    return {**JOB, "status": "completed", "progress": 1.0, "output_url": url}


def answer_with(url):
    def answer(request):
        is_api = "/v1/ade" in request.path
        return web.Response(
            body=json.dumps(stored_at(url) if is_api else RESULT), content_type="application/json"
        )

    return answer


async def test_a_result_is_fetched_through_the_proxy_of_the_client(proxy, authority, tmp_path):
    context = authority.server_context(API, STORAGE)
    async with serving(answer_with(f"https://{STORAGE}/r.json"), context) as (port, requests):
        proxy.route = "127.0.0.1", port
        async with (
            client_of(proxy=proxy.url, ca_file=authority.file) as client,
            ResultFetcher(client, patience=0) as fetcher,
        ):
            done = await fetcher.download("j-1", tmp_path / "r.json")
    assert json.loads(done.path.read_text()) == RESULT
    assert proxy.targets[0] == f"{API}:443"
    assert f"{STORAGE}:443" in proxy.targets
    assert "Authorization" not in requests[-1].headers


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "127.0.0.1", "localhost", "[::1]", "10.0.0.1", "private.example"]
)
async def test_the_proxy_is_not_asked_for_private_addresses(proxy, authority, host):
    class Resolver:
        async def resolve(self, host, port=0, family=0):
            if host != "private.example":
                raise OSError("no such name")
            return [{"hostname": host, "host": "10.1.1.1", "port": port, "family": 2}]

        async def close(self):
            raise AssertionError("it belongs to the caller")

    context = authority.server_context(API, STORAGE)
    async with serving(answer_with(f"https://{host}/r.json"), context) as (port, _):
        proxy.route = "127.0.0.1", port
        options = {"proxy": proxy.url, "ca_file": authority.file, "resolver": Resolver()}
        async with client_of(**options) as client, ResultFetcher(client, patience=0) as fetcher:
            with pytest.raises(ResultUrlError):
                await fetcher.result("j-1")
    assert proxy.targets == [f"{API}:443"]


async def test_a_result_at_the_proxy_itself_is_refused(proxy, authority):
    context = authority.server_context(API)
    async with serving(answer_with(f"https://127.0.0.1:{proxy.port}/"), context) as (port, _):
        proxy.route = "127.0.0.1", port
        async with (
            client_of(proxy=proxy.url, ca_file=authority.file) as client,
            ResultFetcher(client, patience=0) as fetcher,
        ):
            with pytest.raises(ResultUrlError):
                await fetcher.result("j-1")


async def test_a_refusal_of_the_proxy_ends_a_download_immediately(proxy, authority):
    context = authority.server_context(API)
    async with serving(answer_with(f"https://{STORAGE}/r.json"), context) as (port, _):
        proxy.route = "127.0.0.1", port
        async with client_of(proxy=proxy.url, ca_file=authority.file) as client:
            job = await client.get_job("j-1")
            async with ResultFetcher(client, patience=0) as fetcher:
                proxy.refusal = "403 Filtered"
                with pytest.raises(ResultProxyRefusedError, match=r"the proxy refused .*403"):
                    await fetcher.result(job)
    assert len(proxy.targets) == 2


async def test_a_certificate_of_a_storage_that_cannot_be_verified_ends_a_download(authority):
    async with serving(answer_with(""), authority.server_context("127.0.0.1")) as (port, requests):
        job = completed(f"https://127.0.0.1:{port}/r.json")
        async with (
            client_of() as client,
            ResultFetcher(client, allow_private=True, patience=600) as fetcher,
        ):
            with pytest.raises(ResultCertificateError, match="its certificate cannot be verified"):
                await fetcher.result(job)
        transport = TransportOptions(ca_file=authority.file)
        async with (
            client_of() as client,
            ResultFetcher(client, allow_private=True, transport=transport) as fetcher,
        ):
            await fetcher.result(job)
    assert len(requests) == 1


async def test_407_for_a_result_over_plain_http_comes_from_the_proxy():
    async with RawStorage() as proxy:
        refused = proxy.reply(status="407 Proxy Authentication Required")
        proxy.answers = [proxy.keeping(refused)]
        transport = TransportOptions(proxy=proxy.origin)
        async with (
            client_of() as client,
            ResultFetcher(client, allow_private=True, patience=0, transport=transport) as fetcher,
        ):
            for _ in range(2):
                with pytest.raises(ResultProxyRefusedError, match="refused the request: 407"):
                    await fetcher.result(completed(f"http://{STORAGE}/r.json"))
        assert proxy.targets == [f"http://{STORAGE}/r.json"] * 2
        assert proxy.connections == 1


async def test_if_nothing_responds_the_proxy_may_be_the_reason():
    async with RawStorage() as proxy, client_of(proxy=proxy.origin) as client:
        proxy.answers = [lambda reader, _writer: proxy.hang(reader)]
        fetcher = ResultFetcher(client, patience=0, connect_timeout=0.01, read_timeout=0.01)
        async with fetcher:
            with pytest.raises(ResultTransferError, match="the storage, or the proxy before it, d"):
                await fetcher.result(completed("https://8.8.8.8/r.json"))


async def test_a_proxy_that_closes_the_connection_in_the_handshake_is_described():
    async with RawStorage() as proxy:
        proxy.answers = [b"HTTP/1.1 200 Connection established\r\n\r\n"]
        async with client_of(proxy=proxy.origin) as client:
            with pytest.raises(TransportError) as caught:
                await client.get_job("j-1")
    assert str(caught.value).endswith(f"cannot connect to {API}:443: the connection was closed")


def test_the_hosts_of_proxies_are_known():
    found = Proxies(by_scheme={"http": ChosenProxy("http://a:1"), "all": ChosenProxy("http://b:2")})
    assert found.hosts == {"a", "b"}
