"""The request budget. Internal, except `RateLimiter` and `RetryPolicy`; imports errors only.

`RateLimiter` decides when a request may be sent, `RequestSender` sends those of one client, and
`RetryPolicy` says whether and when a request is repeated.
"""
