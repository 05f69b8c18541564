"""Measures how long hostile inputs of each decoder of foreign data block the event loop.

If a thread decodes the input, the figure is the longest pause of the loop during the decoding.
Otherwise it is the CPU time of the decoder. The goal is 20 ms per megabyte, but at least 5 ms:
Python can need 5 ms to switch to another thread. The table begins with the worst input. It also has
the CPU time of ``json.loads`` for the same input. ``--megabytes`` sets the size of the inputs. With
``--decoder``, only decoders with this text in their name are measured.
"""

import argparse
import asyncio
import json
from contextlib import suppress
from time import perf_counter, thread_time

from adepoll import AdePollError, JobKind
from adepoll.api import protocol
from adepoll.api.json_envelope import ObjectScanner
from adepoll.api.json_text import is_costly
from adepoll.api.kinds.registry import RULES
from adepoll.api.models import JobSnapshot
from adepoll.cli.columns import read_text
from adepoll.cli.found_jobs import Fields, IdsError
from adepoll.common.redaction import Secret, redact_text
from adepoll.fetcher.storage_rules import error_for
from adepoll.scheduling.durations import Durations
from adepoll.server.webhooks import job_ids_in

GOAL = 20.0  # milliseconds per MiB
SHORTEST = 5.0  # milliseconds, the default of `sys.getswitchinterval()`
TICK = 0.0005  # seconds of one sleep of the loop

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


def values(size):
    """Yield names and JSON texts of about `size` bytes."""
    for name, (head, item, tail) in VALUES.items():
        count = size // (len(item) + 1) or 1
        items = [item.replace("%d", str(number)) for number in range(count)]
        yield name, head + ",".join(items)[:size].rpartition(",")[0] + tail
    for name, text in TEXTS.items():
        yield f"text of {name}", '"' + text * (size // len(text)) + '"'
    for name, head in NUMBERS.items():
        yield name, head + "9" * size
    for depth in (90, 500, 900, 5_000):
        nested = "[" * depth + "]" * depth
        count = size // len(nested) or 1
        yield f"{depth} levels", "[" + ",".join([nested] * count) + "]"
    yield "endless levels", "[" * size
    yield "objects in objects", '{"a":' * (size // 5)


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


IN_THREAD = {"list", *(f"{kind} answer" for kind in RULES)}


def _answers(size):
    for rules in RULES.values():
        if rules.kind not in {JobKind.V1_EXTRACT, JobKind.V1_PARSE, JobKind.V2_EXTRACT}:
            continue
        for place, head, tail in places(rules):
            for name, value in values(size):
                body = (head + value + tail).encode("utf-8", "surrogatepass")
                yield f"{rules.kind} answer", f"{place}: {name}", rules.decode_job, body


def _pages(size):
    rules = RULES[JobKind.V1_EXTRACT]
    for place, head, tail in (
        ("jobs", '{"jobs":', "}"),
        ("unknown", '{"jobs":[],"new":', "}"),
        ("of a job", '{"jobs":[{"job_id":"j","status":"failed","new":', "}]}"),
        ("reason", '{"jobs":[{"job_id":"j","status":"failed","failure_reason":', "}]}"),
    ):
        for name, value in values(size):
            body = (head + value + tail).encode("utf-8", "surrogatepass")
            yield "list", f"{place}: {name}", rules.decode_page, body


def _results(size):
    rules = RULES[JobKind.V2_EXTRACT]
    for place, head in (("warnings", '{"extraction":1,"warnings":'), ("data", '{"extraction":')):
        for name, value in values(size):
            body = f"{head}{value}}}".encode("utf-8", "surrogatepass")
            yield "result", f"{place}: {name}", rules.decode_result, body


def scan(body):
    """Scan a large answer in chunks."""
    scanner = ObjectScanner(cut="result", within=ObjectScanner())
    for start in range(0, len(body), 65_536):
        scanner.feed(body[start : start + 65_536])


def read_ids(body):
    """Read a file with ids."""
    text = body.decode("utf-8", "surrogatepass")
    read_text([text], source="ids", fields=Fields(job_id="job_id"), emit=lambda _jobs: None)


OTHERS = {
    "scanner": scan,
    "refusal": lambda body: protocol.status_error(500, {}, body, job_id="j", secret=Secret("key")),
    "storage error": lambda body: error_for("j", "https://h/p?sig=x", 403, body, now=None),
    "redact_text": lambda body: redact_text(body.decode("utf-8", "surrogatepass")),
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


def _others(size):
    for decoder, decode in OTHERS.items():
        for name, value in values(size):
            for place, head, tail in (
                ("whole", "", ""),
                ("result", '{"result":', "}"),
                ("in a result", '{"result":{"a":', "}}"),
                ("unknown", '{"job_id":"j","status":"failed","new":', "}"),
                ("seen", '{"format":1,"ended":1,"seen":', "}"),
            ):
                body = (head + value + tail).encode("utf-8", "surrogatepass")
                yield decoder, f"{place}: {name}", decode, body
    for decoder, inputs in OWN_INPUTS.items():
        for name, text in inputs.items():
            yield decoder, name, OTHERS[decoder], (text * (size // len(text))).encode()


def tried(decode, body):
    """Decode an input; ignore an error, because only the time matters."""
    with suppress(AdePollError, IdsError, ValueError, RecursionError):
        decode(body)


def cpu(decode, body):
    """Return the CPU time in milliseconds, the best of up to three runs."""
    best = float("inf")
    for _ in range(3):
        start = thread_time()
        tried(decode, body)
        best = min(best, 1e3 * (thread_time() - start))
        if best < goal_for(body):
            break
    return best


async def longest_pause(decode, body):
    """Return the longest pause of the loop while a thread decodes, in ms; the best of three."""
    best = float("inf")
    for _ in range(3):
        longest = 0.0
        decoding = asyncio.get_running_loop().run_in_executor(None, tried, decode, body)
        last = perf_counter()
        while not decoding.done():
            await asyncio.sleep(TICK)
            now = perf_counter()
            longest, last = max(longest, now - last - TICK), now
        best = min(best, 1e3 * longest)
        if best < goal_for(body):
            break
    return best


def goal_for(body):
    """Return the milliseconds for which an input may block the loop."""
    return max(SHORTEST, GOAL * len(body) / 2**20)


def main():
    """Measure all inputs, and print the worst ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1)
    parser.add_argument("--decoder", default="")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    size = int(options.megabytes * 2**20)
    found, floors, missed = [], {}, 0
    for source in (_others, _pages, _results, _answers):
        for decoder, name, decode, body in source(size):
            if options.decoder not in decoder:
                continue
            in_thread = decoder in IN_THREAD and is_costly(body)
            pause = asyncio.run(longest_pause(decode, body)) if in_thread else None
            blocked = cpu(decode, body) if pause is None else pause
            found.append((blocked / goal_for(body), blocked, len(body), in_thread, decoder, name))
            if found[-1][0] > 1:
                missed += 1
                floors[decoder, name] = cpu(json.loads, body)
                if options.verbose:
                    print(*found[-1], flush=True)
    found.sort(reverse=True)
    print(f"{len(found)} inputs of {options.megabytes:g} MB: {missed} block the loop longer than")
    print(
        f"{GOAL:g} ms per MB and {SHORTEST:g} ms; threads decode {sum(each[3] for each in found)}"
    )
    print(" blocked ms   ms/MB  json.loads, ms/MB")
    for _, blocked, size, in_thread, decoder, name in found[: options.rows]:
        floor = floors.get((decoder, name))
        shown = "" if floor is None else f"{floor * 2**20 / size:.1f}"
        where = f"{decoder}{', thread' if in_thread else ''}"
        print(f"{blocked:11.1f} {blocked * 2**20 / size:7.1f} {shown:>8}  {where:28} {name}")


if __name__ == "__main__":
    main()
