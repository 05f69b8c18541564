"""What tests of your own code stand on, under any framework; the pytest plugin hands it out."""

from adepoll.contrib.testing.client import SelfClosingClient
from adepoll.contrib.testing.threaded import serve_in_thread
from adepoll.contrib.testing.world import AdeWorld

__all__ = ["AdeWorld", "SelfClosingClient", "serve_in_thread"]
