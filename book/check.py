"""Checks the built book: `problems` returns what is wrong, and `make test-book` expects nothing.

Every link leads to a file of the book, every anchor exists, and nothing is loaded from another host.
"""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Pages that repeat other pages with links of their own.
SKIPPED = {"print.html", "404.html"}
# Elements that load what their attribute names; links of `a` are only followed by a click.
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src"}


class Page(HTMLParser):
    """Links, anchors and loaded resources of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded = {"top"}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if attributes.get("id"):
            self.anchors.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if attributes.get(LOADED.get(tag)):
            self.loaded.append(attributes[LOADED[tag]])


def is_remote(url: str) -> bool:
    """Whether a URL names another host, or is no address of a file."""
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "mailto")


def broken(folder: Path, name: str, pages: dict, url: str) -> str:
    """Returns the problem of a link of a page; an empty text if its target exists."""
    parts = urlsplit(url)
    target = (folder / name).parent / unquote(parts.path) if parts.path else folder / name
    target = target.resolve()
    if not target.is_file():
        return f"{name}: no file {url}"
    page = pages.get(str(target.relative_to(folder)))
    if page and parts.fragment and unquote(parts.fragment) not in page.anchors:
        return f"{name}: no anchor {url}"
    return ""


def problems(folder: Path) -> list:
    """Returns a line for every problem of the book in a folder."""
    folder = folder.resolve()
    pages = {
        str(path.relative_to(folder)): Page(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
        if path.name not in SKIPPED
    }
    found = []
    for name, page in pages.items():
        found += [f"{name}: loads {url}" for url in page.loaded if is_remote(url)]
        local = [url for url in page.links + page.loaded if not is_remote(url)]
        found += filter(None, (broken(folder, name, pages, url) for url in local))
    return sorted(set(found))
