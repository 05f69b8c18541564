"""Results are written to private files, complete or not at all, and again if they are lost."""

import asyncio
import errno
import os
import shutil
import sqlite3
import stat
from contextlib import closing, suppress

import pytest
from batching import LARGE, gather, gather_until
from files import mode_of_new_files, names, sha256, small_file_system
from waiting import until

from adepoll import JobStatus
from adepoll.batch import result_files, run_tasks
from adepoll.emulator import JobPlan
from adepoll.emulator import Outcome as Ends
from adepoll.errors import (
    AdePollError,
    BatchStoppedError,
    ConfigurationError,
    JournalMovedError,
    JournalWriteError,
    StorageError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.part_file import PartFile
from adepoll.fetcher.part_names import PartNames
from adepoll.journal import Journal
from adepoll.journal.changes import Settled
from adepoll.journal.outcomes import RecordedError, Stage
from adepoll.journal.schema import OUT_DIR


def moved_in_time(path, seconds=60):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


@pytest.mark.parametrize("size", [3_000, LARGE])
@pytest.mark.parametrize("outcome", [Ends.COMPLETED, Ends.PARTIAL])
async def test_a_file_is_private_and_equals_the_result(scene, size, outcome):
    job_id = scene.submit(result_bytes=size, outcome=outcome)
    outcome = (await scene.run([job_id]))[job_id]
    truth = scene.truth(job_id)
    assert outcome.file.path == scene.path(job_id)
    assert outcome.file.path.read_bytes() == truth
    assert (outcome.file.bytes, outcome.file.sha256) == (len(truth), sha256(truth))
    assert stat.S_IMODE(outcome.file.path.stat().st_mode) == mode_of_new_files(scene.out_dir)
    assert scene.leftovers() == []


async def test_the_snapshot_with_a_file_has_no_data_and_is_redacted(scene):
    job_ids = [scene.submit(), scene.submit(result_bytes=LARGE)]
    for outcome in (await scene.run(job_ids)).values():
        assert outcome.snapshot.data is None
        assert outcome.snapshot.metadata is not None
        assert "X-Amz" not in repr(outcome) + outcome.snapshot.to_json()


async def test_every_id_has_a_file_name(scene):
    job_ids = [
        scene.submit(job_id=job_id) for job_id in ("..a", "é" * 120, "~", "a:b", "-rf", "&'\"")
    ]
    for outcome in (await scene.run(job_ids)).values():
        assert outcome.file.path.parent == scene.out_dir
        assert outcome.file.path.read_bytes() == scene.truth(outcome.job_id)


@pytest.mark.parametrize("link", [False, True])
async def test_a_folder_with_dots_is_recorded_without_them(scene, link):
    """A journal whose paths contain ".." is refused."""
    elsewhere = scene.out_dir.parent / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    work = scene.out_dir.parent / "work"
    if link:
        work.symlink_to(elsewhere)
    else:
        work.mkdir()
    out_dir = work / ".." / "results"
    job_id, later = scene.submit(), scene.submit()
    found = await scene.run([job_id], out_dir=out_dir)
    parent = elsewhere.parent if link else scene.out_dir.parent
    assert found[job_id].file.path == parent.resolve() / "results" / f"{job_id}.json"
    assert found[job_id].file.path.is_file()
    assert [*await scene.run([later], out_dir=out_dir)] == [later]
    assert [*await scene.run(replay=True, out_dir=None)] == [job_id, later]
    assert scene.records()[job_id].file.path == found[job_id].file.path


# --- existing files ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3_000, LARGE])
async def test_a_foreign_file_is_replaced_only_with_overwrite(scene, size):
    job_id = scene.submit(result_bytes=size)
    scene.out_dir.mkdir()
    scene.path(job_id).write_bytes(b"mine")
    for number in range(3):  # later runs try again
        outcome = (await scene.run([job_id]))[job_id]
        assert kind_of(outcome.error) == "TargetExistsError", number
        assert outcome.file is None
        assert scene.path(job_id).read_bytes() == b"mine"
    # A large result is compared with the file in each run, an inline one comes with the first poll.
    assert scene.ade.truth(job_id).result_requests == (3 if size == LARGE else 0)
    outcome = (await scene.run(overwrite=True))[job_id]
    assert outcome.error is None
    assert scene.path(job_id).read_bytes() == scene.truth(job_id)


async def test_a_foreign_file_is_kept_by_the_run_after_a_kill(scene, monkeypatch):
    job_id = scene.submit(result_bytes=LARGE)
    scene.out_dir.mkdir()
    scene.path(job_id).write_bytes(b"mine")

    async def killed(*_args, **_options):
        raise KeyError("in place of a kill")

    with monkeypatch.context() as patch:
        patch.setattr(ResultFetcher, "download", killed)
        with suppress(KeyError):
            await scene.run([job_id])
    await scene.run()
    assert scene.path(job_id).read_bytes() == b"mine"


async def test_a_file_created_during_the_download_is_not_replaced(scene, monkeypatch):
    job_id = scene.submit(result_bytes=LARGE)
    publish = PartFile.publish

    def late(part):
        scene.path(job_id).write_bytes(b"mine")
        return publish(part)

    monkeypatch.setattr(PartFile, "publish", late)
    for _ in range(2):
        outcome = (await scene.run([job_id]))[job_id]
        assert kind_of(outcome.error) == "TargetExistsError"
        assert scene.path(job_id).read_bytes() == b"mine"


@pytest.mark.parametrize("size", [3_000, LARGE])
async def test_a_file_that_a_killed_run_published_without_recording_it_is_adopted(
    scene, monkeypatch, size
):
    job_id = scene.submit(result_bytes=size)

    def killed(_path):
        raise KeyError("in place of a kill")

    with monkeypatch.context() as patch:
        patch.setattr(result_files, "modified_ns", killed)
        with pytest.raises(KeyError):
            await scene.run([job_id])
    assert scene.path(job_id).exists()
    assert scene.records()[job_id].stage is Stage.FETCHING
    written = scene.path(job_id).stat()
    outcome = (await scene.run())[job_id]
    assert outcome.error is None
    assert (outcome.file.bytes, outcome.file.sha256) == (
        len(scene.truth(job_id)),
        sha256(scene.truth(job_id)),
    )
    assert scene.path(job_id).stat().st_ino == written.st_ino
    assert scene.path(job_id).stat().st_mtime_ns == written.st_mtime_ns


@pytest.mark.parametrize("size", [3_000, LARGE])
async def test_without_the_journal_correct_files_are_adopted_and_others_are_kept(scene, size):
    correct, shorter, longer = scene.many(3, result_bytes=size)
    await scene.run([correct, shorter, longer])
    scene.path(shorter).write_bytes(scene.truth(shorter)[:-1])
    scene.path(longer).write_bytes(scene.truth(longer) + b" ")
    scene.journal.unlink()
    async with scene.batch() as batch:
        found = await gather(batch.run([correct, shorter, longer]))
        assert batch.progress.adopted == 1
    assert found[correct].error is None
    assert found[correct].file.sha256 == sha256(scene.truth(correct))
    for job_id in (shorter, longer):
        assert kind_of(found[job_id].error) == "TargetExistsError"
    assert scene.path(longer).read_bytes() == scene.truth(longer) + b" "


@pytest.mark.parametrize("linked", [False, True])
async def test_no_result_replaces_the_journal_or_a_protected_file(
    scene, tmp_path, monkeypatch, linked
):
    job_ids = ["run", "ids", "other"]
    for job_id in job_ids:
        scene.submit(job_id=job_id)
    scene.out_dir.mkdir()
    scene.journal = scene.out_dir / "run.json"
    ids = scene.out_dir / "ids.json"
    ids.write_text("run\nids\nother\n")
    protected = ids
    if linked:
        protected = tmp_path / "link"
        protected.symlink_to(ids)
    monkeypatch.chdir(protected.parent)
    batch = scene.batch(overwrite=True, protected=[protected.name])
    monkeypatch.chdir(tmp_path.parent)
    async with batch:
        found = await gather(batch.run(job_ids))
    for job_id in ("run", "ids"):
        assert kind_of(found[job_id].error) == "TargetExistsError"
        assert "use another folder" in str(found[job_id].error)
        assert "overwrite" not in str(found[job_id].error)
    assert found["other"].error is None
    assert ids.read_text() == "run\nids\nother\n"
    assert set(scene.records()) == set(job_ids)


async def test_the_folder_for_results_is_created_for_this_user_only(scene):
    await scene.run([scene.submit()])
    assert stat.S_IMODE(scene.out_dir.stat().st_mode) == 0o700


async def test_a_run_removes_the_large_results_that_a_killed_run_has_left(scene):
    scene.out_dir.mkdir()
    for name in (".adepoll-0123456789abcdef-0.result", ".adepoll-0123456789abcdef.lock"):
        (scene.out_dir / name).touch()
    job_id = scene.submit()
    await scene.run([job_id])
    assert names(scene.out_dir) == [f"{job_id}.json"]


async def test_such_a_file_can_be_adopted_after_a_failed_fetch_too(scene, monkeypatch):
    job_id = scene.submit(result_bytes=LARGE)

    def killed(_path):
        raise KeyError("in place of a kill")

    with monkeypatch.context() as patch:
        patch.setattr(result_files, "modified_ns", killed)
        with pytest.raises(KeyError):
            await scene.run([job_id])
    fault = scene.ade.faults.add("server-error", endpoints=["result"])
    for _ in range(2):
        assert kind_of((await scene.run())[job_id].error) == "ResultServerError"
        assert scene.path(job_id).exists()
    scene.ade.faults.remove(fault)
    assert (await scene.run())[job_id].error is None


@pytest.mark.parametrize("first", ["refused", "failed"])
async def test_foreign_files_are_kept_by_the_run_after_an_interrupted_one(scene, first):
    """A reopened result must not look like one whose download was interrupted."""
    job_ids = scene.many(10, result_bytes=LARGE)
    scene.out_dir.mkdir()
    if first == "failed":
        fault = scene.ade.faults.add("server-error", endpoints=["result"])
        await scene.run(job_ids)
        scene.ade.faults.remove(fault)
    for job_id in job_ids:
        scene.path(job_id).write_bytes(b"mine")
    await scene.run(job_ids)
    async with scene.batch(downloads=1) as batch:
        await anext(batch.run())
    found = await scene.run()
    assert {kind_of(outcome.error) for outcome in found.values()} == {"TargetExistsError"}
    for job_id in job_ids:
        assert scene.path(job_id).read_bytes() == b"mine"
    for job_id in job_ids:
        scene.path(job_id).unlink()
    assert {outcome.error for outcome in (await scene.run()).values()} == {None}


def kind_of(error):
    return error.error_class if isinstance(error, RecordedError) else type(error).__name__


@pytest.mark.parametrize("left_early", [True, False])
async def test_files_in_another_folder_than_that_of_earlier_runs_are_kept(
    scene, tmp_path, left_early
):
    """A file of the same name in the new folder is foreign."""
    broken_off, lost, untaken = [scene.submit(result_bytes=LARGE) for _ in range(3)]
    await scene.run([lost])
    async with scene.batch() as batch:
        await anext(batch.run([untaken]))
    scene.ade.faults.add("stalled", endpoints=["result"], jobs=[broken_off])
    async with scene.batch() as batch, batch.run([broken_off]):
        await until(lambda: batch.progress.fetching)
    assert scene.records()[broken_off].stage is Stage.FETCHING
    for path in (scene.path(lost), scene.path(untaken)):
        path.unlink()
    other = tmp_path / "other"
    other.mkdir()
    for job_id in (broken_off, lost, untaken):
        (other / f"{job_id}.json").write_bytes(b"mine")
    scene.ade.faults.clear()
    if left_early:
        async with scene.batch(out_dir=other) as batch:
            await anext(batch.run())
    found = await scene.run(out_dir=other)
    assert set(found) == {broken_off, lost, untaken}
    for outcome in found.values():
        assert kind_of(outcome.error) == "TargetExistsError"
        assert (other / f"{outcome.job_id}.json").read_bytes() == b"mine"


@pytest.mark.parametrize("delivered", [True, False])
async def test_results_that_are_wanted_later_are_written_later(scene, delivered):
    inline, large = scene.submit(), scene.submit(result_bytes=LARGE)
    failed = scene.submit(outcome=Ends.FAILED)
    async with scene.batch(out_dir=None) as batch:
        run = batch.run([inline, large, failed])
        if delivered:
            assert {outcome.file async for outcome in run} == {None}
        else:
            await anext(run)
            while batch.progress.open:
                await anext(run)
    gets = scene.ade.truth(inline).polls
    found = await scene.run()
    for job_id in (inline, large):
        assert found[job_id].file.path == scene.path(job_id)
        assert scene.path(job_id).read_bytes() == scene.truth(job_id)
    assert scene.ade.truth(inline).polls == gets  # the journal has its result
    assert scene.leftovers() == []
    assert not scene.path(failed).exists()
    assert await scene.run() == {}


async def test_the_journal_counts_partial_results_and_credits(scene):
    job_ids = [scene.submit(), scene.submit(outcome=Ends.PARTIAL), scene.submit()]
    used = 0.0
    async with scene.batch() as batch:
        async for outcome in batch.run(job_ids):
            used += outcome.snapshot.metadata.credit_usage
            assert outcome.snapshot.partial == (outcome.job_id == job_ids[1])
        progress = batch.progress
    assert used > 0
    assert (progress.partial, progress.credits) == (1, pytest.approx(used))
    async with scene.batch() as batch:
        await gather(batch.run())
        assert (batch.progress.partial, batch.progress.credits) == (1, pytest.approx(used))


# --- lost files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3_000, LARGE])
@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("replay", [True, False])
async def test_a_lost_file_is_fetched_and_delivered_again_once(scene, size, taken, replay):
    hurt, sound = scene.submit(result_bytes=size), scene.submit()
    if taken:
        await scene.run([hurt, sound])
    else:
        async with scene.batch() as batch:
            run = batch.run([hurt, sound])
            await anext(run)
            while batch.progress.open:
                await anext(run)
        taken_before = {r.job_id for r in scene.records().values() if r.delivered_at}
    scene.path(hurt).unlink()
    gets = scene.ade.truth(sound).polls
    found = await scene.run(replay=replay)  # checks that each outcome is returned once
    assert found[hurt].error is None
    assert scene.path(hurt).read_bytes() == scene.truth(hurt)
    if taken:
        assert set(found) == ({hurt, sound} if replay else {hurt})
    elif not replay:
        assert set(found) == {hurt, sound} - (taken_before - {hurt})
    assert scene.ade.truth(sound).polls == gets
    assert await scene.run() == {}


def shortened(path):
    path.write_bytes(path.read_bytes()[:-1])


def altered(path):
    held = path.read_bytes()
    path.write_bytes(held[:-2] + b"?" + held[-1:])
    moved_in_time(path)


def replaced_by_a_fifo(path):
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_dangling_link(path):
    path.unlink()
    path.symlink_to("nowhere")


def replaced_by_a_link_to_an_unreadable_file(path):
    path.unlink()
    path.symlink_to("/proc/self/mem")  # on Linux, this can be opened, but reading fails


@pytest.mark.parametrize(
    "change",
    [
        shortened,
        altered,
        replaced_by_a_fifo,
        replaced_by_a_dangling_link,
        replaced_by_a_link_to_an_unreadable_file,
    ],
)
@pytest.mark.parametrize("taken", [True, False])
async def test_a_changed_file_is_reported_and_kept(scene, change, taken):
    """Only its content could prove that the file is a result, and it has another content now."""
    job_id = scene.submit()
    if taken:
        await scene.run([job_id])
    else:
        async with scene.batch() as batch:
            await anext(batch.run([job_id]))
    change(scene.path(job_id))
    changed = scene.path(job_id).lstat()
    expected = "StorageError" if stat.S_ISFIFO(changed.st_mode) else "TargetExistsError"
    for _ in range(2):
        assert kind_of((await scene.run())[job_id].error) == expected
        assert scene.path(job_id).lstat().st_mtime_ns == changed.st_mtime_ns
    error = (await scene.run(overwrite=True))[job_id].error
    if stat.S_ISREG(changed.st_mode):
        assert error is None
        assert scene.path(job_id).read_bytes() == scene.truth(job_id)
    else:  # a pipe or a link is never replaced
        assert kind_of(error) == "StorageError"
        assert scene.path(job_id).lstat().st_mtime_ns == changed.st_mtime_ns


@pytest.mark.parametrize("named", ["/dev/zero", "fifo", "package.json", "folder"])
async def test_a_journal_that_names_a_file_of_somebody_else_does_no_harm(scene, tmp_path, named):
    """A journal may come from anyone: its file is neither read forever nor replaced."""
    job_id = scene.submit()
    await scene.run([job_id])
    scene.path(job_id).unlink()
    path = tmp_path / named
    if named == "fifo":
        os.mkfifo(path)
    elif named == "package.json":
        path.write_text("precious")
    elif named == "folder":  # its name is too long, so that the status of the file cannot be read
        path = tmp_path / ("x" * 300) / scene.path(job_id).name
    with closing(sqlite3.connect(scene.journal)) as db:
        db.execute("UPDATE jobs SET result_path = ?, result_modified_ns = 1", (str(path),))
        db.commit()
    outcome = (await scene.run())[job_id]
    assert outcome.error is None
    assert outcome.file.path == scene.path(job_id)
    if named == "package.json":
        assert path.read_text() == "precious"


@pytest.mark.parametrize("is_acknowledged", [True, False])
async def test_a_journal_cannot_choose_a_folder_with_the_path_of_a_file(
    scene, tmp_path, is_acknowledged
):
    """A lost file is written again only in a folder that the caller or a note names."""
    job_id = scene.submit()
    await scene.run([job_id])
    foreign = tmp_path / "settings"
    foreign.mkdir()
    path = str(foreign / f"{job_id}.json")
    with closing(sqlite3.connect(scene.journal)) as db:
        db.execute("UPDATE jobs SET result_path = ?", (path,))
        if not is_acknowledged:
            db.execute("UPDATE jobs SET delivered_at = NULL")
        db.execute("DELETE FROM notes WHERE key = ?", (OUT_DIR,))
        db.commit()
    with pytest.raises(ConfigurationError, match="has a result that must still be fetched"):
        await scene.run(out_dir=None)
    assert names(foreign) == []
    assert (await scene.run())[job_id].file.path == scene.path(job_id)
    assert names(foreign) == []


async def test_a_file_with_another_time_and_the_same_bytes_counts_as_unchanged(scene):
    job_id = scene.submit(result_bytes=LARGE)
    await scene.run([job_id])
    held = scene.path(job_id).read_bytes()
    scene.path(job_id).write_bytes(held[:-2] + b"?" + held[-1:])
    scene.path(job_id).write_bytes(held)  # restored
    moved_in_time(scene.path(job_id))
    before = scene.requests
    assert await scene.run() == {}
    assert scene.requests == before


async def test_a_file_with_the_same_size_and_time_counts_as_unchanged(scene):
    job_id = scene.submit()
    await scene.run([job_id])
    status = scene.path(job_id).stat()
    scene.path(job_id).write_bytes(b"x" * status.st_size)
    os.utime(scene.path(job_id), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await scene.run() == {}


@pytest.mark.parametrize("taken", [True, False])
async def test_without_verify_files_are_not_checked(scene, taken):
    job_id = scene.submit()
    if taken:
        await scene.run([job_id])
    else:
        async with scene.batch() as batch:
            await anext(batch.run([job_id]))
    scene.path(job_id).unlink()
    before = scene.requests
    found = await scene.run(verify=False)
    assert set(found) == (set() if taken else {job_id})
    assert scene.requests == before
    assert not scene.path(job_id).exists()


@pytest.mark.parametrize("replay", [True, False])
async def test_a_consumer_that_moves_each_file_gets_each_outcome_once(scene, replay):
    earlier, later = scene.many(20), scene.many(40)
    async with scene.batch() as batch:
        run = batch.run(earlier)
        await anext(run)
        while batch.progress.open:
            await anext(run)
    delivered = []
    async with scene.batch() as batch:
        async for outcome in batch.run(later, replay=replay):
            outcome.file.path.unlink()
            delivered.append(outcome.job_id)
            if len(delivered) <= len(earlier):
                await asyncio.sleep(0.01)  # while this outcome is not acknowledged
    assert len(delivered) == len(set(delivered)) >= len(later)


async def test_a_file_removed_before_its_outcome_is_delivered_stops_nothing(scene, monkeypatch):
    job_ids = scene.many(2)
    publish = PartFile.publish

    def taken_away(part):
        digest = publish(part)
        part._target.unlink()
        return digest

    monkeypatch.setattr(PartFile, "publish", taken_away)
    found = await scene.run(job_ids)
    assert {outcome.error for outcome in found.values()} == {None}
    assert {record.modified_ns for record in scene.records().values()} == {0}


async def test_a_partial_download_is_resumed_by_the_next_run(scene):
    job_id = scene.submit(result_bytes=8 * LARGE)
    scene.ade.faults.add("slow-body", rate=3_000_000.0, endpoints=["result"])
    async with scene.batch() as batch:
        run = batch.run([job_id])
        async with run:
            await until(lambda: batch.progress.bytes_fetched >= 2 * 2**20)
    kept = scene.leftovers()
    assert len(kept) == 2  # part file and resume state
    there = sum((scene.out_dir / name).stat().st_blocks * 512 for name in kept)
    assert there >= 2**20
    scene.ade.faults.clear()
    seen = []
    async with scene.batch() as batch, batch.run() as run:
        while not seen or seen[-1] == 0:
            seen.append(batch.progress.bytes_fetched)
            await _moment()
        found = await gather(run)
    assert seen[-1] >= 2**20  # these bytes were there from the start
    assert found[job_id].file.path.read_bytes() == scene.truth(job_id)
    assert scene.leftovers() == []


async def _moment():
    await asyncio.sleep(0)


async def test_each_run_requests_a_fresh_url(scene):
    job_id = scene.submit(result_bytes=LARGE)
    await scene.run([job_id])
    scene.path(job_id).unlink()
    await scene.run()
    assert scene.ade.truth(job_id).polls == 2
    assert scene.ade.truth(job_id).result_requests == 2


# --- disk errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
async def test_a_disk_error_stops_the_run_and_the_next_run_continues(scene, monkeypatch, number):
    job_ids = [*scene.many(6), *scene.many(3, result_bytes=LARGE)]
    failed = scene.submit(outcome=Ends.FAILED)
    opened = PartFile.open
    count = 0

    def fails_later(part, keys):
        nonlocal count
        count += 1
        if count > 3:
            cause = OSError(number, os.strerror(number))
            raise StorageError(job_id="job", path="result.json", cause=cause)
        return opened(part, keys)

    with monkeypatch.context() as patch:
        patch.setattr(PartFile, "open", fails_later)
        async with scene.batch(downloads=2) as batch:
            run = batch.run([failed, *job_ids])
            delivered, error = await gather_until(run, BatchStoppedError)
    assert error.errno == number
    assert isinstance(error.__cause__, StorageError)
    assert "run the batch again" in str(error)
    assert "continues" not in str(error)  # without a journal, the next run starts anew
    assert not any(outcome.error for outcome in delivered.values())
    found = await scene.run()
    assert set(delivered) | set(found) == {failed, *job_ids}
    assert not set(delivered) & set(found)
    for job_id in job_ids:
        assert scene.path(job_id).read_bytes() == scene.truth(job_id)
    assert scene.leftovers() == []


@pytest.fixture
def disk(tmp_path):
    """A file system of 30 MB."""
    with small_file_system(tmp_path / "disk", "30m") as folder:
        yield folder


@pytest.mark.parametrize("on_it", ["results", "journal", "both"])
async def test_a_full_disk_stops_the_run_and_the_next_run_completes_with_free_space(
    scene, disk, on_it
):
    if on_it != "journal":
        scene.out_dir = disk / "results"
    if on_it != "results":
        scene.journal = disk / "batch.db"
    await scene.run()
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 250_000))
    job_ids = [*scene.many(100, result_bytes=20_000), scene.submit(result_bytes=LARGE)]
    async with scene.batch() as batch:
        delivered, error = await gather_until(batch.run(job_ids), AdePollError)
    expected = {"results": BatchStoppedError, "journal": JournalWriteError}
    assert isinstance(error, expected.get(on_it, BatchStoppedError | JournalWriteError))
    assert not any(outcome.error for outcome in delivered.values())
    recorded = sum(record.snapshot is not None for record in scene.records().values())
    assert sum(batch.progress.settled.values()) == recorded
    ballast.unlink()
    found = await scene.run(job_ids)
    assert {*delivered, *found} == set(job_ids)
    # There may be no space to record the last acknowledgement.
    assert len(delivered.keys() & found.keys()) <= (on_it != "results")
    for job_id in job_ids:
        assert scene.path(job_id).read_bytes() == scene.truth(job_id)
    assert scene.leftovers() == []


async def test_jobs_that_the_journal_records_while_a_run_is_left_are_counted(scene, monkeypatch):
    real, recorded = Journal.write, asyncio.Event()

    async def write(journal, *changes, **options):
        await real(journal, *changes, **options)
        if any(isinstance(change, Settled) for change in changes):
            recorded.set()
            await asyncio.sleep(0.05)

    monkeypatch.setattr(Journal, "write", write)
    job_ids = [scene.submit(), scene.submit(processing_time=float("inf"))]
    async with scene.batch() as batch:
        async with batch.run(job_ids) as run:
            await anext(run)
            recorded.clear()
            scene.end(job_ids[1])
            await until(recorded.is_set)
        assert batch.progress.settled == {JobStatus.COMPLETED: 2}


@pytest.mark.parametrize("is_published", [True, False])
async def test_what_a_run_left_when_it_was_killed_while_publishing_is_removed(scene, is_published):
    job_id = scene.submit(result_bytes=LARGE)
    fault = scene.ade.faults.add("stalled", endpoints=["result"])
    async with scene.batch() as batch, batch.run([job_id]):
        await until(lambda: scene.records().get(job_id) is not None)
        await until(lambda: scene.records()[job_id].stage is Stage.FETCHING)
    scene.ade.faults.remove(fault)
    left = PartNames(scene.path(job_id), job_id).random_path()
    left.write_bytes(scene.truth(job_id))
    if is_published:
        os.link(left, scene.path(job_id))
    assert (await scene.run())[job_id].error is None
    assert scene.path(job_id).read_bytes() == scene.truth(job_id)
    assert scene.leftovers() == []


async def test_a_missing_folder_stops_the_run(scene):
    first = scene.submit()
    await scene.run([first])
    scene.path(first).unlink()
    scene.out_dir.rmdir()
    with pytest.raises(BatchStoppedError, match="no such folder"):
        await scene.run(out_dir=None)
    assert set(await scene.run()) == {first}


async def test_a_folder_in_the_place_of_a_file_fails_one_job_only(scene):
    blocked, other = scene.submit(), scene.submit()
    scene.path(blocked).mkdir(parents=True)
    found = await scene.run([blocked, other], overwrite=True)
    assert type(found[blocked].error) is StorageError
    assert found[other].error is None
    scene.path(blocked).rmdir()
    assert (await scene.run())[blocked].error is None


@pytest.mark.parametrize("overlap", [True, False])
async def test_a_batch_keeps_large_results_in_no_folder_of_a_closed_batch(scene, tmp_path, overlap):
    """The folder can be gone. With zero data retention, the results would then be lost."""
    plan = JobPlan(result_reads=1, result_bytes=LARGE)
    job_id = scene.ade.submit(plan, kind="v2-parse")
    first = scene.batch(journal=None, out_dir=tmp_path / "first")
    second = scene.batch(journal=None, out_dir=tmp_path / "second")
    await first.__aenter__()
    if overlap:
        await second.__aenter__()
    await first.aclose()
    shutil.rmtree(tmp_path / "first")
    if not overlap:
        await second.__aenter__()
    try:
        (outcome,) = (await gather(second.run([job_id]))).values()
    finally:
        await second.aclose()
    assert outcome.error is None
    assert outcome.file.path.read_bytes() == scene.truth(job_id)


async def test_a_run_ends_if_its_journal_is_removed(scene):
    """The next run with all ids polls the jobs again, and keeps their files."""
    job_ids = scene.many(20, result_bytes=1_000)
    async with scene.batch() as batch, batch.run(job_ids) as run:
        await anext(run)
        scene.journal.unlink()
        found, error = await gather_until(run, JournalMovedError)
    assert error.path == str(scene.journal)
    assert len(found) < 19
    kept = {path: path.stat().st_ino for path in scene.out_dir.iterdir()}
    again = await scene.run(job_ids)
    assert {*again} == {*job_ids}
    assert {outcome.error for outcome in again.values()} == {None}
    assert kept.items() <= {path: path.stat().st_ino for path in scene.out_dir.iterdir()}.items()
    assert {job for job, record in scene.records().items() if record.snapshot} == {*job_ids}


async def test_a_run_that_has_recorded_everything_says_that_its_journal_is_gone(scene):
    """Its outcomes were acknowledged before the journal was removed, so nothing is written."""
    ended = asyncio.Event()

    async def ids():
        yield scene.submit()
        await ended.wait()

    async with scene.batch() as batch, batch.run(ids()) as run:
        job_id = (await anext(run)).job_id
        last = asyncio.create_task(anext(run))
        await until(lambda: scene.records()[job_id].delivered_at is not None)
        scene.journal.unlink()
        ended.set()
        with pytest.raises(JournalMovedError):
            await last


async def test_a_run_in_which_no_job_ends_notices_that_its_journal_is_gone(scene, monkeypatch):
    monkeypatch.setattr(run_tasks, "_SAVE_EVERY", 0.01)
    async with (
        scene.batch() as batch,
        batch.run([scene.submit(processing_time=float("inf"))]) as run,
    ):
        await until(lambda: scene.journal.exists() and scene.records())
        scene.journal.unlink()
        with pytest.raises(JournalMovedError):
            await anext(run)
