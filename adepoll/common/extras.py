"""Says how to install an extra: an optional part of adepoll with dependencies of its own.

adepoll is on no package index. So no text may say ``pip install`` followed by the name adepoll:
somebody else could register the name, and publish another program under it. Only this module
contains the command of pip.
"""


def how_to_install(extra: str) -> str:
    """Return how to install an extra, such as ``cli``, as the end of an error message.

    For example: 'install the extra "cli" of adepoll: pip install ...'.
    """
    return f'install the extra "{extra}" of adepoll: pip install ".[{extra}]" in its repository'
