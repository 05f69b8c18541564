"""Errors of the library name Python arguments; the command names its options instead."""

import ast
import re
from pathlib import Path

import pytest
from journalling import ENDPOINT, snapshot

import adepoll
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
        (unfinished_without_folder, "pass the --out of the earlier run"),
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


def texts_with_python_advice():
    """Return the texts of the library, except docstrings, that name an argument of Python."""
    package = Path(adepoll.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] in NOT_IN_THE_COMMAND:
            continue
        inside = set()  # parts of f-strings
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if node in inside:
                continue
            if isinstance(node, ast.JoinedStr):
                inside |= {*node.values}
                parts = [getattr(part, "value", None) for part in node.values]
                text = "".join(part if isinstance(part, str) else "X" for part in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if "``" not in text and ARGUMENT.search(text):
                yield text


NOT_IN_THE_COMMAND = {"cli", "contrib", "display", "emulator", "server", "sync", "watching"}
ARGUMENT = re.compile(r"pass [^;\n]*[a-z]=|[a-z]=(?:True|False|\.\.\.|\[\.)")


def test_no_advice_of_the_library_names_an_argument_of_python_to_the_user_of_the_command():
    texts = [text for text in texts_with_python_advice() if "tenants" not in text]
    assert any("overwrite=True" in text for text in texts)
    assert [text for text in texts if ARGUMENT.search(text_of(AdePollError(text)))] == []


def test_the_url_of_the_api_is_named_after_its_option():
    with pytest.raises(AdePollError) as caught:
        client(base_url="api.example")
    assert text_of(caught.value).startswith("--base-url must start with https://")


def test_advice_is_translated_and_paths_are_not():
    assert text_of(MissingApiKeyError(variable="KEY")).endswith("the environment variable KEY")
    exists = TargetExistsError(job_id="a", path="/out_dir /a.json")
    assert "/out_dir /a.json exists already; use --overwrite" in text_of(exists)
    assert "use --overwrite" in text_of(RecordedError(str(exists), error_class="TargetExistsError"))


def assert_names_options(error, says):
    assert re.search(says, text_of(error))
    assert not re.search(r"=True|out_dir|ca_file|client_certificate|\w=", text_of(error))
