"""Facts: the properties that the metadata of jobs of all kinds have.

To add a fact that jobs of several kinds have, add a property to `Facts`, and override it in the
classes of metadata (`v1_results`, `v2_results`). `models` lists the other steps.
"""

from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

from adepoll.api.json_fields import MESSAGE_TEXT, NOT_WRITTEN_IF_NONE, Model
from adepoll.api.json_text import Json
from adepoll.api.shown import show_keys, show_text

MAX_WARNINGS: Final = 1_000
"""Largest number of warnings that are read from one job."""
MAX_FAILED_PAGES: Final = 100_000
"""Largest number of failed pages that are read from one job."""


class Facts(Model):
    """Base of the classes of metadata. It has the properties that all of these classes have.

    In this class, each property has the value for "the service does not say": None or empty. A
    class of metadata overrides the properties whose values the service sends.
    """

    __slots__ = ()

    @property
    def filename(self) -> str | None:
        """Name of the document; None if the service does not say."""
        return None

    @property
    def version(self) -> str | None:
        """Name of the model that was requested or used; None if the service does not say."""
        return None

    @property
    def fallback_model_version(self) -> str | None:
        """Name of the model that was used after another one had failed; None if no model failed."""
        return None

    @property
    def duration_ms(self) -> int | None:
        """Duration of the job in milliseconds; None if the service does not say."""
        return None

    @property
    def warnings(self) -> "tuple[ExtractWarning, ...]":
        """Warnings of an extract job; empty without warnings, and for other jobs."""
        return ()

    @property
    def credits(self) -> float | None:
        """Price of the job in credits; None if the service does not say."""
        return None

    @property
    def page_count(self) -> int | None:
        """Number of pages of the document; None if the service does not say."""
        return None

    @property
    def failed_page_indexes(self) -> tuple[int, ...]:
        """Indexes (from 0) of the pages that could not be parsed; empty if all were parsed."""
        return ()


@frozen(kw_only=True)
class ExtractWarning(Model):
    """A warning of an extraction.

    Attributes:
        code: Machine-readable kind of the warning, such as ``nonconformant_schema``; None if the
            service does not send one.
        msg: Text for people; None if the service does not send one.
        extra: JSON of fields that this version does not know or could not read, by name.
    """

    code: str | None = field(default=None, repr=show_text, metadata=NOT_WRITTEN_IF_NONE)
    msg: str | None = field(
        default=None, repr=show_text, metadata={**MESSAGE_TEXT, **NOT_WRITTEN_IF_NONE}
    )
    extra: Mapping[str, Json] = field(factory=dict, repr=show_keys)
