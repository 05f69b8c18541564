"""Shows the progress of a watch, a batch or a download in a terminal or a notebook."""

from adepoll.display.downloads import download_progress
from adepoll.display.streams import progress

__all__ = ["download_progress", "progress"]
