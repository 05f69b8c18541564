"""All kinds of jobs: ids, envelopes, results, lists and errors, as the service describes them."""

import json
import re
from datetime import datetime

import aiohttp
import pytest
from clocks import T0

from adepoll import JobKind
from adepoll.api.kinds.registry import RULES
from adepoll.api.models import JobStatus
from adepoll.emulator import (
    KINDS,
    Emulator,
    JobPlan,
    OddValue,
    Outcome,
    Profile,
    World,
)
from adepoll.emulator.kinds.emulated_kind import PageQuery, message_of
from adepoll.emulator.kinds.forms import Form, InvalidRequestError

V1 = [name for name in KINDS if name.startswith("v1")]
V2 = [name for name in KINDS if name.startswith("v2")]
RESULT = {name: "data" if name in V1 else "result" for name in KINDS}
FIELDS = {
    "v1-extract": {"extraction", "extraction_metadata", "metadata"},
    "v1-parse": {"markdown", "chunks", "splits", "grounding", "metadata"},
    "v2-parse": {"markdown", "structure", "metadata"},
    "v2-extract": {
        "extraction", "extraction_metadata", "markdown", "schema_violation_error", "warnings",
        "metadata",
    },
    "v2-workflow": {"output", "metadata"},
}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"total": {"type": "number"}}}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_v2_kind = pytest.mark.parametrize("kind", V2)


@pytest.fixture
def world(clock):
    return World(clock=clock)


def moment(text):
    return datetime.fromisoformat(text).timestamp()


@every_kind
def test_the_result_has_the_documented_fields_and_the_exact_size(world, kind):
    for size in (40_000, 41_111):
        job_id = world.submit(JobPlan(result_bytes=size, pages=7), kind=kind)
        status, body = world.job(job_id)
        assert (status, body["status"]) == (200, "completed")
        assert body[RESULT[kind]].keys() == FIELDS[kind]
        assert body[RESULT[kind]]["metadata"]["job_id"] == job_id
        truth = world.truth(job_id)
        assert (truth.result_bytes, truth.kind, truth.result_polls) == (size, kind, 1)
        assert world.job_json(job_id)[1].endswith(world.result(job_id).read() + b"}")


@every_kind
def test_an_answer_is_the_same_in_parts_and_as_a_whole(world, kind):
    job_id = world.submit(JobPlan(result_bytes=50_000), kind=kind)
    answer = world.answer(KINDS[kind], job_id)
    chunks = [*answer.chunks(0, answer.size, chunk_bytes=777)]
    assert b"".join(chunks) == answer.read()
    assert answer.read(50, answer.size - 1) == answer.read()[50:-1]


@every_kind
def test_a_job_is_found_only_at_the_path_of_its_kind(world, kind):
    job_id = world.submit(JobPlan(), kind=kind)
    found = [name for name, rules in KINDS.items() if world.answer(rules, job_id).status == 200]
    assert found == [kind]
    assert [name for name in KINDS if world.page(kind=name)["jobs"]] == [kind]


@every_kind
def test_the_same_seed_gives_the_same_jobs(clock, kind):
    def jobs():
        world = World(clock=clock, seed=5, profile=Profile(odd=0.5, priority=0.5))
        ids = [world.submit(kind=kind) for _ in range(20)]
        clock.now += 100
        answers = [world.job_json(job_id) for job_id in ids]
        clock.now -= 100
        return ids, answers

    assert jobs() == jobs()


def test_profiles_can_be_mappings_of_existing_fields():
    ade = Emulator(profile={"pages": [2, 3]}, profiles={"v2-parse": {"median": 7.0}})
    assert ade.world.profile_of("v2-parse") == Profile(median=7.0)
    assert ade.world.profile_of("v1-parse") == Profile(pages=[2, 3])
    assert Emulator().world.profile_of("v1-parse") == Profile()
    with pytest.raises(TypeError, match=r"no field 'medain'; the fields are: median, sigma, "):
        Emulator(profile={"median": 7.0, "medain": 1.0})


@every_kind
def test_the_query_of_a_list_has_limits(kind):
    rules = KINDS[kind]
    assert rules.read_query({}) == PageQuery(page=0, page_size=10, status=None)
    names = ["pageSize"] if kind in V1 else ["pageSize", "page_size"]
    for name in names:
        for size in (1, 100):
            assert rules.read_query({name: str(size)}).page_size == size
        for size in ("0", "101", "-1", "x", "1.5", ""):
            with pytest.raises(InvalidRequestError):
                rules.read_query({name: size})
    assert rules.read_query({"page": "7"}).page == 7
    for page in ("-1", "x"):
        with pytest.raises(InvalidRequestError):
            rules.read_query({"page": page})
    assert rules.read_query({"status": "failed"}).status is JobStatus.FAILED
    if kind in V1:
        with pytest.raises(InvalidRequestError):
            rules.read_query({"status": "dreaming"})
    else:
        assert rules.read_query({"status": "dreaming"}).impossible
        assert not rules.read_query({"status": "failed"}).impossible


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("pages", [(1, 1), (1, 9)], [(0, 1), (2, 1), (-1, 1)]),
        ("small_bytes", [(1, 1)], [(0, 5), (5, 4)]),
        ("failed", [0, 0.5], [-0.1, 1.1]),
        ("median", [0, 5], [-1, float("inf")]),
        ("priority_speed", [0.1], [0, float("inf")]),
        ("retention", [0, float("inf")], [-1]),
        ("result_reads", [None, 0], [-1]),
    ],
)
def test_values_of_a_profile_have_limits(field, good, bad):
    for value in good:
        assert getattr(Profile(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(ValueError, match=field):
            Profile(**{field: value})


def test_the_text_of_an_error_is_that_of_its_status_if_the_service_has_none():
    assert [message_of(status) for status in (403, 410)] == ["Forbidden", "Gone"]


def test_a_document_without_a_name_is_called_document_pdf():
    step = {"name": "parse-extract", "document": "$inputs.a", "schema": SCHEMA}
    for url, name in (("https://a.example/a.pdf", "a.pdf"), ("https://a.example/", "document.pdf")):
        fields = {"inputs": {"a": {"document_url": url}}, "steps": [step], "document_url": url}
        for kind in ("v2-workflow", "v2-parse", "v1-parse"):
            assert KINDS[kind].read_submission(Form(fields=fields)).filename == name


def test_at_most_all_jobs_fail_are_cancelled_or_partial():
    assert Profile(failed=0.5, cancelled=0.25, partial=0.25)
    with pytest.raises(ValueError, match="must be <= 1"):
        Profile(failed=0.5, cancelled=0.25, partial=0.26)


class TestV2Envelope:
    @every_v2_kind
    def test_an_id_is_a_ulid_with_the_time_of_creation(self, world, kind, clock):
        letters = "0123456789abcdefghjkmnpqrstvwxyz"
        for clock.now in (T0 + 0.25, T0 + 86_400):
            prefix, _, tail = world.submit(kind=kind).rpartition("-")
            assert prefix == ("v2-workflow" if kind == "v2-workflow" else kind.partition("-")[2])
            assert re.fullmatch("[0-9a-hjkmnp-tv-z]{26}", tail)
            milliseconds = 0
            for letter in tail[:10]:
                milliseconds = milliseconds * 32 + letters.index(letter)
            assert milliseconds == int(clock.now * 1_000)

    @every_v2_kind
    def test_times_are_iso_texts_and_exact(self, world, kind, clock):
        clock.now = T0 + 0.125
        plan = JobPlan(queue_time=2, processing_time=8.5)
        job_id = world.submit(plan, kind=kind)
        _, body = world.job(job_id)
        assert body.keys() == {"job_id", "status", "created_at"}
        assert moment(body["created_at"]) == clock.now
        clock.now += 3
        _, body = world.job(job_id)
        assert body.keys() == {"job_id", "status", "created_at", "progress"}
        clock.now += 60
        _, body = world.job(job_id)
        assert body.keys() == {"job_id", "status", "created_at", "completed_at", "result"}
        assert moment(body["completed_at"]) == world.truth(job_id).finished_at == T0 + 10.625

    @every_v2_kind
    def test_progress_moves_and_never_reaches_one(self, world, kind, clock):
        jobs = [world.submit(JobPlan(processing_time=100), kind=kind) for _ in range(20)]
        seen = {job_id: [] for job_id in jobs}
        for clock.now in range(int(T0) + 1, int(T0) + 100, 14):
            for job_id in jobs:
                seen[job_id].append(world.job(job_id)[1]["progress"])
        for values in seen.values():
            assert values == sorted(values)
            assert len(set(values)) > 3
            assert max(values) <= 0.98
        last = [values[-1] for values in seen.values()]
        assert min(last) < 0.8  # a job can end from any value
        assert max(last) == 0.98

    @every_v2_kind
    def test_a_failed_job_has_an_error_with_a_code(self, world, kind):
        plan = JobPlan(outcome=Outcome.FAILED, failure_reason="no text", error_code="empty")
        _, body = world.job(world.submit(plan, kind=kind))
        assert body["error"] == {"code": "empty", "message": "no text"}
        assert "result" not in body
        [item] = world.page(kind=kind)["jobs"]
        assert item["failure_reason"] == "no text"

    @every_v2_kind
    def test_a_result_of_any_size_is_inline(self, world, kind):
        job_id = world.submit(JobPlan(result_bytes=3_000_000), kind=kind)
        _, body = world.job_json(job_id)
        assert json.loads(body)["result"].keys() == FIELDS[kind]
        assert len(body) > 3_000_000

    def test_no_v2_job_is_cancelled(self, world):
        with pytest.raises(ValueError, match="a v2-parse job cannot end cancelled"):
            world.submit(JobPlan(outcome=Outcome.CANCELLED), kind="v2-parse")
        profile = Profile(cancelled=1.0, failed=0, partial=0)
        drawing = World(clock=world.clock, profiles={"v2-parse": profile})
        assert drawing.truth(drawing.submit(kind="v2-parse")).outcome is Outcome.FAILED

    def test_service_tiers_are_two_populations(self, clock):
        world = World(clock=clock, profile=Profile(sigma=0.1, priority=0.3, priority_speed=20))
        truths = [world.truth(world.submit(kind="v2-extract")) for _ in range(200)]
        took = {"standard": [], "priority": []}
        for truth in truths:
            took[truth.tier].append(truth.finished_at - truth.received_at)
        assert 30 < len(took["priority"]) < 90
        assert max(took["priority"]) < min(took["standard"])
        _, body = world.job(world.submit(JobPlan(), kind="v2-extract", tier="priority"))
        assert body["result"]["metadata"]["billing"]["service_tier"] == "priority"
        with pytest.raises(ValueError, match="a v1-parse job cannot have the tier 'priority'"):
            world.submit(kind="v1-parse", tier="priority")

    @every_v2_kind
    def test_a_list_is_newest_first_and_has_no_cancelled_jobs(self, clock, kind):
        world = World(clock=clock, list_order="oldest")
        ids = []
        for clock.now in (T0, T0 + 1, T0 + 2):
            ids.append(world.submit(JobPlan(), kind=kind))
        body = world.page(kind=kind, page_size=2)
        assert [job["job_id"] for job in body["jobs"]] == ids[:0:-1]
        assert (body["has_more"], body["page"], body["page_size"]) == (True, 0, 2)
        assert world.page(kind=kind, status=JobStatus.CANCELLED)["jobs"] == []

    @every_v2_kind
    def test_a_list_of_a_status_that_does_not_exist_is_empty(self, world, kind):
        world.submit(JobPlan(), kind=kind)
        rules = KINDS[kind]
        for status, count in (("done", 0), ("", 1), ("completed", 1)):
            body = world.answer_page(rules, rules.read_query({"status": status, "page_size": "1"}))
            assert (len(body["jobs"]), body["has_more"]) == (count, False)


class TestPartialResults:
    PLAN = JobPlan(outcome=Outcome.PARTIAL, pages=5, failed_pages=[2, 4])

    def test_of_a_v1_parse_job(self, world):
        status, body = world.job(world.submit(self.PLAN, kind="v1-parse"))
        assert status == 206
        assert (
            body["metadata"]["failed_pages"] == body["data"]["metadata"]["failed_pages"] == [1, 3]
        )
        assert body["data"]["splits"][0]["pages"] == [0, 2, 4]

    def test_of_a_v2_parse_job(self, world):
        status, body = world.job(world.submit(self.PLAN, kind="v2-parse"))
        assert status == 200
        assert body["result"]["metadata"]["failed_pages"] == [2, 4]
        pages = body["result"]["structure"]["children"]
        assert [page["status"] for page in pages] == ["ok", "failed", "ok", "failed", "ok"]
        plan = JobPlan(outcome=Outcome.PARTIAL, partial_status=206)
        assert world.job(world.submit(plan, kind="v2-parse"))[0] == 206

    def test_of_a_v2_extract_job(self, world):
        _, body = world.job(world.submit(self.PLAN, kind="v2-extract"))
        assert body["result"]["schema_violation_error"]

    def test_of_a_workflow(self, world):
        _, body = world.job(world.submit(self.PLAN, kind="v2-workflow"))
        step = body["result"]["output"]["parse-extract"]
        assert step["parse"]["metadata"]["failed_pages"] == [2, 4]
        assert step["extract"]["schema_violation_error"]

    def test_all_pages_can_fail(self, world):
        plan = JobPlan(outcome=Outcome.PARTIAL, pages=1)
        for kind in ("v1-parse", "v2-parse", "v2-workflow"):
            _, body = world.job(world.submit(plan, kind=kind))
            assert body["status"] == "completed"
            if kind == "v2-parse":
                (page,) = body["result"]["structure"]["children"]
                assert page["status"] == "failed"

    def test_only_pages_of_the_document_can_fail(self):
        with pytest.raises(ValueError, match="failed_pages must be between 1 and 3"):
            JobPlan(failed_pages=[0])


class TestV1Parse:
    def test_progress_moves_and_reaches_one_before_the_end(self, world, clock):
        job_id = world.submit(JobPlan(queue_time=10, processing_time=100), kind="v1-parse")
        seen = []
        for seconds in (5, 10, 60, 109):
            clock.now = T0 + seconds
            body = world.job(job_id)[1]
            seen.append((body["status"], body["progress"]))
        assert seen == [
            ("pending", 0.0), ("processing", 0.0), ("processing", 0.5263), ("processing", 1.0),
        ]  # fmt: skip

    def test_a_spreadsheet_has_sheets_and_no_grounding(self, world):
        plan = JobPlan(pages=4, result_bytes=20_000)
        job_id = world.submit(plan, kind="v1-parse", filename="book.xlsx")
        _, body = world.job(job_id)
        data = body["data"]
        assert data.keys() == {"markdown", "chunks", "splits", "metadata"}
        assert data["splits"][0]["sheets"] == [0, 1, 2, 3]
        assert data["metadata"]["sheet_count"] == 4
        assert world.truth(job_id).result_bytes == 20_000

    def test_a_large_result_is_behind_a_url(self, world):
        job_id = world.submit(JobPlan(result_bytes=1_500_000), kind="v1-parse")
        _, body = world.job(job_id)
        assert body["data"] is None
        assert "/parse%20jobs/" in body["output_url"]
        assert world.object_at(world.result_path(job_id)).size == 1_500_000


class TestRetention:
    @every_kind
    def test_a_result_can_be_read_a_limited_number_of_times(self, world, kind):
        job_id = world.submit(JobPlan(result_reads=2), kind=kind)
        results = [world.job(job_id)[1].get(RESULT[kind]) for _ in range(4)]
        assert [result is not None for result in results] == [True, True, False, False]
        assert world.truth(job_id).result_polls == 2

    @every_kind
    def test_a_job_is_deleted_after_its_retention(self, world, kind, clock):
        job_id = world.submit(JobPlan(processing_time=5, retention=60), kind=kind)
        for clock.now, status in ((T0 + 64, 200), (T0 + 65, 404)):
            assert world.job(job_id)[0] == status

    def test_a_profile_limits_reads_and_retention(self, clock):
        world = World(
            clock=clock,
            profile=Profile(median=0, failed=0, cancelled=0, result_reads=1, retention=9),
        )
        job_id = world.submit(kind="v2-parse")
        assert [("result" in world.job(job_id)[1]) for _ in range(2)] == [True, False]
        clock.now += 9
        assert world.job(job_id)[0] == 404

    @every_kind
    def test_without_retention_a_completed_job_has_no_result(self, world, kind):
        _, body = world.job(world.submit(JobPlan(zero_data_retention=True), kind=kind))
        assert body["status"] == "completed"
        assert body.get(RESULT[kind]) is None


class TestOddValues:
    @pytest.mark.parametrize("odd", OddValue)
    @every_kind
    def test_the_job_settles_and_the_truth_covers_its_result(self, world, kind, odd):
        plan = JobPlan(odd_values=[odd], outcome=Outcome.PARTIAL)
        job_id = world.submit(plan, kind=kind)
        status, text = world.job_json(job_id)
        if odd is OddValue.EARLY_URL and kind in V1:
            assert world.object_at(world.result_path(job_id)).size == world.result(job_id).size
        else:
            assert json.loads(text)[RESULT[kind]] == json.loads(world.result(job_id).read())
        snapshot = RULES[JobKind.named(kind)].decode_job(text, status)
        assert snapshot.status is JobStatus.COMPLETED
        assert (snapshot.data is None) == (snapshot.output_url is not None)
        page = RULES[JobKind.named(kind)].decode_page(json.dumps(world.page(kind=kind)))
        assert [job.status for job in page.jobs] == [JobStatus.COMPLETED]

    @pytest.mark.parametrize(
        ("odd", "kind", "found"),
        [
            ("upper-case-status", "v1-parse", {"status": "COMPLETED"}),
            ("upper-case-status", "v2-parse", {"status": "COMPLETED"}),
            ("millisecond-times", "v1-extract", {"received_at": int(T0 * 1_000)}),
            ("epoch-times", "v2-extract", {"created_at": int(T0), "completed_at": int(T0)}),
            ("text-times", "v1-extract", {"received_at": str(int(T0))}),
            ("null-times", "v2-workflow", {"created_at": None, "completed_at": None}),
            ("null-progress", "v1-parse", {"progress": None}),
        ],
    )
    def test_an_odd_value_replaces_the_usual_one(self, world, odd, kind, found):
        _, body = world.job(world.submit(JobPlan(odd_values=[odd]), kind=kind))
        assert body.items() >= found.items()

    def test_odd_metadata(self, world):
        plan = JobPlan(processing_time=0.001, odd_values=["null-filename", "fractional-duration"])
        job_id = world.submit(plan, received_at=T0 - 1)
        metadata = world.job(job_id)[1]["metadata"]
        assert (metadata["filename"], metadata["duration_ms"]) == (None, 1.5)
        warnings = {
            "null-warnings": None,
            "object-warnings": [{"message": "page 2 is rotated", "pages": [2]}, {}],
        }
        for odd, expected in warnings.items():
            for kind in ("v1-extract", "v2-extract"):
                _, body = world.job(world.submit(JobPlan(odd_values=[odd]), kind=kind))
                result = body[RESULT[kind]]
                assert result.get("warnings", result["metadata"].get("warnings")) == expected

    def test_the_result_can_be_the_first_member(self, world):
        plan = JobPlan(odd_values=["result-first"])
        for kind in KINDS:
            _, body = world.job_json(world.submit(plan, kind=kind))
            assert body.startswith(b'{"%b":' % RESULT[kind].encode())
            assert json.loads(body)["status"] == "completed"

    def test_an_old_error_is_a_text(self, world):
        plan = JobPlan(outcome=Outcome.FAILED, failure_reason="no text", odd_values=["text-error"])
        _, body = world.job(world.submit(plan, kind="v2-parse"))
        assert body["failure_reason"] == "no text"
        assert "error" not in body

    def test_a_profile_makes_a_share_of_the_jobs_odd(self, clock):
        world = World(
            clock=clock,
            profile=Profile(median=0, failed=0, cancelled=0, odd=0.5, odd_values=["missing-times"]),
        )
        bodies = [world.job(world.submit())[1] for _ in range(100)]
        assert 30 < sum("received_at" not in body for body in bodies) < 70
        nothing = Profile(odd=1, odd_values=())
        assert World(clock=clock, profile=nothing).submit()


class TestHttp:
    @pytest.fixture
    async def ade(self, clock):
        profile = Profile(median=0, failed=0, cancelled=0, partial=0, priority=1)
        async with Emulator(clock=clock, profile=profile, more_keys=["second"]) as ade:
            yield ade

    async def test_every_other_key_is_rejected_on_all_paths(self, ade):
        for key, status in ((ade.api_key, 200), ("second", 200), ("third", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            async with aiohttp.ClientSession(ade.base_url, headers=headers) as api:
                for rules in KINDS.values():
                    async with api.get(rules.path) as answer:
                        assert answer.status == status
                        if status == 401:
                            assert (await answer.json()).keys() == {"error"}

    async def test_a_created_v2_job_can_be_terminal_already(self, ade, api):
        data = aiohttp.FormData(default_to_multipart=True)
        data.add_field("document_url", "https://example.com/a.pdf")
        async with api.post("/v2/parse/jobs", data=data) as answer:
            assert answer.status == 202
            created = await answer.json()
        assert created["status"] == "completed"
        assert ade.truth(created["job_id"]).tier == "standard"

    async def test_a_created_v2_job_that_is_processed_already_is_pending(self):
        data = {"document_url": "https://example.com/a.pdf"}
        async with Emulator(profile=Profile(queue_share=0.0)) as ade:
            headers = {"Authorization": f"Bearer {ade.api_key}"}
            async with (
                aiohttp.ClientSession(ade.base_url, headers=headers) as api,
                api.post("/v2/parse/jobs", json=data) as answer,
            ):
                assert (await answer.json())["status"] == "pending"

    @pytest.mark.parametrize(
        ("path", "body", "message"),
        [
            ("/v2/extract/jobs", {"schema": {}}, "body.markdown: Value error, markdown or"),
            ("/v2/extract/jobs", {"markdown": "x"}, "body.schema: Field required"),
            (
                "/v2/extract/jobs",
                {"schema": {}, "markdown": "x", "service_tier": "fast"},
                "body.service_tier",
            ),
            (
                "/v2/extract/jobs",
                {"schema": {}, "markdown": "x", "options": {"x": 1}},
                "body.options",
            ),
            ("/v2/extract/jobs", {"schema": {}, "markdown": "x", "markdown_url": "y"}, "not both"),
            ("/v2/workflow/jobs", {"inputs": {}, "steps": []}, "body.steps"),
            ("/v2/workflow/jobs", {"steps": []}, "body.inputs: Field required"),
            (
                "/v2/workflow/jobs",
                {
                    "inputs": {"a": {"document_url": 7}},
                    "steps": [{"name": "parse-extract", "document": "$inputs.a", "schema": SCHEMA}],
                },
                "an input must have a document",
            ),
        ],
    )
    async def test_a_wrong_v2_submission_is_422_with_code_and_message(
        self, api, path, body, message
    ):
        async with api.post(path, json=body) as answer:
            assert answer.status == 422
            error = await answer.json()
        assert error["code"] == "validation_error"
        assert message in error["message"]

    async def test_a_workflow_can_be_created_as_json_and_projected(self, ade, api):
        step = {"name": "parse-extract", "document": "$inputs.a", "schema": SCHEMA}
        body = {"inputs": {"a": {"document_url": "https://example.com/a.pdf"}}, "steps": [step]}
        extract = "$output.parse-extract.extract"
        body["output"] = {
            "total": f"{extract}.extraction.total",
            "all": f"{extract}.extraction",
            "absent": f"{extract}.extraction.total.x",
            "other": f"x{extract}",
            "bare": "extract",
            "number": 7,
        }
        async with api.post("/v2/workflow/jobs", json=body) as answer:
            job_id = (await answer.json())["job_id"]
        async with api.get(f"/v2/workflow/jobs/{job_id}") as answer:
            output = (await answer.json())["result"]["output"]
        assert isinstance(output["total"], float)
        assert output["all"]["total"] == output["total"]
        assert [output[name] for name in ("absent", "other", "bare", "number")] == [None] * 4
        rows = [row["row"] for row in output["_rows"] if isinstance(row, dict)]
        assert rows == [*range(rows[0], rows[0] + len(rows))]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_errors_have_the_shape_of_the_family(self, ade, api, kind):
        rules = KINDS[kind]
        async with api.get(f"{rules.path}/nobody") as answer:
            assert answer.status == 404
            keys = (await answer.json()).keys()
        assert keys == ({"code", "message"} if kind in V2 else {"message"})
        ade.faults.add("too-many-requests", endpoints=["create"], kinds=[kind])
        for name, other in KINDS.items():
            async with api.post(other.path, data={}) as answer:
                assert answer.status == (429 if name == kind else 422)
                if name == kind:
                    keys = (await answer.json()).keys()
        assert keys == ({"code", "message"} if kind in V2 else {"error"})

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_result_is_saved_to_the_output_save_url(self, ade, api, kind):
        url = ade.save_url("saved")
        job_id = ade.submit(JobPlan(), kind=kind, output_save_url=url)
        async with api.get(f"{KINDS[kind].path}/{job_id}") as answer:
            body = await answer.json()
        assert body["output_url"] == url
        assert body.get(RESULT[kind]) is None
        assert body["metadata"]["job_id"] == job_id
        assert ade.saved("saved") == ade.world.result(job_id).read()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_faults_happen_to_every_kind(self, ade, api, kind):
        path, job_id = KINDS[kind].path, ade.submit(JobPlan(), kind=kind)

        async def faulty(name, url=f"{path}/{job_id}"):
            fault = ade.faults.add(name, kinds=[kind])
            try:
                async with api.get(url) as answer:
                    return answer.status, await answer.read()
            except aiohttp.ClientError:
                return None
            finally:
                ade.faults.remove(fault)

        assert (await faulty("payment-required"))[0] == 402
        assert await faulty("reset-before-headers") is None
        assert await faulty("truncated") is None
        assert (await faulty("html"))[1].startswith(b"<!DOCTYPE html>")
        wrong = await faulty("wrong-job-id")
        backward = await faulty("backward-status")
        assert json.loads(wrong[1])["job_id"] != job_id
        body = json.loads(backward[1])
        assert body["status"] == "processing"
        assert body.get(RESULT[kind]) is None
        assert body.get("completed_at") is None
        assert re.search(b'"progress":(NaN|-?Infinity)', (await faulty("nan"))[1])
        page = json.loads((await faulty("missing-page", path))[1])
        assert page["jobs"] == []

    async def test_a_large_v2_answer_is_sent_completely(self, ade, api):
        job_id = ade.submit(JobPlan(result_bytes=5_000_000), kind="v2-extract")
        async with api.get(f"/v2/extract/jobs/{job_id}") as answer:
            body = await answer.read()
        assert body == ade.world.job_json(job_id)[1]

    @pytest.mark.parametrize("name", ["truncated", "reset-in-body"])
    async def test_a_large_v2_answer_can_break_off(self, ade, api, name):
        job_id = ade.submit(JobPlan(result_bytes=5_000_000), kind="v2-parse")
        ade.faults.add(name)
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            async with api.get(f"/v2/parse/jobs/{job_id}") as answer:
                await answer.read()
