"""What each vendor of storage answers to a refused URL, and what follows from it."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.errors import (
    ResultExpiredError,
    ResultForbiddenError,
    ResultRefusedError,
    ResultServerError,
)
from adepoll.fetcher.storage_rules import Timing, error_for, timing_of, validity_of

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def policy(*conditions, **times):
    """Return a custom policy of CloudFront with these times, as its URLs contain it."""
    statements = [
        {
            "Resource": "*",
            "Condition": {
                name: {"AWS:EpochTime": int(time.timestamp())} for name, time in condition.items()
            },
        }
        for condition in conditions or [times]
    ]
    text = json.dumps({"Statement": statements}).encode()
    return base64.b64encode(text).decode().translate(str.maketrans("+=/", "-_~"))


HOUR = 3600
DAY = timedelta(days=1)
BEFORE, AFTER = (datetime.fromtimestamp(NOW.timestamp() + shift, UTC) for shift in (-60, 60))
S3 = "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={}&X-Amz-Expires={}"
VALID = S3.format("20261129T115900Z", HOUR)
STALE = S3.format("20261129T105900Z", HOUR)
EARLY = S3.format("20261129T120100Z", HOUR)
V2 = "https://b.s3.amazonaws.com/k?AWSAccessKeyId=A&Signature=s&Expires={:.0f}"
GOOGLE = "https://storage.googleapis.com/b/k?X-Goog-Date={}&X-Goog-Expires=3600&X-Goog-Signature=s"
AZURE = "https://a.blob.core.windows.net/c/k?st={}&se={}&sig=s"
OSS = "https://b.oss-cn-hangzhou.aliyuncs.com/k?x-oss-date={}&x-oss-expires=3600"
CLOUDFRONT = "https://d.cloudfront.net/k?Policy={}&Signature=s&Key-Pair-Id=K"


def xml(code, message=None, detail=""):
    said = "" if message is None else f"<Message>{message}</Message>"
    return f"<?xml version='1.0'?><Error><Code>{code}</Code>{said}{detail}</Error>".encode()


def azure_detail(start, expiry, *, key=False):
    now = "Current [Sun, 29 Nov 2026 12:00:00 GMT]"
    times = f"Start [{start}] - Expiry [{expiry}] - {now}"
    if key:  # that of the user, with which the URL was signed
        times = f"Key start [{start}] - Key expiry [{expiry}] - {now}"
    return (
        f"<AuthenticationErrorDetail>Signature not valid in the specified {'key ' * key}time "
        f"frame: {times}</AuthenticationErrorDetail>"
    )


DENIED = xml("AccessDenied", "Access Denied")
AZURE_SAYS = "Server failed to authenticate the request."
ANSWERS = {
    # S3 and what behaves like it
    "S3 expired": (VALID, 403, xml("AccessDenied", "Request has expired"), ResultExpiredError),
    "S3 token": (
        VALID,
        400,
        xml("ExpiredToken", "The provided token has expired."),
        ResultExpiredError,
    ),
    "S3 early": (VALID, 403, xml("AccessDenied", "Request is not yet valid"), ResultServerError),
    "S3 skewed": (VALID, 403, xml("RequestTimeTooSkewed", "The difference"), ResultServerError),
    "S3 altered": (VALID, 403, xml("SignatureDoesNotMatch", "The request"), ResultForbiddenError),
    "S3 forbidden": (VALID, 403, DENIED, ResultForbiddenError),
    "S3 forbidden, and the name of the object is a word of the rules": (
        VALID,
        403,
        xml("AccessDenied", "Access Denied", "<Resource>/b/expired/not yet valid</Resource>"),
        ResultForbiddenError,
    ),
    "S3 token, other words": (
        VALID,
        400,
        xml("TokenRefreshRequired", "The provided token must be refreshed."),
        ResultExpiredError,
    ),
    "S3 idle": (VALID, 400, xml("RequestTimeout", "Your socket"), ResultServerError),
    "S3 bad query": (
        VALID,
        400,
        xml("AuthorizationQueryParametersError", "X-Amz-Expires must be"),
        ResultForbiddenError,
    ),
    "S3 slow down": (VALID, 503, xml("SlowDown", "Please reduce"), ResultServerError),
    "S3 internal": (VALID, 500, xml("InternalError", "We"), ResultServerError),
    "unknown": (VALID, 499, b"", ResultRefusedError),
    "invalid, low": (VALID, 99, b"", ResultServerError),  # as 5xx (RFC 9110, section 15)
    "invalid, high": (VALID, 600, b"", ResultServerError),
    "S3 missing": (VALID, 404, xml("NoSuchKey", "The specified key"), ResultRefusedError),
    "S3 version 2": (V2.format(BEFORE.timestamp()), 403, DENIED, ResultExpiredError),
    "S3 version 2, valid": (V2.format(AFTER.timestamp()), 403, DENIED, ResultForbiddenError),
    "S3 quotes an object": (
        S3.replace("/k?", "/b/Expired%20jobs.json?").format("20261129T115900Z", HOUR),
        403,
        xml("AccessDenied", "No access to b/Expired jobs.json"),
        ResultForbiddenError,
    ),
    "JSON expired": (VALID, 403, b'{"message":"Request has expired"}', ResultExpiredError),
    "JSON with a resource": (
        VALID,
        403,
        b'{"error":{"code":403,"message":"No \\"access\\"","resource":"/b/expired.json"}}',
        ResultForbiddenError,
    ),
    "JSON quotes an object": (
        S3.replace("/k?", "/b/expired.json?").format("20261129T115900Z", HOUR),
        403,
        b'{"detail":"No access to b/expired.json"}',
        ResultForbiddenError,
    ),
    "JSON quotes a folder": (
        S3.replace("/k?", "/b/expired/a.json?").format("20261129T115900Z", HOUR),
        403,
        b'{"detail":"No access to b/expired/a.json"}',
        ResultForbiddenError,
    ),
    "JSON of a folder and expired": (
        S3.replace("/k?", "/b/expired/a.json?").format("20261129T115900Z", HOUR),
        403,
        b'{"detail":"It has expired: /b/expired/a.json"}',
        ResultExpiredError,
    ),
    "JSON of an object and expired": (
        S3.replace("/k?", "/b/expired.json?").format("20261129T115900Z", HOUR),
        403,
        b'{"detail":"The URL of b/expired.json has expired"}',
        ResultExpiredError,
    ),
    "R2 expired": (VALID, 403, xml("ExpiredRequest", "Request has expired"), ResultExpiredError),
    "R2 throttled": (VALID, 429, b"error code: 1015", ResultServerError),
    "MinIO early": (
        VALID,
        403,
        xml("RequestNotReadyYet", "Request is not valid yet"),
        ResultServerError,
    ),
    "Ceph expired": (STALE, 403, xml("AccessDenied"), ResultExpiredError),
    "Ceph early": (EARLY, 403, xml("AccessDenied"), ResultServerError),
    "Ceph forbidden": (VALID, 403, xml("AccessDenied"), ResultForbiddenError),
    "OSS expired": (
        OSS.format("20261129T105900Z"),
        403,
        xml("AccessDenied", "Request has expired."),
        ResultExpiredError,
    ),
    "OSS by its URL": (OSS.format("20261129T105900Z"), 403, DENIED, ResultExpiredError),
    "OSS throttled": (VALID, 503, xml("DownloadTrafficRateLimitExceeded"), ResultServerError),
    # Google
    "GCS expired": (
        GOOGLE.format("20261129T115900Z"),
        400,
        xml(
            "ExpiredToken",
            "The provided token has expired.",
            "<Details>Request signature</Details>",
        ),
        ResultExpiredError,
    ),
    "GCS by its URL": (GOOGLE.format("20261129T105900Z"), 400, b"", ResultExpiredError),
    "GCS altered": (
        GOOGLE.format("20261129T115900Z"),
        403,
        xml("SignatureDoesNotMatch", "Access denied."),
        ResultForbiddenError,
    ),
    # Azure
    "Azure expired": (
        AZURE.format("2026-11-29T10:00:00Z", "2026-11-29T11:00:00Z"),
        403,
        xml(
            "AuthenticationFailed",
            AZURE_SAYS,
            azure_detail("Sun, 29 Nov 2026 10:00:00 GMT", "Sun, 29 Nov 2026 11:00:00 GMT"),
        ),
        ResultExpiredError,
    ),
    "Azure key expired": (
        AZURE.format("2026-11-29T10:00:00Z", "2026-11-29T14:00:00Z"),
        403,
        xml(
            "AuthenticationFailed",
            AZURE_SAYS,
            azure_detail("Sun, 29 Nov 2026 10:00:00 GMT", "Sun, 29 Nov 2026 11:00:00 GMT", key=1),
        ),
        ResultExpiredError,
    ),
    "Azure early": (
        AZURE.format("2026-11-29T13:00:00Z", "2026-11-29T14:00:00Z"),
        403,
        xml(
            "AuthenticationFailed",
            AZURE_SAYS,
            azure_detail("Sun, 29 Nov 2026 13:00:00 GMT", "Sun, 29 Nov 2026 14:00:00 GMT"),
        ),
        ResultServerError,
    ),
    "Azure altered": (
        AZURE.format("2026-11-29T10:00:00Z", "2026-11-29T14:00:00Z"),
        403,
        xml("AuthenticationFailed", AZURE_SAYS, "<AuthenticationErrorDetail>Signature did not"),
        ResultForbiddenError,
    ),
    "Azure busy": (VALID, 503, xml("ServerBusy", "The server is busy."), ResultServerError),
    "Azure by its URL": (
        AZURE.format("2026-11-28", "2026-11-29T11:00Z"),
        403,
        b"",
        ResultExpiredError,
    ),
    # A storage behind a proxy, or with answers of its own
    "text expired": (VALID, 403, b"Request has Expired", ResultExpiredError),
    "text early": (VALID, 403, b"The URL is Not Valid Yet", ResultServerError),
    "text forbidden": (VALID, 403, b"Forbidden", ResultForbiddenError),
    # CloudFront
    "CloudFront expired": (
        CLOUDFRONT.format(policy(DateLessThan=BEFORE)),
        403,
        DENIED,
        ResultExpiredError,
    ),
    "CloudFront early": (
        CLOUDFRONT.format(policy(DateGreaterThan=AFTER, DateLessThan=AFTER)),
        403,
        DENIED,
        ResultServerError,
    ),
    "CloudFront forbidden": (
        CLOUDFRONT.format(policy(DateLessThan=AFTER)),
        403,
        DENIED,
        ResultForbiddenError,
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_a_storage_answers_decides_what_follows(case):
    url, status, body, expected = ANSWERS[case]
    error = error_for("job-1", url, status, body, now=NOW)
    assert type(error) is expected
    assert error.status == status
    assert error.transient == (expected is ResultServerError)


NOON = "Sun, 29 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("start", "current", "timing"),
    [
        (NOON, "Sun, 29 Nov 2026 11:59:59 GMT", Timing.TOO_EARLY),
        (NOON, NOON, Timing.EXPIRED),
        ("soon", NOON, Timing.EXPIRED),
        (NOON, "now", Timing.EXPIRED),
    ],
)
def test_a_url_of_azure_is_early_before_the_start_that_the_answer_names(start, current, timing):
    times = f"Start [{start}] - Expiry [{NOON}] - Current [{current}]"
    body = f"Signature not valid in the specified time frame: {times}".encode()
    assert timing_of("https://h/k", body, NOW) is timing
    assert timing_of("https://h/k", body.partition(b":")[0], NOW) is Timing.EXPIRED


@pytest.mark.parametrize(
    ("url", "start", "end"),
    [
        (VALID, NOW - timedelta(seconds=60), NOW + timedelta(seconds=HOUR - 60)),
        (AZURE.format("2026-11-28", "2026-11-29T13:00Z"), NOW - 1.5 * DAY, NOW + DAY / 24),
        ("https://h/k?se=2026-11-29T13:00Z&sig=s", None, NOW + DAY / 24),
        ("https://h/k?se=2026-11-29T13:00Z", None, None),
        (V2.format(AFTER.timestamp()) + "&sig=s", None, AFTER),
        (CLOUDFRONT.format(policy(DateGreaterThan=BEFORE)), BEFORE, None),
        (CLOUDFRONT.format(policy({"DateLessThan": AFTER}, {"DateLessThan": NOW})), None, AFTER),
        (V2.format(AFTER.timestamp()), None, AFTER),
    ],
)
def test_a_url_says_when_it_is_valid(url, start, end):
    assert validity_of(url) == (start, end)


def test_a_url_is_valid_from_its_start_until_before_its_end():
    for seconds, timing in (
        (-1, Timing.TOO_EARLY),
        (0, Timing.OTHER),
        (HOUR - 1, Timing.OTHER),
        (HOUR, Timing.EXPIRED),
    ):
        now = NOW - timedelta(seconds=60 - seconds)
        assert timing_of(VALID, b"", now) is timing


def test_a_name_within_a_longer_name_does_not_hide_it():
    url = VALID.replace("/k?", "/xexpired/xexpired-expired?")
    assert timing_of(url, b'{"detail":"No access to xexpired-expired"}', NOW) is Timing.OTHER


@given(
    st.sampled_from(["X-Amz-Date", "X-Amz-Expires", "Expires", "se", "st", "sig", "Policy"]),
    st.text() | st.sampled_from(["e30=", "W10=", "99999999999999999999", "20261129T120000Z", "-1"]),
    st.text(),
)
def test_no_url_is_too_odd(name, value, other):
    """A URL that no vendor writes has no known times."""
    url = f"https://h/k?{name}={value}&X-Amz-Date={other}&sig=1"
    assert len(validity_of(url)) == 2
    error_for("job-1", url, 403, b"", now=NOW)


@pytest.mark.parametrize("slash", ["/", "%2F", "%2f", "%252F"])
def test_a_secret_of_the_url_is_redacted_in_any_encoding(slash):
    url = "https://h/o?X-Amz-Security-Token=CaNaRy0123456789%2FabCDef"
    said = f"<Message>bad CaNaRy0123456789{slash}abCDef here</Message>"
    error = error_for("job-1", url, 403, said.encode(), now=NOW)
    assert error.detail == "bad REDACTED here"
