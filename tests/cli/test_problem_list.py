"""The list of problems at the end of a batch names jobs as other commands accept them."""

from journalling import snapshot

from adepoll import JobKind
from adepoll.cli.problem_list import ProblemList
from adepoll.errors import JobNotFoundError
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
