"""The request budget: limits the requests of one or several clients.

`RateLimiter` decides when a request may be sent, and handles 429. `RequestSender` sends the
requests of one client, and repeats failed ones. `RetryPolicy` says how often and when a request is
repeated. Internal, except `RateLimiter` and `RetryPolicy`.
"""
