"""Many simultaneous downloads from an emulator with every fault, and their outcomes."""

import asyncio
import hashlib
import itertools
from collections import Counter
from random import Random

from attrs import define, field

from adepoll import AdeClient, ResultFetcher, RetryPolicy
from adepoll.emulator import EPOCH, FAULT_NAMES, Emulator, Endpoint, JobPlan, make_fault
from adepoll.errors import AdePollError

FAULTS = [name for name in FAULT_NAMES if Endpoint.RESULT in make_fault(name).effect.endpoints]
OPTIONS = {
    "latency": {"shape": "constant", "median": 3_600.0},
    "slow-body": {"rate": 20_000_000.0},
    "wrong-length": {"by": -50},
}
# Read timeout in seconds. All downloads share one loop with the service, and on a busy machine it
# takes more than a second until each has had its turn.
SILENCE = 4.0
RETRY = RetryPolicy(attempts=3, base=0.001, max_wait=0.05)


@define
class Tally:
    """The outcome of all downloads.

    Attributes:
        identical: Downloads with the right bytes at the first call.
        errors: Downloads with a typed error at the first call, by its class.
        wrong: Descriptions of wrong outcomes.
        partials: Part files with a resume state after the first calls.
        later: Downloads with the right bytes at the second call, without faults.
        faults: Number of requests with each fault.
        requests: Requests of results, in both calls.
    """

    identical: int = 0
    errors: Counter = field(factory=Counter)
    wrong: list = field(factory=list)
    partials: int = 0
    later: int = 0
    faults: dict = field(factory=dict)
    requests: int = 0


def draw_size(rng):
    """Return a size: most fit into one segment, one in ten does not."""
    return rng.randrange(8_000_000, 12_000_000) if rng.random() < 0.1 else 1_050_000


async def download_together(folder, *, count, share, seed, outage=None):
    """Download results while a share of the requests fails; then repeat failed downloads.

    The repeated downloads meet no faults. For each kind of fault, there is one job whose requests
    all meet this fault. With `outage`, there are no such jobs. Instead, all requests fail for
    `outage` seconds.
    """
    rng = Random(seed)
    tally = Tally()
    # Each reading of this clock moves it by a second, so that every renewed URL is different.
    clock = itertools.count(EPOCH).__next__
    # Without an outage, a failed download ends after its attempts and does not wait.
    retry, patience = (RETRY, 0.0) if outage is None else (RetryPolicy(), 120.0)
    async with (
        Emulator(seed=seed, clock=clock) as ade,
        AdeClient(ade.api_key, base_url=ade.base_url, retry=retry, rng=rng) as client,
        ResultFetcher(client, read_timeout=SILENCE, patience=patience) as fetcher,
    ):
        job_ids = [ade.submit(JobPlan(result_bytes=draw_size(rng))) for _ in range(count)]
        _add_faults(ade, job_ids if outage is None else (), share)

        async def download(job_id, *, by=fetcher):
            path = folder / f"{job_id}.json"
            try:
                report = await by.download(job_id, path)
            except AdePollError as error:
                if path.exists():
                    tally.wrong.append(f"{job_id}: a file in spite of {error!r}")
                return error
            except Exception as error:  # noqa: BLE001 - counted as wrong
                tally.wrong.append(f"{job_id}: {error!r}")
                return error
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            truth = ade.truth(job_id)
            if (digest, report.sha256) != (truth.result_sha256,) * 2:
                tally.wrong.append(f"{job_id}: other bytes")
            return None

        downloads = asyncio.gather(*map(download, job_ids))
        if outage is not None:
            await _fail_all_requests(ade, outage)
        outcomes = await downloads
        failed = [job for job, error in zip(job_ids, outcomes, strict=True) if error is not None]
        tally.identical = count - len(failed)
        tally.errors.update(type(error).__name__ for error in outcomes if error is not None)
        tally.faults = dict(ade.truth.faults)
        left = {path.name for path in folder.iterdir()}
        left -= {f"{job_id}.json" for job_id in job_ids}
        partials = {name for name in left if f"{name}.json" in left}
        tally.partials = len(partials)
        left -= {*partials, *(f"{name}.json" for name in partials)}
        tally.wrong += [f"left behind: {name}" for name in left]

        ade.faults.clear()
        # The default timeouts suffice on a busy machine.
        async with ResultFetcher(client) as patient:
            again = await asyncio.gather(*(download(job_id, by=patient) for job_id in failed))
        tally.later = again.count(None)
        names = {path.name for path in folder.iterdir()}
        tally.wrong += [f"left: {name}" for name in names ^ {f"{i}.json" for i in job_ids}]
        tally.wrong += [f"leaked: {leak}" for leak in ade.truth.leaks]
        tally.requests = ade.truth.requests.result
    return tally


def _add_faults(ade, victims, share):
    """Add each fault for a share of all requests, and always for one of the victims.

    Without victims, no request is redirected: two redirects in a row refuse a result for good.
    """
    for name, job_id in itertools.zip_longest(FAULTS, victims[: len(FAULTS)]):
        if name == "redirect" and not victims:
            continue
        options = {"endpoints": ["result"], **OPTIONS.get(name, {})}
        if job_id is not None:
            ade.faults.add(name, jobs=[job_id], **options)
        ade.faults.add(name, chance=share / len(FAULTS), **options)


async def _fail_all_requests(ade, seconds):
    """Let the downloads begin; then abort all connections to the storage for `seconds`."""
    await asyncio.sleep(0.5)
    faults = [*ade.faults]
    ade.faults.clear()
    ade.faults.add("reset-before-headers", endpoints=["result"])
    await asyncio.sleep(seconds)
    ade.faults.clear()
    for fault in faults:
        ade.faults.add(fault)
