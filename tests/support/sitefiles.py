"""Files of a site that Sphinx has built."""

import zlib


def inventory_names(path):
    """Return the names in an ``objects.inv`` of version 2: four header lines, then zlib."""
    data = path.read_bytes().split(b"\n", 4)
    return {line.split()[0] for line in zlib.decompress(data[4]).decode().splitlines()}
