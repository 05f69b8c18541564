"""Starts tasks, keeps each in a set until it ends, cancels all tasks of a set, finds their error.

A task that works for several callers runs in an empty `Context`, so that it does not use the
context variables of one of the callers. Imports nothing of adepoll.
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
    """Start a task, and keep it in `tasks` until it ends.

    Args:
        coroutine: The coroutine that the task runs.
        tasks: The set that contains the task until the task ends.
        context: The context of the task; None for an empty context.
    """
    # loop.create_task is not used, because an eager task factory would run the task before it is in
    # `tasks`.
    context = Context() if context is None else context
    task = asyncio.Task(coroutine, loop=asyncio.get_running_loop(), context=context)
    tasks.add(task)
    task.add_done_callback(tasks.discard, context=Context())
    return task


async def finish(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until all have ended, even if the current task is cancelled.

    The current task is left out if it is one of the tasks. If the current task was cancelled, raise
    CancelledError at the end.
    """
    pending = {task for task in tasks if task is not asyncio.current_task()}
    for task in pending:
        task.cancel()
    await join(pending)


async def join(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait until all tasks have ended, even if the current task is cancelled.

    The current task is left out if it is one of the tasks. If the current task was cancelled, raise
    CancelledError at the end.
    """
    # Wait for tasks that have already ended, too. This wait takes one step of the event loop.
    # In this iteration, the callbacks of the tasks run. Polls that were cancelled because of an
    # error end, too.
    pending = {task for task in tasks if task is not asyncio.current_task()}
    cancelled = None
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled


def first_error(error: BaseException) -> BaseException:
    """Return the first error in nested exception groups; return any other error unchanged."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_cancelled() -> bool:
    """Return whether the current task was cancelled. Call this after a CancelledError.

    If the result is False, the CancelledError came from another task or future, for which the
    current task was waiting.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def has_loop() -> bool:
    """Return True if an event loop is running in this thread.

    It is False in a `finally` block of a task that Python deletes after its loop was closed.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
