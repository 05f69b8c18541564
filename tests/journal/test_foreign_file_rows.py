"""Each impossible value in a row of a journal has a text, and each possible one has none."""

import pytest

from adepoll import BatchJob, JobRef
from adepoll.errors import ConfigurationError, JournalDamagedError
from adepoll.journal.foreign_file import (
    are_columns,
    is_kind,
    is_time,
    problem_of_job,
    recorded_folder,
    row_problem,
)
from adepoll.journal.opening import size_of

ROW = {
    "number": 1,
    "job_id": "j1",
    "kind": "v1-extract",
    "label": None,
    "columns": None,
    "stage": "done",
    "status": "completed",
    "added_at": 1.0,
    "settled_at": None,
    "done_at": None,
    "delivered_at": None,
    "file_path": None,
    "size": None,
    "sha256": None,
    "modified_ns": None,
    "error_kind": None,
    "error": None,
    "lasting": None,
    "snapshot": None,
}
FILE = {"file_path": "/r/j1.json", "size": 0, "sha256": "0" * 64, "modified_ns": -1}
FAILED = {"error_kind": "X", "error": "y"}
LATEST = 253_402_300_799  # the last second of the year 9999


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"number": 2**62}, None),
        ({"number": 0}, "its number is not positive"),
        ({"number": -1}, "its number is not positive"),
        ({"number": 1.0}, "its number is not positive"),
        ({"number": True}, "its number is not positive"),
        ({"job_id": "a b"}, "its id is not a job id"),
        ({"job_id": 7}, "its id is not a job id"),
        ({"kind": "v1 extract"}, "its kind is not a kind of jobs"),
        ({"kind": None}, "its kind is not a kind of jobs"),
        ({"label": "a"}, None),
        ({"label": b"a"}, "its label is not a text"),
        ({"columns": '{"a": "1"}'}, None),
        ({"columns": '{"a": 1}'}, "its columns are not texts"),
        ({"status": None}, None),
        ({"status": 1}, "a text has another type"),
        ({"snapshot": b"{}"}, "a text has another type"),
        ({"error_kind": 1, "error": "x"}, "a text has another type"),
        ({"added_at": None}, "a time is not a number"),
        ({"added_at": 0}, None),
        ({"settled_at": -1}, "a time is not a number"),
        ({"done_at": "1"}, "a time is not a number"),
        ({"delivered_at": float("inf")}, "a time is not a number"),
        (FAILED, None),
        (FAILED | {"lasting": 0}, None),
        (FAILED | {"lasting": 1}, None),
        (FAILED | {"lasting": 2}, "its error is incomplete"),
        ({"error": "y"}, "its error is incomplete"),
        ({"error_kind": "X"}, "its error is incomplete"),
        (FILE, None),
        (FILE | {"file_path": b"/r/a.json"}, None),
        (FILE | {"size": 10**12}, None),
        (FILE | {"size": -1}, "its file has no size"),
        (FILE | {"size": 1.0}, "its file has no size"),
        (FILE | {"size": None}, "its file has no size"),
        (FILE | {"modified_ns": None}, "its file has no size"),
        (FILE | {"sha256": None}, "its file has no SHA-256"),
        (FILE | {"sha256": "0" * 63}, "its file has no SHA-256"),
        (FILE | {"sha256": "G" * 64}, "its file has no SHA-256"),
        (FILE | {"file_path": "r/a.json"}, "the path of its file is not absolute"),
        (FILE | {"file_path": "/r/../a.json"}, "the path of its file is not absolute"),
        (FILE | {"file_path": "/r/a\0.json"}, "the path of its file is not absolute"),
        (FILE | {"file_path": 7}, "the path of its file is not absolute"),
    ],
)
def test_each_impossible_value_has_a_text(changes, problem):
    assert row_problem(tuple((ROW | changes).values())) == problem


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("{}", True),
        ('{"a": "1", "b": ""}', True),
        ('{"a": null}', False),
        ("[]", False),
        ("{", False),
        (None, False),
        (b"{}", False),
        ("[" * 100_000, False),
    ],
)
def test_columns_are_an_object_of_texts(text, valid):
    assert are_columns(text) is valid
    assert (problem_of_job("a", "v1-parse", None, text) is None) == (valid or text is None)


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (0, True),
        (-0.1, False),
        (LATEST, True),
        (LATEST + 1, False),
        (float("nan"), False),
        ("1", False),
        (None, False),
    ],
)
def test_a_time_is_between_1970_and_9999(value, valid):
    assert is_time(value) is valid


@pytest.mark.parametrize(("kind", "valid"), [("v1-extract", True), ("", False), (1, False)])
def test_a_kind_is_a_name(kind, valid):
    assert is_kind(kind) is valid


@pytest.mark.parametrize("text", ["r", "/r/..", "/a\0b", ""])
def test_a_folder_is_an_absolute_path(text):
    assert str(recorded_folder("/r", None)) == "/r"
    with pytest.raises(JournalDamagedError, match="not an absolute path"):
        recorded_folder(text, None)


@pytest.mark.parametrize("columns", [{"a": 1}, {1: "a"}, {"b": "x", "a": None}])
def test_names_and_values_of_columns_are_texts(columns):
    assert BatchJob(JobRef("a"), columns={"a": "1"}).columns == {"a": "1"}
    with pytest.raises(ConfigurationError, match="columns must be strings"):
        BatchJob(JobRef("a"), columns=columns)


def test_the_size_of_a_journal_includes_its_wal(tmp_path):
    path = tmp_path / "a.db"
    assert size_of(path) == 0
    path.write_bytes(bytes(10))
    assert size_of(path) == 10
    (tmp_path / "a.db-wal").write_bytes(bytes(5))
    assert size_of(path) == 15
