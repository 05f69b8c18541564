"""Jobs and results in the very form that is documented, read without a converter. Imports models.

Whatever differs from that form in anything gives None, and is for `wire` to read by its converter,
which makes the same of the rest. But this is what every look has to pay, and a fraction of that.
The JSON has been parsed, so that all numbers in it are finite.
"""

from typing import Final, TypeAlias

import attrs

from adepoll.api.models import (
    ExtractMetadata,
    ExtractResult,
    ExtractWarning,
    JobSnapshot,
    JobStatus,
    Json,
    from_timestamp,
)

_Object: TypeAlias = dict[str, Json]

_JOB_FIELDS: Final = 11
_RESULT_FIELDS: Final = 3
_METADATA_FIELDS: Final = frozenset({f.name for f in attrs.fields(ExtractMetadata)} - {"extra"})
_REQUIRED_METADATA: Final = sum(f.default is attrs.NOTHING for f in attrs.fields(ExtractMetadata))
_WARNING_FIELDS: Final = frozenset({"code", "msg"})
_LARGE: Final = 2**53  # a whole number below it surely fits a float


def read_job(raw: _Object) -> JobSnapshot | None:  # noqa: PLR0911 - one return a difference
    """Read the answer to a GET of one job, of which no field may be missing."""
    if len(raw) != _JOB_FIELDS:
        return None
    try:
        job_id, text, progress = raw["job_id"], raw["status"], raw["progress"]
        received, created = raw["received_at"], raw["created_at"]
        data, metadata = raw["data"], raw["metadata"]
        org_id, version = raw["org_id"], raw["version"]
        output_url, failure_reason = raw["output_url"], raw["failure_reason"]
    except KeyError:
        return None
    if not (
        type(job_id) is type(text) is str
        and type(received) is type(created) is int
        and (type(progress) is float or (type(progress) is int and -_LARGE < progress < _LARGE))
        and (org_id is None or type(org_id) is str)
        and (version is None or type(version) is str)
        and (output_url is None or type(output_url) is str)
        and (failure_reason is None or type(failure_reason) is str)
    ):
        return None
    result = about = None
    if data is not None and (result := read_result(data)) is None:
        return None
    if result is not None and data["metadata"] == metadata:
        about = result.metadata  # which is told twice
    elif metadata is not None and (about := read_metadata(metadata)) is None:
        return None
    try:
        received_at = from_timestamp(received)
        same = created == received
        # The service writes 0 for "not known".
        created_at = None if not created else received_at if same else from_timestamp(created)
    except OverflowError:
        return None
    return JobSnapshot(
        job_id=job_id,
        status=JobStatus.parse(text),
        status_text=text,
        received_at=received_at,
        progress=float(progress),
        created_at=created_at,
        org_id=org_id,
        version=version,
        data=result,
        output_url=output_url,
        metadata=about,
        failure_reason=failure_reason,
    )


def read_result(raw: Json) -> ExtractResult | None:
    """Read a result."""
    if type(raw) is not dict or len(raw) != _RESULT_FIELDS:
        return None
    try:
        extraction, chunks = raw["extraction"], raw["extraction_metadata"]
        metadata = read_metadata(raw["metadata"])
    except KeyError:
        return None
    if metadata is None:
        return None
    return ExtractResult(extraction=extraction, extraction_metadata=chunks, metadata=metadata)


def read_metadata(raw: Json) -> ExtractMetadata | None:
    """Read what is told of an extraction; the optional fields may be missing, or null."""
    if type(raw) is not dict:
        return None
    violation = fallback = None
    warnings: tuple[ExtractWarning, ...] = ()
    if len(raw) != _REQUIRED_METADATA:
        violation, fallback = raw.get("schema_violation_error"), raw.get("fallback_model_version")
        told = _read_warnings(raw.get("warnings", []))
        if told is None or not raw.keys() <= _METADATA_FIELDS:
            return None
        warnings = told
    try:
        filename, job_id, duration = raw["filename"], raw["job_id"], raw["duration_ms"]
        org_id, version, credit = raw["org_id"], raw["version"], raw["credit_usage"]
    except KeyError:
        return None
    if not (
        type(filename) is type(job_id) is str
        and type(duration) is int
        and -_LARGE < duration < _LARGE
        and (type(credit) is float or (type(credit) is int and -_LARGE < credit < _LARGE))
        and (org_id is None or type(org_id) is str)
        and (version is None or type(version) is str)
        and (violation is None or type(violation) is str)
        and (fallback is None or type(fallback) is str)
    ):
        return None
    return ExtractMetadata(
        filename=filename,
        org_id=org_id,
        duration_ms=duration,
        credit_usage=float(credit),
        job_id=job_id,
        version=version,
        schema_violation_error=violation,
        fallback_model_version=fallback,
        warnings=warnings,
    )


def _read_warnings(raw: Json) -> tuple[ExtractWarning, ...] | None:
    if type(raw) is not list:
        return None
    warnings = []
    for item in raw:
        if type(item) is not dict or not item.keys() <= _WARNING_FIELDS:
            return None
        code, msg = item.get("code"), item.get("msg")
        if type(msg) is not str or not (code is None or type(code) is str):
            return None
        warnings.append(ExtractWarning(code=code, msg=msg))
    return tuple(warnings)
