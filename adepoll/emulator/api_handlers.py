"""The HTTP handlers of the API: to create, get and list jobs, and to read the `ground_truth`."""

import asyncio
import json
from collections.abc import Mapping
from typing import Final

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from attrs import frozen

from adepoll.api.models import Json
from adepoll.emulator.endpoints import Endpoint
from adepoll.emulator.ground_truth import GroundTruth
from adepoll.emulator.kinds.emulated_kind import EmulatedKind
from adepoll.emulator.kinds.forms import Form, InvalidRequestError
from adepoll.emulator.responses import ResponseData
from adepoll.emulator.result_saver import ResultSaver
from adepoll.emulator.world import World

_LARGEST_IN_MEMORY: Final = 2_000_000  # bytes; larger answers are sent in chunks
# Field of the only file whose content is kept, because a result repeats only Markdown.
_KEPT_FILE: Final = "markdown"

LIST_SHIFT: Final = web.RequestKey("LIST_SHIFT", int)
"""Request key that holds the argument `shift` of `World.answer_page`, which a fault sets."""


@frozen
class ApiHandlers:
    """The handlers of the API for the jobs of one kind.

    Attributes:
        world: The world with the jobs.
        rules: The rules of the kind.
        saver: Saves results to the `output_save_url` of their jobs.
    """

    world: World
    rules: EmulatedKind
    saver: ResultSaver

    async def create(self, request: web.Request) -> ResponseData:
        """Answer a ``POST`` that creates a job: 202, or 422 if the request is invalid."""
        world, rules = self.world, self.rules
        world.count(Endpoint.CREATE, None)
        try:
            submission = rules.read_submission(await _read_form(request))
        except InvalidRequestError as exc:
            return _json_response(422, rules.invalid(exc.problems))
        must_save = world.profile_of(rules.name).zero_data_retention
        if must_save and not submission.output_save_url:
            message = "Value error, output_save_url is required with zero data retention"
            problem = (("body", "output_save_url"), message, "value_error")
            return _json_response(422, rules.invalid([problem]))
        job = world.add(rules, submission)
        return _json_response(202, rules.created(job, now=world.now()))

    async def get(self, request: web.Request) -> ResponseData:
        """Answer a poll of a job: 200, 206 or 404.

        The first poll of a completed job saves the result at its `output_save_url`, if it has one.
        """
        job_id = request.match_info["job_id"]
        await self.saver.save(job_id)
        answer = self.world.answer(self.rules, job_id)
        if answer.size <= _LARGEST_IN_MEMORY:
            return ResponseData(status=answer.status, headers=_JSON, body=answer.read())
        return ResponseData(status=answer.status, headers=_JSON, stored=answer, stop=answer.size)

    async def list(self, request: web.Request) -> ResponseData:
        """Answer a ``GET`` of the list: 200 with a page of jobs, or 422 if the query is invalid."""
        try:
            query = self.rules.read_query(request.query)
        except InvalidRequestError as exc:
            self.world.count(Endpoint.LIST, None)
            return _json_response(422, self.rules.invalid(exc.problems))
        shift = request.get(LIST_SHIFT, 0)
        return _json_response(200, self.world.answer_page(self.rules, query, shift=shift))


async def answer_truth(world: World, request: web.Request) -> web.Response:
    """Answer ``GET /_emulator/truth``: the facts about all jobs, requests and leaked secrets.

    With ``?digests=1``, the answer includes the SHA-256 of every result, which is slow.
    """
    digests = request.query.get("digests") == "1"
    # Run in a thread, because building thousands of results would block the event loop.
    body = await asyncio.to_thread(GroundTruth(world).as_json, digests=digests)
    return web.json_response(body)


async def _read_form(request: web.Request) -> Form:
    """Return the fields of a form or of a JSON object.

    Raise `InvalidRequestError` if the body cannot be parsed. A body of another content type is an
    empty form.
    """
    try:
        if request.content_type == "application/json":
            body = json.loads(await request.text())
            return Form(fields=body if isinstance(body, dict) else {}, is_json=True)
        if request.content_type == "multipart/form-data":
            return await _read_parts(request)
    except (ValueError, LookupError, RecursionError, HttpProcessingError) as exc:
        # LookupError: the body has a character set that Python does not know.
        problem = (("body",), "There was an error parsing the body", "value_error")
        raise InvalidRequestError([problem]) from exc
    return Form()


async def _read_parts(request: web.Request) -> Form:
    """Return the fields of a multipart form. The content of most files is discarded."""
    fields: dict[str, Json] = {}
    filenames: dict[str, str] = {}
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader):
            raise ValueError("a form must not contain another form")  # noqa: TRY004 - malformed input
        name = part.name or ""
        if part.filename is None:
            fields[name] = (await part.read()).decode()
            continue
        if name == _KEPT_FILE:
            text = (await part.read()).decode(errors="replace")
            if text:
                fields[name], filenames[name] = text, part.filename
            continue
        # Discard the content of the file, which may be large. Only a file with content counts.
        while await part.read_chunk():
            filenames[name] = part.filename
    return Form(fields=fields, filenames=filenames)


_JSON: Final[Mapping[str, str]] = {hdrs.CONTENT_TYPE: "application/json"}


def _json_response(status: int, body: Json) -> ResponseData:
    text = json.dumps(body, separators=(",", ":"))
    return ResponseData(status=status, headers=_JSON, body=text.encode())
