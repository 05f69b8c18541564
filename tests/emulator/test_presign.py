"""Presigned URLs: good for an hour, for one method, and only byte for byte."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.emulator.presign import Presigner, Verdict

NOW = 1_750_000_000.0
ORIGIN = "http://127.0.0.1:8080"
PATH = "/bucket/a%20b/c+d%2Be.json"

presigner = Presigner(secret=b"s", access_key="ASIAEXAMPLE", session_token="a/b+c==")


def minted():
    return presigner.presign(origin=ORIGIN, raw_path=PATH, now=NOW).removeprefix(ORIGIN)


def check(target, *, method="GET", host="127.0.0.1:8080", now=NOW):
    return presigner.check(method=method, host=host, raw_target=target, now=now)


def test_a_url_as_it_was_given_is_valid():
    assert check(minted()) is Verdict.VALID


def test_a_url_names_the_documented_parameters():
    names = [part.split("=")[0] for part in minted().partition("?")[2].split("&")]
    assert {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    } <= set(names)
    assert "X-Amz-Expires=3600" in minted()
    assert "%2F" in minted().partition("?")[2]


@pytest.mark.parametrize(("later", "verdict"), [(3_600, Verdict.VALID), (3_601, Verdict.EXPIRED)])
def test_a_url_expires_after_an_hour(later, verdict):
    assert check(minted(), now=NOW + later) is verdict


@pytest.mark.parametrize(
    "careless",
    [
        lambda url: url.replace("%2F", "/"),
        lambda url: url.replace("%2B", "+"),
        lambda url: url.replace("%20", "+"),
        lambda url: url.replace("+", "%2B"),
        lambda url: url.replace("%2F", "%2f"),
        lambda url: quote(url, safe="/?&="),
        unquote,
        lambda url: url + "&x-id=GetObject",
        lambda url: url.replace("X-Amz-Expires=3600", "X-Amz-Expires=9999"),
    ],
)
def test_a_url_that_was_quoted_anew_or_altered_does_not_match(careless):
    assert careless(minted()) != minted()
    assert check(careless(minted())) is Verdict.ALTERED


@given(st.data())
def test_any_single_byte_changed_is_noticed(data):
    url = minted()
    at = data.draw(st.integers(0, len(url) - 1))
    other = data.draw(st.sampled_from("abcXYZ019%&=+/?-").filter(lambda c: c != url[at]))
    assert check(url[:at] + other + url[at + 1 :]) in {Verdict.ALTERED, Verdict.UNSIGNED}


def test_the_signature_may_stand_anywhere_in_the_query():
    path, _, query = minted().partition("?")
    *fields, signature = query.split("&")
    assert check(f"{path}?{signature}&{'&'.join(fields)}") is Verdict.VALID


def test_a_url_is_good_for_its_method_and_host_alone():
    assert check(minted(), method="HEAD") is Verdict.ALTERED
    assert check(minted(), host="localhost:8080") is Verdict.ALTERED


def test_a_second_signature_does_not_help():
    assert check(minted() + "&X-Amz-Signature=00") is Verdict.ALTERED


@pytest.mark.parametrize("target", [PATH, PATH + "?", PATH + "?a=b", ""])
def test_no_signature_is_unsigned(target):
    assert check(target) is Verdict.UNSIGNED


def test_secrets_are_not_shown():
    assert "a/b+c" not in repr(presigner)
    assert "secret" not in repr(presigner)
