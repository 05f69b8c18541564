"""ProblemList: the problems that a batch prints at its end, with one group for each message."""

from collections import Counter
from typing import Final

from attrs import define, field

from adepoll import Outcome
from adepoll.cli.messages import shown
from adepoll.cli.output_lines import error_line, job_name, reference_of
from adepoll.journal.outcomes import error_class_of

# Maximum number of groups. It is also the maximum number of jobs that are listed in all groups.
_MOST: Final = 20


@define
class _Group:
    """Jobs with the same message.

    Attributes:
        line: The whole line of the first job, with its id and label.
        message: The same line without the id and label of the job.
        job_ids: Id and label of each of the first 20 jobs.
        jobs: Number of all jobs of the group.
    """

    line: str
    message: str
    job_ids: list[str] = field(factory=list)
    jobs: int = 0


@define
class ProblemList:
    """Collects problems in constant memory, and lists up to 20 jobs, grouped by message."""

    _groups: dict[str, _Group] = field(factory=dict, init=False)  # by message; at most 20
    # Number of jobs by kind of problem, for jobs whose message has no group.
    _others: Counter[str] = field(factory=Counter, init=False)

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of a job that failed, was cancelled or given up, or has no result."""
        line = error_line(outcome)
        message = _without_job(line, reference_of(outcome), outcome.label)
        group = self._groups.get(message)
        if group is None:
            if len(self._groups) >= _MOST:
                self._others[_category_of(outcome)] += 1
                return
            group = self._groups[message] = _Group(line, message)
        group.jobs += 1
        if len(group.job_ids) < _MOST:
            group.job_ids.append(job_name(outcome))

    def lines(self) -> list[str]:
        """Return the lines to print: for each group, its message and one line for each listed job.

        A group with a single job is one line.
        """
        lines = []
        for group, listed in zip(self._groups.values(), self._numbers_listed(), strict=True):
            if group.jobs == 1:
                lines.append(group.line)
                continue
            lines.append(f"{group.message} ({group.jobs:,} jobs)")
            lines += [f"  {job_id}" for job_id in group.job_ids[:listed]]
            if more := group.jobs - listed:
                lines.append(f"  ... and {more:,} more")
        lines += [f"... and {jobs:,} more: {kind}" for kind, jobs in self._others.items()]
        return lines

    def _numbers_listed(self) -> list[int]:
        """Return how many jobs of each group are listed: 20 in total, spread evenly."""
        jobs = [group.jobs for group in self._groups.values()]
        listed = [0] * len(jobs)
        for _ in range(_MOST):
            if open_groups := [
                index for index, all_jobs in enumerate(jobs) if all_jobs > listed[index]
            ]:
                listed[min(open_groups, key=listed.__getitem__)] += 1
        return listed


def _without_job(line: str, reference: str, label: str | None) -> str:
    """Return a line without the job's label and id, so that equal problems give equal lines.

    `reference` is the text that stands for the id of the job in the line. Within the message, it
    becomes ``JOB_ID``.
    """
    if label is not None:
        line = line.replace(f" ({shown(label)})", "")
    for prefix in (f"result of job {reference}: ", f"job {reference}: ", f"{reference}: "):
        line = line.replace(prefix, "")
    return line.replace(reference, "JOB_ID")


def _category_of(outcome: Outcome) -> str:
    """Return a short category of a problem, such as "failed" or "unresolved: JobTimeoutError"."""
    if outcome.error is None:
        return "unknown" if outcome.snapshot is None else outcome.snapshot.status.value
    what = "unresolved" if outcome.snapshot is None else "result not fetched"
    return f"{what}: {error_class_of(outcome.error)}"
