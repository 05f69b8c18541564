"""The public face: its names, and that each is explained."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import attrs
import pytest

import adepoll

PUBLIC = [
    "Adaptive",
    "AdeClient",
    "AdePollError",
    "AnswerError",
    "AnswerTimeoutError",
    "AnswerTooLargeError",
    "AuthenticationError",
    "Batch",
    "BatchJob",
    "BatchProgress",
    "BatchRun",
    "BatchStoppedError",
    "ByteRange",
    "CertificateError",
    "ClientStats",
    "ClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "Download",
    "Durations",
    "Exponential",
    "ExportReport",
    "ExtractMetadata",
    "ExtractResult",
    "ExtractWarning",
    "FetcherStats",
    "Fixed",
    "HeadersTooLargeError",
    "InvalidJobIdError",
    "JobCancelledError",
    "JobEventStream",
    "JobFailedError",
    "JobKind",
    "JobNotFoundError",
    "JobPage",
    "JobRef",
    "JobResult",
    "JobSnapshot",
    "JobSource",
    "JobStatus",
    "JobSummary",
    "JobTimeoutError",
    "JobWatcher",
    "Journal",
    "JournalAccessError",
    "JournalBusyError",
    "JournalDamagedError",
    "JournalEndpointError",
    "JournalError",
    "JournalFormatError",
    "JournalMovedError",
    "JournalNotFoundError",
    "JournalWriteError",
    "Json",
    "KindRules",
    "LagHistogram",
    "MalformedAnswerError",
    "MissingApiKeyError",
    "NotAJournalError",
    "Outcome",
    "ParseMetadata",
    "ParseResult",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "PollContext",
    "ProxyError",
    "ProxyRefusedError",
    "RateLimitedError",
    "RateLimiter",
    "RecordedError",
    "RedirectRefusedError",
    "RequestError",
    "ResultCertificateError",
    "ResultChangedError",
    "ResultError",
    "ResultExpiredError",
    "ResultFetcher",
    "ResultFile",
    "ResultForbiddenError",
    "ResultItems",
    "ResultMalformedError",
    "ResultNotReadyError",
    "ResultProxyRefusedError",
    "ResultRangeError",
    "ResultRefusedError",
    "ResultReply",
    "ResultServerError",
    "ResultStream",
    "ResultTooLargeError",
    "ResultTransferError",
    "ResultUnavailableError",
    "ResultUrlError",
    "RetryPolicy",
    "Schedule",
    "ServerError",
    "ServerTimeoutError",
    "ServiceDownError",
    "SpreadsheetParseMetadata",
    "SpreadsheetParseResult",
    "StatusError",
    "StatusUpdate",
    "StatusUpdates",
    "StorageError",
    "TargetExistsError",
    "TransportError",
    "TransportOptions",
    "TypeConflict",
    "UnexpectedStatusError",
    "UnprocessableError",
    "UnresolvedJob",
    "UnresolvedJobsError",
    "V2Billing",
    "V2ExtractResult",
    "V2Metadata",
    "V2ParseResult",
    "Watch",
    "WatchProgress",
    "WatcherStats",
    "WebhookVerificationError",
    "WebhookVerifier",
    "WorkflowResult",
    "WrongJobError",
    "__version__",
    "download_progress",
    "export",
    "job_ids_in",
    "parse_range",
    "progress",
    "repeat_query",
    "reply_with_result",
    "store_outcomes",
]


def test_the_public_names_are_these_and_no_others():
    assert adepoll.__all__ == PUBLIC
    assert sorted(adepoll.__all__) == sorted(set(PUBLIC))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name):
    assert hasattr(adepoll, name)


def test_nothing_else_looks_public():
    """What is imported into the package on the way is a module, or is exported."""
    others = {
        name
        for name in dir(adepoll)
        if not name.startswith("_") and not inspect.ismodule(getattr(adepoll, name))
    }
    assert others == {name for name in PUBLIC if not name.startswith("_")}


def modules():
    return [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(adepoll.__path__, "adepoll.")
        if not info.name.endswith("__main__")
    ]


def public_things():
    """Every public module, class, method, property and function, where it is defined."""
    for module in modules():
        yield module.__name__, module
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for member, what in vars(value).items():
                    is_method = inspect.isfunction(what) or isinstance(what, property | classmethod)
                    if is_method and not member.startswith("_"):
                        yield f"{module.__name__}.{name}.{member}", getattr(value, member)


def test_every_public_thing_has_a_docstring():
    """Its own, or that of the method it overrides."""
    things = dict(public_things())
    assert "adepoll.api.client.AdeClient.get_job" in things
    assert [name for name, thing in things.items() if not inspect.getdoc(thing)] == []


def test_every_field_of_a_public_class_is_explained():
    missing = []
    for name in adepoll.__all__:
        cls = getattr(adepoll, name)
        if inspect.isclass(cls) and attrs.has(cls):
            shown = [field for field in attrs.fields(cls) if field.init or field.name[0] != "_"]
            fields = {field.alias for field in shown} - {"extra"}
            missing += [f"{name}.{f}" for f in sorted(fields) if f"{f}:" not in cls.__doc__]
    assert missing == []


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (Path(adepoll.__file__).parent / "py.typed").is_file()


def test_the_version_is_one():
    assert all(part.isdigit() for part in adepoll.__version__.split("."))
