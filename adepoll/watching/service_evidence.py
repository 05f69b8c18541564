"""What the failed and the successful polls of all jobs show about the service.

`HostEvidence` is about one host of the service: v1 and v2 jobs can be at different hosts, and one
of them can be down. `KeyEvidence` is about the key, which is the same at all hosts. Imports errors.
Times are seconds of one monotonic clock, passed in as `now`.
"""

import math
from typing import Final

from attrs import define

from adepoll.errors import AdePollError, PermissionDeniedError


@define(eq=False)
class HostEvidence:
    """What the polls of all jobs at one host show: whether the host answers.

    Attributes:
        answered: Number of polls that the host answered.
        failed: Number of polls that failed for a reason that can concern all jobs of the host.
            Polls of suspects are not counted.
        silent_for: Seconds between failed polls since the host answered the last time.
        last_error: Last failure that can concern all jobs of the host; None if the host has
            answered since.
    """

    answered: int = 0
    failed: int = 0
    silent_for: float = 0.0
    last_error: AdePollError | None = None
    _failed_at: float = 0.0  # time of `last_error`

    def record_response(self) -> None:
        """Record a response, which shows that the host is not down."""
        self.silent_for = 0.0
        self.last_error = None

    def record_failure(self, error: AdePollError, now: float, *, longest: float) -> None:
        """Record a failed poll, and the time since the previous one, up to `longest` seconds."""
        if self.last_error is not None:
            self.silent_for += min(now - self._failed_at, longest)
        self.failed += 1
        self._failed_at = now
        self.last_error = error

    def share_answered(self, answered: int, failed: int) -> float | None:
        """Return the share of polls that were answered, since the counts had the given values.

        None if there was no poll since then.
        """
        return _share(self.answered - answered, self.failed - failed)


@define(eq=False)
class KeyEvidence:
    """What the polls of all jobs show: whether the service accepts the key.

    A poll is refused if its error is 401, 403, a bad certificate, or a refusal by the proxy. A
    series of refusals ends when a request shows that the service accepts the key. It also ends if a
    poll fails for another reason, and no refusal follows within `CONFIRMATION_STEP` seconds of the
    last refusal.

    Attributes:
        key_works: True if an answer has shown that the service accepts the key.
        in_doubt: True at first, and after each refusal, until `record_accepted` is called.
        refused_for: Seconds between the refusals of the present series.
        accepted: Number of polls, at all hosts, with an answer that shows that the key is accepted.
        failed: Number of polls, at all hosts, that failed for a reason that can concern all jobs.
            Polls of suspects are not counted.
    """

    key_works: bool = False
    in_doubt: bool = True
    refused_for: float = 0.0
    accepted: int = 0
    failed: int = 0
    _refused_at: float | None = None  # time of the last refusal; None if there is no series
    _refused_first: str = ""  # id of the job whose refusal began the series
    _refusals: int = 0  # number of refusals in the series
    _others: int = 0  # number of polls that failed for other reasons during the series
    _interrupted: bool = False  # True if a poll failed for another reason after the last refusal

    def record_accepted(self) -> None:
        """Record that a poll or a list request was answered, and so the key was accepted."""
        self.key_works = True
        self.in_doubt = False
        self._end_series()

    def record_other_failure(self) -> None:
        """Record a failed poll that was not refused, which shows that not all polls are refused."""
        if self._refused_at is not None:
            self._others += 1
            self._interrupted = True

    def record_refusal(self, error: AdePollError, job_id: str, now: float) -> bool:
        """Record that the poll of a job was refused; return True if the key is bad for all jobs."""
        forbidden = isinstance(error, PermissionDeniedError)
        if forbidden and self.key_works:
            return False  # the key has worked, so the 403 concerns this job only
        if self._interrupted and now - (self._refused_at or 0.0) > CONFIRMATION_STEP:
            self._end_series()  # single refusals that are far apart do not confirm each other
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
                return False  # the 403 can concern this job only
        elif not self.key_works:
            return self._refusals >= _CONFIRMATIONS_OF_NEW_KEY
        has_lasted = self.refused_for >= CONFIRMATION - _ROUNDING_OF_SERIES
        return has_lasted and self._refusals > self._others

    def confirm_within(self, error: AdePollError, job_id: str) -> float:
        """Return the seconds within which a refused job must be polled again.

        The next poll shows whether the key is refused for all jobs. Return infinity if another job
        is polled for this purpose.
        """
        if self._refused_at is None or self._interrupted or job_id != self._refused_first:
            return math.inf
        if self.key_works or isinstance(error, PermissionDeniedError):
            return CONFIRMATION_STEP
        return _CONFIRMATION_OF_NEW_KEY

    def share_accepted(self, accepted: int, failed: int) -> float | None:
        """Return the share of polls whose key was accepted, since the counts had the given values.

        None if there was no poll since then.
        """
        return _share(self.accepted - accepted, self.failed - failed)

    def _end_series(self) -> None:
        self.refused_for = 0.0
        self._refused_at = None
        self._refusals = self._others = 0
        self._interrupted = False


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part or rest else None


CONFIRMATION: Final = 10.0
"""Seconds for which a key that has worked must be refused before it counts as bad."""

CONFIRMATION_STEP: Final = CONFIRMATION / 4
"""Maximum seconds between two refusals that count towards `CONFIRMATION`."""

# A new key counts as bad after this number of refusals. A single refusal can be a mistake.
_CONFIRMATIONS_OF_NEW_KEY: Final = 2
_CONFIRMATION_OF_NEW_KEY: Final = 0.5  # seconds until a job is polled again after a refusal
_ROUNDING_OF_SERIES: Final = 1e-6  # seconds
