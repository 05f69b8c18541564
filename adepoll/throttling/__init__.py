"""The request budget of a client. Internal; imports errors only.

`RateLimiter` decides when a request may be sent, `RetryPolicy` whether and when it is repeated.
"""
