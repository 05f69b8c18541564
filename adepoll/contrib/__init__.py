"""Adapters for web frameworks, metrics, tracing and tests; no other package imports them."""
