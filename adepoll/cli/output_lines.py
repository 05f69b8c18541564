"""What `watch` and `resume` print of one outcome: JSON for programs, a few words for people."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import evolve

from adepoll.api.job_ids import result_name
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.cli.running import shown
from adepoll.cli.standing import in_bytes, roughly
from adepoll.errors import InvalidJobIdError
from adepoll.journal.outcomes import Outcome, RecordedError

_STATUS_WIDTH: Final = len("unresolved")


def json_line(outcome: Outcome) -> str:
    """Give one line of JSON: the job as the service has it, and what became of its result.

    Where the result is in a file, or could not be had, the line has no `data`, and `result` or
    `error` instead; of an unresolved job it has the id and the error only.
    """
    job = outcome.snapshot
    if job is not None and outcome.file is None and outcome.error is None:
        return job.redacted().to_json()
    line: dict[str, object] = {"job_id": outcome.job_id}
    if job is not None:
        line |= json.loads(evolve(job, data=None).redacted().to_json())
        del line["data"]
    if outcome.file is not None:
        line["result"] = {
            "path": str(outcome.file.path),
            "bytes": outcome.file.bytes,
            "sha256": outcome.file.sha256,
        }
    if outcome.error is not None:
        line["error"] = str(outcome.error)
        line["error_kind"] = _kind_of(outcome)
    return json.dumps(line, separators=(",", ":"))


def text_line(outcome: Outcome) -> str:
    """Give one line for a person; nothing of the service is in it unescaped."""
    return "  ".join(part for part in _parts(outcome) if part)


def error_line(outcome: Outcome) -> str:
    """Give one line that says what went wrong, and with which job."""
    what = "unresolved" if outcome.snapshot is None else "result missed"
    text, job_id = str(outcome.error), shown(outcome.job_id)
    named = job_id in text or isinstance(outcome.error, InvalidJobIdError)
    return f"{what}: {text}" if named else f"{what}: {job_id}: {text}"


def _parts(outcome: Outcome) -> list[str]:
    job, file = outcome.snapshot, outcome.file
    status = "unresolved" if job is None else shown(job.status_text)
    parts = [status.ljust(_STATUS_WIDTH), shown(outcome.job_id)]
    if job is not None:
        parts += [_took(job), shown(job.failure_reason or "")]
        if not job.conforms:
            parts.append("does not conform to its schema")
    if file is not None:
        # The name is the job's, and stands there already.
        named = file.path.name == result_name(outcome.job_id)
        parts.append(f"{in_bytes(file.bytes)} in {_near(file.path.parent if named else file.path)}")
    if outcome.error is not None:
        text = str(outcome.error).removeprefix(f"job {shown(outcome.job_id)}: ")
        parts.append(text if job is None else f"result missed: {text}")
    return parts


def _took(job: JobSnapshot) -> str:
    metadata = job.metadata or (None if job.data is None else job.data.metadata)
    if metadata is None or job.status is not JobStatus.COMPLETED or metadata.duration_ms < 0:
        return ""
    return roughly(metadata.duration_ms / 1000)


def _near(path: Path) -> str:
    """Give the path as seen from here, where it is below."""
    with suppress(ValueError, OSError):  # it is not; or the folder we are in is gone
        path = path.relative_to(Path.cwd())
    return shown(str(path))


def _kind_of(outcome: Outcome) -> str:
    error = outcome.error
    return error.kind if isinstance(error, RecordedError) else type(error).__name__
