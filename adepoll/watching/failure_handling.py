"""Decides after a failed poll: poll the job again, give the job up, or end all watches and waits.

A 429 never counts against a job: it is polled again by its schedule (`throttling.rate_limiter`
makes all requests slower).

All watches and waits end after a 402, because it concerns the account. They also end after a 401, a
403, a bad certificate or a refusal by the proxy, if `KeyEvidence.record_refusal` decides that the
key is bad for all jobs.

Any other error concerns one job. The job is given up if a number of its polls have failed *and* a
number of seconds have counted since its last successful poll. Seconds count only if they are
evidence against the job, and not against the service. Four terms are used below:

- A job *was found before* if a poll or the list has shown it.
- The *limit* is the number of counted seconds after which the job is given up.
- Seconds *count in part* if other jobs have failed polls, too: they are multiplied by the share of
  successful polls of other jobs in the same time. For example, if 5 of 100 such polls failed, 10 s
  count as 9.5 s. If the host is down, they count as 0 s. (A poll also counts as successful if its
  failure shows that the host works.)
- A job is *probably bad* if it, and not the service, is probably the cause of its failed polls. A
  job becomes probably bad when its counted seconds reach three tenths of the limit (or three
  fifths, if the limit is `not_found_grace`).

The failure decides which limit applies, and which seconds count:

- 404, and the job was not found before: limit `not_found_grace`. All seconds count, because the
  service responds.
- 403, and the job was not found before: limit `not_found_grace`. Seconds count in part, by the
  polls at all hosts. All seconds count if no other job was polled.
- 404 or 403, and the job was found before: the limit is the larger of `patience` and
  `not_found_grace`. Seconds count in part: for a 404, by the polls at the same host; for a 403, by
  the polls at all hosts. All seconds count if no other job was polled.
- Malformed answer, undocumented status or redirect: the limit is the smaller of
  `malformed_patience` and `patience`. All seconds count, because the service responds.
- No connection, 5xx or 408: limit `patience`. Seconds count in part, by the polls at the same host.
  If no other job was polled, for example because only one job is watched, no seconds count: adepoll
  cannot tell a failing job from a failing service. Exception: if the job is probably bad, all
  seconds count in this case.
- 401, bad certificate or refusal by the proxy, if it does not end all watches: limit `patience`.
  Seconds count as after a 5xx, but by the polls at all hosts.
- Any other error, such as a 422: the job is given up immediately.

If two consecutive polls fail in different ways, the seconds between them do not count. The seconds
before a 429 do not count either.

Of the seconds between two failed polls, at most a tenth of the limit counts, so at least ten more
polls must fail after the first one. (If the limit is `not_found_grace`, at most a fifth counts, and
five more polls must fail.) So little time counts while the process is stopped, or while the request
budget is short.

The next poll of the job comes within this tenth (or fifth) of the limit, if the request budget
allows it and at least a fifth of the polls of other jobs succeed. After a 5xx, a 408, a failed
connection, a 401, a bad certificate or a refusal by the proxy, the next poll comes within 15 s,
unless the job is probably bad.

After a job has become probably bad, its failed polls do not count as failures of the service. Why:
if only bad jobs are left at the end of a batch, their failures must not look like an outage. Why
not sooner: some polls of good jobs fail just before an outage begins, and these jobs must not
become probably bad.

There is also a limit for all seconds, whether they count or not. It is `outage_patience`, or the
limit above if that is longer. A job is given up at its next failed poll if its polls have failed
for this time. It is also given up if its host has been down for this time while the job was
watched: at its next failed poll, unless this poll got a response that shows that the host works
now, such as a 403, or without a poll when it becomes due. (During an outage only single polls are
sent, so a thousand jobs would otherwise be given up over hours.) But perhaps only polls of bad jobs
have failed, because all other jobs have long pauses. So the time of the host concerns a job only if
three of its own polls have failed, or the first polls of three jobs since the last response. Of the
seconds between two failed polls, at most a tenth of this limit is added to these times, so the next
poll comes within this tenth. For the host, the limit and this tenth are at least 20 s, and failed
list requests count, too.

Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from enum import Enum
from typing import Final

from attrs import field, frozen

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
    RequestError,
    ServiceDownError,
)
from adepoll.watching.job_state import FailureKind, JobState, PollFailures
from adepoll.watching.service_evidence import HostEvidence, KeyEvidence


class FailureAction(Enum):
    """What the watcher does after a failed poll if it does not poll the job again.

    `GIVE_UP`: it gives the job up, so that the job is unresolved. `END_ALL`: it ends all watches
    and waits, because the error concerns the client or the account.
    """

    GIVE_UP = 1
    END_ALL = 2


@frozen(kw_only=True)
class FailureRules:
    """Decides when failed polls make the watcher give a job up, or end all watches and waits.

    Attributes:
        not_found_grace: Seconds for which the service may answer 404 or 403 for a job that it has
            never shown: a new job can take a moment to appear.
        patience: Seconds for which polls of a job may fail while polls of other jobs succeed.
        outage_patience: Seconds after which a job is given up, whatever the reason, if its polls
            have failed or its host was down in all of this time. None for 12 times `patience`; a
            value below `patience` counts as `patience`. See the end of the module's docstring.
        malformed_patience: Seconds for which the answers about a job may be malformed; never more
            than `patience`. After a malformed answer about a job, a better one rarely follows.
        host: What polls have shown about the host of the jobs.
        key: What polls have shown about the key.
    """

    not_found_grace: float
    patience: float
    outage_patience: float | None = None
    malformed_patience: float = 60.0
    host: HostEvidence = field(factory=HostEvidence)
    key: KeyEvidence = field(factory=KeyEvidence)

    def record_success(self) -> None:
        """Record a successful poll."""
        self.host.worked += 1
        self.key.accepted += 1
        if self.key.in_doubt or self.host.last_error is not None:
            self.record_accepted_key()

    def record_accepted_key(self) -> None:
        """Record an answer, to a poll or a list request, which shows that the key is accepted."""
        self.host.record_response()
        self.key.record_accepted()

    def record_failed_page(self, error: RequestError, now: float) -> None:
        """Record a failed request for a page of the list: it can show that the host is silent."""
        if error.transient and not isinstance(error, AnswerError | RedirectRefusedError):
            self.host.record_silence(error, now, longest=self._longest_silence)

    def record(self, state: JobState, error: AdePollError, now: float) -> float | FailureAction:
        """Record a failed poll of a job, and decide whether to poll the job again.

        Returns:
            Seconds within which the job must be polled again; infinity if the schedule alone
            decides. A `FailureAction` if the job is not polled again.
        """
        if self._concerns_all(error, state.job_id, now):
            return FailureAction.END_ALL
        if state.failures is None:
            state.failures = PollFailures(last_at=now, last_status=state.status)
        failures = state.failures
        failures.polls += 1
        failures.last_error = error
        gap, failures.last_at = now - failures.last_at, now
        if isinstance(error, RateLimitedError):
            self.host.record_response()
            return math.inf
        failures.was_listed = failures.was_listed or state.last_listed_at > -math.inf
        was_found = failures.last_status is not None or failures.was_listed
        kind = _kind(error, was_found=was_found)
        if kind is None:
            self.host.record_response()
            return FailureAction.GIVE_UP
        within = self._count(state, failures, kind, gap=gap, now=now)
        self._record_evidence(failures, error, now)
        failures.worked, failures.failed = self.host.worked, self.host.failed
        failures.accepted, failures.failed_anywhere = self.key.accepted, self.key.failed
        if isinstance(within, float):
            return min(within, self.key.confirm_within(error, state.job_id))
        return within

    def first_check(self, failures: PollFailures, retry_at: float, now: float) -> float:
        """Choose and return the time of the first check whether the host works again.

        If the host works, the job is polled immediately. Without such checks, it would be polled at
        `retry_at`, perhaps a minute after the end of an outage. `postponed_to` makes each check.

        Args:
            failures: The failed polls of the job.
            retry_at: Time of the next poll by the schedule.
            now: The present time.
        """
        failures.retry_at = retry_at
        failures.check_at = min(retry_at, now + _SOON)
        return failures.check_at

    def postponed_to(self, failures: PollFailures, now: float) -> float:
        """Return `now` to poll a job now, or the time of the next check whether the host works.

        The job is polled now if the schedule says so (`PollFailures.retry_at`), or if the host
        works: a poll of another job has shown this since the last failed poll of this job, and no
        later poll has failed for a reason that can concern all jobs.
        """
        works = self.host.worked > failures.worked and self.host.last_error is None
        if works or now >= failures.retry_at:
            return now
        failures.check_at = min(failures.retry_at, now + _SOON)
        return failures.check_at

    def outage_error(self, state: JobState) -> AdePollError | None:
        """Return the error with which a due job is given up without a poll, or None to poll it.

        It is given up if its host has been down for `outage_patience` while the job was watched.
        The error is that of its own last poll, if the outage is the cause of that error.
        """
        host, failures = self.host, state.failures
        if not self.gives_up_all or not self._is_evidence_of_silence(failures):
            return None
        kind = FailureKind.FAILED if failures is None else failures.kind
        limit = max(self._silence_limit, 0.0 if kind is None else self._limit(kind))
        if host.silent_since(state.added_at) < (1 - _ROUNDING) * limit:
            return None
        if failures is not None and kind is FailureKind.FAILED:
            own = failures.last_error
            if own is not None and not isinstance(own, RateLimitedError):
                return own
        cause = host.last_error if isinstance(host.last_error, RequestError) else None
        return ServiceDownError(failures=host.silent_polls, cause=cause)

    def timeout_error(self, job_id: str, state: JobState | None, timeout: float) -> JobTimeoutError:
        """Return the error for a job that has not settled in time.

        `state` is None if the job is not watched.
        """
        polls, last_status, last_error = 0, None, self.host.last_error
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
    def gives_up_all(self) -> bool:
        """True if the host has been down for as long as `outage_patience` allows.

        Then every job that was watched for all of this time is given up.
        """
        host, limit = self.host, (1 - _ROUNDING) * self._silence_limit
        return host.silent_polls > 0 and host.silent_for >= limit

    def _is_evidence_of_silence(self, failures: PollFailures | None) -> bool:
        """Return True if the silence of the host is evidence against a job with these failures.

        It is not if perhaps only polls of bad jobs have failed, because no others were polled.
        """
        own_polls = 0 if failures is None else failures.polls
        return max(own_polls, self.host.silent_jobs) >= _MIN_SILENT

    @property
    def _silence_limit(self) -> float:
        """Seconds for which a host must be down before all jobs are given up."""
        return max(self._total_limit, _PROBES_APART)

    @property
    def _longest_silence(self) -> float:
        """Largest part of the time between two failures that counts as silence of the host."""
        return max(self._total_limit / _MIN_POLLS, _PROBES_APART)

    @property
    def _total_limit(self) -> float:
        """`outage_patience`, but at least `patience`; if it is None, 12 times `patience`."""
        if self.outage_patience is None:
            return _OUTAGE_FACTOR * self.patience
        return max(self.outage_patience, self.patience)

    def _concerns_all(self, error: AdePollError, job_id: str, now: float) -> bool:
        """Return True if the error ends all watches and waits; record a refusal of the key."""
        if isinstance(error, _REFUSALS):
            return self.key.record_refusal(error, job_id, now, host=self.host)
        self.key.record_other_failure()
        return error.fatal

    def _count(
        self, state: JobState, failures: PollFailures, kind: FailureKind, *, gap: float, now: float
    ) -> float | FailureAction:
        """Count the seconds since the previous failed poll; return the result of `record`.

        `gap` is the number of these seconds; in most cases, only a part of them counts.
        """
        weight = self._weight(failures, kind)
        limit, longest = self._limit(kind), self._most_between_polls(kind)
        failures.total += min(gap, self._total_limit / _MIN_POLLS)
        if failures.kind is kind:  # the time since a failure of another kind is no evidence
            failures.seconds[kind] = failures.seconds.get(kind, 0.0) + weight * min(gap, longest)
        failures.kind = kind
        left = limit - failures.seconds.get(kind, 0.0)
        longest_total = max(limit, self._total_limit)
        # A response to this poll, such as a 403, shows that the host is not silent.
        is_silent = kind is FailureKind.FAILED and not isinstance(
            failures.last_error, AuthenticationError
        )
        total = failures.total
        if is_silent and self.gives_up_all and self._is_evidence_of_silence(failures):
            # Silence from before the job was watched can belong to an outage that is over.
            total = max(total, min(self.host.silent_for, now - state.added_at))
        total_left = longest_total - total
        if min(left, total_left) <= max(4 * math.ulp(now), _ROUNDING * limit):
            return FailureAction.GIVE_UP
        if weight < _FEW:
            # The schedule makes polls rarer, up to this bound.
            return self._total_limit / _MIN_POLLS
        within = min(longest, left / weight)
        if kind is FailureKind.FAILED and not self._is_probably_bad(failures, kind):
            # The next poll will probably show whether the host works. Until then, nothing new is
            # known of the job.
            within = min(within, _SOON)
        return within

    def _weight(self, failures: PollFailures, kind: FailureKind) -> float:
        """Return which share of the time since the previous failed poll counts, 0 to 1."""
        if kind in _RESPONSES:
            return 1.0
        if isinstance(failures.last_error, _REFUSALS):
            share = self.key.share_accepted(failures.accepted, failures.failed_anywhere)
        else:
            share = self.host.share_worked(failures.worked, failures.failed)
        if share is None:  # no other job was polled
            is_evidence = kind is not FailureKind.FAILED or self._is_probably_bad(failures, kind)
            return 1.0 if is_evidence else 0.0
        return share

    def _is_probably_bad(self, failures: PollFailures, kind: FailureKind) -> bool:
        """Return True if the job, not the service, is probably the cause of its failed polls."""
        return failures.seconds.get(kind, 0.0) >= _PROBABLY_BAD_AFTER * self._most_between_polls(
            kind
        )

    def _most_between_polls(self, kind: FailureKind) -> float:
        """Return the largest number of seconds between two failed polls that counts against a job.

        It is a tenth of `_limit`; a fifth after a 404 or 403 of a job that was never found. So at
        least ten (or five) more polls must fail after the first one before the job is given up.
        """
        polls = _MIN_POLLS_OF_NEW_JOB if kind in _OF_NEW_JOB else _MIN_POLLS
        return self._limit(kind) / polls

    def _limit(self, kind: FailureKind) -> float:
        """Return how many seconds must count against a job before it is given up."""
        if kind in _OF_NEW_JOB:
            return self.not_found_grace
        if kind is FailureKind.MALFORMED:
            return min(self.patience, self.malformed_patience)
        if kind is FailureKind.LOST:
            return max(self.patience, self.not_found_grace)
        return self.patience

    def _record_evidence(self, failures: PollFailures, error: AdePollError, now: float) -> None:
        """Record what the failed poll of a job shows about the host and the key."""
        kind = failures.kind
        if kind is FailureKind.NOT_FOUND:
            self.host.worked += 1
            self.key.accepted += 1
            self.record_accepted_key()
        elif kind is FailureKind.MALFORMED:
            self.host.worked += 1
            self.host.record_response()
        elif kind is None or not self._is_probably_bad(failures, kind):
            self.host.record_failure(error, now, longest=self._longest_silence)
            self.host.silent_jobs += failures.polls == 1
            self.key.failed += 1


def _kind(error: AdePollError, *, was_found: bool) -> FailureKind | None:
    """Return the kind of a failure; None if repeating the poll cannot help.

    Args:
        error: The error of the poll.
        was_found: True if a poll or the list has shown the job.
    """
    if isinstance(error, JobNotFoundError):
        # The job was found earlier, so it exists. The 404 is probably an error of the service.
        return FailureKind.LOST if was_found else FailureKind.NOT_FOUND
    if isinstance(error, PermissionDeniedError):
        return FailureKind.LOST if was_found else FailureKind.FORBIDDEN
    if isinstance(error, _REFUSALS):
        return FailureKind.FAILED
    if isinstance(error, RedirectRefusedError):
        return FailureKind.MALFORMED  # a firewall or a gateway can redirect for a short time
    if not error.transient:
        return None
    return FailureKind.MALFORMED if isinstance(error, AnswerError) else FailureKind.FAILED


_REFUSALS: Final = (
    AuthenticationError,
    CertificateError,
    PermissionDeniedError,
    ProxyRefusedError,
)
_OF_NEW_JOB: Final = frozenset({FailureKind.NOT_FOUND, FailureKind.FORBIDDEN})
_RESPONSES: Final = frozenset({FailureKind.NOT_FOUND, FailureKind.MALFORMED})
# A job is given up after at least this number of failed polls that follow the first one.
_MIN_POLLS: Final = 10
_MIN_POLLS_OF_NEW_JOB: Final = 5
# At least this number of the seconds between two failures counts as silence of the host. In an
# outage, a request is sent about every 10 s.
_PROBES_APART: Final = 20.0
# The host can be silent if a first poll of this number of jobs has failed, or this number of polls
# of one job.
_MIN_SILENT: Final = 3
_OUTAGE_FACTOR: Final = 12.0  # default of `outage_patience`, as a multiple of `patience`
# If this share of the polls of other jobs succeed, a job whose poll has failed is polled soon.
_FEW: Final = 0.2
# Seconds within which such a job is polled. With fewer seconds, a few bad jobs would have so large
# a share of all polls that they would look like an outage.
_SOON: Final = 15.0
# A job becomes probably bad when its counted seconds reach this multiple of the seconds that count
# at most between two polls (`_most_between_polls`).
_PROBABLY_BAD_AFTER: Final = 3
_ROUNDING: Final = 1e-9  # the part of a limit that sums of seconds can miss because of rounding
