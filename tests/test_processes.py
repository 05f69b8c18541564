"""Tests that run in forked processes: every report arrives, and a process that dies is replaced."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SUPPORT = Path(__file__).with_name("support")
TESTS = """
    import os

    import pytest

    @pytest.fixture(scope="session", autouse=True)
    def mine(tmp_path_factory):
        yield tmp_path_factory.mktemp("mine")
        with open({ended!r}, "a") as file:
            file.write(f"{{__name__}} {{os.getpid()}}\\n")

    @pytest.mark.parametrize("number", range(20))
    def test_passes(number, mine, tmp_path):
        assert mine.parent == tmp_path.parent

    def test_prints_and_fails():
        print("what it", "printed")
        assert 1 + 1 == 3

    @pytest.mark.skip(reason="a reason")
    def test_is_skipped():
        pass
"""


@pytest.fixture
def run(pytester):
    """Run test files by name, with options; return the result."""

    def run(*options, **files):
        pytester.makepyfile(**files)
        pytester.makeconftest("from processes import pytest_addoption, pytest_runtestloop")
        (pytester.path / "pytest.ini").write_text(f"[pytest]\npythonpath = {SUPPORT}\n")
        ours = (
            "-p",
            "no:randomly",
            "-p",
            "no:schemathesis",
            "-p",
            "no:asyncio",
            "--processes",
            "3",
        )
        return pytester.runpytest_subprocess(*ours, *options, timeout=120)

    return run


def test_all_reports_arrive_and_fixtures_end_with_each_process(run, tmp_path):
    ended = tmp_path / "ended"
    ended.touch()
    tests = TESTS.format(ended=str(ended))
    result = run("-ra", test_one=tests, test_two=tests)
    result.assert_outcomes(passed=40, failed=2, skipped=2)
    out = result.stdout.str()
    assert out.count("what it printed") == out.count("a reason") == 2
    lines = ended.read_text().splitlines()
    assert len(lines) == len(set(lines)) >= 2


def test_a_process_that_dies_fails_its_test_and_is_replaced(run):
    dying = """
        import os

        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_dies_at_two(number):
            if number == 2:
                os.abort()
    """
    result = run(test_dying=dying)
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(["*the process ended during this test, with the exit code -6*"])


def test_the_run_stops_after_the_first_failure_if_asked_to(run):
    failing = """
        import pytest

        @pytest.mark.parametrize("number", range(500))
        def test_fails(number):
            assert False
    """
    result = run("-x", test_failing=failing)
    assert result.ret == 1
    assert 1 <= result.parseoutcomes()["failed"] < 400
    result.stdout.fnmatch_lines(["*stopping after * failures*"])
