"""A pool of tenants on its own; tests/contrib tests it in servers."""

import pytest

from adepoll import ConfigurationError
from adepoll.server.tenant_pool import TenantPool


async def test_a_key_that_cannot_be_used_closes_no_other_tenant():
    pool = TenantPool(limit=1)
    try:
        open_before = pool.get("key-1")
        with pytest.raises(ConfigurationError):
            pool.get("no key")
        assert pool.get("key-1") is open_before
        assert pool.get("key-2") is not open_before
        assert len(pool) == 1
    finally:
        await pool.aclose()
