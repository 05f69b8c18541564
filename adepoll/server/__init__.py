"""Parts of a server that uses adepoll. No module imports a web framework.

The names in the `__all__` of each module are public. The API reference describes them.
"""
