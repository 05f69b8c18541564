"""Regions; keys and base URLs are tested with the client."""

import pytest

from adepoll.api import config
from adepoll.errors import ConfigurationError


@pytest.mark.parametrize("region", ["us", "production", "US", " Production "])
def test_us_is_also_called_production(region):
    assert config.region_url(region) == "https://api.va.landing.ai"


def test_eu_has_its_own_host():
    assert config.region_url("eu") == "https://api.va.eu-west-1.landing.ai"


@pytest.mark.parametrize("region", ["", "asia", "https://evil.example", "u s"])
def test_an_unknown_region_is_refused_with_the_known_ones(region):
    with pytest.raises(ConfigurationError, match="there are eu, production, us"):
        config.region_url(region)
