"""Job ids from text files, CSV, JSON lines and pipes, and the errors for malformed ones."""

import asyncio
import csv
import gzip
import io
import json
import os
import sys
import threading
import tracemalloc
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import click
import pytest
from fuzzing import counted_calls
from hypothesis import given
from hypothesis import strategies as st
from openfiles import open_files_in

from adepoll.api.job_ids import check_job_id
from adepoll.api.job_kind import JobKind, JobRef
from adepoll.cli import csv_table
from adepoll.cli.columns import read_text
from adepoll.cli.csv_table import LONGEST_LINE
from adepoll.cli.found_jobs import Fields, IdsError
from adepoll.cli.ids import check_sources, read_id_batches, read_ids
from adepoll.errors import InvalidJobIdError

# Texts without quotes and delimiters, which are not the name of a column, such as "job_id".
ID_TEXT = st.text(
    st.characters(min_codepoint=33, exclude_categories=("Cs", "Cc", "Cf", "Z", "Pi", "Pf"))
    .filter(str.isprintable)
    .filter(lambda char: char not in ",;|#\"'`[{/\\?%"),
    min_size=1,
    max_size=30,
).filter(lambda text: not text.lower().endswith(("id", "ids", "identifier")))


def id_of(job):
    return job if isinstance(job, str) else getattr(job, "ref", job).job_id


def batches_in(pieces, field=None):
    batches = []
    read_text(
        pieces,
        source="ids.txt",
        fields=Fields(job_id=field),
        emit=lambda jobs: batches.append([id_of(job) for job in jobs]),
    )
    assert all(batches)
    return batches


def ids_in(text, field=None):
    return [job_id for batch in batches_in([text], field) for job_id in batch]


def refusal_of(text, field=None):
    with pytest.raises(IdsError) as caught:
        ids_in(text, field)
    return caught.value


async def ids_of(path, field=None):
    return [id_of(job) async for job in read_ids([], [str(path)], Fields(job_id=field))]


def pieces_of(text, cuts):
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


CUTS = st.lists(st.integers(0, 400))


# --- one per line --------------------------------------------------------------------------------


@given(st.lists(st.one_of(ID_TEXT, st.just(""), st.just("# a comment"), st.just("  "))), CUTS)
def test_each_line_is_an_id_regardless_of_the_pieces(lines, cuts):
    text = "\n".join(lines)
    found = [job_id for batch in batches_in(pieces_of(text, cuts)) for job_id in batch]
    assert found == [line for line in lines if line.strip() and not line.startswith("#")]


def test_the_line_of_an_error_counts_the_lines_of_earlier_pieces():
    with pytest.raises(IdsError, match=r"ids.txt, line 4: "):
        batches_in(["# a\n# b\n", "\n", "[\n"])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("last", ["", "end"])
async def test_all_line_ends_and_encodings_are_read(tmp_path, end, encoding, last):
    path = tmp_path / "ids.txt"
    text = end.join(["# Übersicht", "", "job-1", "  job-2\t", "jöb-3", last])
    path.write_bytes(text.encode(encoding))
    assert await ids_of(path) == ["job-1", "job-2", "jöb-3"] + ["end"] * bool(last)


async def test_byte_order_marks_of_concatenated_files_are_removed(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa\n\ufeff# b\n\ufeffc\n".encode())
    assert await ids_of(path) == ["a", "c"]


async def test_control_characters_make_one_bad_id_that_is_printed_escaped(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"good\nb\x1b[31mad\nn\x00ul\nby\xffte\nv\x0bt\nalso-good\n")
    found = await ids_of(path)
    assert len(found) == 6
    for job_id in found[1:-1]:
        with pytest.raises(InvalidJobIdError) as caught:
            check_job_id(job_id)
        assert str(caught.value).isprintable()
    assert [found[0], found[-1]] == ["good", "also-good"]


@pytest.mark.parametrize(
    "line",
    [
        *('"a-1"', "'a-1'", "`a-1`", "a-1,", '"a-1",', "a-1;", "a-1\t", ' "a-1" , ', '" a-1 "'),
        *("\u201ca-1\u201d", "\u2018a-1\u2019,"),
    ],
)
def test_quotes_and_a_last_delimiter_are_no_part_of_an_id(line):
    assert ids_in(f"{line}\n{line}\nb-2\n") == ["a-1", "a-1", "b-2"]


@pytest.mark.parametrize(
    "header",
    [
        "job_id",
        "Job ID",
        '"JobId"',
        "ids",
        "job-ids",
        "extract_job_id",
        "ADE Job Ids,",
        "uuid",
        "extractJobId",
        "adeJobIDs",
        "Job identifier",
    ],
)
def test_the_header_of_a_table_with_one_column_is_no_id(header):
    assert ids_in(f"# export\n\n{header}\na-1\n{header}\n")[:1] == ["a-1"]


@pytest.mark.parametrize("first", ["job-1", "ident", "paid", "a-id-1", "jobs", "GRID", "cmgId2"])
def test_an_id_that_resembles_a_header_is_an_id(first):
    assert ids_in(f"{first}\na-1\n") == [first, "a-1"]


@pytest.mark.parametrize(
    ("text", "field", "lines"),
    [
        ("# ids\n\njob_id\na-1\na/2\n\nb c\n", None, [("a/2", 5), ("b c", 7)]),
        ("a-1\na/2\n" + "b-1\n" * 9, None, [("a/2", 2)]),
        ("a-1\nv1-parse/b c\n", None, [("b c", 2)]),  # as in the error of this id
        ('n,id\n1,a-1\n2,a/2\n"x\ny",b/3\n', "id", [("a/2", 3), ("b/3", 4)]),
        ('{"id": "a-1"}\n\n{"id": "a/2"}\n', "id", [("a/2", 3)]),
    ],
)
@given(CUTS)
def test_the_line_of_an_invalid_id_is_known(text, field, lines, cuts):
    noted = []
    read_text(
        pieces_of(text, cuts),
        source="ids.txt",
        fields=Fields(job_id=field),
        emit=lambda _ids: None,
        note_invalid=lambda job_id, line: noted.append((job_id, line)),
    )
    assert noted == lines


def test_an_endless_line_is_refused_in_bounded_memory():
    sent = 0

    def endless():
        nonlocal sent
        while True:
            sent += 2**18
            yield "x" * 2**18

    tracemalloc.start()
    with pytest.raises(IdsError, match=r"ids.txt, line 1: the line is longer than"):
        batches_in(endless())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent <= LONGEST_LINE + 2**18
    assert peak < 4 * LONGEST_LINE


# --- a column of a CSV ---------------------------------------------------------------------------

CELL = st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",)), max_size=8)


@given(st.lists(st.tuples(CELL, ID_TEXT, CELL)), st.sampled_from(",;\t|"), st.booleans(), CUTS)
def test_a_column_written_by_the_csv_module_is_read_with_any_other_cells(
    rows, delimiter, quoted, cuts
):
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=quoting)
    writer.writerows([("a name, or; more", "job id", "note"), *rows])
    batches = batches_in(pieces_of(text.getvalue(), cuts), "job id")
    assert [job_id for batch in batches for job_id in batch] == [row[1] for row in rows]


def test_a_row_is_passed_on_before_the_next_one_arrives():
    seen = []

    def see(jobs):
        seen.append([id_of(job) for job in jobs])

    def pieces():
        yield "n,job_id\n1,a\n"
        assert seen == [["a"]]
        yield '2,b\n"open'
        assert seen == [["a"], ["b"]]
        yield "\nstill open"
        assert seen == [["a"], ["b"]]
        yield '",c\n'
        assert seen == [["a"], ["b"], ["c"]]

    read_text(pieces(), source="x", fields=Fields(job_id="job_id"), emit=see)


def test_empty_cells_and_blank_rows_are_skipped():
    assert ids_in("# of Friday\n\njob_id,n\na,1\n\n,2\n  ,3\n,\nb,4\n", "job_id") == ["a", "b"]


def test_the_separator_line_of_excel_is_not_the_header():
    assert ids_in("sep=;\na,b;job_id\n1;x\n", "job_id") == ["x"]
    assert ids_in("sep=|\nid=a|id\nx|y\n", "id") == ["y"]


def test_a_name_in_the_header_may_have_several_lines():
    assert ids_in('"n\n\no",job_id\n1,a\n\n2,b\n', "job_id") == ["a", "b"]
    error = refusal_of('"n\no",job_id\n1,a\n2\n', "job_id")
    assert error.line == 4
    for text, columns in (('"n\n', ("n",)), ('"n\nx,id\n', ("n\nx,id",))):
        assert refusal_of(text, "job_id").columns == columns


def test_ids_are_needed_if_the_program_has_no_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(click.UsageError, match="no job ids"):
        check_sources((), ())


def test_a_single_column_needs_no_delimiter():
    assert ids_in('"job_id"\n"a"\nb\n', "job_id") == ["a", "b"]


@pytest.mark.parametrize("header", ["job_id", "JOB_ID", '"job_id"', "id", "Job ID"])
def test_the_header_of_a_single_column_is_not_an_id(header):
    assert ids_in(f"{header}\njob-1\njob-2\n") == ["job-1", "job-2"]
    assert ids_in(f"job-1\n{header}\n") != ["job-1"]  # only the first line is a header


def test_quotes_around_an_id_are_removed():
    assert ids_in('"job-1"\n"job-2\njob"3"\n') == ["job-1", '"job-2', 'job"3"']


def test_a_missing_column_is_reported_with_the_available_columns():
    error = refusal_of("\nname;job id;\x1b[0m\n1;2;3\n", "job_id")
    assert (error.source, error.line) == ("ids.txt", 2)
    assert error.columns == ("name", "job id", "\x1b[0m")
    assert str(error) == r"ids.txt, line 2: no column 'job_id'; available: name, job id, \x1b[0m"


def test_a_duplicate_column_is_refused():
    assert "2 columns are named 'id'" in str(refusal_of("id,n,id\n1,2,3\n", "id"))


def test_a_row_without_the_column_is_reported_with_its_line():
    error = refusal_of("n,job_id\n1,a\n2\n3,c\n", "job_id")
    assert error.line == 3
    assert "1 of 2 columns" in str(error)


def test_a_row_with_more_cells_than_columns_is_refused_with_its_line():
    error = refusal_of("job_id,document,customer\na,x,y\nb,Smith, Sons,z\n", "job_id")
    assert error.line == 3
    assert "4 cells, but the table has 3 columns; put quotes around" in str(error)


def test_empty_cells_after_the_last_column_are_ignored():
    assert ids_in("job_id,n\na,1,,\nb,2, \n", "job_id") == ["a", "b"]


def test_an_unclosed_quote_is_reported():
    error = refusal_of('n,job_id\n1,a\n"2,b\n3,c\n', "job_id")
    assert error.line == 3
    assert "cannot be read" in str(error)


def test_a_cell_longer_than_the_default_limit_of_csv_is_read():
    assert ids_in(f"text,job_id\n{'x' * 200_000},a\n", "job_id") == ["a"]


def test_a_cell_longer_than_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(csv_table, "LONGEST_LINE", 100_000)
    error = refusal_of('n,job_id\n"' + "x\n" * 100_000, "job_id")
    assert error.line == 2
    assert "field larger than field limit" in str(error)


# --- a key of JSON lines -------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    st.lists,
    max_leaves=3,
)


@given(st.lists(st.tuples(ID_TEXT, JSON)), CUTS)
def test_a_key_written_by_the_json_module_is_read_with_any_other_values(rows, cuts):
    text = "".join(json.dumps({"n": more, "job": {"id": job_id}}) + "\n" for job_id, more in rows)
    batches = batches_in(pieces_of(text, cuts), "job.id")
    assert [job_id for batch in batches for job_id in batch] == [row[0] for row in rows]


def test_a_key_that_contains_a_dot_is_found():
    assert ids_in('{"a.b": "x", "a": {"b": "y"}}', "a.b") == ["x"]


def test_null_and_empty_values_are_skipped_and_numbers_are_ids():
    lines = ['{"id": null}', '{"id": ""}', "", '{"id": 12}', '{"id": " a "}']
    assert ids_in("\n".join(lines), "id") == ["12", "a"]
    assert ids_in('{"job": null}\n{"job": {"id": "b"}}', "job.id") == ["b"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "x"', r"malformed JSON \(Expecting ',' delimiter, character 11\)"),
        ('["x"]', "not a JSON object"),
        ("null", "not a JSON object"),
        ("5", "not a JSON object"),
        ('{"id": ["x"]}', "the value of 'id' is not a string"),
        ('{"id": true}', "the value of 'id' is not a string"),
        ('{"name": 1, "job": 2}', "no key 'id'; available: name, job"),
        (
            '{"id": ' + "[" * 200_000 + "}",
            "nested too deeply|malformed JSON",
        ),
        ('{"id": ' + "9" * 5_000 + "}", "cannot be read: a number has too many digits"),
    ],
)
def test_a_line_without_an_id_is_reported_with_its_number(line, said):
    with pytest.raises(IdsError, match=r"ids.txt, line 4: .*" + said) as caught:
        ids_in(f'{{"id": "a"}}\n\n# more\n{line}\n{{"id": "b"}}\n', "id")
    assert caught.value.line == 4


def test_a_missing_nested_key_is_reported_with_the_available_keys():
    error = refusal_of('{"job": {"name": 1}}', "job.id")
    assert error.columns == ("job.name",)
    assert "'job' is not a JSON object" in str(refusal_of('{"job": "x"}', "job.id"))


def test_the_error_of_a_malformed_line_shows_no_value():
    assert "canary" not in str(refusal_of('{"id": "canary', "id"))


def test_a_json_array_is_reported_as_such():
    assert "one object per line" in str(refusal_of('[{"id": "a"}]', "id"))
    assert "one object per line" in str(refusal_of("[\n", None))


# --- kinds, labels and other columns --------------------------------------------------------------

TABLE = """document,job_id,kind,label,page
a.pdf,a-1,v1-parse,Invoice 1,7
b.pdf,parse-01m8jpf3qwfech30y1gr6c3r1k,,,
"c, d.pdf",c-3, V2-Extract ,c,"9
"
"""


def jobs_in(text, **fields):
    found = []
    read_text([text], source="ids.txt", fields=Fields(**fields), emit=found.extend)
    return found


def test_a_table_has_kinds_and_labels_and_keeps_its_other_columns():
    first, second, third = jobs_in(TABLE, job_id="job_id")
    assert first.ref == JobRef("a-1", kind=JobKind.V1_PARSE)
    assert first.ref.label == "Invoice 1"
    assert first.columns == {"document": "a.pdf", "page": "7"}
    assert (second.ref.kind, second.ref.label) == (None, None)
    assert second.columns == {"document": "b.pdf", "page": ""}
    assert (third.ref.kind, third.ref.label) == (JobKind.V2_EXTRACT, "c")
    assert third.columns == {"document": "c, d.pdf", "page": "9\n"}


def test_a_short_row_has_no_label():
    assert jobs_in("id,label\na\nb,c\n", job_id="id") == ["a", JobRef("b", label="c")]


def test_columns_with_the_same_name_are_told_apart():
    table = "job_id,note,note_2,note,,note,kind,kind\nj,a,b,c,no name,d,v1-parse,scan\n"
    (job,) = jobs_in(table, job_id="job_id")
    columns = {"note": "a", "note_2": "b", "note_3": "c", "note_4": "d"}
    assert job.columns == columns | {"kind": "v1-parse", "kind_2": "scan"}
    assert job.ref.kind is None


def test_many_columns_with_the_same_name_take_time_in_proportion_to_their_number():
    """With a time in proportion to the square, this would take ten minutes."""
    count = 80_000
    (job,) = jobs_in(f"job_id{',note' * count}\nj{',x' * count}\n", job_id="job_id")
    assert [*job.columns] == ["note", *(f"note_{number}" for number in range(2, count + 1))]


def test_kinds_and_labels_can_have_columns_of_any_name():
    (job,) = jobs_in("n;t;doc\na;v1-parse;x.pdf\n", job_id="n", kind="t", label="doc")
    assert (job, job.label) == (JobRef("a", kind=JobKind.V1_PARSE), "x.pdf")
    (job,) = jobs_in("n;kind;label\na;scan;b\n", job_id="n", kind="", label="")
    assert job.columns == {"kind": "scan", "label": "b"}
    assert jobs_in("n;;x\na;scan;b\n", job_id="n", kind="")[0].ref.kind is None


@pytest.mark.parametrize("kind", ["", "v1-parse"])
def test_an_id_in_a_table_can_have_its_kind_before_it(kind):
    (job,) = jobs_in(f"id,kind,label\nv1-parse/a-1,{kind},Invoice 1\n", job_id="id")
    assert (job, job.label) == (JobRef("a-1", kind=JobKind.V1_PARSE), "Invoice 1")


def test_an_id_whose_row_names_another_kind_is_refused_with_its_line():
    with pytest.raises(IdsError, match="line 2: v1-parse/a-1 is not a job of the kind v2-parse"):
        jobs_in("id,kind\nv1-parse/a-1,v2-parse\n", job_id="id")


def test_a_table_of_ids_only_is_a_list_of_ids():
    assert jobs_in("job_id\na\nb\n", job_id="job_id") == ["a", "b"]


def test_json_lines_have_kinds_and_labels():
    lines = '{"id": "a", "kind": "v1-parse", "label": 17}\n{"id": "b"}\n'
    lines += '{"id": "c", "kind": null, "label": null}'
    first, *others = jobs_in(lines, job_id="id")
    assert (first, first.label) == (JobRef("a", kind=JobKind.V1_PARSE), "17")
    assert others == ["b", "c"]
    (job,) = jobs_in('{"id": "a", "x": {"y": "v2-parse"}}', job_id="id", kind="x.y")
    assert (job, job.label) == (JobRef("a", kind=JobKind.V2_PARSE), None)
    assert jobs_in('{"id": "a", "x": null}', job_id="id", label="x.y") == ["a"]
    assert jobs_in('{"id": "a", "": "x"}', job_id="id", kind="", label="") == ["a"]
    with pytest.raises(IdsError, match="no key 'x'"):
        jobs_in('{"id": "a"}', job_id="id", label="x")


@pytest.mark.parametrize(
    "text", ["id,kind\n\na,parse\n", '{"id": "b"}\n\n{"id": "a", "kind": "parse"}']
)
def test_an_unknown_kind_is_refused_with_its_line(text):
    with pytest.raises(IdsError, match="line 3: unknown kind 'parse'; the kinds are v1-extract, "):
        jobs_in(text, job_id="id")


def test_a_named_column_of_kinds_must_exist():
    for count, more in ((20, ""), (21, " and 1 more"), (22, " and 2 more")):
        columns = [f"c{number}" for number in range(count)]
        shown = ", ".join(columns[:20])
        assert (
            str(IdsError("no", source="a", columns=columns)) == f"a: no; available: {shown}{more}"
        )
    with pytest.raises(IdsError, match="line 1: no column 'type'; available: id, kind"):
        jobs_in("id,kind\na,v1-parse\n", job_id="id", kind="type")


# --- without --field -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ('{"job_id": "a", "n": 1}\n', ("job_id", "n")),
        ("# x\njob_id,n\na,1\n", ("job_id", "n")),
        ("job_id;n\na;1\n", ("job_id", "n")),
        ("job_id\tn\na\t1\n", ("job_id", "n")),
        ("\ufeffjob_id|n\na|1\n", ("job_id", "n")),
        ("{\n", ()),
        ('"a-1","a-2"\n', ("a-1", "a-2")),
    ],
)
def test_a_table_without_field_is_refused(text, there):
    error = refusal_of(text)
    assert "--field NAME" in str(error)
    assert error.columns == there


# --- what is not UTF-8 ---------------------------------------------------------------------------


@pytest.mark.parametrize("field", [None, "job_id"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"PK\x03\x04\x14\x00\x00\x00\x08,\n\x01", id="a workbook"),
        pytest.param(gzip.compress(b"job_id\na-1\n"), id="gzip"),
        pytest.param(b"%PDF-1.7\n1 0 obj\n", id="a PDF"),
        pytest.param("job_id,n\na-1,1\n".encode("utf-16-le"), id="UTF-16 without a mark"),
    ],
)
async def test_a_file_that_is_not_text_is_refused(tmp_path, data, field):
    path = tmp_path / "ids"
    path.write_bytes(data)
    with pytest.raises(IdsError, match="line 1: this is not a text file") as caught:
        await ids_of(path, field)
    assert ("decompress it with gunzip" in str(caught.value)) is data.startswith(b"\x1f\x8b")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("Größe,job_id\n1,a\n", 1, "Gr"),
        ("job_id;name\na;b\na;Müller\n", 3, "M"),
        ("job_id,label\na,b\n\na,ö\n", 4, ""),
        ('{"job_id": "a", "label": "ö"}\n', 1, ""),
    ],
)
async def test_a_label_or_column_that_is_not_utf_8_is_refused(tmp_path, text, line, said):
    path = tmp_path / "ids.csv"
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(IdsError, match=rf"line {line}: '{said}\S+' is not UTF-8") as caught:
        await ids_of(path, "job_id")
    assert caught.value.line == line


# --- files and pipes -----------------------------------------------------------------------------


def test_field_without_a_file_is_wrong_usage():
    with pytest.raises(click.UsageError, match="--field needs a file"):
        check_sources(["a"], [], "job_id")


@pytest.mark.parametrize(("name", "reason"), [("absent", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, reason):
    (tmp_path / "ids").touch()
    assert check_sources([], [str(tmp_path / "ids"), "-"]) == (str(tmp_path / "ids"), "-")
    with pytest.raises(click.BadParameter, match=f"{tmp_path / name}: {reason}"):
        check_sources([], [str(tmp_path / "ids"), str(tmp_path / name)])


async def test_ids_arrive_in_order_in_batches_of_several_thousand(tmp_path):
    path = tmp_path / "ids.txt"
    wanted = [f"job-{number:030d}" for number in range(50_000)]
    path.write_text("\n".join(wanted))
    batches = [batch async for batch in read_id_batches(["x", "y"], [str(path)])]
    assert batches[0] == ("x", "y")
    assert [job_id for batch in batches[1:] for job_id in batch] == wanted
    assert 2 < len(batches) < 20


async def test_the_reader_thread_stops_when_the_iterator_is_closed(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("some-job\n" * 1_000_000)
    async with aclosing(read_id_batches([], [str(path)])) as batches:
        await anext(batches)
    for thread in threading.enumerate():
        if thread.name == "adepoll-ids":
            await asyncio.to_thread(thread.join, 30)
            assert not thread.is_alive()


async def test_memory_is_bounded_while_ids_are_consumed_slowly(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("some-job-with-a-name\n" * 500_000)
    tracemalloc.start()
    async for _ in read_id_batches([], [str(path)]):
        await asyncio.sleep(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000 * 20


async def test_a_line_from_a_pipe_does_not_wait_for_the_next_one(tmp_path):
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    async with aclosing(read_ids([], [fifo])) as ids:
        coming = asyncio.ensure_future(anext(ids))
        with await asyncio.to_thread(open, fifo, "w", buffering=1) as writer:
            writer.write("a\r\nb\r\nhalf")
            writer.flush()
            assert await coming == "a"
            assert await anext(ids) == "b"
            writer.write("-way\n")
            assert await anext(ids) == "half-way"
        assert [job_id async for job_id in ids] == []


async def test_a_non_blocking_pipe_is_read(monkeypatch):
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    with os.fdopen(read_end) as stdin, os.fdopen(write_end, "w") as writer:
        monkeypatch.setattr("sys.stdin", stdin)
        async with aclosing(read_ids([], ["-"])) as ids:
            coming = asyncio.ensure_future(anext(ids))
            await asyncio.sleep(0.01)
            writer.write("a\n")
            writer.flush()
            assert await coming == "a"
            writer.close()
            assert [job_id async for job_id in ids] == []


async def test_an_error_of_a_file_is_raised_from_the_iterator(tmp_path):
    with pytest.raises(FileNotFoundError):
        await ids_of(tmp_path / "none")
    path = tmp_path / "ids.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(IdsError, match=r"ids.csv, line 1: no column 'c'; available: a, b"):
        await ids_of(path, "c")


async def test_a_bug_in_the_reader_thread_is_raised_from_the_iterator(tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr("adepoll.cli.ids.read_text", broken)
    with pytest.raises(KeyError):
        await ids_of(tmp_path / "any")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
async def test_an_error_of_the_disk_names_the_file():
    with pytest.raises(OSError, match="error") as caught:
        _ = [job async for job in read_ids((), ["/proc/self/mem"])]
    assert caught.value.filename == "/proc/self/mem"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists the open files")
async def test_a_malformed_file_is_closed_before_the_error_arrives(tmp_path):
    path = tmp_path / "ids.jsonl"
    path.write_text('{"id": "job-1"}\n{"id": 1.5}\n')
    with pytest.raises(IdsError, match="line 2: the value of 'id' is not a string"):
        async for _ in read_id_batches((), (str(path),), Fields(job_id="id")):
            pass
    assert open_files_in(tmp_path) == []


def test_a_row_is_read_in_the_time_of_its_own_cells():
    """A short file can have a header with many columns, and many rows with one cell."""
    header = ",".join(["job_id", *(f"c{number}" for number in range(2_000))])
    rows = [f"j{number}" for number in range(200)]
    with counted_calls() as count:
        found = ids_in("\n".join([header, *rows]), "job_id")
    assert found == rows
    assert count() < 50_000
