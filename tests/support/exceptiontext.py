"""All text that an exception can bring into a log, for tests that look for secrets in it."""

import traceback


def all_text_of(exc):
    """Return everything that printing, logging or pickling an exception could show."""
    return "\n".join(_texts(exc, []))


def _texts(exc, seen):
    if exc is None or exc in seen:
        return []
    seen.append(exc)
    members = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
    found = [str(exc), repr(exc), *traceback.format_exception(exc)]
    found += [*_texts_within(exc.args), *_texts_within(vars(exc))]
    for other in (exc.__cause__, exc.__context__, *members):
        found += _texts(other, seen)
    return found


def _texts_within(value):
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _texts_within(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts_within(item)]
    return [str(value), repr(value)]
