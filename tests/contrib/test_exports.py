"""The public names of the adapters."""

import importlib

import pytest

from adepoll.server.resources import ServerResources

PUBLIC = {
    "aiohttp": [
        "CLIENT",
        "FETCHER",
        "WATCHER",
        "JobFunctions",
        "ServerResources",
        "Tenant",
        "TenantPool",
        "Tenants",
        "events",
        "live",
        "problem_details_middleware",
        "problem_response",
        "ready",
        "resources",
        "send_result",
        "send_status",
        "setup",
        "wait",
        "webhook",
    ],
    "fastapi": [
        "Client",
        "ClientDisconnectedError",
        "Fetcher",
        "JobFunctions",
        "JobModel",
        "ProblemModel",
        "Resources",
        "ServerResources",
        "Tenant",
        "TenantPool",
        "Tenants",
        "Watcher",
        "add_problem_details",
        "adepoll_lifespan",
        "events",
        "live",
        "openapi",
        "problem_response",
        "ready",
        "resources",
        "running",
        "send_result",
        "send_status",
        "wait",
        "webhook",
    ],
    "otel": ["FetcherOptions", "TracedFetcher", "TracedSource"],
    "prometheus": ["AdepollCollector"],
    "pytest": ["ade", "ade_client", "ade_env", "ade_world", "pytest_configure"],
    "starlette": [
        "ClientDisconnectedError",
        "EventsResponse",
        "JobFunctions",
        "ResultResponse",
        "ServerResources",
        "Tenant",
        "TenantPool",
        "Tenants",
        "add_problem_details",
        "adepoll_lifespan",
        "cancel_on_disconnect",
        "events",
        "live",
        "problem_response",
        "ready",
        "resources",
        "running",
        "send_result",
        "send_status",
        "wait",
        "webhook",
    ],
    "testing": ["AdeWorld", "SelfClosingClient", "serve_in_thread"],
}


@pytest.mark.parametrize("name", PUBLIC)
def test_an_adapter_exports_its_public_names(name):
    module = importlib.import_module(f"adepoll.contrib.{name}")
    assert module.__all__ == PUBLIC[name]
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", ["aiohttp", "fastapi"])
def test_the_class_of_the_resources_is_public(name):
    module = importlib.import_module(f"adepoll.contrib.{name}")
    assert module.ServerResources is ServerResources
