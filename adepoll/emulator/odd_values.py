"""Odd values that real answers contain, or that the service's own description allows. No I/O."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from adepoll.api.models import Json


class OddValue(Enum):
    """Something unusual in all answers about a job and in its result. Clients must accept it.

    Most odd values concern one field, and change only answers that have this field. For example,
    `MISSING_ORG_ID` changes no answer about a v2 job. `RESULT_FIRST` moves the result before all
    other fields. `EARLY_URL` stores even a small result of a v1 job behind `output_url`.
    """

    UPPER_CASE_STATUS = "upper-case-status"
    MILLISECOND_TIMES = "millisecond-times"
    EPOCH_TIMES = "epoch-times"
    TEXT_TIMES = "text-times"
    ISO_TIMES = "iso-times"
    NULL_TIMES = "null-times"
    MISSING_TIMES = "missing-times"
    NULL_PROGRESS = "null-progress"
    MISSING_PROGRESS = "missing-progress"
    MISSING_ORG_ID = "missing-org-id"
    NULL_FILENAME = "null-filename"
    FRACTIONAL_DURATION = "fractional-duration"
    NULL_WARNINGS = "null-warnings"
    OBJECT_WARNINGS = "object-warnings"
    TEXT_ERROR = "text-error"
    RESULT_FIRST = "result-first"
    EARLY_URL = "early-url"


_TIMES: Final = ("received_at", "created_at", "completed_at")
_OBJECT_WARNINGS: Final[Json] = [{"message": "page 2 is rotated", "pages": [2]}, {}]


def odd_envelope(
    body: dict[str, Json], odd: Collection[OddValue], moments: Mapping[str, float]
) -> dict[str, Json]:
    """Return a copy of the JSON of a job in which values have the unusual forms `odd`.

    Args:
        body: The fields of a job, or of its item in the list.
        odd: The unusual forms of values.
        moments: The times in `body`, in Unix seconds, by the name of the field.
    """
    if not odd:
        return body
    body = dict(body)
    for name in _TIMES:
        if name in body and body[name] is not None:
            body[name] = _odd_time(body[name], odd, moments[name])
    if OddValue.MISSING_TIMES in odd:
        _drop(body, *_TIMES)
    if OddValue.UPPER_CASE_STATUS in odd:
        body["status"] = str(body["status"]).upper()
    if OddValue.NULL_PROGRESS in odd and "progress" in body:
        body["progress"] = None
    if OddValue.MISSING_PROGRESS in odd:
        _drop(body, "progress")
    if OddValue.MISSING_ORG_ID in odd:
        _drop(body, "org_id")
    if OddValue.TEXT_ERROR in odd and isinstance(error := body.get("error"), dict):
        # Older answers about v2 parse jobs had the text in this field.
        del body["error"]
        body["failure_reason"] = error["message"]
    return body


def odd_metadata(metadata: dict[str, Json], odd: Collection[OddValue]) -> dict[str, Json]:
    """Return a copy of the metadata of a result in which values have the unusual forms `odd`."""
    if not odd:
        return metadata
    metadata = dict(metadata)
    if OddValue.MISSING_ORG_ID in odd:
        _drop(metadata, "org_id")
    if OddValue.NULL_FILENAME in odd and "filename" in metadata:
        metadata["filename"] = None
    if OddValue.FRACTIONAL_DURATION in odd:
        metadata["duration_ms"] += 0.5
    if "warnings" in metadata:
        metadata["warnings"] = odd_warnings(metadata["warnings"], odd)
    return metadata


def odd_warnings(warnings: Json, odd: Collection[OddValue]) -> Json:
    """Return the warnings of a result, in an unusual form if `odd` contains one for warnings."""
    if OddValue.NULL_WARNINGS in odd:
        return None
    return _OBJECT_WARNINGS if OddValue.OBJECT_WARNINGS in odd else warnings


def _odd_time(value: Json, odd: Collection[OddValue], moment: float) -> Json:
    """Return a time in an unusual form if `odd` contains one for times; otherwise `value`.

    `moment` is the same time in Unix seconds.
    """
    if OddValue.NULL_TIMES in odd:
        return None
    if OddValue.MILLISECOND_TIMES in odd:
        return int(moment * 1_000)
    if OddValue.EPOCH_TIMES in odd:
        return int(moment)
    if OddValue.TEXT_TIMES in odd:
        return str(int(moment))
    if OddValue.ISO_TIMES in odd:
        return iso_time(moment)
    return value


def iso_time(moment: float) -> str:
    """Return Unix seconds as ISO 8601 text with microseconds, in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")


def _drop(fields: dict[str, Json], *names: str) -> None:
    for name in names:
        fields.pop(name, None)
