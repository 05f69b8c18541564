"""When to poll, as pure functions; internal, what is public is exported by `adepoll`."""
