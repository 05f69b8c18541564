"""Measures how long hostile inputs of each decoder of foreign data block the event loop.

If a thread decodes the input, the figure is the longest pause of the loop during the decoding.
Otherwise it is the CPU time of the decoder. The goal is 20 ms per megabyte, but at least 5 ms:
Python can need 5 ms to switch to another thread. ``json.loads`` is the floor: the goal is for the
time in addition to its CPU time for the same input, if the input is JSON.

A row has all values at one place of one decoder, and is printed when it is measured. It shows the
worst of its inputs. ``--megabytes`` sets the size of the inputs, and ``--seconds`` limits the time
of the whole run: each row gets an equal share, and then leaves out values at random. When the time
has ended, the other rows are left out. With ``--decoder``, only decoders with this text in their
name are measured. Use ``nice``.

With ``--cpu``, the goal is another one: the CPU time of the decoder, in all threads, as a multiple
of the CPU time of ``json.loads`` for the same input. To leave out inputs that take little time, 5
ms are added to the time of ``json.loads``.
"""

import argparse
import asyncio
import json
import random
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from gc import collect
from itertools import chain, groupby
from operator import itemgetter
from threading import get_ident
from time import clock_gettime, monotonic, pthread_getcpuclockid, thread_time

from attrs import field, frozen

from adepoll import AdePollError, JobKind
from adepoll.api import protocol
from adepoll.api.json_envelope import ObjectScanner
from adepoll.api.json_text import is_costly
from adepoll.api.kinds.registry import RULES
from adepoll.api.models import JobSnapshot
from adepoll.cli.columns import read_text
from adepoll.cli.found_jobs import Fields, IdsError
from adepoll.common.redaction import Secret, redact_text
from adepoll.fetcher.local_result import InlineResult
from adepoll.fetcher.responses import MAX_ERROR_BODY
from adepoll.fetcher.result_items import ResultItems
from adepoll.fetcher.result_stream import ResultStream
from adepoll.fetcher.storage_rules import error_for
from adepoll.scheduling.durations import Durations
from adepoll.server.webhooks import job_ids_in

GOAL = 20.0  # milliseconds per MiB, in addition to `json.loads`
SHORTEST = 5.0  # milliseconds, the default of `sys.getswitchinterval()`
TICK = 0.0005  # seconds of one sleep of the loop
TIMES = 5.0  # CPU time with --cpu, as a multiple of that of `json.loads`
TRIES = 8  # runs of an input that misses the goal: other programs can slow down some of them

# Values by name. A value consists of its start, a text that is repeated until the value has the
# wanted size, and its end.
VALUES = {
    "many {}": ("[", "{}", "]"),
    "many []": ("[", "[]", "]"),
    "many 0": ("[", "0", "]"),
    "many -1.5e3": ("[", "-1.5e3", "]"),
    "many null": ("[", "null", "]"),
    'many ""': ("[", '""', "]"),
    "many texts": ("[", '"ab c"', "]"),
    'many {"a":1}': ("[", '{"a":1}', "]"),
    "many warnings": ("[", '{"msg":"m","code":"c"}', "]"),
    "many odd warnings": ("[", '{"text":7,"code":7}', "]"),
    "many messages": ("[", '{"message":"m"}', "]"),
    "many jobs": ("[", '{"job_id":"j","status":"pending"}', "]"),
    "many pages": ("[", "12", "]"),
    "many members": ("{", '"%d":1', "}"),
    "many objects as members": ("{", '"%d":{}', "}"),
    "same member": ("{", '"a":1', "}"),
    "NaN": ("[", "NaN", "]"),
    "huge numbers": ("[", "9" * 4_000, "]"),
    "too huge numbers": ("[", "9" * 5_000, "]"),
    "long fractions": ("[", "0." + "3" * 3_000, "]"),
    "1e999": ("[", "1e999", "]"),
    "urls": ("[", '"https://h/p?sig=x"', "]"),
    "signatures": ("[", '"sig=x"', "]"),
}
TEXTS = {
    "plain": "x",
    "escapes": "\\n",
    "surrogates": "\\ud83d\\ude00",
    "half surrogates": "\\ud800",
    "é": "é",
    "escaped quotes": '\\"',
    "backslashes": "\\\\",
    "urls": "https://h/p?sig=x ",
    "colons": "://",
    "bearer": "bearer ",
    "sig=": "sig=",
    "spaces": " ",
    "angle": "<",
    "ampersands": "&amp;",
}
NUMBERS = {"one huge number": "9", "one long fraction": "0."}


def values():
    """Return functions by name. Each returns JSON of about the size that is its argument."""
    made = {name: partial(_repeated, *parts) for name, parts in VALUES.items()}
    for name, text in TEXTS.items():
        made[f"text of {name}"] = partial(_enclosed, '"', text, '"')
    for name, head in NUMBERS.items():
        made[name] = partial(_enclosed, head, "9", "")
    for depth in (90, 500, 900, 5_000):
        made[f"{depth} levels"] = partial(_repeated, "[", "[" * depth + "]" * depth, "]")
    made["endless levels"] = partial(_enclosed, "", "[", "")
    made["objects in objects"] = partial(_enclosed, "", '{"a":', "")
    return made


def _repeated(head, item, tail, size):
    items = [item.replace("%d", str(number)) for number in range(size // (len(item) + 1) or 1)]
    return head + ",".join(items) + tail


def _enclosed(head, text, tail, size):
    return head + text * (size // len(text)) + tail


def places(rules):
    """Yield places for a value in the answer about a job: name, text before, and text after."""
    head = '{"job_id":"j","status":"completed",'
    required = json.dumps(next(iter(rules.result_keys)))
    result = f'{head}"{rules.result_field}":{{{required}:"m",'
    yield "unknown", f'{head}"new":', "}"
    for name in ("progress", "received_at", "failure_reason", "error", "output_url"):
        yield name, f'{{"job_id":"j","status":"failed","{name}":', "}"
    yield "status", '{"job_id":"j","status":', "}"
    yield "job_id", '{"status":"pending","job_id":', "}"
    yield "result", f'{head}"{rules.result_field}":', "}"
    yield "required", f'{head}"{rules.result_field}":{{{required}:', "}}"
    yield "unknown in result", f'{result}"new":', "}}"
    yield "schema_violation_error", f'{result}"schema_violation_error":', "}}"
    yield "warnings", f'{result}"warnings":', "}}"
    for name in ("warnings", "failed_pages", "billing", "duration_ms", "new", "filename"):
        yield f"metadata.{name}", f'{result}"metadata":{{"{name}":', "}}}"
    yield "repeated metadata", f'{head}"metadata":{{"new":', "}}"


# Decoders of large inputs that a thread calls, and the function that says which inputs are large.
IN_THREAD = {
    **dict.fromkeys(("list", *(f"{kind} answer" for kind in RULES)), is_costly),
    "items": lambda _body: True,
    "id file": lambda _body: True,
    "result": lambda _body: True,
    "durations": lambda _body: True,  # in journals
    "snapshot": lambda _body: True,  # in journals
}


def _at(decoder, place, decode, head, tail):
    """Yield the inputs with each value at one place: decoder, place, name, decode, and a maker."""
    for name, make in values().items():
        yield decoder, place, name, decode, partial(_body, head, make, tail)


def _body(head, make, tail, size):
    return (head + make(size) + tail).encode("utf-8", "surrogatepass")


def _answers():
    for kind in (JobKind.V1_EXTRACT, JobKind.V1_PARSE, JobKind.V2_EXTRACT):
        rules = RULES[kind]
        for place, head, tail in places(rules):
            yield from _at(f"{kind} answer", place, rules.decode_job, head, tail)


def _pages():
    decode = RULES[JobKind.V1_EXTRACT].decode_page
    for place, head, tail in (
        ("jobs", '{"jobs":', "}"),
        ("unknown", '{"jobs":[],"new":', "}"),
        ("of a job", '{"jobs":[{"job_id":"j","status":"failed","new":', "}]}"),
        ("reason", '{"jobs":[{"job_id":"j","status":"failed","failure_reason":', "}]}"),
    ):
        yield from _at("list", place, decode, head, tail)


def _results():
    decode = RULES[JobKind.V2_EXTRACT].decode_result
    for place, head in (("warnings", '{"extraction":1,"warnings":'), ("data", '{"extraction":')):
        yield from _at("result", place, decode, head, "}")


def scan(body):
    """Scan a large answer in chunks."""
    scanner = ObjectScanner(streamed="result", streamed_scanner=ObjectScanner())
    for start in range(0, len(body), 65_536):
        scanner.feed(body[start : start + 65_536])


def walk_items(body):
    """Walk the items of an array within a result, which arrives in chunks."""
    items = ResultItems(ResultStream(InlineResult(b"")), "result.item", job_id="j", max_bytes=2**30)
    for start in range(0, len(body), 65_536):
        items._parse(body[start : start + 65_536])
        items._builder.items.clear()
    items._parse(b"")


def read_ids(body):
    """Read a file with ids."""
    text = body.decode("utf-8", "surrogatepass")
    read_text([text], source="ids", fields=Fields(job_id="job_id"), emit=lambda _jobs: None)


def storage_error(body):
    """Read an error response of a storage."""
    error_for("j", "https://h/p?sig=x", 403, body[:MAX_ERROR_BODY], now=datetime.now(UTC))


OTHERS = {
    "scanner": scan,
    "refusal": lambda body: protocol.status_error(500, {}, body, job_id="j", secret=Secret("key")),
    "storage error": storage_error,
    "redact_text": lambda body: redact_text(body.decode("utf-8", "surrogatepass")),
    "items": walk_items,
    "id file": read_ids,
    "snapshot": JobSnapshot.from_json,
    "webhook": job_ids_in,
    "durations": Durations.from_json,
}
OWN_INPUTS = {
    "id file": {"lines": "a\n", "commas": "a,", "quotes": '"a",', "empty": "\n"},
    "storage error": {
        "elements": "<a>",
        "codes": "<Code>a</Code>",
        "messages": "<Message>a",
        "comments": "<!--",
        "spaces": "<Message>" + " " * 50,
    },
}


def _others():
    for decoder, decode in OTHERS.items():
        for place, head, tail in (
            ("whole", "", ""),
            ("result", '{"result":', "}"),
            ("in a result", '{"result":{"a":', "}}"),
            ("unknown", '{"job_id":"j","status":"failed","new":', "}"),
            ("seen", '{"format":1,"ended":1,"seen":', "}"),
        ):
            yield from _at(decoder, place, decode, head, tail)
    for decoder, inputs in OWN_INPUTS.items():
        for name, text in inputs.items():
            make = partial(_body, "", partial(_enclosed, "", text, ""), "")
            yield decoder, "not JSON", name, OTHERS[decoder], make


def tried(decode, body):
    """Decode an input; ignore an error, because only the time matters."""
    with suppress(AdePollError, IdsError, ValueError, RecursionError):
        decode(body)


def cpu(decode, body, until, *, goal=None, tries=TRIES):
    """Return the CPU time in ms, the best of up to `tries` runs, which begin before `until`.

    If `goal` is not None, no other run begins after a run that took less than `goal` ms.
    """
    best = float("inf")
    for _ in range(tries):
        start = thread_time()
        tried(decode, body)
        best = min(best, 1e3 * (thread_time() - start))
        if (goal is not None and best < goal) or monotonic() >= until:
            break
    return best


async def longest_pause(decode, body, until):
    """Return the longest pause of the loop while a thread decodes, in ms; the best of `TRIES`.

    A pause is counted in CPU time of that thread, because other programs can make it wait, too.
    """
    best = float("inf")
    for _ in range(TRIES):
        clocks = []
        longest = last = 0.0
        decoding = asyncio.get_running_loop().run_in_executor(
            None, with_clock, clocks, decode, body
        )
        while not decoding.done():
            await asyncio.sleep(TICK)
            if clocks:
                now = clock_gettime(clocks[0])
                longest, last = max(longest, now - (last or now)), now
        best = min(best, 1e3 * longest)
        if best < goal_for(body) or monotonic() >= until:
            break
    return best


def with_clock(clocks, decode, body):
    """Append the CPU clock of this thread to a list, then decode an input."""
    clocks.append(pthread_getcpuclockid(get_ident()))
    tried(decode, body)


def measure_cpu(name, decode, body, until):
    """Return the `Measured` of one input, with its CPU time in place of the pause of the loop."""
    collect()
    spent = cpu(decode, body, until, tries=3)
    collect()
    floor = cpu(json.loads, body, until, tries=3)
    return Measured(spent / (floor + SHORTEST) / TIMES, spent, floor, len(body), name)


def goal_for(body):
    """Return the milliseconds for which an input may block the loop."""
    return max(SHORTEST, GOAL * len(body) / 2**20)


def measure(decoder, name, decode, body, until):
    """Return the `Measured` of one input; no run after the first begins after `until`."""
    if decoder in IN_THREAD and IN_THREAD[decoder](body):
        blocked = asyncio.run(longest_pause(decode, body, until))
        name = f"{name} (thread)"
    else:
        blocked = cpu(decode, body, until, goal=goal_for(body))
    floor = None
    if blocked > goal_for(body):
        floor = cpu(json.loads, body, until, goal=goal_for(body))
    return Measured((blocked - (floor or 0.0)) / goal_for(body), blocked, floor, len(body), name)


@frozen(order=True)
class Measured:
    """One input; the worst input is the greatest.

    Attributes:
        rate: Milliseconds beyond those of `json.loads`, divided by the goal.
        blocked: Milliseconds for which the input blocks the loop.
        floor: Milliseconds of `json.loads`; None if it was not measured, because the goal is met
            without it.
        size: Size of the input in bytes.
        name: Name of the input.
    """

    rate: float
    blocked: float
    floor: float | None = field(order=False)
    size: int
    name: str

    def __str__(self):
        """Return the columns of a row."""
        scale = 2**20 / self.size
        floor = "" if self.floor is None else f"{self.floor * scale:.1f}"
        return f"{self.blocked:11.1f} {self.blocked * scale:7.1f} {floor:>11}"


def main():
    """Measure rows until the time has ended, and print each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1)
    parser.add_argument("--seconds", type=float, default=300, help="limit of the whole run")
    parser.add_argument("--decoder", default="")
    parser.add_argument("--seed", type=int, default=0, help="decides which values are left out")
    parser.add_argument("--cpu", action="store_true", help="measure CPU time instead of pauses")
    options = parser.parse_args()
    size = int(options.megabytes * 2**20)
    rng = random.Random(options.seed)
    inputs = chain(_others(), _pages(), _results(), _answers())
    wanted = [entry for entry in inputs if options.decoder in entry[0]]
    rows = [[*entries] for _, entries in groupby(wanted, key=itemgetter(0, 1))]
    goal = f"{TIMES:g} times json.loads" if options.cpu else f"{GOAL:g} ms/MB"
    print(f"{len(wanted)} inputs of {options.megabytes:g} MB; goal: {goal}, {SHORTEST:g} ms")
    time = "    CPU ms" if options.cpu else "blocked ms"
    print(f" {time}   ms/MB  json.loads  missed  measured  decoder, place: worst input")
    ends_at = monotonic() + options.seconds
    missed = measured = 0
    for done, row in enumerate(rows):
        if monotonic() >= ends_at:
            print(f"the time has ended: {len(rows) - done} rows are left out")
            break
        until = monotonic() + (ends_at - monotonic()) / (len(rows) - done)
        rng.shuffle(row)
        found = []
        for _, _, name, decode, make in row:
            if found and monotonic() >= until:
                break
            body = make(size)
            found.append(
                measure_cpu(name, decode, body, until)
                if options.cpu
                else measure(row[0][0], name, decode, body, until)
            )
        late = sum(each.rate > 1 for each in found)
        missed, measured = missed + late, measured + len(found)
        worst = max(found)
        decoder, place = row[0][:2]
        shown = f"{late:7d} {len(found):5d}/{len(row):<3d}"
        print(f"{worst} {shown}  {decoder}, {place}: {worst.name}", flush=True)
    print(f"{measured} inputs measured; {missed} missed the goal")


if __name__ == "__main__":
    main()
