"""Finds citations of files or headings that do not exist, and citations of documents outside of the repository.

Any tracked text file may mention a Markdown file. The mention must name a tracked file: by its path from the
repository's root, by its path from the folder of the mentioning file, or by the end of its path. An anchor (`#anchor`)
must belong to a heading of the mentioned file. A relative link in a Markdown file must lead to a tracked file or
folder. Names of documents outside of the repository, and numbers of issues and decisions, are violations.
"""

import posixpath
import re

# A path that ends in `.md`, with an optional anchor. A path in a URL does not match, because a slash precedes it.
MENTION = re.compile(r"(?<![\w/.:@-])((?:[\w.-]+/)*[\w.-]+\.md)\b(?:#([\w-]+))?")
# A link of Markdown: `[text](target "title")`, or a definition `[name]: target`.
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$")
HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
FENCE = re.compile(r"^\s*(```|~~~)")
SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:")

# Citations of documents that are not in the repository.
OUTSIDE = [
    re.compile(r"\bBEHAVIOUR\b"),
    re.compile(r"\bDESIGN\b"),
    re.compile(r"\.\./shared\b(?:/[\w./-]*)?"),
    re.compile(r"\b[Ii]ssues? #?\d+"),
    re.compile(r"\b[Dd]ecisions? #?\d+"),
]
# The optional conformance corpus beside the checkout. Only the files that use the corpus may cite it.
CORPUS = "../shared/conformance"
CORPUS_USERS = ("Makefile", "tests/conformance/")
# These files contain examples of violations.
EXEMPT = ("book/test_book.py", "tests/repository/citations.py", "tests/repository/test_citations.py")


def without_code(text: str) -> str:
    """Returns Markdown in which the lines of code blocks are empty; line numbers do not change."""
    lines, fence = [], None
    for line in text.split("\n"):
        match = FENCE.match(line)
        if match and fence in (None, match[1]):
            fence = None if fence else match[1]
            lines.append("")
        else:
            lines.append("" if fence else line)
    return "\n".join(lines)


def slug(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    visible = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    visible = re.sub(r"<[^>]+>", "", visible)
    return re.sub(r"[^\w\- ]", "", visible.lower()).replace(" ", "-")


def anchors(text: str) -> set:
    """Returns the anchors of a Markdown file. The anchor of a repeated heading ends with a number, as on GitHub."""
    found, counts = set(), {}
    for line in without_code(text).split("\n"):
        found.update(HTML_ANCHOR.findall(line))
        if match := HEADING.match(line):
            name = slug(match[1])
            count = counts.get(name, 0)
            counts[name] = count + 1
            found.add(f"{name}-{count}" if count else name)
    return found


def violations(texts: dict) -> list:
    """Returns `path:line: problem` for every violation. `texts` maps the paths of the tracked files to their texts."""
    known_anchors = {name: anchors(text) for name, text in texts.items() if name.endswith(".md")}
    folders = {posixpath.dirname(name) for name in texts}
    folders |= {parent for folder in folders for parent in parents(folder)}
    found = []
    for name, text in texts.items():
        if name in EXEMPT:
            continue
        for offset, problem in [*broken_mentions(name, text, known_anchors), *outside_citations(name, text)]:
            found.append((name, text.count("\n", 0, offset) + 1, problem))
        if name.endswith(".md"):
            prose = without_code(text)
            for offset, problem in broken_links(name, prose, known_anchors, texts.keys() | folders):
                found.append((name, prose.count("\n", 0, offset) + 1, problem))
    return [f"{name}:{line}: {problem}" for name, line, problem in sorted(set(found))]


def parents(folder: str) -> list:
    """Returns the folders above a folder."""
    above = []
    while folder:
        folder = posixpath.dirname(folder)
        above.append(folder)
    return above


def broken_mentions(name: str, text: str, known_anchors: dict):
    """Yields offset and problem of every mention of a Markdown file, or of a heading, that does not exist."""
    for match in MENTION.finditer(text):
        path, anchor = match.groups()
        candidates = [posixpath.normpath(path), posixpath.normpath(posixpath.join(posixpath.dirname(name), path))]
        # A mention may be the end of a path: tests name the documents of a folder without the folder.
        targets = [target for target in known_anchors if target in candidates or target.endswith(f"/{path}")]
        if not targets:
            yield match.start(), f"no file {path}"
        elif anchor and not any(anchor in known_anchors[target] for target in targets):
            yield match.start(), f"no heading #{anchor} in {path}"


def broken_links(name: str, prose: str, known_anchors: dict, paths: set):
    """Yields offset and problem of every relative link of a Markdown file that has no target."""
    for match in LINK.finditer(prose):
        link = match[1] or match[2]
        if SCHEME.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
        target = "" if target == "." else target
        if target not in paths:
            yield match.start(), f"no file {path}"
        elif anchor and anchor not in known_anchors.get(target, ()):
            yield match.start(), f"no heading #{anchor} in {target}"


def outside_citations(name: str, text: str):
    """Yields offset and problem of every citation of a document outside of the repository."""
    for pattern in OUTSIDE:
        for match in pattern.finditer(text):
            is_allowed = match[0].rstrip("/.").startswith(CORPUS) and name.startswith(CORPUS_USERS)
            if not is_allowed:
                yield match.start(), f"{match[0]!r} names a document outside the repository"
