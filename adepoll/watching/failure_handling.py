"""What a failed poll means: poll again, or give the job up. Imports job_state and errors.

Times are seconds of one monotonic clock, passed in as `now`.
"""

import math

from attrs import frozen

from adepoll.errors import AdePollError, AnswerError, JobNotFoundError, RateLimitedError
from adepoll.watching.job_state import JobState, PollFailures


@frozen(kw_only=True)
class FailureRules:
    """When failed polls make the watcher give a job up.

    Attributes:
        not_found_grace: Seconds, from the first 404 on, for which a job may be unknown to the
            service: a job just submitted can take a moment to appear.
        patience: Seconds, from the first failure on, for which polls may fail for transient
            reasons. Time spent throttled (429) does not count.
        malformed_limit: Number of malformed answers in a row after which `malformed_patience`
            applies, if it is shorter than `patience`.
        malformed_patience: Seconds for which answers may be malformed. A malformed answer about
            one job rarely improves, but a gateway's error page does not last.
    """

    not_found_grace: float
    patience: float
    malformed_limit: int = 3
    malformed_patience: float = 60.0

    def record(self, state: JobState, error: AdePollError, now: float) -> float | None:
        """Record a failed poll of a job, and decide what follows.

        Returns:
            The seconds within which the job must be polled again, infinity if there is no bound;
            None if the job is to be given up.
        """
        if state.failures is None:
            state.failures = PollFailures(now)
        failures = state.failures
        failures.polls += 1
        time_left: float | None = math.inf
        if isinstance(error, RateLimitedError):
            _leave_out(failures, now - failures.last_at)
        elif isinstance(error, JobNotFoundError):
            time_left = self._grace_left(failures, now, known=state.status is not None)
        elif not error.transient or self._patience_is_over(failures, error, now):
            time_left = None
        failures.last_at = now
        return time_left

    def _grace_left(self, failures: PollFailures, now: float, *, known: bool) -> float | None:
        if failures.not_found_since is None:
            failures.not_found_since = now
        # A job that was found before is not new; an error of the service hides it.
        grace = max(self.not_found_grace, self.patience) if known else self.not_found_grace
        left = grace - (now - failures.not_found_since)
        return left if now + left > now else None  # `left > 0`, up to rounding

    def _patience_is_over(self, failures: PollFailures, error: AdePollError, now: float) -> bool:
        failures.malformed += isinstance(error, AnswerError)
        if failures.failing_since is None:
            failures.failing_since = now
        patience = self.patience
        if failures.malformed >= self.malformed_limit:
            patience = min(patience, self.malformed_patience)
        return now - failures.failing_since >= patience


def _leave_out(failures: PollFailures, seconds: float) -> None:
    """Leave the time up to a 429 out of account: it says nothing about the job."""
    if failures.not_found_since is not None:
        failures.not_found_since += seconds
    if failures.failing_since is not None:
        failures.failing_since += seconds
