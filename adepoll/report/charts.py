"""Charts as inline SVG, each drawn twice: wide, and narrow for a phone.

Every chart has a title and a description, and every bar a tooltip. Colour is never the only
distinction. The page shows the same numbers in a table below the chart.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from attrs import frozen
from markupsafe import Markup

from adepoll.report.chart_numbers import Bins, count_ticks, log_time_ticks, time_step, time_ticks
from adepoll.report.facts import Curve, OutcomeKind, ReportFacts, Sample
from adepoll.report.formats import (
    format_count,
    format_duration,
    format_share,
    format_tick,
    format_time,
)

# The following are lengths, in units of the view box.
_LEFT: Final = 52.0  # room for the numbers of the vertical axis
_RIGHT: Final = 14.0
_TOP: Final = 14.0
_MARKS: Final = 30.0  # room for the labels of median and p95
_BOTTOM: Final = 30.0
_CHARACTER: Final = 7.8  # upper bound of the average width of a bold character
_MIN_BAR: Final = 2.0  # so that the bar of one job among a million is visible


@frozen(kw_only=True)
class _Canvas:
    """Dimensions of one drawing, in units of its view box.

    Attributes:
        ident: Part of the element ids; unique on the page.
        width_class: ``wide`` or ``narrow``.
        width: Width of the drawing.
        height: Height of the drawing.
        top: Vertical position of the upper edge of the plot. The labels of the plot are above it.
    """

    ident: str
    width_class: str
    width: float
    height: float
    top: float

    @property
    def inner(self) -> float:
        """Width of the plot."""
        return self.width - _LEFT - _RIGHT

    @property
    def base(self) -> float:
        """Vertical position of the horizontal axis."""
        return self.height - _BOTTOM

    @property
    def ticks(self) -> int:
        """Maximum number of labels on the horizontal axis."""
        return 8 if self.width_class == "wide" else 5


def histogram(ident: str, sample: Sample, *, title: str, noun: str) -> Markup:
    """Draw a histogram of durations, with median and 95th percentile marked.

    Args:
        ident: Part of the element ids; unique on the page.
        sample: The durations in seconds.
        title: Title of the chart.
        noun: Plural noun for the values, such as ``jobs``.
    """
    summary = sample.summary
    shape = "on a logarithmic scale" if sample.bins.log else "in bins of equal width"
    description = (
        f"Histogram of {format_count(summary.count)} {noun} {shape}: from "
        f"{format_duration(summary.least)} to {format_duration(summary.most)}, median "
        f"{format_duration(summary.median)}, 95th percentile {format_duration(summary.p95)}."
    )

    def draw(canvas: _Canvas) -> Iterable[Markup]:
        return _draw_histogram(canvas, sample, noun)

    return _wide_and_narrow(
        ident, draw, title=title, description=description, heights=(280, 250), top=_TOP + _MARKS
    )


def bin_rows(counted: Bins) -> list[tuple[str, int]]:
    """Return one table row per bin: its range of durations as text, and its number of values.

    If values are below the first bin or above the last bin, they have a row, too.
    """
    edges = [format_duration(edge) for edge in counted.edges]
    rows = [
        (f"{low} to {high}", count)
        for low, high, count in zip(edges, edges[1:], counted.counts, strict=False)
    ]
    if counted.below:
        rows.insert(0, (f"less than {edges[0]}", counted.below))
    if counted.above:
        rows.append((f"more than {edges[-1]}", counted.above))
    return rows


def _draw_histogram(canvas: _Canvas, sample: Sample, noun: str) -> Iterable[Markup]:
    """Yield the SVG elements of a histogram; `noun` is the plural noun for the values."""
    counted, summary = sample.bins, sample.summary
    rows = bin_rows(counted)
    # Index of the bar of the first bin. Values below this bin have a bar, too, which comes first.
    first = 1 if counted.below else 0
    slot = canvas.inner / len(rows)

    def place(value: float) -> float:
        return _LEFT + (counted.position(value) + first) * slot

    most = max(count for _, count in rows)
    ticks = count_ticks(most, 4)
    yield from _count_axis(canvas, ticks)
    for index, (label, count) in enumerate(rows):
        beyond = index < first or index - first >= len(counted.counts)
        height = _height(canvas, count, ticks[-1])
        yield Markup(
            '<g class="hit"><title>{label}: {count}</title>'
            '<rect class="room" x="{x}" y="{top}" width="{slot}" height="{room}"/>'
            '<rect class="bar{beyond}" x="{left}" y="{y}" width="{width}" height="{height}"/></g>'
        ).format(
            label=label,
            count=f"{format_count(count)} {noun}",
            x=_n(_LEFT + index * slot),
            top=_n(canvas.top),
            slot=_n(slot),
            room=_n(canvas.base - canvas.top),
            beyond=" beyond" if beyond else "",
            left=_n(_LEFT + index * slot + 1),
            y=_n(canvas.base - height),
            width=_n(slot - 2),
            height=_n(height),
        )
    low, high = counted.edges[0], counted.edges[-1]
    if counted.log:
        marks = log_time_ticks(low, high, canvas.ticks)
    else:
        marks = time_ticks(low, high, canvas.ticks - 1)
    yield from _lower_axis(canvas, [(place(mark), format_duration(mark)) for mark in marks])
    marked = (
        (place(summary.p95), 14, " dashed", f"p95 {format_duration(summary.p95)}"),
        (place(summary.median), 32, "", f"median {format_duration(summary.median)}"),
    )
    for x, y, dashed, _ in marked:
        yield Markup('<line class="mark{dashed}" x1="{x}" y1="{y}" x2="{x}" y2="{base}"/>').format(
            dashed=dashed, x=_n(x), y=_n(y - 10), base=_n(canvas.base)
        )
    for x, y, _, label in marked:  # labels come after the lines, so that no line covers a label
        fits = x + 6 + _CHARACTER * len(label) < canvas.width
        yield Markup(
            '<text class="mark-label" x="{x}" y="{y}" text-anchor="{anchor}">{label}</text>'
        ).format(
            x=_n(x + 6 if fits else x - 6), y=_n(y), anchor="start" if fits else "end", label=label
        )


def curve(ident: str, drawn: Curve, *, jobs: int) -> Markup:
    """Draw the number of settled jobs over time.

    Args:
        ident: Part of the element ids; unique on the page.
        drawn: The numbers of the curve.
        jobs: Number of all jobs.
    """
    settled = drawn.counts[-1] + drawn.later
    description = (
        f"Rising line: {format_count(settled)} of {format_count(jobs)} jobs have settled, first "
        f"after {format_time(drawn.start)} UTC, last at {format_time(drawn.last)} UTC."
    )

    def draw(canvas: _Canvas) -> Iterable[Markup]:
        return _draw_curve(canvas, drawn, jobs)

    return _wide_and_narrow(
        ident, draw, title="Settled over time", description=description, heights=(240, 210)
    )


def curve_rows(drawn: Curve, jobs: int) -> list[tuple[str, float, int]]:
    """Return the rows of the table below the curve.

    Each row says when a share of all jobs had settled: the share as a text, such as "50 %"; the
    Unix time; and the number of settled jobs at that time. If jobs have settled after the end of
    the curve, or there is no other row, a row with the text "the last so far" is added.
    """
    rows = []
    previous = 0
    for share in (1, 10, 25, 50, 75, 90, 95, 99, 100):
        wanted = max(1, -(-share * jobs // 100))
        if wanted == previous:
            continue
        previous = wanted
        index = bisect_left(drawn.counts, wanted)
        if index < len(drawn.counts):
            step = (drawn.stop - drawn.start) / (len(drawn.counts) - 1)
            rows.append((f"{share} %", drawn.start + index * step, drawn.counts[index]))
    if drawn.later or not rows:
        rows.append(("the last so far", drawn.last, drawn.counts[-1] + drawn.later))
    return rows


def _draw_curve(canvas: _Canvas, drawn: Curve, jobs: int) -> Iterable[Markup]:
    """Yield the SVG elements of the curve of settled jobs; `jobs` is the number of all jobs."""
    settled = drawn.counts[-1]
    # The axis ends at the number of all jobs. If more than three quarters of the jobs are open, it
    # ends at the number of settled jobs, because otherwise the curve would be flat.
    near = jobs <= 4 * settled
    ticks = count_ticks(jobs if near else settled, 5)
    yield from _count_axis(canvas, ticks)
    step = canvas.inner / (len(drawn.counts) - 1)
    points = [
        f"{_n(_LEFT + index * step)},{_n(canvas.base - _height(canvas, count, ticks[-1], 0))}"
        for index, count in enumerate(drawn.counts)
    ]
    yield Markup('<polygon class="area" points="{left},{base} {points} {right},{base}"/>').format(
        left=_n(_LEFT),
        right=_n(_LEFT + canvas.inner),
        base=_n(canvas.base),
        points=" ".join(points),
    )
    yield Markup('<polyline class="curve" points="{}"/>').format(" ".join(points))
    if near and jobs > settled:
        y = canvas.base - _height(canvas, jobs, ticks[-1])
        yield Markup(
            '<line class="mark dashed" x1="{x1}" y1="{y}" x2="{x2}" y2="{y}"/>'
            '<text class="mark-label" x="{x1}" y="{above}" dx="6">all {jobs} jobs</text>'
        ).format(
            x1=_n(_LEFT),
            x2=_n(_LEFT + canvas.inner),
            y=_n(y),
            above=_n(y - 6),
            jobs=format_count(jobs),
        )
    most = canvas.ticks - 1  # one label less than on other axes, because times are wider
    marks = time_ticks(drawn.start, drawn.stop, most)
    apart = time_step((drawn.stop - drawn.start) / most)
    span = canvas.inner / (drawn.stop - drawn.start)
    yield from _lower_axis(
        canvas, [(_LEFT + (at - drawn.start) * span, format_tick(at, apart)) for at in marks]
    )


def outcomes(ident: str, facts: ReportFacts) -> Markup:
    """Draw one bar per outcome, with its name and number of jobs.

    Args:
        ident: Part of the element ids; unique on the page.
        facts: The facts of the batch.
    """
    shown = [
        (outcome, facts.count(outcome))
        for outcome in OutcomeKind
        if facts.count(outcome) or outcome in {OutcomeKind.COMPLETED, OutcomeKind.FAILED}
    ]
    parts = ", ".join(f"{outcome} {format_count(count)}" for outcome, count in shown)
    wide, narrow = 30, 46

    def draw(canvas: _Canvas) -> Iterable[Markup]:
        return _draw_outcomes(canvas, shown, facts.jobs)

    return _wide_and_narrow(
        ident,
        draw,
        title="Outcomes",
        description=f"Bars of {format_count(facts.jobs)} jobs: {parts}.",
        heights=(wide * len(shown) + 6, narrow * len(shown) + 6),
    )


def _draw_outcomes(
    canvas: _Canvas, shown: Sequence[tuple[OutcomeKind, int]], jobs: int
) -> Iterable[Markup]:
    """Yield one bar for each outcome; `jobs` is the number of all jobs."""
    wide = canvas.width_class == "wide"
    row = (canvas.height - 6) / len(shown)
    left, right = (140.0, 150.0) if wide else (0.0, 0.0)
    room = canvas.width - left - right
    for index, (outcome, count) in enumerate(shown):
        y = index * row
        bar = max(_MIN_BAR, room * count / jobs) if count else 0.0
        numbers = f"{format_count(count)}  ({format_share(count, jobs)})"
        track = Markup('x="{x}" y="{y}" height="{height}"').format(
            x=_n(left), y=_n(y + (6 if wide else 23)), height=_n(row - 10 if wide else 14)
        )
        yield Markup(
            '<g class="hit"><title>{outcome}: {numbers}</title>'
            '<text class="name" x="{name}" y="{base}" text-anchor="{name_anchor}">{outcome}</text>'
            '<rect class="track" {track} width="{room}" rx="3"/>'
            '<rect class="end {css_class}" {track} width="{bar}" rx="{rx}"/>'
            '<text class="number" x="{number}" y="{base}" text-anchor="{anchor}">{numbers}</text>'
            "</g>"
        ).format(
            outcome=outcome.value,
            numbers=numbers,
            css_class=outcome.name.lower(),
            name=_n(left - 12 if wide else 0),
            name_anchor="end" if wide else "start",
            base=_n(y + (21 if wide else 16)),
            track=track,
            room=_n(room),
            bar=_n(bar),
            rx=_n(min(3.0, bar / 2)),
            number=_n(canvas.width - right + 12 if wide else canvas.width),
            anchor="start" if wide else "end",
        )


def _count_axis(canvas: _Canvas, ticks: Sequence[int]) -> Iterable[Markup]:
    """Yield a horizontal line and a label for each number of jobs in `ticks`."""
    for tick in ticks:
        y = canvas.base - _height(canvas, tick, ticks[-1])
        yield Markup(
            '<line class="{kind}" x1="{x1}" y1="{y}" x2="{x2}" y2="{y}"/>'
            '<text class="tick" x="{x}" y="{text}" text-anchor="end">{tick}</text>'
        ).format(
            kind="grid" if tick else "axis",
            x1=_n(_LEFT),
            x2=_n(canvas.width - _RIGHT),
            y=_n(y),
            x=_n(_LEFT - 8),
            text=_n(y + 4),
            tick=_short(tick),
        )


def _lower_axis(canvas: _Canvas, marks: Sequence[tuple[float, str]]) -> Iterable[Markup]:
    """Yield the horizontal axis; a mark is a horizontal position and its label."""
    for x, label in marks:
        # A label at an edge is moved inside, so that it is not cut off.
        half = 3.6 * len(label)
        at = min(max(x, half), canvas.width - half)
        yield Markup(
            '<line class="axis" x1="{x}" y1="{base}" x2="{x}" y2="{end}"/>'
            '<text class="tick" x="{at}" y="{text}" text-anchor="middle">{label}</text>'
        ).format(
            x=_n(x),
            base=_n(canvas.base),
            end=_n(canvas.base + 5),
            at=_n(at),
            text=_n(canvas.base + 20),
            label=label,
        )


def _height(canvas: _Canvas, count: int, most: int, least: float = _MIN_BAR) -> float:
    if not count:
        return 0.0
    return max(least, (canvas.base - canvas.top) * count / most)


def _wide_and_narrow(
    ident: str,
    draw: Callable[[_Canvas], Iterable[Markup]],
    *,
    title: str,
    description: str,
    heights: tuple[float, float],
    top: float = _TOP,
) -> Markup:
    """Return a chart as two SVG images: a wide one, and a narrow one for a phone.

    Args:
        ident: Part of the element ids; unique on the page.
        draw: Returns the SVG elements of one image.
        title: Title of the chart.
        description: Text for readers who do not see the image.
        heights: Heights of the wide and of the narrow image.
        top: Vertical position of the upper edge of the plot.
    """
    wide = _Canvas(ident=f"{ident}-wide", width_class="wide", width=800, height=heights[0], top=top)
    narrow = _Canvas(
        ident=f"{ident}-narrow", width_class="narrow", width=340, height=heights[1], top=top
    )
    return Markup("\n").join(
        Markup(
            '<svg class="chart {width_class}" viewBox="0 0 {width} {height}" role="img"'
            ' aria-labelledby="{ident}-title {ident}-desc">'
            '<title id="{ident}-title">{title}</title><desc id="{ident}-desc">{description}</desc>'
            "{drawing}</svg>"
        ).format(
            width_class=canvas.width_class,
            width=_n(canvas.width),
            height=_n(canvas.height),
            ident=canvas.ident,
            title=title,
            description=description,
            drawing=Markup("").join(draw(canvas)),
        )
        for canvas in (wide, narrow)
    )


def _short(count: int) -> str:
    """Return a number as a short text for an axis, such as ``20k``."""
    for least, unit, letter in ((1_000_000, 1_000_000, "M"), (10_000, 1_000, "k")):
        if count >= least:
            return f"{count / unit:g}{letter}"
    return format_count(count)


def _n(number: float) -> str:
    """Return a length as text with at most one decimal, so that the page is small."""
    return f"{number:.1f}".removesuffix(".0")
