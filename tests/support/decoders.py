"""Every decoder of foreign data, for `tests/fuzz`. Add one entry for each new decoder.

More entries are in `file_decoders`, `http_decoders` and `setting_decoders`.

An entry is a function that takes an input, as bytes, and asserts what holds for any input. It may
raise one of the errors of its entry. Its seeds are in ``tests/fuzz/seeds/NAME``.
"""

import asyncio
import copy
import csv
import io
import json
import re
import socket
from binascii import crc32
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pyarrow as pa
from attrs import field, frozen
from yarl import URL

from adepoll.api import codec, protocol
from adepoll.api.body_decoding import Decoder as BodyDecoder
from adepoll.api.job_ids import is_job_id
from adepoll.api.job_kind import JobKind, JobRef
from adepoll.api.kinds import v1_extract
from adepoll.api.kinds.registry import RULES
from adepoll.api.large_answer import LargeAnswer
from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.api.retry_after import MAX_RETRY_AFTER, parse_retry_after
from adepoll.api.service_clock import parse_http_date
from adepoll.cli.batch_options import BatchOptions
from adepoll.cli.columns import read_text
from adepoll.cli.found_jobs import Fields, IdsError
from adepoll.common.redaction import Secret, redact_text, showable
from adepoll.errors import (
    ConfigurationError,
    InvalidJobIdError,
    JournalError,
    MalformedAnswerError,
    ResultMalformedError,
    ResultTransferError,
    ResultUrlError,
    WebhookVerificationError,
)
from adepoll.fetcher.local_result import InlineResult
from adepoll.fetcher.responses import parse_content_range
from adepoll.fetcher.result_items import ResultItems
from adepoll.fetcher.result_stream import ResultStream
from adepoll.fetcher.resume_state import ResumeState, ResumeStateFile
from adepoll.fetcher.ssrf_guard import SsrfGuard
from adepoll.fetcher.storage_client import redirect_url
from adepoll.fetcher.storage_rules import (
    ObjectVersion,
    Range,
    error_for,
    request_headers,
)
from adepoll.journal import JournalReader
from adepoll.journal.outcomes import BatchJob
from adepoll.scheduling.durations import Durations
from adepoll.server.byte_ranges import ByteRange, if_range_matches, parse_range
from adepoll.server.result_responses import attachment
from adepoll.server.sse import JobEventStream
from adepoll.server.webhooks import WebhookVerifier, job_ids_in
from adepoll.tables import exact_json, exporting
from adepoll.tables.arrow_writers import ArrowWriter
from adepoll.tables.exact_json import UnreadableError
from adepoll.tables.job_rows import JOB_COLUMNS, Row
from adepoll.tables.result_tables import JobTable, ListTable
from adepoll.tables.text_writers import CsvWriter, JsonLinesWriter

DECODERS = []
VERIFIER = WebhookVerifier(b"a secret of thirty bytes or so")


@frozen
class Decoder:
    """One decoder.

    Attributes:
        name: Name of the entry, and of the folder of its seeds.
        check: Decodes an input and asserts what holds for any input.
        errors: Errors that mean that the input is not usable.
        calls: Calls of functions that the check itself needs, for an input of any size.
    """

    name: str
    check: Callable[[bytes], None] = field(repr=False)
    errors: tuple[type[Exception], ...] = ()
    calls: int = 6_000


def entry(name, *errors, **options):
    """Add a function to the decoders."""

    def add(check):
        DECODERS.append(Decoder(name, check, errors, **options))
        return check

    return add


def check_error(error, *secrets):
    """Assert that the text of an error can be shown, and contains none of the secrets."""
    assert str(error).isprintable()
    for secret in secrets:
        assert secret not in str(error)


# --- answers of the service ---------------------------------------------------------------------


def check_snapshot(job):
    """Assert that each output of a snapshot works, and that it can be read back."""
    written = job.to_json()
    assert written.isascii()
    assert JobSnapshot.from_json(written) == job
    shown = job.redacted()
    read = JobSnapshot.from_json(shown.to_json())
    if len(written) < 50_000:  # a longer text is cut, and then other texts can be found in the rest
        assert shown.redacted() == shown
        assert read == shown
    assert shown.to_json(indent=1).isascii()
    assert len(repr(job)) < 20_000
    assert repr(job).isprintable()
    assert copy.copy(job) == job


@entry("answer", MalformedAnswerError)
def check_answer(body):
    job = v1_extract.decode_job(body)
    check_snapshot(job)
    conforms = False if job.status is JobStatus.COMPLETED else None
    assert v1_extract.decode_job(body, 206).conforms is conforms


@entry("list", MalformedAnswerError)
def check_list(body):
    page = v1_extract.decode_page(body)
    assert len(page.jobs) <= 100
    for job in page.jobs:
        assert job.redacted().redacted() == job.redacted()
        assert repr(job).isprintable()


@entry("result", MalformedAnswerError)
def check_result(body):
    result = v1_extract.decode_result(body)
    assert v1_extract.decode_result(codec.encode(result)) == result


def _add_kind(rules):
    @entry(f"{rules.kind}-answer", MalformedAnswerError)
    def check_answer_of_kind(body):
        job = rules.decode_job(body, 206 if len(body) % 2 else 200)
        assert job.kind == rules.kind
        assert job.partial in {True, False}
        assert all(isinstance(page, int) for page in job.failed_pages)
        check_snapshot(job)

    @entry(f"{rules.kind}-result", MalformedAnswerError)
    def check_result_of_kind(body):
        result = rules.decode_result(body)
        assert rules.decode_result(codec.encode(result)) == result

    @entry(f"{rules.kind}-list", MalformedAnswerError)
    def check_list_of_kind(body):
        for job in rules.decode_page(body).jobs:
            assert repr(job).isprintable()
            assert job.redacted().redacted() == job.redacted()


for _rules in RULES.values():
    if _rules.kind != JobKind.V1_EXTRACT:
        _add_kind(_rules)


@entry("large-answer", MalformedAnswerError)
def check_large_answer(body):
    async def read(*, step):
        answer = LargeAnswer("result", None)
        for start in range(0, len(body), step):
            await answer.feed(body[start : start + step])
        return await answer.finish()

    read_whole = run_coroutine(read(step=len(body) or 1))
    assert run_coroutine(read(step=7)) == read_whole
    # In a name, each byte that is not UTF-8 becomes the six bytes of "\ufffd".
    assert len(read_whole.body) <= 6 * len(body) + 20
    assert RULES[JobKind.V2_PARSE].decode_job(read_whole.body).data is None


def run_coroutine(coroutine):
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@entry("items", ResultMalformedError)
def check_items(body):
    def read(*, step):
        items = ResultItems(ResultStream(InlineResult(b"")), "a.item", job_id="j", max_bytes=2**30)
        for start in range(0, len(body), step):
            items._parse(body[start : start + step])
        items._parse(b"")
        return [*items._builder.items]

    try:
        expected = read(step=len(body) or 1)
    except ResultMalformedError:
        with suppress(ResultMalformedError):
            read(step=7)
            raise AssertionError("it depends on the chunks whether this is a result") from None
        raise
    assert repr(read(step=7)) == repr(expected)


@entry("content-encoding", ResultMalformedError, ResultTransferError)
def check_content_encoding(body):
    async def read():
        chunks = [body[start : start + 50] for start in range(0, len(body), 50)][::-1]

        async def next_chunk():
            return chunks.pop() if chunks else b""

        decoder = BodyDecoder(next_chunk, job_id="j")
        while chunk := await decoder.read():
            assert len(chunk) <= 2**18

    asyncio.run(read())


@entry("job-reference", InvalidJobIdError)
def check_reference(body):
    ref = JobRef.of(body.decode("utf-8", "replace"))
    assert JobRef.of(str(ref)) == ref
    again = JobRef.of(ref.text(JobKind.V1_PARSE))
    assert again.job_id == ref.job_id
    assert again.kind_or(JobKind.V1_PARSE) == ref.kind_or(JobKind.V1_PARSE)


@entry("snapshot", MalformedAnswerError)
def check_saved_snapshot(body):
    check_snapshot(JobSnapshot.from_json(body))


@entry("error-body")
def check_error_body(body):
    for status in (401, 422, 503):
        error = protocol.status_error(status, {}, body, job_id="j-1", secret=Secret("canary-key"))
        assert "canary-key" not in f"{error} {error.detail}"
        assert error.detail.isprintable()
        assert len(error.detail) < 1_000


CANARY = "canary-signature-0123456789"
MARKED = re.compile(rb"(?<![\w-])(sig=|<SignatureProvided>)%b(?![\w-])" % CANARY.encode())


@entry("storage-error")
def check_storage_error(body):
    for status in (403, 500):
        error = error_for(
            "j-1",
            "https://h/p?sig=canary-of-the-url-0123456789",
            status,
            body,
            now=datetime.now(UTC),
        )
        assert "canary-of-the-url" not in str(error)
        # After an edit of its name, nothing tells that a word is a signature. The first letters are
        # left out: an escape such as "\\xca" or "\\n" before the rest can end in one of them.
        rest = CANARY.removeprefix("canar")
        assert rest not in str(error) or rest.encode() in MARKED.sub(b"", body)
        assert str(error).isprintable()


@entry("text")
def check_text(body):
    text = body.decode("utf-8", "replace")
    assert showable(text).isprintable()
    assert len(showable(text)) <= 303
    once = redact_text(text)
    if len(once) < 50_000:
        assert redact_text(once) == once


@entry("exported-table", MalformedAnswerError, UnreadableError)
def check_exported_table(body):
    """Export a value in each format. The value is an extraction and its references in one."""
    value = exact_json.load(body)
    job = ["j-1", *[None] * (len(JOB_COLUMNS) - 1)]
    block = [Row(tuple(job), {"note": "x"}, value, value, len(body))]
    dates = len(body) % 2 == 1
    for table in (
        JobTable([("a",)], dates=dates, references=True),
        ListTable(("a",), dates=dates),
    ):
        table.observe(block)
        table.decide()
        rows = table.rows(block)
        columns = table.columns
        values = [exporting._values(column, rows) for column in columns]
        names = [column.name for column in columns]
        assert len({*names}) == len(names)
        assert all(kind in str(conflict) for conflict in table.conflicts for kind in conflict.found)
        text = exported(CsvWriter, columns, values).decode()
        cells = [*csv.reader(io.StringIO(text, newline=""))]
        assert cells[0] == names
        assert [len(row) for row in cells] == [len(names)] * (1 + len(rows))
        lines = exported(JsonLinesWriter, columns, values).splitlines()
        assert [[*json.loads(line)] for line in lines] == [names] * len(rows)
        arrow = pa.ipc.open_file(exported(ArrowWriter, columns, values)).read_all()
        assert (arrow.column_names, len(arrow)) == (names, len(rows))


def exported(cls, columns, values):
    file = io.BytesIO()
    writer = cls(file, columns)
    writer.write(values)
    writer.close()
    return file.getvalue()


# --- headers ------------------------------------------------------------------------------------


@entry("retry-after")
def check_retry_after(body):
    value, _, date = body.decode("latin-1").partition("|")
    seconds = parse_retry_after({"Retry-After": value, "Date": date})
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@entry("date")
def check_date(body):
    date = parse_http_date(body.decode("latin-1"))
    assert date is None or date.tzinfo is not None


@entry("range")
def check_range(body):
    header = body.decode("latin-1")
    for size in (0, 1, 1_000):
        part = parse_range(header, size)
        if isinstance(part, ByteRange):
            assert 0 <= part.start < part.stop <= size


@entry("if-range")
def check_if_range(body):
    header = body.decode("latin-1")
    for etag in (None, "", '"v1"', 'W/"v1"', header):
        if if_range_matches(header, etag):
            assert etag == header.strip()
            assert not etag.startswith("W/")


@entry("last-event-id")
def check_last_event_id(body):
    header = body.decode("latin-1")
    seen = {}

    def status_updates(_job_ids, *, last_status):
        seen.update(last_status)
        return SimpleNamespace(leave=lambda: None)

    watcher = SimpleNamespace(status_updates=status_updates, kind=JobKind.V1_EXTRACT)
    for count in (0, 1, 4):
        job_ids = [f"j-{number}" for number in range(count)]
        JobEventStream(watcher, job_ids, last_event_id=header)
        assert seen.keys() <= {*job_ids}
        seen.clear()


@entry("content-range")
def check_content_range(body):
    start, stop, size = parse_content_range(body.decode("latin-1"))
    assert start >= 0
    assert stop >= 0
    assert size is None or size >= 0


RESULT_URL = URL("https://storage.example/a//b/c%2Fd?sig=canary-of-the-url", encoded=True)


@entry("redirect", ResultUrlError)
def check_redirect(body):
    """Check the URL of a redirect; the URL of a result passes the same check."""
    guard = SsrfGuard(api_url="https://api.example", allow_private=False)
    guard._api_is_resolved = True  # the API has a public address
    try:
        url = redirect_url(RESULT_URL, body.decode("utf-8", "surrogateescape"))
    except ValueError:
        return
    try:
        target = run_coroutine(guard.check("j-1", url))
    except ResultUrlError as error:
        check_message(str(error), body)
        raise
    assert target.scheme == "https"
    assert (target.user, target.password) == (None, None)
    assert is_public(target.host)
    assert target.raw_path.removeprefix("/") in url
    assert target.raw_query_string in url


def check_message(text, body):
    assert text.isprintable()
    assert "canary" not in text or b"canary" in body


def is_public(host):
    """Return whether no program takes a host for a private address or a name of this machine."""
    host, _, zone = host.partition("%")
    if host.rstrip(".").split(".")[-1] == "localhost" or (zone and ":" not in host):
        return False
    with suppress(OSError):
        return ip_address(socket.inet_aton(host)).is_global  # such as "0x7f.1"
    with suppress(ValueError):
        address = ip_address(host.rstrip("."))
        embedded = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        return address.is_global and (embedded is None or embedded.is_global)
    return True


@entry("etag")
def check_etag(body):
    version = ObjectVersion(3, body.decode("utf-8", "surrogateescape"))
    headers = request_headers(Range(1), version)
    assert headers["Range"] == "bytes=1-"
    assert all(value.isprintable() for value in headers.values())  # aiohttp accepts no other value
    if "If-Match" in headers:
        assert version.is_strong
    assert not version.differs(version)


@entry("content-disposition")
def check_content_disposition(body):
    header = attachment(body.decode("utf-8", "surrogateescape"))
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < 5_000


# --- files and webhooks -------------------------------------------------------------------------


@entry("id-file", IdsError)
def check_id_file(body):
    text = body.decode("utf-8", "surrogateescape")
    for name in (None, "job_id", "a.b"):
        found = []
        with suppress(IdsError):
            fields = Fields(job_id=name)
            read_text([text[:7], text[7:]], source="ids", fields=fields, emit=found.extend)
        assert all(isinstance(job, str | JobRef | BatchJob) and job for job in found)


@entry("webhook", WebhookVerificationError)
def check_webhook(body):
    headers = dict(line.split(":", 1) for line in body.decode("latin-1").split("\n") if ":" in line)
    with suppress(WebhookVerificationError):
        VERIFIER.verify(headers, body, now=1.0)
        raise AssertionError("nobody has signed that")
    assert all(map(is_job_id, job_ids_in(body)))


@entry("note", ConfigurationError)
def check_note(body):
    text = body.decode("utf-8", "replace")
    options = BatchOptions().with_note(text)
    assert BatchOptions().with_note(options.to_note()) == options
    Durations.from_json(text)


class NotResumableError(Exception):
    """The resume state is not reliable: the download begins again."""


@entry("resume-state", NotResumableError)
def check_resume_state(body):
    """Read a document with the boot id of this machine and the checksum that belong to it."""
    with TemporaryDirectory() as folder:
        part = Path(folder, ".a.part")
        path = Path(folder, ".a.part.json")
        with part.open("wb") as opened:
            states = ResumeStateFile(part)
            states.write(opened.fileno(), "job-1", ResumeState(ObjectVersion(1_000, "v1"), []))
            states.close()
        boot = json.loads(path.read_bytes().partition(b" ")[2])["boot"]
        document = body.replace(b'"BOOT"', json.dumps(boot).encode())
        path.write_bytes(b"%08x %b\n" % (crc32(document), document))
        state = ResumeStateFile(part).read("job-1", 100, 7)
    if state is None:
        raise NotResumableError
    assert state.is_resumable
    assert all(0 <= start < stop <= 100 for start, stop in state.present)


@entry("journal", JournalError)
def check_journal(body):
    with TemporaryDirectory() as folder:
        path = Path(folder, "batch.db")
        path.write_bytes(body)
        with JournalReader(path) as reader:
            reader.counts()
            reader.failures()
            reader.span()
            for record in reader.records():
                assert is_job_id(record.job_id)


def check(decoder, body):
    """Check one input."""
    with suppress(*decoder.errors):
        decoder.check(body)
