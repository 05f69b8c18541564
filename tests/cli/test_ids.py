"""Ids out of files of every kind that people have, and what is said where there are none."""

import asyncio
import csv
import io
import json
import os
import threading
import tracemalloc
from contextlib import aclosing
from itertools import pairwise

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.job_ids import check_job_id
from adepoll.cli import columns
from adepoll.cli.columns import LONGEST_LINE, IdsError, read_text
from adepoll.cli.ids import check_sources, read_id_batches, read_ids
from adepoll.errors import InvalidJobIdError

ID_TEXT = st.text(
    st.characters(min_codepoint=33, exclude_categories=("Cs", "Cc", "Cf", "Z"))
    .filter(str.isprintable)
    .filter(lambda char: char not in ',;|#"[{/\\?%'),
    min_size=1,
    max_size=30,
)


def batches_in(pieces, field=None):
    batches = []
    read_text(pieces, source="ids.txt", field=field, emit=batches.append)
    assert all(batches)
    return batches


def ids_in(text, field=None):
    return [job_id for batch in batches_in([text], field) for job_id in batch]


def refusal_of(text, field=None):
    with pytest.raises(IdsError) as caught:
        ids_in(text, field)
    return caught.value


async def ids_of(path, field=None):
    return [job_id async for job_id in read_ids([], [str(path)], field)]


def pieces_of(text, cuts):
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


CUTS = st.lists(st.integers(0, 400))


# --- one a line ----------------------------------------------------------------------------------


@given(st.lists(st.one_of(ID_TEXT, st.just(""), st.just("# a comment"), st.just("  "))), CUTS)
def test_each_line_is_an_id_wherever_the_text_is_cut(lines, cuts):
    text = "\n".join(lines)
    found = [job_id for batch in batches_in(pieces_of(text, cuts)) for job_id in batch]
    assert found == [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("last", ["", "end"])
async def test_line_ends_and_encodings_of_all_editors_are_read(tmp_path, end, encoding, last):
    path = tmp_path / "ids.txt"
    text = end.join(["# Übersicht", "", "job-1", "  job-2\t", "jöb-3", last])
    path.write_bytes(text.encode(encoding))
    assert await ids_of(path) == ["job-1", "job-2", "jöb-3"] + ["end"] * bool(last)


async def test_files_that_were_put_together_keep_no_mark_within(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa\n\ufeff# b\n\ufeffc\n".encode())
    assert await ids_of(path) == ["a", "c"]


async def test_control_characters_make_one_bad_id_that_is_told_escaped(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"good\nb\x1b[31mad\nn\x00ul\nby\xffte\nv\x0bt\nalso-good\n")
    found = await ids_of(path)
    assert len(found) == 6
    for job_id in found[1:-1]:
        with pytest.raises(InvalidJobIdError) as caught:
            check_job_id(job_id)
        assert str(caught.value).isprintable()
    assert [found[0], found[-1]] == ["good", "also-good"]


def test_a_line_without_end_is_told_before_it_fills_the_memory():
    given_out = 0

    def endless():
        nonlocal given_out
        while True:
            given_out += 2**18
            yield "x" * 2**18

    tracemalloc.start()
    with pytest.raises(IdsError, match=r"ids.txt, line 1: the line is longer than"):
        batches_in(endless())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert given_out <= LONGEST_LINE + 2**18
    assert peak < 4 * LONGEST_LINE


# --- a column of a CSV ---------------------------------------------------------------------------

CELL = st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",)), max_size=8)


@given(st.lists(st.tuples(CELL, ID_TEXT, CELL)), st.sampled_from(",;\t|"), st.booleans(), CUTS)
def test_what_csv_writes_is_read_whatever_stands_beside_the_ids(rows, delimiter, quoted, cuts):
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=quoting)
    writer.writerows([("a name, or; more", "job id", "note"), *rows])
    batches = batches_in(pieces_of(text.getvalue(), cuts), "job id")
    assert [job_id for batch in batches for job_id in batch] == [row[1] for row in rows]


def test_a_row_is_handed_on_before_the_next_one_has_come():
    seen = []

    def pieces():
        yield "n,job_id\n1,a\n"
        assert seen == [["a"]]
        yield '2,b\n"open'
        assert seen == [["a"], ["b"]]
        yield "\nstill open"
        assert seen == [["a"], ["b"]]
        yield '",c\n'
        assert seen == [["a"], ["b"], ["c"]]

    read_text(pieces(), source="x", field="job_id", emit=seen.append)


def test_empty_cells_and_blank_rows_are_passed_over():
    assert ids_in("# of Friday\n\njob_id,n\na,1\n\n,2\n  ,3\n,\nb,4\n", "job_id") == ["a", "b"]


def test_the_line_with_which_excel_says_its_delimiter_is_no_header():
    assert ids_in("sep=;\na,b;job_id\n1;x\n", "job_id") == ["x"]


def test_one_column_alone_needs_no_delimiter():
    assert ids_in('"job_id"\n"a"\nb\n', "job_id") == ["a", "b"]


def test_a_missing_column_is_told_with_those_that_are_there():
    error = refusal_of("\nname;job id;\x1b[0m\n1;2;3\n", "job_id")
    assert (error.source, error.line) == ("ids.txt", 2)
    assert error.columns == ("name", "job id", "\x1b[0m")
    assert str(error) == r"ids.txt, line 2: no column 'job_id'; there are: name, job id, \x1b[0m"


def test_a_column_that_is_there_twice_is_not_guessed_at():
    assert "2 columns are called 'id'" in str(refusal_of("id,n,id\n1,2,3\n", "id"))


def test_a_row_too_short_for_the_column_is_told_with_its_line():
    error = refusal_of("n,job_id\n1,a\n2\n3,c\n", "job_id")
    assert error.line == 3
    assert "1 of 2 columns" in str(error)


def test_a_quote_that_never_closes_swallows_no_ids_silently():
    error = refusal_of('n,job_id\n1,a\n"2,b\n3,c\n', "job_id")
    assert error.line == 3
    assert "cannot be read" in str(error)


def test_a_cell_longer_than_python_allows_by_itself_is_read():
    assert ids_in(f"text,job_id\n{'x' * 200_000},a\n", "job_id") == ["a"]


def test_a_cell_without_bound_is_told_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(columns, "LONGEST_LINE", 100_000)
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
def test_what_json_writes_is_read_whatever_stands_beside_the_ids(rows, cuts):
    text = "".join(json.dumps({"n": more, "job": {"id": job_id}}) + "\n" for job_id, more in rows)
    batches = batches_in(pieces_of(text, cuts), "job.id")
    assert [job_id for batch in batches for job_id in batch] == [row[0] for row in rows]


def test_a_key_with_a_dot_in_it_is_found_as_it_stands():
    assert ids_in('{"a.b": "x", "a": {"b": "y"}}', "a.b") == ["x"]


def test_null_and_empty_are_passed_over_and_numbers_are_ids():
    lines = ['{"id": null}', '{"id": ""}', "", '{"id": 12}', '{"id": " a "}']
    assert ids_in("\n".join(lines), "id") == ["12", "a"]
    assert ids_in('{"job": null}\n{"job": {"id": "b"}}', "job.id") == ["b"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "x"', r"broken JSON \(Expecting ',' delimiter, character 11\)"),
        ('["x"]', "no JSON object"),
        ('{"id": ["x"]}', "the value of 'id' is no string"),
        ('{"id": true}', "the value of 'id' is no string"),
        ('{"name": 1, "job": 2}', "no key 'id'; there are: name, job"),
        ('{"id": ' + "[" * 200_000 + "}", r"cannot be read \(RecursionError\)|broken JSON"),
        ('{"id": ' + "1" * 5_000 + "}", r"cannot be read \(ValueError\)"),
    ],
)
def test_a_line_that_gives_no_id_is_told_with_its_number(line, said):
    with pytest.raises(IdsError, match=r"ids.txt, line 4: .*" + said) as caught:
        ids_in(f'{{"id": "a"}}\n\n# more\n{line}\n{{"id": "b"}}\n', "id")
    assert caught.value.line == 4


def test_a_missing_key_further_down_is_told_with_its_neighbours():
    error = refusal_of('{"job": {"name": 1}}', "job.id")
    assert error.columns == ("job.name",)
    assert "'job' is no JSON object" in str(refusal_of('{"job": "x"}', "job.id"))


def test_no_value_of_a_broken_line_is_told():
    assert "canary" not in str(refusal_of('{"id": "canary', "id"))


def test_a_json_array_is_told_to_be_one():
    assert "one object on a line" in str(refusal_of('[{"id": "a"}]', "id"))
    assert "one object on a line" in str(refusal_of("[\n", None))


# --- where --field was forgotten -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ('{"job_id": "a", "n": 1}\n', ("job_id", "n")),
        ("# x\njob_id,n\na,1\n", ("job_id", "n")),
        ("job_id;n\na;1\n", ("job_id", "n")),
        ("job_id\tn\na\t1\n", ("job_id", "n")),
        ("\ufeffjob_id|n\na|1\n", ("job_id", "n")),
        ("{\n", ()),
    ],
)
def test_a_table_without_field_is_told_instead_of_ids_that_are_none(text, there):
    error = refusal_of(text)
    assert "--field NAME" in str(error)
    assert error.columns == there


# --- files and pipes -----------------------------------------------------------------------------


def test_field_without_a_file_is_wrong_usage():
    with pytest.raises(click.UsageError, match="--field is about files"):
        check_sources(["a"], [], "job_id")


async def test_ids_come_in_batches_of_some_thousand_in_order(tmp_path):
    path = tmp_path / "ids.txt"
    wanted = [f"job-{number:030d}" for number in range(50_000)]
    path.write_text("\n".join(wanted))
    batches = [batch async for batch in read_id_batches(["x", "y"], [str(path)])]
    assert batches[0] == ("x", "y")
    assert [job_id for batch in batches[1:] for job_id in batch] == wanted
    assert 2 < len(batches) < 20


async def test_a_reader_that_is_left_reads_no_further(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("some-job\n" * 1_000_000)
    async with aclosing(read_id_batches([], [str(path)])) as batches:
        await anext(batches)
    for thread in threading.enumerate():
        if thread.name == "adepoll-ids":
            await asyncio.to_thread(thread.join, 30)
            assert not thread.is_alive()


async def test_memory_stays_flat_while_nobody_takes_the_ids(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("some-job-with-a-name\n" * 2_000_000)
    tracemalloc.start()
    async for _ in read_id_batches([], [str(path)]):
        await asyncio.sleep(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 * 20


async def test_a_line_of_a_pipe_waits_for_no_other(tmp_path):
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


async def test_a_pipe_that_was_made_non_blocking_is_waited_for(monkeypatch):
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


async def test_an_error_of_a_file_comes_out_where_the_ids_do(tmp_path):
    with pytest.raises(FileNotFoundError):
        await ids_of(tmp_path / "none")
    path = tmp_path / "ids.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(IdsError, match=r"ids.csv, line 1: no column 'c'; there are: a, b"):
        await ids_of(path, "c")


async def test_a_bug_while_reading_is_not_taken_for_the_end(tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr("adepoll.cli.ids.read_text", broken)
    with pytest.raises(KeyError):
        await ids_of(tmp_path / "any")
