"""What the failed and the successful polls of all jobs show about the service.

`HostEvidence` is about one host of the service: v1 and v2 jobs can be at different hosts, and one
of them can be down. `KeyEvidence` is about the key, which is the same at all hosts. Times are
seconds of one monotonic clock, passed in as `now`.
"""

import math
from collections.abc import Sized
from typing import Final

from attrs import define, field

from adepoll.errors import AdePollError, PermissionDeniedError


@define(eq=False)
class HostEvidence:
    """What the polls of all jobs at one host show: whether the host works.

    Attributes:
        worked: Number of polls that showed a working host: successful polls, malformed answers, and
            404s of jobs that were never found.
        failed: Number of polls that failed for a reason that can concern all jobs of the host.
            Polls of jobs that are probably bad (see `failure_handling`) are not counted.
        silent_for: Seconds for which the host has not responded: the sum of the times between
            failed polls and list requests. Of a long time between two of them, only a part counts.
        silent_polls: Number of failed polls since the last response.
        silent_jobs: Number of jobs whose polls have begun to fail since the last response: the poll
            before the first failed poll, if any, was successful.
        last_error: Last failure that can concern all jobs of the host; None if a later response has
            shown that the host works.
        jobs: The open jobs at the host: one collection for each kind.
    """

    worked: int = 0
    failed: int = 0
    silent_for: float = 0.0
    silent_polls: int = 0
    silent_jobs: int = 0
    last_error: AdePollError | None = None
    jobs: list[Sized] = field(factory=list)
    _failed_at: float = 0.0  # time of `last_error`

    def record_response(self) -> None:
        """Record a response, which shows that the host is not down."""
        self.silent_for = 0.0
        self.silent_polls = self.silent_jobs = 0
        self.last_error = None

    def record_failure(self, error: AdePollError, now: float, *, longest: float) -> None:
        """Record a poll that failed for a reason that can concern all jobs of the host.

        The host counts as silent since the previous failure, but for at most `longest` seconds.
        """
        self.record_silence(error, now, longest=longest)
        self.failed += 1
        self.silent_polls += 1

    def record_silence(self, error: AdePollError, now: float, *, longest: float) -> None:
        """Record a failed list request. It counts as silence, but not as a failed poll."""
        if self.last_error is not None:
            self.silent_for += min(now - self._failed_at, longest)
        self._failed_at = now
        self.last_error = error

    def silent_since(self, time: float) -> float:
        """Return the part of `silent_for` from a time on, up to the last failed poll."""
        return min(self.silent_for, self._failed_at - time)

    @property
    def was_polled(self) -> bool:
        """True if a poll of a job at the host has ended."""
        return self.worked + self.failed > 0

    @property
    def may_accept_key(self) -> bool:
        """True if a poll may still show that the host accepts the key.

        There must be open jobs at the host, and the host must not be known to fail.
        """
        return self.last_error is None and any(self.jobs)

    def share_worked(self, worked: int, failed: int) -> float | None:
        """Return which share of the latest polls showed a working host, 0 to 1.

        Return None if there were no such polls.

        Args:
            worked: Value that `self.worked` had before these polls.
            failed: Value that `self.failed` had before these polls.
        """
        return _share(self.worked - worked, self.failed - failed)


@define(eq=False)
class KeyEvidence:
    """What the polls of all jobs show: whether the service accepts the key.

    A refusal is a poll whose error is a 401, a 403, a bad certificate, or a refusal by the proxy.
    One refusal can be a mistake. So the key counts as bad only after a series of refusals. An
    answer that shows that the service accepts the key ends the series. The series also ends after
    `CONFIRMATION_STEP` seconds without a refusal, if a poll has failed for another reason in this
    time.

    Attributes:
        key_works: True if an answer has shown that the service accepts the key, and refusals have
            not ended all watches since then.
        in_doubt: True at first, and after each refusal, until `record_accepted` is called. A 403
            does not set it if the key has worked.
        refused_for: Seconds for which the key has been refused, in the present series of refusals.
            Between two refusals, at most `CONFIRMATION_STEP` seconds count.
        accepted: Number of polls, at all hosts, with an answer that shows that the key is accepted.
        failed: Number of polls, at all hosts, that failed for a reason that can concern all jobs.
            Polls of jobs that are probably bad (see `failure_handling`) are not counted.
        hosts: The hosts of the service.
    """

    key_works: bool = False
    in_doubt: bool = True
    refused_for: float = 0.0
    accepted: int = 0
    failed: int = 0
    hosts: list[HostEvidence] = field(factory=list)
    _refused_by: set[HostEvidence] = field(factory=set)  # hosts that refused in the series
    _refused_at: float | None = None  # time of the last refusal; None if there is no series
    _refused_first: str = ""  # id of the job whose refusal began the series
    _confirms: str = ""  # id of the job that is polled again soon; see `confirm_within`
    _refusals: int = 0  # number of refusals in the series
    _others: int = 0  # number of polls that failed for other reasons during the series
    _interrupted: bool = False  # True if a poll failed for another reason after the last refusal

    def record_accepted(self) -> None:
        """Record an answer to a poll or a list request that shows that the key is accepted."""
        self.key_works = True
        self.in_doubt = False
        self._end_series()

    def record_other_failure(self) -> None:
        """Record that a poll failed for a reason other than a refusal of the key."""
        if self._refused_at is not None:
            self._others += 1
            self._interrupted = True

    def record_refusal(
        self, error: AdePollError, job_id: str, now: float, *, host: HostEvidence
    ) -> bool:
        """Record that the poll of a job was refused; return True if the key is bad for all jobs.

        The key does not count as bad while another host may accept it: one host can have a wrong
        certificate, or a proxy can forbid one host.

        After a bad key, earlier refusals are forgotten: before the next watch, their cause may have
        been removed. So a single further refusal does not end that watch.
        """
        is_bad = self._is_bad_after(error, job_id, now, host=host)
        if is_bad:
            self.key_works = False
            self._end_series()
        return is_bad

    def _is_bad_after(
        self, error: AdePollError, job_id: str, now: float, *, host: HostEvidence
    ) -> bool:
        """Add a refusal to the series; return True if the key is bad for all jobs."""
        forbidden = isinstance(error, PermissionDeniedError)
        if forbidden and self.key_works:
            return False  # the key has worked, so the 403 concerns this job only
        if self._interrupted and now - (self._refused_at or 0.0) > CONFIRMATION_STEP:
            self._end_series()  # refusals that are far apart do not form a series
        self._interrupted = False
        if self._refused_at is None:
            self._refused_first = self._confirms = job_id
        else:
            if now - self._refused_at > CONFIRMATION_STEP:
                self._confirms = job_id
            self.refused_for += min(now - self._refused_at, CONFIRMATION_STEP)
        self._refused_at = now
        self._refusals += 1
        self._refused_by.add(host)
        self.in_doubt = True
        if any(other.may_accept_key for other in self.hosts if other not in self._refused_by):
            return False
        if forbidden:
            if job_id == self._refused_first:
                return False  # the 403 can concern this job only
        elif not self.key_works:
            return self._refusals >= _REFUSALS_OF_NEW_KEY
        has_lasted = self.refused_for >= CONFIRMATION - _ROUNDING_OF_SERIES
        return has_lasted and self._refusals > self._others

    def confirm_within(self, error: AdePollError, job_id: str) -> float:
        """Return the seconds within which a job whose poll was refused must be polled again.

        Only one job is polled again soon, to find out whether the key is refused for all jobs: the
        first job whose poll was refused. If no poll was refused for `CONFIRMATION_STEP` seconds,
        perhaps nobody watches that job any more: then it is the next job whose poll is refused. For
        all other jobs, return infinity.
        """
        if self._refused_at is None or self._interrupted or job_id != self._confirms:
            return math.inf
        if self.key_works or isinstance(error, PermissionDeniedError):
            return CONFIRMATION_STEP
        return _NEW_KEY_DELAY

    def share_accepted(self, accepted: int, failed: int) -> float | None:
        """Return for which share of the latest polls the key was accepted, 0 to 1.

        Return None if there were no such polls.

        Args:
            accepted: Value that `self.accepted` had before these polls.
            failed: Value that `self.failed` had before these polls.
        """
        return _share(self.accepted - accepted, self.failed - failed)

    def _end_series(self) -> None:
        """Forget the refusals: the key works, they are too far apart, or they ended all watches."""
        self.refused_for = 0.0
        self._refused_at = None
        self._refusals = self._others = 0
        self._interrupted = False
        self._refused_by.clear()


def _share(part: int, rest: int) -> float | None:
    """Return ``part / (part + rest)``; None if both are 0."""
    return part / (part + rest) if part or rest else None


CONFIRMATION: Final = 10.0
"""Seconds for which a key that has worked must be refused before it counts as bad."""

CONFIRMATION_STEP: Final = CONFIRMATION / 4
"""Of the seconds between two refusals, at most this number counts towards `CONFIRMATION`."""

# A key that has never worked is bad after this number of refusals: a single one can be a mistake.
_REFUSALS_OF_NEW_KEY: Final = 2
# Seconds between the refusal of a key that has never worked and the next poll of the same job.
_NEW_KEY_DELAY: Final = 0.5
_ROUNDING_OF_SERIES: Final = 1e-6  # seconds by which the sum `refused_for` can be too small
