"""Charts are drawn to scale in both widths, and their labels are inside of the drawing."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from markupsafe import Markup
from reporting import record

from adepoll.report import charts
from adepoll.report.chart_numbers import Bins, Summary
from adepoll.report.collector import collect
from adepoll.report.facts import Curve, Sample

SUMMARY = Summary(count=8, least=0.0, median=15.0, p95=38.0, most=90.0)
BINS = Bins(edges=(0.0, 10.0, 20.0, 30.0, 40.0), counts=(4, 1, 0, 2), above=1)
CURVE = Curve(start=0.0, stop=400.0, counts=(0, 1, 1, 3, 4), later=1, last=1_000.0)


def drawings(chart):
    """The wide and the narrow drawing of a chart."""
    both = ET.fromstring(Markup("<div>{}</div>").format(chart))
    return [Drawing(svg) for svg in both]


class Drawing:
    def __init__(self, svg):
        self.svg = svg
        *_, self.width, self.height = map(float, svg.get("viewBox").split())

    def all(self, tag, kind):
        return [found for found in self.svg.iter(tag) if kind in found.get("class", "").split()]

    def one(self, tag, kind):
        (found,) = self.all(tag, kind)
        return found


def lengths(element, *names):
    return [float(element.get(name)) for name in names]


def extent(text):
    """From where to where a text reaches, where a character is 6 units wide."""
    (x,), width = lengths(text, "x"), 6 * len(text.text)
    x += float(text.get("dx", 0))
    start = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
    return start, start + width


@pytest.fixture(
    params=[
        charts.histogram("h", Sample(summary=SUMMARY, bins=BINS), title="T", noun="jobs"),
        charts.curve("c", CURVE, jobs=6),
    ],
    ids=["histogram", "curve"],
)
def chart(request):
    return request.param


def test_texts_are_inside_of_the_drawing(chart):
    for drawing in drawings(chart):
        for text in drawing.svg.iter("text"):
            start, stop = extent(text)
            assert start >= 0
            assert stop <= drawing.width
            assert 0 < float(text.get("y")) <= drawing.height


def test_labels_of_the_vertical_axis_are_left_of_it_at_the_right_height(chart):
    for drawing in drawings(chart):
        axis, *grid = [
            line
            for line in drawing.svg.iter("line")
            if line.get("y1") == line.get("y2") and line.get("class") in {"axis", "grid"}
        ]
        numbers = [text for text in drawing.all("text", "tick") if text.get("text-anchor") == "end"]
        assert axis.get("class") == "axis"
        assert {line.get("class") for line in grid} == {"grid"}
        assert len(numbers) == len(grid) + 1
        (base,) = lengths(axis, "y1")
        (top,) = lengths(grid[-1], "y1")
        most = int(numbers[-1].text)
        for line, number in zip([axis, *grid], numbers, strict=True):
            left, right, y = lengths(line, "x1", "x2", "y1")
            assert y == pytest.approx(base - (base - top) * int(number.text) / most, abs=0.1)
            assert float(number.get("y")) == pytest.approx(y + 4)
            assert left - 10 < extent(number)[1] < left
            assert (left, right) == (52, drawing.width - 14)


@pytest.mark.parametrize(
    ("most", "labels"),
    [
        (4_000, ["0", "1,000", "2,000", "3,000", "4,000"]),
        (9_999, ["0", "5,000", "10k"]),
        (40_000, ["0", "10k", "20k", "30k", "40k"]),
        (1_000_000, ["0", "500k", "1M"]),
        (5_000_000, ["0", "2M", "4M", "6M"]),
    ],
)
def test_large_numbers_on_the_vertical_axis_are_short(most, labels):
    bins = Bins(edges=(0.0, 10.0, 20.0), counts=(most, 1))
    chart = charts.histogram("h", Sample(summary=SUMMARY, bins=bins), title="T", noun="jobs")
    for drawing in drawings(chart):
        ticks = [text for text in drawing.all("text", "tick") if text.get("text-anchor") == "end"]
        assert [text.text for text in ticks] == labels


def test_bars_fill_the_width_and_their_height_is_their_count():
    for drawing in drawings(
        charts.histogram("h", Sample(summary=SUMMARY, bins=BINS), title="T", noun="jobs")
    ):
        rooms, bars = drawing.all("rect", "room"), drawing.all("rect", "bar")
        assert [bar.get("class") for bar in bars] == ["bar"] * 4 + ["bar beyond"]
        slot = (drawing.width - 52 - 14) / 5
        full = lengths(rooms[0], "height")[0]
        base = drawing.height - 30
        for index, (room, bar, count) in enumerate(zip(rooms, bars, (4, 1, 0, 2, 1), strict=True)):
            assert lengths(room, "x", "y", "width", "height") == pytest.approx(
                [52 + index * slot, 44, slot, base - 44], abs=0.1
            )
            assert lengths(bar, "x", "width") == pytest.approx(
                [52 + index * slot + 1, slot - 2], abs=0.1
            )
            assert lengths(bar, "height") == pytest.approx([full * count / 4], abs=0.1)
            assert sum(lengths(bar, "y", "height")) == pytest.approx(base, abs=0.11)


@pytest.mark.parametrize(("below", "first"), [(0, 0), (3, 1)])
def test_median_and_p95_are_marked_at_their_values(below, first):
    counted = Bins(edges=BINS.edges, counts=BINS.counts, below=below, above=1)
    chart = charts.histogram("h", Sample(summary=SUMMARY, bins=counted), title="T", noun="jobs")
    for drawing in drawings(chart):
        slot = (drawing.width - 52 - 14) / (5 + first)
        p95, median = drawing.all("line", "mark")
        assert p95.get("class") == "mark dashed"
        assert median.get("class") == "mark"
        assert lengths(p95, "x1", "x2") == pytest.approx([52 + (3.8 + first) * slot] * 2, abs=0.1)
        assert lengths(median, "x1", "x2") == pytest.approx(
            [52 + (1.5 + first) * slot] * 2, abs=0.1
        )
        for line, label in zip((p95, median), drawing.all("text", "mark-label"), strict=True):
            (x,) = lengths(line, "x1")
            near = extent(label)[0] if label.get("text-anchor") == "start" else extent(label)[1]
            assert abs(near - x) == pytest.approx(6, abs=0.11)
            assert lengths(line, "y1")[0] == lengths(label, "y")[0] - 10
        assert extent(drawing.all("text", "mark-label")[1])[0] > lengths(median, "x1")[0]
        bars = drawing.all("rect", "bar")
        assert [bar.get("class") for bar in bars] == (
            ["bar beyond"] * first + ["bar"] * 4 + ["bar beyond"]
        )


@pytest.mark.parametrize("median", range(28, 40))
def test_a_label_is_right_of_its_mark_if_it_fits_and_otherwise_left(median):
    summary = Summary(count=8, least=0.0, median=float(median), p95=40.0, most=90.0)
    chart = charts.histogram("h", Sample(summary=summary, bins=BINS), title="T", noun="jobs")
    for drawing in drawings(chart):
        for line, label in zip(
            drawing.all("line", "mark"), drawing.all("text", "mark-label"), strict=True
        ):
            (x,) = lengths(line, "x1")
            fits = x + 6 + 7.8 * len(label.text) < drawing.width
            assert label.get("text-anchor") == ("start" if fits else "end")
    wide, narrow = (
        [label.get("text-anchor") for label in drawing.all("text", "mark-label")]
        for drawing in drawings(chart)
    )
    if median == 39:
        assert (wide, narrow) == (["start", "start"], ["start", "end"])


@pytest.mark.parametrize("last", [1_800.0, 1_803.0, 1_810.0])
def test_a_label_at_the_right_edge_is_not_cut_off(last):
    bins = Bins(edges=(0.0, last), counts=(1,))
    chart = charts.histogram("h", Sample(summary=SUMMARY, bins=bins), title="T", noun="jobs")
    for drawing in drawings(chart):
        assert all(extent(text)[1] <= drawing.width for text in drawing.all("text", "tick"))


def test_labels_of_the_horizontal_axis_are_below_their_ticks(chart):
    for drawing in drawings(chart):
        marks = [line for line in drawing.all("line", "axis") if line.get("y1") != line.get("y2")]
        labels = [
            text for text in drawing.all("text", "tick") if text.get("text-anchor") == "middle"
        ]
        assert 3 <= len(marks) == len(labels) <= (8 if drawing.width == 800 else 5)
        apart = {
            round(after - before, 0)
            for before, after in pairwise(lengths(mark, "x1")[0] for mark in marks)
        }
        assert len(apart) == 1
        for mark, label in zip(marks, labels, strict=True):
            x, start, stop = lengths(mark, "x1", "y1", "y2")
            assert (start, stop) == (drawing.height - 30, drawing.height - 25)
            (y,) = lengths(label, "y")
            assert y == drawing.height - 10
            half = 3.6 * len(label.text)
            at = min(max(x, half), drawing.width - half)
            assert lengths(label, "x") == pytest.approx([at], abs=0.11)


def test_the_description_of_a_curve_counts_the_jobs_that_settled_after_its_end():
    assert "5 of 6 jobs have settled" in charts.curve("c", CURVE, jobs=6)


def test_a_curve_shows_its_counts_over_the_whole_width():
    for drawing in drawings(charts.curve("c", CURVE, jobs=6)):
        base, high = drawing.height - 30, drawing.height - 44
        wanted = [
            (52 + (drawing.width - 66) * index / 4, base - high * count / 6)
            for index, count in enumerate(CURVE.counts)
        ]
        points = drawing.one("polyline", "curve").get("points")
        found = [tuple(map(float, point.split(","))) for point in points.split()]
        assert [x for x, _ in found] == pytest.approx([x for x, _ in wanted], abs=0.1)
        assert [y for _, y in found] == pytest.approx([y for _, y in wanted], abs=0.1)
        area = drawing.one("polygon", "area").get("points")
        assert area == f"52,{base:g} {points} {drawing.width - 14:g},{base:g}"
        x1, x2, y1, y2 = lengths(drawing.one("line", "mark"), "x1", "x2", "y1", "y2")
        assert (x1, x2, y1, y2) == (52, drawing.width - 14, 14, 14)
        label = drawing.one("text", "mark-label")
        assert (label.text, label.get("x"), label.get("y")) == ("all 6 jobs", "52", "8")


@pytest.mark.parametrize(
    ("jobs", "measured", "marked"), [(4, 4, False), (16, 16, True), (17, 4, False)]
)
def test_the_axis_of_a_curve_shows_all_jobs_unless_over_three_quarters_are_open(
    jobs, measured, marked
):
    for drawing in drawings(charts.curve("c", CURVE, jobs=jobs)):
        numbers = [text for text in drawing.all("text", "tick") if text.get("text-anchor") == "end"]
        assert measured <= int(numbers[-1].text) <= measured + 4
        assert len(drawing.all("line", "mark")) == marked


def test_a_curve_has_table_rows_of_shares():
    curve = Curve(start=100.0, stop=500.0, counts=(0, 10, 50, 98, 98), later=1, last=2_000.0)
    assert charts.curve_rows(curve, 100) == [
        ("1 %", 200.0, 10),
        ("10 %", 200.0, 10),
        ("25 %", 300.0, 50),
        ("50 %", 300.0, 50),
        ("75 %", 400.0, 98),
        ("90 %", 400.0, 98),
        ("95 %", 400.0, 98),
        ("the last so far", 2_000.0, 99),
    ]
    whole = Curve(start=100.0, stop=500.0, counts=(0, 1, 2), later=0, last=500.0)
    assert charts.curve_rows(whole, 2) == [("1 %", 300.0, 1), ("75 %", 500.0, 2)]
    cut = Curve(start=100.0, stop=500.0, counts=(0, 1, 2), later=1, last=900.0)
    assert charts.curve_rows(cut, 3)[-1] == ("the last so far", 900.0, 3)
    few = Curve(start=100.0, stop=500.0, counts=(0, 0), later=0, last=500.0)
    assert charts.curve_rows(few, 2) == [("the last so far", 500.0, 0)]


def test_bins_have_table_rows_including_smaller_and_larger_values():
    assert charts.bin_rows(Bins(edges=(0.0, 10.0, 20.0), counts=(1, 2), below=3, above=4)) == [
        ("less than 0\N{NO-BREAK SPACE}s", 3),
        ("0\N{NO-BREAK SPACE}s to 10\N{NO-BREAK SPACE}s", 1),
        ("10\N{NO-BREAK SPACE}s to 20\N{NO-BREAK SPACE}s", 2),
        ("more than 20\N{NO-BREAK SPACE}s", 4),
    ]


def test_the_length_of_an_outcome_bar_is_its_share():
    facts = collect(
        [record(number, "completed" if number < 4 else "cancelled") for number in range(1, 5)]
    )
    wide, narrow = drawings(charts.outcomes("e", facts))
    for drawing, left, room in ((wide, 140, 510), (narrow, 0, 340)):
        tracks, bars = drawing.all("rect", "track"), drawing.all("rect", "end")
        names = [text.text for text in drawing.all("text", "name")]
        shares = {"completed": 0.75, "failed": 0, "cancelled": 0.25}
        assert len(names) == len(tracks) == 3
        row = (drawing.height - 6) / 3
        assert row == (30 if drawing is wide else 46)
        for index, (name, track, bar) in enumerate(zip(names, tracks, bars, strict=True)):
            assert lengths(track, "x", "width") == [left, room]
            assert lengths(bar, "x", "width") == [left, pytest.approx(room * shares[name], abs=0.1)]
            y = index * row + (6 if drawing is wide else 23)
            high = 20 if drawing is wide else 14
            assert lengths(track, "y", "height") == lengths(bar, "y", "height") == [y, high]
        for text in drawing.svg.iter("text"):
            assert 0 <= extent(text)[0] <= extent(text)[1] <= drawing.width
