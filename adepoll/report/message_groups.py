"""Groups messages that differ only in numbers and ids, in bounded memory. Imports `redaction` only.

All texts are redacted and escaped by `showable`.
"""

import re
from collections.abc import Mapping
from typing import Final

from attrs import define, field, frozen

from adepoll.common.redaction import showable

_MOST_GROUPS: Final = 2_000
_EXAMPLES: Final = 3
_MIN_NAME: Final = 4  # characters; a shorter name may be part of another word

# Matches the parts of a message that get a placeholder. An HTTP status (group "status") stays as it
# is, because it distinguishes errors. The lookbehind keeps "word" from beginning within letters:
# otherwise, a long word without digits would be searched from each of its letters.
_WORD: Final = re.compile(
    r"(?P<status>\b(?:http|status|code|answered|error)(?: code| status)?[ :=/]{1,2}[1-5]\d\d\b)"
    r"|(?P<id>\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)"
    r"|(?P<time>\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?)"
    r"|(?P<word>(?<![^\W\d])\w*\d\w*(?:[.,:]\d+)*)",
    re.IGNORECASE,
)
_HEX: Final = re.compile(r"(?:0x)?[0-9a-f]{8,}", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\d+(?:[.,:]\d+)*")
_SHORT_WORD: Final = 2  # characters; a word of this length, such as "s3" or "v2", is a name
_LONG_WORD: Final = 12  # characters; a word of at least this length with 4 digits is an id
_DIGITS_OF_AN_ID: Final = 4


def pattern_of(text: str, names: Mapping[str, str]) -> str:
    """Return the message with placeholders for numbers, ids and names.

    Args:
        text: The message; cut after 300 characters.
        names: Texts that are specific to the job, such as its id, and the placeholder for each.
    """
    shown = " ".join(showable(text).split())
    for name, placeholder in names.items():
        if len(name) >= _MIN_NAME:
            shown = shown.replace(name, placeholder)
    return _WORD.sub(_placeholder_of, shown)


def _placeholder_of(match: re.Match[str]) -> str:
    """Return the placeholder for a part of a message, such as ``<id>``.

    `match` is a word, number or id in the message. A word without an id is returned unchanged.
    """
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
    """Messages with the same pattern.

    Attributes:
        pattern: The message with placeholders; empty for the group of all remaining messages.
        count: Number of messages.
        example: One of the messages.
        job_ids: Ids of up to three jobs with such a message.
    """

    pattern: str
    count: int
    example: str = ""
    job_ids: tuple[str, ...] = ()


@define
class _Counter:
    count: int
    example: str
    job_ids: list[str]


@define
class Groups:
    """Counts messages by pattern.

    Memory is bounded: at 4,000 patterns, the rarer half is dropped. Messages of dropped patterns
    count only in `total`.
    """

    total: int = 0
    _groups: dict[str, _Counter] = field(factory=dict)

    def add(self, pattern: str, *, example: str, job_id: str) -> None:
        """Count one message of a job; keep one example and three job ids for each pattern."""
        self.total += 1
        group = self._groups.get(pattern)
        if group is None:
            if len(self._groups) >= 2 * _MOST_GROUPS:
                self._drop_rare()
            group = self._groups[pattern] = _Counter(0, showable(example), [])
        group.count += 1
        if len(group.job_ids) < _EXAMPLES and (shown := showable(job_id, 80)) not in group.job_ids:
            group.job_ids.append(shown)

    def largest(self, most: int) -> tuple[Group, ...]:
        """Return the `most` largest groups, and then one group with all other messages, if any.

        The pattern of the last group is empty.
        """
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

    def _ranked(self) -> list[tuple[str, _Counter]]:
        return sorted(self._groups.items(), key=lambda item: (-item[1].count, item[0]))

    def _drop_rare(self) -> None:
        self._groups = dict(self._ranked()[:_MOST_GROUPS])
