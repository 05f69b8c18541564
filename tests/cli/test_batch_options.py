"""What a journal keeps of a person's choices, what is believed of it, and how to go on."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adepoll.api.config import REGIONS
from adepoll.cli.choices import Choices
from adepoll.errors import ConfigurationError

US, EU = REGIONS["us"], REGIONS["eu"]
JOURNAL = Path("batch.db")
ELSEWHERE = "https://ade.example"


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch):
    for name in ("LANDINGAI_ADE_ENVIRONMENT", "LANDINGAI_ADE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def command(choices=None, *, journal=JOURNAL, endpoint=US, note=None):
    return (choices or Choices()).resume_command(journal, endpoint=endpoint, note=note)


# --- where ---------------------------------------------------------------------------------------


def test_an_official_region_is_taken_from_the_journal():
    assert Choices().of_journal(EU, JOURNAL).base_url == EU


@pytest.mark.parametrize("near", [f"{EU}.evil.example", f"{EU}:8443", "http://api.va.landing.ai"])
def test_what_only_looks_like_a_region_is_not(near):
    with pytest.raises(ConfigurationError, match="the key would be sent there"):
        Choices().of_journal(near, JOURNAL)


@pytest.mark.parametrize("choices", [Choices(region="us"), Choices(base_url="https://a.example")])
def test_what_was_given_is_not_replaced_by_what_a_journal_says(choices):
    assert choices.of_journal(EU, JOURNAL) == choices


def test_the_environment_comes_before_the_journal(monkeypatch):
    monkeypatch.setenv("LANDINGAI_ADE_ENVIRONMENT", "production")
    assert Choices().of_journal(EU, JOURNAL) == Choices()


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
def test_the_command_names_the_place_only_where_it_must(
    monkeypatch, variable, value, endpoint, words
):
    if variable is not None:
        monkeypatch.setenv(variable, value)
    assert shlex.split(command(endpoint=endpoint)) == ["adepoll", "resume", "batch.db", *words]


# --- what ----------------------------------------------------------------------------------------


def test_the_command_is_quoted_for_a_shell():
    assert command(journal=Path("it's mine/b 1.db")) == "adepoll resume 'it'\"'\"'s mine/b 1.db'"
    assert command(journal=Path("-all.db")) == "adepoll resume ./-all.db"
    assert "\x1b" not in command(journal=Path("a\x1b[31m.db"))


def test_the_command_has_what_the_journal_does_not_know():
    choices = Choices(timeout=5.0, concurrency=8, overwrite=True, verify=False, allow_private=True)
    assert command(choices, note=Choices(concurrency=8).note()) == (
        "adepoll resume batch.db --timeout 5 --overwrite --allow-private --no-verify"
    )
    assert command(choices, note=choices.note()).count("--") == 3


def test_what_was_noted_is_used_where_nothing_is_given():
    noted = Choices(timeout=0.0, max_rate=2.5, discovery="list", downloads=3, region="eu").note()
    found = Choices(downloads=4).with_noted(noted)
    assert found == Choices(timeout=0.0, max_rate=2.5, discovery="list", downloads=4)


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
def test_of_a_note_only_what_can_be_and_may_be_there_is_believed(note):
    assert Choices().with_noted(note) == Choices()


@given(st.builds(
    Choices,
    timeout=st.none() | st.floats(0, 1e9),
    max_rate=st.none() | st.floats(1e-6, 1e6),
    concurrency=st.none() | st.integers(1, 10**5),
    downloads=st.none() | st.integers(1, 10**5),
    discovery=st.sampled_from([None, "auto", "list", "get"]),
))  # fmt: skip
def test_a_note_gives_back_what_was_chosen(choices):
    assert Choices().with_noted(choices.note()) == choices
    assert None not in json.loads(choices.note()).values()
