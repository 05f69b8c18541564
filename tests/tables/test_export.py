"""export: one row for each job, one column for each path, and nothing that changes a value."""

import asyncio
import contextlib
import csv
import datetime as dt
import errno
import gc
import io
import json
import os
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from journalling import ENDPOINT, snapshot
from pyarrow import parquet
from tabling import result_text, write_journal

import adepoll
from adepoll import BatchJob, JobKind, JobRef, Journal
from adepoll.errors import ConfigurationError, JobTimeoutError, ResultUnavailableError
from adepoll.journal import GivenUp, Settled
from adepoll.report import write_report
from adepoll.tables import arrow_writers, exporting, spool
from adepoll.tables.key_paths import format_path, parse_path
from adepoll.tables.spool import Spool
from adepoll.tables.text_writers import CsvWriter, JsonLinesWriter


@pytest.fixture
def table(tmp_path):
    """Return a function that exports extractions to Parquet, and returns its rows and report."""

    async def export(*extractions, files=True, texts=(), **options):
        journal = tmp_path / "b.db"
        results = [*map(result_text, extractions), *texts]
        await write_journal(journal, results, folder=tmp_path if files else None)
        out = tmp_path / "t.parquet"
        report = adepoll.export(journal, out, **options)
        return parquet.read_table(out), report

    return export


def values(table, name):
    return table.column(name).to_pylist()


# --- what is in a row ----------------------------------------------------------------------------


async def test_every_job_has_a_row_with_its_facts(tmp_path):
    metadata = {"filename": "a.pdf", "duration_ms": 1500, "credit_usage": 2.5, "job_id": "j3"}
    jobs = [
        None,
        JobTimeoutError(job_id="j1", timeout=5.0, last_status=None),
        snapshot("j2", "failed", failure_reason="no pages"),
        snapshot("j3", metadata=metadata | {"schema_violation_error": "total is missing"}),
        snapshot("j4", "Cancelled"),
    ]
    await write_journal(tmp_path / "b.db", jobs)
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet")
    rows = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["job_id"] for row in rows] == ["j0", "j1", "j2", "j3", "j4"]
    assert [row["status"] for row in rows] == [None, None, "failed", "completed", "cancelled"]
    assert [row["error"] for row in rows] == [
        None,
        "JobTimeoutError",
        "JobFailedError",
        None,
        "JobCancelledError",
    ]
    assert rows[2]["failure"] == "no pages"
    done = rows[3]
    assert (done["kind"], done["document"], done["seconds"], done["credits"], done["partial"]) == (
        "v1-extract",
        "a.pdf",
        1.5,
        2.5,
        True,
    )
    assert done["settled_at"] == dt.datetime(2023, 11, 14, 22, 14, 20, tzinfo=dt.UTC)
    assert (report.rows, report.results, report.missing) == ((5,), 0, 1)


@pytest.mark.parametrize("files", [True, False], ids=["files", "inline"])
async def test_results_come_from_files_or_from_the_journal(table, files):
    rows, report = await table({"total": 1.5}, {"total": None}, files=files)
    assert values(rows, "total") == [1.5, None]
    assert report.results == 2


async def test_objects_become_columns_by_path(table):
    rows, _ = await table({"a": {"b": {"c": 1}, "d": "x"}}, {"a": {"b": None}}, {"a": None}, {})
    assert values(rows, "a.b.c") == [1, None, None, None]
    assert values(rows, "a.d") == ["x", None, None, None]


async def test_names_of_job_columns_and_dots_in_keys_are_told_apart(table):
    rows, _ = await table({"status": "paid", "a.b": 1, "a": {"b": 2}, "extraction": {"status": 3}})
    assert values(rows, "status") == ["completed"]
    assert values(rows, "extraction.status") == ["paid"]
    assert values(rows, "extraction.extraction.status") == [3]
    assert values(rows, r"a\.b") == [1]
    assert values(rows, "a.b") == [2]
    assert len(set(rows.column_names)) == len(rows.column_names)


@pytest.mark.parametrize("extraction", [[1, 2], "text", 5, {}])
async def test_an_extraction_that_is_no_object_is_one_column(table, extraction):
    rows, _ = await table(extraction)
    expected = "{}" if extraction == {} else extraction
    assert values(rows, "extraction") == [expected]


async def test_results_of_other_kinds(table):
    texts = [
        json.dumps({"markdown": "# A", "chunks": [{"id": "1"}], "splits": []}),
        json.dumps({"output": {"total": 5}, "metadata": {}}),
    ]
    rows, report = await table(texts=texts, explode=["chunks"])
    assert values(rows, "markdown") == ["# A", None]
    assert values(rows, "output.total") == [None, 5]
    assert parquet.read_table(report.files[1]).to_pylist() == [
        {"job_id": "j0", "index": 0, "path": "chunks[0]", "id": "1"}
    ]


async def test_no_secret_of_a_foreign_journal_is_exported(tmp_path):
    await write_journal(tmp_path / "b.db", [snapshot("j0", "failed", failure_reason="no")])
    url = "https://bucket.s3.amazonaws.com/k?X-Amz-Signature=canary"
    with contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as connection, connection:
        connection.execute(
            "UPDATE jobs SET snapshot = json_set(snapshot, '$.failure_reason', ?)", (f"PUT {url}",)
        )
    adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    assert "PUT https://bucket.s3.amazonaws.com/k?REDACTED" in text
    assert "canary" not in text


async def test_labels_kinds_and_columns_of_the_input(tmp_path):
    async with await Journal.open(tmp_path / "b.db", endpoint=ENDPOINT) as journal:
        ref = JobRef("a", kind=JobKind.V1_PARSE, label="invoice 17")
        columns = {"customer": "Smith", "status": "", "net.total": "007"}
        await journal.add([BatchJob(ref, columns=columns), "b"])
    adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet")
    rows = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["label"] for row in rows] == ["invoice 17", None]
    assert [row["kind"] for row in rows] == ["v1-parse", "v1-extract"]
    assert [row["input.customer"] for row in rows] == ["Smith", None]
    assert [row["input.net.total"] for row in rows] == ["007", None]
    assert [row["input.status"] for row in rows] == ["", None]
    assert [row["status"] for row in rows] == [None, None]


# --- values keep what they are -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "expected", "kind"),
    [
        (["1", "-2"], [1, -2], pa.int64()),
        (["9223372036854775807"], [2**63 - 1], pa.int64()),
        (["9223372036854775808", "1"], [2**63, 1], pa.decimal128(19, 0)),
        (["1208925819614629174706176"], [2**80], pa.decimal128(25, 0)),
        (["19.99", "5", "0.0"], [19.99, 5.0, 0.0], pa.float64()),
        (["12345678901234567.89", "0.5"], ["12345678901234567.89", "0.50"], pa.decimal128(19, 2)),
        (["9007199254740993", "0.1"], ["9007199254740993.0", "0.1"], pa.decimal128(17, 1)),
        (["1e300", "-0.0"], [1e300, -0.0], pa.float64()),
        (["1" * 39], ["1" * 39], pa.string()),
        (["1" * 5_000], ["1" * 5_000], pa.string()),
        (["1e400"], ["1E+400"], pa.string()),
        (["1E400"], ["1E+400"], pa.string()),
        (["NaN", "1"], [None, 1], pa.int64()),
        (["1e999999999", "5"], ["1e999999999", "5"], pa.string()),
        (["1e9999999999999999999", "5"], ["1e9999999999999999999", "5"], pa.string()),
    ],
)
async def test_numbers_are_exact(table, numbers, expected, kind):
    rows, _ = await table(texts=[f'{{"extraction": {{"n": {number}}}}}' for number in numbers])
    assert rows.schema.field("n").type == kind
    if pa.types.is_decimal(kind):
        expected = [Decimal(value) for value in expected]
    assert values(rows, "n") == expected


async def test_an_odd_number_does_not_change_the_others(table):
    text = '{"extraction": {"a": NaN, "b": 12345678901234567.89, "c": 1e999999999}}'
    rows, _ = await table(texts=[text])
    assert values(rows, "a") == [None]
    assert values(rows, "b") == [Decimal("12345678901234567.89")]
    assert values(rows, "c") == ["1e999999999"]


async def test_dates_stay_text_unless_requested(table):
    jobs = [
        {"d": "2026-02-28", "t": "2026-02-28T10:00:00+01:00", "x": "2026-02-28"},
        {"d": "2026-03-01", "t": "2026-02-28T10:00:00Z", "x": "soon"},
    ]
    rows, _ = await table(*jobs)
    assert [rows.schema.field(name).type for name in "dtx"] == [pa.string()] * 3
    assert values(rows, "d") == ["2026-02-28", "2026-03-01"]


async def test_dates_and_times_on_request(table):
    jobs = [
        {"d": "2026-02-28", "t": "2026-02-28T10:00:00+01:00", "x": "2026-02-28", "w": "20260228"},
        {"d": None, "t": "2026-02-28T10:00:00Z", "x": "soon", "w": "2026-02-28T10:00:00"},
    ]
    rows, report = await table(*jobs, dates=True)
    assert values(rows, "d") == [dt.date(2026, 2, 28), None]
    assert [time.hour for time in values(rows, "t")] == [9, 10]
    assert values(rows, "x") == ["2026-02-28", "soon"]
    assert values(rows, "w") == ["20260228", "2026-02-28T10:00:00"]
    assert report.conflicts == ()


async def test_dates_are_iso_8601_in_text_formats(tmp_path):
    extraction = {"d": "2026-02-28", "t": "2026-02-28T10:00:00Z", "l": ["2026-02-28"]}
    await write_journal(tmp_path / "b.db", [result_text(extraction)])
    adepoll.export(tmp_path / "b.db", tmp_path / "t.jsonl", dates=True)
    row = json.loads((tmp_path / "t.jsonl").read_text())
    assert {name: row[name] for name in extraction} == extraction
    adepoll.export(tmp_path / "b.db", tmp_path / "t.csv", dates=True)
    [row] = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
    assert (row["d"], row["t"]) == (extraction["d"], extraction["t"])
    assert json.loads(row["l"]) == extraction["l"]


async def test_times_that_a_timestamp_cannot_hold_stay_texts(table):
    fine, exact = "2026-02-28T10:00:00.123456789Z", "2026-02-28T10:00:00.123456000Z"
    rows, _ = await table({"fine": fine, "exact": exact}, dates=True)
    assert values(rows, "fine") == [fine]
    assert values(rows, "exact")[0].microsecond == 123456


async def test_half_a_surrogate_pair_does_not_stop_the_export(table):
    rows, _ = await table(texts=[r'{"extraction": {"a": "x\ud800y \ud83d\ude00", "\uDC00": 1}}'])
    assert values(rows, "a") == ["x\ufffdy \U0001f600"]
    assert values(rows, "\ufffd") == [1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
async def test_files_in_unusual_encodings_have_exact_values(tmp_path, encoding):
    await write_journal(tmp_path / "b.db", [result_text({})], folder=tmp_path)
    text = '{"extraction": {"a": "x\ud800", "n": 12345678901234567.89}}'
    (tmp_path / "j0.json").write_text(text, encoding, "surrogatepass")
    adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet")
    row = parquet.read_table(tmp_path / "t.parquet").to_pylist()[0]
    assert (row["a"], row["n"]) == ("x\ufffd", Decimal("12345678901234567.89"))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
async def test_texts_that_are_not_unicode_do_not_stop_the_export(tmp_path, name):
    """A table of ids can have any bytes, and so can the name of the folder of the results."""
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    folder.mkdir()
    job = snapshot("j0", "failed", failure_reason="x\ud800y")
    await write_journal(tmp_path / "b.db", [job, result_text({"a": 1})], folder=folder)
    async with await Journal.open(tmp_path / "b.db", endpoint=ENDPOINT) as journal:
        columns = {"customer": os.fsdecode(b"M\xfcller")}
        await journal.add([BatchJob(JobRef("j2"), columns=columns)])
    adepoll.export(tmp_path / "b.db", tmp_path / name)
    text = (tmp_path / name).read_bytes()
    for shown in ("x\ufffdy", "M\ufffdller/j1.json", "M\ufffdller"):
        assert shown.encode() in text or json.dumps(shown).encode() in text


# --- conflicts -----------------------------------------------------------------------------------


async def test_scalars_of_several_types_become_text(table):
    rows, report = await table({"a": "x"}, {"a": 5}, {"a": True}, {"a": None}, {"a": 6})
    assert values(rows, "a") == ["x", "5", "true", None, "6"]
    (conflict,) = report.conflicts
    assert (conflict.path, conflict.type) == ("a", "text")
    assert conflict.found == {"text": (1, "j0"), "integer": (2, "j1"), "boolean": (1, "j2")}
    assert str(conflict) == (
        "a: values of several types: text (1, first in j0), integer (2, first in j1), "
        "boolean (1, first in j2); written as text"
    )


@pytest.mark.parametrize("other", ["x", 5, [1]])
async def test_an_object_and_something_else_become_json_text(table, other):
    rows, report = await table({"a": {"b": 1}}, {"a": other})
    assert list(map(json.loads, values(rows, "a"))) == [{"b": 1}, other]
    assert [conflict.path for conflict in report.conflicts] == ["a"]


async def test_an_odd_extraction_leaves_the_columns_of_the_others(table):
    rows, report = await table({"a": 1, "extraction": "x"}, [1, 2], {"a": {"b": 2}}, [3], None)
    assert values(rows, "a") == ["1", None, '{"b":2}', None, None]
    assert values(rows, "extraction.extraction") == ["x", None, None, None, None]
    assert values(rows, "extraction") == [None, [1, 2], None, [3], None]
    _, (conflict) = report.conflicts
    assert str(conflict) == (
        "extraction: values of several types: object (2, first in j0), array (2, first in j1); "
        "written as a column for each key, and list of integer"
    )


async def test_an_odd_element_leaves_the_columns_of_the_others(table):
    _, report = await table({"rows": [{"b": 1}, 7, {"b": 2}]}, {"rows": 8}, explode=["rows"])
    elements = parquet.read_table(report.files[1])
    assert values(elements, "b") == [1, None, 2, None]
    assert values(elements, "value") == [None, 7, None, 8]
    assert "rows[].value" in [conflict.path for conflict in report.conflicts]


async def test_a_conflict_within_a_list_names_its_path(table):
    rows, report = await table({"a": [{"b": 1}, {"b": "x"}, None]}, {"a": []})
    assert values(rows, "a") == [[{"b": "1"}, {"b": "x"}, None], []]
    assert [conflict.path for conflict in report.conflicts] == ["a[].b"]


async def test_the_elements_of_a_list_with_too_many_keys_are_json_text(tmp_path):
    rows = [{f"k{number % 900}": number} for number in range(12_000)]
    await write_journal(tmp_path / "b.db", [result_text({"rows": rows})], folder=tmp_path)
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.jsonl", explode=["rows"])
    found = [json.loads(line) for line in (tmp_path / "t-rows.jsonl").read_text().splitlines()]
    assert [json.loads(row["value"]) for row in found] == rows
    assert [*found[-1]] == ["job_id", "index", "path", "value"]
    assert [conflict.path for conflict in report.conflicts] == ["rows[].value"]


async def test_keys_that_are_data_become_json_text(table):
    jobs = [{"m": {f"k{job}-{key}": key for key in range(400)}} for job in range(3)]
    rows, report = await table(*jobs)
    assert json.loads(values(rows, "m")[2]) == jobs[2]["m"]
    assert [conflict.reason for conflict in report.conflicts] == ["too many keys or levels"]


async def test_deep_values_become_json_text(table):
    deep = shallow = {"x": 1}
    for _ in range(50):
        deep = {"x": deep}
    rows, _ = await table({"a": deep, "b": shallow})
    (name,) = [name for name in rows.column_names if name.startswith("a.")]
    value = json.loads(values(rows, name)[0])
    for _ in name.split(".")[1:]:
        value = {"x": value}
    assert value == deep


# --- lists ---------------------------------------------------------------------------------------


async def test_lists_stay_lists(table):
    rows, _ = await table({"a": [1, 2.5], "b": [{"c": "x"}]}, {"a": [], "b": None})
    assert values(rows, "a") == [[1.0, 2.5], []]
    assert values(rows, "b") == [[{"c": "x"}], None]


async def test_exploded_lists_are_tables_with_the_job_id(table):
    jobs = [{"items": [{"sku": "a", "n": 1}, {"sku": "b"}], "t": 1}, {"items": []}, {"t": 2}]
    rows, report = await table(*jobs, explode=["items"])
    assert "items" not in rows.column_names
    assert report.files[1].name == "t-items.parquet"
    assert report.rows == (3, 2)
    assert parquet.read_table(report.files[1]).to_pylist() == [
        {"job_id": "j0", "index": 0, "path": "items[0]", "sku": "a", "n": 1},
        {"job_id": "j0", "index": 1, "path": "items[1]", "sku": "b", "n": None},
    ]


async def test_explode_reaches_lists_within_lists_and_single_objects(table):
    jobs = [{"o": [{"i": [1]}, {"i": [2, 3]}]}, {"o": {"i": 4}}]
    _, report = await table(*jobs, explode=["o.i"])
    found = parquet.read_table(report.files[1])
    assert values(found, "path") == ["o[0].i[0]", "o[1].i[0]", "o[1].i[1]", "o.i[0]"]
    assert values(found, "value") == [1, 2, 3, 4]


async def test_a_list_with_a_table_of_its_own_is_not_in_the_column_around_it(tmp_path):
    text = result_text({"a": [{"b": [1, 2], "c": "x"}]})
    await write_journal(tmp_path / "b.db", [text], folder=tmp_path)
    adepoll.export(tmp_path / "b.db", tmp_path / "t.jsonl", explode=["a.b"])
    assert json.loads((tmp_path / "t.jsonl").read_text())["a"] == [{"c": "x"}]


async def test_a_list_within_an_exploded_list_can_be_a_table_too(table):
    jobs = [{"a": [{"b": [1, 2], "c": 3}, {"b": []}]}, {"a": None}]
    rows, report = await table(*jobs, explode=["a", "a.b"])
    assert not {"a", "a.b", "a.c"} & {*rows.column_names}
    assert report.rows == (2, 2, 2)
    assert values(parquet.read_table(report.files[1]), "b") == [[1, 2], []]
    assert values(parquet.read_table(report.files[2]), "path") == ["a[0].b[0]", "a[0].b[1]"]


async def test_the_file_of_a_list_has_the_name_of_its_path(table):
    _, report = await table({"o": {"line-items": [1]}}, explode=["o.line-items"])
    assert report.files[1].name == "t-o.line-items.parquet"


async def test_a_dot_at_the_beginning_of_a_key_is_escaped(table):
    _, report = await table({".items": [1]}, explode=[r"\.items"])
    assert report.rows == (1, 1)


async def test_lists_with_the_same_name_have_files_of_their_own(table):
    _, report = await table({"a b": [1], "a_b": [2], "A/b": [3]}, explode=["a b", "a_b", "A/b"])
    names = [path.name for path in report.files[1:]]
    assert names == ["t-a_b.parquet", "t-a_b-2.parquet", "t-A_b-3.parquet"]
    assert [values(parquet.read_table(path), "value") for path in report.files[1:]] == [
        [1],
        [2],
        [3],
    ]


async def test_the_file_of_a_list_with_a_long_name_has_a_short_name(table):
    name = "\U00020000" * 90  # 360 bytes; most file systems accept 255
    _, report = await table({name: [1]}, explode=[name])
    assert report.files[1].name == f"t-{name[:20]}.parquet"
    assert report.rows == (1, 1)


async def test_a_path_that_no_result_has_names_those_that_exist(table, tmp_path):
    with pytest.raises(ConfigurationError, match=r"'lines'; paths of lists are: a\.items"):
        await table({"a": {"items": [1]}}, explode=["lines"])
    assert not list(tmp_path.glob("t*"))


async def test_references_on_request(tmp_path):
    found = {"a": {"references": ["0-1", "0-2"]}, "b": {"value": 1}, "c": {"references": 7}}
    text = result_text({"a": 1}, found)
    await write_journal(tmp_path / "b.db", [text], folder=tmp_path)
    adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet", references=True)
    rows = parquet.read_table(tmp_path / "t.parquet")
    assert values(rows, "references.a") == [["0-1", "0-2"]]
    assert values(rows, "references.b.value") == [1]
    assert values(rows, "references.c.references") == [7]


async def test_references_of_an_exploded_list_are_in_the_table_of_jobs(tmp_path):
    text = result_text(
        {"lines": [{"n": 1}, {"n": 2}]},
        {"lines": [{"n": {"references": ["0-1"]}}, {"n": {"references": []}}]},
    )
    await write_journal(tmp_path / "b.db", [text], folder=tmp_path)
    out = tmp_path / "t.parquet"
    adepoll.export(tmp_path / "b.db", out, references=True, explode=["lines"])
    assert values(parquet.read_table(out), "references.lines") == [[{"n": ["0-1"]}, {"n": []}]]


# --- formats -------------------------------------------------------------------------------------

MIXED = [
    {"n": 2**70, "f": 0.5, "t": 'a "b",\n=1+1', "l": [1, None], "b": True, "o": [{"x": "é"}]},
    {"n": 1, "f": None, "t": "", "l": None, "b": None, "o": None},
]


async def test_all_formats_have_the_same_values(tmp_path):
    await write_journal(tmp_path / "b.db", map(result_text, MIXED), folder=tmp_path)
    for name in ("t.csv", "t.jsonl", "t.arrow", "t.parquet"):
        adepoll.export(tmp_path / "b.db", tmp_path / name)
    rows = parquet.read_table(tmp_path / "t.parquet")
    with pa.ipc.open_file(tmp_path / "t.arrow") as file:
        assert file.read_all().equals(rows)
    lines = (tmp_path / "t.jsonl").read_text("utf-8").splitlines()
    assert [list(json.loads(line)) for line in lines] == [rows.column_names] * 2
    assert [json.loads(line)["n"] for line in lines] == [2**70, 1]
    assert [json.loads(line)["o"] for line in lines] == [[{"x": "é"}], None]
    cells = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_bytes().decode())))
    assert [cell["n"] for cell in cells] == [str(2**70), "1"]
    assert [cell["t"] for cell in cells] == [MIXED[0]["t"], ""]
    assert [(cell["l"], cell["b"], cell["o"]) for cell in cells] == [
        ("[1,null]", "true", '[{"x":"é"}]'),
        ("", "", ""),
    ]


@pytest.mark.parametrize("text", ["a\rb", "\r=1", "a\r\nb", "a\n", "\r", "a\u2028b", "a\x85b", '"'])
async def test_a_line_end_in_a_text_ends_no_row_of_a_csv(tmp_path, text):
    await write_journal(tmp_path / "b.db", [result_text({text: text, "b": 1})], folder=tmp_path)
    adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    body = (tmp_path / "t.csv").read_bytes()
    [row] = csv.DictReader(io.StringIO(body.decode(), newline=""))
    assert (row[text], row["b"]) == (text, "1")
    assert body.endswith(b"\n")
    assert not body.endswith(b"\r\n")


async def test_cells_of_a_csv_are_json_except_texts_and_nulls(tmp_path):
    extraction = {
        "yes": True, "no": False, "null": None, "int": 7, "float": 0.5, "text": "x, y",
        "list": [True, None, False], "empty": [],
    }  # fmt: skip
    await write_journal(tmp_path / "b.db", [result_text(extraction)])
    adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    [row] = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
    assert {name: row.get(name) for name in extraction} == {
        "yes": "true", "no": "false", "null": "", "int": "7", "float": "0.5", "text": "x, y",
        "list": "[true,null,false]", "empty": "[]",
    }  # fmt: skip


async def test_decimals_are_numbers_in_json_lines(tmp_path):
    text = (
        '{"extraction": {"d": [12345678901234567.89], "e": 1, "m": {"x": 0.12345678901234567890}}}'
    )
    await write_journal(tmp_path / "b.db", [text], folder=tmp_path)
    adepoll.export(tmp_path / "b.db", tmp_path / "t.jsonl")
    (line,) = (tmp_path / "t.jsonl").read_text().splitlines()
    assert '"d":[12345678901234567.89],"e":1,"m.x":0.12345678901234567890' in line


async def test_an_empty_journal_is_an_empty_table(table):
    rows, report = await table()
    assert (rows.num_rows, report.rows, report.results) == (0, (0,), 0)
    assert rows.column_names[0] == "job_id"


async def test_progress_ends_with_the_number_of_all_jobs(tmp_path):
    await write_journal(tmp_path / "b.db", [None] * 3)
    shown = []
    adepoll.export(tmp_path / "b.db", tmp_path / "t.csv", progress=lambda *now: shown.append(now))
    assert shown == [(3, 3)]


# --- what can go wrong ---------------------------------------------------------------------------


async def test_a_result_that_was_given_up_is_missing(tmp_path):
    path = tmp_path / "b.db"
    await write_journal(path, [None, None])
    async with await Journal.open(path, endpoint=ENDPOINT) as journal:
        for job_id in ("j0", "j1"):
            await journal.write(Settled(snapshot(job_id), 1_700_000_070.0, fetching=True))
        error = ResultUnavailableError(job_id="j1")
        await journal.write(GivenUp("j1", error, lasting=True, at=1_700_000_080.0))
    report = adepoll.export(path, tmp_path / "t.jsonl")
    assert (report.results, report.missing) == (0, 1)  # the result of j0 must still be fetched


async def test_a_job_that_settles_during_the_export_has_its_result(tmp_path):
    path = tmp_path / "b.db"
    large = result_text({"a": "x" * 2**20})  # the first block of rows ends with it
    small = result_text({"a": "z"})
    await write_journal(path, [None] * 100 + [large] + [None] * 198 + [small])

    async def settle():
        async with await Journal.open(path, endpoint=ENDPOINT) as journal:
            job = snapshot("j250", data=json.loads(result_text({"a": "y"})))
            await journal.write(Settled(job, 1_700_000_070.0, fetching=False))

    def progress(done, jobs):
        assert jobs == 300
        if done == 101:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, settle()).result()

    report = adepoll.export(path, tmp_path / "t.jsonl", progress=progress)
    assert (report.results, report.missing) == (3, 0)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert (rows[250]["status"], rows[250]["a"]) == ("completed", "y")


def test_the_name_of_a_column_is_parsed_in_linear_time():
    """The names can come from the journal of somebody else. Otherwise, this takes ten minutes."""
    name = "long. " * 800_000
    assert parse_path(format_path([name, "b"])) == (name, "b")


async def test_the_memory_for_the_cells_of_a_long_list_is_bounded(tmp_path, monkeypatch):
    """The number of cells of a table can be the square of the number of values."""
    written = []

    class Writer(exporting.CsvWriter):
        def write(self, values):
            written.append(len(values[0]))
            super().write(values)

    monkeypatch.setattr(exporting, "CsvWriter", Writer)
    rows = [{"a": number} for number in range(2_500)] + [{f"k{number}": 1 for number in range(9)}]
    await write_journal(tmp_path / "b.db", [result_text({"rows": rows})], folder=tmp_path)
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.csv", explode=["rows"])
    assert report.rows == (1, 2_501)
    assert max(written) <= 1_000
    with (tmp_path / "t-rows.csv").open(newline="") as file:
        found = [*csv.DictReader(file)]
    assert [row["a"] for row in found] == [*map(str, range(2_500)), ""]
    assert found[-1]["k8"] == "1"


async def test_unreadable_results_are_reported_and_their_jobs_have_rows(tmp_path):
    texts = [result_text({"a": 1}), "not JSON", '{"message": "x"}', result_text({"a": 2})]
    texts += [result_text(json.loads("[" * 150 + "]" * 150))]
    await write_journal(tmp_path / "b.db", texts, folder=tmp_path)
    (tmp_path / "j3.json").unlink()
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    assert (report.rows, report.results, report.unreadable) == ((5,), 1, 4)
    assert list(report.problems) == ["j1", "j2", "j3", "j4"]
    assert "does not exist" in report.problems["j3"]
    assert "not contain a result" in report.problems["j2"]
    assert "levels" in report.problems["j4"]
    assert "does not contain a result" in report.problems["j1"]
    (tmp_path / "j3.json").mkdir()
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    assert "is not a regular file" in report.problems["j3"]
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "j3.json").write_text(result_text({"a": 2}))
    assert adepoll.export(tmp_path / "b.db", tmp_path / "t.csv", results=moved).results == 1


async def test_too_many_levels_around_an_exact_number_are_reported(tmp_path):
    text = result_text(0).replace("0", "[" * 150 + "0.12345678901234567890" + "]" * 150, 1)
    await write_journal(tmp_path / "b.db", [text], folder=tmp_path)
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    assert "levels" in report.problems["j0"]


async def test_a_result_file_that_cannot_be_opened_is_unreadable(tmp_path, monkeypatch):
    real = Path.open

    def refuse(path, *args, **options):
        if path.name == "j0.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **options)

    await write_journal(tmp_path / "b.db", [result_text({"a": n}) for n in (1, 2)], folder=tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    assert (report.results, report.unreadable) == (1, 1)
    assert "j0.json cannot be read: Permission denied" in report.problems["j0"]


async def test_a_result_file_that_was_cut_is_unreadable(tmp_path):
    text = result_text({"a": 1}, {"a": {"references": ["0-1"]}})
    await write_journal(tmp_path / "b.db", [text], folder=tmp_path)
    (tmp_path / "j0.json").write_text(text[:-5])
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    assert (report.results, report.unreadable) == (0, 1)
    assert report.problems["j0"].startswith("it is not JSON: ")


async def test_a_large_file_that_a_journal_names_as_a_result_is_not_read(tmp_path):
    """Somebody else may have written the journal, together with the size of a disk image."""
    path, large = tmp_path / "b.db", tmp_path / "disk.img"
    await write_journal(path, [result_text({"a": 1})], folder=tmp_path)
    large.touch()
    os.truncate(large, 2**40)  # without blocks on the disk; nobody has so much memory
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE jobs SET result_path = ?, result_bytes = ?", (str(large), 2**40))
        db.commit()
    report = adepoll.export(path, tmp_path / "t.csv")
    assert report.problems["j0"] == f"its file {large} does not contain a result"


async def test_a_huge_file_in_place_of_a_result_is_not_read(tmp_path):
    await write_journal(tmp_path / "b.db", [result_text({"a": n}) for n in (1, 2)], folder=tmp_path)
    os.truncate(tmp_path / "j0.json", 2**40)  # without blocks on the disk
    report = adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")
    assert (report.results, report.unreadable) == (1, 1)
    assert "j0.json is not the result: it has 1,099,511,627,776 bytes" in report.problems["j0"]


@pytest.mark.parametrize("quotes", [r"[[{\"", '"', "]]"])
async def test_brackets_in_texts_are_not_levels(table, quotes):
    rows, report = await table({"a": [quotes * 200, "x"]}, {"b": [[], {}, [{"c": "]"}]]})
    assert values(rows, "a") == [[quotes * 200, "x"], None]
    assert report.unreadable == 0


async def test_a_failed_export_keeps_the_old_file_and_leaves_nothing(tmp_path):
    await write_journal(tmp_path / "b.db", [result_text({"a": 1})], folder=tmp_path)
    out = tmp_path / "t.csv"
    out.write_text("old")
    before = sorted(path.name for path in tmp_path.iterdir())

    with pytest.raises(ConfigurationError):
        adepoll.export(tmp_path / "b.db", out, explode=["gone"])
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    adepoll.export(tmp_path / "b.db", out)
    assert out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["b.db", "b.db-wal", "b.db.lock", "b.db-journal"])
@pytest.mark.parametrize("write", [partial(adepoll.export, to="csv"), write_report])
async def test_the_journal_is_never_overwritten(tmp_path, name, write):
    await write_journal(tmp_path / "b.db", [None])
    with pytest.raises(ConfigurationError, match="would overwrite the journal"):
        write(tmp_path / "b.db", tmp_path / name)


@pytest.mark.parametrize("write", [partial(adepoll.export, to="csv"), write_report])
async def test_the_journal_is_not_overwritten_by_another_name(tmp_path, write):
    await write_journal(tmp_path / "b.db", [None])
    (tmp_path / "other").hardlink_to(tmp_path / "b.db")  # as a file system that ignores case has it
    with pytest.raises(ConfigurationError, match="would overwrite the journal"):
        write(tmp_path / "b.db", tmp_path / "other")


async def test_an_interrupted_export_leaves_nothing_and_prints_nothing(
    tmp_path, monkeypatch, capfd
):
    await write_journal(tmp_path / "b.db", [result_text({"a": 1})], folder=tmp_path)

    def interrupted(_spool):
        raise KeyboardInterrupt

    monkeypatch.setattr(Spool, "blocks", interrupted)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet")
    gc.collect()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert capfd.readouterr() == ("", "")


async def test_rows_are_written_in_groups_of_many_bytes(tmp_path, monkeypatch):
    await write_journal(tmp_path / "b.db", [result_text({"a": n}) for n in range(2_500)])
    adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet")
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups == 1
    monkeypatch.setattr(arrow_writers, "_GROUP_BYTES", 0)
    adepoll.export(tmp_path / "b.db", tmp_path / "u.parquet")
    assert parquet.ParquetFile(tmp_path / "u.parquet").num_row_groups == 3


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "arrow"])
async def test_an_error_while_rows_are_written_is_raised(tmp_path, monkeypatch, form):
    await write_journal(tmp_path / "b.db", [result_text({"a": 1})])
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail(*_args):
        raise OSError(errno.ENOSPC, "full")

    for writer in (
        arrow_writers.ParquetWriter,
        arrow_writers.ArrowWriter,
        CsvWriter,
        JsonLinesWriter,
    ):
        monkeypatch.setattr(writer, "write", fail)
    with pytest.raises(OSError, match="full"):
        adepoll.export(tmp_path / "b.db", tmp_path / f"t.{form}")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "arrow"])
async def test_a_full_disk_is_reported_as_such_wherever_it_is_full(tmp_path, monkeypatch, form):
    class File(io.BytesIO):
        room = 0

        def write(self, data):
            if self.tell() + len(data) > self.room:
                raise OSError(errno.ENOSPC, "full")
            return super().write(data)

    await write_journal(tmp_path / "b.db", [result_text({"a": n}) for n in range(9)])
    monkeypatch.setattr(arrow_writers, "_GROUP_BYTES", 0)
    monkeypatch.setattr(spool, "_ROWS", 3)
    whole = io.BytesIO()
    adepoll.export(tmp_path / "b.db", whole, to=form)
    size = len(whole.getvalue())
    for room in (0, size // 3, size // 2, size - 1):
        file = File()
        file.room = room
        with pytest.raises(OSError, match="full"):
            adepoll.export(tmp_path / "b.db", file, to=form)


async def test_the_format_is_that_of_the_name(tmp_path):
    await write_journal(tmp_path / "b.db", [None])
    with pytest.raises(ConfigurationError, match="parquet, csv, jsonl, arrow"):
        adepoll.export(tmp_path / "b.db", tmp_path / "t.xlsx")
    with pytest.raises(ConfigurationError, match="unknown format 'xlsx'"):
        adepoll.export(tmp_path / "b.db", tmp_path / "t", to="xlsx")
    file = io.BytesIO()
    adepoll.export(tmp_path / "b.db", file, to="csv")
    assert file.getvalue().startswith(b"job_id,label,kind,status,")


async def test_lists_need_a_collection_of_paths_and_files(tmp_path):
    await write_journal(tmp_path / "b.db", [result_text({"a": [{"n": 1}]})])
    with pytest.raises(TypeError, match=r"not one path; use \[path\]"):
        adepoll.export(tmp_path / "b.db", tmp_path / "t.csv", explode="extraction.a")
    with pytest.raises(ConfigurationError, match="pass a path as out"):
        adepoll.export(tmp_path / "b.db", io.BytesIO(), to="csv", explode=["extraction.a"])


async def test_without_pyarrow_csv_works_and_parquet_says_what_to_install(tmp_path, monkeypatch):
    await write_journal(tmp_path / "b.db", [None])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.delitem(__import__("sys").modules, "adepoll.tables.arrow_writers", raising=False)
    with pytest.raises(ConfigurationError, match=r'the extra "table" .* pip install "\.\[table\]"'):
        adepoll.export(tmp_path / "b.db", tmp_path / "t.parquet")
    adepoll.export(tmp_path / "b.db", tmp_path / "t.csv")


@pytest.mark.parametrize("out", ["new", "existing", "device", "stream"])
async def test_rows_are_kept_beside_a_file_and_otherwise_in_the_temporary_folder(
    tmp_path, monkeypatch, out
):
    await write_journal(tmp_path / "b.db", [None])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    if out == "existing":
        (tmp_path / out).touch()
    target = {"device": os.devnull, "stream": io.BytesIO()}.get(out, tmp_path / out)
    if out in {"new", "existing"}:
        adepoll.export(tmp_path / "b.db", target, to="csv")
        assert target.read_bytes().startswith(b"job_id,")
        return
    with pytest.raises(FileNotFoundError) as caught:
        adepoll.export(tmp_path / "b.db", target, to="csv")
    assert caught.value.filename == str(tmp_path / "missing")


def test_an_error_names_the_folder_and_not_its_temporary_file(tmp_path):
    folder = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        Spool(folder)
    assert caught.value.filename == str(folder)


def test_a_full_disk_is_noticed_when_rows_are_added_and_names_the_folder(tmp_path, monkeypatch):
    full = Path("/dev/full").open("r+b")  # noqa: SIM115 - the spool closes it
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    rows = Spool(tmp_path)
    with pytest.raises(OSError, match="No space left") as caught:
        rows.append([])
    assert caught.value.filename == str(tmp_path)
    with contextlib.suppress(OSError):
        rows.close()
