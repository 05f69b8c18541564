"""The hosts of the service and their queues by themselves, in virtual time."""

import asyncio
import logging
import math

import pytest
from internals import timers

from adepoll.emulator import run
from adepoll.errors import AnswerTimeoutError, ConnectionFailedError, ServerError
from adepoll.throttling.hosts import Caller, Host, Hosts


def waits():
    while True:
        yield 10.0


def two_hosts():
    hosts = Hosts(waits)
    return hosts, hosts.get("https://a.test"), hosts.get("https://b.test")


def caller_of(host, give_up_at=math.inf):
    return Caller(host, give_up_at, asyncio.get_running_loop().create_future())


def send(host, now):
    """Count a request as in flight, as `RateLimiter.start` does."""
    host.silent_since = host.silent_since if host.in_flight else now
    host.in_flight += 1


def fail(host, count=10, *, now=0.0):
    """Let requests about different jobs fail; return whether an outage began with the last one."""
    begins = None
    for number in range(count):
        error = ServerError(status=502, job_id=f"j-{number}")
        begins = host.record_failure(error, now, is_probe=False)
    return begins


def in_loop(script):
    async def main():
        script()

    run(main())


@pytest.mark.parametrize(
    ("origin", "name"), [("", "the service"), ("https://h", "the service at https://h")]
)
def test_a_host_has_a_name_for_messages(origin, name):
    host = Host(waits, origin=origin)
    assert host.name == name
    assert fail(host)
    error = host.error()
    assert name in str(error)
    assert error.__cause__ is None or error.__cause__ is host.last_failure


def test_the_last_failure_is_forgotten_with_a_success():
    host = Host(waits)
    fail(host, 1)
    assert host.last_failure.status == 502
    host.record_success()
    assert host.last_failure is None


@pytest.mark.parametrize(
    ("error", "is_logged"),
    [
        (ConnectionFailedError("no route", job_id="a"), True),
        (AnswerTimeoutError(timeout=3.0, job_id="a"), True),
        (ServerError(status=502, job_id="a"), False),
    ],
)
def test_the_first_failure_without_a_response_is_logged_at_most_once_a_minute(
    error, is_logged, caplog
):
    caplog.set_level(logging.INFO, logger="adepoll")
    host, lines = Host(waits), []
    for now in (0.0, 59.9, 60.0, 61.0):
        host.record_failure(error, now, is_probe=False)
        lines.append(len(caplog.records))
        host.record_success()
    assert lines == ([1, 1, 2, 2] if is_logged else [0] * 4)
    host.record_failure(error, 200.0, is_probe=False)
    host.record_failure(error, 300.0, is_probe=False)
    assert len(caplog.records) == (3 if is_logged else 0), "only the first one in a row"


def test_an_outage_and_its_end_are_logged_with_their_numbers(caplog):
    caplog.set_level(logging.INFO, logger="adepoll")
    host = Host(waits)
    assert not fail(host, 9)
    assert fail(host, 1)
    host.record_success()
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("the service is down: 10 requests in a row failed")
    assert second == "the service works again, after 10 failed requests"


def test_a_host_that_slows_down_is_logged_once_a_minute(caplog):
    caplog.set_level(logging.INFO, logger="adepoll")
    host, untils = Host(waits), []
    for now in (0.0, 30.0, 89.9, 150.0):
        host.slow_down(now)
        untils.append((host.slow_until, len(caplog.records)))
    assert untils == [(60.0, 1), (90.0, 1), (149.9, 1), (210.0, 2)]


def test_callers_move_to_the_queue_of_their_host_and_back_in_their_order():
    def script():
        hosts, one, two = two_hosts()
        callers = [caller_of(host) for host in (one, two, one, two)]
        for caller in callers:
            hosts.add(caller)
        hosts.hold_back(one)
        hosts.hold_back(one)
        assert (one.holds_back, hosts.holding_back) == (True, [one])
        assert [*one.held_back] == [callers[0], callers[2]]
        assert [*hosts.waiting] == [callers[1], callers[3]]
        late = caller_of(one)
        hosts.add(late)
        assert [*one.held_back][-1] is late
        assert (one.waiting, two.waiting) == (3, 2)
        hosts.let_go(one)
        assert [*hosts.waiting] == [callers[0], callers[2], late, callers[1], callers[3]]
        assert (one.holds_back, hosts.holding_back, len(one.held_back)) == (False, [], 0)

    in_loop(script)


@pytest.mark.parametrize(
    ("gate", "slow", "is_down", "let_go", "sent_nothing"),
    [
        (-math.inf, -math.inf, False, True, True),
        (100.0, -math.inf, False, True, True),
        (100.1, -math.inf, False, False, False),
        (-math.inf, 100.0, False, True, False),
        (-math.inf, 100.1, False, False, False),
        (99.0, 98.0, False, True, False),
        (-math.inf, -math.inf, True, False, False),
    ],
)
def test_a_host_is_let_go_when_it_is_up_and_not_slow_and_its_gate_is_open(
    gate, slow, is_down, let_go, sent_nothing
):
    hosts, one, _ = two_hosts()
    hosts.hold_back(one)
    one.gate_opens_at, one.slow_until = gate, slow
    if is_down:
        fail(one)
    assert hosts.let_go_recovered(100.0) is sent_nothing
    assert one.holds_back is not let_go
    if let_go:
        assert one.slow_until == -math.inf


def test_callers_that_are_done_are_dropped_from_the_heads_of_all_queues():
    def script():
        hosts, one, two = two_hosts()
        callers = [caller_of(host) for host in (one, two, one, two, two)]
        hosts.hold_back(one)
        for caller in callers:
            hosts.add(caller)
        for number in (0, 1, 4):
            callers[number].turn.cancel()
        hosts.drop_done()
        assert [*one.held_back] == [callers[2]]
        assert [*hosts.waiting] == [callers[3], callers[4]]

    in_loop(script)


@pytest.mark.parametrize(("limit", "woken"), [(0, []), (1, [1]), (2, [1, 2]), (9, [1, 2, 3])])
def test_the_first_callers_that_still_wait_are_woken(limit, woken):
    def script():
        hosts, one, _ = two_hosts()
        callers = [caller_of(one) for _ in range(4)]
        for caller in callers:
            hosts.add(caller)
        callers[0].turn.cancel()
        assert hosts.wake_first(hosts.waiting, limit, 7.0) == hosts.woken == len(woken)
        done = [n for n, c in enumerate(callers) if c.turn.done() and not c.turn.cancelled()]
        assert done == woken
        assert all(callers[number].turn.result() == 7.0 for number in woken)
        hosts.release(callers[0])
        hosts.release(callers[3])
        hosts.release(callers[3])
        assert callers[3].turn.result() == (7.0 if limit == 9 else math.inf)
        assert hosts.woken == len(woken) + (limit != 9)

    in_loop(script)


def test_callers_give_up_in_an_outage_within_a_second_of_their_time():
    async def main():
        hosts, one, two = two_hosts()
        for host in (one, two):
            hosts.hold_back(host)
        fail(one)
        callers = [caller_of(one, 0.0), caller_of(one, 1.5), caller_of(one), caller_of(two, 0.0)]
        for caller in callers:
            hosts.add(caller)
        hosts.check_expired()
        hosts.check_expired()
        done = []
        for _ in range(4):
            done.append([caller.turn.done() for caller in callers])
            assert len(timers()) <= 2, "one timer for all, and that of this test"
            await asyncio.sleep(0.99)
        assert done == [
            [True, False, False, False],
            [True, False, False, False],
            [True, False, False, False],
            [True, True, False, False],
        ]
        await asyncio.sleep(2.0)
        assert not timers()

    run(main())


@pytest.mark.parametrize(
    ("in_flight", "held_back", "now", "expected"),
    [
        (1, False, 3.0, ("a", 3.0)),
        (1, False, 2.9, (None, 3.0)),
        (0, False, 9.0, (None, math.inf)),
        (1, True, 9.0, (None, math.inf)),
    ],
)
def test_a_host_is_silent_after_three_seconds_without_a_response(
    in_flight, held_back, now, expected
):
    hosts, one, _ = two_hosts()
    for _ in range(in_flight):
        send(one, 0.0)
    one.holds_back = held_back
    host, again = hosts.silent(now)
    assert (host and "a", again) == expected


@pytest.mark.parametrize(
    ("waiting", "held_back", "delays"),
    [((0, 1), False, True), ((1, 1), False, True), ((1, 0), False, False), ((0, 1), True, False)],
)
def test_a_host_delays_the_callers_of_another_that_wait_in_the_queue_of_all(
    waiting, held_back, delays
):
    hosts, one, two = two_hosts()
    one.waiting, two.waiting = waiting
    two.holds_back = held_back
    assert hosts.delays_others(one) is delays


def test_the_next_check_is_that_of_the_host_that_is_silent_first():
    hosts, one, two = two_hosts()
    send(one, 2.0)
    send(two, 1.0)
    assert hosts.silent(3.0) == (None, 4.0)
    assert hosts.silent(4.0) == (two, 4.0)


def test_a_host_is_silent_again_after_three_more_seconds_unless_it_delays_another():
    hosts, one, two = two_hosts()
    send(one, 0.0)
    one.released_at = 5.0
    assert hosts.silent(7.9) == (None, 8.0)
    assert hosts.silent(8.0) == (one, 8.0)
    two.waiting = 1
    assert hosts.silent(6.0) == (one, 6.0)
    assert hosts.get("https://a.test") is one


def test_the_worst_host_has_the_most_failures():
    hosts, one, two = two_hosts()
    fail(one, 2)
    fail(two, 3)
    assert hosts.worst is two
    assert not hosts.is_outage
    fail(one, 10)
    assert (hosts.worst, hosts.is_outage) == (one, True)
    assert Hosts(waits).worst is None


def test_another_thread_may_read_the_state_of_the_hosts_while_one_is_added():
    hosts, one, _ = two_hosts()

    class Outage:
        @property
        def failures(self):
            hosts.get(f"https://{len(hosts._by_origin)}.test")
            return 0

        is_on = failures

    one.outage = Outage()
    assert hosts.worst is one
    assert not hosts.is_outage
    assert len(hosts._by_origin) == 4
