"""Records come to the right facts, in any order, and in memory that does not grow with them."""

import random
import tracemalloc

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from reporting import ADDED, record, warning

from adepoll.api.models import from_timestamp
from adepoll.journal.outcomes import RecordedError, Stage
from adepoll.report.collecting import Collector, collect
from adepoll.report.facts import Ending

STATUSES = ["completed", "failed", "cancelled", "missed", "unresolved", "waiting", "dreaming"]


@given(st.lists(st.sampled_from(STATUSES), max_size=40))
def test_every_job_is_of_one_ending(statuses):
    facts = collect(record(number, status) for number, status in enumerate(statuses, 1))
    assert sum(facts.endings.values()) == facts.jobs == len(statuses)
    assert facts.open == statuses.count("waiting")


@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.floats(0, 1e5)), max_size=30), st.randoms())
def test_the_order_of_records_changes_no_number(jobs, rng):
    records = [record(number, status, took=took) for number, (status, took) in enumerate(jobs, 1)]
    shuffled = rng.sample(records, len(records))
    one, other = collect(records), collect(shuffled)
    for name in ("endings", "durations", "lags", "curve", "slowest", "costs", "sizes", "settled"):
        assert getattr(one, name) == getattr(other, name)


def test_each_ending_is_told_from_the_others():
    stages = [
        record(1),
        record(2, "failed"),
        record(3, "cancelled"),
        record(4, "dreaming"),
        record(5, "missed"),
        record(6, "unresolved"),
        record(7, stage=Stage.FETCHING),
        record(8, "waiting"),
    ]
    assert collect(stages).endings == dict.fromkeys(Ending, 1)


def test_an_empty_batch_has_no_figures():
    facts = collect([])
    assert facts.jobs == facts.settled == facts.open == 0
    assert facts.durations is facts.detection_lag is facts.curve is facts.sizes is None
    assert facts.first_added is None


# --- time ---------------------------------------------------------------------------------------


def test_a_duration_is_the_services_where_it_told_one():
    facts = collect([record(1, took=30, lag=50), record(2, took=40, lag=2, measured=False)])
    spread = facts.durations.spread
    assert (spread.least, spread.most) == (30, 42)
    assert facts.measured == 1


def test_lag_is_from_the_end_as_far_as_the_service_told_it():
    facts = collect([record(1, lag=3), record(2, lag=5), record(3, measured=False)])
    assert (facts.detection_lag.spread.least, facts.detection_lag.spread.most) == (3, 5)
    assert facts.lags_unknown == 1


def test_lag_is_never_below_zero():
    assert collect([record(1, lag=-7)]).detection_lag.spread.most == 0


def test_lag_of_a_job_that_had_ended_before_it_was_added_counts_from_then():
    facts = collect([record(1, received=-90_000, took=20, lag=90_000 - 20 + 4)])
    assert facts.detection_lag.spread.most == pytest.approx(4)
    assert facts.ended_before == 1


def test_a_negative_duration_is_not_believed():
    facts = collect([record(1, took=-5, lag=12)])
    assert (facts.measured, facts.durations.spread.most) == (0, 7)


def test_a_result_that_came_inline_tells_its_duration_too(build_snapshot):
    inline = build_snapshot("job-1")
    metadata = inline.data.metadata
    base = record(1)
    facts = collect([evolve(base, snapshot=evolve(inline, received_at=base.snapshot.received_at))])
    assert inline.metadata is None
    assert facts.measured == 1
    assert facts.durations.spread.most == metadata.duration_ms / 1000


@pytest.fixture
def build_snapshot():
    def build(job_id):
        given = record(1, job_id=job_id).snapshot
        from adepoll.api.models import ExtractResult  # noqa: PLC0415 - of this fixture alone

        data = ExtractResult(extraction={}, extraction_metadata={}, metadata=given.metadata)
        return evolve(given, metadata=None, data=data)

    return build


def test_the_curve_rises_to_all_that_settled():
    facts = collect(record(number, took=number) for number in range(1, 101))
    curve = facts.curve
    assert list(curve.counts) == sorted(curve.counts)
    assert curve.counts[-1] + curve.later == facts.settled == 100
    assert curve.start <= facts.first_settled <= facts.last_settled == curve.last


def test_stragglers_do_not_press_the_curve_against_the_wall():
    records = [record(number, took=number) for number in range(1, 1000)]
    curve = collect([*records, record(1000, took=500_000)]).curve
    assert curve.later == 1
    assert curve.stop - curve.start < 2_000
    assert curve.last == ADDED + 10 + 500_000 + 2


def test_a_batch_made_long_before_it_ran_begins_where_it_ran():
    curve = collect(record(number, received=500_000 + number) for number in range(1, 99)).curve
    assert curve.start > ADDED + 400_000


@given(st.integers(1, 400))
def test_slowest_are_the_slowest_of_all(count):
    took = [(number * 7919) % 1009 for number in range(1, count + 1)]
    facts = collect(record(number, took=seconds) for number, seconds in enumerate(took, 1))
    assert [job.seconds for job in facts.slowest] == sorted(took, reverse=True)[:20]


# --- what went wrong ----------------------------------------------------------------------------


def test_failure_reasons_are_counted_by_kind():
    reasons = ["page 3 is blank", "page 77 is blank", None, "job-4 is bad"]
    facts = collect(record(n, "failed", reason=reason) for n, reason in enumerate(reasons, 1))
    found = {group.pattern: group.count for group in facts.failures}
    assert found == {"page <n> is blank": 2, "no reason given": 1, "<job> is bad": 1}


def test_of_many_reasons_twenty_are_told_and_the_rest_summed():
    reasons = ["".join(random.Random(n).choices("abcdefgh", k=8)) for n in range(30)]
    facts = collect(record(n, "failed", reason=reason) for n, reason in enumerate(reasons, 1))
    assert len(facts.failures) == 21
    assert (facts.failures[-1].pattern, facts.failures[-1].count) == ("", 10)


def test_errors_are_told_apart_by_class_and_counted_if_tried_again():
    refused = RecordedError("no entry", kind="ResultForbiddenError")
    late = RecordedError("no entry", kind="ResultServerError")
    facts = collect(
        [record(1, "missed", error=refused, lasting=True), record(2, "unresolved", error=late)]
    )
    assert {group.pattern for group in facts.troubles} == {
        "ResultForbiddenError: no entry",
        "ResultServerError: no entry",
    }
    assert facts.retryable == 1


def test_violations_and_warnings_are_counted():
    facts = collect(
        [
            record(1, schema_violation_error="$.lines[3]: no number", warnings=(warning("odd"),)),
            record(2, schema_violation_error="$.lines[12]: no number"),
            record(3, warnings=(warning("odd"), warning(None))),
        ]
    )
    assert [(group.pattern, group.count) for group in facts.violations] == [
        ("$.lines[<n>]: no number", 2)
    ]
    assert {group.pattern: group.count for group in facts.warnings} == {"odd": 2, "no code": 1}
    assert facts.warned == 2


def test_http_206_without_a_reason_is_a_violation_all_the_same():
    base = record(1)
    facts = collect([evolve(base, snapshot=evolve(base.snapshot, conforms=False))])
    assert [group.pattern for group in facts.violations] == ["no reason given"]


# --- cost, results, what is open ----------------------------------------------------------------


def test_credits_are_summed_by_the_version_really_used():
    facts = collect(
        [
            record(1, credit_usage=2.5),
            record(2, credit_usage=0.5, fallback_model_version="extract-0"),
            record(3, version=None),
            record(4, "failed", measured=False),
        ]
    )
    assert [(c.version, c.jobs, c.credits, c.fallbacks) for c in facts.costs] == [
        ("extract-1", 1, 2.5, 0),
        ("not told", 1, 1.5, 0),
        ("extract-0", 1, 0.5, 1),
    ]
    assert facts.credits == 4.5


def test_made_up_versions_are_summed():
    facts = collect(record(n, version=f"v-{n}") for n in range(1, 201))
    assert len(facts.costs) == 51
    assert facts.costs[-1].version == ""
    assert sum(cost.jobs for cost in facts.costs) == 200


def test_results_are_counted_and_weighed():
    facts = collect([record(1, size=10), record(2, size=30), record(3, size=None)])
    assert (facts.files, facts.bytes, facts.inline) == (2, 40, 1)
    assert facts.sizes.median == 20


def test_open_jobs_are_told_by_the_status_last_seen():
    facts = collect(
        [
            record(1, "waiting"),
            record(2, "waiting", reason="processing"),
            record(3, "waiting", reason="processing"),
            record(4, stage=Stage.FETCHING),
        ]
    )
    assert {group.pattern: group.count for group in facts.open_states} == {
        "processing": 2,
        "not looked at yet": 1,
        "completed, result on its way": 1,
    }
    assert [job.job_id for job in facts.open_jobs] == ["job-1", "job-2", "job-3", "job-4"]


def test_outcomes_that_nobody_took_are_counted():
    facts = collect([record(1, delivered=False), record(2), record(3, "waiting")])
    assert facts.undelivered == 1


# --- hostile ------------------------------------------------------------------------------------

EVIL = "\x1b[31m\u202e</title><script>alert(1)</script> Bearer canary-1 " + "x" * 5_000


def test_nothing_unfit_to_be_shown_is_in_the_facts():
    error = RecordedError(EVIL, kind=EVIL)
    facts = collect(
        [
            record(1, job_id=EVIL, filename=EVIL, version=EVIL, warnings=(warning(EVIL, EVIL),)),
            record(2, "failed", job_id=EVIL, reason=EVIL),
            record(3, "unresolved", job_id=EVIL, error=error),
            record(4, "waiting", job_id=EVIL, reason=EVIL),
            record(5, schema_violation_error=EVIL, fallback_model_version=EVIL),
        ]
    )
    told = repr(facts)
    assert "canary" not in told
    assert told.isprintable()
    assert len(told) < 30_000


def test_numbers_of_nonsense_break_nothing():
    odd = [record(n, credit_usage=usage) for n, usage in enumerate((1e308, 1e308, -1e308), 1)]
    long = record(4).snapshot
    long = evolve(long, metadata=evolve(long.metadata, duration_ms=10**400))
    facts = collect([*odd, evolve(record(4), snapshot=long)])
    assert facts.measured == 3
    assert facts.costs[0].jobs == 4


def test_times_of_nonsense_break_nothing():
    base = record(1)
    ancient = evolve(base.snapshot, received_at=from_timestamp(0))
    facts = collect([evolve(base, snapshot=ancient), evolve(base, settled_at=-1e12)])
    assert facts.settled == 2


def test_memory_stays_at_a_few_floats_a_job():
    collector = Collector()
    one = record(1)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            collector.add(one)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 20_000 * 4 * 8 * 1.3 + 100_000
