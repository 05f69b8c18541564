"""The statistics of a client (`AdeClient.stats`).

`request_sender` counts requests, retries, 429s and failures, and records refusals of the key.
`api.transport` counts bytes. The other numbers are the state of `rate_limiter`, `estimators`,
`hosts` and `outage`.

`contrib.prometheus` has the metrics of all packages.
"""

from attrs import frozen

from adepoll.common.html_tables import HtmlTable


@frozen(kw_only=True)
class ClientStats(HtmlTable):
    """The statistics of a client at one moment.

    `in_flight`, `window`, `rate_limit`, `retry_budget`, `gate_closed_for`, `failures_in_a_row`,
    `is_outage` and `last_failure` belong to the request budget, and are the same for all clients
    that share it.

    Attributes:
        requests: Number of requests sent, retries included.
        retries: Number of requests that repeated a failed request.
        throttled: Number of responses with status 429.
        failures: Number of requests without a usable response, 429 included.
        bytes_received: Bytes of response bodies, after decompression.
        in_flight: Number of requests that wait for their response now.
        window: Largest number of concurrent requests now. It grows up to ``max_connections`` while
            requests succeed, and restarts at 1 after a 429 or an outage.
        rate_limit: Estimate of the service's limit after a 429, in requests per second; None while
            no limit is known.
        retry_budget: Number of retries that are available now.
        gate_closed_for: Seconds until requests may be sent again after a 429 or a Retry-After; 0.0
            if they may be sent now. A Retry-After without a 429 concerns one host; the longest time
            is shown.
        failures_in_a_row: Number of failed requests since the last success, at the host with the
            most. A 429 or a malformed answer does not count. A failed request about a suspect job
            does not count, either. A job is suspect for 120 s after a request about it failed and a
            later request to the host succeeded.
        is_outage: True if the service, or one of its two hosts, seems to be down: at least ten
            consecutive requests failed, about at least three jobs. `AdeClient.outage` says whether
            the host of a kind is down.
        last_failure: Text of the last failure that counts in `failures_in_a_row`; None if that is
            0.
        refused: The status with which the service last refused the key (401, 403) or the account
            (402); None if the service has accepted the key since then. A 403 for a list, or for one
            job after the key has worked, does not count.
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
    is_outage: bool = False
    last_failure: str | None = None
    refused: int | None = None
