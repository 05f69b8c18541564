"""Links in Markdown pages: whether the file and the heading that they point to exist."""

import re
from functools import cache
from itertools import pairwise
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt

MENTION = re.compile(r"\bdocs/[\w./-]+\.md(?:#[\w-]+)?")


def broken_links(page):
    """Return the relative links and images of a page whose file or heading does not exist."""
    links = [
        child.attrs.get("href") or child.attrs.get("src")
        for token in MarkdownIt().parse(page.read_text("utf-8"))
        for child in token.children or ()
        if child.type in {"link_open", "image"}
    ]
    return [link for link in links if not _exists(page, link)]


def broken_mentions(source, root):
    """Return the pages and headings in `docs` that a file names and that do not exist."""
    mentions = MENTION.findall(source.read_text("utf-8"))
    return [mention for mention in mentions if not _exists(root / "README.md", mention)]


@cache
def slugs(page):
    """Return the anchors of a page's headings, by GitHub's rules.

    A heading is turned into lower case, loses its punctuation, and has hyphens for its spaces; one
    that repeats an earlier heading gets a number.
    """
    found = set()
    tokens = MarkdownIt().parse(page.read_text("utf-8"))
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children)
            slug = first = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            number = 0
            while slug in found:
                number += 1
                slug = f"{first}-{number}"
            found.add(slug)
    return found


def _exists(page, link):
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True  # of another site: tests reach none
    target = page.parent / unquote(parts.path) if parts.path else page
    if not target.exists():
        return False
    if not parts.fragment:
        return True
    return target.suffix == ".md" and unquote(parts.fragment) in slugs(target)
