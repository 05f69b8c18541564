"""The line of each outcome, for a terminal, a program, and the list of errors."""

import json
from pathlib import Path

import attrs
import pytest
from journalling import snapshot

from adepoll import JobKind
from adepoll.cli.output_lines import error_line, job_name, json_line, status_shown, text_line
from adepoll.errors import (
    InvalidJobIdError,
    JobNotFoundError,
    JobTimeoutError,
    ResultUnavailableError,
)
from adepoll.journal.outcomes import Outcome, ResultFile

META = {"filename": "a.pdf", "credit_usage": 2.5, "job_id": "j1"}
GONE = JobNotFoundError(status=404, job_id="j1")
OTHER = JobTimeoutError(job_id="other", timeout=1.0, last_status=None)
SHA = "0" * 64


def outcome(status="completed", *, file=None, error=None, label=None, **fields):
    job = None if status is None else snapshot("j1", status, **fields)
    if file is not None:
        file = ResultFile(path=Path(file), bytes=2_400_000, sha256=SHA)
    return Outcome(job_id="j1", snapshot=job, file=file, error=error, label=label)


def took(milliseconds):
    return {"metadata": META | {"duration_ms": milliseconds}}


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (outcome(), "completed   j1"),
        (outcome(label="a.pdf"), "completed   j1  a.pdf"),
        (outcome(**took(1500)), "completed   j1  2 s"),
        (outcome(**took(0)), "completed   j1  1 s"),
        (outcome(**took(-1)), "completed   j1"),
        (outcome("failed", **took(1500)), "failed      j1"),
        (outcome("failed", failure_reason="no\ntext"), r"failed      j1  no\ntext"),
        (outcome("Dreaming"), "Dreaming    j1"),
        (outcome("cancelled"), "cancelled   j1"),
        (outcome(incomplete=True), "completed   j1  pages failed"),
        (outcome(file="/r/j1.json"), "completed   j1  2 MB in /r"),
        (outcome(file="/r/other.json"), "completed   j1  2 MB in /r/other.json"),
        (
            outcome(metadata=META | {"schema_violation_error": "no total"}),
            "completed   j1  does not conform to its schema",
        ),
        (
            outcome(error=ResultUnavailableError(job_id="j1")),
            f"completed   j1  result not fetched: {ResultUnavailableError(job_id='j1')}",
        ),
        (
            outcome(None, error=GONE),
            f"unresolved  j1  {str(GONE).removeprefix('job j1: ')}",
        ),
    ],
)
def test_a_line_for_a_terminal_has_what_is_known(shown, line):
    assert text_line(shown) == line


@pytest.mark.parametrize(
    ("pages", "text"), [([1], "1 page failed"), ([1, 2], "2 pages failed"), ([], None)]
)
def test_a_line_counts_the_pages_that_failed(pages, text):
    shown = outcome(kind="v1-parse", metadata={"failed_pages": pages})
    assert text_line(shown) == "  ".join(filter(None, ["completed   j1", text]))


def test_a_path_within_the_current_folder_is_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = outcome(file=tmp_path / "results" / "j1.json")
    assert text_line(found).endswith(" in results")
    monkeypatch.chdir("/")
    assert text_line(found).endswith(f" in {str(tmp_path / 'results')[1:]}")


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (outcome("failed", failure_reason="bad\x1b scan"), r"failed: j1: bad\x1b scan"),
        (outcome("failed"), "failed: j1: no reason given"),
        (outcome("failed", label="a.pdf"), "failed: j1 (a.pdf): no reason given"),
        (outcome("cancelled"), "cancelled: j1: no reason given"),
        (outcome(None, error=GONE), f"unresolved: {GONE}"),
        (outcome(None, error=GONE, label="a.pdf"), f"unresolved: {GONE} (a.pdf)"),
        (
            outcome(error=ResultUnavailableError(job_id="j1")),
            f"result not fetched: {ResultUnavailableError(job_id='j1')}",
        ),
        (
            outcome(None, error=OTHER),
            f"unresolved: j1: {JobTimeoutError(job_id='other', timeout=1.0, last_status=None)}",
        ),
        (
            outcome(None, error=InvalidJobIdError(job_id="x y", reason="it has a blank")),
            f"unresolved: {InvalidJobIdError(job_id='x y', reason='it has a blank')}",
        ),
    ],
)
def test_a_line_for_stderr_names_the_job_once(shown, line):
    assert error_line(shown) == line


def test_a_job_of_another_kind_has_its_kind_before_its_id():
    named = attrs.evolve(outcome(None, error=GONE, label="a.pdf"), kind=JobKind.V1_PARSE)
    assert job_name(named) == "v1-parse/j1 (a.pdf)"
    assert error_line(named).startswith("unresolved: job v1-parse/j1: ")
    assert error_line(named).count("j1") == 1
    assert job_name(outcome()) == "j1"


def test_a_status_that_adepoll_does_not_know_is_shown_as_the_service_writes_it():
    assert status_shown(snapshot("a", "PENDING")) == "pending"
    assert status_shown(snapshot("a", "On\x1bHold")) == r"On\x1bHold"


def test_the_json_of_an_inline_result_is_that_of_the_service():
    found = outcome(data={"extraction": {"total": 1}}, label="a.pdf")
    line = json.loads(json_line(found))
    assert line["data"]["extraction"] == {"total": 1}
    assert line.keys().isdisjoint({"result", "error", "columns"})
    with_columns = json.loads(json_line(attrs.evolve(found, columns={"a": "1"})))
    assert with_columns == line | {"columns": {"a": "1"}}


def test_the_json_of_a_result_in_a_file_names_the_file():
    found = outcome(file="/r/j1.json", label="a.pdf", data={"extraction": {}})
    line = json.loads(json_line(attrs.evolve(found, columns={"a": "1"})))
    assert (line["job_id"], line["kind"], line["label"]) == ("j1", "v1-extract", "a.pdf")
    assert line["result"] == {"path": "/r/j1.json", "bytes": 2_400_000, "sha256": SHA}
    assert (line["status"], line["columns"]) == ("completed", {"a": "1"})
    assert line.keys().isdisjoint({"data", "error"})
    assert "label" not in json.loads(json_line(outcome(file="/r/j1.json")))


def test_the_json_of_an_unresolved_job_has_its_error():
    line = json.loads(json_line(outcome(None, error=GONE)))
    assert line == {
        "job_id": "j1",
        "kind": "v1-extract",
        "error": str(GONE),
        "error_kind": "JobNotFoundError",
    }
    missing = json.loads(json_line(outcome(error=ResultUnavailableError(job_id="j1"))))
    assert (missing["status"], missing["error_kind"]) == ("completed", "ResultUnavailableError")
    assert "data" not in missing
