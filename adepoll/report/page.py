"""Renders facts as one HTML page without scripts, fonts or requests.

The template escapes all values. As a second protection, the Content-Security-Policy of the page
forbids loading and running anything.
"""

import base64
import functools
import hashlib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import PurePath
from typing import Final

from attrs import frozen
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from adepoll.__about__ import __version__
from adepoll.common.redaction import path_word, shell_line, showable
from adepoll.journal.endpoints import ENDPOINT_NOTES
from adepoll.journal.schema import OUT_DIR
from adepoll.report import charts, formats
from adepoll.report.facts import OutcomeKind, ReportFacts

# Notes that the page leaves out. The page shows the endpoints elsewhere, and "durations" is only
# for the program.
_HIDDEN_NOTES: Final = ENDPOINT_NOTES | {"durations"}


@frozen(kw_only=True)
class Finding:
    """One line of the page's summary.

    Attributes:
        kind: ``good``, ``bad``, ``open`` or ``note``.
        text: Text of the line.
        target: Id of the section with details; empty without such a section.
        link: Text of the link to that section.
    """

    kind: str
    text: str
    target: str = ""
    link: str = ""


def render_facts(
    facts: ReportFacts,
    *,
    name: str,
    endpoint: str,
    notes: Mapping[str, str],
    made_at: float,
    running: bool = False,
) -> str:
    """Return the page as HTML; the same arguments always give the same page.

    Args:
        facts: The facts of the batch.
        name: Path of the journal, for the title and for the command that the page shows.
        endpoint: URL of the API, or a text with both URLs.
        notes: The table `notes` of the journal, as a mapping from key to value.
        made_at: Unix time at which the records were read.
        running: True if a process has the journal open.
    """
    template, style = _parts()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return template.render(
        facts=facts,
        OutcomeKind=OutcomeKind,
        charts=charts,
        title=showable(PurePath(name).name, 120),
        endpoint=showable(endpoint, 200),
        notes={
            showable(key, 60): showable(value, 200)
            for key, value in sorted(notes.items())
            if key not in _HIDDEN_NOTES
        },
        made_at=made_at,
        running=running,
        version=__version__,
        findings=list(_findings(facts, running=running)),
        next_steps="" if running else _next_steps(facts),
        command=shell_line(["adepoll", "resume", path_word(name), *_out_words(notes)]),
        style=Markup(style),  # noqa: S704 - the style sheet is a file of this package
        # The policy forbids the page to load, run or submit anything except this style sheet.
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
    )


def _out_words(notes: Mapping[str, str]) -> list[str]:
    return ["--out", notes[OUT_DIR]] if OUT_DIR in notes else []


def _findings(facts: ReportFacts, *, running: bool) -> Iterator[Finding]:
    """Yield the lines of the summary; the first line is the state of the whole batch."""
    if not facts.jobs:
        yield Finding(kind="note", text="This journal contains no jobs yet.")
        return
    count = formats.format_count
    if facts.open:
        closed = facts.jobs - facts.open
        yield Finding(
            kind="open",
            text=f"{count(closed)} of {_jobs(facts.jobs)} {_have(closed)} an outcome; "
            f"{count(facts.open)} {_are(facts.open)} still open."
            + (" The batch is running." if running else ""),
            target="open",
            link="Open jobs",
        )
    else:
        all_completed = facts.count(OutcomeKind.COMPLETED) == facts.jobs
        subject = "The only job" if facts.jobs == 1 else f"All {_jobs(facts.jobs)}"
        predicate = "completed" if all_completed else f"{_have(facts.jobs)} an outcome"
        yield Finding(kind="good" if all_completed else "note", text=f"{subject} {predicate}.")
    yield from _problems(facts)
    if facts.warned:
        text = f"{_jobs(facts.warned)} {_have(facts.warned)} warnings."
        yield Finding(kind="note", text=text, target="warnings", link="Warnings")
    if fallbacks := sum(cost.fallbacks for cost in facts.costs):
        text = f"{_jobs(fallbacks)} fell back to another model version."
        yield Finding(kind="note", text=text, target="credits", link="Credits")


def _problems(facts: ReportFacts) -> Iterator[Finding]:
    """Yield the lines of the summary about partial results, and jobs without a result."""
    count = formats.format_count
    if failed := facts.count(OutcomeKind.FAILED):
        first = facts.failures[0]
        share = ""
        if failed > 1:
            share = f", {'all' if first.count == failed else count(first.count)} of them"
        reason = _sentence(showable(first.pattern, 120))
        yield Finding(
            kind="bad",
            text=f"{_jobs(failed)} failed{share}: {reason}",
            target="failures",
            link="All reasons",
        )
    if given_up := facts.count(OutcomeKind.NOT_FETCHED, OutcomeKind.UNRESOLVED):
        text = f"{_jobs(given_up)} {_were(given_up)} given up."
        yield Finding(kind="bad", text=text, target="errors", link="Errors")
    if violations := sum(group.count for group in facts.violations):
        results = "result does" if violations == 1 else "results do"
        text = f"{count(violations)} {results} not conform to the schema."
        yield Finding(kind="bad", text=text, target="violations", link="Violations")
    if facts.incomplete:
        results = "result lacks" if facts.incomplete == 1 else "results lack"
        text = f"{count(facts.incomplete)} {results} pages that could not be parsed."
        yield Finding(kind="bad", text=text)
    if cancelled := facts.count(OutcomeKind.CANCELLED):
        text = f"{_jobs(cancelled)} {_were(cancelled)} cancelled."
        yield Finding(kind="note", text=text)


def _next_steps(facts: ReportFacts) -> str:
    """Return a sentence about what another run would do; an empty text if nothing is left."""
    count = formats.format_count
    steps = []
    if facts.unacknowledged:
        outcomes = "outcome" if facts.unacknowledged == 1 else "outcomes"
        steps.append(f"prints {count(facts.unacknowledged)} unacknowledged {outcomes}")
    if facts.open:
        steps.append(f"continues the {count(facts.open)} open {_plural(facts.open)}")
    if facts.retryable:
        steps.append(f"retries {count(facts.retryable)} given-up {_plural(facts.retryable)}")
    if not steps:
        return ""
    return " and ".join([", ".join(steps[:-1]), steps[-1]] if steps[:-1] else steps) + "."


def _sentence(text: str) -> str:
    """Return a text of the service, with a period at its end if it ends without punctuation."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _jobs(number: int) -> str:
    return f"{formats.format_count(number)} {_plural(number)}"


def _plural(number: int) -> str:
    return "job" if number == 1 else "jobs"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


@functools.cache
def _parts() -> tuple[Template, str]:
    """Return the template and the style sheet of the package."""
    folder = resources.files("adepoll.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "bytes": formats.format_bytes,
        "count": formats.format_count,
        "credits": formats.format_credits,
        "duration": formats.format_duration,
        "iso": formats.format_iso_time,
        "jobs": _jobs,
        "when": formats.format_time,
    }
    environment.globals["share"] = formats.format_share
    source = folder.joinpath("page.html").read_text("utf-8")
    return environment.from_string(source), folder.joinpath("page.css").read_text("utf-8")
