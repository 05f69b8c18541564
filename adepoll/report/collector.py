"""Collects the facts of a batch from a stream of records; needs 32 bytes of memory per job."""

import heapq
import math
from array import array
from collections.abc import Iterable
from itertools import chain
from typing import Final

from attrs import define, field

from adepoll.api.models import JobSnapshot, JobStatus
from adepoll.api.results import JobMetadata
from adepoll.common.redaction import showable
from adepoll.journal.outcomes import Record, Stage, credits_of
from adepoll.report.chart_numbers import bins, quantile, summarize
from adepoll.report.facts import Cost, Curve, OpenJob, OutcomeKind, ReportFacts, Sample, SlowJob
from adepoll.report.kind_counter import KindCounter, floats, summaries
from adepoll.report.message_groups import Groups, pattern_of

_SLOWEST: Final = 20
_OPEN_SHOWN: Final = 20
_REASONS: Final = 20
_CURVE_POINTS: Final = 360
_MOST_VERSIONS: Final = 50
_MOST_KINDS: Final = 20
_MAX_DURATION_MS: Final = 10**15  # a larger value is invalid, and may not fit into a float
# Minimum seconds from the first to the last point of the curve, because its axis has labels in
# whole seconds.
_MIN_SPAN: Final = 8.0

_BY_STATUS: Final = {
    JobStatus.COMPLETED: OutcomeKind.COMPLETED,
    JobStatus.FAILED: OutcomeKind.FAILED,
    JobStatus.CANCELLED: OutcomeKind.CANCELLED,
}


@define(kw_only=True)
class Collector:
    """Counts records one by one; `facts` returns the totals."""

    _jobs: int = field(default=0, init=False)
    _outcomes: dict[OutcomeKind, int] = field(factory=dict, init=False)
    _unacknowledged: int = field(default=0, init=False)
    _first_added: float = field(default=math.inf, init=False)
    _settled_at: "array[float]" = field(factory=floats, init=False)
    _measured: int = field(default=0, init=False)
    _lags: "array[float]" = field(factory=floats, init=False)
    _lag_unknown: int = field(default=0, init=False)
    _settled_before_added: int = field(default=0, init=False)
    _failures: Groups = field(factory=Groups, init=False)
    _errors: Groups = field(factory=Groups, init=False)
    _retryable: int = field(default=0, init=False)
    _violations: Groups = field(factory=Groups, init=False)
    _incomplete: int = field(default=0, init=False)
    _warnings: Groups = field(factory=Groups, init=False)
    _warned: int = field(default=0, init=False)
    _kinds: dict[str, KindCounter] = field(factory=dict, init=False)
    _costs: dict[str, list[float]] = field(factory=dict, init=False)
    # A heap of (rank, job). Each rank (duration, minus record number, count) is unique, so that
    # jobs themselves are never compared.
    _slowest: list[tuple[tuple[float, int, int], SlowJob]] = field(factory=list, init=False)
    _open_states: Groups = field(factory=Groups, init=False)
    _open_jobs: list[OpenJob] = field(factory=list, init=False)
    _sizes: "array[float]" = field(factory=floats, init=False)
    _bytes: int = field(default=0, init=False)
    _without_file: int = field(default=0, init=False)

    def add(self, record: Record) -> None:
        """Count one record."""
        self._jobs += 1
        outcome = outcome_kind_of(record)
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        kind = self._kind_of(record)
        kind.add(record, outcome)
        self._first_added = min(self._first_added, record.added_at)
        if record.snapshot is not None:
            self._add_snapshot(record, record.snapshot, outcome, kind)
        if outcome.is_open:
            self._add_open(record, outcome)
            return
        self._unacknowledged += record.delivered_at is None
        if record.error is not None:
            self._errors.add(
                f"{showable(record.error.error_class, 60)}: {_pattern(str(record.error), record)}",
                example=f"{record.error.error_class}: {record.error}",
                job_id=record.job_id,
            )
            self._retryable += not record.lasting
        elif record.file is not None:
            self._sizes.append(float(record.file.bytes))
            self._bytes += record.file.bytes
        else:
            self._without_file += outcome is OutcomeKind.COMPLETED

    def _kind_of(self, record: Record) -> KindCounter:
        """Return the counter of a job's kind. All kinds after the first 20 share one counter."""
        name = showable(record.kind.name, 40)
        if name not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            name = "other kinds"
        return self._kinds.setdefault(name, KindCounter())

    def _add_open(self, record: Record, outcome: OutcomeKind) -> None:
        """Count a job that is still open, in the group of its `OpenJob.state`."""
        if outcome is OutcomeKind.FETCHING:
            state = "completed, fetching result"
        elif record.status_text is None:
            state = "not polled yet"
        else:
            state = showable(record.status_text, 60)
        self._open_states.add(state, example=state, job_id=record.job_id)
        if len(self._open_jobs) < _OPEN_SHOWN:
            self._open_jobs.append(
                OpenJob(
                    job_id=showable(record.job_id, 80),
                    label=showable(record.label or "", 80),
                    state=state,
                    added_at=record.added_at,
                )
            )

    def _add_snapshot(
        self, record: Record, snapshot: JobSnapshot, outcome: OutcomeKind, kind: KindCounter
    ) -> None:
        """Add what a snapshot says: times, reason of a failure, schema violation, metadata."""
        metadata = snapshot.facts
        if record.settled_at is not None:
            self._settled_at.append(record.settled_at)
            seconds = self._add_times(record, record.settled_at, snapshot, metadata, outcome)
            kind.durations.append(seconds)
        if outcome is OutcomeKind.FAILED:
            _add_reason(self._failures, snapshot.failure_reason, record)
        if snapshot.conforms is False or (snapshot.partial and snapshot.schema_violation):
            _add_reason(self._violations, snapshot.schema_violation, record)
        self._incomplete += snapshot.partial and (
            snapshot.incomplete or bool(snapshot.failed_pages)
        )
        if metadata is not None:
            self._add_metadata(record, snapshot, metadata)

    def _add_times(
        self,
        record: Record,
        settled_at: float,
        snapshot: JobSnapshot,
        metadata: JobMetadata | None,
        outcome: OutcomeKind,
    ) -> float:
        """Add duration and detection lag of a settled job; return its duration in seconds."""
        reported = _reported_seconds(snapshot, metadata)
        ended = _end_of(snapshot, reported)
        if ended is None:
            self._lag_unknown += 1
        else:
            self._settled_before_added += ended < record.added_at
            self._lags.append(max(0.0, settled_at - max(ended, record.added_at)))
        measured = reported is not None
        self._measured += measured
        if reported is None:
            submitted = snapshot.submitted_at
            since = record.added_at if submitted is None else submitted.timestamp()
            seconds = max(0.0, settled_at - since)
        else:
            seconds = reported
        rank = (seconds, -record.number, self._jobs)
        if len(self._slowest) == _SLOWEST and rank < self._slowest[0][0]:
            return seconds
        job = SlowJob(
            job_id=showable(record.job_id, 80),
            document=showable(record.label or _filename(metadata), 80),
            outcome=outcome,
            version=showable(_version(snapshot, metadata), 60),
            seconds=seconds,
            measured=measured,
            settled_at=settled_at,
        )
        heapq.heappush(self._slowest, (rank, job))
        if len(self._slowest) > _SLOWEST:
            heapq.heappop(self._slowest)
        return seconds

    def _add_metadata(self, record: Record, snapshot: JobSnapshot, metadata: JobMetadata) -> None:
        """Count the warnings of a job, and add its credits to the cost of its model version."""
        self._warned += bool(metadata.warnings)
        for warning in metadata.warnings:
            code = showable(warning.code, 80) if warning.code else "no code"
            self._warnings.add(code, example=warning.msg or "", job_id=record.job_id)
        version = showable(_version(snapshot, metadata), 60) or "unknown"
        cost = self._costs.get(version)
        if cost is None:
            # All further versions are counted together. Otherwise, memory would grow if the
            # service reported a new version for every job.
            version = version if len(self._costs) < _MOST_VERSIONS else ""
            cost = self._costs.setdefault(version, [0, 0.0, 0])
        cost[0] += 1
        cost[1] += credits_of(snapshot) or 0.0
        cost[2] += metadata.fallback_model_version is not None

    def facts(self) -> ReportFacts:
        """Return the facts of all records so far."""
        settled = sorted(self._settled_at)
        sizes = sorted(self._sizes)
        return ReportFacts(
            jobs=self._jobs,
            outcomes={
                outcome: self._outcomes[outcome]
                for outcome in OutcomeKind
                if outcome in self._outcomes
            },
            settled=len(settled),
            unacknowledged=self._unacknowledged,
            first_added=self._first_added if self._jobs else None,
            first_settled=settled[0] if settled else None,
            last_settled=settled[-1] if settled else None,
            durations=_sample(chain(*(kind.durations for kind in self._kinds.values()))),
            measured=self._measured,
            detection_lag=_sample(self._lags),
            lag_unknown=self._lag_unknown,
            settled_before_added=self._settled_before_added,
            curve=_curve(settled, self._first_added),
            failures=self._failures.largest(_REASONS),
            errors=self._errors.largest(_REASONS),
            retryable=self._retryable,
            violations=self._violations.largest(_REASONS),
            incomplete=self._incomplete,
            warnings=self._warnings.largest(_REASONS),
            warned=self._warned,
            kinds=summaries(self._kinds),
            costs=self._ranked_costs(),
            slowest=tuple(job for _, job in sorted(self._slowest, reverse=True)),
            open_states=self._open_states.largest(_REASONS),
            open_jobs=tuple(self._open_jobs),
            files=len(sizes),
            bytes=self._bytes,
            without_file=self._without_file,
            sizes=summarize(sizes),
        )

    def _ranked_costs(self) -> tuple[Cost, ...]:
        """Return the cost of each model version, the highest cost first.

        If there are more than 50 versions, the last item is the cost of all others.
        """
        costs = [
            Cost(version=version, jobs=int(jobs), credits=credit, fallbacks=int(fallbacks))
            for version, (jobs, credit, fallbacks) in self._costs.items()
        ]
        return tuple(sorted(costs, key=lambda cost: (not cost.version, -cost.credits)))


def collect(records: Iterable[Record]) -> ReportFacts:
    """Return the facts of all records of a batch; read each record once."""
    collector = Collector()
    for record in records:
        collector.add(record)
    return collector.facts()


def outcome_kind_of(record: Record) -> OutcomeKind:
    """Return the outcome of a job, or the stage of an open job."""
    if record.stage is Stage.WAITING:
        return OutcomeKind.WAITING
    if record.stage is Stage.FETCHING:
        return OutcomeKind.FETCHING
    if record.snapshot is None:
        return OutcomeKind.UNRESOLVED
    if record.stage is Stage.GIVEN_UP:
        return OutcomeKind.NOT_FETCHED
    return _BY_STATUS.get(record.snapshot.status, OutcomeKind.OTHER)


def _reported_seconds(snapshot: JobSnapshot, metadata: JobMetadata | None) -> float | None:
    """Return the duration of a job in seconds, as the service states it; None if it does not.

    This is `duration_ms` or, without it, the time from the submission to the completion.
    """
    milliseconds = None if metadata is None else metadata.duration_ms
    if milliseconds is not None and 0 <= milliseconds < _MAX_DURATION_MS:
        return milliseconds / 1000
    if snapshot.submitted_at is None or snapshot.completed_at is None:
        return None
    seconds = (snapshot.completed_at - snapshot.submitted_at).total_seconds()
    return seconds if seconds >= 0 else None


def _end_of(snapshot: JobSnapshot, seconds: float | None) -> float | None:
    """Return the Unix time at which a job ended, or the earliest time at which it can have ended.

    Args:
        snapshot: The settled job.
        seconds: Duration of the job as the service states it; None if unknown.

    Returns:
        None if the service does not state the necessary times.
    """
    submitted, completed = snapshot.submitted_at, snapshot.completed_at
    if completed is not None and (submitted is None or submitted <= completed):
        return completed.timestamp()
    if submitted is None or seconds is None:
        return None
    # The job can have ended later: it may have waited in the queue of the service before it was
    # processed, and the time of receipt is in whole seconds.
    return submitted.timestamp() + seconds


def _filename(metadata: JobMetadata | None) -> str:
    return (metadata.filename or "") if metadata is not None else ""


def _version(snapshot: JobSnapshot, metadata: JobMetadata | None) -> str:
    requested = snapshot.version or (metadata.version if metadata is not None else None)
    fallback = metadata.fallback_model_version if metadata is not None else None
    return fallback or requested or ""


def _pattern(text: str, record: Record) -> str:
    """Return a message about a job, with placeholders for its id, file name and numbers."""
    names = {showable(record.job_id, 80): "<job>"}
    snapshot = record.snapshot
    if snapshot is not None and (filename := _filename(snapshot.facts)):
        names[showable(filename, 80)] = "<file>"
    return pattern_of(text, names)


def _add_reason(groups: Groups, reason: str | None, record: Record) -> None:
    """Count the reason that a snapshot gives for a failure or for a schema violation."""
    pattern = _pattern(reason, record) if reason else "no reason given"
    groups.add(pattern, example=reason or "", job_id=record.job_id)


def _sample(values: Iterable[float]) -> Sample | None:
    ordered = sorted(values)
    summary, counted = summarize(ordered), bins(ordered)
    return None if summary is None or counted is None else Sample(summary=summary, bins=counted)


def _curve(settled: list[float], added: float) -> Curve | None:
    """Return the number of settled jobs over time; None if no job has settled.

    Args:
        settled: Unix times at which the jobs settled, in rising order.
        added: Unix time at which the first job was added.
    """
    if not settled:
        return None
    first, last = settled[0], settled[-1]
    # The curve starts when the first job was added. If that was long before the first job settled,
    # the curve starts when the first job settled.
    start = added if first - max(0.25 * (last - first), 60) <= added <= first else first
    # The curve leaves out the last 1% of the jobs if they settled much later, because they would
    # compress the rest of the curve.
    late = quantile(settled, 0.99)
    stop = last if last - start <= 2 * (late - start) else start + 1.05 * (late - start)
    if stop - start < _MIN_SPAN:
        start, stop = (start + stop - _MIN_SPAN) / 2, (start + stop + _MIN_SPAN) / 2
    counts, index = [], 0
    for point in range(_CURVE_POINTS + 1):
        until = stop if point == _CURVE_POINTS else start + (stop - start) * point / _CURVE_POINTS
        while index < len(settled) and settled[index] <= until:
            index += 1
        counts.append(index)
    return Curve(
        start=start, stop=stop, counts=tuple(counts), later=len(settled) - index, last=last
    )
