"""Places of a semaphore, in virtual time: a host that hangs does not keep all of them."""

import asyncio
import math
from contextlib import suppress
from random import Random

import pytest
from internals import timers
from watching import free_slots, now

from adepoll.emulator import run
from adepoll.errors import AnswerTimeoutError
from adepoll.throttling.hosts import Host, Sent
from adepoll.throttling.places import (
    Places,
    SlowHostLimits,
    UseBySemaphore,
    error_of_ended,
)
from adepoll.throttling.rate_limiter import RateLimiter
from adepoll.throttling.request_sender import RequestSender
from adepoll.throttling.waiting_times import RetryPolicy
from adepoll.watching.turns import Semaphore


class Wrapped:
    """A wrapper of a semaphore, like those of a watcher; it measures nothing."""

    def __init__(self, semaphore):
        self.semaphore = semaphore

    async def __aenter__(self):
        await self.semaphore.__aenter__()

    async def __aexit__(self, *raised):
        return await self.semaphore.__aexit__(*raised)

    def sent(self, task, now):
        pass

    def waits_again(self, task, now):
        pass


class Requests:
    """Requests to the hosts `good` and `bad`, which hold a semaphore."""

    def __init__(self, semaphore):
        self.semaphore = semaphore
        limiter = RateLimiter(rng=Random(1))
        self.sender = RequestSender(limiter, rng=Random(1))
        self.good, self.bad = (limiter.hosts.get(f"https://{name}.test") for name in "ab")
        self.in_flight = {self.good: 0, self.bad: 0}
        self.most = 0
        self.tasks = []

    async def send(self, host, seconds, *, semaphore=None, job_id=None, bytes_every=None):
        """Send a request whose answer takes `seconds`; return for how long it waited."""

        async def answer(sent):
            self.in_flight[host] += 1
            self.most = max(self.most, sum(self.in_flight.values()))
            try:
                while (left := sent.at + seconds - now()) > 0:
                    await asyncio.sleep(min(left, bytes_every or left))
                    sent.heard_at = now() if bytes_every else sent.heard_at
                return sent.at
            finally:
                self.in_flight[host] -= 1

        began = now()
        semaphore = semaphore or self.semaphore
        return await self.sender.call_once(answer, host, semaphore, job_id=job_id) - began

    def start(self, host, seconds, **options):
        task = asyncio.create_task(self.send(host, seconds, **options))
        self.tasks.append(task)
        return task

    async def warm_up(self, count):
        """Make the window of the budget large enough for `count` requests."""
        for _ in range(8):
            await asyncio.gather(*[self.send(self.good, 0.1) for _ in range(count)])

    async def end(self):
        for task in self.tasks:
            task.cancel()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize("make", [Semaphore, asyncio.Semaphore])
def test_a_host_that_hangs_keeps_half_of_the_places(make):
    async def main():
        semaphore = make(8)
        requests = Requests(semaphore)
        await requests.warm_up(8)
        hanging = [requests.start(requests.bad, 30.0, job_id=f"j-{n}") for n in range(20)]
        await asyncio.sleep(0.1)
        assert requests.in_flight == {requests.good: 0, requests.bad: 8}
        assert await requests.send(requests.good, 0.1) <= 3.0
        assert requests.in_flight[requests.bad] == 4
        for _ in range(10):
            waits = await asyncio.gather(*[requests.send(requests.good, 0.1) for _ in range(4)])
            assert max(waits) == 0.0
        assert requests.in_flight[requests.bad] == 4
        assert requests.most == 8
        ended = [task.exception() for task in hanging if task.done()]
        assert [(type(error), error.timeout) for error in ended] == [(AnswerTimeoutError, 3.0)] * 4
        assert str(ended[0]) == "job j-4: no complete answer within 3 s"
        await requests.end()
        assert all(task.cancelled() or task.exception() for task in hanging)
        assert await free_slots(semaphore) == 8 if make is asyncio.Semaphore else True

    run(main())


def test_half_of_the_places_is_enough_for_a_slow_host():
    """No request of a slow host fails after the first ones, and its answers are used."""

    async def main():
        requests = Requests(Semaphore(4))
        await requests.warm_up(4)
        began = now()
        slow = [requests.start(requests.bad, 5.0) for _ in range(12)]
        await asyncio.sleep(0.1)
        while not all(task.done() for task in slow):
            assert await requests.send(requests.good, 0.1) <= 3.0
            assert now() < began + 60, "the slow requests have no place"
        failed = [task for task in slow if task.exception()]
        assert len(failed) == 2  # two of the four requests that were in flight first
        assert now() - began == pytest.approx(25.0, abs=0.2)  # ten answers of 5 s by two places
        assert not requests.bad.outage.failures
        assert requests.bad.in_flight == 0

    run(main())


def test_requests_that_begin_later_do_not_postpone_the_end_of_a_slow_one():
    async def main():
        requests = Requests(Semaphore(4))
        await requests.warm_up(4)
        began = now()
        slow = [requests.start(requests.bad, 30.0) for _ in range(3)]

        async def keep_sending():
            while now() < began + 4:
                await requests.send(requests.good, 0.01)

        await asyncio.gather(keep_sending(), keep_sending())
        assert [task.done() for task in slow] == [False, False, True]
        await requests.end()

    run(main())


def test_two_hosts_use_a_single_place_by_turns_while_one_hangs():
    async def main():
        requests = Requests(Semaphore(1))
        for number in range(40):
            requests.start(requests.bad, 30.0, job_id=f"j-{number % 5}")
        await asyncio.sleep(0.1)
        waits = []
        while now() < 300:
            waits.append(await requests.send(requests.good, 0.1))
            await asyncio.sleep(1)
        assert max(waits) <= 10.1
        assert sum(waits) / 300 < 0.35  # the place belongs to the good host for two thirds
        assert requests.bad.is_down
        await requests.end()

    run(main())


def test_a_single_place_is_left_to_a_slow_host_until_it_answers():
    async def main():
        requests = Requests(Semaphore(1))
        answered = 0

        async def poll_again():
            nonlocal answered
            while True:
                with suppress(AnswerTimeoutError):
                    await requests.send(requests.bad, 8.0, job_id="a")
                    answered += 1

        requests.tasks.append(asyncio.create_task(poll_again()))
        await asyncio.sleep(0.1)
        while now() < 150:
            assert await requests.send(requests.good, 0.1) <= 10.1
            await asyncio.sleep(0.1)
        assert answered >= 3
        await requests.end()

    run(main())


def test_any_host_may_hold_all_places_while_both_answer():
    async def main():
        requests = Requests(Semaphore(4))
        await requests.warm_up(4)
        began = now()
        hosts = [requests.good, requests.bad] * 20
        await asyncio.gather(*[requests.send(host, 0.1) for host in hosts])
        assert now() - began == pytest.approx(40 / 4 * 0.1)
        began = now()
        await asyncio.gather(*[requests.send(requests.bad, 2.0) for _ in range(8)])
        assert now() - began == pytest.approx(2 * 2.0)

    run(main())


def test_a_request_that_receives_bytes_is_not_ended():
    async def main():
        requests = Requests(Semaphore(1))
        large = requests.start(requests.bad, 20.0, bytes_every=1.0)
        await asyncio.sleep(0.1)
        assert await requests.send(requests.good, 0.1) == pytest.approx(19.9)
        assert await large == 0.0

    run(main())


def test_a_host_that_was_slow_may_hold_all_places_again_after_a_minute():
    async def main():
        requests = Requests(Semaphore(4))
        await requests.warm_up(8)
        for _ in range(4):
            requests.start(requests.bad, 10.0)
        await asyncio.sleep(0.1)
        await requests.send(requests.good, 0.1)
        await requests.end()
        await asyncio.sleep(61.0)
        await asyncio.gather(*[requests.send(requests.bad, 0.1) for _ in range(4)])
        in_flight = [requests.start(requests.bad, 1.0) for _ in range(4)]
        await asyncio.sleep(0.5)
        assert requests.in_flight[requests.bad] == 4
        await asyncio.gather(*in_flight)

    run(main())


def test_a_wait_of_a_moment_ends_no_request_to_a_slow_host():
    async def main():
        requests = Requests(Semaphore(3))
        await requests.warm_up(4)
        slow = [requests.start(requests.bad, 6.0) for _ in range(2)]
        await asyncio.sleep(4.0)
        requests.start(requests.good, 0.03)
        await asyncio.sleep(0.01)
        assert await requests.send(requests.good, 0.1) == pytest.approx(0.02)
        assert await asyncio.gather(*slow) == [0.0, 0.0]

    run(main())


def test_a_host_that_is_alone_is_never_limited():
    async def main():
        requests = Requests(Semaphore(2))
        await asyncio.gather(*[requests.send(requests.bad, 29.0) for _ in range(6)])
        assert now() == pytest.approx(3 * 29.0)

    run(main())


def test_requests_with_other_semaphores_are_not_ended():
    async def main():
        requests = Requests(Semaphore(1))
        await requests.warm_up(4)
        slow = [requests.start(requests.bad, 20.0, semaphore=Semaphore(1)) for _ in range(3)]
        for _ in range(40):
            await asyncio.gather(*[requests.send(requests.good, 0.1) for _ in range(3)])
        assert await asyncio.gather(*slow) == [0.0] * 3

    run(main())


def test_wrappers_of_one_semaphore_share_its_places():
    async def main():
        requests = Requests(None)
        semaphore = Semaphore(1)
        requests.start(requests.bad, 30.0, semaphore=Wrapped(semaphore))
        await asyncio.sleep(0.1)
        assert await requests.send(requests.good, 0.1, semaphore=Wrapped(semaphore)) <= 3.0
        await requests.end()

    run(main())


def test_a_cancelled_request_stays_cancelled_when_it_is_ended_early():
    async def main():
        requests = Requests(Semaphore(1))
        hanging = requests.start(requests.bad, 30.0)
        await asyncio.sleep(0.1)
        waiting = requests.start(requests.good, 0.1)
        await asyncio.sleep(2.9 - 1e-9)
        hanging.cancel()
        await asyncio.gather(*requests.tasks, return_exceptions=True)
        assert hanging.cancelled()
        assert waiting.result() <= 3.0

    run(main())


def test_callers_that_were_cancelled_leave_no_timer_and_no_place():
    async def main():
        semaphore = asyncio.Semaphore(2)
        requests = Requests(semaphore)
        for _ in range(3):
            requests.start(requests.bad, 30.0)
        await asyncio.sleep(0.1)
        for _ in range(3):
            requests.start(requests.good, 30.0)
        await asyncio.sleep(10)
        await requests.end()
        assert await free_slots(semaphore) == 2
        assert not timers()

    run(main())


# --- at the bounds ------------------------------------------------------------------------------


class Given:
    """A `Places` with requests and callers that a test places by hand."""

    def __init__(self):
        self.places = Places()
        waits = RetryPolicy().waits
        self.good, self.bad = (Host(lambda: waits(Random(0)), origin=name) for name in "ab")
        self.semaphore = asyncio.Semaphore(9)
        for host in (self.good, self.bad):
            self.places.place(host, self.semaphore)  # from now on, two hosts are known

    def hold(self, host, *, at=None, heard_at=-math.inf):
        """Add a request that holds a place; return it and its task."""
        task = asyncio.create_task(asyncio.sleep(1_000))
        sent = Sent(now() if at is None else at, 0, host, is_probe=False, task=task)
        sent.heard_at = heard_at
        self.places.holders[sent] = None
        return sent

    def wait(self, host):
        """Let a caller wait for a place that is not free."""

        async def enter():
            async with self.places.place(host, Locked()):
                pass

        return asyncio.create_task(enter())

    def ended(self, sent):
        """Let a request end, as `RateLimiter` does."""
        del self.places.holders[sent]
        if self.places.waiting:
            self.places.wake_first()

    async def end(self, *tasks):
        for task in (*tasks, *[sent.task for sent in self.places.holders]):
            task.cancel()
        await asyncio.sleep(0.01)


class Locked:
    """A semaphore that never has a free place."""

    async def __aenter__(self):
        await asyncio.get_running_loop().create_future()

    async def __aexit__(self, *raised):
        """Release nothing."""


def test_the_semaphore_itself_is_held_while_callers_name_one_host():
    async def main():
        given = Given()
        places, semaphore = Places(), asyncio.Semaphore(1)
        assert places.place(given.bad, semaphore) is semaphore
        assert places.place(given.bad, semaphore) is semaphore
        assert places.only_host is given.bad
        given.bad.slow_down(now())
        assert places.allows(given.bad)
        assert places.place(given.good, semaphore) is not semaphore
        assert places.only_host is None
        assert places.place(given.bad, semaphore) is not semaphore
        assert places.allows(given.bad)

    run(main())


@pytest.mark.parametrize(("held", "ended"), [(8, 4), (5, 3), (3, 2), (2, 1), (1, 1)])
def test_the_newest_requests_beyond_half_of_the_places_are_ended(held, ended):
    async def main():
        given = Given()
        holders = [given.hold(given.bad) for _ in range(held)]
        waiting = given.wait(given.good)
        await asyncio.sleep(2.99)
        assert not any(sent.task.cancelling() for sent in holders)
        await asyncio.sleep(0.02)
        cancelled = [sent.ended_after is not None for sent in holders]
        assert cancelled == [False] * (held - ended) + [True] * ended
        assert [sent.task.done() for sent in holders] == cancelled
        early = [sent.ended_after for sent in holders[held - ended :]]
        assert early == pytest.approx([3.0] * ended)
        # Only if there is a single place, the end of a request says that the host is slow.
        assert {sent.shows_outage for sent in holders[held - ended :]} == {held == 1}
        assert given.bad.slow_until == pytest.approx(63.0)
        assert given.good.slow_until == -math.inf
        await given.end(waiting)

    run(main())


def test_a_request_is_ended_three_seconds_after_its_last_bytes():
    async def main():
        given = Given()
        first, second = given.hold(given.bad), given.hold(given.bad)
        second.heard_at = 1.5
        waiting = given.wait(given.good)
        await asyncio.sleep(4.49)
        assert (first.ended_after, second.ended_after) == (None, None)
        await asyncio.sleep(0.02)
        assert (first.ended_after, second.ended_after) == (None, pytest.approx(3.0))
        await given.end(waiting)

    run(main())


def test_requests_to_the_other_host_do_not_count_as_requests_to_the_slow_one():
    async def main():
        given = Given()
        holders = [given.hold(host) for host in (given.good, given.good, given.bad, given.bad)]
        waiting = given.wait(given.good)
        await asyncio.sleep(3.01)
        assert [sent.ended_after for sent in holders] == [None] * 4
        assert given.bad.slow_until > now()
        waiting.cancel()
        given.bad.slow_until = now()
        assert given.places.allows(given.bad), "the host is slow until before this time"
        given.bad.slow_down(now())
        assert not given.places.allows(given.bad)
        waiting = given.wait(given.bad)  # waits until the slow host may have one more request
        await asyncio.sleep(10)
        assert given.good.slow_until == -math.inf
        await given.end(waiting)

    run(main())


def test_a_request_that_its_caller_has_cancelled_does_not_count_as_ended_by_a_slow_host():
    async def main():
        given = Given()
        first, second = given.hold(given.bad), given.hold(given.bad)
        waiting = given.wait(given.good)

        async def closing():
            try:
                await asyncio.sleep(1_000)
            finally:
                await asyncio.sleep(5)

        second.task.cancel()
        second.task = asyncio.create_task(closing())
        await asyncio.sleep(1)
        second.task.cancel()
        await asyncio.sleep(3)
        assert (first.ended_after, second.ended_after) == (None, None)
        assert not second.task.done()
        await given.end(waiting)

    run(main())


def test_a_host_is_slow_when_its_oldest_request_is_three_seconds_old():
    async def main():
        given = Given()
        first = given.hold(given.bad)
        await asyncio.sleep(2.0)
        second = given.hold(given.bad)
        waiting = given.wait(given.good)
        await asyncio.sleep(1.1)
        assert given.bad.slow_until == pytest.approx(63.0, abs=0.1)
        await asyncio.sleep(1.8)
        assert (first.ended_after, second.ended_after) == (None, None)
        await asyncio.sleep(0.2)
        assert (first.ended_after, second.ended_after) == (None, pytest.approx(3.0))
        await given.end(waiting)

    run(main())


def test_requests_are_ended_only_while_a_caller_of_another_host_waits_for_a_place():
    async def main():
        given = Given()
        holders = [given.hold(given.bad) for _ in range(4)]
        same = given.wait(given.bad)
        await asyncio.sleep(10)
        assert not any(sent.task.done() for sent in holders)
        other = given.wait(given.good)
        await asyncio.sleep(0.04)
        assert not any(sent.task.done() for sent in holders), "its wait may end in a moment"
        await asyncio.sleep(0.02)
        assert [sent.task.done() for sent in holders] == [False, False, True, True]
        await given.end(same, other)

    run(main())


@pytest.mark.parametrize(("held", "allowed"), [(0, True), (1, True), (2, False), (3, False)])
def test_a_slow_host_may_hold_half_of_the_most_places_for_a_minute(held, allowed):
    async def main():
        given = Given()
        before = [given.hold(given.good) for _ in range(5)]
        waiting = given.wait(given.bad)
        await asyncio.sleep(0.06)  # five places were held while a caller waited
        await given.end(waiting)
        given.places.holders.clear()
        given.bad.slow_down(now())
        for _ in range(held):
            given.hold(given.bad)
        given.hold(given.good)
        assert given.places.allows(given.bad) is allowed
        assert given.places.allows(given.good)
        await asyncio.sleep(59.9)
        assert given.places.allows(given.bad) is allowed
        await asyncio.sleep(0.2)
        assert given.places.allows(given.bad)
        await given.end(*[sent.task for sent in before])

    run(main())


@pytest.mark.parametrize(
    ("silent_for", "rest", "patience"), [(3.0, 6.0, 4.5), (4.5, 9.0, 6.75), (8.0, 16.0, 10.0)]
)
def test_after_a_request_was_ended_the_host_rests_and_gets_more_time(silent_for, rest, patience):
    limits = SlowHostLimits()
    assert (limits.rests_until, limits.patience) == (-math.inf, 3.0)
    limits.ended(100.0, silent_for)
    assert (limits.rests_until, limits.patience) == (100.0 + rest, patience)


def test_a_single_place_is_refused_to_a_slow_host_while_it_rests():
    async def main():
        given = Given()
        sent = given.hold(given.bad)
        waiting = given.wait(given.good)
        await asyncio.sleep(3.01)
        assert sent.ended_after == pytest.approx(3.0)
        given.ended(sent)
        await given.end(waiting)
        ended_at = 3.0
        assert not given.places.allows(given.bad)
        await asyncio.sleep(ended_at + 2 * 3.0 - now() - 0.01)
        assert not given.places.allows(given.bad)
        await asyncio.sleep(0.02)
        assert given.places.allows(given.bad)

    run(main())


def test_held_back_callers_continue_one_by_one_for_each_host():
    async def main():
        given = Given()
        holders = [given.hold(given.bad) for _ in range(4)]
        waiting = given.wait(given.good)
        await asyncio.sleep(3.01)
        entered = []

        async def enter(name):
            async with given.places.place(given.bad, asyncio.Semaphore(9)):
                entered.append(name)
                given.hold(given.bad)
                await asyncio.sleep(100)

        callers = [asyncio.create_task(enter(name)) for name in "xyz"]
        await asyncio.sleep(0.1)
        assert entered == []
        for number, sent in enumerate(holders[2:] + holders[:1]):
            given.ended(sent)
            await asyncio.sleep(0.01)
            assert entered == ([] if number < 2 else ["x"])
        await given.end(waiting, *callers)

    run(main())


def test_the_places_of_semaphores_that_nobody_uses_are_forgotten():
    async def main():
        known, given = UseBySemaphore(), Given()
        idle, used, waited, new = (asyncio.Semaphore(1) for _ in range(4))
        for semaphore in (idle, used, waited):
            _ = known[semaphore]
        sent = Sent(0.0, 0, given.bad, is_probe=False)
        places = known[used].places
        places.holders[sent] = None
        assert not places.is_idle
        waiting_places = known[waited].places
        waiting_places.waiting["a caller"] = None
        assert not waiting_places.is_idle
        _ = known[new]
        assert used in known
        assert waited in known
        assert idle not in known
        assert known[used].places is places

    run(main())


@pytest.mark.parametrize(
    ("ended_after", "cancels", "timeout"), [(None, 1, None), (3.04, 1, 3.0), (3.04, 2, None)]
)
def test_only_a_request_that_was_ended_early_and_not_cancelled_is_a_timeout(
    ended_after, cancels, timeout
):
    async def main():
        task = asyncio.create_task(asyncio.sleep(9))
        sent = Sent(0.0, 0, None, is_probe=False, task=task, ended_after=ended_after)
        for _ in range(cancels):
            task.cancel()
        error = error_of_ended(sent, "j-1")
        assert (error and error.timeout) == timeout
        assert error is None or error.job_id == "j-1"
        await asyncio.sleep(0.01)

    run(main())
