"""JobKind and JobRef: the kind of a job, and how a job is named.

`_KINDS` declares the kinds of the service.
"""

import re
from collections.abc import Container, Mapping
from typing import Any, ClassVar, Final

from attrs import field, frozen

from adepoll.api.job_ids import PLAIN_JOB_ID, check_job_id
from adepoll.common.redaction import showable
from adepoll.common.safe_repr import SafeRepr
from adepoll.errors import ConfigurationError, InvalidJobIdError


@frozen
class JobKind(SafeRepr):
    """A kind of jobs. Two kinds with the same name are equal.

    The kinds of the service are class variables, such as `JobKind.V1_PARSE`; `all` returns them. A
    kind of your own needs another name.

    Attributes:
        name: Name of the kind, such as ``v1-parse``, as on the command line.
    """

    name: str

    # Each kind in `_KINDS` has its variable here.
    V1_EXTRACT: ClassVar["JobKind"]
    V1_PARSE: ClassVar["JobKind"]
    V2_PARSE: ClassVar["JobKind"]
    V2_EXTRACT: ClassVar["JobKind"]
    V2_WORKFLOW: ClassVar["JobKind"]

    def __str__(self) -> str:
        """Return the name of the kind, such as ``v1-parse``."""
        return self.name

    @classmethod
    def all(cls) -> tuple["JobKind", ...]:
        """Return all kinds of jobs that the service has, without kinds of your own."""
        return tuple(_BY_NAME.values())

    @classmethod
    def named(cls, name: str) -> "JobKind":
        """Return the kind with this name, such as "v1-parse", in upper or lower case.

        Raises:
            ConfigurationError: The service has no such kind.
        """
        if (kind := _BY_NAME.get(name.strip().lower())) is None:
            raise ConfigurationError(
                f"unknown kind {showable(name, 40)!r}; the kinds are {_KIND_NAMES}"
            )
        return kind


@frozen(kw_only=True)
class _Traits:
    """What adepoll must know about a kind of jobs of the service.

    Attributes:
        id_prefix: For a v2 kind, the beginning of its ids: an id is the prefix, a hyphen and a
            ULID. None for a v1 kind, because the form of its ids is not documented.
        has_schema: True if the caller gives a schema to each job, and the result should conform to
            it.
    """

    id_prefix: str | None = None
    has_schema: bool = False


# The kinds of the service. The class variable of "v2-parse" is `JobKind.V2_PARSE`, for example.
_KINDS: Final[Mapping[JobKind, _Traits]] = {
    JobKind("v1-extract"): _Traits(has_schema=True),
    JobKind("v1-parse"): _Traits(),
    JobKind("v2-parse"): _Traits(id_prefix="parse"),
    JobKind("v2-extract"): _Traits(id_prefix="extract", has_schema=True),
    JobKind("v2-workflow"): _Traits(id_prefix="v2-workflow"),
}
for _kind in _KINDS:
    setattr(JobKind, _kind.name.upper().replace("-", "_"), _kind)

V2_KINDS: Final = frozenset(kind for kind, traits in _KINDS.items() if traits.id_prefix)
"""The kinds of v2 jobs."""
KINDS_WITH_SCHEMA: Final = frozenset(kind for kind, traits in _KINDS.items() if traits.has_schema)
"""The kinds whose result should conform to a schema of the caller."""

_BY_NAME: Final = {kind.name: kind for kind in _KINDS}
_KIND_NAMES: Final = ", ".join(_BY_NAME)
_BY_PREFIX: Final = {
    traits.id_prefix: kind for kind, traits in _KINDS.items() if traits.id_prefix is not None
}


def check_kind(kind: object) -> None:
    """Raise `ConfigurationError` unless `kind` is a `JobKind`."""
    if not isinstance(kind, JobKind):
        raise ConfigurationError(
            f"kind must be a JobKind, such as JobKind.V1_PARSE, not {showable(repr(kind), 80)}; "
            "JobKind.named returns the kind of a name"
        )


def _check_kind(_ref: object, _attribute: object, kind: Any) -> None:
    if kind is not None:
        check_kind(kind)


def _check_label(_ref: object, _attribute: object, label: Any) -> None:
    if label is not None and not isinstance(label, str):
        name = type(label).__name__
        raise ConfigurationError(f"label must be a string, not an object of the type {name}")


def _with_joined_surrogates(label: Any) -> Any:
    """Return a label in which each pair of surrogates is replaced by the character that it means.

    Without this, writing the label as JSON and reading it again would change the label, because
    JSON has the same form for the pair and for the character.
    """
    if not isinstance(label, str) or label.isascii():
        return label
    return label.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@frozen
class JobRef(SafeRepr):
    r"""Names a job by its id, with its kind and your own name for the job if necessary.

    ``str(ref)`` is a text such as ``v1-parse/cmg4x0q5p0001``, or the id alone if the kind follows
    from the id. Everything that takes a job id also takes this text or a `JobRef`. Only a `JobRef`
    can name a job of a kind of your own.

    Attributes:
        job_id: Id of the job.
        kind: Kind of the job, such as `JobKind.V1_PARSE`; `JobKind.named` returns the kind with a
            certain name. None to find out the kind from the id: a v2 id contains its kind, and
            every other id means a job of the client's default kind.
        label: Your own name for the job, such as the path of its document. Snapshots, outcomes and
            journals contain it. References that differ only in the label are equal. Two surrogates
            that form a pair become the character for which they stand. In a journal, a single
            surrogate becomes an escape such as ``\udcff``.

    Raises:
        ConfigurationError: `kind` is not a `JobKind`, or `label` is not a string.
    """

    job_id: str
    kind: JobKind | None = field(default=None, kw_only=True, validator=_check_kind)
    label: str | None = field(
        default=None,
        kw_only=True,
        eq=False,
        converter=_with_joined_surrogates,
        validator=_check_label,
    )

    @classmethod
    def of(cls, job: "str | JobRef") -> "JobRef":
        """Return the reference for an id, or for a text such as ``v1-parse/cmg4x0q5p0001``.

        If `job` is a `JobRef` with a valid id, return `job` itself.

        Raises:
            InvalidJobIdError: The id cannot be a job id, or the text before the slash is not the
                name of a kind.
        """
        if isinstance(job, JobRef):
            check_job_id(job.job_id)
            return job
        if isinstance(job, str) and job.count("/") == 1:  # type: ignore[redundant-expr]  # bytes reach this line, too
            name, _, job_id = job.partition("/")
            if (kind := _BY_NAME.get(name)) is None:
                reason = (
                    f"it contains '/', but {showable(name, 40)!r} is not a kind of jobs; "
                    f"the kinds are {_KIND_NAMES}"
                )
                raise InvalidJobIdError(job_id=job, reason=reason)
            return cls(check_job_id(job_id), kind=kind)
        return cls(check_job_id(job))

    def kind_or(self, default: JobKind) -> JobKind:
        """Return `kind`, or else the kind that the id contains, or else `default`."""
        return self.kind or kind_of_id(self.job_id) or default

    def text(self, default: JobKind) -> str:
        """Return ``KIND/ID``, or only the id if a reader can infer the kind.

        A v2 id contains its kind. For any other id, a reader assumes the kind `default`.
        """
        implied = kind_of_id(self.job_id) or default
        kind = self.kind or implied
        return self.job_id if kind == implied else f"{kind.name}/{self.job_id}"

    def __str__(self) -> str:
        """Return ``KIND/ID``, or only the id if the reference has no kind or a reader can infer it.

        A v2 id contains its kind. For any other id, a reader assumes the kind ``v1-extract``.
        """
        return self.text(JobKind.V1_EXTRACT) if self.kind else self.job_id


def job_key(job: str | JobRef, default: JobKind) -> str:
    """Return the key of a job: the same text for each way to name the job (id, text or `JobRef`).

    Args:
        job: The job; its id may be invalid.
        default: Kind of the job if neither `job` nor the id contains the kind. It is left out of
            the key.
    """
    try:
        return JobRef.of(job).text(default)
    except InvalidJobIdError as error:
        return error.job_id


def kind_and_id(key: str, default: JobKind, kinds: Container[JobKind] = ()) -> tuple[JobKind, str]:
    """Return the kind and the id of the job with this key. An invalid id has the default kind.

    Args:
        key: A key that `job_key` has returned.
        default: Kind to assume for an id that does not contain its kind.
        kinds: Your own kinds, in addition to those of the service.
    """
    if "/" in key:
        name, _, job_id = key.partition("/")
        kind = JobKind(name)
        if kind in kinds or kind in JobKind.all():
            return kind, job_id
    return kind_of_id(key) or default, key


# A v2 id is a prefix and a ULID (https://github.com/ulid/spec).
_V2_ID: Final = re.compile(rf"({'|'.join(_BY_PREFIX)})-[0-9a-hjkmnp-tv-z]{{26}}", re.ASCII)


def kind_of_id(job_id: str) -> JobKind | None:
    """Return the kind that a v2 id contains; None for any other id."""
    if job_id[:1] not in V2_LETTERS or (match := _V2_ID.fullmatch(job_id)) is None:
        return None
    return _BY_PREFIX[match[1]]


V2_LETTERS: Final = frozenset(prefix[0] for prefix in _BY_PREFIX)
"""First letters of all v2 ids. An id with another first letter does not contain its kind."""

PLAIN_V1_ID: Final = re.compile(
    rf"(?![{''.join(sorted(V2_LETTERS))}]){PLAIN_JOB_ID.pattern}", PLAIN_JOB_ID.flags
)
"""Matches nearly all valid ids that do not contain their kind: see `PLAIN_JOB_ID`."""
