"""Converts objects of attrs classes to JSON objects, with cattrs.

The import of cattrs is slow, so `codec` imports this module only at the first use.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeAlias

import attrs
import cattrs
from cattrs.fns import identity
from cattrs.gen import make_dict_unstructure_fn, override

from adepoll.api.error_text import error_text
from adepoll.api.json_fields import LATEST_SECONDS, fields_of
from adepoll.api.json_text import Json
from adepoll.api.results import ExtractWarning

_Hook: TypeAlias = Callable[..., Any]

_OPTIONAL_TIME: Final[Any] = datetime | None
_converter: Final = cattrs.Converter(unstruct_collection_overrides={tuple: list})


def flatten(model: object) -> dict[str, Json]:
    """Return an object of an attrs class as a JSON object, from which `codec` can read it again."""
    raw: dict[str, Json] = _converter.unstructure(model)
    return raw


def _timestamp(time: datetime | None) -> float | str | None:
    """Return a time as a Unix timestamp in seconds; None if `time` is None.

    Some times, such as Go's zero time (0001-01-01), become ISO 8601 text instead, because
    `read_time` would not accept their timestamps.
    """
    if time is None:
        return None
    seconds = time.timestamp()
    if not 0 < seconds < LATEST_SECONDS:
        return time.isoformat()
    return int(seconds) if seconds.is_integer() else seconds


_converter.register_unstructure_hook(datetime, _timestamp)
_converter.register_unstructure_hook_func(lambda kind: kind == _OPTIONAL_TIME, _timestamp)
_converter.register_unstructure_hook_factory(lambda kind: kind is Json, lambda _kind: identity)


def _overrides(cls: type) -> dict[str, Any]:
    """Return settings for cattrs: the JSON name of each attribute, or that it is not written."""
    omitted = dict.fromkeys(attrs.fields_dict(cls), override(omit=True))
    return omitted | {
        field.name: override(rename=field.key, omit_if_default=field.optional)
        for field in fields_of(cls)
    }


@_converter.register_unstructure_hook_factory(attrs.has)
def _unstructure_class(cls: type) -> _Hook:
    """Return a function that turns an object of this class into JSON."""
    write: _Hook = make_dict_unstructure_fn(cls, _converter, **_overrides(cls))

    def unstructure_class(model: Any) -> dict[str, Json]:
        raw: dict[str, Json] = write(model)
        # `extra` contains the JSON of the fields that could not be read completely, or at all.
        raw.update(model.extra)
        if cls is ExtractWarning and "msg" in raw and error_text(model.extra) == raw["msg"]:
            del raw["msg"]  # the text is in `extra`, under the name that the service has used
        return raw

    return unstructure_class
