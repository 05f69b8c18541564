"""The progress display: its numbers, plain lines, and the live display on a terminal."""

import asyncio
import io
import os
import pty
import re
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from adepoll import BatchProgress
from adepoll.api.models import JobStatus
from adepoll.cli import progress
from adepoll.cli.batch_state import (
    BatchState,
    Speed,
    describe,
    format_bytes,
    format_duration,
    format_rate,
    state_of_batch,
)
from adepoll.cli.demo_run import DownloadCounter
from adepoll.cli.progress import (
    Display,
    DownloadView,
    ExportView,
    LiveView,
    PlainView,
    View,
    progress_view,
)

MANY = BatchState(
    known=50_000,
    complete=True,
    settled={JobStatus.FAILED: 24, JobStatus.COMPLETED: 1180},
    requests=1300,
    time_left=720.0,
)

COUNT = st.integers(0, 10**7)
STATES = st.builds(
    BatchState,
    known=COUNT,
    complete=st.booleans(),
    settled=st.dictionaries(st.sampled_from(JobStatus), COUNT),
    unresolved=COUNT,
    not_fetched=COUNT,
    fetching=st.integers(0, 64),
    bytes_fetched=st.integers(0, 10**14),
    requests=COUNT,
    failure=st.none() | st.text(),
    throttled_for=st.floats(0, 10_000),
    time_left=st.none() | st.floats(0, 10**7),
)


def speed_of(jobs=0.0, size=0.0):
    speed = Speed(60)
    speed.jobs, speed.bytes = jobs, size
    return speed


def drawn(state, width, speed=None):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Display(state, speed or speed_of(), 75.0))
    return console.file.getvalue().splitlines()


# --- numbers -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 1000)), min_size=1))
def test_speed_is_the_increase_divided_by_the_time(steps):
    speed, now, count = Speed(60), 0.0, 0
    seen = [(now, count)]
    speed.add(now, BatchState(known=0, complete=False))
    for seconds, jobs in steps:
        now, count = now + seconds, count + jobs
        seen.append((now, count))
        speed.add(
            now,
            BatchState(
                known=0,
                complete=False,
                settled={JobStatus.COMPLETED: count},
                bytes_fetched=1000 * count,
            ),
        )
    before = [sample for sample in seen[:-1] if sample[0] <= now - 60] or seen[:1]
    since, was = before[-1]
    assert speed.jobs == pytest.approx((count - was) / (now - since))
    assert speed.bytes == pytest.approx(1000 * speed.jobs)


def test_there_is_no_speed_before_some_time_has_passed():
    speed = Speed(60)
    assert (speed.jobs, speed.bytes) == (0, 0)
    for _ in range(2):
        speed.add(5, BatchState(known=9, complete=True, settled={JobStatus.COMPLETED: 9}))
        assert (speed.jobs, speed.bytes) == (0, 0)


def test_jobs_settled_by_an_earlier_run_do_not_count_for_the_speed():
    speed = Speed(60)
    speed.add(0, BatchState(known=10, complete=True))
    settled = {JobStatus.COMPLETED: 9}
    speed.add(1, BatchState(known=10, complete=True, settled=settled, settled_before=7))
    assert speed.jobs == 2


def test_received_bytes_are_counted_and_bytes_of_an_earlier_attempt_are_not():
    downloads = DownloadCounter()
    with downloads.count_one() as progress_of_one, downloads.count_one() as progress_of_other:
        assert downloads.in_progress == 2
        progress_of_one(1000, 5000)  # from an earlier attempt
        progress_of_one(1500, 5000)
        progress_of_other(0, None)
        progress_of_other(10, None)
        progress_of_one(0, 7000)  # another version: starts again
        progress_of_one(100, 7000)
        assert downloads.bytes == 610
    assert (downloads.in_progress, downloads.bytes) == (0, 610)


def test_a_failed_download_is_no_longer_in_progress():
    downloads = DownloadCounter()
    with pytest.raises(OSError, match="full"), downloads.count_one():
        raise OSError("full")
    assert downloads.in_progress == 0


@pytest.mark.parametrize(
    ("format_number", "number", "text"),
    [
        (format_duration, 0.1, "1 s"),
        (format_duration, 1.6, "2 s"),
        (format_duration, 89, "89 s"),
        (format_duration, 90, "2 min"),
        (format_duration, 5_399, "90 min"),
        (format_duration, 5_400, "2 h"),
        (format_duration, 720, "12 min"),
        (format_duration, 7200, "2 h"),
        (format_rate, 0, "0/s"),
        (format_rate, 0.05, "3.0/min"),
        (format_rate, -1, "0/s"),
        (format_rate, 0.099, "5.9/min"),
        (format_rate, 0.1, "0.1/s"),
        (format_rate, 1.25, "1.2/s"),
        (format_rate, 9.99, "10.0/s"),
        (format_rate, 10, "10/s"),
        (format_rate, 1234.5, "1,234/s"),
        (format_bytes, 12_000, "12 kB"),
        (format_bytes, 999_999, "1000 kB"),
        (format_bytes, 1_000_000, "1 MB"),
        (format_bytes, 999_999_999, "1000 MB"),
        (format_bytes, 1_000_000_000, "1.0 GB"),
        (format_bytes, 999_900_000_000, "999.9 GB"),
        (format_bytes, 1_000_000_000_000, "1.0 TB"),
        (format_bytes, 12_340_000, "12 MB"),
        (format_bytes, 12_340_000_000, "12.3 GB"),
    ],
)
def test_numbers_have_a_suitable_unit(format_number, number, text):
    assert format_number(number) == text


def test_a_line_describes_the_whole_state():
    assert describe(MANY, speed_of(35)) == (
        "1,204 of 50,000 settled (1,180 completed, 24 failed), 35/s, 1,300 requests, "
        "about 12 min left"
    )
    state = attrs.evolve(
        MANY,
        complete=False,
        unresolved=1,
        not_fetched=2,
        failure="cannot connect to ade.example:443",
        throttled_for=5,
        fetching=4,
        bytes_fetched=120_000_000,
    )
    assert describe(state, speed_of(35, 8_200_000)) == (
        "1,204 of at least 50,000 settled (1,180 completed, 24 failed), 1 unresolved, "
        "2 results not fetched, requests fail: cannot connect to ade.example:443, 35/s, "
        "1,300 requests, throttled for 5 s, 4 downloads, "
        "120 MB fetched, 8 MB/s"
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"requests": 0}, "0 of 1 settled, 0/s"),
        ({"requests": 1}, "0 of 1 settled, 0/s, 1 request"),
        ({"throttled_for": 0.9}, "0 of 1 settled, 0/s"),
        ({"throttled_for": 1.0}, "0 of 1 settled, 0/s, throttled for 1 s"),
        ({"fetching": 1}, "0 of 1 settled, 0/s, 1 download"),
        ({"bytes_fetched": 5_000}, "0 of 1 settled, 0/s, 5 kB fetched"),
        (
            {"fetching": 2, "bytes_fetched": 5_000},
            "0 of 1 settled, 0/s, 2 downloads, 5 kB fetched, 7 kB/s",
        ),
        ({"time_left": 0.0}, "0 of 1 settled, 0/s, about 1 s left"),
        ({"complete": False, "time_left": 9.0}, "0 of at least 1 settled, 0/s"),
        ({"failure": "x" * 300}, f"0 of 1 settled, requests fail: {'x' * 160}..., 0/s"),
        (
            {"settled": {JobStatus.CANCELLED: 1, JobStatus.FAILED: 0}},
            "1 of 1 settled (1 cancelled), 0/s",
        ),
    ],
)
def test_a_line_has_only_what_applies(fields, text):
    state = BatchState(**({"known": 1, "complete": True} | fields))
    assert describe(state, speed_of(0.0, 7_000)) == text


def test_one_failed_request_is_no_problem_yet():
    def failure(in_a_row):
        stats = SimpleNamespace(
            failures_in_a_row=in_a_row, last_failure="reset", requests=3, gate_closed_for=1.5
        )
        client = SimpleNamespace(stats=stats)
        batch = SimpleNamespace(
            progress=BatchProgress(known=9, missed=2, before=4), time_left=lambda: 5.0
        )
        return state_of_batch(batch, client)

    assert failure(1).failure is None
    state = failure(2)
    assert (state.failure, state.requests, state.throttled_for) == ("reset", 3, 1.5)
    assert (state.known, state.not_fetched, state.settled_before) == (9, 2, 4)
    assert (state.time_left, state.total) == (None, None)  # more ids may follow


# --- plain lines ---------------------------------------------------------------------------------


@pytest.fixture
def printed(monkeypatch):
    """The time and the text of each printed line."""
    lines = []
    monkeypatch.setattr(
        progress, "say", lambda text: lines.append((asyncio.get_running_loop().time(), text))
    )
    return lines


def test_plain_lines_are_printed_every_10_s_at_first_then_every_minute(replay, printed):
    settled = 0

    def source():
        nonlocal settled
        settled += 1
        return BatchState(known=10_000, complete=True, settled={JobStatus.COMPLETED: settled})

    async def script():
        await asyncio.sleep(7)
        with PlainView(source):
            await asyncio.sleep(250)

    replay(script)
    assert [at for at, _ in printed] == [17, 27, 37, 47, 57, 67, 127, 187, 247]
    assert printed[0][1] == "adepoll: 2 of 10,000 settled (2 completed), 0.1/s"


def test_plain_lines_are_rare_while_nothing_changes_and_report_new_problems_within_10_s(
    replay, printed
):
    state = MANY

    async def script():
        nonlocal state
        with PlainView(lambda: state):
            await asyncio.sleep(1405)
            for problem in (
                {"throttled_for": 1.0},
                {"unresolved": 1},
                {"not_fetched": 1},
                {"failure": "the service is down"},
            ):
                state = attrs.evolve(state, **problem)
                await asyncio.sleep(10)

    replay(script)
    assert [at for at, _ in printed][6:] == [660, 1260, 1410, 1420, 1430, 1440]
    shown = [line for _, line in printed[-4:]]
    texts = ("throttled for 1 s", "1 unresolved", "1 result", "the service is down")
    assert all(text in line for text, line in zip(texts, shown, strict=True))


def test_no_line_is_printed_after_stop(replay, printed):
    async def script():
        with PlainView(lambda: MANY) as view:
            await asyncio.sleep(15)
            view.close()
            view.close()
            await asyncio.sleep(100)

    replay(script)
    assert len(printed) == 1


# --- on a terminal -------------------------------------------------------------------------------


@example(BatchState(known=1, complete=True, failure="x" * 200), 120, 1.0, 1.0)
@given(STATES, st.integers(30, 200), st.floats(0, 10**6), st.floats(0, 10**10))
def test_the_display_fits_any_width_and_omits_nothing(state, width, jobs, size):
    speed = speed_of(jobs, size)
    lines = drawn(state, width, speed)
    assert all(cell_len(line) <= min(width, 100) for line in lines)
    assert f"{state.settled_count:,}/" in lines[0]
    shown = "  ".join(lines)
    text = describe(state, speed)
    assert format_rate(jobs) in shown
    for status, count in state.by_status():
        assert f"{count:,} {status.value}" in shown
    for part in ("unresolved", "results not fetched", "throttled for", "fetched", " left"):
        assert (part in shown) == (part in text)


def test_the_display_has_three_lines_or_more_and_never_breaks_a_part():
    state = attrs.evolve(MANY, fetching=4, bytes_fetched=120_000_000)
    bar, found, pace, left = drawn(state, 70, speed_of(35, 8_200_000))
    assert [bar.split()[0], *bar.split()[2:]] == ["settled", "1,204/50,000", "0:01:15"]
    assert found.strip() == "1,180 completed  24 failed"
    assert pace.strip() == "35/s  1,300 requests  4 downloads  120 MB fetched  8 MB/s"
    assert left.strip() == "about 12 min left"
    assert len(drawn(state, 100, speed_of(35, 8_200_000))) == 3


def test_a_narrow_terminal_has_no_bar():
    assert drawn(MANY, 30)[0].split() == ["settled", "1,204/50,000", "0:01:15"]
    assert drawn(MANY, 20)[:2] == ["set…  1,204/5…  0:0…", "1,180 completed"]
    assert drawn(MANY, 26)[1] == "1,180 completed  24 failed"


@contextmanager
def at_terminal():
    """Make stderr a terminal; yields the other end of it."""
    ours, theirs = pty.openpty()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(theirs, "w") as stderr:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", stderr)
        patch.setattr(sys, "__stderr__", stderr)
        yield ours
    os.close(ours)


def all_of(terminal):
    """Return everything that was shown; the kernel passes it on in pieces, and later."""
    sys.stderr.write("\0")  # the last piece ends with it
    sys.stderr.flush()
    shown = b""
    while not shown.endswith(b"\0"):
        shown += os.read(terminal, 65536)
    return shown.removesuffix(b"\0").decode()


def test_the_display_is_updated_and_removed_at_the_end(replay):
    settled = 0

    def source():
        return BatchState(known=9, complete=True, settled={JobStatus.COMPLETED: settled})

    async def script():
        nonlocal settled
        await asyncio.sleep(100)
        with LiveView(source):
            settled = 7
            await asyncio.sleep(0.3)

    with at_terminal() as terminal:
        replay(script)
        shown = all_of(terminal)
    assert shown.index("0/9") < shown.index("7/9") < shown.rindex("\x1b[2K")
    assert "0:00:00" in shown
    assert shown.index("\x1b[?25l") < shown.index("7/9") < shown.index("\x1b[?25h")


def test_a_line_is_printed_above_the_display_and_not_wrapped(replay, monkeypatch):
    path = "results/" + 30 * "long-name"

    async def script():
        monkeypatch.setattr(sys, "stdout", sys.stderr)
        with LiveView(lambda: MANY) as view:
            await view.line(f"completed [b]  {path}")
            await asyncio.sleep(0)

    with at_terminal() as terminal:
        replay(script)
        shown = all_of(terminal)
    assert f"completed [b]  {path}" in shown
    assert shown.index("1,204/50,000") < shown.index(path) < shown.rindex("1,204/50,000")


def test_a_line_goes_to_a_pipe_while_the_display_is_on_the_terminal(replay, monkeypatch):
    pipe = io.BytesIO()

    async def script():
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="utf-8"))
        with LiveView(lambda: MANY) as view:
            await view.line("x" * 300)

    with at_terminal():
        replay(script)
    assert pipe.getvalue() == b"x" * 300 + b"\n"


def lines_of(shown):
    """Return the lines of a terminal, without control sequences."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown))


@pytest.mark.parametrize("width", [20, 26, 60, 80])
def test_the_display_leaves_room_for_the_echo_of_ctrl_c(replay, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))

    async def script():
        with LiveView(lambda: MANY):
            await asyncio.sleep(1)

    with at_terminal() as terminal:
        replay(script)
        shown = all_of(terminal)
    assert max(map(len, lines_of(shown))) <= width - len("^C")


def test_a_download_is_shown_on_stderr_with_the_name_of_its_file():
    with at_terminal() as terminal:
        with DownloadView("a[b].json") as view:
            view.update(2**20, 3 * 2**20)
        shown = all_of(terminal)
    assert shown.index("a[b].json") < shown.index("1.0/3.0 MiB") < shown.rindex("\x1b[2K")


@pytest.mark.parametrize("width", [60, 80])
def test_a_long_name_of_a_download_is_cut_and_the_numbers_are_not(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    with at_terminal() as terminal:
        with DownloadView("cdfa4cc8-8805-4e31-88a0-edce4384860c.json") as view:
            view.update(2**20, 3 * 2**20)
        shown = all_of(terminal)
    assert "cdfa4cc8-" in shown
    assert "1.0/3.0 MiB" in shown
    assert shown.count("\x1b[1A") == 1  # the display has one line, so one line is erased
    assert max(map(len, lines_of(shown))) <= width - len("^C")  # Ctrl-C shows this at the end


def test_an_export_is_shown_on_stderr_until_its_end():
    with at_terminal() as terminal:
        with ExportView() as view:
            view.update(120, 4_000)
        shown = all_of(terminal)
    assert shown.index("jobs read") < shown.index("120/4000") < shown.rindex("\x1b[2K")


def test_a_closed_terminal_does_not_end_the_batch(replay, monkeypatch):
    discarded = []

    def fail(*_args, **_kwargs):
        raise OSError("gone")

    monkeypatch.setattr(progress, "discard", discarded.append)

    async def script():
        with LiveView(lambda: MANY):
            monkeypatch.setattr(progress.Live, "update", fail)
            await asyncio.sleep(10)

    with at_terminal():
        replay(script)
    assert discarded


def test_the_view_depends_on_stderr(monkeypatch):
    with at_terminal():
        assert type(progress_view(lambda: MANY)) is LiveView
        assert type(progress_view(lambda: MANY, quiet=True)) is View
        monkeypatch.setenv("TERM", "dumb")
        assert type(progress_view(lambda: MANY)) is PlainView
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(progress_view(lambda: MANY)) is PlainView


def test_quiet_shows_nothing_and_never_calls_the_source(replay, capsys):
    async def script():
        with progress_view(lambda: 1 / 0, quiet=True) as view:
            await asyncio.sleep(100)
            view.close()

    replay(script)
    assert capsys.readouterr() == ("", "")
