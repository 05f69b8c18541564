"""Messages that differ only in numbers and ids form one group; groups are bounded and redacted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.report.message_groups import Groups, pattern_of


@pytest.mark.parametrize(
    ("one", "other", "pattern"),
    [
        ("page 3 of 12 failed", "page 40 of 41 failed", "page <n> of <n> failed"),
        ("took 1.5 s", "took 12.25 s", "took <n> s"),
        ("trace deadbeef12345678", "trace 0123456789abcdef", "trace <id>"),
        (
            "request 0b6f2f60-1b5c-4a9e-8d0c-5f8f0f3f7a11",
            "request 7c0d1e2f-aaaa-4bbb-8ccc-123456789abc",
            "request <id>",
        ),
        ("at 2026-11-21T18:00:01Z", "at 2025-01-01 00:00:00.5", "at <time>"),
        ("org_9f8e7d6c5b4a gone", "org_1a2b3c4d5e6f gone", "<id> gone"),
    ],
)
def test_numbers_ids_and_times_do_not_separate_groups(one, other, pattern):
    assert pattern_of(one, {}) == pattern_of(other, {}) == pattern


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("storage answered 503: no", "storage answered 404: no"),
        ("HTTP 500", "HTTP 502"),
        ("password protected", "unreadable"),
        ("bucket s3", "bucket v2"),
    ],
)
def test_a_status_and_words_separate_groups(one, other):
    assert pattern_of(one, {}) != pattern_of(other, {})


@pytest.mark.parametrize(
    ("word", "pattern"),
    [
        ("s3", "s3"),
        ("s33", "s<n>"),
        ("3a", "<n>a"),
        ("1,000.5", "<n>"),
        ("deadbe1", "deadbe<n>"),
        ("deadbee1", "<id>"),
        ("0xDEADBEE1", "<id>"),
        ("zone_gz1234", "zone_gz<n>"),
        ("zone_gzx1234", "<id>"),
        ("zone_gzxy123", "zone_gzxy<n>"),
    ],
)
def test_a_word_with_many_digits_is_an_id(word, pattern):
    assert pattern_of(word, {}) == pattern


def test_names_of_the_job_do_not_separate_groups():
    names = {"weird name": "<job>", "four": "<file>", "abs": "<short>"}
    assert pattern_of("weird name, four: absent", names) == "<job>, <file>: absent"


@given(st.text(max_size=400))
def test_the_pattern_of_any_text_is_printable(text):
    pattern = pattern_of(text, {})
    assert pattern.isprintable()
    assert len(pattern) <= 4 * 303  # a digit may become "<n>"


def add(groups, pattern, job_id="job-1", example="such"):
    groups.add(pattern, example=example, job_id=job_id)


def test_the_most_frequent_groups_come_first_and_the_rest_is_summed():
    groups = Groups()
    for pattern, count in {"a": 1, "b": 3, "c": 2, "d": 1}.items():
        for number in range(count):
            add(groups, pattern, f"job-{number}")
    found = groups.largest(2)
    assert [(group.pattern, group.count) for group in found] == [("b", 3), ("c", 2), ("", 2)]


def test_three_jobs_are_named_each_once():
    groups = Groups()
    for number in (1, 1, 2, 3, 4):
        add(groups, "a", f"job-{number}")
    assert groups.largest(5)[0].job_ids == ("job-1", "job-2", "job-3")


def test_a_new_pattern_for_each_job_needs_bounded_memory_and_hides_no_frequent_one():
    groups = Groups()
    for number in range(20_000):
        add(groups, f"made up {number}")
        if number % 4 == 0:
            add(groups, "frequent")
    assert len(groups.largest(20_000)) <= 4_001
    found = groups.largest(1)
    assert (found[0].pattern, found[0].count) == ("frequent", 5_000)
    assert sum(group.count for group in found) == 25_000


@pytest.mark.parametrize(("kinds", "shown", "rest"), [(4_000, 4_000, 0), (4_001, 2_001, 2_000)])
def test_at_more_than_4000_patterns_the_rarer_half_is_summed(kinds, shown, rest):
    groups = Groups()
    for number in range(kinds):
        add(groups, f"kind {number}")
    found = groups.largest(kinds)
    assert sum(group.pattern != "" for group in found) == shown
    assert sum(group.count for group in found if not group.pattern) == rest


def test_a_long_job_id_is_cut():
    groups = Groups()
    add(groups, "a", "x" * 81)
    add(groups, "a", "y" * 80)
    assert groups.largest(1)[0].job_ids == ("x" * 80 + "...", "y" * 80)


def test_examples_and_ids_are_redacted_and_printable():
    groups = Groups()
    add(groups, "a", "job\x1b[31m", "see https://x.test/y?X-Amz-Signature=canary \x07")
    group = groups.largest(1)[0]
    assert group.example.isprintable()
    assert "canary" not in group.example
    assert group.job_ids == ("job\\x1b[31m",)
