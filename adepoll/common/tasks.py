"""Tasks that do not outlive their owner, and what a cancellation means. Imports nothing of adepoll.

A task of several callers runs in an empty `Context`: it neither keeps nor uses the context
variables of one of them.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from contextvars import Context


def start(
    coroutine: Coroutine[None, None, None],
    tasks: set[asyncio.Task[None]],
    *,
    context: Context | None = None,
) -> asyncio.Task[None]:
    """Start a task, and keep it in `tasks` until it ends. By default its context is empty."""
    # Not loop.create_task: an eager task factory would run it before it is in `tasks`.
    context = Context() if context is None else context
    task = asyncio.Task(coroutine, loop=asyncio.get_running_loop(), context=context)
    tasks.add(task)
    task.add_done_callback(tasks.discard, context=Context())
    return task


async def finish(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them all, even if the waiting itself is cancelled."""
    pending = {task for task in tasks if task is not asyncio.current_task()}
    for task in pending:
        task.cancel()
    await join(pending)


async def join(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for tasks, even if the waiting itself is cancelled."""
    # Also tasks that are done: with the step of the loop that this takes, their callbacks run, and
    # polls that an error has cancelled end.
    pending = {task for task in tasks if task is not asyncio.current_task()}
    cancelled = None
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as exc:
            cancelled = exc
            pending = {task for task in pending if not task.done()}
    if cancelled is not None:
        raise cancelled


def is_cancelled() -> bool:
    """Return whether this task was cancelled, and not only something that it waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
