"""The plugin in separate pytest runs, with the plugins that its users may have."""

import os
import re
import sys
from pathlib import Path

import pytest

import adepoll

pytest_plugins = ["pytester"]

TESTING = Path(__file__).parents[2] / "docs" / "testing.md"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
A_TEST = re.compile(r"^(?:async )?def test_", re.MULTILINE)

INI = """
[pytest]
addopts =
    --strict-markers --strict-config
    -p no:schemathesis -p no:cacheprovider -p no:randomly -p no:faker
filterwarnings = error
"""
ASYNCIO = "asyncio_default_fixture_loop_scope = function\n"  # else pytest-asyncio warns
PLAIN = ("-p", "no:asyncio", "-p", "no:anyio")


class Imported:
    """A plugin that records which modules the runs of a test have imported.

    Attributes:
        modules: The modules, by name.
    """

    def __init__(self):
        self.modules = {}

    def pytest_unconfigure(self):
        self.modules |= sys.modules


@pytest.fixture
def imported(tmp_path):
    """Keeps the modules that a run has imported, although pytester removes them after the test.

    If a library such as anyio imports its parts when they are first used, a removed part would be
    imported again in a later test, and exist twice.
    """
    plugin = Imported()
    yield plugin
    for name, module in plugin.modules.items():
        if not str(getattr(module, "__file__", None)).startswith(str(tmp_path.parent)):
            sys.modules.setdefault(name, module)


@pytest.fixture
def project(imported, pytester, monkeypatch):
    """A project in which every warning is an error, and a pytest that runs its tests.

    It runs in this process, or in a fresh one if the test is about that.
    """
    # The project must use this copy of adepoll, not an installed one.
    here = Path(adepoll.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", str(here), prepend=os.pathsep)

    class Project:
        def run(self, code="", *arguments, conftest="", fresh=False, **files):
            pytester.makeini(INI if "no:asyncio" in arguments else INI + ASYNCIO)
            pytester.makeconftest(conftest)
            pytester.makepyfile(code, **files)
            if fresh:
                return pytester.runpytest_subprocess("-rA", *arguments, timeout=150)
            return pytester.runpytest_inprocess("-rA", *arguments, plugins=[imported])

    return Project()


ASYNC = """
    import pytest
    from adepoll import JobWatcher
    from adepoll.emulator import JobPlan

    clients = []

    {mark}
    async def test_a_job(ade, ade_client):
        clients.append(ade_client)
        job_id = ade.submit(JobPlan())
        assert (await ade_client.get_job(job_id)).is_terminal
        async with JobWatcher(ade_client) as watcher:
            assert (await watcher.wait(job_id)).is_terminal
        assert ade.truth(job_id).polls == ade_client.stats.requests == 2

    {mark}
    async def test_another_in_the_same_process(ade, ade_client):
        assert (await ade_client.list_jobs()).jobs == ()
        assert ade.truth.requests.list == 1
        clients.append(ade_client)

    def test_their_clients_are_closed():
        assert [client._transport.is_closed for client in clients] == [True, True]
"""


@pytest.mark.parametrize(
    ("mark", "arguments"),
    [
        ("@pytest.mark.asyncio", ["-p", "no:anyio"]),
        ("", ["-p", "no:anyio", "-o", "asyncio_mode=auto"]),
        ("@pytest.mark.asyncio(loop_scope='session')", ["-p", "no:anyio"]),
        ("@pytest.mark.anyio", ["-p", "no:asyncio"]),
        ("@pytest.mark.anyio", []),
    ],
    ids=["asyncio strict", "asyncio auto", "asyncio session", "anyio", "anyio beside asyncio"],
)
def test_async_tests_can_use_the_fixtures(project, mark, arguments):
    """The client works in the test's loop and is closed; otherwise there would be warnings."""
    conftest = """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
    """
    project.run(ASYNC.format(mark=mark), *arguments, conftest=conftest).assert_outcomes(passed=3)


def test_synchronous_tests_need_no_plugin_for_asyncio(project):
    outcome = project.run(
        """
        import asyncio
        import threading
        from adepoll.emulator import JobPlan

        def test_a_loop_of_its_own(ade, ade_client):
            job_id = ade.submit(JobPlan())
            assert asyncio.run(ade_client.get_job(job_id)).is_terminal
            assert ade.truth(job_id).polls == 1

        def test_no_loop_at_all(ade, ade_client):
            assert ade_client.base_url == ade.base_url

        def test_nothing_is_left():
            assert not [t for t in threading.enumerate() if "adepoll" in t.name]
        """,
        *PLAIN,
    )
    outcome.assert_outcomes(passed=3)


@pytest.mark.parametrize("scope", ["function", "session"])
def test_async_fixtures_can_use_the_client_during_teardown(project, scope):
    outcome = project.run(
        f"""
        import pytest_asyncio

        @pytest_asyncio.fixture(loop_scope="{scope}")
        async def jobs(ade, ade_client):
            await ade_client.list_jobs()
            yield ade_client
            await ade_client.list_jobs()
            assert ade.truth.requests.list == 3

        @pytest_asyncio.fixture(loop_scope="{scope}")
        async def more_jobs(jobs):
            yield jobs

        import pytest

        @pytest.mark.asyncio(loop_scope="{scope}")
        async def test_jobs(more_jobs):
            await more_jobs.list_jobs()
        """
    )
    outcome.assert_outcomes(passed=1)


def test_each_test_has_its_own_emulator(project):
    outcome = project.run(
        """
        import pytest

        job_ids = set()

        @pytest.mark.parametrize("number", range(3))
        def test_it(ade, number):
            assert not list(ade.truth.jobs())
            job_ids.add(ade.submit())

        def test_the_seed_is_the_same():
            assert len(job_ids) == 1
        """,
        *PLAIN,
    )
    outcome.assert_outcomes(passed=4)


def test_the_environment_points_to_the_emulator_and_is_restored(project, monkeypatch):
    for name in ("LANDINGAI_ADE_BASE_URL", "LANDINGAI_ADE_V2_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no server
    monkeypatch.setenv("VISION_AGENT_API_KEY", "another-key")
    monkeypatch.setenv("LANDINGAI_ADE_ENVIRONMENT", "eu")
    outcome = project.run(
        """
        import asyncio, json, os, subprocess, sys
        from adepoll import AdeClient
        from adepoll.emulator import JobPlan
        from landingai_ade import LandingAIADE

        NAMES = [name for name in os.environ if "ADE" in name or name == "VISION_AGENT_API_KEY"]
        BEFORE = {name: os.environ[name] for name in NAMES}

        def test_adepoll(ade, ade_env):
            assert ade_env is ade

            async def main(job_id):
                async with AdeClient() as client:
                    return await client.get_job(job_id)

            assert asyncio.run(main(ade.submit(JobPlan()))).is_terminal

        def test_the_official_sdk(ade_env):
            with LandingAIADE(max_retries=0) as sdk:
                assert str(sdk.base_url).rstrip("/") == sdk._v2_base_url == ade_env.base_url
                job = sdk.extract_jobs.get(ade_env.submit(JobPlan()))
            assert job.status == "completed"

        def test_a_process(ade_env):
            job_id = ade_env.submit(JobPlan())
            command = [sys.executable, "-m", "adepoll", "get", job_id]
            out = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
            assert json.loads(out)["job_id"] == job_id

        def test_the_environment_is_restored():
            assert {name: os.environ[name] for name in NAMES} == BEFORE
            assert len(NAMES) == 4
        """,
        *PLAIN,
        "-Wdefault",  # warnings of the SDK
        fresh=True,
    )
    outcome.assert_outcomes(passed=4)


def test_marks_set_options_and_the_nearest_mark_wins(project):
    outcome = project.run(
        """
        import pytest
        from adepoll.emulator import Profile, make_fault

        pytestmark = pytest.mark.ade(seed=1, api_key="module-key", list_lag=2.0)

        @pytest.mark.ade(seed=2, profile=Profile(median=60.0, sigma=0.0))
        class TestNearest:
            @pytest.mark.ade(seed=3, faults=[make_fault("not-found")])
            def test_served(self, ade, ade_client):
                assert (ade.seed, ade.api_key, ade.world.list_lag) == (3, "module-key", 2.0)
                assert [fault.name for fault in ade.faults] == ["not-found"]
                truth = ade.truth(ade.submit())
                assert round(truth.finished_at - truth.received_at, 3) == 60.0
                assert ade_client._transport._key.reveal() == "module-key"

            def test_replayed(self, ade_world):
                assert (ade_world.world.seed, ade_world.world.list_lag) == (2, 2.0)
                truth = ade_world.truth(ade_world.submit())
                assert round(truth.finished_at - truth.received_at, 3) == 60.0

        def test_of_the_module(ade_world):
            assert ade_world.world.seed == 1
        """,
        *PLAIN,
    )
    outcome.assert_outcomes(passed=3)


def test_jobs_without_a_plan_are_quick_unless_a_mark_sets_a_profile(project):
    outcome = project.run(
        """
        import pytest

        def duration(ade, **options):
            truth = ade.truth(ade.submit(**options))
            return truth.finished_at - truth.received_at

        def test_quick(ade):
            assert duration(ade, kind="v2-parse") == pytest.approx(0.05)

        @pytest.mark.ade(profile={"median": 60, "sigma": 0}, profiles={"v1-parse": {"median": 0}})
        def test_slow(ade):
            assert duration(ade) == pytest.approx(60)
            assert duration(ade, kind="v1-parse") == 0
        """,
        *PLAIN,
    )
    outcome.assert_outcomes(passed=2)


WRONG = [
    ("sed=3", "ade", "unknown option 'sed'; the options are: api_key, seed, *faults*"),
    ("sed=3", "ade_world", "unknown option 'sed'; the options are: api_key, seed, *faults*"),
    ("clock=print", "ade_world", "unknown option 'clock'; the options are: *"),
    ("3", "ade", "options must be passed by name, as in seed=3"),
    ("profile={'medain': 1}", "ade", "a profile has no field 'medain'; the fields are: median, *"),
    ("profile={'failed': 2}", "ade_world", "'failed' must be <= 1: 2"),
    ("profiles={'v3': {}}", "ade", "no kind of job is named 'v3'; kinds: v1-extract, *"),
    ("list_order='sideways'", "ade", "*'sideways'*"),
    ("faults=['no-such-fault']", "ade_world", "*no-such-fault*"),
]


def test_invalid_options_fail_the_test_with_one_line(project):
    outcome = project.run(
        "import pytest\n"
        + "".join(
            f"@pytest.mark.ade({mark})\ndef test_{number}({fixture}): pass\n"
            for number, (mark, fixture, _) in enumerate(WRONG)
        ),
        *PLAIN,
    )
    outcome.assert_outcomes(errors=len(WRONG))
    lines = [f"@pytest.mark.ade, for the fixture {name}: {message}" for _, name, message in WRONG]
    outcome.stdout.fnmatch_lines(lines)
    outcome.stdout.no_fnmatch_line("*Traceback*")
    outcome.stdout.no_fnmatch_line("*During handling*")


def test_the_emulator_is_imported_only_when_a_test_uses_it(project):
    outcome = project.run(
        """
        import sys

        def test_it(request):
            assert "adepoll.contrib.pytest" in sys.modules
            assert "adepoll.contrib.testing" not in sys.modules
            assert "adepoll.emulator" not in sys.modules
            assert "aiohttp.web" not in sys.modules
            request.getfixturevalue("ade")
            assert "aiohttp.web" in sys.modules
        """,
        *PLAIN,
        fresh=True,
    )
    outcome.assert_outcomes(passed=1)


def test_pytest_lists_the_marker_and_the_fixtures(project):
    shown = project.run("", *PLAIN, "--markers").stdout.str()
    assert "@pytest.mark.ade(**options): options of the emulator" in shown
    shown = project.run("", *PLAIN, "--fixtures").stdout.str()
    for fixture in ("ade", "ade_client", "ade_env", "ade_world"):
        assert re.search(rf"^{fixture} -- \S+contrib.pytest.py:\d+\n +\w+", shown, re.MULTILINE)


def test_fixtures_of_the_project_override_those_of_the_plugin(project):
    outcome = project.run(
        """
        def test_it(ade, ade_env):
            assert ade_env.base_url == "http://127.0.0.1:9"
        """,
        *PLAIN,
        conftest="""
        import pytest
        from types import SimpleNamespace

        @pytest.fixture
        def ade():
            return SimpleNamespace(api_key="key", base_url="http://127.0.0.1:9")
        """,
    )
    outcome.assert_outcomes(passed=1)


def test_the_plugin_can_be_disabled(project):
    outcome = project.run("def test_it(ade): pass", *PLAIN, "-p", "no:adepoll")
    outcome.assert_outcomes(errors=1)
    outcome.stdout.fnmatch_lines(["*fixture 'ade' not found*"])


def test_the_tests_in_the_documentation_pass_as_printed(project):
    examples = [code for code in PYTHON.findall(TESTING.read_text("utf-8")) if A_TEST.search(code)]
    tests = sum(len(A_TEST.findall(code)) for code in examples)
    assert (len(examples), tests) >= (2, 5)
    files = {f"test_example_{number}": code for number, code in enumerate(examples)}
    project.run(**files).assert_outcomes(passed=tests)
