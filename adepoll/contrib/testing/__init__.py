"""Helpers for tests of your own code, for any test framework. The pytest plugin uses them."""

from adepoll.contrib.testing.client import SelfClosingClient
from adepoll.contrib.testing.threaded import serve_in_thread
from adepoll.contrib.testing.world import AdeWorld

__all__ = ["AdeWorld", "SelfClosingClient", "serve_in_thread"]
