"""Facts of records: correct, independent of their order, and in bounded memory per job."""

import math
import random
import tracemalloc
from datetime import UTC, datetime

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from journalling import snapshot
from reporting import ADDED, record, warning

from adepoll.api.job_kind import JobKind
from adepoll.api.models import from_timestamp
from adepoll.journal.outcomes import RecordedError, Stage
from adepoll.report.collector import Collector, collect
from adepoll.report.facts import OutcomeKind

STATUSES = ["completed", "failed", "cancelled", "not_fetched", "unresolved", "waiting", "dreaming"]


@given(st.lists(st.sampled_from(STATUSES), max_size=40))
def test_every_job_has_exactly_one_outcome(statuses):
    facts = collect(record(number, status) for number, status in enumerate(statuses, 1))
    assert sum(facts.outcomes.values()) == facts.jobs == len(statuses)
    assert facts.open == statuses.count("waiting")


@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.floats(0, 1e5)), max_size=30), st.randoms())
def test_the_order_of_records_does_not_matter(jobs, rng):
    records = [record(number, status, took=took) for number, (status, took) in enumerate(jobs, 1)]
    shuffled = rng.sample(records, len(records))
    one, other = collect(records), collect(shuffled)
    for name in (
        "outcomes",
        "durations",
        "detection_lag",
        "curve",
        "slowest",
        "costs",
        "sizes",
        "settled",
    ):
        assert getattr(one, name) == getattr(other, name)


def test_each_outcome_is_counted_separately():
    stages = [
        record(1),
        record(2, "failed"),
        record(3, "cancelled"),
        record(4, "dreaming"),
        record(5, "not_fetched"),
        record(6, "unresolved"),
        record(7, stage=Stage.FETCHING),
        record(8, "waiting"),
    ]
    assert collect(stages).outcomes == dict.fromkeys(OutcomeKind, 1)


def test_an_empty_batch_has_no_numbers():
    facts = collect([])
    assert facts.jobs == facts.settled == facts.open == 0
    assert facts.durations is facts.detection_lag is facts.curve is facts.sizes is None
    assert facts.first_added is None


# --- time ---------------------------------------------------------------------------------------


def test_a_duration_is_the_services_if_it_reports_one():
    facts = collect([record(1, took=30, lag=50), record(2, took=40, lag=2, measured=False)])
    summary = facts.durations.summary
    assert (summary.least, summary.most) == (30, 42)
    assert facts.measured == 1


def test_lag_counts_from_the_end_that_the_service_reports():
    facts = collect([record(1, lag=3), record(2, lag=5), record(3, measured=False)])
    assert (facts.detection_lag.summary.least, facts.detection_lag.summary.most) == (3, 5)
    assert facts.lag_unknown == 1


def test_lag_is_never_below_zero():
    assert collect([record(1, lag=-7)]).detection_lag.summary.most == 0


def test_lag_of_a_job_that_had_settled_before_it_was_added_counts_from_the_addition():
    facts = collect([record(1, received=-90_000, took=20, lag=90_000 - 20 + 4)])
    assert facts.detection_lag.summary.most == pytest.approx(4)
    assert facts.settled_before_added == 1


def test_a_negative_duration_is_ignored():
    facts = collect([record(1, took=-5, lag=12)])
    assert (facts.measured, facts.durations.summary.most) == (0, 7)


def test_the_duration_of_an_inline_result_is_used(build_snapshot):
    inline = build_snapshot("job-1")
    metadata = inline.data.metadata
    base = record(1)
    facts = collect([evolve(base, snapshot=evolve(inline, received_at=base.snapshot.received_at))])
    assert inline.metadata is None
    assert facts.measured == 1
    assert facts.durations.summary.most == metadata.duration_ms / 1000


def v2_record(number=1, *, created, completed, lag, **changes):
    """Return the record of a v2 job; times are seconds after `ADDED`."""
    made = record(number, received=created, took=completed - created, lag=lag, measured=False)
    times = {
        "received_at": None,
        "created_at": from_timestamp(ADDED + created),
        "completed_at": from_timestamp(ADDED + completed),
    }
    return evolve(made, snapshot=evolve(made.snapshot, **times, **changes))


def test_the_times_of_a_v2_job_are_those_of_the_service():
    facts = collect([v2_record(created=10, completed=40, lag=3)])
    assert (facts.measured, facts.lag_unknown, facts.settled_before_added) == (1, 0, 0)
    assert facts.durations.summary.most == 30
    assert facts.detection_lag.summary.most == 3
    assert facts.slowest[0].measured


def test_the_lag_of_a_v2_job_does_not_contain_its_time_in_the_queue():
    processed = record(1, took=5).snapshot.metadata  # 5 s, after 25 s in the queue
    facts = collect([v2_record(created=10, completed=40, lag=3, metadata=processed)])
    assert facts.durations.summary.most == 5
    assert facts.detection_lag.summary.most == 3


def test_a_v2_job_that_had_settled_before_it_was_added_is_counted():
    facts = collect([v2_record(created=-90, completed=-60, lag=64)])
    assert facts.settled_before_added == 1
    assert facts.detection_lag.summary.most == 4


def test_a_v2_job_that_ended_before_it_was_created_has_no_known_lag():
    facts = collect([v2_record(created=10, completed=5, lag=20)])
    assert (facts.measured, facts.lag_unknown, facts.detection_lag) == (0, 1, None)
    assert facts.durations.summary.most == 15


def test_a_job_without_a_time_of_receipt_has_no_known_lag():
    made = record(1, took=20, lag=2)
    facts = collect([evolve(made, snapshot=evolve(made.snapshot, received_at=None))])
    assert (facts.lag_unknown, facts.detection_lag) == (1, None)


@pytest.fixture
def build_snapshot():
    def build(job_id):
        snapshot = record(1, job_id=job_id).snapshot
        from adepoll.api.results import ExtractResult  # noqa: PLC0415 - used by this fixture only

        data = ExtractResult(extraction={}, extraction_metadata={}, metadata=snapshot.metadata)
        return evolve(snapshot, metadata=None, data=data)

    return build


def test_the_curve_rises_to_the_number_of_settled_jobs():
    facts = collect(record(number, took=number) for number in range(1, 101))
    curve = facts.curve
    assert list(curve.counts) == sorted(curve.counts)
    assert curve.counts[-1] + curve.later == facts.settled == 100
    assert curve.start <= facts.first_settled <= facts.last_settled == curve.last


def test_the_curve_of_a_short_batch_has_the_batch_in_its_middle():
    curve = collect([record(1, received=1, took=1)]).curve
    assert curve.stop - curve.start == 8
    assert (curve.start + curve.stop) / 2 == pytest.approx((ADDED + curve.last) / 2)


def test_a_late_job_does_not_compress_the_curve():
    records = [record(number, took=number) for number in range(1, 1000)]
    curve = collect([*records, record(1000, took=500_000)]).curve
    assert curve.later == 1
    assert curve.stop - curve.start < 2_000
    assert curve.last == ADDED + 10 + 500_000 + 2


def test_the_curve_of_a_batch_created_long_before_it_ran_begins_with_the_run():
    curve = collect(record(number, received=500_000 + number) for number in range(1, 99)).curve
    assert curve.start > ADDED + 400_000


@given(st.integers(1, 400))
def test_the_slowest_jobs_are_those_with_the_longest_durations(count):
    took = [(number * 7919) % 1009 for number in range(1, count + 1)]
    facts = collect(record(number, took=seconds) for number, seconds in enumerate(took, 1))
    assert [job.seconds for job in facts.slowest] == sorted(took, reverse=True)[:20]


# --- reasons and errors -------------------------------------------------------------------------


def test_failure_reasons_are_counted_by_pattern():
    reasons = ["page 3 is blank", "page 77 is blank", None, "job-4 is bad"]
    facts = collect(record(n, "failed", reason=reason) for n, reason in enumerate(reasons, 1))
    found = {group.pattern: group.count for group in facts.failures}
    assert found == {"page <n> is blank": 2, "no reason given": 1, "<job> is bad": 1}


def test_twenty_reasons_are_shown_and_the_rest_is_summed():
    reasons = ["".join(random.Random(n).choices("abcdefgh", k=8)) for n in range(30)]
    facts = collect(record(n, "failed", reason=reason) for n, reason in enumerate(reasons, 1))
    assert len(facts.failures) == 21
    assert (facts.failures[-1].pattern, facts.failures[-1].count) == ("", 10)


def test_errors_are_grouped_by_class_and_retryable_ones_counted():
    refused = RecordedError("no entry", error_class="ResultForbiddenError")
    late = RecordedError("no entry", error_class="ResultServerError")
    facts = collect(
        [record(1, "not_fetched", error=refused, lasting=True), record(2, "unresolved", error=late)]
    )
    assert {group.pattern for group in facts.errors} == {
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
            record(4, warnings=(warning("mute", None),)),
        ]
    )
    assert [(group.pattern, group.count, group.example) for group in facts.violations] == [
        ("$.lines[<n>]: no number", 2, "$.lines[3]: no number")
    ]
    assert {group.pattern: (group.count, group.example) for group in facts.warnings} == {
        "odd": (2, "look at this"),
        "no code": (1, "look at this"),
        "mute": (1, ""),
    }
    assert facts.warned == 3


def test_http_206_without_a_reason_is_a_violation():
    base = record(1)
    facts = collect([evolve(base, snapshot=evolve(base.snapshot, violates_schema=True))])
    assert [group.pattern for group in facts.violations] == ["no reason given"]


def test_the_end_of_a_job_without_its_submission_gives_no_duration():
    base = record(1)
    unknown = evolve(base.snapshot, received_at=None, created_at=None, metadata=None)
    ended = evolve(unknown, completed_at=datetime.fromtimestamp(base.settled_at, UTC))
    assert ended.completed_at != unknown.completed_at
    first, second = (collect([evolve(base, snapshot=found)]) for found in (unknown, ended))
    assert first.durations == second.durations


# --- cost, results, open jobs --------------------------------------------------------------------


def test_credits_are_summed_by_the_model_version_used():
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
        ("unknown", 1, 1.5, 0),
        ("extract-0", 1, 0.5, 1),
    ]
    assert facts.credits == 4.5


def test_versions_beyond_the_fiftieth_are_summed():
    facts = collect(record(n, version=f"v-{n}") for n in range(1, 201))
    assert len(facts.costs) == 51
    assert facts.costs[-1].version == ""
    assert sum(cost.jobs for cost in facts.costs) == 200


def test_results_and_their_bytes_are_counted():
    facts = collect([record(1, size=10), record(2, size=30), record(3, size=None)])
    assert (facts.files, facts.bytes, facts.without_file) == (2, 40, 1)
    assert facts.sizes.median == 20


def test_open_jobs_are_counted_by_last_known_status():
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
        "not polled yet": 1,
        "completed, fetching result": 1,
    }
    assert [job.job_id for job in facts.open_jobs] == ["job-1", "job-2", "job-3", "job-4"]


def test_unacknowledged_outcomes_are_counted():
    facts = collect([record(1, delivered=False), record(2), record(3, "waiting")])
    assert facts.unacknowledged == 1


# --- hostile ------------------------------------------------------------------------------------

EVIL = "\x1b[31m\u202e</title><script>alert(1)</script> Bearer canary-1 " + "x" * 5_000


def test_texts_in_the_facts_are_redacted_printable_and_short():
    error = RecordedError(EVIL, error_class=EVIL)
    facts = collect(
        [
            record(1, job_id=EVIL, filename=EVIL, version=EVIL, warnings=(warning(EVIL, EVIL),)),
            record(2, "failed", job_id=EVIL, reason=EVIL),
            record(3, "unresolved", job_id=EVIL, error=error),
            record(4, "waiting", job_id=EVIL, reason=EVIL),
            record(5, schema_violation_error=EVIL, fallback_model_version=EVIL),
        ]
    )
    text = repr(facts)
    assert "canary" not in text
    assert text.isprintable()
    assert len(text) < 30_000


def test_extreme_numbers_are_accepted():
    odd = [record(n, credit_usage=usage) for n, usage in enumerate((1e308, 1e308, -1e308), 1)]
    long = record(4).snapshot
    long = evolve(long, metadata=evolve(long.metadata, duration_ms=10**400))
    facts = collect([*odd, evolve(record(4), snapshot=long)])
    assert facts.measured == 3
    assert facts.costs[0].jobs == 4


def test_extreme_times_are_accepted():
    base = record(1)
    ancient = evolve(base.snapshot, received_at=from_timestamp(0))
    facts = collect([evolve(base, snapshot=ancient), evolve(base, settled_at=-1e12)])
    assert facts.settled == 2


def test_memory_is_four_floats_per_job():
    collector = Collector()
    one = record(1)
    tracemalloc.start()
    try:
        for _ in range(8_000):
            collector.add(one)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 8_000 * 4 * 8 * 1.3 + 40_000


def of_kind(number, kind, status="completed", **options):
    made = record(number, status, **options)
    snapshot = made.snapshot and evolve(made.snapshot, kind=kind)
    return evolve(made, kind=kind, snapshot=snapshot)


def test_the_jobs_of_each_kind_are_counted():
    parse = JobKind.V1_PARSE
    facts = collect(
        [
            of_kind(1, parse, took=4.0),
            of_kind(2, parse, "failed", took=2.0),
            of_kind(3, parse, "waiting"),
            of_kind(4, parse, "unresolved"),
            of_kind(5, JobKind.V2_PARSE, took=9.0),
        ]
    )
    first, second = facts.kinds
    assert (first.kind, second.kind) == ("v1-parse", "v2-parse")
    assert (first.jobs, first.completed, first.failed, first.given_up, first.open) == (
        4,
        1,
        1,
        1,
        1,
    )
    assert (second.jobs, second.completed, second.median) == (1, 1, 9.0)


@pytest.mark.parametrize("credit_usage", [-3.0, 1e300, math.nan, 2.5])
def test_the_credits_of_a_kind_and_of_a_version_are_the_same(credit_usage):
    made = record(1)
    metadata = evolve(made.snapshot.metadata, credit_usage=credit_usage)
    facts = collect([evolve(made, snapshot=evolve(made.snapshot, metadata=metadata))])
    expected = 2.5 if credit_usage == 2.5 else 0.0
    assert (facts.kinds[0].credits, facts.credits) == (expected, expected)


def test_more_than_20_kinds_are_counted_together():
    facts = collect(of_kind(number, JobKind(f"own-{number}")) for number in range(1, 30))
    assert len(facts.kinds) == 21
    assert facts.kinds[0].kind == "other kinds"
    assert sum(kind.jobs for kind in facts.kinds) == 29


def test_the_label_of_a_job_is_its_document():
    facts = collect([evolve(record(1), label="q1/a.pdf"), evolve(record(2, "waiting"), label="b")])
    assert facts.slowest[0].document == "q1/a.pdf"
    assert facts.open_jobs[0].label == "b"


def test_pages_are_added_up():
    jobs = [
        evolve(record(number), snapshot=snapshot(f"job-{number}", kind="v1-parse", metadata=pages))
        for number, pages in enumerate(({"page_count": 3}, {"page_count": 4}, {}), 1)
    ]
    assert [kind.pages for kind in collect(jobs).kinds] == [7]
