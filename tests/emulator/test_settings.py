"""The TOML file of `adepoll emulate`: what it can say, and how nonsense is told."""

import pytest

from adepoll.emulator import (
    NAMES,
    Endpoint,
    ListOrder,
    Profile,
    RateLimit,
    RetryAfter,
    Settings,
    SettingsError,
    read_settings,
)
from adepoll.emulator.catalogue import options_of

EVERYTHING = """
seed = 7
jobs = 100
list_order = "shuffled"
list_lag = 2

[profile]
median = 20.0
sigma = 1
failed = 0.1
large_bytes = [2_000_000, 5_000_000]
zero_data_retention = true

[[faults]]
name = "rate-limit"
rate = 20
retry_after = "date"

[[faults]]
name = "server-error"
chance = 0.5
window = [10, 20]
every = 60
endpoints = ["get", "list"]
jobs = ["job-1"]
times = 3
"""


def test_an_empty_file_says_nothing():
    assert read_settings("") == Settings()


def test_everything_can_be_said():
    settings = read_settings(EVERYTHING)
    assert (settings.seed, settings.jobs, settings.list_lag) == (7, 100, 2)
    assert settings.list_order is ListOrder.SHUFFLED
    assert settings.profile == Profile(
        median=20.0, sigma=1, failed=0.1, large_bytes=(2_000_000, 5_000_000),
        zero_data_retention=True,
    )  # fmt: skip
    limit, storm = settings.faults
    assert limit.effect == RateLimit(rate=20, retry_after=RetryAfter.DATE)
    assert storm.name == "server-error"
    assert (storm.when.window, storm.when.every, storm.when.times) == ((10, 20), 60, 3)
    assert storm.when.endpoints == {Endpoint.GET, Endpoint.LIST}
    assert storm.when.jobs == {"job-1"}


@pytest.mark.parametrize("name", NAMES)
def test_every_fault_can_be_named_with_the_defaults_of_its_options(name):
    lines = ["[[faults]]", f'name = "{name}"', *(f"# {option}" for option in options_of(name))]
    [fault] = read_settings("\n".join(lines)).faults
    assert fault.name == name


def test_every_option_has_a_type_that_can_be_checked():
    for name in NAMES:
        for option in options_of(name):
            text = f'[[faults]]\nname = "{name}"\n{option} = {{}}'
            with pytest.raises(SettingsError, match=rf"faults\[0\]\.{option}: expected "):
                read_settings(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed = ", "not TOML: Invalid value"),
        ("sed = 1", "unknown key sed; there are: profile, faults, seed, jobs, list_order"),
        ("seed = 1.5", "seed: expected a whole number, not 1.5"),
        ("seed = true", "seed: expected a whole number, not True"),
        ("jobs = -1", "settings: jobs must be at least 0"),
        ('list_order = "random"', "list_order: expected one of newest, oldest, shuffled"),
        ("list_lag = nan", "list_lag: expected a number, not nan"),
        ("profile = 1", "profile: expected a table"),
        ("[profile]\nmedain = 1", "unknown key profile.medain; there are: median, sigma"),
        ('[profile]\nmedian = "8"', "profile.median: expected a number, not '8'"),
        ("[profile]\nfailed = 2", "profile: failed must be within 0 and 1"),
        ("[profile]\nlarge_bytes = [1]", "profile.large_bytes: expected two whole numbers"),
        ("[profile]\nzero_data_retention = 1", "expected true or false, not 1"),
        ("[faults]", "faults: expected tables, as in [[faults]]"),
        ("faults = [1]", "faults: expected tables"),
        ("[[faults]]", "faults[0]: expected a name"),
        ('[[faults]]\nname = "fire"', "faults[0]: there is no fault 'fire'; there are latency"),
        (
            '[[faults]]\nname = "nan"\nrate = 1',
            "unknown key faults[0].rate; there are: name, chance, window",
        ),
        ('[[faults]]\nname = "nan"\nchance = 7', "faults[0]: chance must be within 0 and 1"),
        ('[[faults]]\nname = "nan"\nwindow = 7', "faults[0].window: expected two numbers"),
        ('[[faults]]\nname = "nan"\njobs = "a"', "faults[0].jobs: expected texts in brackets"),
        ('[[faults]]\nname = "nan"\nendpoints = ["x"]', "faults[0]: 'x' is not a valid Endpoint"),
        (
            '[[faults]]\nname = "nan"\n[[faults]]\nname = "latency"\nshape = "square"',
            "faults[1].shape: expected one of constant, uniform",
        ),
    ],
)
def test_nonsense_is_told_by_its_key(text, told):
    with pytest.raises(SettingsError) as caught:
        read_settings(text)
    assert told in str(caught.value)
