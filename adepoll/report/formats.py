"""Formats numbers, times and sizes for the report. Imports nothing of adepoll."""

from datetime import UTC, datetime
from typing import Final

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400
_KILO: Final = 1000
_MANY_DAYS: Final = 1000
_LARGE: Final = 1e12
_SMALL: Final = 1e-4

# Keeps a number and its unit on one line.
_SPACE: Final = "\N{NO-BREAK SPACE}"


def format_count(number: int) -> str:
    """Return a whole number, such as ``50,000``."""
    return f"{number:,}"


def format_share(part: int, whole: int) -> str:
    """Return a part of a whole as a percentage; ``0 %`` and ``100 %`` only if they are exact."""
    if not whole or not part:
        return f"0{_SPACE}%"
    percent = 100 * part / whole
    if part == whole:
        text = "100"
    elif percent < 0.1:  # noqa: PLR2004 - percentages have one decimal
        text = "<\N{NARROW NO-BREAK SPACE}0.1"
    else:
        text = f"{min(percent, 99.9):.1f}"
    return f"{text}{_SPACE}%"


def format_duration(seconds: float) -> str:
    """Return a duration in at most two units, such as ``2 min 05 s``."""
    if seconds < _MINUTE - 0.05:
        return _format_seconds(seconds)
    if seconds < _HOUR - 0.5:
        large, small = divmod(round(seconds), _MINUTE)
        return f"{large}{_SPACE}min" + (f"{_SPACE}{small:02}{_SPACE}s" if small else "")
    if seconds < _DAY - _MINUTE / 2:
        large, small = divmod(round(seconds / _MINUTE), _MINUTE)
        return f"{large}{_SPACE}h" + (f"{_SPACE}{small:02}{_SPACE}min" if small else "")
    large, small = divmod(round(seconds / _HOUR), 24)
    if large < _MANY_DAYS:
        return f"{large}{_SPACE}d" + (f"{_SPACE}{small}{_SPACE}h" if small else "")
    # Such a duration comes from a wrong clock or from invalid data of the service.
    return f"{large:,}{_SPACE}d" if large < _LARGE else f"{large:.1e}{_SPACE}d"


def _format_seconds(seconds: float) -> str:
    """Return a short duration in seconds or milliseconds, with about two digits."""
    if seconds == 0:
        return f"0{_SPACE}s"
    if seconds < 0.0995:  # noqa: PLR2004 - smaller values are in milliseconds
        return f"{max(seconds * _KILO, 0.1):.2g}{_SPACE}ms"
    text = f"{seconds:.{2 if seconds < 1 else 1 if seconds < 9.95 else 0}f}"  # noqa: PLR2004 - two significant digits
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{_SPACE}s"


def format_bytes(number: float) -> str:
    """Return a size in decimal units, such as ``1.30 MB``."""
    if number < _KILO:
        return f"{round(number)}{_SPACE}B"
    for unit in ("kB", "MB", "GB"):
        number /= _KILO
        if number < 999.5:  # noqa: PLR2004 - larger values round to 1,000
            return f"{number:.{_places(number)}f}{_SPACE}{unit}"
    number /= _KILO
    return f"{number:,.{_places(number)}f}{_SPACE}TB"


def _places(number: float) -> int:
    return 2 if number < 9.995 else 1 if number < 99.95 else 0  # noqa: PLR2004 - three significant digits


def format_credits(number: float) -> str:
    """Return an amount of credits with two decimals, or with four if it is less than 1."""
    if number and (abs(number) >= _LARGE or abs(number) < _SMALL):
        return f"{number:.2e}"
    if abs(number) < 1:
        return f"{number:.4f}".rstrip("0").rstrip(".")
    return f"{number:,.2f}"


def format_time(seconds: float) -> str:
    """Return a Unix time as date and time of day in UTC."""
    return _text_of(seconds, "%Y-%m-%d %H:%M:%S")


def format_tick(seconds: float, step: float) -> str:
    """Return a Unix time as the label of an axis whose labels are `step` seconds apart."""
    if step < _MINUTE:
        return _text_of(seconds, "%H:%M:%S")
    if step < _DAY and seconds % _DAY:
        return _text_of(seconds, "%H:%M")
    return _text_of(seconds, f"%a{_SPACE}%d{_SPACE}%b" if step < 200 * _DAY else "%Y")


def format_iso_time(seconds: float) -> str:
    """Return a Unix time in ISO 8601 format."""
    return _text_of(seconds, "%Y-%m-%dT%H:%M:%SZ")


def _text_of(seconds: float, pattern: str) -> str:
    """Return a Unix time as text in the format `pattern`; "invalid time" if out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(pattern)
    except (ValueError, OverflowError, OSError):
        return "invalid time"
