"""A webhook is accepted if it is recent and signed with the secret; it yields only job ids."""

import base64
import contextlib
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.errors import AdePollError, ConfigurationError, WebhookVerificationError
from adepoll.server.webhooks import WebhookVerifier, job_ids_in

KEY = b"CaNaRy-key-of-24-bytes!!"
OTHER = b"another-key-of-24-bytes!"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = 1_750_000_000.0
BODY = '{"type":"job.completed","data":{"job_id":"job-1","name":"é"}}'.encode()


def sign(body=BODY, *, key=KEY, webhook_id="msg_1", at=NOW):
    signed = b".".join([webhook_id.encode(), str(int(at)).encode(), body])
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers_of(body=BODY, *, at=NOW, webhook_id="msg_1", signature=None, **options):
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": signature or sign(body, at=at, webhook_id=webhook_id, **options),
    }


def refuse(headers, body=BODY, *, secrets=SECRET, now=NOW, **options):
    """Return the reason of the refusal."""
    with pytest.raises(WebhookVerificationError) as caught:
        WebhookVerifier(secrets, **options).verify(headers, body, now=now)
    assert not caught.value.fatal
    assert not caught.value.transient
    return caught.value.reason


def accept(headers, body=BODY, *, secrets=SECRET, now=NOW, **options):
    assert WebhookVerifier(secrets, **options).verify(headers, body, now=now) is None


def test_a_signature_of_another_implementation_is_accepted():
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    accept(headers, b'{"test": 2432232314}', secrets=secret, now=1_614_265_330)


@given(st.binary(max_size=200), st.binary(min_size=24, max_size=64), st.integers(0, 10**10))
def test_a_signed_webhook_is_accepted_and_a_changed_one_is_refused(body, key, at):
    headers = headers_of(body, key=key, at=at)
    accept(headers, body, secrets=[key], now=at)
    refuse(headers, body + b" ", secrets=[key], now=at)
    refuse(headers, body, secrets=[key + b"x"], now=at)
    refuse({**headers, "webhook-id": "msg_2"}, body, secrets=[key], now=at)
    refuse({**headers, "webhook-timestamp": str(at + 1)}, body, secrets=[key], now=at)


def test_a_secret_may_be_text_or_bytes():
    accept(headers_of(), secrets=SECRET)
    accept(headers_of(), secrets=KEY)
    accept(headers_of(), secrets=iter([SECRET]))


def test_two_secrets_are_accepted_while_one_replaces_the_other():
    accept(headers_of(), secrets=[OTHER, SECRET])
    accept(headers_of(key=OTHER), secrets=[OTHER, SECRET])
    assert "signature" in refuse(headers_of(key=b"a third one"), secrets=[OTHER, SECRET])


def test_one_of_several_signatures_is_enough():
    good, wrong = sign(), sign(key=OTHER)
    accept(headers_of(signature=f"{wrong} v1a,AAAA {good} v2,AAAA"))
    assert "signature" in refuse(headers_of(signature=f"{wrong} v1a,{good[3:]}"))


@pytest.mark.parametrize(
    "signature", ["v1", "v1,", ",", " ", "v1,é", "v1,\ud800", sign()[3:], sign()[:-1], f"{sign()},"]
)
def test_an_invalid_signature_is_refused(signature):
    assert "signature" in refuse(headers_of(signature=signature))


def test_too_many_signatures_are_refused():
    accept(headers_of(signature=" ".join([sign(key=OTHER)] * 31 + [sign()])))
    assert "more than 32 signatures" in refuse(headers_of(signature=" ".join([sign()] * 33)))


@pytest.mark.parametrize("off", [-301, 301])
def test_a_timestamp_outside_the_tolerance_is_refused(off):
    reason = refuse(headers_of(at=NOW + off))
    assert reason == ("the timestamp is too old" if off < 0 else "the timestamp is in the future")
    accept(headers_of(at=NOW + off), tolerance=400)


@pytest.mark.parametrize("off", [-300, 300])
def test_a_timestamp_within_the_tolerance_is_accepted(off):
    accept(headers_of(at=NOW + off))


def test_a_second_delivery_is_accepted_within_the_tolerance_only():
    verifier = WebhookVerifier(SECRET)
    headers = headers_of()
    for _ in range(2):
        verifier.verify(headers, BODY, now=NOW + 299)
    with pytest.raises(WebhookVerificationError):
        verifier.verify(headers, BODY, now=NOW + 301)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -float("inf")])
def test_a_clock_that_is_not_a_finite_number_accepts_nothing(now):
    refuse(headers_of(), now=now)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_header_must_be_present_once_in_any_case(name):
    headers = headers_of()
    value = headers.pop(name)
    assert refuse(headers) == f"no {name} header"
    accept({**headers, name.upper(): value})
    accept({**headers, name.title(): value})
    assert refuse({**headers, name: value, name.title(): value}) == f"more than one {name} header"


@pytest.mark.parametrize("at", ["", "now", "-1", "1e9", "1.5", " 1750000000", "٣", "9" * 5_000])
def test_a_timestamp_must_be_a_whole_number_of_seconds(at):
    assert "timestamp" in refuse({**headers_of(), "webhook-timestamp": at})


@pytest.mark.parametrize("webhook_id", ["", " ", "é", "\ud800", "a\nb", "x" * 1_001])
def test_an_id_must_be_visible_ascii_text(webhook_id):
    assert "webhook-id" in refuse({**headers_of(), "webhook-id": webhook_id})


@pytest.mark.parametrize(
    "secrets",
    [
        "",
        [],
        "CaNaRy",
        "whsec_",
        "whsec_CaNaRy!",
        SECRET + "!",
        "whsec_CaNaRy_-é",
        " whsec_Q2FOYVJ5",
        b"",
        b"whsec_Q2FOYVJ5",
        "whsec_Q2FOYVJ5",
        b"CaNaRy-key-of-23-bytes!",
        [SECRET, ""],
        None,  # as from a missing environment variable
        [SECRET, None],
        bytearray(b"CaNaRy-key-of-more-than-24-bytes"),
    ],
)
def test_an_invalid_secret_is_refused_without_being_shown(secrets, all_text_of):
    with pytest.raises(ConfigurationError) as caught:
        WebhookVerifier(secrets)
    assert "CaNaRy" not in all_text_of(caught.value)
    assert "Q2FOYVJ5" not in all_text_of(caught.value)


@pytest.mark.parametrize("tolerance", [0, -1, float("nan"), float("inf")])
def test_a_tolerance_must_be_a_positive_number(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        WebhookVerifier(SECRET, tolerance=tolerance)


def test_neither_repr_nor_error_shows_a_secret_or_the_body(all_text_of):
    verifier = WebhookVerifier([SECRET, KEY])
    assert repr(verifier) == "WebhookVerifier(2 secrets, tolerance=300)"
    with pytest.raises(AdePollError) as caught:
        verifier.verify(headers_of(key=OTHER), BODY, now=NOW)
    text = all_text_of(caught.value)
    assert "CaNaRy" not in text
    assert SECRET not in text
    assert "job-1" not in text


# --- job ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "job_ids"),
    [
        ({"job_id": "a"}, ("a",)),
        ({"data": {"job_id": "a"}}, ("a",)),
        ({"job_id": "a", "data": {"job_id": "b"}}, ("a", "b")),
        ({"job_id": "a", "data": {"job_id": "a"}}, ("a",)),
        ({"job_id": "é"}, ("é",)),
        ({"job_id": "../etc"}, ()),
        ({"job_id": 7}, ()),
        ({"job_id": ["a"]}, ()),
        ({"data": "job_id"}, ()),
        ({"type": "job.completed", "id": "a"}, ("a",)),
        ({"jobId": "a"}, ("a",)),
        ({"run_id": "a"}, ("a",)),
        ({"id": "event", "data": {"id": "a"}}, ("event", "a")),
        ({"job": {"id": "a"}}, ("a",)),
        ({"data": {"job": {"jobId": "a"}}}, ("a",)),
        ({"data": {"job": {"id": 7, "run_id": "a"}}}, ("a",)),
        (["job_id"], ()),
        ("job_id", ()),
        (None, ()),
    ],
)
def test_job_ids_are_read_at_the_top_and_in_the_data(event, job_ids):
    assert job_ids_in(json.dumps(event).encode()) == job_ids


def test_a_custom_function_reads_job_ids_elsewhere():
    body = b'{"jobs":[{"id":"b"},{"id":"a"},{"id":"b"}],"id":"only"}'
    assert job_ids_in(body, lambda event: [job["id"] for job in event["jobs"]]) == ("b", "a")
    assert job_ids_in(body, lambda event: event["id"]) == ("only",)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 10_000, b'{"job_id":"a"}x', b"CaNaRy"])
def test_a_body_that_is_not_json_is_refused(body, all_text_of):
    with pytest.raises(WebhookVerificationError) as caught:
        job_ids_in(body)
    assert caught.value.reason == "the body is not JSON"
    assert "CaNaRy" not in all_text_of(caught.value)


def test_a_body_that_is_too_large_is_not_parsed():
    body = b'{"job_id":"a"}'
    assert job_ids_in(body, max_bytes=len(body)) == ("a",)
    with pytest.raises(WebhookVerificationError, match="more than 13 bytes"):
        job_ids_in(body, max_bytes=len(body) - 1)
    with pytest.raises(WebhookVerificationError, match="more than 10000 objects and arrays"):
        job_ids_in(b"[" + b"{}," * 10_000 + b"{}]")
    with pytest.raises(WebhookVerificationError, match="more than 20000 values"):
        job_ids_in(b"[" + b"1," * 20_001 + b"1]")
    many = json.dumps([f"j-{number}" for number in range(30_000)]).encode()
    assert len(job_ids_in(many, lambda event: event, max_ids=30_000)) == 30_000
    with pytest.raises(WebhookVerificationError, match="more than 2 job ids"):
        job_ids_in(body, lambda _: ["a", "b", "b", "c"], max_ids=2)
    assert job_ids_in(body, lambda _: ["a", "b", "b"], max_ids=2) == ("a", "b")


@given(st.binary(max_size=100))
def test_any_body_is_refused_or_yields_ids(body):
    with contextlib.suppress(WebhookVerificationError):
        assert all(isinstance(job_id, str) for job_id in job_ids_in(body))
