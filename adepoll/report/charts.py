"""Charts as inline SVG, drawn twice: wide, and narrow for a telephone. Imports its neighbours only.

Every chart has a title and a description, every bar a label of its own to point at; colour never
says anything alone. The numbers stand in a table beside it.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from attrs import frozen
from markupsafe import Markup

from adepoll.report.facts import Curve, Ending, Facts, Sample
from adepoll.report.figures import Bins, count_ticks, log_time_ticks, time_step, time_ticks
from adepoll.report.formats import show_count, show_duration, show_share, show_tick, show_time

_LEFT: Final = 52.0  # room for the numbers of the upright axis
_RIGHT: Final = 14.0
_TOP: Final = 14.0
_MARKS: Final = 30.0  # room for the labels of the two marked values
_BOTTOM: Final = 30.0
_CHARACTER: Final = 7.8  # width of one in bold, at most on average
_LEAST_BAR: Final = 2.0  # so that one of a million is seen


@frozen(kw_only=True)
class _Canvas:
    """Where one drawing of a chart goes.

    Attributes:
        ident: Part of the ids, which no other drawing has.
        kind: ``wide`` or ``narrow``.
        width: In units of the drawing, as all lengths here.
        height: As width.
        top: Where the drawing begins under its labels.
    """

    ident: str
    kind: str
    width: float
    height: float
    top: float

    @property
    def inner(self) -> float:
        """Width between the axis and the right edge."""
        return self.width - _LEFT - _RIGHT

    @property
    def base(self) -> float:
        """Where the lower axis lies."""
        return self.height - _BOTTOM

    @property
    def ticks(self) -> int:
        """How many labels the lower axis has room for."""
        return 8 if self.kind == "wide" else 5


def histogram(ident: str, sample: Sample, *, title: str, noun: str) -> Markup:
    """Draw how durations spread, with median and 95th percentile marked.

    Args:
        ident: A word for the ids within the page.
        sample: The durations, in seconds.
        title: What the chart shows.
        noun: What one duration is of, in the plural.
    """
    spread = sample.spread
    shape = "on a scale of ratios" if sample.bins.log else "in bins of one width"
    description = (
        f"Histogram of {show_count(spread.count)} {noun} {shape}: from "
        f"{show_duration(spread.least)} to {show_duration(spread.most)}, median "
        f"{show_duration(spread.median)}, 95th percentile {show_duration(spread.p95)}."
    )

    def draw(canvas: _Canvas) -> Iterable[Markup]:
        return _draw_histogram(canvas, sample, noun)

    return _both(
        ident, draw, title=title, description=description, heights=(280, 250), top=_TOP + _MARKS
    )


def bin_rows(counted: Bins) -> list[tuple[str, int]]:
    """Give the bins of a histogram as rows of a table: which durations, and how many."""
    edges = [show_duration(edge) for edge in counted.edges]
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
    counted, spread = sample.bins, sample.spread
    rows = bin_rows(counted)
    first = 1 if counted.below else 0  # the slot of the first true bin
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
            count=f"{show_count(count)} {noun}",
            x=_n(_LEFT + index * slot),
            top=_n(canvas.top),
            slot=_n(slot),
            room=_n(canvas.base - canvas.top),
            beyond=" beyond" if beyond else "",
            left=_n(_LEFT + index * slot + min(1.0, slot / 8)),
            y=_n(canvas.base - height),
            width=_n(slot - min(2.0, slot / 4)),
            height=_n(height),
        )
    low, high = counted.edges[0], counted.edges[-1]
    if counted.log:
        marks = log_time_ticks(low, high, canvas.ticks)
    else:
        marks = time_ticks(low, high, canvas.ticks - 1)
    yield from _lower_axis(canvas, [(place(mark), show_duration(mark)) for mark in marks])
    marked = (
        (place(spread.p95), 14, " dashed", f"p95 {show_duration(spread.p95)}"),
        (place(spread.median), 32, "", f"median {show_duration(spread.median)}"),
    )
    for x, y, dashed, _ in marked:
        yield Markup('<line class="mark{dashed}" x1="{x}" y1="{y}" x2="{x}" y2="{base}"/>').format(
            dashed=dashed, x=_n(x), y=_n(y - 10), base=_n(canvas.base)
        )
    for x, y, _, label in marked:  # over both lines
        fits = x + 6 + _CHARACTER * len(label) < canvas.width
        yield Markup(
            '<text class="mark-label" x="{x}" y="{y}" text-anchor="{anchor}">{label}</text>'
        ).format(
            x=_n(x + 6 if fits else x - 6), y=_n(y), anchor="start" if fits else "end", label=label
        )


def curve(ident: str, drawn: Curve, *, jobs: int) -> Markup:
    """Draw how many jobs had settled by when.

    Args:
        ident: A word for the ids within the page.
        drawn: The curve.
        jobs: How many there are in all.
    """
    settled = drawn.counts[-1] + drawn.later
    description = (
        f"Rising line: {show_count(settled)} of {show_count(jobs)} jobs had settled, the first "
        f"after {show_time(drawn.start)} UTC, the last at {show_time(drawn.last)} UTC."
    )

    def draw(canvas: _Canvas) -> Iterable[Markup]:
        return _draw_curve(canvas, drawn, jobs)

    return _both(
        ident, draw, title="Settled over time", description=description, heights=(240, 210)
    )


def curve_rows(drawn: Curve, jobs: int) -> list[tuple[str, float, int]]:
    """Give the curve as rows of a table: which share of all jobs had settled when, and how many.

    The time is that of the first point of the curve that has so many.
    """
    rows = []
    seen = 0
    for share in (1, 10, 25, 50, 75, 90, 95, 99, 100):
        wanted = max(1, -(-share * jobs // 100))
        if wanted == seen:
            continue
        seen = wanted
        index = bisect_left(drawn.counts, wanted)
        if index < len(drawn.counts):
            step = (drawn.stop - drawn.start) / (len(drawn.counts) - 1)
            rows.append((f"{share} %", drawn.start + index * step, drawn.counts[index]))
    if drawn.later or not rows:
        rows.append(("the last so far", drawn.last, drawn.counts[-1] + drawn.later))
    return rows


def _draw_curve(canvas: _Canvas, drawn: Curve, jobs: int) -> Iterable[Markup]:
    settled = drawn.counts[-1]
    # All jobs are the measure, unless so many are open that the line would lie on the ground.
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
            jobs=show_count(jobs),
        )
    most = canvas.ticks - 1  # a time of day takes more room
    marks = time_ticks(drawn.start, drawn.stop, most)
    apart = time_step((drawn.stop - drawn.start) / most)
    span = canvas.inner / (drawn.stop - drawn.start)
    yield from _lower_axis(
        canvas, [(_LEFT + (at - drawn.start) * span, show_tick(at, apart)) for at in marks]
    )


def endings(ident: str, facts: Facts) -> Markup:
    """Draw how many jobs ended how: one bar each, with its name and number beside it."""
    shown = [
        (ending, facts.count(ending))
        for ending in Ending
        if facts.count(ending) or ending in {Ending.COMPLETED, Ending.FAILED}
    ]
    parts = ", ".join(f"{ending} {show_count(count)}" for ending, count in shown)
    wide, narrow = 30, 46

    def draw(canvas: _Canvas) -> Iterable[Markup]:
        return _draw_endings(canvas, shown, facts.jobs)

    return _both(
        ident,
        draw,
        title="Outcomes",
        description=f"Bars of {show_count(facts.jobs)} jobs: {parts}.",
        heights=(wide * len(shown) + 6, narrow * len(shown) + 6),
    )


def _draw_endings(
    canvas: _Canvas, shown: Sequence[tuple[Ending, int]], jobs: int
) -> Iterable[Markup]:
    wide = canvas.kind == "wide"
    row = (canvas.height - 6) / len(shown)
    left, right = (140.0, 150.0) if wide else (0.0, 0.0)
    room = canvas.width - left - right
    for index, (ending, count) in enumerate(shown):
        y = index * row
        bar = max(_LEAST_BAR, room * count / jobs) if count else 0.0
        numbers = f"{show_count(count)}  ({show_share(count, jobs)})"
        track = Markup('x="{x}" y="{y}" height="{height}"').format(
            x=_n(left), y=_n(y + (6 if wide else 23)), height=_n(row - 10 if wide else 14)
        )
        yield Markup(
            '<g class="hit"><title>{ending}: {numbers}</title>'
            '<text class="name" x="{name}" y="{base}" text-anchor="{name_anchor}">{ending}</text>'
            '<rect class="track" {track} width="{room}" rx="3"/>'
            '<rect class="end {kind}" {track} width="{bar}" rx="{rx}"/>'
            '<text class="number" x="{number}" y="{base}" text-anchor="{anchor}">{numbers}</text>'
            "</g>"
        ).format(
            ending=ending.value,
            numbers=numbers,
            kind=ending.name.lower(),
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
    for x, label in marks:
        # A label at an edge is moved inside, or it would be cut off.
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


def _height(canvas: _Canvas, count: int, most: int, least: float = _LEAST_BAR) -> float:
    if not count:
        return 0.0
    return max(least, (canvas.base - canvas.top) * count / most)


def _both(
    ident: str,
    draw: Callable[[_Canvas], Iterable[Markup]],
    *,
    title: str,
    description: str,
    heights: tuple[float, float],
    top: float = _TOP,
) -> Markup:
    wide = _Canvas(ident=f"{ident}-wide", kind="wide", width=800, height=heights[0], top=top)
    narrow = _Canvas(ident=f"{ident}-narrow", kind="narrow", width=340, height=heights[1], top=top)
    return Markup("\n").join(
        Markup(
            '<svg class="chart {kind}" viewBox="0 0 {width} {height}" role="img"'
            ' aria-labelledby="{ident}-title {ident}-desc">'
            '<title id="{ident}-title">{title}</title><desc id="{ident}-desc">{description}</desc>'
            "{drawing}</svg>"
        ).format(
            kind=canvas.kind,
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
    """Give a number that fits beside an axis."""
    for size, letter in ((1_000_000, "M"), (10_000, "k")):
        if count >= size:
            return f"{count / (1000 if letter == 'k' else size):g}{letter}"
    return show_count(count)


def _n(number: float) -> str:
    """Give a length to a tenth: more is not seen, and a page has thousands."""
    return f"{number:.1f}".removesuffix(".0")
