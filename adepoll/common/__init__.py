"""Modules that all packages use. They import nothing else of adepoll."""
