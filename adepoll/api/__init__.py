"""The client of the service. Internal; `adepoll` exports the public names.

The modules from top to bottom: client, transport and protocol, kinds, models, codec.
"""
