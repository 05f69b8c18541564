"""Presigned URLs like those of S3. Does no I/O.

A URL is valid for one hour, and only if no byte of it is changed.

The parameters are those of "Authenticating Requests: Using Query Parameters (AWS Signature Version
4)" in the Amazon S3 API reference. The signature is simpler than that of AWS: an HMAC of method,
host, path and query. Only this module checks it.
"""

import hashlib
import hmac
import random
import time
from calendar import timegm
from enum import Enum
from typing import Final, Self
from urllib.parse import quote, unquote

from attrs import field, frozen

LIFETIME: Final = 3_600
"""Seconds for which a URL is valid."""

ANY_METHOD: Final = "*"
"""A value of `method` in `Presigner.presign`: the URL is valid for every HTTP method."""

_SIGNATURE: Final = "X-Amz-Signature="
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"


class Verdict(Enum):
    """The result of checking a presigned URL."""

    VALID = "valid"
    UNSIGNED = "unsigned"
    ALTERED = "altered"
    EXPIRED = "expired"


@frozen(kw_only=True)
class Presigner:
    """Signs and checks URLs with one secret.

    Attributes:
        secret: Key of the HMAC.
        access_key: First part of `X-Amz-Credential`; it is not secret.
        session_token: Value of `X-Amz-Security-Token`, which S3 uses for temporary credentials.
    """

    secret: bytes = field(repr=False)
    access_key: str
    session_token: str = field(repr=False)

    @classmethod
    def seeded(cls, seed: str) -> Self:
        """Return a presigner with secrets drawn from a seed. The secrets protect no real data."""
        rng = random.Random(seed)  # noqa: S311 - as the docstring says
        return cls(
            secret=rng.randbytes(32),
            access_key=f"ASIA{rng.getrandbits(64):016X}",
            session_token=f"{rng.getrandbits(256):064x}/+==",
        )

    def presign(self, *, origin: str, raw_path: str, now: float, method: str = "GET") -> str:
        """Return a URL of `raw_path` at `origin` that is valid for one hour from `now`.

        Args:
            origin: Scheme, host and port, for example ``http://127.0.0.1:8080``.
            raw_path: Percent-encoded path.
            now: Unix seconds.
            method: HTTP method for which the URL is valid. S3 allows one method per URL;
                `ANY_METHOD` allows all, as shared access signatures of other vendors do.
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
        """Check the signature of a request.

        Args:
            method: HTTP method.
            host: `Host` header.
            raw_target: Path and query, exactly as received.
            now: Unix seconds.
        """
        raw_path, _, raw_query = raw_target.partition("?")
        fields = raw_query.split("&")
        signatures = [part for part in fields if part.startswith(_SIGNATURE)]
        if not signatures:
            return Verdict.UNSIGNED
        query = "&".join(part for part in fields if not part.startswith(_SIGNATURE))
        signature = signatures[0].removeprefix(_SIGNATURE).encode("utf-8", "surrogateescape")
        valid = (self._sign(allowed, host, raw_path, query) for allowed in (method, ANY_METHOD))
        if len(signatures) > 1 or not any(
            hmac.compare_digest(signature, s.encode()) for s in valid
        ):
            return Verdict.ALTERED
        return Verdict.EXPIRED if now > expires_at(raw_query) else Verdict.VALID

    def _sign(self, method: str, host: str, raw_path: str, query: str) -> str:
        """Return the signature (an HMAC) of a request with this method, host, path and query."""
        signed = f"{method}\n{host}\n{raw_path}\n{query}"
        return hmac.new(
            self.secret, signed.encode("utf-8", "surrogateescape"), hashlib.sha256
        ).hexdigest()


def expires_at(raw_query: str) -> float:
    """Return the Unix time at which a URL of `Presigner` expires, given the query of the URL."""
    fields = dict(part.split("=", 1) for part in raw_query.split("&"))
    signed = timegm(time.strptime(unquote(fields["X-Amz-Date"]), _DATE_FORMAT))
    return signed + int(fields["X-Amz-Expires"])
