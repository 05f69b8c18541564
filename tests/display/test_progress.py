"""progress: shows what is there to show it, and changes nothing about the loop."""

import asyncio
import io
import sys
import threading
import types

import pytest
from batching import make_client
from rich.console import Console

import adepoll
from adepoll import Batch, JobStatus, JobWatcher, ResultFetcher, UnresolvedJobsError
from adepoll.display import downloads, streams, views
from adepoll.display.views import HtmlBar, State
from adepoll.emulator import Emulator, JobPlan


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, value):
        self.shown.append(value)


@pytest.fixture
def notebook(monkeypatch):
    """Pretend that a kernel runs the test; return what is displayed."""
    shown = []

    def display(value, *, display_id):
        assert display_id
        shown.append(value)
        return Handle(shown)

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


@pytest.fixture
async def ade():
    async with Emulator() as emulator:
        yield emulator


@pytest.fixture
async def client(ade):
    async with make_client(ade) as client:
        yield client


def submit(ade, count, **plan):
    return [ade.submit(JobPlan(**({"processing_time": 0.0} | plan))) for _ in range(count)]


async def test_a_notebook_shows_a_bar_that_ends_complete(ade, client, notebook):
    job_ids = submit(ade, 3)
    async with JobWatcher(client) as watcher:
        jobs = [job async for job in adepoll.progress(watcher.watch(job_ids))]
    assert {job.job_id for job in jobs} == set(job_ids)
    assert repr(notebook[-1]) == "settled 3 of 3, 3 completed"
    assert '<progress style="width:20em" value="3" max="3"' in notebook[-1]._repr_html_()


async def test_a_batch_and_a_batch_that_was_delivered_already(ade, client, notebook, tmp_path):
    job_ids = [*submit(ade, 2), *submit(ade, 1, outcome=adepoll.emulator.Outcome.FAILED)]
    for _ in range(2):
        async with Batch(client, journal=tmp_path / "b.db") as batch:
            outcomes = [outcome async for outcome in adepoll.progress(batch.run(job_ids))]
    assert outcomes == []
    assert repr(notebook[-1]).endswith(
        "3 acknowledged in earlier runs; run(replay=True) yields them again"
    )
    assert any(repr(shown) == "settled 3 of 3, 2 completed, 1 failed" for shown in notebook)


async def test_the_total_is_unknown_until_all_ids_have_been_read(ade, client, notebook):
    async def ids():
        for job_id in submit(ade, 2):
            yield job_id

    async with JobWatcher(client) as watcher:
        async for _ in adepoll.progress(watcher.watch(ids())):
            pass
    assert repr(notebook[0]) == "settled 0 of ?"
    assert repr(notebook[-1]) == "settled 2 of 2, 2 completed"


async def test_errors_pass_through_and_close_the_view(ade, client, notebook):
    (job_id,) = submit(ade, 1, processing_time=1e6)
    async with JobWatcher(client) as watcher:
        with pytest.raises(UnresolvedJobsError):
            async for _ in adepoll.progress(watcher.watch([job_id], timeout=0.05)):
                pass
    assert repr(notebook[-1]) == "settled 1 of 1, 1 unresolved"


async def test_leaving_the_loop_ends_the_watch(ade, client, notebook):
    job_ids = [*submit(ade, 1), *submit(ade, 1, processing_time=1e6)]
    async with JobWatcher(client) as watcher:
        async for _ in adepoll.progress(watcher.watch(job_ids)):
            break
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert watcher.stats.watched == 0


@pytest.mark.parametrize("decorate", [adepoll.progress, lambda watch: watch])
async def test_a_watch_ends_with_an_interrupted_cell(ade, client, notebook, decorate):
    """A notebook keeps the traceback of the cell, and so all objects in its frames."""
    job_ids = [*submit(ade, 1), *submit(ade, 1, processing_time=1e6)]
    first = asyncio.Event()

    async def cell(watcher):
        async for _ in decorate(watcher.watch(job_ids)):
            first.set()

    async with JobWatcher(client) as watcher:
        running = asyncio.create_task(cell(watcher))
        await first.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError) as interruption:
            await running
        for _ in range(10):  # steps of the event loop
            await asyncio.sleep(0)
        assert (watcher.stats.watched, watcher.stats.subscribers) == (0, 0)
        assert interruption.tb is not None


async def test_nothing_is_shown_elsewhere(ade, client, capfd):
    async with JobWatcher(client) as watcher:
        jobs = [job async for job in adepoll.progress(watcher.watch(submit(ade, 2)))]
    assert len(jobs) == 2
    assert capfd.readouterr() == ("", "")


async def test_a_terminal_shows_a_bar(ade, client, monkeypatch):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    view = views.TerminalView(console)
    monkeypatch.setattr("adepoll.display.streams.make_view", lambda: view)
    async with JobWatcher(client) as watcher:
        async for _ in adepoll.progress(watcher.watch(submit(ade, 2))):
            pass
    assert "settled 2 of 2, 2 completed" in file.getvalue()


def test_a_terminal_shows_a_long_text_as_a_whole():
    file = io.StringIO()
    view = views.TerminalView(Console(file=file, force_terminal=True, width=80))
    details = (
        "1 completed",
        "1,250 acknowledged in earlier runs; run(replay=True) yields them again",
    )
    state = views.State(name="settled", done=1, total=2, details=details)
    view.show(state)
    view.close()
    assert [word for word in state.text.split() if word not in file.getvalue()] == []


def test_a_bar_needs_neither_a_stdout_nor_a_thread(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    file, before = io.StringIO(), threading.enumerate()
    view = views.TerminalView(Console(file=file, force_terminal=True, width=80))
    view.show(views.State(name="[b]", done=1, total=2))
    assert threading.enumerate() == before
    assert "[b] 1 of 2" in file.getvalue()
    view.close()


def test_what_is_printed_stays_on_a_stdout_that_is_no_terminal(capsys):
    file = io.StringIO()
    view = views.TerminalView(Console(file=file, force_terminal=True, width=80))
    view.show(views.State(name="settled", done=1, total=2))
    print("job-1")  # noqa: T201 - what a user's loop does
    view.close()
    assert capsys.readouterr().out == "job-1\n"
    assert "job-1" not in file.getvalue()


@pytest.mark.parametrize(
    "shell", [None, types.SimpleNamespace(), types.SimpleNamespace(kernel=None)]
)
def test_ipython_in_a_terminal_is_no_notebook(notebook, monkeypatch, shell):
    assert isinstance(views.make_view(), views.NotebookView)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert views.make_view() is None


@pytest.mark.parametrize(("term", "kind"), [("xterm", views.TerminalView), ("dumb", type(None))])
def test_only_a_terminal_that_can_draw_a_bar_has_one(monkeypatch, term, kind):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", term)
    assert type(views.make_view()) is kind


def test_a_program_without_stderr_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert views.make_view() is None


async def test_a_terminal_without_rich_shows_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert views.make_view() is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (1_500_000, "1.5 MB"),
        (999_960_000, "1.0 GB"),
    ],
)
def test_sizes_have_decimal_units(size, text):
    state = views.State(name="received", done=size, total=None, is_size=True)
    assert state.text == f"received {text} of ?"


async def test_a_download(ade, client, notebook, tmp_path):
    (job_id,) = submit(ade, 1, result_bytes=1_500_000)
    async with ResultFetcher(client, allow_private=True) as fetcher:
        with adepoll.download_progress(job_id) as show:
            await fetcher.download(job_id, tmp_path / "r.json", progress=show)
    assert repr(notebook[-1]) == f"{job_id} 1.5 MB of 1.5 MB"


def test_a_download_is_drawn_ten_times_per_second_and_at_its_end(monkeypatch):
    shown, closed = [], []
    view = types.SimpleNamespace(show=shown.append, close=lambda: closed.append(len(shown)))
    monkeypatch.setattr(downloads, "make_view", lambda: view)
    times = iter((0.1, 0.15, 0.25, 0.3))
    monkeypatch.setattr(downloads, "time", types.SimpleNamespace(monotonic=lambda: next(times)))
    with adepoll.download_progress("a") as show:
        for received in (1, 2, 3, 4):
            show(received, 9)
    states = [State(name="a", done=done, total=9, is_size=True) for done in (1, 3, 4)]
    assert (shown, closed) == (states, [3])
    with adepoll.download_progress("a"):
        pass
    assert shown[3:] == [State(name="a", done=0, total=None, is_size=True)]


def test_a_download_without_a_view_shows_nothing(monkeypatch):
    monkeypatch.setattr(downloads, "make_view", lambda: None)
    with adepoll.download_progress() as show:
        show(1, None)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (999_949_000, "999.9 MB"),
        (999_950_000, "1.0 GB"),
        (3_200_000_000_000, "3200.0 GB"),
    ],
)
def test_sizes_have_a_suitable_unit(size, text):
    assert (
        State(name="received", done=size, total=None, is_size=True).text == f"received {text} of ?"
    )


def test_open_jobs_are_shown_before_the_end_and_earlier_runs_after_it():
    found = types.SimpleNamespace(
        settled={JobStatus.COMPLETED: 2, JobStatus.FAILED: 0}, unresolved=1, missed=1, partial=2,
        open=2, before=3, known=5, complete=False,
    )  # fmt: skip
    details = ["2 completed", "1 unresolved", "1 not fetched", "2 partial"]
    earlier = "3 acknowledged in earlier runs; run(replay=True) yields them again"
    for yielded, ended, total, more in (
        (0, False, None, ["2 open"]),
        (1, True, 5, []),
        (0, True, 5, [earlier]),
    ):
        state = streams._state_of(found, "settled", yielded, ended=ended)
        assert state == State(name="settled", done=3, total=total, details=[*details, *more])
    found.open = 0
    assert streams._state_of(found, "settled", 0, ended=False).details == details
    found.complete = True
    assert streams._state_of(found, "settled", 0, ended=False).total == 5


def test_the_text_of_a_state_has_its_details():
    state = State(name="settled", done=1_234, total=5_000, details=["3 failed", "2 open"])
    assert state.text == "settled 1,234 of 5,000, 3 failed, 2 open"
    assert 'value="1234" max="5000"' in HtmlBar(state)._repr_html_()
    empty = State(name="<b>", done=0, total=0)
    assert HtmlBar(empty)._repr_html_() == (
        '<div><progress style="width:20em" value="0" max="1"></progress> &lt;b&gt; 0 of 0</div>'
    )
    unknown = State(name="a", done=7, total=None)
    assert HtmlBar(unknown)._repr_html_() == (
        '<div><progress style="width:20em"></progress> a 7 of ?</div>'
    )
