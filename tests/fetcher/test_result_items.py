"""items(): the rows of a large array, one at a time, with the values that `result` returns."""

import asyncio
import json
import sys
import threading
import tracemalloc
from codecs import BOM_UTF8

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from adepoll.api.client import AdeClient
from adepoll.emulator import Emulator, JobPlan
from adepoll.errors import (
    ConfigurationError,
    ResultMalformedError,
    ResultTooLargeError,
    ResultTransferError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.local_result import InlineResult
from adepoll.fetcher.result_items import ItemBuilder, ResultItems
from adepoll.fetcher.result_stream import ResultStream

ROWS = "extraction.line_items.item"


async def walk(fetcher, job, prefix):
    async with fetcher.items(job, prefix) as items:
        return [item async for item in items]


async def parse(text, prefix, *, chunk=7, most=2**20):
    """Iterate over a text that arrives in small chunks."""

    class Pieces(InlineResult):
        async def read(self):
            piece, self._body = self._body[:chunk], self._body[chunk:]
            return piece

    items = ResultItems(ResultStream(Pieces(text)), prefix, job_id="job-1", max_bytes=most)
    return [item async for item in items]


def at(value, steps):
    """Return the values at a path of parsed JSON."""
    if not steps:
        yield value
    elif isinstance(value, list) and steps[0] == "item":
        for part in value:
            yield from at(part, steps[1:])
    elif isinstance(value, dict) and steps[0] in value:
        yield from at(value[steps[0]], steps[1:])


def has_array(value, steps):
    """Return whether an array whose items are on the path exists, even if it is empty."""
    return any(
        isinstance(found, list)
        for number, step in enumerate(steps)
        if step == "item"
        for found in at(value, steps[:number])
    )


@pytest.mark.parametrize("size", [3_000, 3_000_000], ids=["inline", "stored"])
async def test_the_items_are_the_rows_of_the_result(size):
    async with (
        Emulator() as ade,
        AdeClient(ade.api_key, base_url=ade.base_url) as client,
        ResultFetcher(client) as fetcher,
    ):
        job_id = ade.submit(JobPlan(result_bytes=size))
        whole = await fetcher.result(job_id)
        assert await walk(fetcher, job_id, ROWS) == whole.extraction["line_items"] != []


async def test_only_the_mark_before_the_text_is_no_part_of_it():
    mark = BOM_UTF8
    text = mark + b'{"a":["%bx", "y%b"]}' % (mark, mark)
    for chunk in (1, 2, len(mark), len(mark) + 7, 100):  # within, after and before a mark
        assert await parse(text, "a.item", chunk=chunk) == ["\ufeffx", "y\ufeff"]


KEYS = st.sampled_from(["a", "b", "item", "", "rows"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(KEYS, children, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from("ab"), VALUES),
    st.lists(st.sampled_from(["a", "b", "item"]), max_size=3),
    st.integers(1, 9),
)
def test_any_path_yields_its_values(value, steps, chunk):
    parsing = parse(json.dumps(value).encode(), ".".join(steps), chunk=chunk)
    if not [*at(value, steps)] and not has_array(value, steps):
        with pytest.raises(ResultMalformedError, match="nothing has the path"):
            asyncio.run(parsing)
        return
    found = asyncio.run(parsing)
    assert found == list(at(value, steps))
    assert [type(item) for item in found] == [type(item) for item in at(value, steps)]


async def test_integers_stay_exact_and_fractions_are_floats():
    text = b'{"a": [123456789012345678901234567890, 1.5, 1e3, -0.0, {"b": 2.5}]}'
    found = await parse(text, "a.item")
    assert found == [123456789012345678901234567890, 1.5, 1000.0, 0.0, {"b": 2.5}]
    assert [type(item) for item in found] == [int, float, float, float, dict]


async def test_a_number_that_no_float_can_represent_is_text():
    """As in `ResultFetcher.result`. The items after it are read, too."""
    text = b'{"a": [1e999, -12.5E+999, {"b": 1e400}, 2, 1e-400]}'
    assert await parse(text, "a.item") == ["1E+999", "-1.25E+1000", {"b": "1E+400"}, 2, 0.0]


async def test_an_unpaired_surrogate_becomes_a_question_mark():
    text = rb'{"a": ["x\ud800y", "\ud83d\ude00", "\ude00", "\ud800\u0041", "\\ud800"]}'
    assert await parse(text, "a.item") == ["x?y", "😀", "?", "?A", r"\ud800"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a": [1, NaN]}', "expected JSON"),
        (b'{"a": [1, canarydocument]}', "expected JSON"),
        (b'{"a": [1, 2', "expected JSON"),
        (b'{"a": [1]}}', "expected JSON"),
        (b'{"a": ["\xff"]}', "expected JSON"),
        (b'{"a": [1, -Infinity]}', "expected JSON"),
        (b'{"a": [1e-9999999999999999999]}', "out of range"),
        (BOM_UTF8[:2], "expected JSON"),
        (b'{"a": [' + b"1" * 5_000 + b"]}", "digits"),
        (b'{"x": ' + b"1" * 5_000 + b"}", "digits"),
        (b'{"b": [1]}', "nothing has the path"),
        (b'{"message": "Internal server error"}', "nothing has the path"),
        (b'{"a": ' + b"[" * 20_000, "nested too deeply"),
        (b'{"b": ' + b'{"b":' * 20_000, "nested too deeply"),
    ],
)
async def test_invalid_json_is_malformed_without_quoting_the_document(text, problem, all_text_of):
    with pytest.raises(ResultMalformedError, match=problem) as caught:
        await parse(text, "a.item", chunk=1000)
    assert "canarydocument" not in all_text_of(caught.value)


async def test_a_large_chunk_is_parsed_in_steps():
    """No other thread can run while ijson parses."""
    sizes = []

    class Parser:
        def __init__(self, real):
            self._real = real
            self.close = real.close

        def send(self, data):
            sizes.append(len(data))
            self._real.send(data)

    text = json.dumps({"a": [*range(100_000)]}).encode()
    items = ResultItems(ResultStream(InlineResult(text)), "a.item", job_id="job-1", max_bytes=100)
    items._parser = Parser(items._parser)
    assert [item async for item in items] == [*range(100_000)]
    assert sum(sizes) == len(text)
    assert max(sizes) == 2**14


async def test_items_before_invalid_json_are_yielded():
    pieces = iter([b'{"a": [1, 2, ', b"nonsense", b""])
    source = InlineResult(b"")

    async def read():
        return next(pieces)

    source.read = read
    items = ResultItems(ResultStream(source), "a.item", job_id="job-1", max_bytes=100)
    assert [await anext(items), await anext(items)] == [1, 2]
    with pytest.raises(ResultMalformedError):
        await anext(items)
    with pytest.raises(StopAsyncIteration):
        await anext(items)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"a": [[' + b"1," * 60_000 + b"1]]}", id="many values"),
        pytest.param(b'{"a": ["' + b"x" * 120_000 + b'"]}', id="one string"),
        pytest.param(b'{"a": [{"' + b"x" * 120_000 + b'": 1}]}', id="one key"),
    ],
)
async def test_an_item_over_the_limit_raises(text):
    with pytest.raises(ResultTooLargeError, match="an item is larger than 100000") as caught:
        await parse(text, "a.item", chunk=1000, most=100_000)
    assert caught.value.limit == 100_000
    assert "items()" not in str(caught.value)  # this would be the same call


async def test_the_limit_is_that_of_one_item_although_each_chunk_ends_within_an_item():
    items = [["x" * 91]] * 100
    text = json.dumps({"a": items}, separators=(",", ":")).encode()
    assert await parse(text, "a.item", chunk=96, most=300) == items


async def test_values_outside_the_path_may_have_any_size():
    for value in (b"[" + b"1," * 200_000 + b"1]", b'"%b"' % (b"x" * 400_000)):
        text = b'{"b": %b, "a": [7]}' % value
        assert await parse(text, "a.item", chunk=1000, most=10_000) == [7]


def test_a_path_that_is_longer_than_that_of_the_items_is_not_written():
    """A hostile key can have megabytes, and each of the arrays below it would copy the key."""
    builder = ItemBuilder("a.item")
    written = []

    def record(*events):
        for event in events:
            builder.add([event])
            written.extend(path for path in builder._paths if path is not None)

    record(("start_map", None), ("map_key", "k" * 1_000), *[("start_array", None)] * 800)
    assert max(map(len, written)) <= len("a.item")
    record(*[("end_array", None)] * 800, ("map_key", "a"), ("start_array", None), ("null", None))
    assert [*builder.items] == [None]


async def test_memory_does_not_grow_with_the_result(storage, fetch, stored):
    rows = 60_000
    some = json.dumps([{"text": "x" * 400}] * 100)[1:-1].encode()

    async def long(_reader, writer):
        writer.write(storage.reply(b'{"extraction": [', length=None))
        for number in range(rows // 100):
            writer.write(b"," * (number > 0) + some)
            await writer.drain()
        writer.write(b"]}")

    storage.answers = [long]
    count = 0
    async with fetch().items(stored(storage.url()), "extraction.item") as items:
        tracemalloc.start()
        async for _ in items:
            count += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == rows
    assert peak < rows // 100 * len(some) / 4


async def test_an_unannounced_cut_raises_after_the_last_complete_item(storage, fetch, stored):
    storage.answers = [storage.reply(b'{"extraction": [1, 2', length=None)]
    async with fetch().items(stored(storage.url()), "extraction.item") as items:
        assert await anext(items) == 1
        with pytest.raises(ResultTransferError):
            await anext(items)


async def test_leaving_early_closes_the_connection(storage, fetch, stored):
    async def endless(_reader, writer):
        writer.write(storage.reply(b'{"a": [1,', length=None))
        while True:
            writer.write(b"1," * 10_000)
            await writer.drain()

    storage.answers = [endless]
    async with fetch().items(stored(storage.url()), "a.item") as items:
        async for item in items:
            assert item == 1
            break
    await storage.left_alone()


async def test_without_ijson_the_error_says_what_to_install(storage, fetch, stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "ijson", None)
    storage.answers = [storage.reply(b'{"extraction": {}}')]
    with pytest.raises(ConfigurationError, match=r'the extra "json" .* pip install "\.\[json\]"'):
        await walk(fetch(), stored(storage.url()), "a.item")


@pytest.mark.parametrize("within_items", [True, False])
async def test_900_levels_are_read_and_one_more_is_an_error(within_items):
    """Object, array and levels: the path to the items counts, and so do levels within an item."""

    def text(levels):
        inner = b"[" * levels + b"]" * levels
        return b'{"a": [%b]}' % inner if within_items else b'{"b": %b, "a": [1]}' % inner

    expected = 1
    if within_items:
        expected = []
        for _ in range(897):
            expected = [expected]
    levels = 898 if within_items else 899
    assert await parse(text(levels), "a.item", most=2**20) == [expected]
    with pytest.raises(ResultMalformedError, match="nested too deeply"):
        await parse(text(levels + 1), "a.item", most=2**20)


async def test_a_call_that_is_cancelled_while_it_waits_for_bytes_can_be_repeated():
    arrived = asyncio.Event()

    class Slow(InlineResult):
        async def read(self):
            if self._body != self.whole:
                await arrived.wait()
            piece, self._body = self._body[:12], self._body[12:]
            return piece

    source = Slow(b'{"rows": [1, 2, 3, 4]}')
    source.whole = source._body
    items = ResultItems(ResultStream(source), "rows.item", job_id="job-1", max_bytes=100)
    assert await anext(items) == 1
    second = asyncio.ensure_future(anext(items))
    await until(lambda: arrived._waiters)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    arrived.set()
    assert [item async for item in items] == [2, 3, 4]


@pytest.mark.parametrize("end", [b"]}", b"]"])
async def test_a_call_that_is_cancelled_while_a_thread_parses_can_be_repeated(monkeypatch, end):
    feed, is_parsing, may_parse = ResultItems._feed, threading.Event(), threading.Event()

    def feed_when_cancelled(items, chunk):
        is_parsing.set()
        may_parse.wait()
        return feed(items, chunk)

    async def cancelled_call():
        is_parsing.clear()
        may_parse.clear()
        call = asyncio.ensure_future(anext(items))
        await until(lambda: is_parsing.is_set() or call.done())
        call.cancel()
        may_parse.set()
        with pytest.raises(asyncio.CancelledError):
            await call

    monkeypatch.setattr(ResultItems, "_feed", feed_when_cancelled)
    stream = ResultStream(InlineResult(b'{"rows": [1, 2' + end))
    items = ResultItems(stream, "rows.item", job_id="job-1", max_bytes=100)
    await cancelled_call()  # parses the whole text
    assert [await anext(items), await anext(items)] == [1, 2]
    await cancelled_call()  # parses the end
    if end == b"]":
        with pytest.raises(ResultMalformedError):
            await anext(items)
    assert await anext(items, None) is None


ESCAPES = {
    "plain": (b"x", "x"),
    "of two bytes": (rb"\n", "\n"),
    "quotation marks": (rb"\"", '"'),
    "backslashes": (rb"\\", "\\"),
    "a backslash before an escape": (rb"\\\n", "\\\n"),
    "of six bytes": (rb"\u00e9", "é"),
    "pairs": (rb"\ud83d\uDE00", "😀"),
    "UTF-8 of two bytes": ("é".encode(), "é"),
    "UTF-8 of four bytes": ("😀".encode(), "😀"),
    "unpaired": (rb"\ud800", "?"),
    "unpaired, and a pair": (rb"\ud800\ud83d\ude00\ude00", "?😀?"),
    "text like an escape": (rb"\\ud800", r"\ud800"),
}


@pytest.mark.parametrize(("escape", "meant"), ESCAPES.values(), ids=ESCAPES)
async def test_a_long_text_is_read_in_any_chunks(escape, meant):
    """Within an item, as an item, as a key, and elsewhere; a chunk can end within an escape."""
    for before in (b"", b"x", b"xy"):  # the steps end at another byte of the escape
        part, value = before + escape * 9_000, before.decode() + meant * 9_000
        text = b'{"m": "%b", "%b": 0, "a": [{"b": "%b", "%b": 1}, "%b", 2]}' % ((part,) * 5)
        for chunk in (1_001, 30_000, 2**20):
            assert await parse(text, "a.item", chunk=chunk) == [{"b": value, value: 1}, value, 2]


@pytest.mark.parametrize(
    "end", [b"", b"\\", b'\\"', b"\xc3", b'\xff"', b'\n"', b'\\x"', b'\\u12x4"']
)
async def test_a_long_text_that_is_malformed_raises(end):
    for start in (b"", b'{"a": ['):
        with pytest.raises(ResultMalformedError, match="expected JSON"):
            await parse(start + b'"' + b"x" * 70_000 + end, "a.item", chunk=1_000)


async def test_a_step_reads_few_bytes_although_a_text_is_long():
    """ijson would read the whole text again in each step, and no other thread could run."""
    text = b'{"a":"%b","b":[1,{"c":2},3]}' % (b"\\n" * 500_000)
    items = ResultItems(ResultStream(InlineResult(text)), "b.item", job_id="job-1", max_bytes=2**21)
    parser = items._parser
    sent = []

    class Recording:
        close = parser.close

        def send(self, piece):
            parser.send(piece)
            sent.append(len(piece))

    items._parser = Recording()
    assert [item async for item in items] == [1, {"c": 2}, 3]
    assert sum(sent) <= 3 * 2**14


async def test_a_long_text_that_is_no_part_of_an_item_is_not_kept():
    text = b'{"m": "%b", "a": [1]}' % (b"x" * 8_000_000)
    tracemalloc.start()
    try:
        assert await parse(text, "a.item", chunk=2**16) == [1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(text)  # `parse` itself copies the text


@pytest.mark.parametrize("number", [b"1" * 20_000, b"0." + b"3" * 20_000, b"1e" + b"0" * 20_000])
async def test_a_number_of_more_than_16384_characters_is_an_error(number):
    for chunk in (1_000, 2**20):
        with pytest.raises(ResultMalformedError, match=r"16384 characters|too many digits"):
            await parse(b'{"a":' + number + b',"b":[1]}', "b.item", chunk=chunk)
    assert await parse(b'{"b":[0.%b]}' % (b"3" * 16_000), "b.item", chunk=1_000) == [1 / 3]


async def test_other_tasks_run_while_many_items_are_returned():
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    items = ResultItems(
        ResultStream(InlineResult(b"[" + b"0," * 30_000 + b"0]")), "item", job_id="j", max_bytes=100
    )
    counting = asyncio.create_task(count_turns())
    assert await anext(items) == 0  # all have been parsed
    turns = 0
    assert sum([1 async for _ in items]) == 30_000
    counting.cancel()
    assert turns >= 30_000 // 500
