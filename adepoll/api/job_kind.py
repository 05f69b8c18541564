"""JobKind and JobRef: which job is meant, of which kind. Imports job_ids and below."""

import re
from collections.abc import Container, Mapping
from datetime import datetime
from typing import ClassVar, Final, Self

from attrs import field, frozen

from adepoll.api.job_ids import check_job_id
from adepoll.api.json_fields import from_timestamp
from adepoll.common.redaction import showable
from adepoll.errors import ConfigurationError, InvalidJobIdError


@frozen
class JobKind:
    """A kind of jobs of the service. Two kinds with the same name are equal.

    Attributes:
        name: Short name, as on the command line: ``v1-extract``, ``v1-parse``, ``v2-parse``,
            ``v2-extract`` or ``v2-workflow``; a kind of your own has another one.
    """

    name: str

    V1_EXTRACT: ClassVar["JobKind"]
    V1_PARSE: ClassVar["JobKind"]
    V2_PARSE: ClassVar["JobKind"]
    V2_EXTRACT: ClassVar["JobKind"]
    V2_WORKFLOW: ClassVar["JobKind"]

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    @classmethod
    def all(cls) -> tuple["JobKind", ...]:
        """Return the kinds of the service."""
        return tuple(_BY_NAME.values())

    @classmethod
    def named(cls, name: str) -> "JobKind":
        """Return the kind of the service with that name.

        Raises:
            ConfigurationError: There is no such kind.
        """
        if (kind := _BY_NAME.get(name.strip().lower())) is None:
            known = ", ".join(_BY_NAME)
            raise ConfigurationError(f"unknown kind {showable(name, 40)!r}; there are {known}")
        return kind


JobKind.V1_EXTRACT = JobKind("v1-extract")
JobKind.V1_PARSE = JobKind("v1-parse")
JobKind.V2_PARSE = JobKind("v2-parse")
JobKind.V2_EXTRACT = JobKind("v2-extract")
JobKind.V2_WORKFLOW = JobKind("v2-workflow")

_BY_NAME: Final[Mapping[str, JobKind]] = {
    kind.name: kind
    for kind in (
        JobKind.V1_EXTRACT,
        JobKind.V1_PARSE,
        JobKind.V2_PARSE,
        JobKind.V2_EXTRACT,
        JobKind.V2_WORKFLOW,
    )
}


@frozen
class JobRef:
    """Names a job: its id, its kind, and your own name for it.

    Its text, ``str(ref)``, is the id, with the kind before it where the id does not say it:
    ``v1-parse/cmg4x0q5p0001``. Everything that takes a job id takes that text or a `JobRef`. A job
    of a kind of your own is named by a `JobRef` only.

    Attributes:
        job_id: Id of the job.
        kind: Kind of the job; None for the kind that the id's form says, or else that of the
            client.
        label: Your own name for the job, such as the path of its document. It is part of the
            snapshot and of everything that is made from it. Two references that differ in their
            label only are equal.
    """

    job_id: str
    kind: JobKind | None = field(default=None, kw_only=True)
    label: str | None = field(default=None, kw_only=True, eq=False)

    @classmethod
    def of(cls, job: "str | JobRef") -> "JobRef":
        """Return the reference that a text or a reference means.

        Raises:
            InvalidJobIdError: The id cannot be a job id.
        """
        if isinstance(job, JobRef):
            check_job_id(job.job_id)
            return job
        if "/" in str(job):
            name, _, job_id = job.partition("/")
            if (kind := _BY_NAME.get(name)) is not None:
                return cls(check_job_id(job_id), kind=kind)
            if _LIKE_A_KIND.fullmatch(name):
                reason = f"{name!r} is not a kind of jobs; there are {', '.join(_BY_NAME)}"
                raise InvalidJobIdError(job_id=str(job), reason=reason)
        return cls(check_job_id(job))

    def resolved(self, default: JobKind) -> Self:
        """Return a reference that has a kind: its own, that of the id's form, or `default`."""
        kind = self.kind or kind_of_id(self.job_id) or default
        return self if kind is self.kind else type(self)(self.job_id, kind=kind, label=self.label)

    def text(self, default: JobKind) -> str:
        """Return ``KIND/ID``, or only the id if the kind follows from the id or from `default`.

        Args:
            default: Kind of an id whose form does not say its kind.
        """
        implied = kind_of_id(self.job_id) or default
        kind = self.kind or implied
        return self.job_id if kind == implied else f"{kind.name}/{self.job_id}"

    def __str__(self) -> str:
        """Return ``KIND/ID``, or only the id if the kind follows from the id."""
        return self.text(JobKind.V1_EXTRACT) if self.kind else self.job_id


def job_key(job: str | JobRef, default: JobKind) -> str:
    """Return the same text for all names of a job, and another one for each other job.

    Args:
        job: The job; its id may be invalid.
        default: Kind of an id whose form does not say its kind.
    """
    try:
        return JobRef.of(job).text(default)
    except InvalidJobIdError as error:
        return error.job_id


def kind_and_id(key: str, default: JobKind, kinds: Container[JobKind] = ()) -> tuple[JobKind, str]:
    """Return the kind and the id that a key consists of; an invalid id has the default kind.

    Args:
        key: As `job_key` returns it.
        default: Kind of an id whose form does not say its kind.
        kinds: Further kinds, beside those of the service.
    """
    if "/" in key:
        name, _, job_id = key.partition("/")
        kind = JobKind(name)
        if kind in kinds or kind in JobKind.all():
            return kind, job_id
    return kind_of_id(key) or default, key


_LIKE_A_KIND: Final = re.compile(r"v\d-[a-z]{1,20}", re.ASCII)
_V2_ID: Final = re.compile(r"(parse|extract|v2-workflow)-([0-9a-hjkmnp-tv-z]{26})", re.ASCII)
_V2_KINDS: Final = {
    "parse": JobKind.V2_PARSE,
    "extract": JobKind.V2_EXTRACT,
    "v2-workflow": JobKind.V2_WORKFLOW,
}


def kind_of_id(job_id: str) -> JobKind | None:
    """Return the kind that the form of an id says; None for ids without a documented form."""
    if job_id[:1] not in V2_LETTERS or (match := _V2_ID.fullmatch(job_id)) is None:
        return None
    return _V2_KINDS[match[1]]


def created_at_of_id(job_id: str) -> datetime | None:
    """Return the time that a v2 id, a ULID, says that its job was created at; None for others.

    The service describes ids as opaque, so the time is a hint and no proof.
    """
    if job_id[:1] not in V2_LETTERS or (match := _V2_ID.fullmatch(job_id)) is None:
        return None
    milliseconds = 0
    for letter in match[2][:_TIME_LETTERS]:
        milliseconds = 32 * milliseconds + _CROCKFORD.index(letter)
    return None if milliseconds >= _LATEST else from_timestamp(milliseconds / 1000)


V2_LETTERS: Final = frozenset("pev")
"""First letters of ids whose form can say their kind."""
_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # https://github.com/ulid/spec
_TIME_LETTERS: Final = 10
_LATEST: Final = 2**48
