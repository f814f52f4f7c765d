"""Preprocessor of mdBook for links that leave `docs/`.

The pages are also read in the repository, where they link to files outside of `docs/`. The book contains ARCHITECTURE.md
as a page of its own, so links to it are changed. Other files are not in the book: their links become the path as text.
"""

import json
import re
import sys

# A link whose path leaves the folder docs, from a page of docs (`../x`) or of a folder below (`../../x`).
LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+)([^)#\s]+)(#[^)\s]*)?\)")
ARCHITECTURE = "ARCHITECTURE.md"


def rewrite(text: str, page: str) -> str:
    """Returns the text of a page with links that are valid in the book. `page` is the path of the page in docs."""
    depth = page.count("/")

    def replace(match):
        title, steps, path, anchor = match.groups()
        if steps.count("/") != depth + 1:
            return match[0]
        if path == ARCHITECTURE:
            return f"[{title}]({'../' * depth}architecture.md{anchor or ''})"
        return f"{title} (`{path}`)"

    return LINK.sub(replace, text)


def architecture(text: str) -> str:
    """Returns ARCHITECTURE.md with links that are valid for a page of docs."""
    text = text.replace("](docs/", "](")
    return re.sub(r"\[([^\]]*)\]\(((?!https?:)(?:tests|cluster|demo|images|deploy|bench)/[^)]*)\)", r"\1 (`\2`)", text)


def rewrite_items(items: list, root: str) -> None:
    """Changes all chapters, and those below them."""
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if not chapter:
            continue
        path = chapter.get("path") or ""
        if path == "architecture.md":
            with open(f"{root}/../{ARCHITECTURE}", encoding="utf-8") as file:
                chapter["content"] = architecture(file.read())
        else:
            chapter["content"] = rewrite(chapter["content"], path)
        rewrite_items(chapter["sub_items"], root)


def main() -> None:
    """Answers mdBook's question for the renderer, or rewrites the book on the standard input."""
    if len(sys.argv) > 1 and sys.argv[1] == "supports":
        return
    context, book = json.load(sys.stdin)
    rewrite_items(book.get("items") or book["sections"], context["root"])
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
