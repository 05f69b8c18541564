"""Watching many jobs: states, poll queue, pollers, list sweeps. Internal: use `JobWatcher`."""
