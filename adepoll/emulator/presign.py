"""Presigned URLs that look like S3's and break as S3's do: over the raw bytes, for an hour.

The parameters are those of "Authenticating Requests: Using Query Parameters (AWS Signature
Version 4)" in the Amazon S3 API reference; the signature is a plain HMAC over what has to stay as
it was, not the canonical request of AWS, since only this module ever checks it.
"""

import hashlib
import hmac
import time
from calendar import timegm
from enum import Enum
from typing import Final
from urllib.parse import quote, unquote

from attrs import field, frozen

LIFETIME: Final = 3_600
"""How long a URL is good for, in seconds."""

ANY_METHOD: Final = "*"
"""Presigns for every method."""

_SIGNATURE: Final = "X-Amz-Signature="
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"


class Verdict(Enum):
    """What a presigned URL is found to be."""

    VALID = "valid"
    UNSIGNED = "unsigned"
    ALTERED = "altered"
    EXPIRED = "expired"


@frozen(kw_only=True)
class Presigner:
    """Signs and checks URLs with one secret.

    Attributes:
        secret: The key of the HMAC.
        access_key: What `X-Amz-Credential` starts with; public.
        session_token: `X-Amz-Security-Token`, part of the query as temporary credentials have it.
    """

    secret: bytes = field(repr=False)
    access_key: str
    session_token: str = field(repr=False)

    def presign(self, *, origin: str, raw_path: str, now: float, method: str = "GET") -> str:
        """Give the URL of `raw_path` at `origin`, good for an hour from `now`.

        Args:
            origin: Scheme, host and port, as ``http://127.0.0.1:8080``.
            raw_path: The path as it goes over the wire, percent-encoded already.
            now: Unix seconds.
            method: The only method that the URL will be good for, as it is with S3; `ANY_METHOD`
                for the shared access signatures of other stores.
        """
        stamp = time.strftime(_DATE_FORMAT, time.gmtime(now))
        scope = f"{self.access_key}/{stamp[:8]}/us-east-2/s3/aws4_request"
        query = (
            "X-Amz-Algorithm=AWS4-HMAC-SHA256"
            f"&X-Amz-Credential={quote(scope, safe='')}"
            f"&X-Amz-Date={stamp}"
            f"&X-Amz-Expires={LIFETIME}"
            f"&X-Amz-Security-Token={quote(self.session_token, safe='')}"
            "&X-Amz-SignedHeaders=host"
        )
        host = origin.partition("://")[2]
        signature = self._sign(method, host, raw_path, query)
        return f"{origin}{raw_path}?{query}&{_SIGNATURE}{signature}"

    def check(self, *, method: str, host: str, raw_target: str, now: float) -> Verdict:
        """Judge a request.

        Args:
            method: Its method.
            host: Its `Host` header.
            raw_target: Path and query, exactly as they arrived.
            now: Unix seconds.
        """
        raw_path, _, raw_query = raw_target.partition("?")
        fields = raw_query.split("&")
        signatures = [part for part in fields if part.startswith(_SIGNATURE)]
        if not signatures:
            return Verdict.UNSIGNED
        query = "&".join(part for part in fields if not part.startswith(_SIGNATURE))
        given = signatures[0].removeprefix(_SIGNATURE).encode("utf-8", "surrogateescape")
        good = (self._sign(allowed, host, raw_path, query) for allowed in (method, ANY_METHOD))
        if len(signatures) > 1 or not any(hmac.compare_digest(given, s.encode()) for s in good):
            return Verdict.ALTERED
        return Verdict.EXPIRED if now > expires_at(raw_query) else Verdict.VALID

    def _sign(self, method: str, host: str, raw_path: str, query: str) -> str:
        signed = f"{method}\n{host}\n{raw_path}\n{query}"
        return hmac.new(
            self.secret, signed.encode("utf-8", "surrogateescape"), hashlib.sha256
        ).hexdigest()


def expires_at(raw_query: str) -> float:
    """Give the Unix second up to which a URL with this query, made by `Presigner`, is good."""
    fields = dict(part.split("=", 1) for part in raw_query.split("&"))
    signed = timegm(time.strptime(unquote(fields["X-Amz-Date"]), _DATE_FORMAT))
    return signed + int(fields["X-Amz-Expires"])
