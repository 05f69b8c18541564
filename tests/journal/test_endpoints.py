"""Endpoints: the two services of a journal."""

import pytest

from adepoll.api.config import REGIONS, V2_REGIONS
from adepoll.errors import ConfigurationError, JournalEndpointError
from adepoll.journal.endpoints import Endpoints

ELSEWHERE = "https://api.elsewhere.example"


@pytest.mark.parametrize("region", ["us", "eu"])
def test_v2_jobs_of_a_region_are_at_the_other_address_of_that_region(region):
    endpoints = Endpoints.of(f"{REGIONS[region]}/")
    assert endpoints == Endpoints(REGIONS[region], V2_REGIONS[region])
    assert (endpoints.region, endpoints.are_official) == (region, True)
    assert endpoints.shown == REGIONS[region]


def test_v2_jobs_of_another_address_are_at_the_same_address():
    endpoints = Endpoints.of(ELSEWHERE)
    assert endpoints == Endpoints(ELSEWHERE, ELSEWHERE)
    assert (endpoints.region, endpoints.are_official, endpoints.shown) == (None, False, ELSEWHERE)


def test_the_address_for_v2_jobs_is_normalized_and_shown():
    endpoints = Endpoints.of(REGIONS["us"], "HTTPS://API.Elsewhere.Example:443/")
    assert endpoints.v2 == ELSEWHERE
    assert not endpoints.are_official
    assert endpoints.shown == f"{REGIONS['us']}, v2 jobs at {ELSEWHERE}"
    with pytest.raises(ConfigurationError, match=r"^v2_endpoint must be a URL"):
        Endpoints.of(REGIONS["us"], "https://user:secret@a.example")


@pytest.mark.parametrize(
    ("theirs", "api"),
    [
        (Endpoints.of(REGIONS["us"]), "v1"),
        (Endpoints.of(REGIONS["us"], ELSEWHERE), "v1"),
        (Endpoints.of(ELSEWHERE, REGIONS["us"]), "v2"),
    ],
)
def test_the_error_says_which_address_differs(theirs, api):
    ours = Endpoints.of(ELSEWHERE)
    with pytest.raises(JournalEndpointError) as caught:
        theirs.check(ours, None)
    assert (caught.value.api, caught.value.theirs) == (api, REGIONS["us"])
    assert caught.value.ours == ELSEWHERE
