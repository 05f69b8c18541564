"""adepoll.sync: the library without asyncio, against an emulator in another thread."""

import asyncio
import copy
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from adepoll import AdeClient, UnresolvedJob, progress, sync
from adepoll.contrib.testing.threaded import serve_in_thread
from adepoll.emulator import Emulator, JobPlan
from adepoll.errors import (
    ClosedError,
    JobTimeoutError,
    JournalBusyError,
    MissingApiKeyError,
    UnresolvedJobsError,
)
from adepoll.sync.background_loop import BackgroundLoop


@pytest.fixture(scope="module")
def ade():
    with serve_in_thread(Emulator()) as emulator:
        yield emulator


@pytest.fixture
def client(ade):
    return lambda: AdeClient(api_key=ade.api_key, base_url=ade.base_url)


@pytest.fixture
def session(client):
    with sync.Session(client) as session:
        yield session


def submit(ade, count=1, **plan):
    return [ade.submit(JobPlan(**({"processing_time": 0.0} | plan))) for _ in range(count)]


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "adepoll-sync"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert threads() == []


# --- functions -----------------------------------------------------------------------------------


def test_wait(ade, client):
    (job_id,) = submit(ade)
    assert sync.wait(job_id, client=client).job_id == job_id


def test_wait_raises_what_the_watcher_raises(ade, client):
    (job_id,) = submit(ade, processing_time=1e6)
    with pytest.raises(JobTimeoutError) as info:
        sync.wait(job_id, timeout=0.05, client=client)
    assert info.value.job_id == job_id


def test_watch(ade, client):
    job_ids = submit(ade, 3)
    assert {job.job_id for job in sync.watch(job_ids, client=client)} == set(job_ids)

    async def ids():
        for job_id in job_ids:
            yield job_id

    assert {job.job_id for job in sync.watch(ids(), client=client)} == set(job_ids)


def test_watch_raises_or_yields_what_is_unresolved(ade, client):
    job_ids = submit(ade, processing_time=1e6)
    (unresolved,) = sync.watch(job_ids, timeout=0.05, errors="yield", client=client)
    assert (unresolved.job_id, type(unresolved.error)) == (job_ids[0], JobTimeoutError)
    with pytest.raises(UnresolvedJobsError):
        list(sync.watch(job_ids, timeout=0.05, client=client))


def test_download(ade, client, tmp_path):
    (job_id,) = submit(ade, result_bytes=5_000)
    done = sync.download(job_id, tmp_path / "r.json", client=client)
    assert done.path.read_bytes() == ade.world.result(job_id).read()


def test_a_client_that_cannot_be_made_leaves_no_thread(monkeypatch):
    monkeypatch.delenv("VISION_AGENT_API_KEY", raising=False)
    with pytest.raises(MissingApiKeyError):
        sync.wait("job-1")
    session = sync.Session()
    for _ in range(2):  # a session that could not be opened is not open
        with pytest.raises(MissingApiKeyError), session:
            pass


# --- watch ---------------------------------------------------------------------------------------


def test_ids_may_come_from_a_generator_that_blocks(ade, session):
    job_ids = submit(ade, 3)
    seen = threading.Event()

    def slow_ids():
        yield job_ids[0]
        assert seen.wait(30)  # the loop goes on meanwhile
        yield from job_ids[1:]

    found = []
    for job in session.watch(slow_ids()):
        found.append(job.job_id)
        seen.set()
    assert found[0] == job_ids[0]
    assert set(found) == set(job_ids)


def test_an_error_of_the_ids_is_raised(ade, session):
    def ids():
        yield from submit(ade)
        raise LookupError("the database is gone")

    with pytest.raises(LookupError, match="the database is gone"):
        list(session.watch(ids()))


def test_ids_that_exit_do_not_end_the_session(ade, session):
    def ids():
        yield from submit(ade)
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit") as info:
        list(session.watch(ids()))
    assert isinstance(info.value.__cause__, SystemExit)
    assert session.wait(*submit(ade)).is_terminal


def test_a_client_function_that_exits_ends_the_program():
    with pytest.raises(SystemExit, match="no key"), sync.Session(partial(sys.exit, "no key")):
        pass


def test_a_callback_that_exits_does_not_end_the_session(ade, session, tmp_path):
    (job_id,) = submit(ade)
    with pytest.raises(SystemExit, match="enough"):
        session.download(job_id, tmp_path / "r.json", progress=lambda *_: sys.exit("enough"))
    assert session.wait(job_id).job_id == job_id


def test_texts_of_a_session_and_a_batch_say_their_state(client, tmp_path):
    session = sync.Session(client)
    assert repr(session) == "<adepoll.sync.Session not open>"
    with session, session.batch(journal=tmp_path / "b.db") as batch:
        assert repr(session) == "<adepoll.sync.Session open>"
        assert repr(batch).startswith("<adepoll.sync.Batch journal ")
        assert "b.db" in repr(batch)
    assert repr(session) == "<adepoll.sync.Session not open>"


def test_an_open_session_is_not_opened_again(ade, session):
    with pytest.raises(RuntimeError, match="the session is open already"):
        session.__enter__()
    assert session.wait(*submit(ade)).is_terminal


def test_a_client_in_place_of_the_function_that_creates_it_is_refused():
    with pytest.raises(TypeError, match=r"a function that creates the client, got object; use"):
        sync.wait("a", client=object())


def test_a_single_id_is_refused(session):
    with pytest.raises(TypeError):
        session.watch("job-1")


def test_unresolved_jobs_are_raised_or_yielded(ade, session):
    job_ids = submit(ade, processing_time=1e6)
    with pytest.raises(UnresolvedJobsError):
        list(session.watch(job_ids, timeout=0.05))
    (unresolved,) = session.watch(job_ids, timeout=0.05, errors="yield")
    assert isinstance(unresolved, UnresolvedJob)


def watched(session):
    async def stats():
        return session._watcher.stats

    return session.loop.run(stats())


@pytest.mark.parametrize("end", ["break", "close", "error"])
def test_a_generator_that_ends_early_ends_the_watch(ade, session, end):
    job_ids = [*submit(ade), *submit(ade, processing_time=1e6)]
    jobs = session.watch(job_ids)
    assert next(jobs).job_id == job_ids[0]
    if end == "break":
        for _ in session.watch(job_ids):
            break
    if end == "error":
        with pytest.raises(LookupError):
            jobs.throw(LookupError)
    jobs.close()
    assert watched(session).watched == 0
    assert list(jobs) == []


def test_a_function_that_ends_early_ends_its_session(ade, client):
    jobs = sync.watch([*submit(ade), *submit(ade, processing_time=1e6)], client=client)
    next(jobs)
    assert len(threads()) == 1
    jobs.close()


EXITING = """
import sys
from adepoll import AdeClient, sync
def client():
    return AdeClient(api_key=sys.argv[1], base_url=sys.argv[2])
session = sync.Session(client).__enter__()
open_watches = session.watch(sys.argv[3:]), sync.watch(sys.argv[3:], client=client)
for jobs in open_watches:
    print(next(jobs).job_id)
"""


@pytest.mark.thorough
def test_a_program_ends_with_open_watches(ade):
    job_ids = [*submit(ade), *submit(ade, processing_time=1e6)]
    command = [sys.executable, "-c", EXITING, ade.api_key, ade.base_url, *job_ids]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.split(), done.stderr) == ([job_ids[0]] * 2, "")


def test_nothing_waits_for_the_loop_at_the_end_of_the_program(ade, session, monkeypatch):
    """The interpreter has stopped the loop's thread then, so a wait would never end."""
    jobs = session.watch([*submit(ade), *submit(ade, processing_time=1e6)])
    next(jobs)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "is_finalizing", lambda: True)
        jobs.close()
        with pytest.raises(ClosedError):
            session.loop.run(asyncio.sleep(0))


def test_a_session_says_that_the_process_was_forked(ade, session, monkeypatch):
    """Only the thread that forks exists in the new process, so the loop does not run there."""
    jobs = session.watch([*submit(ade), *submit(ade, processing_time=1e6)])
    next(jobs)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 0)
        jobs.close()
        with pytest.raises(ClosedError, match="before this process was forked"):
            session.wait("job-1")
        assert repr(session) == "<adepoll.sync.Session not open>"
        copy.copy(session).close()  # the session of the new process
        session.loop.close()
    assert session.wait(*submit(ade)).job_id  # in the first process, the session goes on


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_ends_with_its_loop(monkeypatch):
    async def end_loop():
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.Event().wait()

    monkeypatch.setattr("adepoll.sync.background_loop._SLICE", 0.01)
    with pytest.raises(ClosedError, match="closed during this call"):
        BackgroundLoop().run(end_loop())


def test_a_call_that_ends_together_with_its_loop_has_its_result(monkeypatch):
    monkeypatch.setattr("adepoll.sync.background_loop._SLICE", 0.01)
    loop = BackgroundLoop()

    async def end_when_cancelled():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "result"

    def end_thread():
        loop.close()
        return False

    (thread,) = threads()
    monkeypatch.setattr(thread, "is_alive", end_thread)
    assert loop.run(end_when_cancelled()) == "result"


def test_a_call_can_last_longer_than_one_wait_for_its_end(monkeypatch):
    monkeypatch.setattr("adepoll.sync.background_loop._SLICE", 0.001)
    loop = BackgroundLoop()
    assert loop.run(asyncio.sleep(0.05, "result")) == "result"
    loop.close()


def test_closing_the_loop_waits_for_all_tasks_even_if_one_of_them_fails():
    ended = []

    async def fail():
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    async def end_later():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)
            ended.append(True)

    async def begin():
        tasks = [asyncio.create_task(task) for task in (fail(), end_later())]
        await asyncio.sleep(0)
        return tasks

    loop = BackgroundLoop()
    failed, _ = loop.run(begin())
    loop.close()
    assert ended
    assert loop.is_closed
    loop.close()
    assert isinstance(failed.exception(), ValueError)


# --- progress ------------------------------------------------------------------------------------


class Screen:
    """A view that keeps what it shows."""

    def __init__(self):
        self.shown = []
        self.closed_in = None

    def show(self, state):
        self.shown.append(state.text)

    def close(self):
        self.closed_in = threading.current_thread().name


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr("adepoll.display.streams.make_view", lambda: screen)
    return screen


def test_a_watch_shows_its_progress(ade, client, screen):
    job_ids = submit(ade, 3)
    assert len(list(sync.watch(job_ids, show_progress=True, client=client))) == 3
    assert screen.shown[-1] == "settled 3 of 3, 3 completed"


def test_a_batch_shows_its_progress(ade, session, screen):
    job_ids = submit(ade, 2)
    with session.batch() as batch:
        assert len(list(batch.run(job_ids, show_progress=True))) == 2
    assert screen.shown[-1] == "settled 2 of 2, 2 completed"


def test_the_bar_of_a_watch_that_is_left_ends_in_the_thread_of_the_loop(ade, session, screen):
    jobs = session.watch([*submit(ade), *submit(ade, processing_time=1e6)], show_progress=True)
    next(jobs)
    jobs.close()
    assert screen.closed_in == "adepoll-sync"


def test_progress_names_the_argument_for_a_generator(session):
    with pytest.raises(TypeError, match="pass show_progress=True"):
        progress(session.watch(["job-1"]))


def test_a_download_shows_its_progress(ade, client, tmp_path):
    (job_id,) = submit(ade, result_bytes=3_000)
    received = []
    path = tmp_path / "a.json"
    sync.download(job_id, path, progress=lambda *numbers: received.append(numbers), client=client)
    assert received[-1] == (3_000, 3_000)


# --- batch ---------------------------------------------------------------------------------------


def test_a_batch_runs_and_continues(ade, session, tmp_path):
    job_ids = submit(ade, 3, result_bytes=2_000)
    options = {"journal": tmp_path / "b.db", "out_dir": tmp_path / "r"}
    with session.batch(**options) as batch:
        for outcome in batch.run(job_ids):
            first = outcome
            break
    with session.batch(**options) as batch:
        outcomes = list(batch.run())
        assert {outcome.job_id for outcome in outcomes} == set(job_ids)
        assert first.job_id in {outcome.job_id for outcome in outcomes}
        assert all(outcome.file.path.exists() for outcome in outcomes)
        assert (batch.progress.known, batch.progress.open) == (3, 0)
        assert list(batch.run()) == []
        assert len(list(batch.run(replay=True))) == 3


def test_a_batch_that_is_not_open_says_how_to_open_it(session):
    with pytest.raises(ClosedError, match=r"with `with` in adepoll\.sync"):
        session.batch().run(["job-1"])


def test_a_session_closes_its_open_batches(ade, client, tmp_path):
    path = tmp_path / "b.db"
    with sync.Session(client) as session:
        closed, left = session.batch(), session.batch(journal=path)
        with closed:
            pass
        run = left.__enter__().run(submit(ade, processing_time=1e6))
        polls, errors = ade.world.traffic.get, []

        def read():
            try:
                next(run)
            except ClosedError as error:
                errors.append(error)

        reading = threading.Thread(target=read)
        reading.start()
        while ade.world.traffic.get == polls:
            time.sleep(0.002)
    reading.join()
    assert len(errors) == 1
    for batch in (closed, left):
        batch.close()  # a further call does nothing
    with sync.Session(client) as session, session.batch(journal=path):
        pass  # the journal is not locked any more


def test_a_batch_of_a_closed_session_is_refused(client):
    with sync.Session(client) as session:
        pass
    session.close()  # a further call does nothing
    with pytest.raises(ClosedError):
        session.batch()
    with pytest.raises(ClosedError):
        session.wait("job-1")


def test_a_journal_that_this_process_has_open_is_named_as_such(session, tmp_path):
    with session.batch(journal=tmp_path / "b.db"):
        with pytest.raises(JournalBusyError, match="in this process") as info:
            session.batch(journal=tmp_path / "b.db").__enter__()
        assert info.value.pid == os.getpid()
        assert "stop it" not in str(info.value)
        assert "with adepoll.sync: `batch.close()`" in str(info.value)


def run_batch(session, job_id):
    with session.batch() as batch:
        list(batch.run([job_id]))


CALLS = {
    "wait": lambda session, job_id: session.wait(job_id),
    "watch": lambda session, job_id: list(session.watch([job_id])),
    "batch": run_batch,
}


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill cannot send SIGINT there")
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_interrupts_a_call_and_the_session_goes_on(ade, session, call):
    (job_id,) = submit(ade, processing_time=1e6)
    polls = ade.world.traffic.get

    def interrupt():
        while ade.world.traffic.get == polls:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](session, job_id)
    thread.join()
    assert watched(session).watched == 0
    (other,) = submit(ade)
    assert session.wait(other).job_id == other


def test_threads_share_a_session(ade, session):
    job_ids = submit(ade, 4)
    found = []
    workers = [
        threading.Thread(target=lambda job_id=job_id: found.append(session.wait(job_id).job_id))
        for job_id in job_ids
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(found) == set(job_ids)


async def test_it_works_inside_of_a_running_event_loop(ade, client):
    (job_id,) = submit(ade)
    job = sync.wait(job_id, client=client)  # blocks this loop, as in a cell of a notebook
    assert job.job_id == job_id
    await asyncio.sleep(0)


def test_a_call_from_the_loop_itself_is_refused(session):
    async def call():
        return session.wait("job-1")

    with pytest.raises(RuntimeError, match="await instead"):
        session.loop.run(call())
