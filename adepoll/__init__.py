"""Wait for LandingAI ADE jobs, one or a hundred thousand, and download their results."""

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
    CertificateError,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    HeadersTooLargeError,
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
    JournalMovedError,
    JournalNotFoundError,
    JournalWriteError,
    MalformedAnswerError,
    MissingApiKeyError,
    NotAJournalError,
    PaymentRequiredError,
    PermissionDeniedError,
    ProxyError,
    ProxyRefusedError,
    RateLimitedError,
    RedirectRefusedError,
    RequestError,
    ResultCertificateError,
    ResultChangedError,
    ResultError,
    ResultExpiredError,
    ResultForbiddenError,
    ResultMalformedError,
    ResultNotReadyError,
    ResultProxyRefusedError,
    ResultRangeError,
    ResultRefusedError,
    ResultServerError,
    ResultTooLargeError,
    ResultTransferError,
    ResultUnavailableError,
    ResultUrlError,
    ServerError,
    ServerTimeoutError,
    ServiceDownError,
    StatusError,
    StorageError,
    TargetExistsError,
    TransportError,
    UnexpectedStatusError,
    UnprocessableError,
    UnresolvedJobsError,
    WebhookVerificationError,
    WrongJobError,
)

if typing.TYPE_CHECKING:
    from adepoll.api.client import AdeClient
    from adepoll.api.job_kind import JobKind, JobRef
    from adepoll.api.kinds.kind_rules import KindRules
    from adepoll.api.models import JobPage, JobSnapshot, JobStatus, JobSummary, Json
    from adepoll.api.results import (
        ExtractMetadata,
        ExtractResult,
        ExtractWarning,
        JobResult,
        ParseMetadata,
        ParseResult,
        SpreadsheetParseMetadata,
        SpreadsheetParseResult,
        V2Billing,
        V2ExtractResult,
        V2Metadata,
        V2ParseResult,
        WorkflowResult,
    )
    from adepoll.api.source import JobSource
    from adepoll.api.transport_options import TransportOptions
    from adepoll.batch import Batch, BatchProgress, BatchRun
    from adepoll.display import download_progress, progress
    from adepoll.fetcher import Download, FetcherStats, ResultFetcher, ResultItems, ResultStream
    from adepoll.journal import Journal
    from adepoll.journal.outcomes import BatchJob, Outcome, RecordedError, ResultFile
    from adepoll.scheduling.durations import Durations
    from adepoll.scheduling.schedules import Adaptive, Exponential, Fixed, PollContext, Schedule
    from adepoll.server.byte_ranges import ByteRange, parse_range
    from adepoll.server.result_responses import ResultReply, reply_with_result
    from adepoll.server.sse import JobEventStream
    from adepoll.server.webhooks import WebhookVerifier, job_ids_in
    from adepoll.tables import ExportReport, TypeConflict, export
    from adepoll.throttling.rate_limiter import RateLimiter
    from adepoll.throttling.statistics import ClientStats
    from adepoll.throttling.waiting_times import RetryPolicy
    from adepoll.watching.outcome_storing import repeat_query, store_outcomes
    from adepoll.watching.statistics import LagHistogram, WatcherStats
    from adepoll.watching.status_updates import StatusUpdate, StatusUpdates
    from adepoll.watching.watch import UnresolvedJob, Watch, WatchProgress
    from adepoll.watching.watcher import JobWatcher


__all__ = [
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

# The public names, by module. A module is imported when one of its names is first used, because the
# import of the HTTP client, the codec and SQLite is slow.
_NAMES: typing.Final = {
    "api.client": ["AdeClient"],
    "api.job_kind": ["JobKind", "JobRef"],
    "api.kinds.kind_rules": ["KindRules"],
    "api.models": ["JobPage", "JobSnapshot", "JobStatus", "JobSummary", "Json"],
    "api.results": [
        "ExtractMetadata",
        "ExtractResult",
        "ExtractWarning",
        "JobResult",
        "ParseMetadata",
        "ParseResult",
        "SpreadsheetParseMetadata",
        "SpreadsheetParseResult",
        "V2Billing",
        "V2ExtractResult",
        "V2Metadata",
        "V2ParseResult",
        "WorkflowResult",
    ],
    "api.source": ["JobSource"],
    "api.transport_options": ["TransportOptions"],
    "batch": ["Batch", "BatchProgress", "BatchRun"],
    "display": ["download_progress", "progress"],
    "fetcher": ["Download", "FetcherStats", "ResultFetcher", "ResultItems", "ResultStream"],
    "journal": ["Journal"],
    "journal.outcomes": ["BatchJob", "Outcome", "RecordedError", "ResultFile"],
    "scheduling.durations": ["Durations"],
    "scheduling.schedules": ["Adaptive", "Exponential", "Fixed", "PollContext", "Schedule"],
    "server.byte_ranges": ["ByteRange", "parse_range"],
    "server.result_responses": ["reply_with_result", "ResultReply"],
    "server.sse": ["JobEventStream"],
    "server.webhooks": ["job_ids_in", "WebhookVerifier"],
    "tables": ["ExportReport", "TypeConflict", "export"],
    "throttling.rate_limiter": ["RateLimiter"],
    "throttling.waiting_times": ["RetryPolicy"],
    "throttling.statistics": ["ClientStats"],
    "watching.outcome_storing": ["repeat_query", "store_outcomes"],
    "watching.statistics": ["LagHistogram", "WatcherStats"],
    "watching.status_updates": ["StatusUpdate", "StatusUpdates"],
    "watching.watch": ["UnresolvedJob", "Watch", "WatchProgress"],
    "watching.watcher": ["JobWatcher"],
}
_MODULE_OF: typing.Final = {name: module for module, names in _NAMES.items() for name in names}

# Type checkers do not see `__getattr__`, because they would accept any name in the module.
if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Return the object with a public name, or a submodule. Import its module if necessary."""
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
