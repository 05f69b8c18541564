import gc

import pytest

from adepoll.common.closing import AsyncCloseable, EndsWhenLeft


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


async def test_a_generator_that_is_closed_closes_the_object_of_its_block():
    resource = Resource()

    async def generate():
        async with resource:
            yield 1

    generator = generate()
    assert await anext(generator) == 1
    assert resource.closings == 0
    await generator.aclose()
    assert resource.closings == 1


def test_a_class_without_aclose_cannot_be_created():
    class Incomplete(AsyncCloseable):
        pass

    with pytest.raises(TypeError, match="aclose"):
        Incomplete()


class Numbers(EndsWhenLeft):
    def __init__(self):
        self.number = self.leaves = 0

    async def __anext__(self):
        self.number += 1
        return self.number

    async def aclose(self):
        self.leave()

    def leave(self):
        self.leaves += 1


async def test_an_iterator_with_a_name_is_left_when_its_loop_ends():
    numbers = Numbers()
    async for _ in numbers:
        assert numbers.leaves == 0
        break
    assert numbers.leaves == 1


async def test_an_iterator_is_left_once_all_its_loops_have_ended():
    numbers = Numbers()
    outer, inner = aiter(numbers), aiter(numbers)
    assert [await anext(outer), await anext(inner)] == [1, 2]
    del outer
    assert numbers.leaves == 0
    del inner
    assert numbers.leaves == 1


async def test_the_iterator_of_a_loop_is_its_own_iterator():
    numbers = Numbers()
    loop = aiter(numbers)
    assert aiter(loop) is loop
    assert [await anext(aiter(loop)), await anext(loop)] == [1, 2]
    assert numbers.leaves == 0


async def test_within_its_block_an_iterator_is_left_when_the_block_ends():
    async with Numbers() as numbers:
        for _ in range(2):
            async for _ in numbers:
                break
        assert (numbers.number, numbers.leaves) == (2, 0)
    assert numbers.leaves == 1


async def test_an_iterator_without_a_loop_is_left_when_it_is_collected():
    left = []
    numbers = Numbers()
    numbers.leave = lambda: left.append(numbers_id)
    numbers_id = id(numbers)
    await anext(numbers)
    del numbers
    gc.collect()
    assert left == [numbers_id]
