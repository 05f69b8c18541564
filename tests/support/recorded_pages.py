"""Reports of fixed batches, to notice each change of a page.

``PYTHONPATH=. python tests/support/recorded_pages.py`` writes the file again, after an intended
change of the page. Then look at the difference: it shows what the change does.
"""

import re
from pathlib import Path

from reporting import ADDED, all_outcomes, record

from adepoll.report import render

FILE = Path(__file__).parent.parent / "report" / "recorded_pages.html"


BATCHES = {
    "empty": [],
    "a job": [record(1)],
    "all outcomes": all_outcomes(first=40),
    "hours": [record(n, took=0.2 * 1.6**n, lag=0.1 * n, received=40.0 * n) for n in range(1, 24)],
}


def pages():
    """Return all pages as one text, with a line for each element."""
    found = []
    for name, records in BATCHES.items():
        html = render(
            records,
            name=f"{name}.db",
            endpoint="https://api.test",
            notes={},
            made_at=ADDED + 100_000,
            running=name == "a job",
        )
        html = re.sub(r"<style>.*?</style>", "<style></style>", html, flags=re.DOTALL)
        html = re.sub(r"sha256-[^&']*|adepoll \d[\w.]*", "...", html)
        html = re.sub(r"\n\s*", "\n", html.replace("><", ">\n<"))
        found.append(f"<!-- {name} -->\n{html.strip()}\n")
    return "".join(found)


if __name__ == "__main__":
    FILE.write_text(pages(), "utf-8")
