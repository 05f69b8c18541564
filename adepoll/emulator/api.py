"""What the API answers: the three documented calls on extract jobs, and the truth for tests."""

import asyncio
import json
from typing import Final

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from attrs import frozen

from adepoll.api.models import JobStatus, Json
from adepoll.emulator.effects import Endpoint
from adepoll.emulator.saving import Saver
from adepoll.emulator.truth import TruthTeller
from adepoll.emulator.world import World

_STATUSES: Final = {status.value: status for status in JobStatus if status is not JobStatus.UNKNOWN}
_BOOLEANS: Final = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off"})
_MOST_SKIPPED: Final = 2**31  # pages beyond it are as empty as those before it

SHIFT: Final = web.RequestKey("SHIFT", int)
"""The key of a request under which a fault tells by how many places the list has moved."""


@frozen
class Api:
    """The handlers of the API.

    Attributes:
        world: What they are about.
        saver: Puts results where their jobs want them.
    """

    world: World
    saver: Saver

    async def create(self, request: web.Request) -> web.Response:
        """``POST /v1/ade/extract/jobs``: 202 with the id, or 422."""
        self.world.count(Endpoint.CREATE, None)
        try:
            form = await _read_form(request)
        except (ValueError, HttpProcessingError):
            problem = _problem(("body",), "There was an error parsing the body", "value_error")
            return _answer(422, {"detail": [problem]})
        zero_data_retention = self.world.profile.zero_data_retention
        if problems := _problems_of_form(form, must_save=zero_data_retention):
            return _answer(422, {"detail": problems})
        job_id = self.world.submit(
            schema=json.loads(form.fields["schema"]),
            filename=form.filename,
            model=form.fields.get("model"),
            output_save_url=form.fields.get("output_save_url"),
        )
        return _answer(202, {"job_id": job_id})

    async def get(self, request: web.Request) -> web.Response:
        """``GET /v1/ade/extract/jobs/{job_id}``: 200, 206 or 404."""
        job_id = request.match_info["job_id"]
        await self.saver.save(job_id)
        status, body = self.world.job_json(job_id)
        return web.Response(status=status, body=body, content_type="application/json")

    async def list(self, request: web.Request) -> web.Response:
        """``GET /v1/ade/extract/jobs``: a page of jobs, or 422."""
        query = request.query
        problems: list[Json] = []
        page = _read_int(query.get("page", "0"), "page", 0, None, problems)
        page_size = _read_int(query.get("pageSize", "10"), "pageSize", 1, 100, problems)
        status_text = query.get("status")
        if status_text is not None and status_text not in _STATUSES:
            expected = "'cancelled', 'completed', 'failed', 'pending' or 'processing'"
            problems.append(
                _problem(("query", "status"), f"Input should be {expected}", "literal_error")
            )
        if problems:
            self.world.count(Endpoint.LIST, None)
            return _answer(422, {"detail": problems})
        body = self.world.page(
            page=min(page, _MOST_SKIPPED),
            page_size=page_size,
            status=None if status_text is None else _STATUSES[status_text],
            shift=request.get(SHIFT, 0),
        )
        return _answer(200, body)

    async def truth(self, request: web.Request) -> web.Response:
        """``GET /_emulator/truth``: all jobs as they really are, requests and leaks so far.

        With ``?digests=1``, the SHA-256 of every result too, which takes its time.
        """
        digests = request.query.get("digests") == "1"
        # In a thread, since thousands of results are built for it and the clients go on asking.
        body = await asyncio.to_thread(TruthTeller(self.world).as_json, digests=digests)
        return _answer(200, body)


@frozen(kw_only=True)
class _Form:
    fields: dict[str, str]
    has_document: bool
    filename: str


async def _read_form(request: web.Request) -> _Form:
    if request.content_type != "multipart/form-data":
        return _Form(fields={}, has_document=False, filename="")
    fields: dict[str, str] = {}
    has_document, filename = False, "document.md"
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader):
            raise ValueError("a form has no forms inside")  # noqa: TRY004 - malformed input
        if part.name != "markdown":
            fields[part.name or ""] = (await part.read()).decode()
            continue
        filename = part.filename or filename
        # A document may be far larger than other fields, and only its presence counts here.
        while await part.read_chunk():
            has_document = True
    return _Form(fields=fields, has_document=has_document, filename=filename)


def _problems_of_form(form: _Form, *, must_save: bool) -> list[Json]:
    problems = []
    if (schema := form.fields.get("schema")) is None:
        problems.append(_problem(("body", "schema"), "Field required", "missing"))
    elif not _is_json_object(schema):
        problems.append(
            _problem(("body", "schema"), "Value error, must be a valid JSON object", "value_error")
        )
    if not form.has_document and not form.fields.get("markdown_url"):
        message = "Value error, markdown or markdown_url is required"
        problems.append(_problem(("body", "markdown"), message, "value_error"))
    if form.fields.get("strict", "false").lower() not in _BOOLEANS:
        problems.append(
            _problem(
                ("body", "strict"),
                "Input should be a valid boolean, unable to interpret input",
                "bool_parsing",
            )
        )
    if must_save and not form.fields.get("output_save_url"):
        message = "Value error, output_save_url is required with zero data retention"
        problems.append(_problem(("body", "output_save_url"), message, "value_error"))
    return problems


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _read_int(text: str, name: str, least: int, most: int | None, problems: list[Json]) -> int:
    where = ("query", name)
    try:
        value = int(text)
    except ValueError:
        message = "Input should be a valid integer, unable to parse string as an integer"
        problems.append(_problem(where, message, "int_parsing"))
        return least
    if value < least:
        message = f"Input should be greater than or equal to {least}"
        problems.append(_problem(where, message, "greater_than_equal"))
    elif most is not None and value > most:
        message = f"Input should be less than or equal to {most}"
        problems.append(_problem(where, message, "less_than_equal"))
    return value


def _problem(where: tuple[str, ...], message: str, kind: str) -> Json:
    return {"loc": [*where], "msg": message, "type": kind}


def _answer(status: int, body: Json) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps(body, separators=(",", ":")).encode(),
        content_type="application/json",
    )
