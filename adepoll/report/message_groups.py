"""Puts messages together that differ in numbers and ids only, and counts them in bounded memory.

Imports redaction only. What is kept has gone through `showable`.
"""

import re
from collections.abc import Mapping
from typing import Final

from attrs import define, field, frozen

from adepoll.redaction import showable

_MOST_GROUPS: Final = 2_000
_EXAMPLES: Final = 3
_LEAST_NAME: Final = 4  # a shorter name may be part of any word

# An HTTP status tells one trouble from another; other numbers do not.
_WORD: Final = re.compile(
    r"(?P<status>\b(?:http|status|code|answered|error)(?: code| status)?[ :=/]{1,2}[1-5]\d\d\b)"
    r"|(?P<id>\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)"
    r"|(?P<time>\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?)"
    r"|(?P<word>\w*\d\w*(?:[.,:]\d+)*)",
    re.IGNORECASE,
)
_HEX: Final = re.compile(r"(?:0x)?[0-9a-f]{8,}", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\d+(?:[.,:]\d+)*")
_SHORT_WORD: Final = 2  # "s3", "v2": names of things
_LONG_WORD: Final = 12
_DIGITS_OF_AN_ID: Final = 4


def pattern_of(text: str, names: Mapping[str, str]) -> str:
    """Give what a message has in common with others of its kind.

    Args:
        text: The message; what does not fit on a line of 300 characters is cut.
        names: What in the message is of this job alone, such as its id, and what to put there.
    """
    shown = " ".join(showable(text).split())
    for name, place in names.items():
        if len(name) >= _LEAST_NAME:
            shown = shown.replace(name, place)
    return _WORD.sub(_place_of, shown)


def _place_of(match: re.Match[str]) -> str:
    if match.lastgroup == "status":
        return match[0]
    if match.lastgroup != "word":
        return f"<{match.lastgroup}>"
    word = match[0]
    digits = sum(map(str.isdigit, word))
    if len(word) <= _SHORT_WORD and word[0].isalpha():
        return word
    if digits == len(word):
        return "<n>"
    if _HEX.fullmatch(word) or (len(word) >= _LONG_WORD and digits >= _DIGITS_OF_AN_ID):
        return "<id>"
    return _NUMBER.sub("<n>", word)


@frozen(kw_only=True)
class Group:
    """Messages of one kind.

    Attributes:
        pattern: What they have in common; empty for those of no kind that is shown.
        count: How many there are.
        example: One of them.
        job_ids: A few of the jobs that have it.
    """

    pattern: str
    count: int
    example: str = ""
    job_ids: tuple[str, ...] = ()


@define
class _Open:
    count: int
    example: str
    job_ids: list[str]


@define
class Groups:
    """Counts messages by kind.

    Whoever makes up a new kind for every job cannot fill the memory: of many kinds the rarer half
    is dropped now and then, and counted together.
    """

    total: int = 0
    _groups: dict[str, _Open] = field(factory=dict)

    def add(self, pattern: str, *, example: str, job_id: str) -> None:
        """Count one message; example and job id are shown where it is among the first."""
        self.total += 1
        group = self._groups.get(pattern)
        if group is None:
            if len(self._groups) >= 2 * _MOST_GROUPS:
                self._drop_rare()
            group = self._groups[pattern] = _Open(0, showable(example), [])
        group.count += 1
        if len(group.job_ids) < _EXAMPLES and (shown := showable(job_id, 80)) not in group.job_ids:
            group.job_ids.append(shown)

    def largest(self, most: int) -> tuple[Group, ...]:
        """Give the most frequent kinds, and after so many one without a pattern for the rest."""
        ranked = self._ranked()
        groups = [
            Group(
                pattern=pattern,
                count=group.count,
                example=group.example,
                job_ids=tuple(group.job_ids),
            )
            for pattern, group in ranked[:most]
        ]
        rest = self.total - sum(group.count for group in groups)
        return (*groups, *([Group(pattern="", count=rest)] if rest else []))

    def _ranked(self) -> list[tuple[str, _Open]]:
        return sorted(self._groups.items(), key=lambda item: (-item[1].count, item[0]))

    def _drop_rare(self) -> None:
        self._groups = dict(self._ranked()[:_MOST_GROUPS])
