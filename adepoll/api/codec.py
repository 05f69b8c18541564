"""The one cattrs converter: bytes of the v1 extract API <-> models.

The payload shapes of the service stand here, and in `plain`, which reads what needs no converter.
Imports errors, models and plain.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NoReturn, TypeVar

import attrs
from cattrs import Converter, transform_error
from cattrs.gen import make_dict_structure_fn, override

from adepoll.api import plain
from adepoll.api.models import (
    ExtractMetadata,
    ExtractResult,
    ExtractWarning,
    JobPage,
    JobSnapshot,
    JobStatus,
    JobSummary,
    Json,
    from_timestamp,
)
from adepoll.errors import MalformedAnswerError

_T = TypeVar("_T")

# Fields of a model that the service does not send under that name: they are made here, and a
# field of that name in a payload would be one that adepoll does not know.
_DERIVED: Final = frozenset({"extra", "status_text", "conforms"})


def decode_job(body: bytes | str, *, conforms: bool = True) -> JobSnapshot:
    """Read the answer to a GET of one job.

    Args:
        body: The answer's body, JSON.
        conforms: False for HTTP 206, which says the data violates the caller's schema.

    Raises:
        MalformedAnswerError: It is not JSON, or not of the documented shape.
    """
    raw = _object(body)
    snapshot = plain.read_job(raw) or _read_job(raw)
    if not conforms or snapshot.schema_violation is not None:
        return attrs.evolve(snapshot, conforms=False)
    return snapshot


def decode_page(body: bytes | str) -> JobPage:
    """Read one page of the list of jobs; raises `MalformedAnswerError`."""
    return _structure(_object(body), JobPage)


def decode_result(body: bytes | str) -> ExtractResult:
    """Read a result as it is stored behind `output_url`; raises `MalformedAnswerError`."""
    raw = _object(body)
    return plain.read_result(raw) or _structure(raw, ExtractResult)


def decode_saved_job(text: bytes | str) -> JobSnapshot:
    """Read what `encode_job` wrote; raises `MalformedAnswerError`."""
    raw = _object(text)
    conforms = raw.pop("conforms", True)
    if not isinstance(conforms, bool):
        raise MalformedAnswerError(["expected a boolean @ $.conforms"])
    return attrs.evolve(_read_job(raw), conforms=conforms)


def encode_job(snapshot: JobSnapshot) -> str:
    """Write a snapshot as one line of JSON: the shape of the service, plus `conforms`."""
    raw = _flatten(snapshot)
    raw["conforms"] = snapshot.conforms
    return json.dumps(raw, allow_nan=False, separators=(",", ":"))


def encode_summary(summary: JobSummary) -> str:
    """Write one line of a list as one line of JSON, in the shape of the service."""
    return json.dumps(_flatten(summary), allow_nan=False, separators=(",", ":"))


def encode_result(result: ExtractResult) -> bytes:
    """Write a result as the service stores it behind `output_url`."""
    return json.dumps(_flatten(result), allow_nan=False, separators=(",", ":")).encode()


# --- reading ------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number == 0:  # at every number of a result; infinity less infinity is not 0
        return number
    raise ValueError("a number is out of range")  # 1e999: a float, and what we write, cannot say it


_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def loads(body: bytes | str) -> Json:
    """Parse JSON as RFC 8259 has it: NaN and Infinity are refused, integers stay exact.

    Raises:
        MalformedAnswerError: It is not that. The text itself, which may be a customer's document,
            is neither in the error nor hangs on it as a cause.
    """
    try:
        # Almost always UTF-8. What is not, or is no JSON, is looked at once more below.
        text = body if isinstance(body, str) else body.decode()
        value, end = _decoder.raw_decode(text)
        if end == len(text):
            return value
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as exc:
        problem = f"not JSON: {exc.msg} @ line {exc.lineno} column {exc.colno}"
    except RecursionError:
        problem = "not usable JSON: nested too deeply @ $"
    except UnicodeDecodeError as exc:
        problem = f"not JSON: not {exc.encoding} @ byte {exc.start}"
    except ValueError as exc:  # NaN, 1e999, or an integer of over 4,300 digits
        problem = f"not usable JSON: {exc} @ $"
    raise MalformedAnswerError([problem])


def _object(body: bytes | str) -> dict[str, Json]:
    raw = loads(body)
    if not isinstance(raw, dict):
        raise MalformedAnswerError([f"expected an object, got {_kind(raw)} @ $"])
    return raw


# What may be missing from a job may also be no good: that it has ended counts for more.
_ASIDE: Final = ("created_at", "org_id", "version", "metadata", "failure_reason")


def _read_job(raw: dict[str, Json]) -> JobSnapshot:
    """Read a job; a side field that is no good is left out, and kept as it came in `extra`."""
    try:
        return _structure(raw, JobSnapshot)
    except MalformedAnswerError as exc:
        problems = exc.problems
    aside = {
        name: raw[name]
        for name in _ASIDE
        if any(re.search(rf"@ \$\.{name}\b", problem) for problem in problems)
    }
    if not aside:
        raise MalformedAnswerError(problems)
    rest = {name: value for name, value in raw.items() if name not in aside}
    snapshot = _structure(rest, JobSnapshot)
    return attrs.evolve(snapshot, extra={**snapshot.extra, **aside})


def _structure(raw: Mapping[str, Json], cls: type[_T]) -> _T:
    try:
        structured: _T = _quick_readers[cls](raw, cls)
    except Exception:  # noqa: BLE001, S110 - whatever it is, the thorough converter meets it again
        pass
    else:
        return structured
    try:
        return _thorough.structure(raw, cls)
    except Exception as exc:  # noqa: BLE001 - cattrs groups whatever our hooks and its own raise
        problems = transform_error(exc, format_exception=_reason)
    # What is wrong with `status` is wrong with `status_text`, which is made from it.
    problems = [problem for problem in problems if not problem.endswith(".status_text")]
    raise MalformedAnswerError(problems)


def _reason(exc: BaseException, _type: type | None) -> str:
    if isinstance(exc, KeyError):
        return "required field missing"
    return str(exc) if isinstance(exc, _ShapeError) else f"invalid ({type(exc).__name__})"


class _ShapeError(ValueError):
    """A value is not of the documented type. Its text never holds the value."""


_KINDS: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: Json) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _expect(what: str, value: Json) -> NoReturn:
    raise _ShapeError(f"expected {what}, got {_kind(value)}")


def _read_str(value: Json, _type: object) -> str:
    return value if isinstance(value, str) else _expect("a string", value)


def _read_str_or_null(value: Json, type_: object) -> str | None:
    return value if value is None or type(value) is str else _read_str(value, type_)


def _read_bool(value: Json, _type: object) -> bool:
    return value if isinstance(value, bool) else _expect("a boolean", value)


_LARGE: Final = 2**53  # a whole number below it surely fits a float


def _read_float(value: Json, _type: object) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _expect("a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise _ShapeError("expected a number, got one out of range")
    return number


def _read_int(value: Json, type_: object) -> int:
    if type(value) is int and -_LARGE < value < _LARGE:
        return value
    number = _read_float(value, type_)
    if not number.is_integer():
        raise _ShapeError("expected a whole number")
    return value if isinstance(value, int) else int(number)


def _read_time(value: Json, type_: object) -> datetime:
    # Documented as whole seconds; a fraction does no harm.
    try:
        return from_timestamp(value if type(value) is int else _read_float(value, type_))
    except (OverflowError, OSError, ValueError) as exc:
        if isinstance(exc, _ShapeError):
            raise
        raise _ShapeError("expected a Unix timestamp, got one out of range") from None


def _read_created(value: Json, type_: object) -> datetime | None:
    # The service writes 0 for "not known".
    return _read_time(value, type_) if value else None


def _read_status(value: Json, type_: object) -> JobStatus:
    return JobStatus.parse(value if type(value) is str else _read_str(value, type_))


_Reader = Callable[[Json, Any], Any]


def _or_null(read: _Reader) -> _Reader:
    def read_unless_null(value: Json, type_: object) -> Any:
        return None if value is None else read(value, type_)

    return read_unless_null


def _make_reader(cls: type[Any], made: Converter) -> _Reader:
    """Structure an attrs class from an object, and keep what it does not know in `extra`."""
    known = frozenset({f.name for f in attrs.fields(cls)} - _DERIVED)
    # Null is what they are when they are absent, and most of them are null in a job that goes on.
    optional = frozenset({f.name for f in attrs.fields(cls) if f.default is None})
    derived: dict[str, Any] = {}
    if "status" in known:
        derived["status_text"] = override(rename="status")
    if "created_at" in known:
        derived["created_at"] = override(struct_hook=_read_created)
    read = make_dict_structure_fn(cls, made, conforms=override(omit=True), **derived)

    def structure(raw: Json, _type: object) -> Any:
        if not isinstance(raw, dict):
            _expect("an object", raw)
        ready = raw
        if None in raw.values():
            ready = {
                name: value
                for name, value in raw.items()
                if value is not None or name not in optional
            }
        if not raw.keys() <= known:
            ready = {name: ready[name] for name in ready if name in known}
            ready["extra"] = {name: raw[name] for name in raw if name not in known}
        return read(ready, cls)

    return structure


_MODELS: Final[tuple[type[Any], ...]] = (
    ExtractWarning,
    ExtractMetadata,
    ExtractResult,
    JobSummary,
    JobPage,
    JobSnapshot,
)


def _make_converter(*, detailed: bool) -> Converter:
    made = Converter(detailed_validation=detailed)
    made.register_structure_hook(str, _read_str)
    made.register_structure_hook(str | None, _read_str_or_null)
    made.register_structure_hook(bool, _read_bool)
    made.register_structure_hook(int, _read_int)
    made.register_structure_hook(float, _read_float)
    made.register_structure_hook(datetime, _read_time)
    made.register_structure_hook(JobStatus, _read_status)
    made.register_structure_hook_func(lambda t: t == Mapping[str, Json], lambda extra, _: extra)
    for cls in _MODELS:
        reader = _make_reader(cls, made)
        made.register_structure_hook(cls, reader)
        made.register_structure_hook(cls | None, _or_null(reader))
    return made


# One converter for what comes all day; one that is slower and says what is wrong, and where.
_quick: Final = _make_converter(detailed=False)
_quick_readers: Final[Mapping[type, _Reader]] = {
    cls: _quick.get_structure_hook(cls) for cls in _MODELS
}
_thorough: Final = _make_converter(detailed=True)


# --- writing ------------------------------------------------------------------------------------


def _flatten(model: Any) -> dict[str, Json]:
    """Give the object that the service would have sent for this model."""
    raw: dict[str, Json] = {}
    for f in attrs.fields(type(model)):
        if f.name in _DERIVED:
            continue
        raw[f.name] = _plain(getattr(model, f.name))
    if "created_at" in raw:
        raw["created_at"] = raw["created_at"] or 0
    if "status" in raw:
        raw["status"] = model.status_text
    raw.update({name: value for name, value in model.extra.items() if not raw.get(name)})
    return raw


def _plain(value: Any) -> Json:
    if isinstance(value, datetime):
        seconds = value.timestamp()
        return int(seconds) if seconds.is_integer() else seconds
    if isinstance(value, JobStatus):
        return value.value
    if attrs.has(type(value)):
        return _flatten(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
