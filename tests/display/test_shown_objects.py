"""What a notebook and a debugger show of the library's objects: short, and without secrets."""

import re

from batching import make_client
from journalling import snapshot
from reporting import record

from adepoll import Batch, JobWatcher, LagHistogram, Outcome, ResultFetcher
from adepoll.common.html_tables import html_table
from adepoll.emulator import Emulator, JobPlan
from adepoll.report import collect

URL = "https://bucket.s3.amazonaws.com/x?X-Amz-Signature=secret"


def rows_of(html):
    return dict(re.findall(r"<tr><th[^>]*>(.*?)</th><td[^>]*>(.*?)</td></tr>", html))


def test_a_snapshot_is_a_table_without_the_result():
    data = {"extraction": {"total": "<b>"}, "extraction_metadata": None, "metadata": {}}
    html = snapshot("<j0>", data=data, output_url=URL)._repr_html_()
    rows = rows_of(html)
    assert rows["job_id"] == "&lt;j0&gt;"
    assert rows["extraction"] == "&lt;dict of 1&gt;"
    assert "<b>JobSnapshot</b>" in html
    assert "secret" not in html


def test_a_table_leaves_out_what_has_no_value():
    rows = [("none", None), ("text", ""), ("list", []), ("tuple", ()), ("dict", {})]
    assert rows_of(html_table("t", [*rows, ("zero", 0), ("no", False)])) == {
        "zero": "0",
        "no": "no",
    }


def test_an_outcome_is_a_table():
    job = snapshot("j0", "failed", failure_reason="no pages")
    rows = rows_of(Outcome(job_id="j0", snapshot=job)._repr_html_())
    assert rows["failure"] == "no pages"
    assert rows["error"] == "JobFailedError"
    assert rows["received_at"] == "2023-11-14 22:13:20 UTC"


async def test_objects_say_what_they_do(tmp_path):
    async with Emulator() as ade, make_client(ade) as client:
        job_ids = [ade.submit(JobPlan(processing_time=0.0)) for _ in range(3)]
        async with JobWatcher(client) as watcher, ResultFetcher(client) as fetcher:
            watch = watcher.watch(job_ids)
            assert repr(watch).startswith("<Watch not started: 0 settled")
            async for _ in watch:
                pass
            assert repr(watch) == "<Watch ended: 3 settled, 0 unresolved, 0 open of 3 jobs>"
            assert re.fullmatch(
                r"<JobWatcher 0 watched, 0 polls in flight, 3 settled, 0 given up>", repr(watcher)
            )
            assert repr(fetcher).startswith("<ResultFetcher 0 transfers in progress, 0 finished")
            for stats in (watcher.stats, fetcher.stats, client.stats, watch.progress):
                assert stats._repr_html_().startswith("<table>")
                assert not [text for text in rows_of(stats._repr_html_()).values() if "(" in text]
            assert rows_of(watcher.stats._repr_html_())["settled"] == "3"
        assert " closed," in repr(watcher)
        batch = Batch(client, journal=tmp_path / "b.db", out_dir=tmp_path)
        shown = f"<Batch not open, journal {str(tmp_path / 'b.db')!r}, results in {str(tmp_path)!r}"
        assert repr(batch) == f"{shown}: 0 of 0 settled>"
        assert repr(Batch(client)) == "<Batch not open, journal in memory: 0 of 0 settled>"
        async with batch:
            run = batch.run(job_ids)
            assert repr(run).startswith("<BatchRun not started")
            await anext(run)
            assert repr(run).startswith("<BatchRun running: ")
            await run.aclose()
            assert repr(run).startswith("<BatchRun ended: ")
            run = batch.run(job_ids)
            async for _ in run:
                pass
            assert repr(run) == "<BatchRun ended: 3 settled, 0 unresolved, 0 open of 3 jobs>"
            assert repr(batch).endswith(": 3 of 3 settled>")
            assert rows_of(batch.progress._repr_html_())["settled"] == "3 completed"


def test_the_facts_of_a_report_are_a_table():
    assert rows_of(collect([])._repr_html_()) == {"jobs": "0"}
    found = rows_of(collect([record(1), record(2), record(3, "waiting")])._repr_html_())
    assert found == {
        "jobs": "3",
        "outcomes": "2 completed, 1 waiting",
        "duration": "median 20.0 s, 95% within 20.0 s",
        "detection lag": "median 2.0 s, 95% within 2.0 s",
        "credits": "3",
        "result files": "2",
    }


def test_a_histogram_of_lags_is_a_short_text():
    assert str(LagHistogram()) == "no lag yet"
    histogram = LagHistogram(bounds=(1.0, 2.0), counts=(18, 1, 1), sum=24.0)
    assert str(histogram) == "mean 1.2 s, 95% within 2 s"
    assert str(LagHistogram(bounds=(1.0,), counts=(1, 1), sum=9.0)) == "mean 4.5 s"
