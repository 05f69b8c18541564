"""The counters of a client. Imports estimators.

Requests, retries and failures are counted in `request_sender`, bytes in `api.transport`. The other
figures are the state of `rate_limiter` and `estimators`.
"""

from attrs import frozen

from adepoll.common.html_tables import HtmlTable
from adepoll.throttling.estimators import OUTAGE


@frozen(kw_only=True)
class ClientStats(HtmlTable):
    """The counters of a client at one moment.

    `in_flight`, `window`, `rate_limit`, `retry_budget`, `gate_closed_for` and `failures_in_a_row`
    belong to the request budget, and are the same for all clients that share it.

    Attributes:
        requests: Requests sent, retries included.
        retries: Requests that repeated a failed one.
        throttled: Responses with status 429.
        failures: Requests without a usable response, 429 included.
        bytes_received: Bytes of response bodies, after decompression.
        in_flight: Requests that wait for their response now.
        window: Largest number of concurrent requests now. It grows up to ``max_connections``
            while requests succeed, and restarts at 1 after a 429 or an outage.
        rate_limit: Estimate of the service's limit after a 429, requests per second; None while
            no limit is known.
        retry_budget: Retries that are available now.
        gate_closed_for: Seconds until requests may be sent again after a 429; 0.0 if they may be
            sent now.
        failures_in_a_row: Failed requests since the last success; 10 or more are an outage. A 429,
            a malformed answer, and a job that has failed before while others succeeded do not
            count.
        last_failure: Text of the last of these failures; None if there is none.
        refused: The status (401, 402 or 403) with which the service last refused the key or the
            account; None if it has accepted the key since. A 403 for a list, or for one job of a
            key that works, does not count.
    """

    requests: int
    retries: int
    throttled: int
    failures: int
    bytes_received: int
    in_flight: int
    window: int
    rate_limit: float | None
    retry_budget: float
    gate_closed_for: float
    failures_in_a_row: int = 0
    last_failure: str | None = None
    refused: int | None = None

    @property
    def is_outage(self) -> bool:
        """Whether the service as a whole seems to be down."""
        return self.failures_in_a_row >= OUTAGE
