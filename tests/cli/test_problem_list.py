"""The list of problems at the end of a batch names jobs as other commands accept them."""

from journalling import snapshot

from adepoll import JobKind
from adepoll.cli.problem_list import ProblemList
from adepoll.errors import JobNotFoundError, ResultUnavailableError
from adepoll.journal.outcomes import Outcome


def problems(*outcomes):
    found = ProblemList()
    for outcome in outcomes:
        found.add(outcome)
    return found.lines()


def lost(job_id, kind, label=None):
    error = JobNotFoundError(status=404, job_id=job_id)
    return Outcome(job_id=job_id, kind=kind, label=label, error=error)


def failed(job_id, kind):
    job = snapshot(job_id, "failed", failure_reason="bad scan")
    return Outcome(job_id=job_id, kind=kind, snapshot=job)


def test_a_job_has_its_kind_before_its_id_if_the_id_does_not_say_it():
    (line,) = problems(failed("a", JobKind.V1_PARSE))
    assert line == "failed: v1-parse/a: bad scan"
    (line,) = problems(lost("a", JobKind.V1_PARSE))
    assert line.startswith("unresolved: job v1-parse/a: the service answered 404")
    (line,) = problems(failed("a", JobKind.V1_EXTRACT))
    assert line == "failed: a: bad scan"


def test_jobs_of_several_kinds_with_the_same_message_are_one_group():
    lines = problems(lost("a", JobKind.V1_PARSE, "x.pdf"), lost("job-2", JobKind.V1_EXTRACT))
    assert lines[0].startswith("unresolved: the service answered 404")
    assert lines[0].endswith("(2 jobs)")
    assert lines[1:] == ["  v1-parse/a (x.pdf)", "  job-2"]


def many(count, reason, first=0):
    for number in range(first, first + count):
        job = snapshot(f"j{number}", "failed", failure_reason=reason)
        yield Outcome(job_id=f"j{number}", snapshot=job)


def test_a_job_with_a_message_of_its_own_is_one_line():
    assert problems(*many(1, "one"), *many(1, "two", 1)) == ["failed: j0: one", "failed: j1: two"]


def test_twenty_jobs_are_listed():
    assert len(problems(*many(20, "x"))) == 21
    lines = problems(*many(21, "x"))
    assert lines[0] == "failed: x (21 jobs)"
    assert lines[1:] == [*(f"  j{number}" for number in range(20)), "  ... and 1 more"]
    assert problems(*many(1_234, "x"))[-1] == "  ... and 1,214 more"


def test_the_listed_jobs_are_spread_evenly_over_the_messages():
    lines = problems(*many(30, "a"), *many(30, "b", 100), *many(3, "c", 200))
    assert lines[0] == "failed: a (30 jobs)"
    assert lines[1:10] == [f"  j{number}" for number in range(9)]
    assert "  ... and 21 more" in lines
    assert "  ... and 22 more" in lines
    assert lines[-4:] == ["failed: c (3 jobs)", "  j200", "  j201", "  j202"]
    assert sum(line.startswith("  j") for line in lines) == 20


def test_other_messages_are_counted_by_kind():
    outcomes = [next(many(1, f"reason {number}", number)) for number in range(21)]
    assert len(problems(*outcomes[:20])) == 20
    lines = problems(*outcomes, *many(1, "reason 3", 50))
    assert lines[-1] == "... and 1 more: failed"
    assert lines[3:6] == ["failed: reason 3 (2 jobs)", "  j3", "  ... and 1 more"]
    gone = Outcome(job_id="x", error=JobNotFoundError(status=404, job_id="x"))
    missing = ResultUnavailableError(job_id="y")
    unread = Outcome(job_id="y", snapshot=snapshot("y"), error=missing)
    lines = problems(*outcomes, *many(1_999, "new", 100), gone, unread)
    assert lines[-3:] == [
        "... and 2,000 more: failed",
        "... and 1 more: unresolved: JobNotFoundError",
        "... and 1 more: result not fetched: ResultUnavailableError",
    ]
