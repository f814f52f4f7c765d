"""Tests of the built book, of its checks and of its preprocessor."""

import tempfile
import unittest
from pathlib import Path

import check
import preprocessor

BOOK = Path(__file__).resolve().parent.parent / "target/book"


class BuiltBookTest(unittest.TestCase):
    def test_every_link_has_a_target_and_nothing_is_loaded_from_another_host(self):
        self.assertTrue((BOOK / "index.html").is_file(), "the book is not built: run make book")
        found = check.problems(BOOK)
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_architecture_is_a_page_of_the_book(self):
        self.assertIn("How an endpoint is removed", (BOOK / "architecture.html").read_text(encoding="utf-8"))


class CheckTest(unittest.TestCase):
    def problems(self, html):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "a.html").write_text(html, encoding="utf-8")
            (Path(folder) / "b.html").write_text('<h1 id="there">B</h1>', encoding="utf-8")
            return check.problems(Path(folder))

    def test_links_to_pages_anchors_and_other_hosts_are_accepted(self):
        html = '<p id="x"></p><a href="b.html#there">b</a><a href="#x">x</a><a href="https://example.com/">e</a>'
        self.assertEqual(self.problems(html), [])

    def test_missing_file_or_anchor_is_found(self):
        self.assertEqual(self.problems('<a href="c.html">c</a>'), ["a.html: no file c.html"])
        self.assertEqual(self.problems('<a href="b.html#gone">b</a>'), ["a.html: no anchor b.html#gone"])
        self.assertEqual(self.problems('<img src="gone.svg">'), ["a.html: no file gone.svg"])

    def test_resource_of_another_host_is_found(self):
        html = '<script src="https://example.com/a.js"></script>'
        self.assertEqual(self.problems(html), ["a.html: loads https://example.com/a.js"])


class PreprocessorTest(unittest.TestCase):
    def test_link_to_architecture_leads_to_its_page(self):
        text = preprocessor.rewrite("[a](../ARCHITECTURE.md#map)", "design.md")
        self.assertEqual(text, "[a](architecture.md#map)")
        text = preprocessor.rewrite("[a](../../ARCHITECTURE.md)", "reference/tags.md")
        self.assertEqual(text, "[a](../architecture.md)")

    def test_link_to_another_file_of_the_repository_becomes_its_path(self):
        text = preprocessor.rewrite("[a](../tests/x.md#y)", "design.md")
        self.assertEqual(text, "a (`tests/x.md`)")

    def test_link_inside_of_docs_is_unchanged(self):
        link = "[a](../design.md#x)"
        self.assertEqual(preprocessor.rewrite(link, "reference/tags.md"), link)

    def test_links_of_architecture_are_relative_to_docs(self):
        text = preprocessor.architecture("[a](docs/design.md#x) [b](cluster/README.md)")
        self.assertEqual(text, "[a](design.md#x) b (`cluster/README.md`)")
