"""Facts as one HTML page that needs nothing else: no script, no font, no network.

Imports its neighbours, redaction and jinja2. The template escapes whatever is put into it, and the
page's own policy lets a browser load nothing, should something slip through all the same.
"""

import base64
import functools
import hashlib
import shlex
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import PurePath
from typing import Final

from attrs import frozen
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from adepoll.__about__ import __version__
from adepoll.redaction import showable
from adepoll.report import charts, formats
from adepoll.report.facts import Ending, Facts

# Notes of the journal that say nothing to a reader: one is told anyway, one is a table of numbers.
_SILENT_NOTES: Final = frozenset({"endpoint", "durations"})


@frozen(kw_only=True)
class Finding:
    """One line on what somebody should look at, or need not.

    Attributes:
        kind: ``good``, ``bad``, ``open`` or ``note``.
        text: The line.
        target: Id of the section that says more; empty where none does.
        link: What to call it.
    """

    kind: str
    text: str
    target: str = ""
    link: str = ""


def render_facts(
    facts: Facts,
    *,
    name: str,
    endpoint: str,
    notes: Mapping[str, str],
    made_at: float,
    running: bool = False,
) -> str:
    """Give the page; the same facts give the same page.

    Args:
        facts: What to show.
        name: Of the journal, as a command would name it: its path.
        endpoint: The API that the jobs are of.
        notes: The journal's notes.
        made_at: When the facts were read, Unix seconds.
        running: Whether a run has the journal open.
    """
    template, style = _parts()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return template.render(
        facts=facts,
        Ending=Ending,
        charts=charts,
        title=showable(PurePath(name).name, 120),
        endpoint=showable(endpoint, 200),
        notes={
            showable(key, 60): showable(value, 200)
            for key, value in sorted(notes.items())
            if key not in _SILENT_NOTES
        },
        made_at=made_at,
        running=running,
        version=__version__,
        findings=list(_findings(facts, running=running)),
        next_steps="" if running else _next_steps(facts),
        command=f"adepoll resume {shlex.quote(showable(name))}",
        style=Markup(style),  # noqa: S704 - a file of this package
        # Nothing is loaded, run, submitted or framed; the one style sheet is known by its digest.
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
    )


def _findings(facts: Facts, *, running: bool) -> Iterator[Finding]:
    """Give what a reader should know first, the state of the whole before all."""
    if not facts.jobs:
        yield Finding(kind="note", text="This journal holds no jobs yet.")
        return
    count = formats.show_count
    if facts.open:
        ended = facts.jobs - facts.open
        yield Finding(
            kind="open",
            text=f"{count(ended)} of {_jobs(facts.jobs)} {_have(ended)} an outcome; "
            f"{count(facts.open)} {_are(facts.open)} still open."
            + (" A run is at it right now." if running else ""),
            target="open",
            link="Which ones",
        )
    else:
        well = facts.count(Ending.COMPLETED) == facts.jobs
        all_of_them = "The one job" if facts.jobs == 1 else f"All {_jobs(facts.jobs)}"
        yield Finding(
            kind="good" if well else "note",
            text=f"{all_of_them} {'completed' if well else f'{_have(facts.jobs)} an outcome'}.",
        )
    yield from _troubles(facts)
    if facts.warned:
        text = f"{_jobs(facts.warned)} came with warnings."
        yield Finding(kind="note", text=text, target="warnings", link="Warnings")
    if fallbacks := sum(cost.fallbacks for cost in facts.costs):
        text = f"{_jobs(fallbacks)} fell back to another model version."
        yield Finding(kind="note", text=text, target="credits", link="Credits")


def _troubles(facts: Facts) -> Iterator[Finding]:
    count = formats.show_count
    if failed := facts.count(Ending.FAILED):
        first = facts.failures[0]
        often = f", {'all' if first.count == failed else count(first.count)} of them"
        yield Finding(
            kind="bad",
            text=f"{_jobs(failed)} failed{often if failed > 1 else ''}: "
            f"{showable(first.pattern, 120)}.",
            target="failures",
            link="All reasons",
        )
    if given_up := facts.count(Ending.MISSED, Ending.UNRESOLVED):
        text = f"{_jobs(given_up)} {_were(given_up)} given up."
        yield Finding(kind="bad", text=text, target="troubles", link="Errors")
    if violations := sum(group.count for group in facts.violations):
        results = "result does" if violations == 1 else "results do"
        text = f"{count(violations)} {results} not conform to the schema."
        yield Finding(kind="bad", text=text, target="violations", link="Violations")
    if cancelled := facts.count(Ending.CANCELLED):
        text = f"{_jobs(cancelled)} {_were(cancelled)} cancelled."
        yield Finding(kind="note", text=text)


def _next_steps(facts: Facts) -> str:
    """Tell what another run would do; empty where there is nothing to do."""
    count = formats.show_count
    steps = []
    if facts.undelivered:
        outcomes = "outcome" if facts.undelivered == 1 else "outcomes"
        steps.append(
            f"gives {count(facts.undelivered)} {outcomes} that nobody has taken from the batch yet"
        )
    if facts.open:
        steps.append(f"goes on with the {count(facts.open)} open {_plural(facts.open)}")
    if facts.retryable:
        steps.append(f"tries {count(facts.retryable)} given-up {_plural(facts.retryable)} again")
    if not steps:
        return ""
    return " and ".join([", ".join(steps[:-1]), steps[-1]] if steps[:-1] else steps) + "."


def _jobs(number: int) -> str:
    return f"{formats.show_count(number)} {_plural(number)}"


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
    """Give the template and the style sheet, which come with the package."""
    folder = resources.files("adepoll.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "bytes": formats.show_bytes,
        "count": formats.show_count,
        "credits": formats.show_credits,
        "duration": formats.show_duration,
        "iso": formats.iso_time,
        "jobs": _jobs,
        "when": formats.show_time,
    }
    environment.globals["share"] = formats.show_share
    source = folder.joinpath("page.html").read_text("utf-8")
    return environment.from_string(source), folder.joinpath("page.css").read_text("utf-8")
