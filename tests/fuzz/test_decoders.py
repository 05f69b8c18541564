"""Any input of a decoder of foreign data is read or raises a typed error, in bounded time.

``nox -s fuzz -- --examples 1000000`` tries a million inputs for each decoder, ``nox -s fuzz -- -k
answer`` those of the decoders of answers. A failure prints a short failing input: save it as a
seed. The option ``--seed`` draws the inputs of an earlier run again, on the same version of Python.
Without nox, the same inputs are drawn in each run.
"""

import random
import tracemalloc
from contextlib import contextmanager
from functools import partial

import file_decoders  # noqa: F401 - it adds its entries
import http_decoders  # noqa: F401 - it adds its entries
import pytest
import setting_decoders  # noqa: F401 - it adds its entries
from decoders import DECODERS, check
from fuzzing import counted_calls, inputs_of, seeds_of, smallest

BY_NAME = {decoder.name: decoder for decoder in DECODERS}
COUNTED = 10  # the calls of one input in this number are counted, because counting is slow
MAX_CALLS_PER_BYTE = 100  # a warning is three bytes, '"",', and the outputs of its job are checked


def check_with_bounded_calls(decoder, body):
    with counted_calls() as count:
        check(decoder, body)
    assert count() <= decoder.calls + MAX_CALLS_PER_BYTE * len(body)


def warm_up(decoder):
    """Generate the readers and writers that the first input of each shape needs."""
    for body in seeds_of(decoder.name):
        check(decoder, body)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_every_seed_is_decoded_or_raises_a_typed_error(decoder):
    warm_up(decoder)
    for body in seeds_of(decoder.name):
        check_with_bounded_calls(decoder, body)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_any_input_is_decoded_or_raises_a_typed_error(decoder, pytestconfig):
    warm_up(decoder)
    first = pytestconfig.getoption("--fuzz-seed")
    count = pytestconfig.getoption("--fuzz-examples")
    drawn = inputs_of(seeds_of(decoder.name), random.Random(f"{first} {decoder.name}"), count)
    for number, body in enumerate(drawn):
        check_one = check if number % COUNTED else check_with_bounded_calls
        if _fails(check_one, decoder, body):
            shortest = smallest(body, partial(_fails, check_one, decoder))
            seed = f"drawn by --fuzz-seed={first}; save this input as a seed: {shortest!r}"
            with noting(seed):
                check_one(decoder, shortest)


@contextmanager
def noting(text):
    try:
        yield
    except Exception as error:
        error.add_note(text)
        raise


def _fails(check_one, decoder, body):
    try:
        check_one(decoder, body)
    except Exception:  # noqa: BLE001 - whatever it is, it is a failure
        return True
    return False


def repeated(head, item, tail=b"", separator=b","):
    return lambda count: head + separator.join([item] * count) + tail


JOB = b'{"job_id":"j","status":"completed","received_at":1,"progress":1,'
SHAPES = {
    "list: empty objects": ("list", repeated(b'{"jobs":[', b"{}", b"]}")),
    "list: arrays": ("list", repeated(b'{"jobs":[', b"[]", b"]}")),
    "list: numbers": ("list", repeated(b'{"jobs":[', b"0", b"]}")),
    "list: good items": (
        "list",
        repeated(b'{"jobs":[', b'{"job_id":"j","status":"failed","error":"x"}', b"]}"),
    ),
    "answer: malformed warnings": (
        "answer",
        repeated(JOB + b'"data":{"extraction":{},"metadata":{"warnings":[', b"{}", b"]}}}"),
    ),
    "answer: valid warnings": (
        "answer",
        repeated(
            JOB + b'"data":{"extraction":{},"metadata":{"warnings":[', b'{"msg":"m"}', b"]}}}"
        ),
    ),
    "answer: an unknown array": ("answer", repeated(JOB + b'"new":[', b"{}", b"]}")),
    "answer: an unknown text": ("answer", repeated(JOB + b'"new":"', b"https://h?x ", b'"}', b"")),
    "answer: a nested reason": ("answer", repeated(JOB + b'"failure_reason":', b"[", b"1", b"")),
    "result: numbers": ("result", repeated(b'{"extraction":[', b"0.5", b"]}")),
    "exported-table: rows": ("exported-table", repeated(b'{"a":[', b'{"b":1}', b"]}")),
    "exported-table: arrays": ("exported-table", repeated(b'{"b":[', b"[[]]", b"]}")),
    "error-body: problems": ("error-body", repeated(b'{"detail":[', b'{"msg":"m"}', b"]}")),
    "error-body: tags": ("error-body", repeated(b"", b"<", b"", b"")),
    "storage-error: messages": ("storage-error", repeated(b"", b"<Message>", b"", b"")),
    "text: schemes": ("text", repeated(b"", b"://", b"", b"")),
    "text: URLs": ("text", repeated(b"", b"https://h/p?x ", b"", b"")),
    "text: bearer": ("text", repeated(b"", b"bearer ", b"", b"")),
    "text: signatures": ("text", repeated(b"", b"sig=", b"", b" ")),
    "range: ranges": ("range", repeated(b"bytes=", b"0-1")),
}


@pytest.mark.parametrize(("name", "make"), SHAPES.values(), ids=SHAPES)
def test_the_work_grows_at_most_with_the_size(name, make):
    """Twice the input causes at most twice the calls; all work in C is linear by construction."""
    calls = []
    for count in (1_500, 3_000):
        with counted_calls() as count_of_calls:
            check(BY_NAME[name], make(count))
        calls.append(count_of_calls())
    assert calls[1] <= 2.1 * calls[0] + 100


MOST_BYTES = 1_000_000
MOST_BYTES_PER_BYTE = 150


@pytest.mark.parametrize(("name", "make"), SHAPES.values(), ids=SHAPES)
def test_the_memory_is_bounded_by_the_size(name, make):
    """Decoding needs at most 150 bytes of memory for each byte of the input, and a megabyte."""
    body = make(3_000)
    check(BY_NAME[name], body)  # generates what the first input of a shape needs
    tracemalloc.start()
    try:
        check(BY_NAME[name], body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= MOST_BYTES + MOST_BYTES_PER_BYTE * len(body)


def test_every_decoder_has_seeds_that_it_can_read():
    for decoder in DECODERS:
        assert any(_is_read(decoder, body) for body in seeds_of(decoder.name)), decoder.name


def _is_read(decoder, body):
    try:
        decoder.check(body)
    except decoder.errors:
        return False
    return True
