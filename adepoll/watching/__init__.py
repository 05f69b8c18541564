"""Watching many jobs: states, poll queue, pollers, list sweeps and subscriptions; internal."""
