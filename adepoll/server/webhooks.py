"""Verifies webhooks, and finds the job ids in them (Standard Webhooks 1.0.0, 2023).

A webhook is only a hint: it makes a watcher poll a job (`JobWatcher.poll_now`). The poll then finds
out the status of the job.
"""

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from adepoll.api.job_ids import is_job_id
from adepoll.api.json_text import loads
from adepoll.api.models import Json
from adepoll.common.redaction import Secret
from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import (
    ConfigurationError,
    MalformedAnswerError,
    WebhookVerificationError,
)

__all__ = ["Verifier", "WebhookVerifier", "job_ids_in"]

_ID: Final = "webhook-id"
_TIMESTAMP: Final = "webhook-timestamp"
_SIGNATURE: Final = "webhook-signature"
_PREFIX: Final = "whsec_"
_SHORTEST_SECRET: Final = 24  # bytes
_VISIBLE_ASCII: Final = re.compile(r"[\x21-\x7e]{1,1000}")
_SECONDS: Final = re.compile(r"[0-9]{1,15}")
_MAX_SIGNATURES: Final = 32
_MAX_CONTAINERS: Final = 10_000  # objects and arrays
_MAX_VALUES: Final = 20_000
_ID_KEYS: Final = ("job_id", "jobId", "run_id", "id")
# Keys of the objects in which `_ID_KEYS` are looked for. ``data`` comes first, so that ``job`` in
# ``data`` is found, too.
_NESTED: Final = ("data", "job")


class Verifier(Protocol):
    """Checks that a webhook is genuine: a `WebhookVerifier`, or an object of your own class."""

    def verify(self, headers: Mapping[str, str], body: bytes, *, now: float) -> None:
        """Raise `WebhookVerificationError` if a webhook is not genuine.

        The arguments are those of `WebhookVerifier.verify`.
        """


class WebhookVerifier(SafeRepr):
    """Checks that the sender of a webhook has the secret, and that the webhook is recent.

    A webhook that arrives twice is accepted twice, because polling a job twice does no harm. If
    your code does more with a webhook, it should remember each ``webhook-id``, and ignore a webhook
    with the same id. Remember an id for twice `tolerance` seconds, because a timestamp can be
    `tolerance` seconds in the past or in the future.
    """

    def __init__(
        self, secrets: str | bytes | Iterable[str | bytes], *, tolerance: float = 300.0
    ) -> None:
        """Create a verifier.

        Args:
            secrets: One secret, or several, each of which is accepted. With two secrets, you can
                replace the old one without losing a webhook. A secret is a text of ``whsec_`` and
                base64, or raw bytes. It must have at least 24 bytes, as Standard Webhooks requires.
            tolerance: Maximum seconds by which the timestamp of a webhook may be in the past or in
                the future.

        Raises:
            ConfigurationError: No secret was passed, or a secret is invalid.
            ValueError: `tolerance` is not a positive number.
        """
        several = [secrets] if isinstance(secrets, str | bytes | None) else secrets
        given: list[Secret[str | bytes]] = [Secret(secret) for secret in several]
        # If an error is raised below, an error tracker would record the secrets in local variables.
        del secrets, several
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise ValueError(f"tolerance must be a positive number, got {tolerance}")
        self._keys = [_key(secret) for secret in given]
        self._tolerance = tolerance
        if not self._keys:
            raise ConfigurationError("no webhook secret")

    def __repr__(self) -> str:
        """Return the number of secrets, not the secrets themselves."""
        return f"{type(self).__name__}({len(self._keys)} secrets, tolerance={self._tolerance:g})"

    def verify(self, headers: Mapping[str, str], body: bytes, *, now: float) -> None:
        """Raise if a webhook is not genuine.

        Args:
            headers: Headers of the request; upper and lower case of their names do not matter.
            body: Body of the request, unchanged.
            now: The present time in Unix seconds.

        Raises:
            WebhookVerificationError: No signature matches, a header is missing or invalid, or the
                timestamp is too old or in the future.
        """
        webhook_id = _header(headers, _ID)
        timestamp = _header(headers, _TIMESTAMP)
        signatures = _header(headers, _SIGNATURE).split(" ")
        if not _VISIBLE_ASCII.fullmatch(webhook_id):
            raise WebhookVerificationError(f"{_ID} is not visible ASCII text")
        if not _SECONDS.fullmatch(timestamp):
            raise WebhookVerificationError(f"{_TIMESTAMP} is not a number of seconds")
        if len(signatures) > _MAX_SIGNATURES:
            raise WebhookVerificationError(f"more than {_MAX_SIGNATURES} signatures")
        age = now - int(timestamp)
        if not age <= self._tolerance:
            raise WebhookVerificationError("the timestamp is too old")
        if not age >= -self._tolerance:
            raise WebhookVerificationError("the timestamp is in the future")
        signed = f"{webhook_id}.{timestamp}.".encode() + body
        encoded = [text.encode("utf-8", "replace") for text in signatures]
        # Every key is used, so that the time does not reveal which one matches.
        matches = [_has_signature(signed, encoded, key) for key in self._keys]
        if not any(matches):
            raise WebhookVerificationError("no signature matches")


def default_job_ids(event: Json) -> Iterable[Json]:
    """Return the values that can be job ids in a webhook, whose format is not documented.

    These are the values of the keys ``job_id``, ``jobId``, ``run_id`` and ``id``. The keys are
    looked for in the event, and in the objects at the keys ``data`` and ``job``. A value that is
    not a job id does no harm, because only jobs that are being watched are polled.
    """
    parts = [event]
    for name in _NESTED:
        parts += [part[name] for part in parts if isinstance(part, dict) and name in part]
    return [
        part[name] for part in parts if isinstance(part, dict) for name in _ID_KEYS if name in part
    ]


def job_ids_in(
    body: bytes,
    extract: Callable[[Json], Iterable[Json]] = default_job_ids,
    *,
    max_bytes: int = 2**20,
    max_ids: int = 1_000,
) -> tuple[str, ...]:
    """Return the job ids in a webhook, each once, in their order.

    Args:
        body: Body of the request.
        extract: Returns values of the parsed body that can be job ids, or a single such value.
            Values that are not valid job ids are left out. `default_job_ids` describes the default.
        max_bytes: Size of the largest body that is parsed, in bytes.
        max_ids: Maximum number of ids in one webhook. The body can also contain values that are not
            ids. In total, it may have 20,000 values, or twice `max_ids` if that is more.

    Raises:
        WebhookVerificationError: The body is not JSON, is too large, or has too many ids.
    """
    if len(body) > max_bytes:
        raise WebhookVerificationError(f"the body has more than {max_bytes} bytes")
    # Parsing a body with very many values would block the event loop.
    if body.count(b"{") + body.count(b"[") > _MAX_CONTAINERS:
        raise WebhookVerificationError(
            f"the body has more than {_MAX_CONTAINERS} objects and arrays"
        )
    if body.count(b",") > (most := max(_MAX_VALUES, 2 * max_ids)):
        raise WebhookVerificationError(f"the body has more than {most} values")
    try:
        event = loads(body)
    except MalformedAnswerError:
        raise WebhookVerificationError("the body is not JSON") from None
    values = extract(event)
    found: dict[str, None] = {}
    for value in [values] if isinstance(values, str) else values:
        if isinstance(value, str) and is_job_id(value):
            found[value] = None
        if len(found) > max_ids:
            raise WebhookVerificationError(f"the body has more than {max_ids} job ids")
    return tuple(found)


def _decoded(secret: object) -> bytes:
    """Return the bytes of a secret; empty if the secret is invalid."""
    if isinstance(secret, bytes):
        # With the prefix, these are not the bytes of the key, but the encoded text in base64.
        return b"" if secret.startswith(_PREFIX.encode()) else secret
    if not isinstance(secret, str) or not secret.startswith(_PREFIX):
        return b""  # it can be None, for a missing environment variable
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:  # not base64, or not ASCII
        return b""


def _key(secret: Secret[str | bytes]) -> Secret[bytes]:
    """Return the bytes of a secret; raise `ConfigurationError` if it is invalid or too short."""
    key = Secret(_decoded(secret.reveal()))
    if not key.reveal():
        raise ConfigurationError(
            "a webhook secret must be text of the form whsec_ and base64, or raw bytes"
        )
    if (size := len(key.reveal())) < _SHORTEST_SECRET:
        raise ConfigurationError(
            f"a webhook secret must have at least {_SHORTEST_SECRET} bytes, got {size}"
        )
    return key


def _has_signature(signed: bytes, signatures: Iterable[bytes], key: Secret[bytes]) -> bool:
    """Return True if one of the signatures is the right one.

    This function raises no error: an error tracker would record its variables, and the right
    signature of a forged webhook is a secret.
    """
    digest = hmac.new(key.reveal(), signed, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    # All signatures are compared, so that the time does not reveal which one matches.
    matches = [hmac.compare_digest(expected, signature) for signature in signatures]
    return any(matches)


def _header(headers: Mapping[str, str], name: str) -> str:
    """Return a header; raise `WebhookVerificationError` if it is missing or occurs twice."""
    values = [value for key, value in headers.items() if key.lower() == name]
    if len(values) != 1:
        raise WebhookVerificationError(f"{'more than one' if values else 'no'} {name} header")
    return values[0]
