"""Which jobs are watched, when each is due, and what an answer means for it; without I/O.

Imports agenda, lags, learning, schedule and errors. Times are seconds of one monotonic clock,
passed in as `now`.
"""

import math
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Final, NoReturn

from attrs import define, field

from adepoll.api.models import JobSnapshot, JobSummary
from adepoll.errors import (
    AdePollError,
    AnswerError,
    JobNotFoundError,
    RateLimitedError,
    WrongJobError,
)
from adepoll.scheduling.arrivals import Arrivals
from adepoll.scheduling.durations import EDGES
from adepoll.scheduling.policies import Foresighted, PollContext, Schedule
from adepoll.watching.detection_lag import DetectionLag
from adepoll.watching.failures import Trouble
from adepoll.watching.job_state import JobState, Subscriber
from adepoll.watching.learning import EVEN, Learning
from adepoll.watching.list_hints import ListHints
from adepoll.watching.poll_queue import PollQueue


@define
class Tally:
    """What a roster has seen so far.

    Attributes:
        polls: Looks that came back, well or ill.
        settled: Jobs that a look found ended.
        given_up: Jobs that were given up.
        detection_lag: How late it was seen that jobs had ended.
    """

    polls: int = 0
    settled: int = 0
    given_up: int = 0
    detection_lag: DetectionLag = field(factory=DetectionLag)


@define(eq=False, kw_only=True)
class WatchedJobs:
    """The watched jobs, and when to look at each.

    Attributes:
        schedule: Says when to look next.
        rng: Source of its jitter.
        not_found_grace: Seconds for which a job may be unknown to the service (404), counted from
            the first such answer: a job just submitted can take a moment to show.
        patience: Seconds for which looks at a job may fail for passing reasons before it is given
            up; 429 does not count, it only says to come later.
        most_nonsense: Answers that make no sense, without a good one between them, after which
            `nonsense_patience` holds in place of `patience`.
        nonsense_patience: Seconds for which looks at a job may bring nonsense.
        learning: Keeps the ages of jobs, and learns from them how long jobs take.
        tally: What has been seen so far.
        hints: What is made of what the list says.
        mean_wait: Mean of the waits that the schedule gave of late.
    """

    schedule: Schedule
    rng: Random
    not_found_grace: float
    patience: float
    most_nonsense: int = 3
    nonsense_patience: float = 60.0
    learning: Learning = field(factory=Learning)
    tally: Tally = field(factory=Tally)
    hints: ListHints = field(init=False)
    mean_wait: float | None = field(default=None, init=False)
    _entries: dict[str, JobState] = field(factory=dict, init=False)
    _poll_queue: PollQueue = field(init=False)
    _arrivals: Arrivals = field(init=False)
    _alarms: int = field(init=False)
    _foresighted: Foresighted | None = field(init=False)  # to ask a class for a protocol is slow

    @hints.default
    def _make_hints(self) -> ListHints:
        return ListHints(learning=self.learning)

    @_poll_queue.default
    def _make_agenda(self) -> PollQueue:
        return PollQueue(self._gain)

    @_arrivals.default
    def _find_arrivals(self) -> Arrivals:
        return self.learning.durations.arrivals

    @_foresighted.default
    def _find_foresight(self) -> Foresighted | None:
        return self.schedule if isinstance(self.schedule, Foresighted) else None

    @_alarms.default
    def _count_alarms(self) -> int:
        return self._arrivals.alarms

    def __len__(self) -> int:
        """How many jobs are watched."""
        return len(self._entries)

    def get(self, job_id: str) -> JobState | None:
        """Give the entry of a job, if it is watched."""
        return self._entries.get(job_id)

    def subscribe(
        self,
        job_id: str,
        subscriber: Subscriber,
        alone: tuple[Subscriber],
        now: float,
        *,
        can_wait: bool = False,
    ) -> JobState:
        """Let `subscriber` know about the job, and look at it at once if that was never done.

        Args:
            job_id: The job.
            subscriber: Who wants to know.
            alone: The tuple of just that follower, which a million entries can share.
            now: The time.
            can_wait: Whether the first look may be later, where it is not likely to bring news.
        """
        entry = self._entries.get(job_id)
        if entry is None:
            entry = self._entries[job_id] = JobState(job_id, alone, now, now)
            if self.hints.sweeping:
                # It may well be that the list says that the job is active, for 100 at a time.
                self._poll_queue.put(entry, now + self.hints.trust)
            else:
                wait = self._first_wait() if can_wait and self._arrivals.trusted else 0.0
                if wait:
                    self._poll_queue.put(entry, now + wait, on_trust=True)
                else:
                    self._poll_queue.put_in_line(entry, now, EVEN)
        elif subscriber not in entry.subscribers:
            entry.join(subscriber)
            untouched = entry.entered is None and not (entry.trouble or entry.urgent)
            asleep = entry.ticket and entry.due > now and not self.hints.sweeping
            if untouched and asleep and not can_wait:
                self._poll_queue.put(entry, now)
            if subscriber.every_change and self.hints.sweeping and entry.ticket:
                self.poll_now(job_id, now)  # the list may say for long what the others know already
            if entry.stalled:
                if subscriber.has_room():
                    self.wake(entry, now)
                else:
                    subscriber.stall(entry)  # room of its own wakes it, whatever the others do
        return entry

    def unsubscribe(self, job_id: str, subscriber: Subscriber) -> JobState | None:
        """Remove `subscriber`; return the job's state if nobody is left, and forget it."""
        entry = self._entries.get(job_id)
        if entry is None or subscriber not in entry.subscribers:
            return None
        entry.leave(subscriber)
        if entry.subscribers:
            return None
        self._remove(entry)
        return entry

    def clear(self) -> None:
        """Forget all jobs; looks under way come back to nothing."""
        for entry in self._entries.values():
            self.learning.lost(entry)
        self._entries.clear()
        self._poll_queue.clear()
        self.hints.urgent = 0

    def next_due(self) -> float | None:
        """Give the time at which the next job is due; None where there is none."""
        return self._poll_queue.next_due()

    def time_left(self, now: float) -> float | None:
        """Give the time until the last job is expected to have ended; None where that is unknown.

        It is that after which half a job is expected to be left, by a sample of the ages. Where it
        would go far beyond the ages at which jobs were seen to end, it would be mere belief.
        """
        if self.learning.durations.ended < _ENOUGH_SEEN or not self._entries:
            return None
        step = -(-len(self._entries) // _SAMPLE)
        sample = islice(self._entries.values(), 0, None, step)
        ages = [self.learning.age(entry, now) for entry in sample]
        left = 0.5 * len(ages) / len(self._entries)
        law = self.learning.durations.law
        time = law.time_until(ages, left)
        return time if max(ages) + time <= _FAR * EDGES[law.known] else None

    def pop_due(self, now: float) -> JobState | None:
        """Give a job to look at now, a place reserved with its followers; None where none is.

        A job whose followers have no room is set aside until one has. To stay short, only so many
        are set aside in one call; `next_due` tells whether more is to be done.
        """
        if self._alarms != self._arrivals.alarms:
            self._alarms = self._arrivals.alarms
            self._poll_queue.recall(now)
        for _ in range(_MOST_SET_ASIDE):
            entry = self._poll_queue.pop(now)
            if entry is None:
                return None
            sweeping = self.hints.sweeping
            if sweeping and (believed := self.hints.believed_until(entry, now)) > now:
                self._poll_queue.put(entry, believed)
                continue
            for subscriber in entry.subscribers:
                if subscriber.has_room():
                    break
            else:
                self._stall(entry)
                continue
            urgent = entry.urgent
            entry.by_schedule = not (sweeping or urgent or entry.due <= entry.since)
            if urgent:
                self.hints.calm(entry)
            entry.polled_at = now
            reserved = entry.reserved_by = tuple(entry.subscribers)
            for subscriber in reserved:
                subscriber.reserve()
            return entry
        return None

    def wake(self, entry: JobState, now: float) -> bool:
        """Make a stalled job due; False if it was not stalled any more."""
        if not entry.stalled or self._entries.get(entry.job_id) is not entry:
            return False
        entry.stalled = False
        self.hints.hurry(entry)
        self._poll_queue.put(entry, now)
        return True

    def made_room(self, subscriber: Subscriber, now: float) -> int:
        """Make due what waits for room with a follower, as much as it has room for; say how much.

        To be called whenever a follower may have more room than before.
        """
        woken = 0
        while woken < subscriber.free and (entry := subscriber.pop_stalled()) is not None:
            # It may wait for others alone by now, having told this one; that would be no use.
            woken += subscriber in entry.subscribers and self.wake(entry, now)
        return woken

    def poll_now(self, job_id: str, now: float) -> bool:
        """Somebody says the job may have ended: look now. False if it is not watched."""
        entry = self._entries.get(job_id)
        if entry is None:
            return False
        if entry.in_flight:
            entry.poll_again = True  # the look under way may have been too early
        elif not entry.stalled:
            self.hints.hurry(entry)
            entry.missed_at = math.inf  # from now on, that is not why
            if entry.due > now:
                self._poll_queue.put(entry, now)
        return True

    # --- what looks bring ------------------------------------------------------------------

    def landed(self, entry: JobState, now: float) -> None:
        """A look has ended; if it was broken off, look again should anybody still want to know."""
        if entry.in_flight:
            reserved = self._release(entry)
            if self._wanted(entry):
                self.hints.doubt(entry)
                self._put_off(entry, now)
            self._made_room(reserved, now)

    def answered(self, entry: JobState, snapshot: JobSnapshot, now: float) -> None:
        """A look brought a snapshot: tell the followers, and see when to look next."""
        if snapshot.job_id != entry.job_id:
            # AdeClient refuses these itself; another source must not settle the wrong job either.
            error = WrongJobError(job_id=entry.job_id, answered=snapshot.job_id)
            self.failed(entry, error, now)
            return
        self.tally.polls += 1
        reserved = self._release(entry)
        if self._entries.get(entry.job_id) is entry:
            self._tell(entry, snapshot, now)
        self._made_room(reserved, now)

    def failed(self, entry: JobState, error: AdePollError, now: float) -> None:
        """A look brought an error about this job: try again later, or give the job up."""
        self.tally.polls += 1
        reserved = self._release(entry)
        if self._wanted(entry) and not self._bear(entry, error, now):
            self.tally.given_up += 1
            for subscriber in tuple(entry.subscribers):
                subscriber.give_up(entry.job_id, error)
            self._remove(entry)
        self._made_room(reserved, now)

    # --- what lists say: hints, which decide when a job is looked at, and nothing more ------

    def begin_sweeps(self) -> None:
        """From now on, look at jobs when the list has them no more."""
        self.hints.sweeping = True

    def end_sweeps(self, now: float) -> Iterator[None]:
        """From now on, look at jobs by schedule.

        Gives control back every few hundred jobs, to be gone through until it ends.
        """
        self.hints.sweeping = False
        for number, entry in enumerate(tuple(self._entries.values())):
            if entry.ticket and not entry.urgent and self._wanted(entry):
                new = entry.entered is None
                due = now if new else now + self.rng.random() * self._wait(entry, now)
                if due < entry.due:
                    self._poll_queue.put(entry, due)
            if number % _AT_ONCE == _AT_ONCE - 1:
                yield

    def listed(self, job: JobSummary, asked_at: float, now: float) -> bool:
        """The list says where a job stands. Tell whether it is watched, and said to be active.

        Args:
            job: What the list says.
            asked_at: When the list was asked for.
            now: The time.
        """
        entry = self._entries.get(job.job_id)
        if entry is None or job.is_terminal:
            return False
        entry.active_at = max(entry.active_at, asked_at)
        asked_for = entry.urgent and entry.missed_at == math.inf  # by others than the list
        entry.missed_at = math.inf
        if entry.in_flight or entry.trouble is not None:
            return True
        new = entry.entered is None
        self.learning.active(entry, job.received_at, now, as_of=asked_at - self.hints.lag)
        if entry.status != job.status_text and any(f.every_change for f in entry.subscribers):
            if entry.ticket:
                self.hints.hurry(entry)
                self._poll_queue.put(entry, min(entry.due, now))
        elif entry.ticket and not asked_for:
            self.hints.calm(entry)
            if new and self.hints.sweeping:
                entry.doubt_at = self.hints.doubt_at(entry, now)
                self._poll_queue.put(entry, entry.doubt_at)
        return True

    def missing(self, asked_at: float, now: float) -> int:
        """Make due the jobs that a whole list, asked for at `asked_at`, did not have; say how many.

        A job that is as new as the list is late is given the time to show there.
        """
        for entry in islice(self._entries.values(), _WAITS_ASKED_FOR):
            self._wait(entry, now)  # keeps mean_wait up to date, while no looks do
        newest = asked_at - self.hints.lag
        self.hints.lag *= _FORGETTING
        gone = [
            entry
            for entry in self._entries.values()
            if entry.active_at < asked_at and entry.since <= newest and entry.ticket
        ]
        for entry in gone:
            if not entry.urgent:
                if entry.not_before > now:
                    self.hints.doubt(entry)
                else:
                    self.hints.hurry(entry)
                entry.missed_at = asked_at
                self._poll_queue.put(entry, max(now, entry.not_before))
        return len(gone)

    def _wanted(self, entry: JobState) -> bool:
        return self._entries.get(entry.job_id) is entry

    def _release(self, entry: JobState) -> tuple[Subscriber, ...]:
        reserved = entry.reserved_by or ()
        entry.reserved_by = None
        for subscriber in reserved:
            subscriber.release()
        return reserved

    def _made_room(self, reserved: tuple[Subscriber, ...], now: float) -> None:
        # A look that brought nothing gives its places to those who wait for room: nothing may
        # ever be consumed that would.
        for subscriber in reserved:
            if subscriber.stalled:
                self.made_room(subscriber, now)

    def _tell(self, entry: JobState, snapshot: JobSnapshot, now: float) -> None:
        text = snapshot.status_text
        news = entry.status != text
        entry.polls += 1
        entry.status = text
        entry.trouble = None
        refused = []
        for subscriber in entry.subscribers:
            if not subscriber.take(snapshot):
                refused.append(subscriber)  # noqa: PERF401 - a comprehension costs a call
        if not snapshot.status.is_terminal:
            self._goes_on(entry, snapshot, now)
            return
        if news:
            self.tally.settled += 1
            # What the list says may be as old as it is late, as far as that is known.
            active_at = entry.active_at - self.hints.lag
            self.tally.detection_lag.add(now - max(active_at, entry.since))
        self.learning.ended(entry, snapshot.received_at, now)
        if refused:
            # These came while the look was under way and had no room. The job has ended, and
            # will still have ended when they have.
            entry.subscribers = tuple(refused)
            self._stall(entry)
        else:
            self._remove(entry)

    def _bear(self, entry: JobState, error: AdePollError, now: float) -> bool:
        """Look again later in spite of an error; False if that is enough of them."""
        if entry.trouble is None:
            entry.trouble = Trouble(now)
        trouble = entry.trouble
        trouble.polls += 1
        if isinstance(error, RateLimitedError):
            trouble.throttled(now)
        elif isinstance(error, JobNotFoundError):
            # One that has answered before is not new, and what hides it now may well pass.
            seen = entry.status is not None
            grace = max(self.not_found_grace, self.patience if seen else 0.0)
            left = grace - trouble.missing_for(now)
            if now + left <= now:  # as `left <= 0`, but for what is lost in rounding
                return False
            trouble.polled_at = now
            self.hints.doubt(entry)
            self._put_off(entry, now, at_most=left)
            return True
        else:
            trouble.nonsense += isinstance(error, AnswerError)
            failing_for = trouble.failing_for(now)
            nonsense = trouble.nonsense >= self.most_nonsense
            # Nonsense about one job stays; a gateway's page about all of them passes.
            patience = min(self.patience, self.nonsense_patience) if nonsense else self.patience
            if not error.transient or failing_for >= patience:
                return False
        trouble.polled_at = now
        self.hints.doubt(entry)
        self._put_off(entry, now)
        return True

    def _goes_on(self, entry: JobState, snapshot: JobSnapshot, now: float) -> None:
        """A look saw that the job is active still."""
        missed = entry.missed_at < math.inf and self.hints.proven_active(entry)
        self.learning.active(entry, snapshot.received_at, now)
        entry.active_at = max(entry.active_at, entry.polled_at)
        if not self.hints.sweeping or entry.poll_again:
            self._put_off(entry, now)
            return
        if missed:
            # The list may never have it: that costs no more looks than the schedule would make.
            entry.not_before = now + self._wait(entry, now)
        entry.doubt_at = self.hints.doubt_at(entry, now)
        self._poll_queue.put(entry, entry.doubt_at)

    def _put_off(self, entry: JobState, now: float, *, at_most: float = math.inf) -> None:
        """Look again when the schedule says."""
        if entry.poll_again:
            entry.poll_again = False
            self.hints.hurry(entry)
            self._poll_queue.put(entry, now)
            return
        wait = self._wait(entry, now)
        # Waits run from look to look, not from answer to look, as long as that leaves a pause.
        due = max(entry.polled_at + wait, now + wait / 2)
        self._poll_queue.put(entry, min(due, now + at_most))

    def _wait(self, entry: JobState, now: float) -> float:
        # Looks that failed count too, so that an outage is met with ever fewer of them.
        failures = 0 if entry.trouble is None else entry.trouble.polls
        learning = self.learning
        watched = PollContext(
            polls=entry.polls + failures,
            watched_for=now - entry.since,
            age=learning.age(entry, now),
            failures=failures,
            law=learning.durations.law,
            surprise=learning.surprise.ratio,
        )
        wait = self.schedule.delay(watched, self.rng)
        if not wait >= 0:
            self._refuse(wait)
        before = wait if self.mean_wait is None else self.mean_wait
        self.mean_wait = before + (wait - before) / _MEAN_OF
        return wait

    def _refuse(self, wait: float) -> NoReturn:
        # Not a number would spoil the order of the agenda.
        raise ValueError(f"{self.schedule!r} gave {wait} as the delay of a look")

    def _first_wait(self) -> float:
        """Give the time to the first look at a job that was just given."""
        if self.rng.random() < _PROBED or self._foresighted is None:
            return 0.0
        new = PollContext(
            polls=0,
            watched_for=0.0,
            age=0.0,
            law=self.learning.durations.law,
            surprise=self.learning.surprise.ratio,
        )
        risk = self._arrivals.old_share
        wait = self._foresighted.first_delay(new, self.rng, risk=risk)
        if not wait >= 0:
            self._refuse(wait)
        return wait

    def _gain(self, entry: JobState, now: float) -> float:
        return 1.0 if entry.missed_at < math.inf else self.learning.gain(entry, now)

    def _remove(self, entry: JobState) -> None:
        del self._entries[entry.job_id]
        if entry.ticket:
            self._poll_queue.drop(entry)
        if entry.urgent:
            self.hints.calm(entry)
        if entry.entered is not None:
            self.learning.lost(entry)

    def _stall(self, entry: JobState) -> None:
        entry.stalled = True
        self.hints.calm(entry)  # it waits for room, and sweeps do not wait for it
        for subscriber in entry.subscribers:
            subscriber.stall(entry)


_MOST_SET_ASIDE: Final = 256
_AT_ONCE: Final = 500
_MEAN_OF: Final = 32  # waits
_PROBED: Final = 0.05  # share of the jobs taken for new that are looked at at once, to see
_WAITS_ASKED_FOR: Final = 8
_SAMPLE: Final = 64  # jobs that speak for all
_ENOUGH_SEEN: Final = 20  # jobs ended, for a guess at when the others will
_FAR: Final = 2.0  # times what is known
_FORGETTING: Final = 0.99  # of the list's lag, from sweep to sweep
