"""A pool of tenants on its own; tests/contrib tests it in servers."""

import asyncio
import math
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from adepoll import AdeClient, ConfigurationError, ResultFetcher
from adepoll.errors import ClosedError, TooManyTenantsError
from adepoll.server.health import Condition
from adepoll.server.tenant_pool import TenantPool


@asynccontextmanager
async def opened(**options):
    pool = TenantPool(**options)
    try:
        yield pool
    finally:
        await pool.aclose()


async def sleep_until(seconds):
    """Sleep until that many seconds after the start of the virtual time."""
    await asyncio.sleep(seconds - asyncio.get_running_loop().time())


@pytest.mark.parametrize("key", ["no key", "no-utf-8-\udc80"])
async def test_a_key_that_cannot_be_used_closes_no_other_tenant(key):
    async with opened(limit=1) as pool:
        open_before = pool.get("key-1")
        with pytest.raises(ConfigurationError):
            pool.get(key)
        assert pool.get("key-1") is open_before
        assert pool.get("key-2") is not open_before
        assert len(pool) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit must be positive, got 0"),
        ({"limit": math.nan}, "limit must be positive, got nan"),
        ({"idle_after": 0}, "idle_after must be a positive number, got 0"),
        ({"idle_after": -1.0}, "idle_after must be a positive number, got -1.0"),
        ({"idle_after": math.inf}, "idle_after must be a positive number, got inf"),
        ({"idle_after": math.nan}, "idle_after must be a positive number, got nan"),
    ],
)
async def test_limits_are_positive(options, message):
    with pytest.raises(ValueError, match=message):
        TenantPool(**options)


def test_an_unused_tenant_is_closed_after_some_time(replay):
    async def script():
        start = asyncio.get_running_loop().time()
        async with opened(idle_after=100.0) as pool:
            client = pool.get("key-1").client
            await sleep_until(start + 30)
            pool.get("key-2")
            await sleep_until(start + 99)
            assert pool.health().stats == {"tenants": 2}
            await sleep_until(start + 100.5)  # it looks for unused tenants every 25 seconds
            assert len(pool) == 1
            with pytest.raises(ClosedError):
                await client.get_job("a")
            await sleep_until(start + 149)
            assert len(pool) == 1
            await sleep_until(start + 150.5)
            assert len(pool) == 0
            await sleep_until(start + 1_000)
            assert pool.get("key-1").client is not client
            await sleep_until(start + 1_099)
            assert len(pool) == 1
            await sleep_until(start + 1_100.5)
            assert len(pool) == 0

    replay(script)


def test_each_use_makes_a_tenant_last_longer(replay):
    async def script():
        start = asyncio.get_running_loop().time()
        async with opened(idle_after=100.0) as pool:
            resources = pool.get("key-1")
            await sleep_until(start + 40)
            assert pool.get("key-1") is resources  # used at 40
            await sleep_until(start + 126)
            assert len(pool) == 1
            async with resources.until_stopped():  # in use until 260
                await sleep_until(start + 260)
                assert len(pool) == 1
            await sleep_until(start + 349)
            assert len(pool) == 1
            await sleep_until(start + 351)  # 100 seconds after 250, the last check while in use
            assert len(pool) == 0

    replay(script)


def test_the_least_recently_used_tenant_makes_room(replay):
    async def script():
        async with opened(limit=3) as pool:
            first, second, third = (pool.get(f"key-{number}") for number in (1, 2, 3))
            assert len(pool) == 3
            assert pool.get("key-1") is first
            pool.get("key-4")
            assert len(pool) == 3
            await asyncio.sleep(1)
            assert (first.is_stopping, second.is_stopping) == (False, True)
            async with AsyncExitStack() as uses:
                await uses.enter_async_context(third.until_stopped())
                pool.get("key-5")
                await asyncio.sleep(1)
                assert (first.is_stopping, third.is_stopping) == (True, False)
                for key in ("key-4", "key-5"):
                    await uses.enter_async_context(pool.get(key).until_stopped())
                with pytest.raises(TooManyTenantsError, match="3"):
                    pool.get("key-6")
                assert len(pool) == 3
                assert pool.get("key-4")

    replay(script)


def test_a_stopping_pool_opens_no_tenant(replay):
    async def script():
        async with opened(grace=5.0) as pool:
            resources = pool.get("key-1")
            assert pool.health().condition is Condition.OK
            pool.stop()
            assert pool.health().condition is Condition.CLOSED
            assert resources.is_stopping
            for key in ("key-1", "key-2"):
                with pytest.raises(ClosedError, match="stopping"):
                    pool.get(key)
            assert len(pool) == 1
        assert len(pool) == 0
        with pytest.raises(ClosedError):
            await resources.client.get_job("a")

    replay(script)


def test_a_tenant_has_the_client_of_its_key(replay):
    async def script():
        clients = {}

        def connect(name):
            clients[name] = AdeClient(f"key-of-{name}")
            return clients[name]

        async with opened(client=connect) as pool:
            assert pool.get("a").client is clients["a"]
            assert pool.get("b").client is clients["b"]
            assert pool.get("a").client is clients["a"]
            assert [*clients] == ["a", "b"]

    replay(script)


async def test_a_cancelled_close_still_waits_until_all_tenants_are_closed():
    may_close, closing, closed = asyncio.Event(), asyncio.Event(), []

    class SlowFetcher(ResultFetcher):
        async def aclose(self):
            closing.set()
            await may_close.wait()
            await super().aclose()
            closed.append(self)

    pool = TenantPool(fetcher=SlowFetcher)
    pool.get("key-1")
    task = asyncio.create_task(pool.aclose())
    await closing.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(may_close.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(closed) == 1
