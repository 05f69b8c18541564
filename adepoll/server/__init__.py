"""Parts of a server that uses adepoll. No module imports a web framework.

The names in `__all__` of the modules are public, and are on a page of the API reference.
"""
