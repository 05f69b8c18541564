"""Regions; keys and base URLs are tested with the client."""

import re
import traceback

import pytest

from adepoll import AdeClient, BatchJob, JobKind, JobRef
from adepoll.api import config
from adepoll.errors import ConfigurationError


@pytest.mark.parametrize("region", ["us", "production", "US", " Production "])
def test_us_is_also_called_production(region):
    assert config.region_url(region) == "https://api.va.landing.ai"


def test_eu_has_its_own_host():
    assert config.region_url("eu") == "https://api.va.eu-west-1.landing.ai"


@pytest.mark.parametrize(
    ("base_url", "advice"),
    [
        ("https://api.va.landing.ai/v1/ade", "use https://api.va.landing.ai"),
        ("https://api.va.landing.ai/v1/", "use https://api.va.landing.ai"),
        ("https://api.va.landing.ai/tools", "use https://api.va.landing.ai"),
        ("https://proxy.example/ade/v1/ade/extract/jobs", "use https://proxy.example/ade"),
        ("http://localhost:8080/v2", "use http://localhost:8080"),
    ],
)
def test_a_base_url_with_a_path_of_the_api_is_refused_with_the_right_one(base_url, advice):
    with pytest.raises(ConfigurationError, match="must not contain a path of the API") as caught:
        config.read_base_url(base_url, None)
    assert str(caught.value).endswith(advice)


@pytest.mark.parametrize("base_url", ["https://proxy.example/ade", "https://proxy.example/v1x"])
def test_a_proxy_can_have_a_path_of_its_own(base_url):
    assert config.read_base_url(base_url + "/", None) == base_url


@pytest.mark.parametrize("region", ["", "asia", "https://evil.example", "u s"])
def test_an_unknown_region_is_refused_with_the_known_ones(region):
    with pytest.raises(ConfigurationError, match="the regions are eu, production, us"):
        config.region_url(region)


@pytest.mark.parametrize("key", [b"canary-1234", ["canary-1234"], 7], ids=["bytes", "list", "int"])
def test_a_key_that_is_not_a_string_is_refused_without_being_shown(key):
    with pytest.raises(ConfigurationError, match="the API key must be a string") as caught:
        AdeClient(key)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": b"https://h"}, "base_url must be a string, not an object of the type bytes"),
        ({"v2_base_url": 7}, "v2_base_url must be a string, not an object of the type int"),
        ({"region": b"us"}, "unknown region"),
        ({"kind": "v1-parse"}, "kind must be a JobKind, such as JobKind.V1_PARSE, not 'v1-parse'"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(options, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        AdeClient("key", **options)


@pytest.mark.parametrize(
    "host",
    [
        "h\\x",
        "[::1]x:9",
        "256.1.1.1",
        "127.1",
        "[v1.x]",
        "[::1%]",
        "h;x",
        "%31.0.0.1",
        "[1]",
        "a,b",
    ],
)
def test_a_base_url_whose_host_cannot_be_one_is_refused(host):
    with pytest.raises(
        ConfigurationError, match=r"base_url (has an invalid host|is not a valid URL)"
    ):
        AdeClient("key", base_url=f"https://{host}")


@pytest.mark.parametrize("path", ["/a b", "/\t", "/\x7f", "/é"])
def test_a_base_url_must_be_printable_ascii_without_spaces(path):
    with pytest.raises(ConfigurationError, match="a space or a character that is not printable"):
        AdeClient("key", base_url=f"https://h{path}")


@pytest.mark.parametrize(
    "host",
    ["h", "a_b.example", "10.0.0.1:8080", "[::1]", "[fe80::1%25eth0]:9", "h:", "4.example", "h."],
)
def test_names_and_addresses_are_hosts(host):
    assert config.read_base_url(f"https://{host}", None) == f"https://{host}"


@pytest.mark.parametrize("text", ["nonsense", "localhost:8000", "//h", "http:/h", "http://h:99999"])
def test_a_short_text_that_is_no_url_is_shown(text):
    with pytest.raises(ConfigurationError, match=rf": {text}$"):
        config.read_base_url(text, None)


@pytest.mark.parametrize(
    "text",
    [
        "user:canary@host",
        "http://user:canary@h:port",
        "h?sig=canary",
        "canary=",
        "canary" * 6,  # as long as a key
        "h:port#canary",
        "canary\n",
    ],
)
def test_a_text_that_can_contain_a_secret_is_not_shown(text):
    with pytest.raises(ConfigurationError, match=r": REDACTED$"):
        config.read_base_url(text, None)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (config.BASE_URL_VARIABLE, "ftp://h", "LANDINGAI_ADE_BASE_URL must start with https://"),
        (config.V2_BASE_URL_VARIABLE, "h", "LANDINGAI_ADE_V2_BASE_URL must start with https://"),
        (config.REGION_VARIABLE, "asia", "unknown region 'asia' in LANDINGAI_ADE_ENVIRONMENT"),
    ],
)
def test_the_variable_of_a_wrong_value_is_named(monkeypatch, variable, value, message):
    for name in config.environment_of("", ""):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        config.read_base_urls(None, None, None)


@pytest.mark.parametrize("variable", [None, *config.environment_of("", "")])
@pytest.mark.parametrize("v2_base_url", [None, ""])
def test_the_v2_address_of_a_region_is_used_if_no_other_is_given(
    monkeypatch, v2_base_url, variable
):
    for name in config.environment_of("", ""):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "https://other.example")
    found = config.read_base_urls(None, v2_base_url, "eu")
    assert found == (config.REGIONS["eu"], config.V2_REGIONS["eu"])
    given = config.read_base_urls(None, "https://v2.example/", "eu")
    assert given == (config.REGIONS["eu"], "https://v2.example")


def test_the_name_of_a_kind_is_refused_when_the_reference_is_made():
    message = "not 'v1-parse'; JobKind.named returns the kind of a name"
    with pytest.raises(ConfigurationError, match=message):
        JobRef("job-1", kind="v1-parse")
    assert JobRef("job-1", kind=JobKind.named("v1-parse")).kind == JobKind.V1_PARSE


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JobRef("job-1", label=17), "label must be a string, not .* type int"),
        (lambda: BatchJob(JobRef("job-1"), columns={"net": 1.5}), "'net' has .* float; use str"),
        (lambda: BatchJob(JobRef("job-1"), columns={"net": None}), "'net' has .* NoneType; use"),
        (lambda: BatchJob(JobRef("job-1"), columns={5: "x"}), "'5' has .* type int; use"),
    ],
)
def test_labels_and_columns_that_are_not_texts_are_refused_before_the_journal_has_them(
    make, message
):
    with pytest.raises(ConfigurationError, match=message):
        make()
