"""What is shown while a batch runs: to people at a terminal, and to logs."""

import asyncio
import io
import os
import pty
import select
import sys
from contextlib import contextmanager

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from adepoll.api.models import JobStatus
from adepoll.cli import progress
from adepoll.cli.progress import Display, PlainView, ProgressView, View, show
from adepoll.cli.standing import (
    Downloads,
    Speed,
    Standing,
    in_bytes,
    in_time,
    in_words,
    roughly,
)

MANY = Standing(
    known=50_000,
    complete=True,
    settled={JobStatus.FAILED: 24, JobStatus.COMPLETED: 1180},
    requests=1300,
    time_left=720.0,
)

COUNT = st.integers(0, 10**7)
STANDINGS = st.builds(
    Standing,
    known=COUNT,
    complete=st.booleans(),
    settled=st.dictionaries(st.sampled_from(JobStatus), COUNT),
    unresolved=COUNT,
    missed=COUNT,
    fetching=st.integers(0, 64),
    bytes_fetched=st.integers(0, 10**14),
    requests=COUNT,
    throttled_for=st.floats(0, 10_000),
    time_left=st.none() | st.floats(0, 10**7),
)


def speed_of(jobs=0.0, size=0.0):
    speed = Speed(60)
    speed.jobs, speed.bytes = jobs, size
    return speed


def drawn(standing, width, speed=None):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Display(standing, speed or speed_of(), 75.0))
    return console.file.getvalue().splitlines()


# --- numbers -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 1000)), min_size=1))
def test_a_speed_is_what_came_over_the_time_it_took(steps):
    speed, now, count = Speed(60), 0.0, 0
    seen = [(now, count)]
    speed.take(now, Standing(known=0, complete=False))
    for seconds, jobs in steps:
        now, count = now + seconds, count + jobs
        seen.append((now, count))
        speed.take(
            now,
            Standing(
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


def test_what_an_earlier_run_had_settled_counts_neither_for_the_speed_nor_for_the_price():
    speed = Speed(60)
    speed.take(0, Standing(known=10, complete=True))
    standing = Standing(
        known=10, complete=True, settled={JobStatus.COMPLETED: 9}, before=7, requests=3
    )
    speed.take(1, standing)
    assert speed.jobs == 2
    assert standing.requests_per_job == 1.5


def test_downloads_are_counted_as_they_come_and_what_was_kept_is_not():
    downloads = Downloads()
    with downloads.one() as progress_of_one, downloads.one() as progress_of_other:
        assert downloads.under_way == 2
        progress_of_one(1000, 5000)  # kept by an earlier try
        progress_of_one(1500, 5000)
        progress_of_other(0, None)
        progress_of_other(10, None)
        progress_of_one(0, 7000)  # another version: from the beginning
        progress_of_one(100, 7000)
        assert downloads.bytes == 610
    assert (downloads.under_way, downloads.bytes) == (0, 610)


def test_a_download_that_fails_is_under_way_no_more():
    downloads = Downloads()
    with pytest.raises(OSError, match="full"), downloads.one():
        raise OSError("full")
    assert downloads.under_way == 0


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (roughly(0.1), "1 s"),
        (roughly(89), "89 s"),
        (roughly(720), "12 min"),
        (roughly(7200), "2 h"),
        (in_time(0), "0/s"),
        (in_time(0.05), "3.0/min"),
        (in_time(1.25), "1.2/s"),
        (in_time(1234.5), "1,234/s"),
        (in_bytes(12_000), "12 kB"),
        (in_bytes(12_340_000), "12 MB"),
        (in_bytes(12_340_000_000), "12.3 GB"),
    ],
)
def test_numbers_are_told_in_the_unit_that_suits_them(told, text):
    assert told == text


def test_a_line_tells_all_that_matters():
    assert in_words(MANY, speed_of(35)) == (
        "1,204 of 50,000 settled (1,180 completed, 24 failed), 35/s, 1.08 requests a job, "
        "about 12 min left"
    )
    standing = attrs.evolve(
        MANY,
        complete=False,
        unresolved=1,
        missed=2,
        throttled_for=5,
        fetching=4,
        bytes_fetched=120_000_000,
    )
    assert in_words(standing, speed_of(35, 8_200_000)) == (
        "1,204 of at least 50,000 settled (1,180 completed, 24 failed), 1 unresolved, "
        "2 results missed, 35/s, 1.08 requests a job, throttled for 5 s, 4 downloads, "
        "120 MB fetched, 8 MB/s"
    )


# --- plain lines ---------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch):
    """When each line was told, and the lines."""
    lines = []
    monkeypatch.setattr(
        progress, "say", lambda text: lines.append((asyncio.get_running_loop().time(), text))
    )
    return lines


def test_plain_lines_come_often_at_first_then_each_minute_while_something_happens(replay, told):
    ended = 0

    def source():
        nonlocal ended
        ended += 1
        return Standing(known=10_000, complete=True, settled={JobStatus.COMPLETED: ended})

    async def script():
        with PlainView(source):
            await asyncio.sleep(250)

    replay(script)
    assert [at for at, _ in told] == [10, 20, 30, 40, 50, 60, 120, 180, 240]
    assert told[0][1] == "adepoll: 2 of 10,000 settled (2 completed), 0.1/s, 0.00 requests a job"


def test_plain_lines_are_seldom_while_nothing_happens_and_tell_trouble_soon(replay, told):
    standing = MANY

    async def script():
        nonlocal standing
        with PlainView(lambda: standing):
            await asyncio.sleep(1405)
            standing = attrs.evolve(standing, throttled_for=30)
            await asyncio.sleep(10)
            standing = attrs.evolve(standing, unresolved=1)
            await asyncio.sleep(10)

    replay(script)
    assert [at for at, _ in told][6:] == [660, 1260, 1410, 1420]
    assert "throttled for 30 s" in told[-2][1]
    assert "1 unresolved" in told[-1][1]


def test_no_line_comes_after_the_end(replay, told):
    async def script():
        with PlainView(lambda: MANY) as view:
            await asyncio.sleep(15)
            view.stop()
            view.stop()
            await asyncio.sleep(100)

    replay(script)
    assert len(told) == 1


# --- on a terminal -------------------------------------------------------------------------------


@given(STANDINGS, st.integers(30, 200), st.floats(0, 10**6), st.floats(0, 10**10))
def test_the_display_fits_any_terminal_and_leaves_nothing_out(standing, width, jobs, size):
    speed = speed_of(jobs, size)
    lines = drawn(standing, width, speed)
    assert all(cell_len(line) <= min(width, 100) for line in lines)
    assert f"{standing.ended:,}/" in lines[0]
    shown = "  ".join(lines)
    told = in_words(standing, speed)
    assert in_time(jobs) in shown
    for status, count in standing.by_status():
        assert f"{count:,} {status.value}" in shown
    for part in ("unresolved", "results missed", "throttled for", "fetched", " left"):
        assert (part in shown) == (part in told)


def test_the_display_has_three_lines_and_breaks_no_part_where_they_do_not_suffice():
    standing = attrs.evolve(MANY, fetching=4, bytes_fetched=120_000_000)
    bar, found, pace, left = drawn(standing, 80, speed_of(35, 8_200_000))
    assert [bar.split()[0], *bar.split()[2:]] == ["settled", "1,204/50,000", "0:01:15"]
    assert found.strip() == "1,180 completed  24 failed"
    assert pace.strip() == "35/s  1.08 requests a job  4 downloads  120 MB fetched  8 MB/s"
    assert left.strip() == "about 12 min left"
    assert len(drawn(standing, 100, speed_of(35, 8_200_000))) == 3


def test_a_narrow_terminal_does_without_the_bar():
    assert drawn(MANY, 30)[0].split() == ["settled", "1,204/50,000", "0:01:15"]


@contextmanager
def at_terminal():
    """Make stderr a terminal; gives the end at which one sits."""
    ours, theirs = pty.openpty()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(theirs, "w") as stderr:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", stderr)
        patch.setattr(sys, "__stderr__", stderr)
        yield ours
    os.close(ours)


def all_of(terminal):
    """Give all that was shown; one read need not."""
    shown = b""
    while select.select([terminal], [], [], 0)[0]:
        shown += os.read(terminal, 65536)
    return shown.decode()


def test_the_display_is_kept_up_to_date_and_taken_away_at_the_end(replay):
    ended = 0

    def source():
        return Standing(known=9, complete=True, settled={JobStatus.COMPLETED: ended})

    async def script():
        nonlocal ended
        with ProgressView(source):
            ended = 7
            await asyncio.sleep(0.3)

    with at_terminal() as terminal:
        replay(script)
        shown = all_of(terminal)
    assert shown.index("0/9") < shown.index("7/9")
    assert shown.index("\x1b[?25l") < shown.index("7/9") < shown.index("\x1b[?25h")


def test_a_line_goes_above_the_display_and_is_not_broken_in_two(replay, monkeypatch):
    path = "results/" + 30 * "long-name"

    async def script():
        monkeypatch.setattr(sys, "stdout", sys.stderr)
        with ProgressView(lambda: MANY) as view:
            await view.line(f"completed [b]  {path}")
            await asyncio.sleep(0)

    with at_terminal() as terminal:
        replay(script)
        shown = all_of(terminal)
    assert f"completed [b]  {path}" in shown
    assert shown.index("1,204/50,000") < shown.index(path) < shown.rindex("1,204/50,000")


def test_a_line_for_a_pipe_goes_there_beside_the_display(replay, monkeypatch):
    pipe = io.StringIO()

    async def script():
        monkeypatch.setattr(sys, "stdout", pipe)
        with ProgressView(lambda: MANY) as view:
            await view.line("x" * 300)

    with at_terminal():
        replay(script)
    assert pipe.getvalue() == "x" * 300 + "\n"


def test_a_terminal_that_is_closed_ends_no_batch(replay, monkeypatch):
    gone = []

    def is_gone(*_args, **_kwargs):
        raise OSError("gone")

    monkeypatch.setattr(progress, "drop", gone.append)

    async def script():
        with ProgressView(lambda: MANY):
            monkeypatch.setattr(progress.Live, "update", is_gone)
            await asyncio.sleep(10)

    with at_terminal():
        replay(script)
    assert gone


def test_the_view_is_that_which_suits_stderr(monkeypatch):
    with at_terminal():
        assert type(show(lambda: MANY)) is ProgressView
        assert type(show(lambda: MANY, quiet=True)) is View
        monkeypatch.setenv("TERM", "dumb")
        assert type(show(lambda: MANY)) is PlainView
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(show(lambda: MANY)) is PlainView


def test_quiet_shows_nothing_and_asks_nobody(replay, capsys):
    async def script():
        with show(lambda: 1 / 0, quiet=True) as view:
            await asyncio.sleep(100)
            view.stop()

    replay(script)
    assert capsys.readouterr() == ("", "")
