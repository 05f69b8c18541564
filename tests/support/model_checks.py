"""Checks the invariants in a scenario of the model test. Texts begin with an invariant's number.

Times are seconds of the loop.
"""

import math
from collections import Counter

from model_faults import CAUSES, FATAL

from adepoll.api.job_ids import is_job_id
from adepoll.errors import (
    ClosedError,
    InvalidJobIdError,
    JobIdsCancelledError,
    JobTimeoutError,
    PermissionDeniedError,
    ServiceDownError,
)

TARGET_LAG = 2.0
MAXIMUM = 60.0
GRACE = 15.0
KEPT = 10.0  # seconds for which the snapshot is kept of a job that nobody waits for any more
SLACK = 1.6  # tolerance in seconds: ages are known only to a second, and requests have a latency
FEW = 8  # with at most this many open jobs, the jobs of a watch count as awaited
ORDER = {"pending": 0, "processing": 1}


def check_all(scenario):
    """Add the violated invariants to `service.violations`."""
    for actor in scenario.actors:
        _check_items(actor)
        _check_end(scenario, actor)
        _check_causes(scenario, actor)
    for source, options in zip(scenario.sources, scenario.watchers, strict=True):
        for job_id in source.polls:
            _check_number_of_polls(scenario, source, job_id)
            if source.service.jobs[job_id].fault is None:
                _check_lag(scenario, source, options, job_id)


def _check_items(actor):
    """Check invariants 1 and 2: each snapshot comes from a GET, is true, and is yielded once."""
    service = actor.source.service
    last = {}
    settled = Counter()
    for at, item in actor.items:
        snapshot = _snapshot_of(actor, item)
        if snapshot is None:
            continue
        job_id, text = snapshot.job_id, snapshot.status_text
        rank = ORDER.get(text, 2)
        before = last.get(job_id, -1) if actor.handed[job_id] == 1 else -1
        if before >= rank:
            again = "again" if before == rank else "back"
            service.violate(f"1: {actor.name} gets {job_id} {again}, {text} at {at:.1f}")
        last[job_id] = rank
        settled[job_id] += snapshot.is_terminal
        if actor.kind in {"wait", "watch"} and not snapshot.is_terminal:
            service.violate(f"1: {actor.name} gets {job_id}, which is {text}")
    resolved = settled + Counter(job_id for _, job_id, _ in actor.causes)
    for job_id, number in resolved.items():
        most = 1 if actor.source_kind == "list" else actor.handed[job_id]
        if number > most:
            service.violate(f"1: {job_id} ends {number} times for {actor.name}")
    if actor.outcome in {"done", "unresolved"} and (lost := actor.handed.keys() - resolved.keys()):
        service.violate(f"1: {actor.name} never hears of {sorted(lost)}")


def _snapshot_of(actor, item):
    """Return the snapshot of an item, which a poll must have answered; None without one."""
    if getattr(item, "error", None) is not None:
        return None
    snapshot = item.snapshot if actor.kind == "status_updates" else item
    service, polls = actor.source.service, actor.source.polls
    if snapshot is None:
        if item.status.is_terminal:
            service.violate(f"2: {actor.name} gets an end of {item.job_id} without a poll")
        return None
    truth = (snapshot.version, snapshot.status_text)
    if truth not in {(f"poll {p.number}", p.status) for p in polls.get(snapshot.job_id, ())}:
        service.violate(f"2: {actor.name} gets {snapshot.job_id}, which no poll has answered")
    return snapshot


def _check_end(scenario, actor):
    """Check that a consumer ends with an allowed outcome, and in time."""
    service, behaviour = actor.source.service, scenario.behaviour
    fatal = behaviour.fatal is not None and actor.ended >= behaviour.fatal_at
    if actor.outcome == "failed":
        error = actor.error
        is_fatal = fatal and type(error) is type(FATAL[behaviour.fatal]())
        is_closed = isinstance(error, ClosedError) and scenario.close_at is not None
        # If each poll was refused, adepoll may conclude from a forbidden job that the key is bad.
        refused = isinstance(error, PermissionDeniedError) and not any(
            poll.cause is None and poll.ended <= actor.ended
            for polls in actor.source.polls.values()
            for poll in polls
        )
        broken = LookupError if actor.broken_by is LookupError else JobIdsCancelledError
        is_broken = actor.broken_after is not None and isinstance(error, broken)
        if not (is_fatal or is_closed or is_broken or refused):
            service.violate(f"1: {actor.name} ends with {error!r}")
    if actor.outcome in {"done", "unresolved"} and actor.broken_after is not None:
        hears = actor.timeout is not None  # after a timeout, the remaining ids are not read
        hears or service.violate(f"9: {actor.name} does not hear that its ids are broken")
    if actor.timeout is not None and not actor.slow and actor.outcome != "left":
        late = actor.ended - (actor.started + actor.timeout)
        late -= _overlap(service.stops, actor.started, actor.ended)
        if late > 0.1:
            service.violate(f"9: {actor.name} ends {late:.1f} s after its timeout")
    if actor.kind == "long_poll" and actor.outcome == "left":
        _check_long_poll(scenario, actor)
    options = scenario.watchers[scenario.sources.index(actor.source)]
    limit = options["buffer"] or 2 * (256 if scenario.shared_semaphore else options["concurrency"])
    if actor.most_buffered > limit:
        service.violate(f"4: {actor.most_buffered} snapshots wait for {actor.name}")
    if actor.window is not None and actor.most_open > actor.window:
        service.violate(f"4: {actor.name} has {actor.most_open} open jobs")


def _check_long_poll(scenario, actor):
    """Check that repeated short waits end: grace and patience of a job outlast each wait."""
    [job_id] = actor.ids
    job, service, behaviour = (
        actor.source.service.jobs[job_id],
        actor.source.service,
        scenario.behaviour,
    )
    disturbed = _overlap([*service.stops, *behaviour.outages], 0.0, actor.ended)
    settled = job.fault is None and job.ended_at < actor.ended - 60.0
    hopeless = job.fault not in {None, "down"}
    if job.fault == "forbidden" and not _is_key_accepted(actor.source, actor.started, actor.ended):
        return  # a firewall can be the reason of the 403
    if (settled or hopeless) and actor.ended - actor.started - disturbed > 400.0:
        service.violate(f"11: {actor.name} waits for {job_id} ({job.fault}), and gets nothing")


def _check_causes(scenario, actor):
    """Check invariants 1, 9 and 11: a job is unresolved for a reason, and not too early."""
    service, behaviour = actor.source.service, scenario.behaviour
    fatal = () if behaviour.fatal is None else type(FATAL[behaviour.fatal]())
    for at, job_id, error in actor.causes:
        if not is_job_id(job_id):
            if not isinstance(error, InvalidJobIdError):
                service.violate(f"9: {actor.name}: the cause of {job_id!r} is {error!r}")
        elif isinstance(error, JobTimeoutError):
            if actor.timeout is None or at < actor.started + actor.timeout - 1e-6:
                service.violate(f"9: {actor.name}: {job_id} times out at {at:.1f}")
            _check_timeout_error(actor, job_id, at, error)
        elif not isinstance(error, fatal) and not (
            isinstance(error, ClosedError) and scenario.close_at is not None
        ):
            _check_given_up(scenario, actor, service.jobs[job_id], at, error)


def _check_timeout_error(actor, job_id, at, error):
    """Check that the error of a timeout says what polls of the job have shown."""
    if actor.window is not None or actor.handed[job_id] > 1:
        return  # the id may be unread, or the job may have been delivered before
    over = min(at, actor.started + actor.timeout)
    follows = actor.source.follows[job_id]
    began = min(follow.began for follow in follows if follow.actor is actor)
    polls = [
        poll
        for poll in actor.source.polls.get(job_id, ())
        # A poll at exactly the time of the start can belong to an earlier consumer.
        if poll.ended < over and poll.began > began and poll.cause != "CancelledError"
    ]
    if error.last_status is None and any(poll.cause is None for poll in polls):
        actor.source.service.violate(f"9: {actor.name}: {job_id} times out, and was never seen")
    nothing = error.last_status is None and error.last_error is None
    if nothing and polls and all(poll.cause is not None for poll in polls):
        actor.source.service.violate(f"9: {actor.name}: {job_id} times out without a cause")


def _check_given_up(scenario, actor, job, at, error):
    service, behaviour = actor.source.service, scenario.behaviour
    if job.fault is None:
        service.violate(f"11: {actor.name} learns that {job.job_id}, a good job, failed: {error!r}")
        return
    disturbed = behaviour.stray or behaviour.outages or service.stops
    is_outage = _is_long_outage(scenario, actor, job, at)
    is_due_in_outage = is_outage and isinstance(error, ServiceDownError)
    if not (isinstance(error, CAUSES[job.fault]) or disturbed or is_due_in_outage):
        service.violate(f"1: {actor.name}: {job.job_id} is {job.fault}, cause {error!r}")
    if not is_outage:
        _check_evidence(scenario, actor, job, at)


def _is_long_outage(scenario, actor, job, at):
    """Return whether the host had been silent for so long that each of its jobs is given up.

    A job is then given up at its next failed poll, or without a poll when it is due.
    """
    patience = scenario.watchers[scenario.sources.index(actor.source)]["patience"]
    last = [poll.ended for poll in actor.source.polls[job.job_id] if poll.ended <= at][-1:]
    return any(_is_silent(actor.source, time, 12 * patience) for time in [at, *last])


def _check_evidence(scenario, actor, job, at):
    """Check invariant 11: a job is given up after a time and a number of failed polls."""
    if job.fault in {"forbidden", "unprocessable"}:
        return
    service = actor.source.service
    number = scenario.sources.index(actor.source)
    patience = scenario.watchers[number]["patience"]
    polls = [poll for poll in actor.source.polls[job.job_id] if poll.ended <= at]
    # A watch with errors="raise" raises the error at its end, long after the polls that count.
    needed = {"unknown": (GRACE, 2), "down": (patience, 3)}.get(job.fault, (min(patience, 60.0), 3))
    if len(polls) < needed[1]:
        service.violate(f"11: {job.job_id} ({job.fault}) is given up after {len(polls)} polls")
        return
    counted = polls[-1].ended - polls[0].ended
    # If a job fails while other jobs do not, the time of an outage counts, too.
    outages = [] if job.fault == "down" else scenario.behaviour.outages
    disturbed = [*service.stops, *outages]
    counted -= _overlap(disturbed, polls[0].ended, polls[-1].ended)
    # A gap counts up to a fifth of the limit, even if the process was stopped for a part of it.
    if counted < needed[0] * (1 - 0.2 * len(disturbed)) - 0.5:
        service.violate(
            f"11: {job.job_id} ({job.fault}) is given up after {counted:.1f} s that count"
        )


def _is_silent(source, at, seconds):
    """Return whether the service has answered no poll for about `seconds` before `at`."""
    answered = [
        poll.ended
        for polls in source.polls.values()
        for poll in polls
        # An answer at exactly the time `at` can have come after the poll in question.
        if poll.cause in {None, "unknown", "malformed", "wrong"} and poll.ended < at
    ]
    return at - max(answered, default=0.0) > 0.8 * seconds


def _is_key_accepted(source, begin, end):
    """Return whether several good answers between `begin` and `end` show that the key is right."""
    polls = [poll for polls in source.polls.values() for poll in polls]
    return sum(poll.cause is None and begin <= poll.ended <= end for poll in polls) >= 5


def _check_number_of_polls(scenario, source, job_id):
    """Check the number of polls of a job: at most four per second on average, plus 20."""
    polls = source.polls[job_id]
    followed = sum(follow.ended - follow.began for follow in source.follows[job_id])
    most = 20 + 4 * followed + 2 * len(scenario.polled_now)
    if len(polls) > most:
        source.service.violate(f"10: {source.name} polls {job_id} {len(polls)} times")


def _check_lag(scenario, source, options, job_id):
    """Check invariant 10 for each consumer of a job without a fault."""
    for follow in source.follows[job_id]:
        if follow.actor.window is not None and follow.actor.source_kind == "list":
            continue  # the test cannot know when an id of a collection is read
        _check_first_poll(scenario, source, follow, job_id)
        _check_detection(scenario, source, follow, job_id)
        if options["discovery"] == "get" or scenario.behaviour.listing == "none":
            _check_gaps(scenario, source, follow, job_id)


def _bound(follow, age):
    """Return the maximum seconds until the next poll of a job of this age."""
    if _is_awaited(follow.actor):
        return min(max(age / 2, 1.0), 10.0)
    return min(max(2 * TARGET_LAG, age / 2), MAXIMUM)


def _is_awaited(actor):
    return actor.awaits and len(actor.handed) <= FEW


def _check_first_poll(scenario, source, follow, job_id):
    if follow.actor.handed[job_id] > 1:
        return  # the test cannot know whether the job was open when its id came again
    job = source.service.jobs[job_id]
    began = follow.began
    if any(
        poll.status == job.final and 0 <= began - poll.ended <= KEPT
        for poll in source.polls[job_id]
    ):
        return  # the snapshot of a poll that went on after the timeout of a wait is as good
    polls = [poll.began for poll in source.polls[job_id] if poll.ended >= began - 1.0]
    if not _is_awaited(follow.actor):  # a page of the list that shows the job replaces the poll
        polls += [at for at in source.shown.get(job_id, ()) if at >= began - 1.0]
    first = min(polls, default=None)
    due = began
    if not _is_awaited(follow.actor):
        bound = _bound(follow, began - job.received_at)
        due += max(bound, _longest_wait_for_list(scenario, source))
    if len(source.follows[job_id]) > 1:
        due += 1.0  # a poll for others, less than a second old, is as good
    due += SLACK if not _is_awaited(follow.actor) else 0.05
    if follow.ended <= due or _is_excused(scenario, source, follow, began, due):
        return
    if first is None or first > due:
        when = "never" if first is None else f"{first - began:.2f} s after that"
        source.service.violate(
            f"10: {follow.actor.name} adds {job_id} at {began:.2f}; it is polled {when}"
        )


def _longest_wait_for_list(scenario, source):
    """Return the seconds for which a new job may wait for a sweep that shows it."""
    number = scenario.sources.index(source)
    if scenario.watchers[number]["discovery"] == "get" or scenario.behaviour.listing == "none":
        return 0.0
    return 2 * 2.5 * TARGET_LAG  # the second half only if the list turned out to be late


def _check_gaps(scenario, source, follow, job_id):
    job = source.service.jobs[job_id]
    polls = [p for p in source.polls[job_id] if follow.began <= p.ended and p.began <= follow.ended]
    for poll, following in zip(polls, [*polls[1:], None][: len(polls)], strict=True):
        if poll.cause is not None or poll.status == job.final:
            continue
        due = poll.ended + _bound(follow, poll.ended - job.received_at) + SLACK
        if due > follow.ended or _is_excused(scenario, source, follow, poll.ended, due):
            continue
        if following is None or following.began > due:
            gap = (math.inf if following is None else following.began) - poll.ended
            source.service.violate(
                f"10: {job_id} is polled {gap:.1f} s after {poll.ended:.1f}"
                f" for {follow.actor.name}, at the age of {poll.ended - job.received_at:.1f}"
            )


def _check_detection(scenario, source, follow, job_id):
    job = source.service.jobs[job_id]
    end = max(job.ended_at, follow.began)
    if end > follow.ended:
        return
    latency = 2 * scenario.behaviour.latency[1]
    due = end + _bound(follow, end - job.received_at) + SLACK + latency
    due += _longest_deception(scenario, source)
    if not _is_awaited(follow.actor):  # the first poll may wait for the list
        first = follow.began + _longest_wait_for_list(scenario, source)
        due = max(due, first + SLACK + latency)
    if due > follow.ended or _is_excused(scenario, source, follow, end - MAXIMUM - 30, due):
        return
    if _is_saturated(source, end, due):
        return
    polls = [poll for poll in source.polls[job_id] if poll.began >= end - latency]
    seen = next((p.ended for p in polls if p.cause is None and p.status == job.final), math.inf)
    if seen > due:
        source.service.violate(
            f"10: {job_id} ends at {job.ended_at:.1f}, aged {job.ended_at - job.received_at:.1f};"
            f" the poll that sees it, for {follow.actor.name}, ends {seen - end:.1f} s later"
        )


def _longest_deception(scenario, source):
    """Return the seconds for which a wrong list can mislead the watcher.

    Learnt durations can be wrong, and a wrong list can agree with them. Then the watcher notices
    the truth only when it polls some of the listed jobs. If nothing was learnt, a list that is late
    adds its own lag, up to the 1.6 target lags above which it is too late to be used.
    """
    number = scenario.sources.index(source)
    options, behaviour = scenario.watchers[number], scenario.behaviour
    if options["discovery"] == "get":
        return 0.0
    is_wrong = behaviour.listing not in {"honest", "none"}
    is_late = behaviour.list_lag > 0
    if is_wrong or (is_late and options["learnt"]):
        return 10.0
    return min(behaviour.list_lag, 1.6 * TARGET_LAG)


def _is_excused(scenario, source, follow, begin, end):
    """Return whether faults or a short budget may delay polls of a job in this time."""
    behaviour, service = scenario.behaviour, source.service
    options = scenario.watchers[scenario.sources.index(source)]
    fatal = behaviour.fatal is not None and end >= behaviour.fatal_at
    if behaviour.stray or fatal or options["budget"] is not None:
        return True
    if any(p.cause for p in source.polls[follow.job_id] if p.ended >= begin and p.began <= end):
        return True
    if _is_saturated(source, begin, end):
        return True
    if scenario.close_at is not None and end >= scenario.close_at:
        return True
    if _overlap([*service.stops, *behaviour.outages], begin, end + 60.0):
        return True
    buffer = options["buffer"]
    return follow.actor.slow > 0 or (buffer is not None and len(follow.actor.handed) > buffer)


def _is_saturated(source, begin, end):
    """Return whether the semaphore was full for more than half of this time."""
    return _overlap((source.semaphore or source).saturated, begin, end) > (end - begin) / 2


def _overlap(times, begin, end):
    """Return how many seconds from `begin` to `end` lie within at least one of the times."""
    total = 0.0
    for first, last in sorted(times):
        if last > begin:
            total += max(min(end, last) - max(begin, first), 0.0)
            begin = last
    return total
