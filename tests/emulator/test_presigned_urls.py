"""Presigned URLs: valid for one hour, for one method, and only byte for byte."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.emulator.presigned_urls import Presigner, Verdict

NOW = 1_750_000_000.0
ORIGIN = "http://127.0.0.1:8080"
PATH = "/bucket/a%20b/c+d%2Be.json"

presigner = Presigner(secret=b"s", access_key="ASIAEXAMPLE", session_token="a/b+c==")


def presigned():
    return presigner.presign(origin=ORIGIN, raw_path=PATH, now=NOW).removeprefix(ORIGIN)


def check(target, *, method="GET", host="127.0.0.1:8080", now=NOW):
    return presigner.check(method=method, host=host, raw_target=target, now=now)


def test_an_unchanged_url_is_valid():
    assert check(presigned()) is Verdict.VALID


def test_a_url_has_the_documented_parameters():
    names = [part.split("=")[0] for part in presigned().partition("?")[2].split("&")]
    assert {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    } <= set(names)
    assert "X-Amz-Expires=3600" in presigned()
    assert "%2F" in presigned().partition("?")[2]


@pytest.mark.parametrize(("later", "verdict"), [(3_600, Verdict.VALID), (3_601, Verdict.EXPIRED)])
def test_a_url_expires_after_an_hour(later, verdict):
    assert check(presigned(), now=NOW + later) is verdict


@pytest.mark.parametrize(
    "change",
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
def test_a_requoted_or_changed_url_is_invalid(change):
    assert change(presigned()) != presigned()
    assert check(change(presigned())) is Verdict.ALTERED


@given(st.data())
def test_every_single_changed_byte_is_detected(data):
    url = presigned()
    at = data.draw(st.integers(0, len(url) - 1))
    other = data.draw(st.sampled_from("abcXYZ019%&=+/?-").filter(lambda c: c != url[at]))
    assert check(url[:at] + other + url[at + 1 :]) in {Verdict.ALTERED, Verdict.UNSIGNED}


def test_the_signature_can_be_anywhere_in_the_query():
    path, _, query = presigned().partition("?")
    *fields, signature = query.split("&")
    assert check(f"{path}?{signature}&{'&'.join(fields)}") is Verdict.VALID


def test_a_url_is_valid_for_its_method_and_host_only():
    assert check(presigned(), method="HEAD") is Verdict.ALTERED
    assert check(presigned(), host="localhost:8080") is Verdict.ALTERED


def test_a_second_signature_is_invalid():
    assert check(presigned() + "&X-Amz-Signature=00") is Verdict.ALTERED


@pytest.mark.parametrize("target", [PATH, PATH + "?", PATH + "?a=b", ""])
def test_a_url_without_a_signature_is_unsigned(target):
    assert check(target) is Verdict.UNSIGNED


def test_the_repr_contains_no_secrets():
    assert "a/b+c" not in repr(presigner)
    assert "secret" not in repr(presigner)
