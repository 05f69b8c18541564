"""What tests can only see from inside: what no public interface shows must not be left behind.

All such accesses are in this module, so that a change of the implementation meets one file.
"""

import asyncio
import gc

import aiohttp

from adepoll.emulator import JobPlan


def timers():
    """Return the timers that are set on the running loop; asyncio lists tasks, but no timers."""
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]


def places_of(entries):
    """Return how many tuples hold one of the entries in a list: the places they take in memory."""
    wanted = {id(entry) for entry in entries}
    holders = [thing for thing in gc.get_objects() if type(thing) is tuple]
    return sum(any(id(item) in wanted for item in holder) for holder in holders)


def sessions():
    """Return the sessions of aiohttp that are open in this process, whoever opened them."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) is aiohttp.ClientSession]
    return [session for session in found if not session.closed]


def at_risk(durations):
    """Return how many jobs count as active: in all, and by the bin of their age.

    `Durations` tells what it learnt, but not of which jobs it still expects to see the end; one
    that stays there for ever would make it learn too long durations.
    """
    by_bin = {number: count for number, count in enumerate(durations._passed) if count}
    return durations._running, by_bin


def on_connection(journal, function, *args):
    """Call a function with a journal's SQLite connection, on its thread: tests fill its disk."""
    return journal._thread.submit(function, journal._database._connection, *args).result()


def end_now(world, job_id):
    """Let an emulated job end now that would never; its plan is fixed when it is submitted."""
    world._jobs[job_id].plan = JobPlan()


def responses_read(connections):
    """Return the responses of which a client or a fetcher reads the body at this moment."""
    owner = getattr(connections, "_transport", connections)
    return getattr(owner, "_connections", owner).reading
