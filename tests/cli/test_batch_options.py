"""Batch options: what the journal saves of them, which notes are valid, and the resume command."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.config import REGIONS
from adepoll.cli import cli
from adepoll.cli.batch_options import BatchOptions
from adepoll.cli.commands import resume, watch
from adepoll.errors import ConfigurationError, JournalDamagedError
from adepoll.journal.endpoints import Endpoints

US, EU = REGIONS["us"], REGIONS["eu"]
JOURNAL = Path("batch.db")
ELSEWHERE = "https://ade.example"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in (
        "LANDINGAI_ADE_ENVIRONMENT",
        "LANDINGAI_ADE_BASE_URL",
        "LANDINGAI_ADE_V2_BASE_URL",
    ):
        monkeypatch.delenv(name, raising=False)


def command(options=None, *, journal=JOURNAL, endpoint=US, v2_endpoint=None, note=None, out=None):
    return (options or BatchOptions()).resume_command(
        journal, endpoints=Endpoints.of(endpoint, v2_endpoint), note=note, out=out
    )


# --- the help ------------------------------------------------------------------------------------


def test_the_help_of_resume_says_which_defaults_are_in_the_journal():
    options = BatchOptions(
        concurrency=1, discovery="get", downloads=1, name="id", max_rate=1.0, timeout=1.0
    )
    helps = {option.name: str(vars(option).get("help")) for option in resume.params}
    assert {name for name, text in helps.items() if "that of the journal" in text} == set(
        json.loads(options.to_note())
    )
    assert not any("--journal" in text for text in helps.values())
    assert not any("that of the journal" in str(vars(option)) for option in watch.params)


# --- the endpoint --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoints", "v2"),
    [
        (Endpoints.of(EU), "https://api.ade.eu-west-1.landing.ai"),
        (Endpoints.of(EU, EU), EU),
    ],
)
def test_official_endpoints_are_taken_from_the_journal(monkeypatch, endpoints, v2):
    monkeypatch.setenv("VISION_AGENT_API_KEY", "key")
    options = BatchOptions().with_endpoints_of(endpoints, JOURNAL)
    client = options.connect()
    assert (client.base_url, client.v2_base_url) == (EU, v2)


NEAR = [f"{EU}.evil.example", f"{EU}:8443", "http://api.va.landing.ai"]


@pytest.mark.parametrize(
    "endpoints",
    [*[Endpoints.of(near) for near in NEAR], *[Endpoints.of(EU, near) for near in NEAR]],
)
def test_an_endpoint_similar_to_an_official_one_is_refused(endpoints):
    with pytest.raises(ConfigurationError, match="the API key would be sent there"):
        BatchOptions().with_endpoints_of(endpoints, JOURNAL)


def test_the_error_says_how_to_confirm_both_endpoints():
    with pytest.raises(ConfigurationError) as caught:
        BatchOptions().with_endpoints_of(Endpoints.of(EU, ELSEWHERE), JOURNAL)
    assert f"confirm it with --base-url {EU} --v2-base-url {ELSEWHERE} or " in str(caught.value)
    assert "LANDINGAI_ADE_BASE_URL and LANDINGAI_ADE_V2_BASE_URL" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        BatchOptions(region="us"),
        BatchOptions(base_url="https://a.example"),
        BatchOptions(v2_base_url="https://a.example"),
    ],
)
def test_options_override_the_endpoints_of_the_journal(options):
    assert options.with_endpoints_of(Endpoints.of(EU), JOURNAL) == options


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LANDINGAI_ADE_ENVIRONMENT", "production"),
        ("LANDINGAI_ADE_BASE_URL", US),
        ("LANDINGAI_ADE_V2_BASE_URL", US),
    ],
)
def test_the_environment_overrides_the_endpoints_of_the_journal(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert BatchOptions().with_endpoints_of(Endpoints.of(EU), JOURNAL) == BatchOptions()


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


@pytest.mark.parametrize(
    ("variable", "value", "endpoint", "v2_endpoint", "words"),
    [
        (None, None, US, US, []),
        (None, None, ELSEWHERE, US, ["--base-url", ELSEWHERE, "--v2-base-url", US]),
        (None, None, US, ELSEWHERE, ["--base-url", US, "--v2-base-url", ELSEWHERE]),
        ("LANDINGAI_ADE_V2_BASE_URL", ELSEWHERE, US, ELSEWHERE, []),
        ("LANDINGAI_ADE_V2_BASE_URL", ELSEWHERE, US, None, ["--region", "us"]),
        (
            *("LANDINGAI_ADE_V2_BASE_URL", US, ELSEWHERE, ELSEWHERE),
            ["--base-url", ELSEWHERE, "--v2-base-url", ELSEWHERE],
        ),
    ],
)
def test_the_command_names_the_endpoint_of_v2_jobs_only_if_necessary(
    monkeypatch, variable, value, endpoint, v2_endpoint, words
):
    if variable is not None:
        monkeypatch.setenv(variable, value)
    printed = shlex.split(command(endpoint=endpoint, v2_endpoint=v2_endpoint))
    assert printed == ["adepoll", "resume", "batch.db", *words]


# --- the other options ---------------------------------------------------------------------------


def test_the_command_is_quoted_for_a_shell():
    assert command(journal=Path("it's mine/b 1.db")) == "adepoll resume 'it'\"'\"'s mine/b 1.db'"
    assert command(journal=Path("-all.db")) == "adepoll resume ./-all.db"
    assert command(journal=Path("=a.db")) == "adepoll resume '=a.db'"  # zsh: the path of a.db
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
    assert command(
        BatchOptions(
            strict=True, proxy="http://p:1", cacert=Path("ca.pem"), cert=Path("c.pem"), timeout=0.5
        )
    ) == (
        "adepoll resume batch.db --proxy http://p:1 --cacert ca.pem --cert c.pem --timeout 0.5 "
        "--strict"
    )
    assert command(BatchOptions(proxy="http://user:secret@p:1")) == "adepoll resume batch.db"


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


@pytest.mark.parametrize("name", ["concurrency", "downloads"])
def test_a_journal_keeps_each_number_that_the_command_accepts(name):
    (option,) = (option for option in cli.commands["watch"].params if option.name == name)
    chosen = BatchOptions(**{name: option.type.convert("100000", None, None)})
    assert BatchOptions().with_note(chosen.to_note()) == chosen
    with pytest.raises(click.BadParameter):
        option.type.convert("100001", None, None)
