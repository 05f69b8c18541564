"""When to poll, as pure functions. Internal: `adepoll` exports the public names."""
