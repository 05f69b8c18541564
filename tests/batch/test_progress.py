"""How far a batch has come, and the rate of outcomes, for the time that is left."""

import pytest
from journalling import snapshot

from adepoll import JobRef, JobStatus
from adepoll.batch.progress import BatchProgress, OutcomeRate, RunCounters
from adepoll.errors import ClosedError
from adepoll.journal.outcomes import Counts, Stage, credits_of
from adepoll.watching.watch import UnresolvedJob

META = {"filename": "a.pdf", "duration_ms": 1500, "credit_usage": 2.5, "job_id": "a"}


def rate_of(times, now):
    rate = OutcomeRate()
    for time in times:
        rate.add(1, time)
    return rate.per_second(now)


def test_a_steady_rate_is_found():
    for seconds in (5, 60, 600):
        times = [100 + number / 4 for number in range(4 * seconds)]
        assert rate_of(times, times[-1]) == pytest.approx(4, rel=0.1)


def test_the_rate_follows_a_change_and_a_standstill():
    fast = [number / 10 for number in range(1_000)]
    slow = [100 + number for number in range(150)]
    assert rate_of([*fast, *slow], 250) == pytest.approx(1, rel=0.1)
    assert rate_of(fast, 250) < 0.1


def test_few_outcomes_give_no_rate():
    assert rate_of([], 100) is None
    assert rate_of([float(number) for number in range(19)], 19) is None
    assert rate_of([0.01 * number for number in range(50)], 0.5) is None


def test_the_rate_is_known_from_the_20th_outcome_and_the_first_second_on():
    rate = OutcomeRate()
    rate.add(19, 100.0)
    assert rate.per_second(102.0) is None
    rate.add(1, 100.5)
    assert rate.per_second(100.999) is None
    assert rate.per_second(101.0) == pytest.approx(20, rel=0.03)
    assert rate.per_second(110.0) == pytest.approx(2, rel=0.2)


COUNTS = Counts(
    jobs=20,
    by_stage={Stage.WAITING: 4, Stage.FETCHING: 3, Stage.DONE: 6, Stage.GIVEN_UP: 7},
    by_status={"completed": 8, "failed": 2, "cancelled": 1},
    partial=2,
    credits=1.5,
)


def test_a_run_begins_with_the_numbers_of_the_journal():
    counters = RunCounters()
    counters.begin(COUNTS)
    assert counters.progress() == BatchProgress(
        known=20,
        settled={JobStatus.COMPLETED: 8, JobStatus.FAILED: 2, JobStatus.CANCELLED: 1},
        before=11,
        missed=2,  # settled, but neither done nor being fetched
        unresolved=5,  # the others that were given up
        open=7,
        partial=2,
        credits=1.5,
    )
    assert counters.ended == 16


def test_a_run_counts_how_its_jobs_end():
    counters = RunCounters()
    counters.begin(COUNTS)
    job = snapshot("a", metadata=META | {"schema_violation_error": "total is missing"})
    counters.record_ends([job, snapshot("b", "failed"), UnresolvedJob("c", ClosedError("x"))])
    counters.record_outcomes(3, 100.0)
    counters.bytes_complete = 5
    counters.bytes_partial |= {JobRef("d"): 2, JobRef("e"): 0}
    found = counters.progress()
    assert found.settled[JobStatus.COMPLETED] == 9
    assert found.settled[JobStatus.FAILED] == 3
    assert (found.unresolved, found.open, found.partial, found.credits) == (6, 4, 3, 4.0)
    assert (found.fetching, found.bytes_fetched, counters.ended) == (2, 7, 19)
    counters.settled[JobStatus.FAILED] -= 3
    assert JobStatus.FAILED not in counters.progress().settled


@pytest.mark.parametrize(
    ("used", "counted"),
    [(None, None), (0, 0.0), (2.5, 2.5), (10**12, 1e12), (10**12 + 1, None), (-1, None)],
)
def test_impossible_credits_are_not_counted(used, counted):
    assert credits_of(snapshot("a", metadata=META | {"credit_usage": used})) == counted
