"""Subscriptions without a watcher."""

import asyncio

from adepoll.watching.job_state import JobState
from adepoll.watching.kind_polling import SubscriptionOwner
from adepoll.watching.subscriptions import Ended
from adepoll.watching.watch import WatchSubscription


class FakePolling:
    """Stands for what polls the jobs of a kind: remembers what it was called for."""

    def __init__(self):
        self.calls = []
        self.pollers = self.watched_jobs = self

    def subscribe(self, job_id, key, subscriber, now, *, can_wait):
        return JobState(job_id, key, subscriber.as_tuple, now, now)

    def unsubscribe(self, job_id, subscriber):
        self.calls.append(f"unsubscribe {job_id}")
        return []

    def keys_in_flight(self):
        return []

    def pump(self):
        """Poll nothing."""


class FakeOwner(SubscriptionOwner):
    """What a subscription needs of a watcher."""

    def __init__(self):
        super().__init__(source=None, options=None, durations={})

    def add_kind(self, kind):
        polling = self.by_kind[kind] = FakePolling()
        return polling


class FakeSubscription(WatchSubscription):
    """A subscription that never reads ids: remembers when its life cycle is called for."""

    @property
    def calls(self):
        return self._owner.default_polling.calls

    def open_ids(self):
        """Return the ids of the jobs that are still watched."""
        return [job_id for job_id, last in self._jobs.items() if not isinstance(last, Ended)]

    def start(self):
        self._loop = asyncio.get_running_loop()
        self.calls.append("start")

    def close(self):
        self.ready.set()
        if "close" not in self.calls:  # as a subscription, it may be closed again
            self.calls.append("close")
        return []

    def close_soon(self):
        self.calls.append("close soon")


def subscription_of(*job_ids, limit=10, **options):
    """Return a subscription to jobs that reads no ids."""
    subscription = FakeSubscription(FakeOwner(), (), limit=limit, **options)
    for job_id in job_ids:
        add_id(subscription, job_id)
    return subscription


def add_id(subscription, job_id):
    """Do what a subscription does with an id that it reads."""
    subscription._add(job_id, 0.0)
