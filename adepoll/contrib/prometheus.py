"""Prometheus metrics of clients, watchers and fetchers. Needs the extra ``prometheus``.

This module only reads `AdeClient.stats`, `JobWatcher.stats` and `ResultFetcher.stats`. The list
says which module counts each metric. It leaves out the prefix ``adepoll_`` and the ending
``_total`` of the names.

- `requests`, `retries`, `throttled`, `failures` and `key_refused`: `throttling.request_sender`
- `received_bytes`: `api.transport`
- `rate_limit`, `request_window` and `requests_in_flight`: `throttling.estimators`
- `failures_in_a_row` and `outage`: `throttling.hosts`
- `retry_budget` and `gate_closed_seconds`: `throttling.rate_limiter`
- `jobs_watched`: `watching.watched_jobs`; `polls_in_flight`: `watching.pollers`
- `subscribers`: `watching.watcher`
- `polls`, `jobs_settled`, `jobs_given_up` and `detection_lag_seconds`: `watching.watched_jobs`
- `sweeps` and `list_requests`: `watching.list_sweeper`
- `wasted_polls`, `pending_confirmation` and `sweeping`: `watching.listing`
- `results_in_flight` and `results`: `fetcher.fetcher` and `fetcher.result_stream`
- `results_resumed`: `fetcher.patience`
- `result_bytes`: `fetcher.storage_client`; `result_urls_renewed`: `fetcher.stored_result`

``REGISTRY.register(AdepollCollector(client=client, watcher=watcher, fetcher=fetcher))``
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from attrs import frozen
from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from adepoll import (
    AdeClient,
    ClientStats,
    FetcherStats,
    JobWatcher,
    LagHistogram,
    ResultFetcher,
    WatcherStats,
)

__all__ = ["AdepollCollector"]

_StatsT = TypeVar("_StatsT")
_Labels: TypeAlias = tuple[tuple[str, str], ...]

_NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})
_LABEL_NAME: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_OUTCOME: Final = "outcome"
_RESERVED: Final = frozenset({_OUTCOME, "le"})


class AdepollCollector(Collector):
    """Collects the statistics of clients, watchers and fetchers for a Prometheus registry.

    The statistics are read each time Prometheus scrapes the registry, in any thread. Use one
    collector for each registry. For several keys or regions, call `add` with different labels.
    """

    def __init__(
        self,
        *,
        client: AdeClient | None = None,
        watcher: JobWatcher | None = None,
        fetcher: ResultFetcher | None = None,
        labels: Mapping[str, str] = _NO_LABELS,
    ) -> None:
        """Create a collector, and call `add` with the arguments if there are any."""
        # A change replaces this mapping with a new one, because another thread may be reading it.
        self._sources: Mapping[_Labels, _Source] = {}
        if client is not None or watcher is not None or fetcher is not None:
            self.add(client=client, watcher=watcher, fetcher=fetcher, labels=labels)

    def add(
        self,
        *,
        client: AdeClient | None = None,
        watcher: JobWatcher | None = None,
        fetcher: ResultFetcher | None = None,
        labels: Mapping[str, str] = _NO_LABELS,
    ) -> None:
        """Also collect the metrics of these objects.

        Args:
            client: The client whose requests are counted; None to leave out its metrics.
            watcher: The watcher whose jobs are counted; None to leave out its metrics.
            fetcher: The fetcher whose results are counted; None to leave out its metrics.
            labels: Labels of these metrics, such as ``{"region": "eu"}``. Do not use job ids or
                other labels with many values: Prometheus keeps a series for each value.

        Raises:
            ValueError: A label name is invalid or reserved (``le``, ``outcome``); or the names
                differ from those of an earlier call; or an earlier call had the same labels.
        """
        key = tuple(sorted(labels.items()))
        names = _names(key)
        for name in names:
            if name in _RESERVED or not _LABEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a valid label name here")
        for other in self._sources:
            if _names(other) != names:
                raise ValueError(f"label names differ: {names}, earlier {_names(other)}")
            if other == key:
                raise ValueError(f"metrics with these labels exist already: {dict(labels)}")
        source = _Source(client=client, watcher=watcher, fetcher=fetcher)
        self._sources = {**self._sources, key: source}

    def remove(self, labels: Mapping[str, str] = _NO_LABELS) -> None:
        """Stop collecting the metrics with these labels; do nothing if no metrics have them."""
        removed = tuple(sorted(labels.items()))
        self._sources = {k: source for k, source in self._sources.items() if k != removed}

    def describe(self) -> Iterator[Metric]:
        """Yield all metrics without values, so that the registry reserves their names."""
        yield from (spec.family(()) for spec in _OF_CLIENTS)
        yield from (spec.family(()) for spec in _OF_WATCHERS)
        yield from (spec.family(()) for spec in _OF_FETCHERS)

    def collect(self) -> Iterator[Metric]:
        """Yield the present values of all metrics that have a value."""
        sources = self._sources.items()
        clients = [(key, s.client.stats) for key, s in sources if s.client is not None]
        watchers = [(key, s.watcher.stats) for key, s in sources if s.watcher is not None]
        fetchers = [(key, s.fetcher.stats) for key, s in sources if s.fetcher is not None]
        yield from _families(_OF_CLIENTS, clients)
        yield from _families(_OF_WATCHERS, watchers)
        yield from _families(_OF_FETCHERS, fetchers)


@frozen(kw_only=True)
class _Source:
    """Objects that were added to a collector together. Their metrics have the same labels."""

    client: AdeClient | None
    watcher: JobWatcher | None
    fetcher: ResultFetcher | None


@frozen
class _Spec(Generic[_StatsT]):
    """One metric.

    Attributes:
        kind: The class of the metric family.
        name: The name without the prefix ``adepoll_``.
        help: The help text.
        read: Returns the value of the metric from the statistics. It returns None if there is no
            value, and a mapping by outcome if there is one value for each outcome.
        by_outcome: True if the metric has the label ``outcome``.
    """

    kind: type[Metric]
    name: str
    help: str
    read: Callable[[_StatsT], float | LagHistogram | Mapping[str, int] | None]
    by_outcome: bool = False

    def family(self, names: tuple[str, ...]) -> Any:
        # The type checker must not check this call, because the metric families have no common base
        # class whose constructor has `labels`.
        kind: Callable[..., Any] = self.kind
        own = (_OUTCOME,) if self.by_outcome else ()
        return kind(f"adepoll_{self.name}", self.help, labels=(*names, *own))

    def add(self, family: Any, values: tuple[str, ...], stats: _StatsT) -> None:
        value = self.read(stats)
        if isinstance(value, LagHistogram):
            bounds = (*map(floatToGoString, value.bounds), "+Inf")
            up_to = accumulate(value.counts)
            family.add_metric(values, list(zip(bounds, up_to, strict=True)), value.sum)
        elif isinstance(value, Mapping):
            for outcome, count in value.items():
                family.add_metric((*values, outcome), count)
        elif value is not None:
            family.add_metric(values, float(value))


def _names(labels: _Labels) -> tuple[str, ...]:
    return tuple(name for name, _ in labels)


def _families(
    specs: Iterable[_Spec[_StatsT]], read: list[tuple[_Labels, _StatsT]]
) -> Iterator[Metric]:
    """Yield the metric families of `specs` that have values.

    `read` is a list of pairs: labels, and the statistics whose metrics have these labels.
    """
    for spec in specs if read else ():
        family = spec.family(_names(read[0][0]))
        for labels, stats in read:
            spec.add(family, tuple(value for _, value in labels), stats)
        if family.samples:
            yield family


_COUNTER: Final = CounterMetricFamily  # this class adds "_total" to the name
_GAUGE: Final = GaugeMetricFamily
_HISTOGRAM: Final = HistogramMetricFamily

_OF_CLIENTS: Final[tuple[_Spec[ClientStats], ...]] = (
    _Spec(_COUNTER, "requests", "Requests sent, retries included.", lambda s: s.requests),
    _Spec(_COUNTER, "retries", "Requests that repeated a failed request.", lambda s: s.retries),
    _Spec(_COUNTER, "throttled", "Responses with status 429.", lambda s: s.throttled),
    _Spec(
        _COUNTER,
        "failures",
        "Requests without a usable response, including those with status 429.",
        lambda s: s.failures,
    ),
    _Spec(
        _COUNTER,
        "received_bytes",
        "Bytes of responses from the service, after decompression.",
        lambda s: s.bytes_received,
    ),
    _Spec(
        _GAUGE,
        "requests_in_flight",
        "Requests that are being sent or wait for their response.",
        lambda s: s.in_flight,
    ),
    _Spec(
        _GAUGE,
        "request_window",
        "Largest allowed number of concurrent requests.",
        lambda s: s.window,
    ),
    _Spec(
        _GAUGE,
        "rate_limit",
        "Estimate of the requests per second that the service allows after a 429 response; absent "
        "while no limit is known.",
        lambda s: s.rate_limit,
    ),
    _Spec(_GAUGE, "retry_budget", "Retries that are available now.", lambda s: s.retry_budget),
    _Spec(
        _GAUGE,
        "gate_closed_seconds",
        "Seconds until requests may be sent again after a 429 or a Retry-After, or 0.",
        lambda s: s.gate_closed_for,
    ),
    _Spec(
        _GAUGE,
        "failures_in_a_row",
        "Failed requests since the last success, without failures that concern a single job.",
        lambda s: s.failures_in_a_row,
    ),
    _Spec(
        _GAUGE,
        "outage",
        "1 if the service, or one of its two hosts, seems to be down, else 0.",
        lambda s: s.is_outage,
    ),
    _Spec(
        _GAUGE,
        "key_refused",
        "1 if the service has refused the API key or the account and has not accepted it again, "
        "else 0.",
        lambda s: s.refused is not None,
    ),
)

_OF_WATCHERS: Final[tuple[_Spec[WatcherStats], ...]] = (
    _Spec(_GAUGE, "jobs_watched", "Jobs that are polled until they settle.", lambda s: s.watched),
    _Spec(_GAUGE, "subscribers", "Open watches and waits.", lambda s: s.subscribers),
    _Spec(_COUNTER, "polls", "Finished polls, successful or failed.", lambda s: s.polls),
    _Spec(_GAUGE, "polls_in_flight", "Polls that have not finished.", lambda s: s.in_flight),
    _Spec(_COUNTER, "jobs_settled", "Jobs that a poll found settled.", lambda s: s.settled),
    _Spec(
        _COUNTER,
        "jobs_given_up",
        "Jobs that were given up, because their outcome could not be found out.",
        lambda s: s.given_up,
    ),
    _Spec(
        _HISTOGRAM,
        "detection_lag_seconds",
        "Seconds from the end of a job to the poll that observed the end. If the time of the end "
        "is not known, the seconds from the last time at which the job was known to be active.",
        lambda s: s.detection_lag,
    ),
    _Spec(
        _GAUGE,
        "sweeping",
        "1 while the job list decides when jobs are polled, 0 while the schedule does.",
        lambda s: s.sweeping,
    ),
    _Spec(_COUNTER, "sweeps", "List sweeps.", lambda s: s.sweeps),
    _Spec(_COUNTER, "list_requests", "Requests for a page of the list.", lambda s: s.list_requests),
    _Spec(
        _COUNTER,
        "wasted_polls",
        "Polls of jobs missing from the list that were still active.",
        lambda s: s.wasted_polls,
    ),
    _Spec(
        _GAUGE,
        "pending_confirmation",
        "Jobs that wait to be polled immediately, most of them missing from the job list.",
        lambda s: s.pending_confirmation,
    ),
)

_OF_FETCHERS: Final[tuple[_Spec[FetcherStats], ...]] = (
    _Spec(
        _GAUGE,
        "results_in_flight",
        "Transfers of results that have not ended.",
        lambda s: s.in_flight,
    ),
    _Spec(
        _COUNTER,
        "results",
        "Transfers of results that have ended, by outcome: finished, failed, or abandoned by the "
        "caller.",
        lambda s: {"finished": s.finished, "failed": s.failed, "abandoned": s.abandoned},
        by_outcome=True,
    ),
    _Spec(
        _COUNTER,
        "result_bytes",
        "Bytes of results received from storages and the API, including repeated bytes.",
        lambda s: s.bytes_received,
    ),
    _Spec(
        _COUNTER,
        "results_resumed",
        "Requests for results that were repeated after a failure.",
        lambda s: s.resumed,
    ),
    _Spec(
        _COUNTER,
        "result_urls_renewed",
        "Requests for a new result URL because the old one had expired.",
        lambda s: s.renewed_urls,
    ),
)
