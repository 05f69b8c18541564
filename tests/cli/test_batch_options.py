"""Batch options: what the journal saves of them, which notes are valid, and the resume command."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.config import REGIONS
from adepoll.cli.batch_options import BatchOptions
from adepoll.errors import ConfigurationError, JournalDamagedError

US, EU = REGIONS["us"], REGIONS["eu"]
JOURNAL = Path("batch.db")
ELSEWHERE = "https://ade.example"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in ("LANDINGAI_ADE_ENVIRONMENT", "LANDINGAI_ADE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def command(options=None, *, journal=JOURNAL, endpoint=US, note=None, out=None):
    return (options or BatchOptions()).resume_command(
        journal, endpoint=endpoint, note=note, out=out
    )


# --- the endpoint --------------------------------------------------------------------------------


def test_an_official_endpoint_is_taken_from_the_journal():
    assert BatchOptions().with_endpoint_of(EU, JOURNAL).base_url == EU


@pytest.mark.parametrize("near", [f"{EU}.evil.example", f"{EU}:8443", "http://api.va.landing.ai"])
def test_an_endpoint_similar_to_an_official_one_is_refused(near):
    with pytest.raises(ConfigurationError, match="the API key would be sent there"):
        BatchOptions().with_endpoint_of(near, JOURNAL)


@pytest.mark.parametrize(
    "options", [BatchOptions(region="us"), BatchOptions(base_url="https://a.example")]
)
def test_options_override_the_endpoint_of_the_journal(options):
    assert options.with_endpoint_of(EU, JOURNAL) == options


def test_the_environment_overrides_the_endpoint_of_the_journal(monkeypatch):
    monkeypatch.setenv("LANDINGAI_ADE_ENVIRONMENT", "production")
    assert BatchOptions().with_endpoint_of(EU, JOURNAL) == BatchOptions()


@pytest.mark.parametrize(
    ("variable", "value", "endpoint", "words"),
    [
        (None, None, EU, []),
        (None, None, ELSEWHERE, ["--base-url", ELSEWHERE]),
        ("LANDINGAI_ADE_ENVIRONMENT", "eu", EU, []),
        ("LANDINGAI_ADE_ENVIRONMENT", "production", EU, ["--region", "eu"]),
        ("LANDINGAI_ADE_BASE_URL", f"{ELSEWHERE}/", ELSEWHERE, []),
        ("LANDINGAI_ADE_BASE_URL", ELSEWHERE, US, ["--region", "us"]),
    ],
)
def test_the_command_names_the_endpoint_only_if_necessary(
    monkeypatch, variable, value, endpoint, words
):
    if variable is not None:
        monkeypatch.setenv(variable, value)
    assert shlex.split(command(endpoint=endpoint)) == ["adepoll", "resume", "batch.db", *words]


# --- the other options ---------------------------------------------------------------------------


def test_the_command_is_quoted_for_a_shell():
    assert command(journal=Path("it's mine/b 1.db")) == "adepoll resume 'it'\"'\"'s mine/b 1.db'"
    assert command(journal=Path("-all.db")) == "adepoll resume ./-all.db"
    assert command(journal=Path("a\x1b[31m.db")) == "adepoll resume $'a\\x1b\\x5b31m\\x2edb'"


@pytest.mark.parametrize(
    "path",
    ["basic plan.db", "bearer x.db", "a?sig=1&b.db", "$(touch x).db", "a\nb.db", "ü\udcff.db"],
)
def test_a_shell_reads_the_command_as_the_paths_that_were_named(path):
    line = command(journal=Path(path), out=Path("/tmp") / path)
    assert line.isprintable()
    found = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True
    )
    words = [os.fsdecode(word) for word in found.stdout.split(b"\0")]
    assert words == ["adepoll", "resume", path, "--out", f"/tmp/{path}", ""]


def test_only_a_folder_that_the_user_names_is_used(tmp_path):
    journal = Path("batch.db")
    recorded = str(tmp_path / "it's")
    with pytest.raises(ConfigurationError, match="names the folder") as caught:
        BatchOptions().check_folder(recorded, journal)
    assert shlex.quote(recorded) in str(caught.value)
    BatchOptions(out=tmp_path).check_folder(recorded, journal)
    BatchOptions().check_folder(None, journal)
    for odd in ("results", "/a/../b", "/a\0b", ""):
        with pytest.raises(JournalDamagedError, match="folder for results"):
            BatchOptions().check_folder(odd, journal)


def test_the_command_contains_the_options_that_the_journal_does_not_save():
    options = BatchOptions(
        timeout=5.0, concurrency=8, overwrite=True, verify=False, allow_private=True
    )
    assert command(options, note=BatchOptions(concurrency=8).to_note()) == (
        "adepoll resume batch.db --timeout 5 --overwrite --allow-private --no-verify"
    )
    assert command(options, note=options.to_note()).count("--") == 3


def test_saved_options_are_used_unless_they_are_overridden():
    note = BatchOptions(
        timeout=0.0, max_rate=2.5, discovery="list", downloads=3, region="eu"
    ).to_note()
    found = BatchOptions(downloads=4).with_note(note)
    assert found == BatchOptions(timeout=0.0, max_rate=2.5, discovery="list", downloads=4)


@pytest.mark.parametrize(
    "note",
    [
        "no JSON",
        "[1]",
        "{}",
        None,
        '{"timeout": NaN, "max_rate": 0, "concurrency": true, "downloads": 2.5, "discovery": "x"}',
        f'{{"timeout": {10**400}, "max_rate": 1e999, "downloads": {10**9}}}',
        '{"base_url": "https://evil.example", "allow_private": true, "out": "/", "quiet": true}',
    ],
)
def test_invalid_and_unsafe_parts_of_a_note_are_ignored(note):
    assert BatchOptions().with_note(note) == BatchOptions()


@given(st.builds(
    BatchOptions,
    timeout=st.none() | st.floats(0, 1e9),
    max_rate=st.none() | st.floats(1e-6, 1e6),
    concurrency=st.none() | st.integers(1, 10**5),
    downloads=st.none() | st.integers(1, 10**5),
    discovery=st.sampled_from([None, "auto", "list", "get"]),
))  # fmt: skip
def test_a_note_round_trips(options):
    assert BatchOptions().with_note(options.to_note()) == options
    assert None not in json.loads(options.to_note()).values()
