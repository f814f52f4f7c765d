import unittest

from repository import files, layers

TABLE = "| layer | crate | contents |\n|---|---|---|\n| 1 | `model` | |\n| 2 | `server` | |\n"


def check(model, server, table=TABLE):
    texts = {"ARCHITECTURE.md": table, "crates/model/Cargo.toml": model, "crates/server/Cargo.toml": server}
    return layers.violations(texts)


class RepositoryTest(unittest.TestCase):
    def test_every_crate_depends_on_lower_layers_only(self):
        found = layers.violations(files.tracked())
        self.assertEqual(found, [], "\n" + "\n".join(found))


class LayersTest(unittest.TestCase):
    def test_dependency_on_a_lower_layer_is_accepted(self):
        self.assertEqual(check("", "[dependencies]\nmodel.workspace = true\nserde = '1'\n"), [])

    def test_dependency_on_a_higher_layer_is_found(self):
        self.assertEqual(
            check("[dependencies]\nserver.workspace = true\n", ""), ["model (layer 1) depends on server (layer 2)"]
        )

    def test_dependency_on_the_same_layer_is_found(self):
        found = check("[dependencies]\nserver.workspace = true\n", "", TABLE.replace("2", "1"))
        self.assertEqual(found, ["model (layer 1) depends on server (layer 1)"])

    def test_dev_dependency_may_be_in_any_layer(self):
        self.assertEqual(check("[dev-dependencies]\nserver.workspace = true\n", ""), [])

    def test_crate_without_a_row_and_row_without_a_crate_are_found(self):
        found = check("", "", TABLE.replace("`model`", "`gone`"))
        self.assertEqual(found, ["ARCHITECTURE.md: no layer for model", "ARCHITECTURE.md: no crate gone"])
