"""Wait for LandingAI ADE extract jobs, one or a hundred thousand, and bring their results home."""

import importlib
import sys
import typing

from adepoll.__about__ import __version__
from adepoll.errors import (
    AdePollError,
    AnswerError,
    AnswerTimeoutError,
    AnswerTooLargeError,
    AuthenticationError,
    BatchStoppedError,
    ClosedError,
    ConfigurationError,
    InvalidJobIdError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobTimeoutError,
    JournalAccessError,
    JournalBusyError,
    JournalDamagedError,
    JournalEndpointError,
    JournalError,
    JournalFormatError,
    JournalNotFoundError,
    JournalWriteError,
    MalformedAnswerError,
    MissingApiKeyError,
    NotAJournalError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    RedirectRefusedError,
    RequestError,
    ResultChangedError,
    ResultError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultNotReadyError,
    ResultRangeError,
    ResultRefusedError,
    ResultServerError,
    ResultTooLargeError,
    ResultTransferError,
    ResultUnavailableError,
    ResultUrlError,
    ServerError,
    ServerTimeoutError,
    StatusError,
    StorageError,
    TargetExistsError,
    TransportError,
    UnexpectedStatusError,
    UnprocessableError,
    UnresolvedJobsError,
    WebhookRefusedError,
    WrongJobError,
)

if typing.TYPE_CHECKING:
    from adepoll.batch import Batch, BatchProgress, BatchRun
    from adepoll.calls import ClientStats
    from adepoll.client import AdeClient
    from adepoll.durations import Durations
    from adepoll.feeds import Watch, WatchProgress
    from adepoll.fetcher import Download, FetcherStats, ResultFetcher, ResultItems, ResultStream
    from adepoll.harvest import Harvest, Unresolved
    from adepoll.journal import Journal
    from adepoll.lags import LagHistogram
    from adepoll.latest import JobNews, Latest
    from adepoll.models import (
        ExtractMetadata,
        ExtractResult,
        ExtractWarning,
        JobPage,
        JobSnapshot,
        JobStatus,
        JobSummary,
        Json,
    )
    from adepoll.outcome import Outcome, RecordedError, ResultFile
    from adepoll.pacing import RetryPolicy
    from adepoll.ranges import ByteRange, parse_range
    from adepoll.schedule import Adaptive, Exponential, Fixed, Schedule, Watched
    from adepoll.serving import ResultReply, reply_with_result
    from adepoll.source import JobSource
    from adepoll.sse import JobEvents
    from adepoll.watcher import JobWatcher, WatcherStats
    from adepoll.webhooks import WebhookVerifier, job_ids_in

__all__ = [
    "Adaptive",
    "AdeClient",
    "AdePollError",
    "AnswerError",
    "AnswerTimeoutError",
    "AnswerTooLargeError",
    "AuthenticationError",
    "Batch",
    "BatchProgress",
    "BatchRun",
    "BatchStoppedError",
    "ByteRange",
    "ClientStats",
    "ClosedError",
    "ConfigurationError",
    "Download",
    "Durations",
    "Exponential",
    "ExtractMetadata",
    "ExtractResult",
    "ExtractWarning",
    "FetcherStats",
    "Fixed",
    "Harvest",
    "InvalidJobIdError",
    "JobCancelledError",
    "JobEvents",
    "JobFailedError",
    "JobNews",
    "JobNotFoundError",
    "JobPage",
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
    "JournalNotFoundError",
    "JournalWriteError",
    "Json",
    "LagHistogram",
    "Latest",
    "MalformedAnswerError",
    "MissingApiKeyError",
    "NotAJournalError",
    "Outcome",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RecordedError",
    "RedirectRefusedError",
    "RequestError",
    "ResultChangedError",
    "ResultError",
    "ResultExpiredError",
    "ResultFetcher",
    "ResultFile",
    "ResultForbiddenError",
    "ResultItems",
    "ResultMalformedError",
    "ResultNotReadyError",
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
    "StatusError",
    "StorageError",
    "TargetExistsError",
    "TransportError",
    "UnexpectedStatusError",
    "UnprocessableError",
    "Unresolved",
    "UnresolvedJobsError",
    "Watch",
    "WatchProgress",
    "Watched",
    "WatcherStats",
    "WebhookRefusedError",
    "WebhookVerifier",
    "WrongJobError",
    "__version__",
    "job_ids_in",
    "parse_range",
    "reply_with_result",
]

# Each module is imported when one of its names is first used: the HTTP client, the codec and SQLite
# take ten times as long to import as the interpreter takes to start.
_NAMES: typing.Final = {
    "batch": ["Batch", "BatchProgress", "BatchRun"],
    "calls": ["ClientStats"],
    "client": ["AdeClient"],
    "durations": ["Durations"],
    "feeds": ["Watch", "WatchProgress"],
    "fetcher": ["Download", "FetcherStats", "ResultFetcher", "ResultItems", "ResultStream"],
    "harvest": ["Harvest", "Unresolved"],
    "journal": ["Journal"],
    "lags": ["LagHistogram"],
    "latest": ["JobNews", "Latest"],
    "models": [
        "ExtractMetadata",
        "ExtractResult",
        "ExtractWarning",
        "JobPage",
        "JobSnapshot",
        "JobStatus",
        "JobSummary",
        "Json",
    ],
    "outcome": ["Outcome", "RecordedError", "ResultFile"],
    "pacing": ["RetryPolicy"],
    "ranges": ["ByteRange", "parse_range"],
    "schedule": ["Adaptive", "Exponential", "Fixed", "Schedule", "Watched"],
    "serving": ["ResultReply", "reply_with_result"],
    "source": ["JobSource"],
    "sse": ["JobEvents"],
    "watcher": ["JobWatcher", "WatcherStats"],
    "webhooks": ["WebhookVerifier", "job_ids_in"],
}
_MODULE_OF: typing.Final = {name: module for module, names in _NAMES.items() for name in names}

if not typing.TYPE_CHECKING:  # a module with `__getattr__` has any name for a type checker

    def __getattr__(name: str) -> object:
        """Return a public name or a submodule, and import its module if necessary."""
        if name in _MODULE_OF:
            value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
            globals()[name] = value
            return value
        path = f"{__name__}.{name}"
        try:
            if not name.startswith("_"):
                return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])

    def __dir__() -> list[str]:
        """Return the names of the module, imported or not."""
        return sorted({*globals(), *__all__, *_NAMES})
