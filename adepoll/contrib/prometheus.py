"""adepoll's stats as Prometheus metrics, read when they are asked for.

``REGISTRY.register(AdepollCollector(client=client, watcher=watcher, fetcher=fetcher))``. Needs the
extra ``prometheus``.
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

from adepoll.api.client import AdeClient
from adepoll.fetcher import FetcherStats, ResultFetcher
from adepoll.throttling.stats import ClientStats
from adepoll.watching.detection_lag import LagHistogram
from adepoll.watching.watcher import JobWatcher, WatcherStats

_StatsT = TypeVar("_StatsT")
_Labels: TypeAlias = tuple[tuple[str, str], ...]

_NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})
_NAME: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_OUTCOME: Final = "outcome"
_TAKEN: Final = frozenset({_OUTCOME, "le"})


class AdepollCollector(Collector):
    """Gives the stats of clients, watchers and fetchers to a Prometheus registry.

    It reads them when the registry is scraped, in whichever thread, and costs nothing otherwise.
    One collector serves a registry: several keys or regions are told apart by labels (`add`).
    """

    def __init__(
        self,
        *,
        client: AdeClient | None = None,
        watcher: JobWatcher | None = None,
        fetcher: ResultFetcher | None = None,
        labels: Mapping[str, str] = _NO_LABELS,
    ) -> None:
        """Make a collector, and `add` these if any are given."""
        # Replaced and never changed: another thread may be going through it.
        self._members: Mapping[_Labels, _Member] = {}
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
        """From now on, tell of these too.

        Args:
            client: Whose requests are told of; None for nobody's.
            watcher: Whose jobs are.
            fetcher: Whose transfers are.
            labels: What tells them from others, such as ``{"tenant": "eu"}``. Never anything that
                there are many of, such as ids: Prometheus keeps a series for each value.

        Raises:
            ValueError: A name is none that Prometheus takes, or has a meaning here (``le``,
                ``outcome``); others have other names, or the same labels.
        """
        key = tuple(sorted(labels.items()))
        names = _names(key)
        for name in names:
            if name in _TAKEN or not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a label")
        for other in self._members:
            if _names(other) != names:
                raise ValueError(f"all must have the same labels: {names}, and {_names(other)}")
            if other == key:
                raise ValueError(f"there are others with the same labels: {dict(labels)}")
        member = _Member(client=client, watcher=watcher, fetcher=fetcher)
        self._members = {**self._members, key: member}

    def remove(self, labels: Mapping[str, str] = _NO_LABELS) -> None:
        """From now on, tell no more of those with these labels, if there are any."""
        gone = tuple(sorted(labels.items()))
        self._members = {key: member for key, member in self._members.items() if key != gone}

    def describe(self) -> Iterator[Metric]:
        """Give all metrics without values; the registry keeps others off their names."""
        yield from (spec.family(()) for spec in _OF_CLIENTS)
        yield from (spec.family(()) for spec in _OF_WATCHERS)
        yield from (spec.family(()) for spec in _OF_FETCHERS)

    def collect(self) -> Iterator[Metric]:
        """Give the metrics that have a value, as they stand."""
        members = self._members.items()
        clients = [(key, m.client.stats) for key, m in members if m.client is not None]
        watchers = [(key, m.watcher.stats) for key, m in members if m.watcher is not None]
        fetchers = [(key, m.fetcher.stats) for key, m in members if m.fetcher is not None]
        yield from _families(_OF_CLIENTS, clients)
        yield from _families(_OF_WATCHERS, watchers)
        yield from _families(_OF_FETCHERS, fetchers)


@frozen(kw_only=True)
class _Member:
    """Those who are told of under the same labels."""

    client: AdeClient | None
    watcher: JobWatcher | None
    fetcher: ResultFetcher | None


@frozen
class _Spec(Generic[_StatsT]):
    """One metric: its kind, its name without the prefix, what it tells, and how it is read.

    A value that is None is left out; a mapping has a count for each outcome.
    """

    kind: type[Metric]
    name: str
    told: str
    read: Callable[[_StatsT], float | LagHistogram | Mapping[str, int] | None]
    by_outcome: bool = False

    def family(self, names: tuple[str, ...]) -> Any:
        # The families have no base that takes labels.
        kind: Callable[..., Any] = self.kind
        own = (_OUTCOME,) if self.by_outcome else ()
        return kind(f"adepoll_{self.name}", self.told, labels=(*names, *own))

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
    for spec in specs if read else ():
        family = spec.family(_names(read[0][0]))
        for labels, stats in read:
            spec.add(family, tuple(value for _, value in labels), stats)
        if family.samples:
            yield family


_COUNTER: Final = CounterMetricFamily  # adds _total to the name
_GAUGE: Final = GaugeMetricFamily
_HISTOGRAM: Final = HistogramMetricFamily

_OF_CLIENTS: Final[tuple[_Spec[ClientStats], ...]] = (
    _Spec(_COUNTER, "requests", "Requests sent, retries included.", lambda s: s.requests),
    _Spec(_COUNTER, "retries", "Requests that repeated a failed one.", lambda s: s.retries),
    _Spec(_COUNTER, "throttled", "Answers 429.", lambda s: s.throttled),
    _Spec(
        _COUNTER,
        "failures",
        "Requests that brought no usable answer, 429 included.",
        lambda s: s.failures,
    ),
    _Spec(
        _COUNTER,
        "received_bytes",
        "Bytes of the service's answers, after decompression.",
        lambda s: s.bytes_received,
    ),
    _Spec(_GAUGE, "requests_in_flight", "Requests on the wire.", lambda s: s.in_flight),
    _Spec(
        _GAUGE, "request_window", "How many requests may be on the wire now.", lambda s: s.window
    ),
    _Spec(
        _GAUGE,
        "rate_limit",
        "Requests per second that 429s have left; absent where no limit is known.",
        lambda s: s.rate_limit,
    ),
    _Spec(_GAUGE, "retry_budget", "Retries that may be spent now.", lambda s: s.retry_budget),
    _Spec(
        _GAUGE,
        "gate_closed_seconds",
        "Seconds until requests may be sent again; 0 where they may.",
        lambda s: s.gate_closed_for,
    ),
    _Spec(
        _GAUGE,
        "failures_in_a_row",
        "Requests that failed since one succeeded, 429 not counted.",
        lambda s: s.failures_in_a_row,
    ),
    _Spec(
        _GAUGE,
        "outage",
        "Whether the service does not seem to be there at all.",
        lambda s: s.is_outage,
    ),
    _Spec(
        _GAUGE,
        "key_refused",
        "Whether the service refused the key at its last word.",
        lambda s: s.refused is not None,
    ),
)

_OF_WATCHERS: Final[tuple[_Spec[WatcherStats], ...]] = (
    _Spec(_GAUGE, "jobs_watched", "Jobs that are looked at until they end.", lambda s: s.watched),
    _Spec(_GAUGE, "followers", "Watches and waits that are open.", lambda s: s.subscribers),
    _Spec(_COUNTER, "looks", "Looks at a job that came back, well or ill.", lambda s: s.polls),
    _Spec(_GAUGE, "looks_in_flight", "Looks under way.", lambda s: s.in_flight),
    _Spec(_COUNTER, "jobs_settled", "Jobs that a look found ended.", lambda s: s.settled),
    _Spec(_COUNTER, "jobs_given_up", "Jobs that were given up.", lambda s: s.given_up),
    _Spec(
        _HISTOGRAM,
        "detection_lag_seconds",
        "Upper bound of how long a job had ended when a look saw it: counted from when it was "
        "last known to be active, or was given.",
        lambda s: s.detection_lag,
    ),
    _Spec(
        _GAUGE,
        "list_swept",
        "Whether jobs are looked at when the list has them no more (1), or by schedule (0).",
        lambda s: s.sweeping,
    ),
    _Spec(_COUNTER, "sweeps", "Sweeps of the list.", lambda s: s.sweeps),
    _Spec(_COUNTER, "list_requests", "Requests for a page of the list.", lambda s: s.list_requests),
    _Spec(
        _COUNTER,
        "misled_looks",
        "Looks at jobs that the list had not, and that were active still.",
        lambda s: s.wasted_polls,
    ),
    _Spec(
        _GAUGE,
        "jobs_overdue",
        "Jobs missing from the list that wait for their look.",
        lambda s: s.pending_confirmation,
    ),
)

_OF_FETCHERS: Final[tuple[_Spec[FetcherStats], ...]] = (
    _Spec(
        _GAUGE,
        "results_in_flight",
        "Transfers of results that have begun and not ended.",
        lambda s: s.under_way,
    ),
    _Spec(
        _COUNTER,
        "results",
        "Transfers of results that have ended, by how: finished, failed, or abandoned by "
        "their caller.",
        lambda s: {"finished": s.finished, "failed": s.failed, "abandoned": s.abandoned},
        by_outcome=True,
    ),
    _Spec(
        _COUNTER,
        "result_bytes",
        "Bytes that storages sent, those included that had to be sent again.",
        lambda s: s.bytes_received,
    ),
    _Spec(
        _COUNTER,
        "results_resumed",
        "How often a transfer went on after something had failed.",
        lambda s: s.resumed,
    ),
    _Spec(
        _COUNTER,
        "result_urls_renewed",
        "How often the service was asked for a URL since the one at hand had expired.",
        lambda s: s.fresh_urls,
    ),
)
