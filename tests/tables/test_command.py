"""``adepoll export``: what it prints, and its exit codes."""

import errno
from shlex import quote

import pytest
from click.testing import CliRunner
from journalling import snapshot
from tabling import result_text, write_journal

from adepoll.cli import cli

CONFLICT = (
    "adepoll: a: values of several types: integer (1, first in j0), text (1, first in j1); "
    "written as text"
)


@pytest.fixture
async def journal(tmp_path):
    path = tmp_path / "b.db"
    results = [result_text({"a": 1, "items": [1, 2]}), result_text({"a": "x"})]
    await write_journal(path, results, folder=tmp_path)
    return path


def run(*arguments):
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def test_a_file_without_an_ending_is_a_parquet_file(journal, tmp_path):
    assert run(journal, "-o", tmp_path / "table").exit_code == 0
    assert (tmp_path / "table").read_bytes()[:4] == b"PAR1"


def test_a_file_with_an_unknown_ending_needs_a_format(journal, tmp_path):
    path = tmp_path / "table.txt"
    refused = run(journal, "-o", path)
    assert refused.exit_code == 2
    assert "ends with no known format; pass --to, one of parquet, csv" in refused.stderr
    assert not path.exists()
    assert run(journal, "-o", path, "--to", "csv").exit_code == 0
    assert path.read_text().startswith("job_id,")


def test_the_table_stands_beside_the_journal(journal):
    done = run(journal, "--to", "csv", "--explode", "items")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        f"{journal.with_suffix('.csv')}: 2 rows",
        f"{journal.with_name('b-items.csv')}: 2 rows",
        CONFLICT,
    ]
    assert done.stdout == ""
    assert run(journal).exit_code == 0
    assert journal.with_suffix(".parquet").read_bytes()[:4] == b"PAR1"


def test_standard_output(journal):
    done = run(journal, "--to", "jsonl", "-o", "-")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == ["standard output: 2 rows", CONFLICT]
    assert [line[:16] for line in done.stdout.splitlines()] == [
        '{"job_id":"j0","',
        '{"job_id":"j1","',
    ]
    done = run(journal, "--to", "csv", "-o", "-", "--explode", "items")
    assert done.exit_code == 2
    assert "--explode needs files: name one with --out" in done.stderr


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_a_terminal_gets_no_control_characters(tmp_path, monkeypatch, form):
    path = tmp_path / "b.db"
    text = "\x1b[31mred\x9b31m\u202e\r\nbad\u2028"
    await write_journal(path, [snapshot("j0", "failed", failure_reason=text)])
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True)
    done = run(path, "--to", form, "-o", "-")
    assert done.exit_code == 0
    assert "red" in done.stdout
    assert done.stdout.replace("\n", "").isprintable()
    assert done.stdout.startswith("job_id," if form == "csv" else '{"job_id":"j0"')
    assert run(path, "--to", "arrow", "-o", "-").exit_code == 2


def test_a_result_that_is_missing_has_its_own_exit_code(journal, tmp_path):
    (tmp_path / "j1.json").unlink()
    done = run(journal, "--to", "csv")
    assert done.exit_code == 3
    assert "the result of j1 is not in the table: its file" in done.stderr
    assert "if you have moved the result files, pass their new folder with --results DIR" in (
        done.stderr
    )


async def test_conflicts_and_paths_of_lists_are_printed_as_a_whole(tmp_path):
    name, names = "k" * 200, "n" * 200
    values = [{name: value, names: [1]} for value in (1, "x")]
    await write_journal(tmp_path / "b.db", map(result_text, values))
    done = run(tmp_path / "b.db", "--to", "csv")
    assert f"adepoll: {name}: values of several types: " in done.stderr
    assert done.stderr.endswith("(1, first in j1); written as text\n")
    done = run(tmp_path / "b.db", "--to", "csv", "--explode", "nope")
    assert done.stderr.endswith(f"paths of lists are: {names}\n")


async def test_results_that_were_not_downloaded_are_named_with_the_remedy(tmp_path):
    await write_journal(tmp_path / "b.db", [snapshot("j0")])
    done = run(tmp_path / "b.db", "-o", tmp_path / "t.csv")
    assert done.exit_code == 3
    assert "results of 1 completed job is" not in done.stderr
    assert f"adepoll resume {quote(str(tmp_path / 'b.db'))} --out DIR" in done.stderr


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_that_cannot_be_written_is_named_with_the_remedy(journal, tmp_path, form):
    target = tmp_path / "nowhere" / f"t.{form}"
    done = run(journal, "-o", target)
    assert done.exit_code == 74
    assert done.stderr == f"adepoll: cannot write {target}: No such file or directory; see --out\n"


def test_a_full_disk_behind_standard_output_is_named(journal, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("adepoll.cli.export.export", fail)
    done = run(journal, "--to", "csv", "-o", "-")
    assert done.exit_code == 74
    assert done.stderr == "adepoll: cannot read or write stdout: No space left on device\n"


def test_a_folder_of_results_that_does_not_exist_is_wrong_usage(journal, tmp_path):
    done = run(journal, "--results", tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "'--results'" in done.stderr


def test_what_is_not_a_journal_is_one_line(tmp_path):
    done = run(tmp_path / "none.db", "--to", "csv")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1


async def test_at_most_20_conflicts_and_unreadable_results_are_printed(tmp_path):
    path = tmp_path / "b.db"
    many = [{f"k{number:02}": value for number in range(22)} for value in (1, "x")]
    await write_journal(path, map(result_text, many), folder=tmp_path)
    lines = run(path, "--to", "csv").stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines[1:21]] == [
        f"k{number:02}" for number in range(20)
    ]
    assert lines[21:] == ["adepoll: 2 more paths with values of several types"]
    path = tmp_path / "c.db"
    await write_journal(path, ["{" for _ in range(120)], folder=tmp_path)
    lines = run(path, "--to", "csv").stderr.splitlines()
    assert lines[0] == f"{path.with_suffix('.csv')}: 120 rows"
    assert [line.split()[4] for line in lines[1:21]] == [f"j{number}" for number in range(20)]
    assert lines[21] == "adepoll: 100 more results could not be read"
    assert lines[22:] == [
        "adepoll: if you have moved the result files, pass their new folder with --results DIR"
    ]


@pytest.mark.parametrize("count", [20, 21])
async def test_exactly_20_problems_are_printed_without_a_count(tmp_path, count):
    values = [{f"k{number:02}": value for number in range(count)} for value in (1, "x")]
    await write_journal(tmp_path / "b.db", map(result_text, values))
    done = run(tmp_path / "b.db", "--to", "csv")
    assert done.exit_code == 0
    assert ("1 more paths" in done.stderr) == (count == 21)


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 completed job has"), (2, "2 completed jobs have")]
)
async def test_results_that_were_not_downloaded_are_counted(tmp_path, count, text):
    path = tmp_path / "b.db"
    await write_journal(path, [snapshot(f"j{number}") for number in range(count)])
    done = run(path, "--to", "csv", "-o", "-")
    rows, remedy = done.stderr.splitlines()
    assert rows == f"standard output: {'1 row' if count == 1 else '2 rows'}"
    assert remedy == (
        f"adepoll: {text} no result in the table, because it was not downloaded; download it "
        f"with adepoll resume {quote(str(path))} --out DIR"
    )


async def test_a_journal_whose_name_begins_with_a_hyphen_is_no_option_in_the_printed_command(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    await write_journal("-all.db", [snapshot("j0")])
    done = run("--to", "csv", "-o", "-", "--", "-all.db")
    assert done.stderr.endswith("adepoll resume ./-all.db --out DIR\n")
