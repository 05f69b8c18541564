"""Shows values in the `repr` of models: short, without secrets and data."""

from collections.abc import Mapping
from itertools import islice
from typing import Final

from adepoll.api.json_text import Json
from adepoll.common.redaction import redact_url, showable

_SHOWN_ITEMS: Final = 20  # items of an array, or names of unknown fields, that a repr shows


def show_keys(extra: Mapping[str, Json]) -> str:
    """Return a text with the names of the unknown fields in `extra`, at most 20 of them."""
    # The values are not shown, because they can be anything, even a presigned URL.
    names = [showable(key, 40) for key in islice(extra, _SHOWN_ITEMS)]
    more = [f"{len(extra) - len(names)} more"] if len(extra) > len(names) else []
    return f"<{', '.join([*names, *more])}>" if extra else "{}"


def show_url(url: str | None) -> str:
    """Return the repr of a URL without its query; the URL can be None."""
    return repr(None if url is None else showable(redact_url(url)))


def show_text(text: str | None) -> str:
    """Return the repr of a text of the service, redacted and shortened; the text can be None."""
    return repr(None if text is None else showable(text))


def show_first(items: tuple[object, ...]) -> str:
    """Return the repr of the first 20 items of an array, and the number of other items."""
    rest = len(items) - _SHOWN_ITEMS
    return f"{items[:_SHOWN_ITEMS]!r}{f' and {rest} more' if rest > 0 else ''}"


def show_size(value: Json) -> str:
    """Return the type and size of a value, such as ``<dict of 12>``, and none of its contents."""
    return f"<{type(value).__name__} of {len(value)}>" if hasattr(value, "__len__") else "<...>"
