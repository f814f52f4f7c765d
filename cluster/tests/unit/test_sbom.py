import unittest

from kermode_cluster import sbom


def package(name, source="registry+https://example.com", licence="MIT"):
    return {"id": name, "name": name, "version": "1.0.0", "source": source, "license": licence}


def node(name, **dependencies):
    return {"id": name, "deps": [{"pkg": other, "dep_kinds": [{"kind": kind}]} for other, kind in dependencies.items()]}


DATA = {
    "packages": [package(name) for name in ("linked", "indirect", "build", "test")] + [package("program", source=None)],
    "resolve": {"nodes": [node("program", linked=None, build="build", test="dev"), node("linked", indirect=None),
                          node("indirect", linked=None), node("build"), node("test")]},
    "workspace_members": ["program"],
}


class SbomTest(unittest.TestCase):
    def test_only_linked_packages_are_components(self):
        names = [each["name"] for each in sbom.packages(DATA, "program")]
        self.assertEqual(names, ["indirect", "linked"])

    def test_component_has_a_package_url_and_its_licence(self):
        found = sbom.component(package("linked", licence="MIT/Apache-2.0"))
        self.assertEqual(found["purl"], "pkg:cargo/linked@1.0.0")
        self.assertEqual(found["licenses"], [{"expression": "MIT OR Apache-2.0"}])

    def test_licences_are_those_of_third_parties(self):
        components = [sbom.component(package("linked")), sbom.component(package("own", source=None))]
        self.assertEqual(sbom.licence_lines(components + components), ["linked 1.0.0 MIT"])

    def test_every_component_is_a_dependency_of_the_program(self):
        components = [sbom.component(each) for each in sbom.packages(DATA, "program")]
        found = sbom.document("program", "0.1.0", components)
        self.assertEqual(found["dependencies"][0]["dependsOn"], [each["bom-ref"] for each in found["components"]])
