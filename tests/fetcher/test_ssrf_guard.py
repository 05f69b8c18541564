"""No result is fetched from a private network, whatever the URL or the name."""

import asyncio
import ipaddress
import socket

import pytest
from aiohttp.abc import AbstractResolver
from fuzzing import counted_calls
from hypothesis import given
from hypothesis import strategies as st
from streams import fetch_by

from adepoll import TransportOptions
from adepoll.api.transport_options import Proxies, Proxy
from adepoll.emulator import run
from adepoll.errors import ResultUrlError
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.ssrf_guard import PrivateAddressError, SsrfGuard

PUBLIC_API = "https://93.184.216.34"
PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "2001:4860:4860::8888"]
INSIDE_V4 = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # where clouds serve credentials
    "100.64.0.1",  # carrier-grade NAT (RFC 6598)
    "192.0.0.192",  # for protocols of the IETF (RFC 6890)
    "198.18.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
]
INSIDE_V6 = [
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",  # the same credentials, over IPv6
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "100::1",
    "2001:db8::1",
    "3fff::1",
    "64:ff9b:1::7f00:1",  # a local NAT64 (RFC 8215)
    "::7f00:1",
]


def wrapped(address):
    """Return the IPv6 addresses whose packets go to that IPv4 address."""
    v4 = int(ipaddress.IPv4Address(address))
    return [
        str(ipaddress.IPv6Address((0xFFFF << 32) | v4)),  # mapped (RFC 4291)
        str(ipaddress.IPv6Address((0x2002 << 112) | (v4 << 80) | 1)),  # 6to4 (RFC 3056)
        str(ipaddress.IPv6Address((0x64FF9B << 96) | v4)),  # NAT64 (RFC 6052)
    ]


class Names:
    """A resolver of fixed names; each resolution returns the next list of addresses of the name."""

    def __init__(self, **known):
        self.known = {name.replace("_", "."): [*found] for name, found in known.items()}
        self.asked = []
        self.closed = 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked.append(host)
        found = self.known.get(host)
        if not found:
            raise OSError(socket.EAI_NONAME, "Name or service not known")
        addresses = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(addresses, str):
            addresses = [addresses]
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
        ]

    async def close(self):
        self.closed += 1


@pytest.fixture
def resolving(monkeypatch):
    """Make names resolve to these addresses, one list for each resolution."""

    def use(**known):
        names = Names(**known)
        monkeypatch.setattr("aiohttp.DefaultResolver", lambda *_, **__: names)
        return names

    return use


def guard(*, api_url=PUBLIC_API, allow_private=False):
    return SsrfGuard(api_url=api_url, allow_private=allow_private)


def url_of(address, scheme="https"):
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}/p?x=1"


# --- Addresses in the URL -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", [*INSIDE_V4, *INSIDE_V6, *wrapped("127.0.0.1"), *wrapped("169.254.169.254")]
)
async def test_a_private_address_is_refused(address):
    asked = guard()
    with pytest.raises(ResultUrlError, match="allow_private=True"):
        await asked.check("job-1", url_of(address))
    await asked.close()


@pytest.mark.parametrize("address", [*PUBLIC, *wrapped("8.8.8.8")])
async def test_a_public_address_is_allowed(address):
    assert str(await guard().check("job-1", url_of(address))) == url_of(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_address_is_checked(address):
    async def is_let_through(text):
        asked = guard()
        try:
            await asked.check("job-1", url_of(text))
        except ResultUrlError:
            return False
        finally:
            await asked.close()
        return True

    async def verdicts():
        return [await is_let_through(text) for text in (str(address), *wrapped(address))]

    assert len(set(asyncio.run(verdicts()))) == 1


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost", "LOCALHOST", "localhost.", "a.localhost", "a.b.LocalHost."],
)
async def test_localhost_is_private_without_resolution(resolving, host):
    names = resolving(localhost=PUBLIC[:1])
    with pytest.raises(ResultUrlError, match="allow_private=True"):
        await guard().check("job-1", f"https://{host}/p")
    assert names.asked == ["93.184.216.34"]  # only the name of the API is resolved


@pytest.mark.parametrize(
    "host",
    [
        *("localhost.example", "notlocalhost", "10.0.0.1.example", "0x7f.example", "1.0xg"),
        f"{'a' * 63}.example",
    ],
)
async def test_a_name_is_not_mistaken_for_an_address(host):
    assert (await guard().check("job-1", f"https://{host}/p")).host == host


async def test_an_international_name_is_resolved_in_the_form_that_a_proxy_gets(resolving):
    """ "xn--strae-oqa.de" is "straße.de", which Python's resolver would encode as "strasse.de"."""
    names = resolving(strasse_de=PUBLIC[:1], **{"xn--strae-oqa_de": ["10.0.0.1"]})
    proxies = Proxies(by_scheme={"all": Proxy("http://proxy:1")})
    with pytest.raises(ResultUrlError, match="allow_private=True"):
        await SsrfGuard(api_url=PUBLIC_API, allow_private=False, proxies=proxies).check(
            "job-1", "https://xn--strae-oqa.de/p"
        )
    assert names.asked == ["xn--strae-oqa.de", "93.184.216.34"]


ODD_SPELLINGS = (
    *("2130706433", "127.1", "127.0.1", "0177.0.0.1", "0177.1", "0x7f.1", "0X7F.0x1", "0x7f000001"),
    *("127.0.0.1.", "127.1.", "127.0.0.0x1", "017700000001", "0x7f.0.0.01", "a.127.0.0.1"),
    *("134744072", "08.8.8.8", "256.1.1.1", "1.2.3.4.5", "0x", "1.2.3.0x"),  # no loopback address
    *("%31%32%37.0.0.1", "%6cocalhost", "127%2e1", "[::ffff:7f.1]", "[::ffff:127.1]"),
    *("localhost..", "127.0.0.1..", "127..0.0.1", ".localhost", f"{'a' * 64}.example"),
)


@pytest.mark.parametrize("allow_private", [True, False])
@pytest.mark.parametrize("proxies", [None, Proxies(by_scheme={"all": Proxy("http://proxy:1")})])
@pytest.mark.parametrize("host", ODD_SPELLINGS)
async def test_an_address_in_an_odd_form_is_refused(resolving, host, proxies, allow_private):
    """curl and getaddrinfo(3) accept most of them as 127.0.0.1, and a proxy may do that, too."""
    names = resolving()
    asked = SsrfGuard(api_url=PUBLIC_API, allow_private=allow_private, proxies=proxies)
    with pytest.raises(ResultUrlError, match="the host is ") as caught:
        await asked.check("job-1", f"https://{host}:9/p")
    assert not caught.value.transient
    assert names.asked == []


# --- Names --------------------------------------------------------------------------------------


async def test_a_host_that_no_name_server_accepts_takes_little_work():
    """To decode an international name takes a time in proportion to the square of its length."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 4_000))).encode("punycode").decode()
    with counted_calls() as count, pytest.raises(ResultUrlError, match="the host is malformed"):
        await guard().check("j", f"https://xn--{text}.example/r.json")
    assert count() < 1_000
    assert await guard().check("j", f"https://{'a.' * 127}/r.json")
    with pytest.raises(ResultUrlError, match="the host is malformed"):
        await guard().check("j", f"https://{'a.' * 127}a/r.json")


@pytest.mark.parametrize("address", [*INSIDE_V4, *INSIDE_V6, *wrapped("10.0.0.1")])
async def test_a_name_with_a_private_address_is_refused(resolving, address):
    resolving(storage_example=[address])
    with pytest.raises(PrivateAddressError, match="allow_private=True"):
        await guard().resolve("storage.example", 443)


async def test_a_name_with_public_and_private_addresses_is_refused(resolving):
    resolving(storage_example=[[*PUBLIC, "10.0.0.1"]])
    with pytest.raises(PrivateAddressError):
        await guard().resolve("storage.example", 443)


async def test_a_name_with_public_addresses_returns_all_of_them(resolving):
    resolving(storage_example=[PUBLIC])
    found = await guard().resolve("storage.example", 443)
    assert [one["host"] for one in found] == PUBLIC
    assert {one["port"] for one in found} == {443}


async def test_a_name_is_checked_at_each_resolution(resolving):
    resolving(storage_example=[PUBLIC[0], "127.0.0.1"])
    asked = guard()
    assert await asked.resolve("storage.example", 443)
    with pytest.raises(PrivateAddressError):
        await asked.resolve("storage.example", 443)


async def test_an_unknown_name_fails_as_such(resolving):
    resolving()
    with pytest.raises(OSError, match="not known"):
        await guard().resolve("storage.example", 443)


@pytest.mark.parametrize("use", ["result", "download", "stream"])
async def test_no_connection_is_made_to_a_name_with_a_private_address(
    resolving, storage, answering, stored, tmp_path, use
):
    """It is not retried, as the outcome would be the same."""
    resolving(storage_example=["127.0.0.1"])
    port = storage.origin.rpartition(":")[2]
    client = answering(base_url=PUBLIC_API)
    async with ResultFetcher(client, patience=0) as fetcher:
        with pytest.raises(ResultUrlError, match="private network") as caught:
            await fetch_by(
                use, fetcher, stored(f"https://storage.example:{port}/p?x=1"), tmp_path / "out"
            )
    assert caught.value.url == f"https://storage.example:{port}/p?REDACTED"
    assert storage.connections == 0
    assert [*tmp_path.iterdir()] == []


async def test_the_connection_goes_to_the_checked_address(
    resolving, storage, answering, stored, result_body
):
    """With `allow_private`, since a test can only connect to loopback."""
    names = resolving(storage_example=["127.0.0.1", "192.0.2.1"])
    storage.answers = [storage.reply(result_body())]
    port = storage.origin.rpartition(":")[2]
    client = answering(base_url=PUBLIC_API)
    async with ResultFetcher(client, patience=0, allow_private=True) as fetcher:
        assert await fetcher.result(stored(f"http://storage.example:{port}/p"))
    assert names.asked == ["storage.example"]
    assert names.closed == 1


# --- Allowed private addresses ------------------------------------------------------------------


@pytest.mark.parametrize(
    "api_url", ["https://127.0.0.1:8443", "https://10.1.2.3", "https://[::1]", "https://localhost"]
)
@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1"])
async def test_a_private_api_allows_private_addresses(api_url, address):
    assert await guard(api_url=api_url).check("job-1", url_of(address))


async def test_an_api_name_with_a_private_address_allows_private_addresses(resolving):
    names = resolving(api_example=["10.0.0.1"], storage_example=["10.0.0.2"])
    asked = guard(api_url="https://api.example")
    assert await asked.check("job-1", url_of("10.0.0.2"))
    assert await asked.resolve("storage.example", 443)
    assert names.asked.count("api.example") == 1


async def test_a_public_api_allows_nothing_and_is_resolved_once(resolving):
    names = resolving(api_example=[PUBLIC[0], "10.0.0.1"])
    asked = guard(api_url="https://api.example")
    for _ in range(3):
        with pytest.raises(ResultUrlError):
            await asked.check("job-1", url_of("10.0.0.2"))
    assert names.asked == ["api.example"]


async def test_an_unresolvable_api_allows_nothing_and_is_resolved_again(resolving):
    names = resolving()
    asked = guard(api_url="https://api.example")
    for _ in range(2):
        with pytest.raises(ResultUrlError):
            await asked.check("job-1", url_of("10.0.0.2"))
    names.known["api.example"] = ["10.0.0.1"]
    assert await asked.check("job-1", url_of("10.0.0.2"))


async def test_public_names_need_no_resolution_of_the_api(resolving):
    names = resolving(storage_example=[PUBLIC])
    asked = guard(api_url="https://api.example")
    await asked.check("job-1", "https://storage.example/p")
    await asked.resolve("storage.example", 443)
    assert names.asked == ["storage.example"]


async def test_allow_private_allows_private_addresses_and_plain_http(resolving):
    resolving(storage_example=["10.0.0.2"])
    asked = guard(allow_private=True)
    for url in (url_of("10.0.0.2"), url_of("10.0.0.2", "http"), "http://localhost/p"):
        assert str(await asked.check("job-1", url)) == url
    assert await asked.resolve("storage.example", 80)


@pytest.mark.parametrize("url", ["https:///x", "https:/x", "https:x", "/x"])
async def test_a_url_without_a_host_is_refused(url):
    with pytest.raises(ResultUrlError, match="https"):
        await guard().check("job-1", url)


async def test_a_url_that_no_server_accepts_is_refused():
    """Time to read it, for example to find out when it expires, is in proportion to its length."""
    url = f"https://{PUBLIC[0]}/"
    longest = url + "&" * (16_384 - len(url))
    assert str(await guard().check("job-1", longest)) == longest
    with pytest.raises(ResultUrlError, match="more than 16,384 characters"):
        await guard().check("job-1", longest + "&")


@pytest.mark.parametrize("scheme", ["http", "ftp", "ws"])
async def test_another_scheme_than_https_is_refused_if_the_api_uses_https(scheme):
    with pytest.raises(ResultUrlError, match="https"):
        await guard().check("job-1", url_of(PUBLIC[0], scheme))


async def test_the_resolver_is_created_at_first_use_and_closed_with_the_guard(resolving):
    names = resolving(storage_example=[PUBLIC])
    asked = guard()
    await asked.close()
    assert names.closed == 0
    await asked.resolve("storage.example", 443)
    await asked.close()
    await asked.close()
    assert names.closed == 1


class Silent(AbstractResolver):
    """Never answers."""

    async def resolve(self, host, port=0, family=socket.AF_INET):
        await asyncio.Event().wait()

    async def close(self):
        pass


def test_a_name_that_is_never_resolved_does_not_stop_a_check():
    """The proxy decides about the host; an address in the URL is refused without an answer."""

    async def main():
        options = {"api_url": "https://api.example", "allow_private": False, "timeout": 30.0}
        proxies = TransportOptions(proxy="http://93.184.216.34:3128").proxies()
        asked = SsrfGuard(**options, proxies=proxies, resolver=Silent())
        url = "https://storage.example/p"
        async with asyncio.timeout(31):
            assert str(await asked.check("job-1", url)) == url
        async with asyncio.timeout(31):
            with pytest.raises(ResultUrlError):
                await asked.check("job-1", url_of("10.0.0.1"))

    run(main())
