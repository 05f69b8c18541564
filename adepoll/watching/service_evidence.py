"""What the requests of a watcher show about the service and the key. Imports errors.

Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from typing import Final

from attrs import define

from adepoll.errors import AdePollError, PermissionDeniedError


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
        refused_for: Seconds of the present run of refusals. An accepted key ends the run, and so
            does another failure that is followed by no refusal for `CONFIRMATION_STEP`.
    """

    answered: int = 0
    failed: int = 0
    silent_for: float = 0.0
    last_error: AdePollError | None = None
    key_works: bool = False
    refused_for: float = 0.0
    _failed_at: float = 0.0  # time of the last failure, if there is a `last_error`
    _refused_at: float | None = None  # time of the last refusal of the run; None without a run
    _refused_first: str = ""  # the first job that was refused in the run
    _refusals: int = 0  # in the run
    _others: int = 0  # polls that failed otherwise in the run
    _interrupted: bool = False  # one of these was after the last refusal

    def record_answer(self) -> None:
        """Record the answer to a poll."""
        self.answered += 1
        if not self.key_works or self.last_error is not None or self._refused_at is not None:
            self.record_accepted_key()

    def record_accepted_key(self) -> None:
        """Record an answer, also of the list, which shows that the service accepts the key."""
        self.key_works = True
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
        if forbidden:
            if job_id == self._refused_first:
                return False  # it can concern this job alone
        elif not self.key_works:
            return self._refusals >= _CONFIRMATIONS_OF_NEW_KEY
        return self.refused_for >= CONFIRMATION - _ROUNDING and self._refusals > self._others

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


CONFIRMATION: Final = 10.0
"""Seconds for which a key that has worked must be refused before adepoll believes it."""

CONFIRMATION_STEP: Final = CONFIRMATION / 4
"""Maximum number of these seconds that count between two refusals."""

_CONFIRMATIONS_OF_NEW_KEY: Final = 2  # refusals in a row: a single one can be a mistake
_CONFIRMATION_OF_NEW_KEY: Final = 0.5  # seconds
_ROUNDING: Final = 1e-6
