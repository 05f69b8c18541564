"""The world: the answers of the service at any time about jobs with a known plan."""

import json
import math

import pytest
from clocks import T0, Clock
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.models import JobStatus
from adepoll.emulator import INLINE_LIMIT, JobPlan, Outcome, Profile, World
from adepoll.emulator.presigned_urls import Verdict
from adepoll.emulator.profiles import profile_of

DOCUMENTED = {
    "job_id",
    "status",
    "received_at",
    "progress",
    "created_at",
    "org_id",
    "version",
    "data",
    "output_url",
    "metadata",
    "failure_reason",
}
METADATA = {
    "filename",
    "org_id",
    "duration_ms",
    "credit_usage",
    "job_id",
    "version",
    "schema_violation_error",
    "fallback_model_version",
    "warnings",
}


@pytest.fixture
def world(clock):
    return World(clock=clock)


def test_a_job_is_pending_then_processing_then_completed(world, clock):
    job_id = world.submit(JobPlan(queue_time=2, processing_time=3))
    seen = []
    for later in (0, 1.9, 2, 4.9, 5, 1_000):
        clock.now = T0 + later
        status, body = world.job(job_id)
        seen.append((status, body["status"], body["progress"]))
    assert seen == [
        (200, "pending", 0.0),
        (200, "pending", 0.0),
        (200, "processing", 0.0),
        (200, "processing", 0.0),
        (200, "completed", 1.0),
        (200, "completed", 1.0),
    ]


def test_every_answer_has_exactly_the_documented_fields(world, clock):
    ids = [world.submit(JobPlan(processing_time=1, outcome=outcome)) for outcome in Outcome]
    for later in (0, 1):
        clock.now = T0 + later
        for job_id in ids:
            _, body = world.job(job_id)
            assert body.keys() == DOCUMENTED
            assert body["job_id"] == job_id
            assert body["received_at"] == body["created_at"] == 1_750_000_000
            assert body["org_id"] == world.org_id


def test_a_completed_job_contains_its_result_with_all_required_metadata(world):
    job_id = world.submit(JobPlan(result_bytes=30_000))
    _, body = world.job(job_id)
    assert body["data"].keys() == {"extraction", "extraction_metadata", "metadata"}
    assert body["metadata"].keys() == METADATA
    assert body["data"]["metadata"] == body["metadata"]
    assert body["metadata"]["job_id"] == job_id
    assert body["version"] == body["metadata"]["version"]
    assert body["output_url"] is None
    assert body["failure_reason"] is None


def test_an_active_job_has_no_result(world):
    _, body = world.job(world.submit(JobPlan(processing_time=1)))
    assert body["data"] is body["output_url"] is body["metadata"] is body["version"] is None


def test_a_partial_job_is_completed_and_206_with_the_violation(world):
    status, body = world.job(world.submit(JobPlan(outcome=Outcome.PARTIAL)))
    assert status == 206
    assert body["status"] == "completed"
    assert body["metadata"]["schema_violation_error"]
    assert body["metadata"]["warnings"][0]["code"] == "nonconformant_schema"


def test_a_failed_job_has_a_reason_and_a_cancelled_job_has_none(world):
    failed = world.submit(JobPlan(outcome=Outcome.FAILED, failure_reason="no text found"))
    unexplained = world.submit(JobPlan(outcome=Outcome.FAILED))
    cancelled = world.submit(JobPlan(outcome=Outcome.CANCELLED))
    assert world.job(failed)[1]["failure_reason"] == "no text found"
    assert world.job(unexplained)[1]["failure_reason"]
    assert world.job(cancelled)[1]["failure_reason"] is None
    assert [world.job(job_id)[1]["status"] for job_id in (failed, cancelled)] == [
        "failed",
        "cancelled",
    ]
    assert world.result(failed) is None


def test_an_unknown_job_and_a_job_before_its_arrival_are_404(world, clock):
    later = world.submit(JobPlan(), received_at=T0 + 10)
    assert world.job("nobody")[0] == 404
    assert world.job(later)[0] == 404
    assert world.page()["jobs"] == []
    clock.now = T0 + 10
    assert world.job(later)[0] == 200
    assert [job["job_id"] for job in world.page()["jobs"]] == [later]


@pytest.mark.parametrize(("size", "inline"), [(INLINE_LIMIT, True), (INLINE_LIMIT + 1, False)])
def test_a_result_over_one_megabyte_is_behind_output_url(world, size, inline):
    job_id = world.submit(JobPlan(result_bytes=size))
    _, body = world.job(job_id)
    assert (body["data"] is not None) is inline
    assert (body["output_url"] is None) is inline
    assert (world.object_at(world.result_path(job_id)) is None) is inline


def test_every_poll_of_a_large_job_returns_a_new_url_valid_for_one_hour(world, clock):
    job_id = world.submit(JobPlan(result_bytes=2_000_000))
    urls = []
    for clock.now in (T0, T0 + 1_800):
        _, body = world.job(job_id)
        urls.append(body["output_url"].removeprefix(world.results_origin))

    def verdicts(now):
        host = world.results_origin.removeprefix("https://")
        return [
            world.presigner.check(method="GET", host=host, raw_target=url, now=now) for url in urls
        ]

    assert urls[0] != urls[1]
    assert verdicts(T0 + 3_599) == [Verdict.VALID, Verdict.VALID]
    assert verdicts(T0 + 3_601) == [Verdict.EXPIRED, Verdict.VALID]


def test_a_large_result_is_not_stored_before_the_job_has_ended(world, clock):
    job_id = world.submit(JobPlan(processing_time=1, result_bytes=2_000_000))
    assert world.object_at(world.result_path(job_id)) is None
    clock.now = T0 + 1
    assert world.object_at(world.result_path(job_id)) is world.result(job_id)


@pytest.mark.parametrize("path", ["/", "", "/x", "/ade-results/org-emulated/y/z", "/a/b/c/d"])
def test_there_is_no_object_at_other_paths(world, path):
    assert world.object_at(path) is None


def test_a_job_id_with_special_characters_has_a_result(world):
    job_id = world.submit(JobPlan(result_bytes=2_000_000), job_id="a/b c%2F+é")
    assert world.object_at(world.result_path(job_id)).size == 2_000_000


def test_the_list_is_newest_first_and_pages_fit_together(world):
    ids = [world.submit(JobPlan(), received_at=T0 - 50 + n) for n in range(25)]
    pages = [world.page(page=page, page_size=10) for page in range(4)]
    assert [page["has_more"] for page in pages] == [True, True, False, False]
    listed = [job["job_id"] for page in pages for job in page["jobs"]]
    assert listed == ids[::-1]


def test_has_more_is_false_on_a_page_that_ends_with_the_last_job(world):
    for _ in range(10):
        world.submit(JobPlan())
    assert world.page(page_size=10)["has_more"] is False
    assert world.page(page_size=9)["has_more"] is True


def test_list_items_are_summaries_without_results(world):
    world.submit(JobPlan(outcome=Outcome.FAILED, failure_reason="why"))
    assert world.page()["jobs"][0].keys() == {
        "job_id",
        "status",
        "received_at",
        "progress",
        "created_at",
        "failure_reason",
    }
    assert world.page()["jobs"][0]["failure_reason"] == "why"


def test_a_larger_result_costs_more_credits(world):
    job_id = world.submit(JobPlan(result_bytes=250_000))
    assert world.job(job_id)[1]["metadata"]["credit_usage"] == 3.5


def test_a_save_url_is_for_put_only_by_default(world):
    only_put, any_method = (world.save_url("a", readable=readable) for readable in (False, True))
    assert world.save_url("a") == only_put != any_method


def test_the_progress_of_an_endless_job_grows_more_and_more_slowly(world, clock):
    job_id = world.submit(JobPlan(processing_time=math.inf), kind="v2-parse")
    seen = []
    for _ in range(3):
        clock.now += 60.0
        seen.append(world.job(job_id)[1]["progress"])
    assert seen == [0.3, 0.4, 0.45]  # 0.6 times the share of the processing


def test_only_a_completed_job_has_progress_1(world):
    for outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED):
        world.submit(JobPlan(outcome=outcome))
    progress = {job["status"]: job["progress"] for job in world.page()["jobs"]}
    assert progress == {"completed": 1.0, "failed": 0.0, "cancelled": 0.0}


plans = st.builds(
    JobPlan,
    queue_time=st.integers(0, 20),
    processing_time=st.one_of(st.integers(0, 20), st.just(math.inf)),
    outcome=st.sampled_from(Outcome),
)


@given(
    jobs=st.lists(st.tuples(plans, st.integers(-10, 20)), max_size=12),
    steps=st.lists(st.integers(0, 8), max_size=8),
)
def test_lists_by_status_agree_with_polls_at_any_time(jobs, steps):
    clock = Clock()
    world = World(clock=clock)
    ids = [world.submit(plan, received_at=T0 + at) for plan, at in jobs]
    for step in [0, *steps]:
        clock.now += step
        by_get = {
            job_id: body["status"]
            for job_id in ids
            for status, body in [world.job(job_id)]
            if status != 404
        }
        everything = world.page(page_size=100)["jobs"]
        assert {job["job_id"]: job["status"] for job in everything} == by_get
        for status in set(JobStatus) - {JobStatus.UNKNOWN}:
            listed = world.page(page_size=100, status=status)["jobs"]
            assert {job["status"] for job in listed} <= {status.value}
            assert [job for job in everything if job["status"] == status.value] == listed


@given(plan=plans, steps=st.lists(st.floats(-5, 15), max_size=20))
def test_a_status_never_goes_back_even_if_the_clock_does(plan, steps):
    clock = Clock()
    world = World(clock=clock)
    job_id = world.submit(plan)
    stages = ["pending", "processing", plan.outcome.status.value]
    seen = 0
    for step in steps:
        clock.now += step
        stage = stages.index(world.job(job_id)[1]["status"])
        assert stage >= seen
        seen = stage
        assert world.page()["jobs"][0]["status"] == stages[stage]


def test_a_job_that_never_ends_stays_processing(world, clock):
    job_id = world.submit(JobPlan(processing_time=math.inf))
    clock.now = T0 + 1e9
    assert world.job(job_id)[1]["status"] == "processing"
    assert world.page(status=JobStatus.PROCESSING)["jobs"]
    assert world.truth(job_id).finished_at == math.inf


def test_the_same_seed_gives_the_same_world_byte_for_byte():
    def replay(seed):
        clock = Clock()
        world = World(clock=clock, seed=seed)
        ids = [world.submit() for _ in range(20)]
        clock.now += 1_000
        return [world.job_json(job_id) for job_id in ids], world.page(page_size=100)

    assert replay(1) == replay(1)
    assert replay(1) != replay(2)


def test_the_truth_has_exact_times_the_digest_and_the_polls(world, clock):
    job_id = world.submit(JobPlan(queue_time=1, processing_time=2, result_bytes=5_000))
    world.job(job_id)
    world.job(job_id)
    world.page()
    truth = world.truth(job_id)
    assert truth.received_at == T0
    assert truth.finished_at == T0 + 3
    assert truth.outcome is Outcome.COMPLETED
    assert truth.result_bytes == 5_000
    assert truth.result_sha256 == world.result(job_id).sha256()
    assert truth.polls == 2
    assert (world.traffic.get, world.traffic.list) == (2, 1)


def test_the_truth_of_a_job_without_a_result_has_no_digest(world):
    truth = world.truth(world.submit(JobPlan(outcome=Outcome.FAILED)))
    assert (truth.result_bytes, truth.result_sha256) == (0, None)


def test_truths_are_in_the_order_of_submission_and_can_have_digests(world):
    ids = [world.submit(JobPlan()) for _ in range(5)]
    assert [truth.job_id for truth in world.truths()] == ids
    assert {truth.result_sha256 for truth in world.truths()} == {None}
    assert [truth.result_sha256 for truth in world.truths(digests=True)] == [
        world.truth(job_id).result_sha256 for job_id in ids
    ]


def test_an_id_in_use_is_refused(world):
    world.submit(job_id="one")
    with pytest.raises(ValueError, match="job_id 'one' is taken"):
        world.submit(job_id="one")


def test_the_requested_model_is_the_version_and_latest_is_resolved(world):
    old = world.submit(JobPlan(), model="extract-20250101")
    latest = world.submit(JobPlan(), model="extract-latest")
    assert world.job(old)[1]["version"] == "extract-20250101"
    assert world.job(latest)[1]["version"] == "extract-20260314"


def test_a_job_created_with_a_schema_extracts_its_fields(world):
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    _, body = world.job(world.submit(JobPlan(), schema=schema))
    assert body["data"]["extraction"].keys() == {"total"}
    assert isinstance(body["data"]["extraction"]["total"], float)
    assert body["data"]["extraction_metadata"]["total"]["references"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"queue_time": -1}, "queue_time"),
        ({"processing_time": math.nan}, "processing_time"),
        ({"result_bytes": -1}, "result_bytes"),
    ],
)
def test_a_plan_refuses_a_wrong_value_with_its_name(options, named):
    with pytest.raises(ValueError, match=named):
        JobPlan(**options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"median": math.inf}, "median"),
        ({"sigma": -0.1}, "sigma"),
        ({"failed": 1.5}, "failed"),
        ({"large_bytes": (2, 1)}, "large_bytes"),
        ({"failed": 0.5, "cancelled": 0.6}, "cancelled"),
    ],
)
def test_a_profile_refuses_a_wrong_value_with_its_name(options, named):
    with pytest.raises(ValueError, match=named):
        Profile(**options)


def test_an_unknown_field_of_a_profile_is_named():
    with pytest.raises(TypeError, match="no field 'speed'; the fields are: median, sigma,"):
        profile_of({"median": 1.0, "speed": 2, "colour": 3})


def test_a_profile_draws_its_shares_and_sizes(world):
    profile = Profile(failed=0.2, cancelled=0.1, partial=0.1, large=0.3)
    world = World(clock=Clock(), profile=profile)
    for _ in range(2_000):
        world.submit()
    truths = [*world.truths()]
    times = sorted(truth.finished_at - truth.received_at for truth in truths)
    shares = {o: sum(t.outcome is o for t in truths) / 2_000 for o in Outcome}
    assert 7 < times[1_000] < 9
    assert shares[Outcome.FAILED] == pytest.approx(0.2, abs=0.04)
    assert shares[Outcome.CANCELLED] == pytest.approx(0.1, abs=0.03)
    assert shares[Outcome.PARTIAL] == pytest.approx(0.1, abs=0.03)
    sizes = [truth.result_bytes for truth in truths if truth.result_bytes]
    large = [size for size in sizes if size > INLINE_LIMIT]
    assert len(large) / len(sizes) == pytest.approx(0.3, abs=0.05)
    assert min(large) >= 2_000_000
    assert max(sizes) <= 20_000_000


def test_the_body_contains_the_exact_bytes_of_an_inline_result(world):
    job_id = world.submit(JobPlan(result_bytes=9_999))
    _, body = world.job_json(job_id)
    assert world.result(job_id).read() in body
    assert json.loads(body)["data"] == json.loads(world.result(job_id).read())
