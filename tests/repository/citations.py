"""Finds citations without a target and mentions of documents outside of the repository.

Every mention of a Markdown file, in any tracked text file, must name a tracked file: by its path from the repository's root
or from the folder of the mentioning file, or by the end of its path. `#anchor` must be a heading of that file. Relative links
in Markdown files must name tracked files or folders. Names of documents and numbers of lists that are not in the repository
are violations.
"""

import posixpath
import re

# A path that ends in `.md`, with an optional anchor. A path inside of a URL starts after a slash and does not match.
MENTION = re.compile(r"(?<![\w/.:@-])((?:[\w.-]+/)*[\w.-]+\.md)\b(?:#([\w-]+))?")
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$")
HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
FENCE = re.compile(r"^\s*(```|~~~)")
SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:")

OUTSIDE = [
    re.compile(r"\bBEHAVIOUR\b"),
    re.compile(r"\bDESIGN\b"),
    re.compile(r"\.\./shared\b(?:/[\w./-]*)?"),
    re.compile(r"\b[Ii]ssues? #?\d+"),
    re.compile(r"\b[Dd]ecisions? #?\d+"),
]
# The optional corpus beside the checkout, and the files that run it.
CORPUS = "../shared/conformance"
CORPUS_USERS = ("Makefile", "tests/conformance/")
# These files contain examples of violations.
EXEMPT = ("tests/repository/citations.py", "tests/repository/test_citations.py")


def without_code(text: str) -> str:
    """Returns Markdown with the lines of its code blocks emptied, so that line numbers stay."""
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
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    shown = re.sub(r"<[^>]+>", "", shown)
    return re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")


def anchors(text: str) -> set:
    """Returns the anchors of a Markdown file: a repeated heading gets a number."""
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
    """Returns `path:line: problem` for every violation in the files, given their texts by path."""
    known = {name: anchors(text) for name, text in texts.items() if name.endswith(".md")}
    folders = {posixpath.dirname(name) for name in texts}
    folders |= {parent for folder in folders for parent in parents(folder)}
    found = []
    for name, text in texts.items():
        if name in EXEMPT:
            continue
        for offset, problem in [*mentions(name, text, known), *outside(name, text)]:
            found.append((name, text.count("\n", 0, offset) + 1, problem))
        if name.endswith(".md"):
            prose = without_code(text)
            for offset, problem in links(name, prose, known, texts.keys() | folders):
                found.append((name, prose.count("\n", 0, offset) + 1, problem))
    return [f"{name}:{line}: {problem}" for name, line, problem in sorted(set(found))]


def parents(folder: str) -> list:
    """Returns the folders above a folder."""
    above = []
    while folder:
        folder = posixpath.dirname(folder)
        above.append(folder)
    return above


def mentions(name: str, text: str, known: dict):
    """Yields mentions of Markdown files, or of headings, that do not exist."""
    for match in MENTION.finditer(text):
        path, anchor = match.groups()
        candidates = [posixpath.normpath(path), posixpath.normpath(posixpath.join(posixpath.dirname(name), path))]
        # Tests name the files of a folder without the folder.
        targets = [target for target in known if target in candidates or target.endswith(f"/{path}")]
        if not targets:
            yield match.start(), f"no file {path}"
        elif anchor and not any(anchor in known[target] for target in targets):
            yield match.start(), f"no heading #{anchor} in {path}"


def links(name: str, prose: str, known: dict, paths: set):
    """Yields relative links of a Markdown file whose target does not exist."""
    for match in LINK.finditer(prose):
        link = match[1] or match[2]
        if SCHEME.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
        target = "" if target == "." else target
        if target not in paths:
            yield match.start(), f"no file {path}"
        elif anchor and anchor not in known.get(target, ()):
            yield match.start(), f"no heading #{anchor} in {target}"


def outside(name: str, text: str):
    """Yields names of documents, and numbers of lists, that are not in the repository."""
    for pattern in OUTSIDE:
        for match in pattern.finditer(text):
            corpus = match[0].rstrip("/.").startswith(CORPUS) and name.startswith(CORPUS_USERS)
            if not corpus:
                yield match.start(), f"{match[0]!r} names a document outside the repository"
