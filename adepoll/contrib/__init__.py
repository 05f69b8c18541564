"""Adapters for web frameworks, metrics, tracing and tests. No other package imports them."""
