"""The files of large results, from a poll until they are result files."""

import errno
import logging
import os

import attrs
from scripted import ScriptedSource

from adepoll.api.received_result import KeptResult
from adepoll.batch import kept_results


def received(folder, job_id, body=None):
    """Return the snapshot of a completed job; with a body, its result is in a file."""
    snapshot = ScriptedSource.snapshot(job_id, "completed")
    if body is None:
        return snapshot
    path = folder / f"{job_id}.received"
    path.write_bytes(body)
    kept = KeptResult(path)
    kept.size = len(body)
    return attrs.evolve(snapshot, data=None, data_omitted=True, kept_result=kept)


def recorded(snapshot):
    """Return a snapshot as the journal has it."""
    return attrs.evolve(snapshot, kept_result=None)


def test_each_large_result_is_found_again(tmp_path):
    jobs = [
        received(tmp_path, "small"),
        received(tmp_path, "a", b"one"),
        received(tmp_path, "tiny"),
        received(tmp_path, "b", b"three"),
    ]
    kept_results.keep(tmp_path, jobs)
    assert len({*tmp_path.iterdir()}) == 2
    for job, body in zip(jobs, [None, b"one", None, b"three"], strict=True):
        found = kept_results.with_kept_result(tmp_path, recorded(job))
        if body is None:
            assert found == job
        else:
            assert (found.kept_result.path.read_bytes(), found.data_omitted) == (body, True)
            assert found.kept_result.size == len(body)
    del jobs, job, found  # the files do not end with the objects
    assert len({*tmp_path.iterdir()}) == 2


def test_a_result_that_cannot_be_kept_does_not_keep_others_from_it(tmp_path, caplog):
    jobs = [received(tmp_path, "a", b"one"), received(tmp_path, "b", b"three")]
    jobs[0].kept_result.path.unlink()
    with caplog.at_level(logging.WARNING):
        kept_results.keep(tmp_path, jobs)
    assert [record.getMessage() for record in caplog.records] == [
        f"a large result is lost if the process is killed: {os.strerror(errno.ENOENT)}"
    ]
    first, second = (kept_results.with_kept_result(tmp_path, recorded(job)) for job in jobs)
    assert first.kept_result is None
    assert second.kept_result.path.read_bytes() == b"three"


def test_only_the_kept_files_of_written_results_are_removed(tmp_path):
    jobs = [received(tmp_path, name, name.encode()) for name in "abc"]
    kept_results.keep(tmp_path, jobs)
    kept_results.remove(tmp_path, [received(tmp_path, "gone"), *jobs[1:]])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"a"]
