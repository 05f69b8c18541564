"""Results come home as files: whole, private, nobody else's, and again where they were lost."""

import asyncio
import errno
import os
import shutil
import stat
import subprocess
from contextlib import suppress

import pytest
from batching import LARGE, gather, gather_until, until
from files import sha256

from adepoll.batch import result_files
from adepoll.emulator import Outcome as Ends
from adepoll.errors import (
    AdePollError,
    BatchStoppedError,
    JournalWriteError,
    StorageError,
)
from adepoll.fetcher import ResultFetcher
from adepoll.fetcher.part_file import PartFile
from adepoll.journal.outcomes import RecordedError, Stage


def moved_in_time(path, seconds=60):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


@pytest.mark.parametrize("size", [3_000, LARGE])
@pytest.mark.parametrize("outcome", [Ends.COMPLETED, Ends.NONCONFORMANT])
async def test_a_file_is_the_truth_to_the_byte_and_private(scene, size, outcome):
    job_id = scene.submit(result_bytes=size, outcome=outcome)
    told = (await scene.run([job_id]))[job_id]
    truth = scene.truth(job_id)
    assert told.file.path == scene.path(job_id)
    assert told.file.path.read_bytes() == truth
    assert (told.file.bytes, told.file.sha256) == (len(truth), sha256(truth))
    assert stat.S_IMODE(told.file.path.stat().st_mode) == 0o600
    assert scene.leftovers() == []


async def test_the_snapshot_beside_a_file_is_bare_and_redacted(scene):
    job_ids = [scene.submit(), scene.submit(result_bytes=LARGE)]
    for told in (await scene.run(job_ids)).values():
        assert told.snapshot.data is None
        assert told.snapshot.metadata is not None
        assert "X-Amz" not in repr(told) + told.snapshot.to_json()


async def test_a_file_has_a_name_whatever_the_id(scene):
    job_ids = [
        scene.submit(job_id=job_id) for job_id in ("..a", "é" * 120, "~", "a:b", "-rf", "&'\"")
    ]
    for told in (await scene.run(job_ids)).values():
        assert told.file.path.parent == scene.out_dir
        assert told.file.path.read_bytes() == scene.truth(told.job_id)


# --- files that are there already ----------------------------------------------------------------


@pytest.mark.parametrize("size", [3_000, LARGE])
async def test_a_file_of_somebody_else_is_never_touched_unless_it_may_be(scene, size):
    job_id = scene.submit(result_bytes=size)
    scene.out_dir.mkdir()
    scene.path(job_id).write_bytes(b"mine")
    for number in range(3):  # also not by later runs, which try again
        told = (await scene.run([job_id]))[job_id]
        assert kind_of(told.error) == "TargetExistsError", number
        assert told.file is None
        assert scene.path(job_id).read_bytes() == b"mine"
    assert (scene.ade.truth(job_id).gets, scene.ade.world.traffic.result) == (1, 0)
    told = (await scene.run(overwrite=True))[job_id]
    assert told.error is None
    assert scene.path(job_id).read_bytes() == scene.truth(job_id)


async def test_a_kill_does_not_make_a_file_of_somebody_else_ours(scene, monkeypatch):
    """It is written down that it is not in the same breath as that the job has ended."""
    job_id = scene.submit(result_bytes=LARGE)
    scene.out_dir.mkdir()
    scene.path(job_id).write_bytes(b"mine")

    async def killed(*_args, **_options):
        raise KeyError("as good as a kill")

    with monkeypatch.context() as patch:
        patch.setattr(ResultFetcher, "download", killed)
        with suppress(KeyError):
            await scene.run([job_id])
    await scene.run()
    assert scene.path(job_id).read_bytes() == b"mine"


async def test_a_file_that_comes_while_the_result_is_on_its_way_is_not_touched(scene, monkeypatch):
    job_id = scene.submit(result_bytes=LARGE)
    publish = PartFile.publish

    def late(part):
        scene.path(job_id).write_bytes(b"mine")
        return publish(part)

    monkeypatch.setattr(PartFile, "publish", late)
    for _ in range(2):
        told = (await scene.run([job_id]))[job_id]
        assert kind_of(told.error) == "TargetExistsError"
        assert scene.path(job_id).read_bytes() == b"mine"


async def test_a_file_that_an_earlier_run_had_published_and_not_noted_is_replaced(
    scene, monkeypatch
):
    job_id = scene.submit(result_bytes=LARGE)

    def killed(_path):
        raise KeyError("as good as a kill")

    with monkeypatch.context() as patch:
        patch.setattr(result_files, "modified_ns", killed)
        with pytest.raises(KeyError):
            await scene.run([job_id])
    assert scene.path(job_id).exists()
    assert scene.records()[job_id].stage is Stage.FETCHING
    told = (await scene.run())[job_id]
    assert told.error is None
    assert scene.path(job_id).read_bytes() == scene.truth(job_id)


async def test_such_a_file_stays_ours_when_the_run_after_cannot_fetch_it(scene, monkeypatch):
    job_id = scene.submit(result_bytes=LARGE)

    def killed(_path):
        raise KeyError("as good as a kill")

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
async def test_a_run_that_is_left_early_makes_no_file_of_somebody_else_ours(scene, first):
    """What was given up is tried again, and must not look like what was broken off."""
    job_ids = scene.many(30, result_bytes=LARGE)
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
    assert {kind_of(told.error) for told in (await scene.run()).values()} == {"TargetExistsError"}
    for job_id in job_ids:
        assert scene.path(job_id).read_bytes() == b"mine"
    for job_id in job_ids:
        scene.path(job_id).unlink()
    assert {told.error for told in (await scene.run()).values()} == {None}


def kind_of(error):
    return error.kind if isinstance(error, RecordedError) else type(error).__name__


@pytest.mark.parametrize("left_early", [True, False])
async def test_another_folder_is_not_taken_for_the_one_of_the_runs_before(
    scene, tmp_path, left_early
):
    """What lies there under the same name is somebody else's."""
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
    for told in found.values():
        assert kind_of(told.error) == "TargetExistsError"
        assert (other / f"{told.job_id}.json").read_bytes() == b"mine"


# --- files that were lost ------------------------------------------------------------------------


def deleted(path):
    path.unlink()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def altered(path):
    held = path.read_bytes()
    path.write_bytes(held[:-2] + b"?" + held[-1:])
    moved_in_time(path)


def replaced_by_a_dangling_link(path):
    path.unlink()
    path.symlink_to("nowhere")


HARM = pytest.mark.parametrize("harm", [deleted, truncated, altered, replaced_by_a_dangling_link])


@HARM
@pytest.mark.parametrize("size", [3_000, LARGE])
@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("replay", [True, False])
async def test_a_file_that_was_lost_is_fetched_again_and_told_once(
    scene, harm, size, taken, replay
):
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
    harm(scene.path(hurt))
    gets = scene.ade.truth(sound).gets
    found = await scene.run(replay=replay)  # which sees that none comes twice
    assert found[hurt].error is None
    assert scene.path(hurt).read_bytes() == scene.truth(hurt)
    if taken:
        assert set(found) == ({hurt, sound} if replay else {hurt})
    elif not replay:
        assert set(found) == {hurt, sound} - (taken_before - {hurt})
    assert scene.ade.truth(sound).gets == gets
    assert await scene.run() == {}


async def test_a_file_that_was_only_touched_is_left_alone(scene):
    job_id = scene.submit(result_bytes=LARGE)
    await scene.run([job_id])
    held = scene.path(job_id).read_bytes()
    scene.path(job_id).write_bytes(held[:-2] + b"?" + held[-1:])
    scene.path(job_id).write_bytes(held)  # and altered back
    moved_in_time(scene.path(job_id))
    before = scene.requests
    assert await scene.run() == {}
    assert scene.requests == before


async def test_a_file_of_its_size_and_time_is_believed(scene):
    job_id = scene.submit()
    await scene.run([job_id])
    status = scene.path(job_id).stat()
    scene.path(job_id).write_bytes(b"x" * status.st_size)
    os.utime(scene.path(job_id), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await scene.run() == {}


@pytest.mark.parametrize("taken", [True, False])
async def test_without_verify_files_are_not_seen_after(scene, taken):
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
async def test_who_moves_each_file_when_he_has_it_is_told_of_it_once(scene, replay):
    earlier, later = scene.many(60), scene.many(100)
    async with scene.batch() as batch:
        run = batch.run(earlier)
        await anext(run)
        while batch.progress.open:
            await anext(run)
    told = []
    async with scene.batch() as batch:
        async for outcome in batch.run(later, replay=replay):
            outcome.file.path.unlink()
            told.append(outcome.job_id)
            if len(told) <= len(earlier):
                await asyncio.sleep(0.01)  # with it in hand
    assert len(told) == len(set(told)) >= len(later)


async def test_a_file_that_is_taken_away_before_it_is_told_stops_nothing(scene, monkeypatch):
    job_ids = scene.many(2)
    publish = PartFile.publish

    def taken_away(part):
        digest = publish(part)
        part._target.unlink()
        return digest

    monkeypatch.setattr(PartFile, "publish", taken_away)
    found = await scene.run(job_ids)
    assert {told.error for told in found.values()} == {None}


async def test_what_a_killed_run_had_fetched_in_part_is_gone_on_with(scene):
    job_id = scene.submit(result_bytes=8 * LARGE)
    scene.ade.faults.add("throttled", rate=3_000_000.0, endpoints=["result"])
    async with scene.batch() as batch:
        run = batch.run([job_id])
        async with run:
            await until(lambda: batch.progress.bytes_fetched >= 2 * 2**20)
    kept = scene.leftovers()
    assert len(kept) == 2  # the part, and the note beside it
    there = sum((scene.out_dir / name).stat().st_blocks * 512 for name in kept)
    assert there >= 2**20
    scene.ade.faults.clear()
    seen = []
    async with scene.batch() as batch, batch.run() as run:
        while not seen or seen[-1] == 0:
            seen.append(batch.progress.bytes_fetched)
            await _moment()
        found = await gather(run)
    assert seen[-1] >= 2**20  # so much was there from the first
    assert found[job_id].file.path.read_bytes() == scene.truth(job_id)
    assert scene.leftovers() == []


async def _moment():
    await asyncio.sleep(0)


async def test_each_run_asks_for_a_fresh_url(scene):
    job_id = scene.submit(result_bytes=LARGE)
    await scene.run([job_id])
    scene.path(job_id).unlink()
    await scene.run()
    assert scene.ade.truth(job_id).gets == 2
    assert scene.ade.truth(job_id).result_requests == 2


# --- a disk that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
async def test_where_nothing_can_be_written_the_run_stops_and_the_next_goes_on(
    scene, monkeypatch, number
):
    job_ids = [*scene.many(6), *scene.many(3, result_bytes=LARGE)]
    failed = scene.submit(outcome=Ends.FAILED)
    opened = PartFile.open
    count = 0

    def fails_later(part):
        nonlocal count
        count += 1
        if count > 3:
            raise part._failed(OSError(number, os.strerror(number)))
        return opened(part)

    with monkeypatch.context() as patch:
        patch.setattr(PartFile, "open", fails_later)
        async with scene.batch(downloads=2) as batch:
            run = batch.run([failed, *job_ids])
            told, error = await gather_until(run, BatchStoppedError)
    assert error.errno == number
    assert isinstance(error.__cause__, StorageError)
    assert "run the batch again" in str(error)
    assert not any(outcome.error for outcome in told.values())
    found = await scene.run()
    assert set(told) | set(found) == {failed, *job_ids}
    assert not set(told) & set(found)
    for job_id in job_ids:
        assert scene.path(job_id).read_bytes() == scene.truth(job_id)
    assert scene.leftovers() == []


@pytest.fixture
def disk(tmp_path):
    """A folder that is a disk of 30 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=30m", "tmpfs", folder]
    if (
        mount is None
        or subprocess.run([mount, *options], capture_output=True, check=False).returncode
    ):
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run([shutil.which("umount"), "-l", folder], check=True)


@pytest.mark.parametrize("on_it", ["results", "journal", "both"])
async def test_a_full_disk_stops_the_run_and_with_room_the_next_one_ends(scene, disk, on_it):
    if on_it != "journal":
        scene.out_dir = disk / "results"
    if on_it != "results":
        scene.journal = disk / "batch.db"
    await scene.run()
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 250_000))
    job_ids = [*scene.many(100, result_bytes=20_000), scene.submit(result_bytes=LARGE)]
    async with scene.batch() as batch:
        told, error = await gather_until(batch.run(job_ids), AdePollError)
    expected = {"results": BatchStoppedError, "journal": JournalWriteError}
    assert isinstance(error, expected.get(on_it, BatchStoppedError | JournalWriteError))
    assert not any(outcome.error for outcome in told.values())
    ballast.unlink()
    found = await scene.run(job_ids)
    assert {*told, *found} == set(job_ids)
    # The mark of one may not have found room.
    assert len(told.keys() & found.keys()) <= (on_it != "results")
    for job_id in job_ids:
        assert scene.path(job_id).read_bytes() == scene.truth(job_id)
    assert scene.leftovers() == []


async def test_a_folder_that_vanishes_stops_the_run(scene):
    first = scene.submit()
    await scene.run([first])
    scene.path(first).unlink()
    scene.out_dir.rmdir()
    with pytest.raises(BatchStoppedError, match="no such folder"):
        await scene.run(out_dir=None)
    assert set(await scene.run()) == {first}


async def test_a_name_that_is_a_folder_is_the_problem_of_one_job(scene):
    blocked, other = scene.submit(), scene.submit()
    scene.path(blocked).mkdir(parents=True)
    found = await scene.run([blocked, other], overwrite=True)
    assert type(found[blocked].error) is StorageError
    assert found[other].error is None
    scene.path(blocked).rmdir()
    assert (await scene.run())[blocked].error is None
