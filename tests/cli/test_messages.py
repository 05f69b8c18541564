"""Errors of the library name Python arguments; the command names its options instead."""

import re

import pytest
from journalling import ENDPOINT, snapshot

from adepoll import AdeClient, AdePollError, Batch, Journal, TransportOptions
from adepoll.cli.messages import text_of
from adepoll.errors import MissingApiKeyError, TargetExistsError
from adepoll.fetcher.ssrf_guard import SsrfGuard
from adepoll.journal import Settled
from adepoll.journal.outcomes import RecordedError


def client(**options):
    return AdeClient("key", **options)


async def private_host():
    await SsrfGuard(api_url=ENDPOINT, allow_private=False).check("a", "https://10.0.0.1/a")


async def unfinished_without_folder():
    async with await Journal.in_memory(endpoint=ENDPOINT) as journal:
        await journal.add(["a"])
        await journal.write(Settled(snapshot("a"), 1.0, fetching=True))
        async with client(base_url=ENDPOINT) as ade, Batch(ade, journal=journal) as batch:
            await anext(batch.run())


async def folder_below_a_file():
    async with client() as ade, Batch(ade, out_dir=f"{__file__}/results"):
        pass


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        (private_host, "use --allow-private"),
        (unfinished_without_folder, "pass the --out of the run before"),
        (folder_below_a_file, "--out .* cannot be created"),
    ],
)
async def test_an_error_names_options_of_the_command(fail, says):
    with pytest.raises(AdePollError) as caught:
        await fail()
    assert_names_options(caught.value, says)


@pytest.mark.parametrize(
    ("create", "options", "says"),
    [
        (client, {"region": "us", "base_url": ENDPOINT}, "pass --region or --base-url"),
        (TransportOptions, {"ca_file": "no.pem"}, "cannot read the --cacert file no.pem"),
        (TransportOptions, {"client_certificate": "no.pem"}, "cannot read the --cert file no.pem"),
    ],
)
def test_an_error_of_the_client_names_options_of_the_command(create, options, says):
    with pytest.raises(AdePollError) as caught:
        create(**options)
    assert_names_options(caught.value, says)


def test_advice_is_translated_and_paths_are_not():
    assert text_of(MissingApiKeyError(variable="KEY")).endswith("the environment variable KEY")
    exists = TargetExistsError(job_id="a", path="/out_dir /a.json")
    assert "/out_dir /a.json exists already; use --overwrite" in text_of(exists)
    assert "use --overwrite" in text_of(RecordedError(str(exists), kind="TargetExistsError"))


def assert_names_options(error, says):
    assert re.search(says, text_of(error))
    assert not re.search(r"=True|out_dir|ca_file|client_certificate|\w=", text_of(error))
