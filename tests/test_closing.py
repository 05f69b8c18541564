import pytest

from adepoll.closing import AsyncCloseable


class Resource(AsyncCloseable):
    def __init__(self):
        self.closings = 0

    async def aclose(self):
        self.closings += 1


async def test_a_block_returns_the_object_and_closes_it_once():
    resource = Resource()
    async with resource as entered:
        assert entered is resource
        assert resource.closings == 0
    assert resource.closings == 1


async def test_an_error_of_the_block_closes_the_object_and_is_raised():
    resource = Resource()
    with pytest.raises(LookupError):
        async with resource:
            raise LookupError
    assert resource.closings == 1


def test_a_class_without_aclose_cannot_be_created():
    class Incomplete(AsyncCloseable):
        pass

    with pytest.raises(TypeError, match="aclose"):
        Incomplete()
