"""The client of the service. Internal; `adepoll` exports the public names.

Layers: client, then transport and protocol, then kinds, then models and codec.
"""
