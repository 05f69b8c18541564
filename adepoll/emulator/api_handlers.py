"""The HTTP handlers of the API: three calls on extract jobs, and the ground truth."""

import asyncio
import json
from typing import Final

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from attrs import frozen

from adepoll.api.models import JobStatus, Json
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.ground_truth import GroundTruth
from adepoll.emulator.result_saver import ResultSaver
from adepoll.emulator.world import World

_STATUSES: Final = {status.value: status for status in JobStatus if status is not JobStatus.UNKNOWN}
_BOOLEANS: Final = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off"})
_LARGEST_PAGE: Final = 2**31  # larger page numbers are just as empty

LIST_SHIFT: Final = web.RequestKey("LIST_SHIFT", int)
"""Request key with the number of places by which a fault has moved the list."""


@frozen
class ApiHandlers:
    """The handlers of the API.

    Attributes:
        world: The world with the jobs.
        saver: Saves results to the `output_save_url` of their jobs.
    """

    world: World
    saver: ResultSaver

    async def create(self, request: web.Request) -> web.Response:
        """Answer ``POST /v1/ade/extract/jobs``: 202 with the job id, or 422."""
        self.world.count(Endpoint.CREATE, None)
        try:
            form = await _read_form(request)
        except (ValueError, HttpProcessingError):
            problem = _problem(("body",), "There was an error parsing the body", "value_error")
            return _json_response(422, {"detail": [problem]})
        zero_data_retention = self.world.profile.zero_data_retention
        if problems := _problems_of_form(form, must_save=zero_data_retention):
            return _json_response(422, {"detail": problems})
        job_id = self.world.submit(
            schema=json.loads(form.fields["schema"]),
            filename=form.filename,
            model=form.fields.get("model"),
            output_save_url=form.fields.get("output_save_url"),
        )
        return _json_response(202, {"job_id": job_id})

    async def get(self, request: web.Request) -> web.Response:
        """Answer ``GET /v1/ade/extract/jobs/{job_id}``: 200, 206 or 404."""
        job_id = request.match_info["job_id"]
        await self.saver.save(job_id)
        status, body = self.world.job_json(job_id)
        return web.Response(status=status, body=body, content_type="application/json")

    async def list(self, request: web.Request) -> web.Response:
        """Answer ``GET /v1/ade/extract/jobs``: a page of jobs, or 422."""
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
            return _json_response(422, {"detail": problems})
        body = self.world.page(
            page=min(page, _LARGEST_PAGE),
            page_size=page_size,
            status=None if status_text is None else _STATUSES[status_text],
            shift=request.get(LIST_SHIFT, 0),
        )
        return _json_response(200, body)

    async def truth(self, request: web.Request) -> web.Response:
        """Answer ``GET /_emulator/truth``: the facts about all jobs, requests and leaks so far.

        With ``?digests=1``, the answer includes the SHA-256 of every result, which is slow.
        """
        digests = request.query.get("digests") == "1"
        # In a thread, since it builds thousands of results while clients send requests.
        body = await asyncio.to_thread(GroundTruth(self.world).as_json, digests=digests)
        return _json_response(200, body)


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
            raise ValueError("a form must not contain another form")  # noqa: TRY004 - malformed input
        if part.name != "markdown":
            fields[part.name or ""] = (await part.read()).decode()
            continue
        filename = part.filename or filename
        # Discard the document, which may be large: only its presence matters.
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


def _read_int(text: str, name: str, minimum: int, maximum: int | None, problems: list[Json]) -> int:
    location = ("query", name)
    try:
        value = int(text)
    except ValueError:
        message = "Input should be a valid integer, unable to parse string as an integer"
        problems.append(_problem(location, message, "int_parsing"))
        return minimum
    if value < minimum:
        message = f"Input should be greater than or equal to {minimum}"
        problems.append(_problem(location, message, "greater_than_equal"))
    elif maximum is not None and value > maximum:
        message = f"Input should be less than or equal to {maximum}"
        problems.append(_problem(location, message, "less_than_equal"))
    return value


def _problem(location: tuple[str, ...], message: str, kind: str) -> Json:
    return {"loc": [*location], "msg": message, "type": kind}


def _json_response(status: int, body: Json) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps(body, separators=(",", ":")).encode(),
        content_type="application/json",
    )
