import copy
import pickle
import re
from inspect import cleandoc

import pytest

from adepoll import errors
from adepoll.errors import (
    AdePollError,
    AuthenticationError,
    JobNotFoundError,
    MalformedAnswerError,
    ServerError,
    StatusError,
    StorageError,
    TransportError,
    UnresolvedJobsError,
)

CANARY = "CaNaRy0123456789"
PRESIGNED = f"https://bucket.s3.example/r.json?X-Amz-Signature={CANARY}"

_status = {"status": 599, "detail": "a detail", "job_id": "j-1", "retry_after": 7.0}
_refused = {"job_id": "j-1", "status": 403, "detail": "a detail", "url": PRESIGNED}

EXAMPLES = [
    errors.AdePollError("text"),
    errors.ConfigurationError("text"),
    errors.MissingApiKeyError(variable="A_KEY"),
    errors.InvalidJobIdError(job_id="a/b", reason="it contains '/'"),
    errors.ClosedError("text"),  # outside of the tree
    errors.RequestError("text", job_id=None),
    errors.TransportError("text", job_id="j-1"),
    errors.ConnectionFailedError("text", job_id="j-1"),
    errors.CertificateError("text", job_id="j-1"),
    errors.ProxyError("text", job_id="j-1"),
    errors.ProxyRefusedError("text", job_id="j-1"),
    errors.ServiceDownError(failures=12, cause=None),
    errors.AnswerTimeoutError(timeout=30.0, job_id="j-1"),
    errors.AnswerError("text", job_id="j-1"),
    errors.MalformedAnswerError(["expected an object @ $.data"], job_id="j-1"),
    errors.AnswerTooLargeError(limit=10, job_id="j-1"),
    errors.HeadersTooLargeError("text", job_id="j-1"),
    errors.WrongJobError(job_id="j-1", answered="j-2"),
    errors.StatusError(**_status),
    errors.RedirectRefusedError(**_status),
    errors.AuthenticationError(**_status),
    errors.PaymentRequiredError(**_status),
    errors.PermissionDeniedError(**_status),
    errors.JobNotFoundError(**_status),
    errors.ServerTimeoutError(**_status),
    errors.UnprocessableError(**_status),
    errors.RateLimitedError(**_status),
    errors.ServerError(**_status),
    errors.UnexpectedStatusError(**_status),
    errors.JobFailedError(job_id="j-1", failure_reason="a reason"),
    errors.JobCancelledError(job_id="j-1"),
    errors.JobIdsCancelledError(),
    errors.JobTimeoutError(job_id="j-1", timeout=5.0, last_status="processing"),
    errors.UnresolvedJobsError({"j-1": JobNotFoundError(status=404, job_id="j-1")}),
    errors.ResultError("text", job_id="j-1"),
    errors.ResultNotReadyError(job_id="j-1", status="pending"),
    errors.ResultUnavailableError(job_id="j-1"),
    errors.ResultUrlError(job_id="j-1", url=PRESIGNED, reason="a reason"),
    errors.ResultRefusedError(**_refused),
    errors.ResultServerError(**_refused),
    errors.ResultForbiddenError(**_refused),
    errors.ResultExpiredError(**_refused),
    errors.ResultTransferError("text", job_id="j-1", received=1, expected=None),
    errors.ResultCertificateError("text", job_id="j-1", received=0, expected=None),
    errors.ResultProxyRefusedError("text", job_id="j-1", received=0, expected=None),
    errors.ResultChangedError(job_id="j-1", received=1),
    errors.ResultMalformedError(["expected an object @ $"], job_id="j-1"),
    errors.ResultRangeError(job_id="j-1", start=20, size=10),
    errors.ResultTooLargeError(job_id="j-1", limit=10),
    errors.TargetExistsError(job_id="j-1", path="/out/a.json"),
    errors.StorageError(job_id="j-1", path="/out/a.json", cause=OSError(28, "No space left")),
    errors.BatchStoppedError(
        errors.StorageError(job_id="j-1", path="/out/a.json", cause=OSError(28, "No space left"))
    ),
    errors.WebhookVerificationError("it is too old"),
    errors.TooManyTenantsError(limit=100),
    errors.JournalError("has no job 'j-1'", path="/batch.db"),
    errors.JournalNotFoundError(path="/batch.db"),
    errors.JournalBusyError(path="/batch.db", pid=4711),
    errors.JournalEndpointError(
        path="/b.db", theirs="https://eu.example", ours="https://a.example"
    ),
    errors.JournalEndpointError(
        path="/b.db", theirs="https://eu.example", ours="https://a.example", api="v2"
    ),
    errors.JournalFormatError(path="/batch.db", found=2, known=1),
    errors.NotAJournalError(path="/batch.db", reason="it is a folder"),
    errors.JournalDamagedError(["page 7 is never used"], path="/batch.db"),
    errors.JournalAccessError("a reason", path="/batch.db", errno=13),
    errors.JournalMovedError(path="/b.db", file="/b.db-wal", replaced=False),
    errors.JournalMovedError(path="/b.db", file="/b.db", replaced=True),
    errors.JournalWriteError("a reason", path=None, code="SQLITE_FULL", errno=28),
]


def every_class(base: type[AdePollError] = AdePollError) -> set[type[AdePollError]]:
    return {base}.union(*(every_class(sub) for sub in base.__subclasses__()))


def test_every_class_of_the_tree_has_an_example_here():
    ours = {cls for cls in every_class() if cls.__module__ == errors.__name__}
    assert {type(example) for example in EXAMPLES} == ours | {errors.ClosedError}


def test_a_shutdown_is_no_error_of_a_job():
    """`except AdePollError: mark_as_unresolved(job)` must not run when a server stops."""
    assert not issubclass(errors.ClosedError, AdePollError)


CLONES = [copy.copy, copy.deepcopy]
CLONES += [lambda error, p=p: pickle.loads(pickle.dumps(error, p)) for p in (2, 5)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_every_error_survives_pickling_and_copying(example):
    for clone in CLONES:
        check_twin(clone(example), example)


def check_twin(twin, example):
    assert type(twin) is type(example)
    assert str(twin) == str(example)
    assert repr(twin) == repr(example)
    if isinstance(example, UnresolvedJobsError):
        assert twin.exceptions == tuple(twin.causes.values())
        assert {key: repr(exc) for key, exc in twin.causes.items()} == {
            key: repr(exc) for key, exc in example.causes.items()
        }
    else:
        assert twin.args == example.args
        assert vars(twin) == vars(example)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_every_error_has_a_message_on_one_line_and_no_presigned_query(example, all_text_of):
    assert str(example)
    assert "\n" not in str(example)
    assert CANARY not in all_text_of(example)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_every_attribute_of_an_error_is_documented(example):
    explained = "\n".join(cleandoc(base.__doc__ or "") for base in type(example).__mro__)
    assert [name for name in vars(example) if f"{name}:" not in explained] == []
    described = re.findall(r"^    (\w+): ", explained, re.MULTILINE)
    assert [name for name in described if not hasattr(example, name)] == []


def test_notes_are_pickled():
    for error in (JobNotFoundError(status=404), UnresolvedJobsError({"a": AdePollError("b")})):
        error.add_note("seen in shard 7")
        assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen in shard 7"]


def test_only_temporary_failures_are_transient():
    assert {cls.__name__ for cls in every_class() if cls.transient} == {
        "TransportError",
        "ConnectionFailedError",
        "ProxyError",
        "ServiceDownError",
        "AnswerTimeoutError",
        "AnswerError",
        "MalformedAnswerError",
        "HeadersTooLargeError",
        "WrongJobError",
        "UnexpectedStatusError",
        "ServerTimeoutError",
        "RateLimitedError",
        "ServerError",
        "TooManyTenantsError",
        "ResultMalformedError",
        "UnusableRangeError",  # internal to the fetcher; public as ResultMalformedError
        "ResultServerError",
        "ResultTransferError",
    }


def test_only_errors_of_the_whole_client_are_fatal():
    assert {cls.__name__ for cls in every_class() if cls.fatal} == {
        "AuthenticationError",
        "CertificateError",
        "PaymentRequiredError",
        "ProxyRefusedError",
    }


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigurationError", ValueError),
        ("InvalidJobIdError", ValueError),
        ("ClosedError", RuntimeError),
        ("AnswerTimeoutError", TimeoutError),
        ("JobTimeoutError", TimeoutError),
        ("UnresolvedJobsError", ExceptionGroup),
        ("TargetExistsError", FileExistsError),
        ("JournalNotFoundError", FileNotFoundError),
    ],
)
def test_errors_are_also_the_expected_builtin_exceptions(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


def test_messages_say_what_to_do():
    assert "A_KEY" in str(errors.MissingApiKeyError(variable="A_KEY"))
    assert "VISION_AGENT_API_KEY" in str(AuthenticationError(status=401))
    assert "max_body_bytes" in str(errors.AnswerTooLargeError(limit=1, job_id=None))
    fixed = errors.AnswerTooLargeError(limit=1, job_id=None, is_fixed=True)
    assert "max_body_bytes" not in str(fixed)
    assert "base_url" in str(errors.RedirectRefusedError(status=302))
    assert "overwrite=True" in str(errors.TargetExistsError(job_id="a", path="b"))
    assert "output_save_url" in str(errors.ResultUnavailableError(job_id="a"))
    assert "presigned for PUT" in str(errors.ResultForbiddenError(**_refused))
    assert "stream()" in str(errors.ResultTooLargeError(job_id="a", limit=1))
    assert "4711" in str(errors.JournalBusyError(path="a", pid=4711))
    assert "sqlite3 shell" in str(errors.JournalBusyError(path="a", pid=None))
    assert '".recover"' in str(errors.JournalDamagedError(["b"], path="a"))
    assert "upgrade adepoll" in str(errors.JournalFormatError(path="a", found=2, known=1))
    assert "run the batch again" in str(
        errors.JournalWriteError("b", path="a", code="SQLITE_FULL", errno=28)
    )


def test_a_request_error_names_its_job_and_its_status():
    error = StatusError(status=503, detail="try later", job_id="j-7")
    assert str(error) == "job j-7: the service answered 503: try later"
    assert str(StatusError(status=503)) == "the service answered 503"
    assert error.retry_after is None


def test_a_broken_transfer_is_not_the_fault_of_the_object_unless_the_error_says_so():
    error = errors.ResultTransferError("text", job_id="j-1", received=1, expected=None)
    assert not error.is_object_at_fault


@pytest.mark.parametrize("kind", [MalformedAnswerError, errors.ResultMalformedError])
def test_five_problems_are_shown_and_all_are_kept(kind):
    error = kind([f"problem {n}" for n in range(8)], job_id="j-1")
    assert "problem 4" in str(error)
    assert "problem 5" not in str(error)
    assert ("problem 4 (and 3 more)" in str(error)) == (kind is MalformedAnswerError)
    assert len(error.problems) == 8


def test_three_problems_of_a_journal_are_shown_and_all_are_kept():
    for count, shown in (
        (1, "is damaged: problem 0; copy"),
        (3, "is damaged: problem 0; problem 1; problem 2; copy"),
        (5, "is damaged: problem 0; problem 1; problem 2 (and 2 more); copy"),
    ):
        error = errors.JournalDamagedError([f"problem {n}" for n in range(count)], path="a.db")
        assert shown in str(error)
        assert len(error.problems) == count


UNTRUSTED = [
    errors.JobFailedError(job_id="j", failure_reason=f"see {PRESIGNED}\x1b[31m"),
    errors.WrongJobError(job_id="j", answered=f"Bearer {CANARY}\x1b[31m"),
    errors.JobTimeoutError(job_id="j", timeout=1, last_status=f"sig={CANARY}\x1b[31m"),
    errors.ResultNotReadyError(job_id="j", status=f"sig={CANARY}\x1b[31m"),
    errors.MalformedAnswerError([f"it came as Bearer {CANARY}\x1b[31m"]),
    errors.ResultMalformedError([f"see {PRESIGNED}\x1b[31m"], job_id="j"),
    errors.JournalDamagedError([f"see {PRESIGNED}\x1b[31m"], path="jobs.db"),
    errors.ResultUrlError(job_id="j", url=PRESIGNED, reason="the host is private"),
]
"""Errors with a secret in a text of the service."""

# The attribute `job_id` contains the id that the caller passed, as it is.
ODD_IDS = [
    errors.TransportError("text", job_id=f"sig={CANARY}\x1b[31m"),
    errors.InvalidJobIdError(job_id=f"{PRESIGNED}\x1b[31m", reason="it contains '/'"),
]


@pytest.mark.parametrize("error", [*UNTRUSTED, *ODD_IDS], ids=lambda error: type(error).__name__)
def test_untrusted_text_is_redacted_and_escaped_before_it_enters_a_message(error):
    for shown in (str(error), repr(error)):
        assert CANARY not in shown
        assert "\x1b" not in shown


@pytest.mark.parametrize("error", UNTRUSTED, ids=lambda error: type(error).__name__)
def test_a_pickled_error_contains_no_secret(error):
    """Task queues and some loggers store the attributes of an error."""
    assert CANARY.encode() not in pickle.dumps(error)


def test_untrusted_text_of_any_length_is_shortened_in_messages():
    huge = "x" * 1_000_000
    for error in (
        errors.JobFailedError(job_id=huge, failure_reason=huge),
        errors.WrongJobError(job_id=huge, answered=huge),
        errors.MalformedAnswerError([huge] * 100),
        errors.ResultUrlError(job_id=huge, url=f"https://h/{huge}", reason="no"),
    ):
        assert len(str(error)) < 2_000


def test_a_storage_error_keeps_the_number_and_the_cause():
    cause = OSError(28, "No space left on device")
    error = StorageError(job_id="j", path="/out/a.json", cause=cause)
    assert error.errno == 28
    assert error.__cause__ is cause
    assert "No space left on device" in str(error)


def group() -> UnresolvedJobsError:
    return UnresolvedJobsError(
        {
            "a": JobNotFoundError(status=404, job_id="a"),
            "b": ServerError(status=503, job_id="b"),
            "c": JobNotFoundError(status=404, job_id="c"),
            "d": TransportError("reset", job_id="d"),
        }
    )


def test_unresolved_jobs_are_counted_by_error_and_kept_by_id():
    error = group()
    assert str(error).startswith(
        "4 jobs unresolved: 2 JobNotFoundError, 1 ServerError, 1 TransportError"
    )
    assert list(error.causes) == ["a", "b", "c", "d"]
    assert error.exceptions == tuple(error.causes.values())
    assert str(UnresolvedJobsError({"a": AdePollError("x")})).startswith("1 job unresolved")


def handle_missing_jobs(error, seen):
    try:
        raise error
    except* JobNotFoundError as found:
        seen += found.causes


def test_except_star_sees_the_causes_and_leaves_the_rest():
    seen = []
    with pytest.raises(UnresolvedJobsError) as caught:
        handle_missing_jobs(group(), seen)
    assert seen == ["a", "c"]
    assert list(caught.value.causes) == ["b", "d"]


def test_splitting_the_group_splits_the_causes():
    matching, rest = group().split(ServerError)
    assert list(matching.causes) == ["b"]
    assert list(rest.causes) == ["a", "c", "d"]
    assert str(matching).startswith("1 job unresolved: 1 ServerError")


def test_a_cause_shared_by_two_jobs_is_kept_for_both_when_the_group_is_split():
    shared = ServerError(status=503)
    error = UnresolvedJobsError({"a": shared, "b": shared, "c": AdePollError("x")})
    matching = error.subgroup(ServerError)
    assert set(matching.causes) == {"a", "b"}


def test_a_group_is_caught_as_any_error_of_adepoll():
    with pytest.raises(AdePollError):
        raise group()
