"""Access to private attributes, for tests of states that no public interface shows.

All such accesses are in this module, so that a change of adepoll concerns only one file.
"""

import asyncio
import gc
import types

import aiohttp

from adepoll.emulator import JobPlan


def timers():
    """Return the timers that are set on the running loop; asyncio lists tasks, but no timers."""
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]


def places_of(entries, holder):
    """Return how many tuples that `holder` reaches contain one of the entries."""
    wanted, left, seen, places = set(map(id, entries)), [holder], set(), 0
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, (type, types.FunctionType, types.ModuleType)):
            continue
        seen.add(id(thing))
        parts = gc.get_referents(thing)
        places += type(thing) is tuple and not wanted.isdisjoint(map(id, parts))
        left += [part for part in parts if gc.is_tracked(part) and id(part) not in wanted]
    return places


def sessions():
    """Return the sessions of aiohttp that are open in this process, whoever opened them."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) is aiohttp.ClientSession]
    return [session for session in found if not session.closed]


def at_risk(durations):
    """Return the number of jobs that `durations` counts as active, and their numbers by age bin.

    A job that stays in these numbers forever would make the learnt durations too long.
    """
    by_bin = {number: count for number, count in enumerate(durations._active_changes) if count}
    return durations._running, by_bin


def on_connection(journal, function, *args):
    """Call a function with the SQLite connection of a journal, in the thread of the journal."""
    return journal._thread.submit(function, journal._database._connection, *args).result()


def watched_descriptors():
    """Return the descriptors that the running loop watches: its sockets and pipes."""
    return set(asyncio.get_running_loop()._selector.get_map())


def watcher_of(batch):
    """Return the watcher of an open batch, which has no method to poll a job immediately."""
    return batch._resources.watcher


def clock_of(client):
    """Return the clock of a client; only its time is public."""
    return client._transport.clock


def jobs_of(watch):
    """Return the jobs that a watch has not yielded yet, by id: each takes memory."""
    return watch._subscription._jobs


def entries_of(watch, watcher):
    """Return the number of entries for jobs in a watch and its watcher; each needs memory."""
    subscription, watched_jobs = watch._subscription, watcher._owner.default_polling.watched_jobs
    queue = watched_jobs.poll_queue
    buffered = subscription.buffer.waiting
    tables = (subscription._jobs, subscription.errors, buffered, watched_jobs)
    return sum(map(len, (*tables, queue._heap, queue._unhurried)))


def errors_of(watch):
    """Return the errors that a watch keeps in memory, by job id."""
    return watch._subscription.errors


def plan_of(world, job_id):
    """Return the plan of an emulated job, which no request shows."""
    return world._jobs[job_id].plan


def change_plan(world, job_id, plan):
    """Give an emulated job another plan, which counts from its arrival."""
    world._jobs[job_id].plan = plan


def end_now(world, job_id):
    """End an emulated job now, whatever its plan says."""
    change_plan(world, job_id, JobPlan())


def responses_read(connections):
    """Return the responses of which a client or a fetcher reads the body at this moment."""
    for name in ("_transport", "_storage"):
        connections = getattr(connections, name, connections)
    return connections.reading
