import unittest

from repository import citations, files

GUIDE = "# Guide\n\n## First `step`, then\n\n```\n# not a heading\n```\n\n## Again\n\n## Again\n"


def check(**texts):
    """Returns the violations. In names of files, `__` stands for a slash and `_` for a dot."""
    texts = {name.replace("__", "/").replace("_", "."): text for name, text in texts.items()}
    return citations.violations({"docs/guide.md": GUIDE, **texts})


class RepositoryTest(unittest.TestCase):
    def test_every_citation_of_this_repository_has_a_target(self):
        found = citations.violations(files.tracked())
        self.assertEqual(found, [], "\n" + "\n".join(found))


class CitationsTest(unittest.TestCase):
    def test_citation_of_an_existing_file_or_heading_is_accepted(self):
        self.assertEqual(check(a_rs="// docs/guide.md, docs/guide.md#first-step-then, docs/guide.md#again-1."), [])

    def test_citation_of_a_missing_file_is_found(self):
        self.assertEqual(check(a_rs="\n// See docs/missing.md."), ["a.rs:2: no file docs/missing.md"])
        self.assertEqual(check(a_rs="// See STYLE.md."), ["a.rs:1: no file STYLE.md"])

    def test_citation_of_a_missing_heading_is_found(self):
        self.assertEqual(
            check(a_rs="// docs/guide.md#second"), ["a.rs:1: no heading #second in docs/guide.md"]
        )
        self.assertEqual(
            check(a_rs="// docs/guide.md#not-a-heading"), ["a.rs:1: no heading #not-a-heading in docs/guide.md"]
        )

    def test_path_relative_to_the_citing_file_is_accepted(self):
        self.assertEqual(check(crates__a_rs='include_str!("../docs/guide.md")'), [])

    def test_url_is_not_a_citation(self):
        self.assertEqual(check(a_rs="// https://example.com/docs/missing.md#anywhere"), [])

    def test_relative_link_must_have_a_target(self):
        good = "[a](guide.md#again) [b](../a.md#top) [c](#top) [d](https://example.com) [e](..) [f](../docs/)\n# Top\n"
        self.assertEqual(check(docs__b_md=good, a_md="# Top"), [])
        self.assertEqual(check(docs__b_md="[a](gone.txt)"), ["docs/b.md:1: no file gone.txt"])
        self.assertEqual(check(docs__b_md="x\n[a](#gone)"), ["docs/b.md:2: no heading #gone in docs/b.md"])
        self.assertEqual(check(docs__b_md="[a]: gone/\n"), ["docs/b.md:1: no file gone/"])

    def test_link_in_a_code_block_is_ignored(self):
        self.assertEqual(check(docs__b_md="```\n[a](gone.txt)\n```\n"), [])

    def test_citation_of_a_document_outside_the_repository_is_found(self):
        for text in ["BEHAVIOUR 2.4", "DESIGN, section 4", "../shared/notes", "issue 12", "Issue #3", "decisions 2 to 4"]:
            with self.subTest(text):
                found = check(a_rs=f"// See {text}.")
                self.assertEqual(len(found), 1, found)
                self.assertIn("outside the repository", found[0])

    def test_only_files_that_use_the_corpus_may_cite_it(self):
        self.assertEqual(check(Makefile="\t@ls ../shared/conformance"), [])
        self.assertEqual(len(check(a_rs="../shared/conformance")), 1)
        self.assertEqual(len(check(Makefile="../shared/notes")), 1)
