"""Fixtures that several test files share; the classes behind them are in `tests/support`."""

import asyncio
import functools
import gc
import os
import random
import re
import tempfile
from pathlib import Path

import attrs
import collecting
import dispositions
import exceptiontext
import forkserver
import pytest
from answering import AnsweringClient
from batching import Scene, make_client
from clocks import Clock
from collecting import pytest_collection_modifyitems, pytest_configure_node  # noqa: F401 - hooks
from hypothesis import settings
from internals import timers
from longlived import pytest_collection, pytest_runtest_protocol  # noqa: F401 - hooks
from openfiles import many_files
from rawstorage import Bucket, RawStorage
from scripted import ScriptedSource
from stacks import pytest_runtest_makereport  # noqa: F401 - the import registers the hook

from adepoll.emulator import Emulator, run
from adepoll.emulator.kinds.v1_extract import extraction_parts
from adepoll.fetcher import ResultFetcher


def pytest_addoption(parser):
    group = parser.getgroup("adepoll")
    group.addoption(
        "--order-seed",
        type=int,
        default=random.randrange(1_000_000),
        help="seed of the order of tests within each file; default: a random one",
    )
    group.addoption("--model-seeds", type=int, help="number of scenarios of the model test")
    group.addoption("--fuzz-examples", type=int, default=25, help="inputs for each decoder")
    group.addoption("--fuzz-seed", type=int, default=0, help="seed of these inputs")
    group.addoption("--model-first", type=int, default=0, help="seed of its first scenario")


def pytest_report_header(config):
    return f"Using --order-seed={config.option.order_seed}"


def pytest_configure(config):
    dispositions.reset_inherited()
    collecting.start_elsewhere(config)


def pytest_unconfigure():
    forkserver.stop_servers()


_NOBODY = 65534  # the id of the user "nobody"

# No test asserts how long something takes, on a busy machine least of all.
settings.register_profile("adepoll", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("adepoll")


# Variables that change what the code under test, its child processes or its peers do.
_FOREIGN = re.compile(
    r"\w+_PROXY|NETRC|SSL_CERT_(FILE|DIR)|(VISION_AGENT|LANDINGAI|AWS|OTEL|XDG|_ADEPOLL)_\w+|"
    r"CI|COLUMNS|LINES|(NO|FORCE)_COLOR|CLICOLOR(_FORCE)?|COLORTERM|TTY_\w+|WEB_CONCURRENCY|"
    r"PYTHONUNBUFFERED",
    re.IGNORECASE,
)


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory):
    """Run all tests without the user's keys, proxies, terminal settings and home folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(_FOREIGN.fullmatch, [*os.environ]):
            patch.delenv(name)
        patch.setenv("TERM", "xterm")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def replay():
    """Run a script (a coroutine function) in virtual time, and see that it leaves nothing behind.

    Anything that the loop complains of ("never retrieved", a failed callback), any task and any
    timer still set when the script is over fails the test.
    """

    def play(script):
        async def main():
            complaints = []
            asyncio.get_running_loop().set_exception_handler(
                lambda _loop, context: complaints.append(context)
            )
            result = await script()
            for _ in range(3):  # for what a finalizer has only just set going
                await asyncio.sleep(0)
            gc.collect(1)
            await asyncio.sleep(0)
            assert not complaints
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert not timers()
            return result

        return run(main())

    return play


@pytest.fixture
def scripted():
    """The class `ScriptedSource`."""
    return ScriptedSource


@pytest.fixture
def all_text_of():
    """The function `exceptiontext.all_text_of`."""
    return exceptiontext.all_text_of


@pytest.fixture
def path(tmp_path):
    """The path of a journal that does not exist yet."""
    return tmp_path / "batch.db"


@pytest.fixture
def clock():
    """A `Clock`: Unix seconds that stand still until a test moves them."""
    return Clock()


@pytest.fixture
def folder_as_nobody():
    """A folder that this process owns, which loses root's powers until the test ends."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if is_root:
            try:
                os.chown(folder, _NOBODY, _NOBODY)
                os.seteuid(_NOBODY)
            except OSError as exc:
                pytest.skip(f"this root cannot become another user: {exc}")
        try:
            # The folders of `tmp_path` let only their owner through, and `TMPDIR` may be so too.
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
                pytest.skip(f"another user cannot reach {folder.parent}; set TMPDIR")
            yield folder
        finally:
            if is_root:
                os.seteuid(0)


@pytest.fixture
def thousand_files():
    """Let the test open 1,000 files; some systems allow 256 unless a program asks for more."""
    with many_files(1_000):
        yield


@pytest.fixture
async def bucket():
    """A running `Bucket`."""
    async with Bucket() as running:
        yield running


@pytest.fixture
async def storage():
    """A running `RawStorage`."""
    async with RawStorage() as running:
        yield running


@pytest.fixture
async def other_storage():
    """Another `RawStorage`, at an origin of its own."""
    async with RawStorage() as running:
        yield running


@pytest.fixture(scope="session")
def result_body():
    """Make the JSON of a result, of about that many bytes."""

    @functools.cache
    def make(size=2_000):
        metadata = {
            "filename": "document.md",
            "org_id": None,
            "duration_ms": 1,
            "credit_usage": 1.0,
            "job_id": "job-1",
            "version": None,
        }
        parts = extraction_parts(None, metadata, random.Random("0/job-1"))
        return parts.fit(size, modified=0.0).read()

    return make


@pytest.fixture
def stored():
    """Make the snapshot of a completed job whose result is behind that URL."""

    def make(url=None, *, job_id="job-1", status="completed", **fields):
        snapshot = ScriptedSource.snapshot(job_id, status)
        return attrs.evolve(snapshot, output_url=url, **fields)

    return make


@pytest.fixture
def answering():
    """The class `AnsweringClient`."""
    return AnsweringClient


@pytest.fixture
async def fetch(answering):
    """Make a fetcher over a client that gives these answers; `asked` has the ids it asked for."""
    made = []

    def make(*answers, attempts=3, **options):
        client = answering(*answers, attempts=attempts)
        client.asked = make.asked
        options.setdefault("patience", 0)
        fetcher = ResultFetcher(client, **options)
        made.append(fetcher)
        return fetcher

    make.asked = []
    yield make
    for fetcher in made:
        await fetcher.aclose()


@pytest.fixture
async def scene(path, tmp_path):
    """A `Scene`: a service in this loop, with a folder for batches."""
    async with Emulator() as ade, make_client(ade) as client:
        yield Scene(ade=ade, client=client, journal=path, out_dir=tmp_path / "results")
