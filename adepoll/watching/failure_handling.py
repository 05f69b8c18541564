"""What a failed poll means: poll again, give the job up, or end all watches and waits.

A job is given up after a time *and* a number of failed polls since its last successful poll. The
time is evidence, not elapsed time:

- The seconds between two failed polls count, but at most a tenth of the limit (a fifth of the
  grace). So time in which the process was stopped, or in which the request budget was short, counts
  little, and no job is given up after a few polls. While a job fails, it is polled again within
  that tenth, if the budget allows it.
- After a failure that can concern all jobs (connection, 5xx, 408, and 401 or 403 from a key that
  works), the seconds count in proportion to the share of polls of other jobs that the service
  answered since the job's previous failed poll. If 5 of 100 polls fail, nearly all seconds count.
  If all fail, the whole service is down, and none counts. If there was no other poll, as with a
  single job, none counts either: nothing tells a failing job from a failing service.
- A job whose seconds have reached three tenths of the limit (three fifths of the grace), so in four
  failed polls or more, is a suspect: the service answered polls of others meanwhile. Its later
  failures say nothing about the service, and its seconds count also without other polls. So the bad
  jobs that remain at the end do not look like an outage. Fewer polls can fail by accident just
  before an outage begins.
- A malformed answer, an undocumented status, a redirect, and the 404 of a job that was never found
  count in full: the service responds. A 403 counts like other failures, because it can concern the
  key of all jobs.
- The seconds before a 429 do not count.

`outage_patience` is the limit for everything else. It bounds the failed polls of one job, whatever
the share, and the time in which the service answered no request of the watcher. So a single job
with a dead service is given up after `outage_patience`; of n jobs, each later one after one more
failed poll.

Imports job_state and errors. Times are seconds of one monotonic clock, passed in
as `now`.
"""

import math
from enum import Enum
from typing import Final

from attrs import define, field, frozen

from adepoll.errors import (
    AdePollError,
    AnswerError,
    AuthenticationError,
    CertificateError,
    JobNotFoundError,
    JobTimeoutError,
    PermissionDeniedError,
    ProxyRefusedError,
    RateLimitedError,
    RedirectRefusedError,
)
from adepoll.watching.job_state import FailureKind, JobState, PollFailures


@define(eq=False)
class ServiceEvidence:
    """Whether the service answers, and whether it accepts the key.

    Attributes:
        answered: Number of polls that the service answered.
        failed: Number of polls that failed for a reason that can concern all jobs, without those
            of jobs that seem to be the reason themselves.
        silent_for: Seconds of failed polls since the last answer.
        last_error: Last of these failures; None if there was none since the last answer.
        key_works: True if an answer has shown that the service accepts the key.
        in_doubt: True from the start, and from each failure that can concern all jobs, until
            `record_accepted_key` is called. The next answer to a poll must call it.
        refused_for: Seconds of the present run of refusals. An accepted key ends the run, and so
            does another failure that is followed by no refusal for `CONFIRMATION_STEP`.
    """

    answered: int = 0
    failed: int = 0
    silent_for: float = 0.0
    last_error: AdePollError | None = None
    key_works: bool = False
    in_doubt: bool = True
    refused_for: float = 0.0
    _failed_at: float = 0.0  # time of the last failure, if there is a `last_error`
    _refused_at: float | None = None  # time of the last refusal of the run; None without a run
    _refused_first: str = ""  # the first job that was refused in the run
    _refusals: int = 0  # in the run
    _others: int = 0  # polls that failed otherwise in the run
    _interrupted: bool = False  # one of these was after the last refusal

    def record_accepted_key(self) -> None:
        """Record an answer, also of the list, which shows that the service accepts the key."""
        self.key_works = True
        self.in_doubt = False
        self.record_response()
        self._end_run()

    def record_response(self) -> None:
        """Record a response that says nothing about the key: the service is not down."""
        self.silent_for = 0.0
        self.last_error = None

    def record_failure(self, error: AdePollError, now: float, *, longest: float) -> None:
        """Record a failed poll; at most `longest` seconds since the previous one count."""
        if self.last_error is not None:
            self.silent_for += min(now - self._failed_at, longest)
        self.failed += 1
        self._failed_at = now
        self.last_error = error
        self.in_doubt = True

    def record_other_failure(self) -> None:
        """Record a failed poll that is no refusal: not all requests are refused at present."""
        if self._refused_at is not None:
            self._others += 1
            self._interrupted = True

    def record_refusal(self, error: AdePollError, job_id: str, now: float) -> bool:
        """Record that the key was refused for a job; return True if it is refused for all jobs."""
        forbidden = isinstance(error, PermissionDeniedError)
        if forbidden and self.key_works:
            return False  # a key that works is not refused for all: this concerns the job
        if self._interrupted and now - (self._refused_at or 0.0) > CONFIRMATION_STEP:
            self._end_run()  # refusals that are far apart are stray ones
        self._interrupted = False
        if self._refused_at is None:
            self._refused_first = job_id
        else:
            self.refused_for += min(now - self._refused_at, CONFIRMATION_STEP)
        self._refused_at = now
        self._refusals += 1
        self.in_doubt = True
        if forbidden:
            if job_id == self._refused_first:
                return False  # it can concern this job alone
        elif not self.key_works:
            return self._refusals >= _CONFIRMATIONS_OF_NEW_KEY
        return self.refused_for >= CONFIRMATION - _ROUNDING_OF_RUN and self._refusals > self._others

    def confirm_within(self, error: AdePollError, job_id: str) -> float:
        """Return the seconds within which the next poll of a refused job must follow.

        Infinity if the poll of another job is to show whether the key is refused for all jobs.
        """
        if self._refused_at is None or self._interrupted or job_id != self._refused_first:
            return math.inf
        if self.key_works or isinstance(error, PermissionDeniedError):
            return CONFIRMATION_STEP
        return _CONFIRMATION_OF_NEW_KEY

    def _end_run(self) -> None:
        self.refused_for = 0.0
        self._refused_at = None
        self._refusals = self._others = 0
        self._interrupted = False

    def share_answered(self, answered: int, failed: int) -> float | None:
        """Return the share of polls that were answered since the counts had these values.

        None if there was no poll.
        """
        answers, failures = self.answered - answered, self.failed - failed
        return answers / (answers + failures) if answers or failures else None


class Verdict(Enum):
    """What follows from a failed poll, if not another poll.

    `GIVE_UP`: the job is unresolved. `END_ALL`: the error concerns the client or the account.
    """

    GIVE_UP = 1
    END_ALL = 2


@frozen(kw_only=True)
class FailureRules:
    """When failed polls make the watcher give a job up, or end everything.

    Attributes:
        not_found_grace: Seconds for which a job that was never found may be unknown to the service
            (404) or forbidden (403): a new job can take a moment to appear.
        patience: Seconds for which polls of a job may fail while the service answers others.
        outage_patience: Seconds for which polls may fail for any reason; None for 12 times
            `patience`.
        malformed_patience: Seconds for which answers may be malformed, if that is shorter than
            `patience`. A malformed answer about one job rarely improves.
        service: What the requests of the watcher show.
    """

    not_found_grace: float
    patience: float
    outage_patience: float | None = None
    malformed_patience: float = 60.0
    service: ServiceEvidence = field(factory=ServiceEvidence)

    def record(self, state: JobState, error: AdePollError, now: float) -> float | Verdict:
        """Record a failed poll of a job, and decide what follows.

        Returns:
            The seconds within which the job must be polled again, infinity if there is no bound;
            or a `Verdict`.
        """
        if self._concerns_all(error, state.job_id, now):
            return Verdict.END_ALL
        if state.failures is None:
            state.failures = PollFailures(last_at=now, last_status=state.status)
        failures = state.failures
        failures.polls += 1
        failures.last_error = error
        gap, failures.last_at = now - failures.last_at, now
        if isinstance(error, RateLimitedError):
            self.service.record_response()
            return math.inf
        kind = _kind(error, failures.last_status)
        if kind is None:
            self.service.record_response()
            return Verdict.GIVE_UP
        within = self._count(failures, kind, gap, now)
        self._tell_service(failures, error, now)
        failures.answered, failures.failed = self.service.answered, self.service.failed
        if isinstance(within, float):
            return min(within, self.service.confirm_within(error, state.job_id))
        return within

    def timeout_error(self, job_id: str, state: JobState | None, timeout: float) -> JobTimeoutError:
        """Return the error for a job that has not settled in time; `state` is None if unknown."""
        polls, last_status, last_error = 0, None, self.service.last_error
        if state is not None and (state.polls or state.failures is not None):
            failures = state.failures or PollFailures(last_at=0.0)
            polls = state.polls + failures.polls
            last_status = state.status or failures.last_status
            last_error = failures.last_error
        return JobTimeoutError(
            job_id=job_id,
            timeout=timeout,
            last_status=last_status,
            last_error=last_error,
            polls=polls,
        )

    @property
    def _total_limit(self) -> float:
        if self.outage_patience is None:
            return _OUTAGE_FACTOR * self.patience
        return self.outage_patience

    def _concerns_all(self, error: AdePollError, job_id: str, now: float) -> bool:
        """Return True if an error ends everything: immediately, or once it is confirmed."""
        if isinstance(error, _REFUSALS):
            return self.service.record_refusal(error, job_id, now)
        self.service.record_other_failure()
        return error.fatal

    def _count(
        self, failures: PollFailures, kind: FailureKind, gap: float, now: float
    ) -> float | Verdict:
        """Count the seconds since the previous failed poll, as far as they are evidence."""
        weight = self._weight(failures, kind)
        limit, longest = self._limit(kind), self._longest(kind)
        failures.total += min(gap, self._total_limit / _MIN_POLLS)
        if failures.kind is kind:  # else the seconds before it are evidence of something else
            failures.seconds[kind] = failures.seconds.get(kind, 0.0) + weight * min(gap, longest)
        failures.kind = kind
        left = limit - failures.seconds.get(kind, 0.0)
        longest_total = max(limit, self._total_limit)
        # Such an answer shows that the service responds again.
        silent_for = 0.0 if kind in _RESPONSES else self.service.silent_for
        total_left = longest_total - max(failures.total, silent_for)
        if min(left, total_left) <= max(4 * math.ulp(now), _ROUNDING * limit):
            return Verdict.GIVE_UP
        # While most requests fail, polls may become rarer.
        return min(longest, left / weight) if weight >= _MOST else math.inf

    def _weight(self, failures: PollFailures, kind: FailureKind) -> float:
        """Return how much, 0 to 1, of the time since the previous failed poll is evidence."""
        if kind in _RESPONSES:
            return 1.0
        share = self.service.share_answered(failures.answered, failures.failed)
        if share is None:  # there was no other poll
            is_evidence = kind is not FailureKind.FAILED or self._is_suspect(failures, kind)
            return 1.0 if is_evidence else 0.0
        return share

    def _is_suspect(self, failures: PollFailures, kind: FailureKind) -> bool:
        """Return True if the job itself, not the service, seems to be why its polls fail."""
        return failures.seconds.get(kind, 0.0) >= _SUSPECT_AFTER * self._longest(kind)

    def _longest(self, kind: FailureKind) -> float:
        """Return how many of the seconds between two failed polls count at most."""
        polls = _MIN_POLLS_OF_NEW_JOB if kind in _OF_NEW_JOB else _MIN_POLLS
        return self._limit(kind) / polls

    def _limit(self, kind: FailureKind) -> float:
        if kind in _OF_NEW_JOB:
            return self.not_found_grace
        if kind is FailureKind.MALFORMED:
            return min(self.patience, self.malformed_patience)
        if kind is FailureKind.LOST:
            return max(self.patience, self.not_found_grace)
        return self.patience

    def _tell_service(self, failures: PollFailures, error: AdePollError, now: float) -> None:
        kind = failures.kind
        if kind is FailureKind.NOT_FOUND:
            self.service.answered += 1
            self.service.record_accepted_key()
        elif kind is FailureKind.MALFORMED:
            self.service.answered += 1
            self.service.record_response()
        elif kind is None or not self._is_suspect(failures, kind):
            longest = self._total_limit / _MIN_POLLS
            self.service.record_failure(error, now, longest=longest)


class FailureMemory:
    """Remembers the failures of jobs that nobody watches any more, for the next watch or wait.

    Without this, a caller that waits repeatedly with a short timeout would start `not_found_grace`
    and `patience` anew each time.

    Attributes:
        failures: The failures by job id, oldest first.
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.failures: dict[str, PollFailures] = {}

    def keep(self, job_id: str, failures: PollFailures) -> None:
        """Remember the failures of a job. The oldest job is forgotten if there are too many."""
        self.failures[job_id] = failures
        if len(self.failures) > _MOST_REMEMBERED:
            del self.failures[next(iter(self.failures))]

    def recall(self, job_id: str, now: float) -> PollFailures | None:
        """Return the failures of a job, and forget them; None if they are unknown or old."""
        failures = self.failures.pop(job_id, None)
        if failures is None or now - failures.last_at > _REMEMBERED_FOR:
            return None
        return failures


def _kind(error: AdePollError, last_status: str | None) -> FailureKind | None:
    """Return the kind of a failure; None if another poll would fail in the same way."""
    if isinstance(error, JobNotFoundError):
        # A job that was found before is not new; an error of the service hides it.
        return FailureKind.NOT_FOUND if last_status is None else FailureKind.LOST
    if isinstance(error, PermissionDeniedError):
        return FailureKind.FORBIDDEN if last_status is None else FailureKind.LOST
    if isinstance(error, _REFUSALS):
        return FailureKind.FAILED
    if isinstance(error, RedirectRefusedError):  # as of a firewall or a gateway, for a short time
        return FailureKind.MALFORMED
    if not error.transient:
        return None
    return FailureKind.MALFORMED if isinstance(error, AnswerError) else FailureKind.FAILED


CONFIRMATION: Final = 10.0
"""Seconds for which a key that has worked must be refused before adepoll believes it."""

CONFIRMATION_STEP: Final = CONFIRMATION / 4
"""Maximum number of these seconds that count between two refusals."""

_CONFIRMATIONS_OF_NEW_KEY: Final = 2  # refusals in a row: a single one can be a mistake
_CONFIRMATION_OF_NEW_KEY: Final = 0.5  # seconds
_ROUNDING_OF_RUN: Final = 1e-6  # seconds

_REFUSALS: Final = (
    AuthenticationError,
    CertificateError,
    PermissionDeniedError,
    ProxyRefusedError,
)
_OF_NEW_JOB: Final = frozenset({FailureKind.NOT_FOUND, FailureKind.FORBIDDEN})
_RESPONSES: Final = frozenset({FailureKind.NOT_FOUND, FailureKind.MALFORMED})
_MIN_POLLS: Final = 10  # failed polls after the first one, of which each counts a tenth at most
_MIN_POLLS_OF_NEW_JOB: Final = 5
_OUTAGE_FACTOR: Final = 12.0
_MOST: Final = 0.5
_SUSPECT_AFTER: Final = 3  # times the longest time between two failed polls that counts
_MOST_REMEMBERED: Final = 1_000  # jobs
_REMEMBERED_FOR: Final = 600.0
_ROUNDING: Final = 1e-9
