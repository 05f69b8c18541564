"""The TOML file of `adepoll emulate`: all its keys, and the errors for wrong ones."""

import pytest

from adepoll.emulator import (
    FAULT_NAMES,
    Endpoint,
    ListOrder,
    OddValue,
    Profile,
    RateLimit,
    RetryAfter,
    Settings,
    SettingsError,
    read_settings,
)
from adepoll.emulator.effects import option_names

EVERYTHING = """
seed = 7
jobs = 100
kinds = ["v1-extract", "v2-parse"]
list_order = "shuffled"
list_lag = 2

[profile]
median = 20.0
sigma = 1
failed = 0.1
large_bytes = [2_000_000, 5_000_000]
zero_data_retention = true

[profiles.v2-parse]
median = 5
result_reads = 1
retention = 60
odd = 0.5
odd_values = ["null-times"]

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
kinds = ["v2-parse"]
times = 3
"""


def test_an_empty_file_gives_the_defaults():
    assert read_settings("") == Settings()


def test_every_key_is_read():
    settings = read_settings(EVERYTHING)
    assert (settings.seed, settings.jobs, settings.list_lag) == (7, 100, 2)
    assert settings.list_order is ListOrder.SHUFFLED
    assert settings.profile == Profile(
        median=20.0, sigma=1, failed=0.1, large_bytes=(2_000_000, 5_000_000),
        zero_data_retention=True,
    )  # fmt: skip
    assert settings.kinds == ("v1-extract", "v2-parse")
    odd = Profile(median=5, result_reads=1, retention=60, odd=0.5, odd_values=[OddValue.NULL_TIMES])
    assert settings.profiles == {"v2-parse": odd}
    limit, storm = settings.faults
    assert limit.effect == RateLimit(rate=20, retry_after=RetryAfter.DATE)
    assert storm.name == "server-error"
    assert (storm.when.window, storm.when.every, storm.when.times) == ((10, 20), 60, 3)
    assert storm.when.endpoints == {Endpoint.GET, Endpoint.LIST}
    assert (storm.when.jobs, storm.when.kinds) == ({"job-1"}, {"v2-parse"})


@pytest.mark.parametrize("name", FAULT_NAMES)
def test_every_fault_can_be_given_by_name_alone(name):
    lines = ["[[faults]]", f'name = "{name}"', *(f"# {option}" for option in option_names(name))]
    [fault] = read_settings("\n".join(lines)).faults
    assert fault.name == name


def test_the_type_of_every_option_is_checked():
    for name in FAULT_NAMES:
        for option in option_names(name):
            text = f'[[faults]]\nname = "{name}"\n{option} = {{}}'
            with pytest.raises(SettingsError, match=rf"expected .* @ \$\.faults\[0\]\.{option}$"):
                read_settings(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "not TOML: Invalid value"),
        ("seed = " + "9" * 5_000, "not TOML: Exceeds the limit"),
        ("seed = " + "[" * 5_000, "not TOML: "),
        ("sed = 1", "unknown key sed; keys: seed, jobs, kinds, list_order, list_lag, profile, "),
        ("kinds = ['v3']", "no kind of job is named 'v3'; kinds: v1-extract, v1-parse, v2-parse"),
        ("[profiles.v3]", "no kind of job is named 'v3'"),
        ("[profiles.v1-parse]\nmedain = 1", "unknown key medain; keys: median"),
        ("seed = 1.5", "expected a whole number, not 1.5 @ $.seed"),
        ("seed = true", "expected a whole number, not True @ $.seed"),
        ("jobs = -1", "'jobs' must be >= 0: -1 @ $"),
        ('list_order = "random"', "expected one of newest, oldest, shuffled, reshuffled, not"),
        ("list_lag = nan", "expected a number, not nan @ $.list_lag"),
        ("profile = 1", "expected a table, not 1 @ $.profile"),
        ("[profile]\nmedain = 1", "unknown key medain; keys: median, sigma"),
        ('[profile]\nmedian = "8"', "expected a number, not '8' @ $.profile.median"),
        ("[profile]\nfailed = 2", "'failed' must be <= 1: 2 @ $.profile"),
        (
            "[profile]\nlarge_bytes = [1]",
            "expected an array of 2 values, not [1] @ $.profile.large_bytes",
        ),
        (
            '[profile]\nlarge_bytes = [1, "2"]',
            "expected a whole number, not '2' @ $.profile.large_bytes[1]",
        ),
        (
            "[profile]\nzero_data_retention = 1",
            "expected true or false, not 1 @ $.profile.zero_data_retention",
        ),
        ("[faults]", "expected an array, not {} @ $.faults"),
        ("faults = [1]", "expected a table, not 1 @ $.faults[0]"),
        ("[[faults]]", "expected a name, for example name = "),
        ('[[faults]]\nname = "fire"', "no fault is named 'fire'; faults: latency"),
        ('[[faults]]\nname = "nan"\nrate = 1', "unknown key rate; keys: name, chance, window"),
        ('[[faults]]\nname = "nan"\nchance = 7', "'chance' must be <= 1: 7 @ $.faults[0]"),
        (
            '[[faults]]\nname = "nan"\nwindow = 7',
            "expected an array of 2 values, not 7 @ $.faults[0].window",
        ),
        ('[[faults]]\nname = "nan"\njobs = "a"', "expected an array, not 'a' @ $.faults[0].jobs"),
        (
            '[[faults]]\nname = "nan"\njobs = [1]',
            "expected a string, not 1 @ $.faults[0].jobs[0]",
        ),
        (
            '[[faults]]\nname = "nan"\nendpoints = ["x"]',
            "expected one of get, list, create, result, not 'x' @ $.faults[0].endpoints[0]",
        ),
        (
            '[[faults]]\nname = "nan"\n[[faults]]\nname = "latency"\nshape = "square"',
            "lognormal, not 'square' @ $.faults[1].shape",
        ),
    ],
)
def test_an_error_names_the_reason_and_the_key(text, message):
    with pytest.raises(SettingsError) as caught:
        read_settings(text)
    assert message in str(caught.value)


def test_one_error_names_all_wrong_keys():
    with pytest.raises(SettingsError) as caught:
        read_settings("seed = 1.5\n[profile]\nmedian = true")
    assert str(caught.value).split("; ") == [
        "expected a whole number, not 1.5 @ $.seed",
        "expected a number, not True @ $.profile.median",
    ]
