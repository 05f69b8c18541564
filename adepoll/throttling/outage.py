"""Decides whether one host of the service is down, and when it may be probed again.

Imports nothing of adepoll. Times are seconds of `loop.time()`; the caller passes them in.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final


class Outage:
    """Decides whether a host of the service is down, and when it may be probed again.

    An outage begins after `OUTAGE` (ten) consecutive failed requests about at least three jobs.
    During an outage, only single requests (probes) are sent, with increasing waits between them,
    until one succeeds.

    If the requests about most jobs fail, and the others succeed, ten consecutive failures are
    nothing unusual. So in the ten minutes after the beginning of an outage, a second outage begins
    only after 40 consecutive failures, and each further one only after 160.

    A single bad job must not look like an outage. So a job becomes *suspect* if a request about it
    failed and a later request to the host succeeded. For 120 s, further failures of requests about
    this job do not count.

    Attributes:
        failures: Number of counted failed requests since the last successful request.
        is_on: True during an outage.
        probe_at: Time at which the next probe may be sent. Minus infinity if there is no outage.
            While a probe is in flight, 30 s after its start.
    """

    __slots__ = (
        "_began_at",
        "_failing",
        "_new_waits",
        "_suspects",
        "_threshold",
        "_unnamed",
        "_waits",
        "failures",
        "is_on",
        "probe_at",
    )

    def __init__(self, waits: Callable[[], Iterator[float]]) -> None:
        """Create an object for a host that is not down.

        Args:
            waits: Returns a new endless iterator over the seconds to wait before each probe.
        """
        self._new_waits = waits
        self._waits = waits()  # seconds before each further probe of the present outage
        # Time of the last failed request about each job, by job id, since the last success.
        self._failing: dict[str, float] = {}
        # Number of failed requests, since the last success, that concern no job.
        self._unnamed = 0
        # Suspect jobs: a request about them failed before the last success. Time of the last failed
        # request, by job id; oldest first.
        self._suspects: dict[str, float] = {}
        self.failures = 0
        self.is_on = False
        self.probe_at = -math.inf
        # Consecutive failures that begin the next outage, and the time at which the last one began.
        self._threshold = OUTAGE
        self._began_at = -math.inf

    def probe_sent(self, now: float) -> None:
        """Record that a probe was sent. The next probe waits until this probe has ended.

        It waits for at most 30 s, because some requests take long, such as a large upload. Without
        this limit, one of them would delay the end of the outage.
        """
        self.probe_at = now + _LONGEST_PROBE

    def probe_ended(self, now: float) -> None:
        """Record that a probe ended, so that the next probe may be sent immediately.

        If the end of the probe shows whether the host is down, call `failed` or `succeeded` next.
        """
        if self.is_on:
            self.probe_at = now

    def failed(self, now: float, *, is_probe: bool, job_id: str | None = None) -> bool:
        """Record a failed request; return True if an outage begins with it.

        Args:
            now: Time at which the request failed.
            is_probe: True if the request was sent during the outage. Only the failure of a probe
                postpones the next probe.
            job_id: Id of the job that the request is about. None for a request without a job, such
                as one for the job list; each such request counts as if it were about a new job.
        """
        if job_id is None:
            self.failures += 1
            self._unnamed += 1
        elif now - self._suspects.get(job_id, -math.inf) > _SUSPECT_FOR:
            self.failures += 1
            self._failing[job_id] = now
        jobs = len(self._failing) + self._unnamed
        if now > self._began_at + _FORGOTTEN_AFTER:
            self._threshold = OUTAGE
        begins = not self.is_on and self.failures >= self._threshold and jobs >= _FEWEST_JOBS
        if begins:
            self._began_at = now
            self._threshold = min(_FACTOR * self._threshold, _HIGHEST_THRESHOLD)
            self._waits = self._new_waits()
            self.is_on = True
        if begins or (self.is_on and is_probe):
            self.probe_at = now + min(next(self._waits), _MAX_PROBE_WAIT)
        return begins

    def succeeded(self) -> bool:
        """Record a successful request; return True if an outage ends now."""
        ends, self.is_on = self.is_on, False
        for job_id, failed_at in self._failing.items():
            self._suspects.pop(job_id, None)  # so that the job moves to the end of the dict
            self._suspects[job_id] = failed_at
        while len(self._suspects) > _MOST_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        self._failing.clear()
        self._unnamed = self.failures = 0
        self.probe_at = -math.inf
        return ends


OUTAGE: Final = 10
"""Number of consecutive failed requests, about at least three jobs, that begin an outage."""

_FACTOR: Final = 4  # factor by which the threshold grows with each outage
_HIGHEST_THRESHOLD: Final = 160  # failures that begin an outage soon after several others
_FORGOTTEN_AFTER: Final = 600.0  # seconds after which an outage does not affect the next one
_MAX_PROBE_WAIT: Final = 10.0  # maximum seconds to wait before a probe
_LONGEST_PROBE: Final = 30.0  # seconds after which a probe in flight delays no other probe
_FEWEST_JOBS: Final = 3  # the failed requests of an outage concern at least this number of jobs
_SUSPECT_FOR: Final = 120.0  # seconds for which failed requests about a suspect job do not count
_MOST_SUSPECTS: Final = 1_000  # suspect jobs that are remembered
