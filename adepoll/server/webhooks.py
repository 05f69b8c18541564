"""Webhooks that say that something has happened to jobs: who sent them, and which jobs they name.

By the Standard Webhooks specification (version 1.0.0, 2023). A webhook is a hint: it makes a
watcher poll a job now (`JobWatcher.poll_now`), and only what that poll finds counts. Imports codec,
jobids and below.
"""

import base64
import binascii
import hashlib
import hmac
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from adepoll.api.codec import loads
from adepoll.api.job_ids import is_job_id
from adepoll.api.models import Json
from adepoll.errors import (
    ConfigurationError,
    MalformedAnswerError,
    WebhookVerificationError,
)

_ID: Final = "webhook-id"
_TIMESTAMP: Final = "webhook-timestamp"
_SIGNATURE: Final = "webhook-signature"
_PREFIX: Final = "whsec_"
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,1000}")
_SECONDS: Final = re.compile(r"[0-9]{1,15}")
_MOST_SIGNATURES: Final = 32


class WebhookVerifier:
    """Tells whether a webhook was sent by one who has the secret, and a short while ago.

    One that is sent again within the tolerance is let pass: to nudge a watcher twice does no harm.
    Who does more with a webhook should remember each ``webhook-id`` for that long.
    """

    def __init__(
        self, secrets: str | bytes | Iterable[str | bytes], *, tolerance: float = 300.0
    ) -> None:
        """Make a verifier.

        Args:
            secrets: The secret, or several of which any is good, while one is replaced by another:
                as ``whsec_`` and base64, or the bytes themselves.
            tolerance: Most seconds between the timestamp and now, either way.

        Raises:
            ConfigurationError: There is no secret, or one that is none.
            ValueError: `tolerance` is no positive number.
        """
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise ValueError(f"tolerance must be a positive number, got {tolerance}")
        given = [secrets] if isinstance(secrets, str | bytes) else [*secrets]
        self._keys = [_key(secret) for secret in given]
        self._tolerance = tolerance
        if not self._keys:
            raise ConfigurationError("no webhook secret")

    def __repr__(self) -> str:
        """Tell how many secrets there are, and none of them."""
        return f"{type(self).__name__}({len(self._keys)} secrets, tolerance={self._tolerance:g})"

    def verify(self, headers: Mapping[str, str], body: bytes, *, now: float) -> None:
        """Let a webhook pass, or refuse it.

        Args:
            headers: Of the request; names in any case.
            body: Of the request, byte for byte.
            now: Unix seconds.

        Raises:
            WebhookRefusedError: It is not from one who has a secret, or too old or new.
        """
        webhook_id = _header(headers, _ID)
        timestamp = _header(headers, _TIMESTAMP)
        signatures = _header(headers, _SIGNATURE).split(" ")
        if not _VISIBLE.fullmatch(webhook_id):
            raise WebhookVerificationError(f"{_ID} cannot be read")
        if not _SECONDS.fullmatch(timestamp):
            raise WebhookVerificationError(f"{_TIMESTAMP} is no number of seconds")
        if len(signatures) > _MOST_SIGNATURES:
            raise WebhookVerificationError("it has too many signatures")
        age = now - int(timestamp)
        if not age <= self._tolerance:
            raise WebhookVerificationError("it is too old")
        if not age >= -self._tolerance:
            raise WebhookVerificationError("it is from the future")
        signed = f"{webhook_id}.{timestamp}.".encode() + body
        given = [text.encode("utf-8", "replace") for text in signatures]
        is_good = False
        for key in self._keys:
            digest = hmac.new(key, signed, hashlib.sha256).digest()
            expected = b"v1," + base64.b64encode(digest)
            for signature in given:  # all of them: which one is good is nobody's business
                is_good |= hmac.compare_digest(expected, signature)
        if not is_good:
            raise WebhookVerificationError("no signature of it is right")


def default_job_ids(event: Json) -> Iterable[Json]:
    """Give what stands as ``job_id`` in an event, and in its ``data``."""
    data = event.get("data") if isinstance(event, dict) else None
    return [part["job_id"] for part in (event, data) if isinstance(part, dict) and "job_id" in part]


def job_ids_in(
    body: bytes,
    extract: Callable[[Json], Iterable[Json]] = default_job_ids,
    *,
    max_bytes: int = 2**20,
    max_ids: int = 1_000,
) -> tuple[str, ...]:
    """Find the jobs that a webhook names, each once, in their order.

    Args:
        body: Of the request.
        extract: Gives what may be job ids, or a single one, of the parsed body; `default_job_ids`
            takes ``job_id`` from it and from its ``data``. What is none is left out.
        max_bytes: Largest body that is looked into.
        max_ids: Most ids that are taken.

    Raises:
        WebhookRefusedError: It is no JSON, too large or names too many.
    """
    if len(body) > max_bytes:
        raise WebhookVerificationError(f"it has more than {max_bytes} bytes")
    try:
        event = loads(body)
    except MalformedAnswerError:
        raise WebhookVerificationError("it is no JSON") from None
    values = extract(event)
    found: dict[str, None] = {}
    for value in [values] if isinstance(values, str) else values:
        if isinstance(value, str) and is_job_id(value):
            found[value] = None
        if len(found) > max_ids:
            raise WebhookVerificationError(f"it names more than {max_ids} jobs")
    return tuple(found)


def _key(secret: str | bytes) -> bytes:
    if isinstance(secret, str):
        head, prefix, text = secret.partition(_PREFIX)
        try:
            key = base64.b64decode(text, validate=True) if prefix and not head else b""
        except (binascii.Error, ValueError):
            key = b""
    else:
        key = b"" if secret.startswith(_PREFIX.encode()) else secret
    # Raised out here: what could not be decoded must not hang on ours.
    if not key:
        raise ConfigurationError(
            "a webhook secret must be whsec_ and base64 as text, or the bytes themselves"
        )
    return key


def _header(headers: Mapping[str, str], name: str) -> str:
    values = [value for key, value in headers.items() if key.lower() == name]
    if len(values) != 1:
        raise WebhookVerificationError(f"{'more than one' if values else 'no'} {name}")
    return values[0]
