"""Answers of the emulator about jobs of each kind, which the seed determines.

``PYTHONPATH=. python tests/support/emulated_answers.py`` writes them again, after an intended
change of the answers. Then look at the difference: it shows what the change does.
"""

import json
from pathlib import Path

import attrs
from clocks import T0, Clock

from adepoll.emulator import (
    FAULT_NAMES,
    KINDS,
    Faults,
    JobPlan,
    Outcome,
    Profile,
    World,
    make_fault,
)
from adepoll.emulator.combined_effect import CombinedEffect
from adepoll.emulator.effects import ListDistortion
from adepoll.emulator.kinds.forms import Form, InvalidRequestError, Submission

FILE = Path(__file__).parent.parent / "emulator" / "answers.jsonl"
ENOUGH = 3_500  # bytes, for filler rows in the result
TIMES = {"queue_time": 2.0, "processing_time": 10.0}
SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "price": {"type": "number"},
        "paid": {"type": "boolean"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "kind": {"enum": ["a", "b", "c"]},
        "fixed": {"const": 7},
        "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "one": {"oneOf": [{"type": ["number", "null"]}]},
        "none": {"type": "null"},
        "odd": {"type": "dream"},
        "implied": {"properties": {"a": {"type": "null"}}},
        "free": True,
    },
    "$defs": {"line": {"type": "object", "properties": {"sum": {"type": "number"}}}},
}
ODD = [
    ["upper-case-status", "millisecond-times", "null-progress", "missing-org-id", "null-filename",
     "fractional-duration", "null-warnings"],
    ["epoch-times", "missing-progress", "object-warnings", "result-first"],
    ["text-times", "early-url"],
    ["iso-times"],
    ["null-times"],
    ["missing-times"],
]  # fmt: skip


def plans_of(kind):
    """Return the plans whose answers are recorded, by name."""
    plans = {
        "completed": JobPlan(result_bytes=ENOUGH, **TIMES),
        "smallest": JobPlan(result_bytes=0, pages=1, **TIMES),
        "partial": JobPlan(
            outcome=Outcome.PARTIAL, pages=4, failed_pages=[1, 3], result_bytes=0, **TIMES
        ),
        "last page failed": JobPlan(outcome=Outcome.PARTIAL, result_bytes=0, **TIMES),
        "failed": JobPlan(outcome=Outcome.FAILED, error_code="no_text", **TIMES),
        "deleted": JobPlan(zero_data_retention=True, **TIMES),
    }
    if Outcome.CANCELLED in KINDS[kind].outcomes:
        plans["cancelled"] = JobPlan(outcome=Outcome.CANCELLED, **TIMES)
    for number, odd in enumerate(ODD):
        plans[f"odd {number}"] = JobPlan(odd_values=odd, result_bytes=0, pages=1, **TIMES)
    plans["odd failed"] = JobPlan(outcome=Outcome.FAILED, odd_values=["text-error"], **TIMES)
    return plans


def answers():
    """Yield (name, status, body) for polls of jobs at several times, lists and drawn jobs."""
    for kind in KINDS:
        clock = Clock()
        world = World(clock=clock, seed=7)
        jobs = {name: world.submit(plan, kind=kind) for name, plan in plans_of(kind).items()}
        more = {
            "schema": Submission(schema=SCHEMA, markdown="# A page\n\nText.", model="a-model"),
            "book": Submission(filename="book.xlsx"),
            "split": Submission(options={"split": "page"}),
        }
        for name, submission in more.items():
            plan = JobPlan(result_bytes=0, pages=2, **TIMES)
            jobs[name] = world.add(KINDS[kind], submission, plan=plan).job_id
        for seconds in (1.0, 2.0, 7.0, 11.9, 12.0):
            clock.now = T0 + seconds
            for name, job_id in jobs.items():
                if (
                    seconds == 12.0
                    or name in {"completed", "partial"}
                    or (name[:3] == "odd" and seconds == 7.0)
                ):
                    status, body = world.job(job_id)
                    if name in {"odd 2", "odd 3", "odd 4", "odd 5"}:  # only their envelope is odd
                        body = {key: body[key] for key in body if key not in {"data", "result"}}
                    yield f"{kind} {name} after {seconds} s", status, body
        yield f"{kind} list", 200, world.page(kind=kind, page_size=100)
    yield from drawn()
    yield from faulty()
    yield from submissions()


def drawn():
    """Yield the answers about jobs without a plan."""
    profile = Profile(
        odd=0.5, priority=0.5, failed=0.2, cancelled=0.2, partial=0.2, small_bytes=(100, 900)
    )
    clock = Clock()
    world = World(clock=clock, seed=8, profile=profile)
    for kind in KINDS:
        jobs = [world.submit(kind=kind) for _ in range(8)]
        for number, job_id in enumerate(jobs):
            truth = world.truth(job_id)
            facts = (truth.outcome.value, truth.tier, truth.result_bytes)
            yield f"{kind} drawn {number}", round(truth.finished_at - T0, 6), [job_id, *facts]


def faulty():
    """Yield the effect of each fault on requests, with the seconds of a delay as the status."""
    clock = Clock()
    world = World(clock=clock, seed=9)
    plan = JobPlan(result_bytes=0, pages=1)
    ids = [world.submit(plan, kind=kind) for kind in KINDS for _ in range(3)]
    page = json.dumps(world.page(page_size=10), separators=(",", ":")).encode()
    bodies = [world.job_json(ids[0])[1], world.job_json(ids[-1])[1], page]
    for name in FAULT_NAMES:
        faults = Faults(seed=9, clock=clock)
        faults.add(name)
        for number in range(12 if name == "rate-limit" else 4):
            endpoint = min(make_fault(name).endpoints, key=lambda endpoint: endpoint.value)
            for applied in faults.select(endpoint, ids[number], clock.now):
                effect = CombinedEffect.of([applied], clock.now)
                replacement = None if effect.replacement is None else str(effect.replacement)
                found = {
                    "endpoint": endpoint.value,
                    "replacement": replacement,
                    "shift": effect.shift,
                    "storage": [member.value for member in effect.storage_effects],
                    "failure": effect.connection_failure and effect.connection_failure.value,
                    "numbers": [effect.off_by, effect.extra_bytes, effect.rate],
                    "raw": effect.needs_raw_socket,
                    "break": effect.draw_break(1_000),
                }
                if effect.is_corrupting and number < len(bodies):
                    is_list = isinstance(applied.effect, ListDistortion)
                    body, kind = effect.corrupt(page if is_list else bodies[number])
                    found["corrupt"] = [kind, len(body), body[:200].decode("latin-1")]
                yield f"{name} {number}", round(effect.delay, 6), found


STEP = {"name": "parse-extract", "document": "$inputs.a", "schema": {"type": "object"}}
FORMS = [
    {},
    {"document": "x", "markdown": "y", "schema": "{}", "inputs": "{}", "steps": "[]"},
    {"document": "x", "document_url": "https://h/a/b.pdf", "schema": "[1]", "strict": "maybe"},
    {"markdown": "x", "markdown_url": "https://h/m.md", "schema": '{"type": "object"}'},
    {"document_url": "https://h/a/", "markdown_url": "https://h/", "schema": "{", "model": 7},
    {"document": "x", "markdown": "y", "schema": {"a": 1}, "options": {"dream": 1, "b": 2}},
    {"document": "x", "markdown": "y", "schema": "{}", "service_tier": "gold", "split": "chapter"},
    {"document": "x", "markdown": "y", "schema": "{}", "service_tier": "priority", "strict": "No"},
    {"document": "x", "split": "page", "custom_prompts": "no", "output_save_url": "https://h/s"},
    {"inputs": {"a": {"document_url": "https://h/w.pdf"}}, "steps": [STEP], "output": {"b": "$"}},
    {"inputs": {"a": {"document_url": ""}}, "steps": [STEP]},
    {"inputs": {"a": {"document": "file"}}, "steps": [STEP]},
    {"inputs": {"a": 1}, "steps": [STEP, STEP]},
    {"inputs": {"b": {}}, "steps": [STEP]},
    {"inputs": {}, "steps": [{**STEP, "name": "other"}]},
    {"inputs": {}, "steps": [{**STEP, "schema": None}]},
    {"inputs": {}, "steps": [{**STEP, "document": 1}]},
    {"inputs": {}, "steps": 1},
    {"inputs": {"a": {}}},
]


def submissions():
    """Yield what is read of each form, or why it is invalid."""
    for kind, rules in KINDS.items():
        for number, fields in enumerate(FORMS):
            for files in ({}, {"document": "d.pdf", "markdown": "m.md", "file": "f.pdf"}):
                form = Form(fields=fields, filenames=files, is_json=not files)
                try:
                    found = 200, attrs.asdict(rules.read_submission(form))
                except InvalidRequestError as error:
                    found = 422, rules.invalid(error.problems)
                yield f"{kind} form {number} with {len(files)} files", *found


def lines():
    """Return the lines of the file."""
    return [json.dumps(answer, ensure_ascii=False) for answer in answers()]


if __name__ == "__main__":
    FILE.write_text("".join(f"{line}\n" for line in lines()), "utf-8")
