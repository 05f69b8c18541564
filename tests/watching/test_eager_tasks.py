"""A watcher under an eager task factory: tasks start, and may fail, while they are created."""

import asyncio
import sys

import pytest
from watching import watcher_of

from adepoll.errors import ServerError

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12"
)


class Unlistable:
    """Mixed into a source: the list fails without suspending."""

    error = NotImplementedError()

    async def list_jobs(self, *, page=0, page_size=100, status=None):
        raise self.error


@pytest.mark.parametrize("error", [NotImplementedError(), ServerError(status=503)])
@pytest.mark.parametrize("discovery", ["auto", "list"])
def test_a_list_that_fails_immediately_ends_nothing(replay, scripted, discovery, error):
    class Source(Unlistable, scripted):
        pass

    async def script():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        source = Source({f"job{n}": ["processing", "completed"] for n in range(30)})
        source.error = error
        async with watcher_of(source, discovery=discovery) as watcher:
            unrelated = asyncio.create_task(watcher.wait("job0"))
            jobs = [job async for job in watcher.watch([*source.scripts])]
            assert len(jobs) == 30
            assert (await unrelated).job_id == "job0"

    replay(script)
