"""What all packages use: it imports nothing else of adepoll."""
