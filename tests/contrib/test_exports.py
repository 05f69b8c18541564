"""The public names of the adapters."""

import importlib

import pytest

from adepoll.server.resources import ServerResources

CLASSES = "JobFunctions ServerResources Tenant TenantPool Tenants"
FUNCTIONS = "events live problem_response ready resources send_result send_status wait webhook"
OF_STARLETTE = "ClientDisconnectedError add_problem_details adepoll_lifespan running"
PUBLIC = {
    "aiohttp": f"CLIENT FETCHER WATCHER {CLASSES} {FUNCTIONS} problem_details_middleware setup",
    "fastapi": f"Client Fetcher JobModel ProblemModel Resources Watcher openapi {OF_STARLETTE} "
    f"{CLASSES} {FUNCTIONS}",
    "otel": "FetcherOptions TracedFetcher TracedSource",
    "prometheus": "AdepollCollector",
    "pytest": "ade ade_client ade_env ade_world pytest_configure",
    "starlette": f"EventsResponse ResultResponse cancel_on_disconnect {OF_STARLETTE} {CLASSES} "
    f"{FUNCTIONS}",
    "testing": "AdeWorld SelfClosingClient serve_in_thread",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_an_adapter_exports_its_public_names(name):
    module = importlib.import_module(f"adepoll.contrib.{name}")
    assert sorted(module.__all__) == sorted(PUBLIC[name].split())
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", ["aiohttp", "fastapi"])
def test_the_class_of_the_resources_is_public(name):
    module = importlib.import_module(f"adepoll.contrib.{name}")
    assert module.ServerResources is ServerResources
