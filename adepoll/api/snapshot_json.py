"""How the JSON of a snapshot differs from its attributes.

Two things differ: the service names some fields of some kinds differently, and adepoll adds fields
of its own to the JSON that it writes.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from adepoll.api.job_kind import V2_KINDS, JobKind
from adepoll.api.job_status import JobStatus
from adepoll.api.json_fields import Shape
from adepoll.api.json_text import Json
from adepoll.errors import MalformedAnswerError

_FLAGS: Final = ("data_omitted", "incomplete")  # boolean fields that adepoll adds if they are True
_ADDED: Final = frozenset(  # all fields that adepoll adds
    {"conforms", "partial", "kind", "label", "status_text", "failure", *_FLAGS}
)


@cache
def shape_of(kind: JobKind, result: type, metadata: type) -> Shape:
    """Return how the JSON of a snapshot of this kind differs from the class `JobSnapshot`.

    Args:
        kind: The kind.
        result: Class of the result; `object` for a result that stays parsed JSON.
        metadata: Class of the metadata.
    """
    types: dict[str, Any] = {"data": Json if result is object else result, "metadata": metadata}
    defaults: dict[str, Any] = {"kind": kind}
    if kind in V2_KINDS:
        # The reason of a failure is the object `error`, or in older answers the text
        # `failure_reason`.
        names = {"data": "result", "failure_reason": "error"}
        return Shape(types=types, names=names, defaults={**defaults, "job_id": ""})
    return Shape(types=types, defaults=defaults)


def with_added_fields(
    sent: Mapping[str, Json],
    *,
    kind: JobKind,
    label: str | None,
    status: JobStatus,
    status_text: str,
    failure_reason: str | None,
    conforms: bool | None,
    partial: bool,
    data_omitted: bool,
    incomplete: bool,
) -> dict[str, Json]:
    """Return the JSON of a snapshot with the fields that adepoll adds, such as "kind".

    `sent` is the JSON of the fields of the service. If one of them has the name of an added field,
    it is left out, because it would be read as a field of adepoll. The other arguments are
    attributes of the snapshot.
    """
    added: dict[str, Json] = {"conforms": conforms, "partial": partial, "kind": kind.name}
    if label is not None:
        added["label"] = label
    flags = {"data_omitted": data_omitted, "incomplete": incomplete}
    added |= {name: True for name, value in flags.items() if value}
    # A kind of your own can have a status text that adepoll would interpret in another way.
    is_unknown = status is JobStatus.parse(status_text) is JobStatus.UNKNOWN
    if not is_unknown and status_text != status.value:
        added |= {"status": status.value, "status_text": status_text}
    if not isinstance(reason := sent.get("failure_reason"), str | None):
        added |= {"failure_reason": failure_reason, "failure": reason}
    return {name: value for name, value in sent.items() if name not in _ADDED} | added


def take_added_fields(raw: dict[str, Json]) -> tuple[JobKind, dict[str, Any]]:
    """Remove the fields that `with_added_fields` has added, and return their contents.

    Args:
        raw: The JSON of a snapshot, which is changed.

    Returns:
        The kind of the job, and further attributes of `JobSnapshot` by name.

    Raises:
        MalformedAnswerError: A field has a wrong type.
    """
    kind = raw.pop("kind", JobKind.V1_EXTRACT.name)
    label, status_text = raw.pop("label", None), raw.pop("status_text", None)
    flags = {name: raw.pop(name, False) for name in _FLAGS}
    conforms = raw.pop("conforms", None)
    raw.pop("partial", None)  # it follows from the other fields
    failure, reason = raw.pop("failure", None), raw.get("failure_reason")
    if failure is not None:
        raw["failure_reason"] = failure
    problems = [
        f"expected {what} @ $.{name}"
        for name, what, is_right in (
            ("kind", "a string", isinstance(kind, str)),
            ("label", "a string", isinstance(label, str | None)),
            ("conforms", "a boolean", isinstance(conforms, bool | None)),
            ("status_text", "a string", isinstance(status_text, str | None)),
            ("failure_reason", "a string", failure is None or isinstance(reason, str | None)),
            *((name, "a boolean", isinstance(value, bool)) for name, value in flags.items()),
        )
        if not is_right
    ]
    if problems:
        raise MalformedAnswerError(problems)
    attributes: dict[str, Any] = {"label": label, "violates_schema": conforms is False, **flags}
    if status_text is not None:
        attributes["status_text"] = status_text
    if failure is not None:
        attributes["failure_reason"] = reason  # perhaps it was found in another field
    return JobKind(str(kind)), attributes
