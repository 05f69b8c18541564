"""The line that `watch` and `resume` print for one outcome: JSON, or text on a terminal."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from adepoll import InvalidJobIdError, JobSnapshot, JobStatus, JobSummary, Outcome
from adepoll.api.file_names import result_name
from adepoll.cli.batch_state import counted, format_bytes, format_duration
from adepoll.cli.messages import shown, text_of
from adepoll.journal.outcomes import error_class_of

_STATUS_WIDTH: Final = len("unresolved")


def json_line(outcome: Outcome) -> str:
    """Return one line of JSON: the job as the service describes it, and its result or error.

    If the result is in a file, the line has the key "result" in place of "data". If the result
    could not be fetched, the line has the keys "error" and "error_kind" in place of "data". The
    line of an unresolved job has the id, the kind, the label, and these two keys. The key "columns"
    has the columns of a CSV file that are not id, kind or label.
    """
    job = outcome.snapshot
    columns = {"columns": dict(outcome.columns)} if outcome.columns else {}
    if job is not None and outcome.file is None and outcome.error is None:
        text = job.redacted().to_json()
        if not columns:
            return text
        return f"{text[:-1]},{json.dumps(columns, separators=(',', ':'))[1:]}"
    line: dict[str, object] = {"job_id": outcome.job_id, "kind": outcome.kind.name}
    if outcome.label is not None:
        line["label"] = outcome.label
    if job is not None:
        line |= json.loads(job.without_data().redacted().to_json())
        del line["data"]
    if outcome.file is not None:
        line["result"] = {
            "path": str(outcome.file.path),
            "bytes": outcome.file.bytes,
            "sha256": outcome.file.sha256,
        }
    if outcome.error is not None:
        line["error"] = text_of(outcome.error)
        line["error_kind"] = error_class_of(outcome.error)
    return json.dumps(line | columns, separators=(",", ":"))


def text_line(outcome: Outcome) -> str:
    """Return one line of text for a terminal; text from the service is escaped."""
    return "  ".join(part for part in _parts(outcome) if part)


def error_line(outcome: Outcome) -> str:
    """Return one line for stderr: the job id, and the error or the reason why the job failed."""
    if outcome.error is None and outcome.snapshot is not None:
        reason = shown(outcome.snapshot.failure_reason or "no reason given")
        return f"{outcome.snapshot.status.value}: {job_name(outcome)}: {reason}"
    what = "unresolved" if outcome.snapshot is None else "result not fetched"
    text = "" if outcome.error is None else text_of(outcome.error)
    job_id, reference = shown(outcome.job_id), reference_of(outcome)
    names_job = job_id in text or isinstance(outcome.error, InvalidJobIdError)
    text = text.replace(f"job {job_id}", f"job {reference}", 1)
    line = f"{what}: {text}" if names_job else f"{what}: {reference}: {text}"
    return line if outcome.label is None else f"{line} ({shown(outcome.label)})"


def reference_of(outcome: Outcome) -> str:
    """Return the id of a job, with its kind before it if the id does not contain the kind.

    The user can pass this text to other commands, whose default kind is v1-extract.
    """
    return shown(str(outcome.ref))


def job_name(outcome: Outcome) -> str:
    """Return the reference of a job, with its label if it has one."""
    reference = reference_of(outcome)
    return reference if outcome.label is None else f"{reference} ({shown(outcome.label)})"


def status_shown(job: JobSnapshot | JobSummary) -> str:
    """Return the status of a job for a terminal; the service's text if adepoll does not know it."""
    return shown(job.status_text) if job.status is JobStatus.UNKNOWN else job.status.value


def _parts(outcome: Outcome) -> list[str]:
    """Return the texts of one line, such as the id and status of a job; some can be empty."""
    job, file = outcome.snapshot, outcome.file
    status = "unresolved" if job is None else status_shown(job)
    parts = [status.ljust(_STATUS_WIDTH), shown(outcome.job_id), shown(outcome.label or "")]
    if job is not None:
        parts += [_duration(job), shown(job.failure_reason or ""), _missing(job)]
    if file is not None:
        # The line already shows the job id. If the file is named after the id, only the folder is
        # added.
        is_default = file.path.name == result_name(outcome.job_id)
        path = _relative(file.path.parent if is_default else file.path)
        parts.append(f"{format_bytes(file.bytes)} in {path}")
    if outcome.error is not None:
        text = text_of(outcome.error).removeprefix(f"job {shown(outcome.job_id)}: ")
        parts.append(text if job is None else f"result not fetched: {text}")
    return parts


def _duration(job: JobSnapshot) -> str:
    """Return how long the service worked on a completed job; empty if this is not known."""
    metadata = job.facts
    milliseconds = None if metadata is None else metadata.duration_ms
    if milliseconds is None or milliseconds < 0 or job.status is not JobStatus.COMPLETED:
        return ""
    return format_duration(milliseconds / 1000)


def _missing(job: JobSnapshot) -> str:
    """Return why a result is partial; an empty string if the result is not partial."""
    if job.failed_pages or job.incomplete:
        count = len(job.failed_pages)
        return f"{counted(count, 'page')} failed" if count else "pages failed"
    return "does not conform to its schema" if job.partial else ""


def _relative(path: Path) -> str:
    """Return a path as text; relative if the path is inside the current folder."""
    with suppress(ValueError, OSError):  # the path is outside, or the folder was deleted
        path = path.relative_to(Path.cwd())
    return shown(str(path))
