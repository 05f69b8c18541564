"""Regions; keys and base URLs are tested with the client."""

import pytest

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
    with pytest.raises(ConfigurationError, match="there are eu, production, us"):
        config.region_url(region)
