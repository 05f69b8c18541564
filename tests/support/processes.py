"""Run tests in several processes that have collected them together: ``--processes 4``.

Collecting the tests takes 10 to 20 s of CPU, most of it for imports and rewritten asserts. Here
they are collected once; then the processes are forked. A process takes the tests of one file after
another, and at the end half of the file that has most tests left. One that dies fails its test, and
another takes its place.
"""

import atexit
import collections
import contextlib
import io
import multiprocessing
import os
import signal
import sys
import traceback
from multiprocessing import connection

import pytest


def pytest_addoption(parser):
    """Add the option ``--processes``."""
    parser.addoption("--processes", type=int, default=1, help="number of processes that run tests")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    """Run the tests in processes, unless one is enough or pytest is to do something else."""
    option = session.config.option
    if option.processes < 2 or option.collectonly or session.testsfailed:
        return None
    _Run(session).play(min(option.processes, len(session.items)))
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


class _Worker:
    """A process that runs tests, as its parent sees it."""

    def __init__(self, number):
        self.number = number
        self.pipe, self.theirs = multiprocessing.Pipe()
        self.waiting = collections.deque()  # tests that are not sent yet
        self.running = collections.deque()  # the test that runs, and the next one
        self.is_told = False  # that there are no more
        self.pid = None


class _Run:
    """Gives tests to processes, and their reports to the plugins of this process."""

    def __init__(self, session):
        self._session = session
        self._hook = session.config.hook
        files = {}
        for index, item in enumerate(session.items):
            files.setdefault(item.path, collections.deque()).append(index)
        # Scenarios take longest, so they must not be the last.
        self._files = collections.deque(sorted(files.values(), key=self._is_short))
        self._workers = []
        self._started = 0

    def _is_short(self, file):
        return "scenarios" not in self._session.items[file[0]].path.parts

    def play(self, count):
        self._session.config._tmp_path_factory.getbasetemp()  # the processes make theirs in it
        try:
            for _ in range(count):
                self._start()
            while self._workers:
                by_pipe = {worker.pipe: worker for worker in self._workers}
                for pipe in connection.wait(by_pipe):
                    self._receive(by_pipe[pipe])
        finally:
            for worker in self._workers:
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)

    def _start(self):
        self._started += 1
        worker = _Worker(self._started)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        worker.pid = os.fork()
        if not worker.pid:
            for other in (*self._workers, worker):
                other.pipe.close()  # else it would not notice the end of its parent
            _work(self._session, worker.number, worker.theirs)
        worker.theirs.close()
        self._workers.append(worker)
        for _ in range(2):  # pytest needs to know the next test when it ends one
            self._send(worker)

    def _send(self, worker):
        if worker.is_told:
            return
        index = self._next(worker)
        if index is None:
            worker.is_told = True
        else:
            worker.running.append(index)
        with contextlib.suppress(BrokenPipeError):  # it has died, which `_receive` is about to see
            worker.pipe.send(index)

    def _next(self, worker):
        if self._session.shouldfail or self._session.shouldstop:
            return None
        if not worker.waiting and self._files:
            worker.waiting = self._files.popleft()
        if not worker.waiting:
            richest = max(self._workers, key=lambda other: len(other.waiting))
            for _ in range((len(richest.waiting) + 1) // 2):
                worker.waiting.appendleft(richest.waiting.pop())
        return worker.waiting.popleft() if worker.waiting else None

    def _receive(self, worker):
        try:
            data = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._ended(worker)
            return
        if isinstance(data, str):
            raise RuntimeError(f"a process cannot run tests:\n{data}")  # noqa: TRY004 - data, no argument
        if data is not None:
            report = self._hook.pytest_report_from_serializable(
                config=self._session.config, data=data
            )
            self._hook.pytest_runtest_logreport(report=report)
            return
        self._finished(worker)
        self._send(worker)

    def _finished(self, worker):
        item = self._session.items[worker.running.popleft()]
        self._hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _ended(self, worker):
        self._workers.remove(worker)
        _, status = os.waitpid(worker.pid, 0)
        worker.pipe.close()
        if not worker.running:
            return
        item = self._session.items[worker.running[0]]
        code = os.waitstatus_to_exitcode(status)
        text = f"the process ended during this test, with the exit code {code}"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
        self._hook.pytest_runtest_logreport(report=report)
        self._finished(worker)
        left = collections.deque([*worker.running, *worker.waiting])
        if left:
            self._files.appendleft(left)
            self._start()


def _work(session, number, pipe):
    """Run the tests whose numbers come from the pipe, and end the process."""
    status = 1
    try:
        _become_silent(session.config, number)
        session.config.pluginmanager.register(_Reports(session.config, pipe))
        index = pipe.recv()
        while index is not None:
            following = pipe.recv()
            nextitem = None if following is None else session.items[following]
            session.config.hook.pytest_runtest_protocol(
                item=session.items[index], nextitem=nextitem
            )
            pipe.send(None)
            index = following
        session.config.hook.pytest_unconfigure(config=session.config)
        atexit._run_exitfuncs()
        status = 0
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the parent has ended, or is about to
    except Exception:  # noqa: BLE001 - told to the parent
        pipe.send(traceback.format_exc())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _become_silent(config, number):
    """Give the process captured output, a terminal and a folder of its own."""
    config.get_terminal_writer()._file = io.StringIO()
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()
    factory = config._tmp_path_factory
    factory._basetemp = factory.getbasetemp() / f"process-{number}"
    factory._basetemp.mkdir(0o700)


class _Reports:
    """Sends the reports of tests to the parent."""

    def __init__(self, config, pipe):
        self._config = config
        self._pipe = pipe

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report):
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._pipe.send(data)
