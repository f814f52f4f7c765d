"""Tests of images from Debian packages: selection, pins, files of packages, recipes."""

import json
import os
import tempfile
import unittest
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from unittest import mock

from kermode_cluster import applications, debian, files, oci, paths
from kermode_cluster.errors import ClusterError
from kermode_cluster.oci import Entry

PRINTED = """\
'http://deb.debian.org/debian/pool/main/a/attr/libattr1_2.5.1-4_amd64.deb' libattr1_1%3a2.5.1-4_amd64.deb 22164 MD5Sum:52fe
'http://deb.debian.org/debian-security/pool/updates/main/r/redis-server.deb' redis-server_5%3a7.0.15-1~deb12u10_amd64.deb 73908 
"""


class Packages(unittest.TestCase):
    """Packages in a temporary cache."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for patch in (mock.patch.object(paths, "cache", return_value=self.folder),
                      mock.patch.object(debian, "architecture", return_value="amd64")):
            patch.start()
            self.addCleanup(patch.stop)

    def write_deb(self, name: str, version: str, content: str = "package") -> Path:
        path = debian.deb(name, version)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def test_versions_are_read_from_the_output_of_apt(self):
        self.assertEqual(debian.parse_uris(PRINTED), {"libattr1": "1:2.5.1-4", "redis-server": "5:7.0.15-1~deb12u10"})

    def test_package_without_candidate_is_named(self):
        with mock.patch.object(debian, "run", return_value=PRINTED), \
                self.assertRaisesRegex(ClusterError, "no package nginx"):
            debian.select(["redis-server", "nginx"])

    def test_cached_packages_are_not_downloaded(self):
        self.write_deb("redis-server", "5:7.0")
        with mock.patch.object(debian, "run", side_effect=AssertionError("apt was called")):
            debian.fetch({"redis-server": "5:7.0"})

    def test_lists_of_apt_are_updated_before_a_version_counts_as_unavailable(self):
        calls = []

        def run(*command):
            calls.append(command)
            if "download" in command:
                raise ClusterError("version 1 was not found")

        with mock.patch.object(debian, "run", run), self.assertRaisesRegex(debian.UnavailableError, "version 1"):
            debian.fetch({"redis-server": "1"})
        self.assertEqual(sum("update" in call for call in calls), 1)
        self.assertEqual(sum("download" in call for call in calls), 2)

    def test_package_with_another_hash_than_the_pinned_one_is_rejected(self):
        path = self.write_deb("redis-server", "1")
        debian.check_hashes({"redis-server": "1"}, {"redis-server": files.sha256(path)})
        with self.assertRaisesRegex(ClusterError, "pins 0000"):
            debian.check_hashes({"redis-server": "1"}, {"redis-server": "0000"})

    def test_layer_has_the_files_of_packages_below_usr_without_documentation(self):
        unpacked = debian.deb("app", "1").with_suffix("")
        for path in ("bin/tool", "usr/lib/library.so.1", "usr/share/doc/app/copyright"):
            (unpacked / path).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / path).write_text(path)
        (unpacked / "bin/tool").chmod(0o755)
        os.symlink("library.so.1", unpacked / "usr/lib/library.so")
        found = {entry.path: entry for entry in debian.layer({"app": "1"})}
        self.assertEqual(found["usr/bin/tool"].mode, 0o755)
        self.assertEqual(found["usr/lib/library.so"].link, "library.so.1")
        self.assertFalse([path for path in found if path.startswith(("bin", "usr/share/doc/"))])

    def test_pinned_versions_are_used_while_they_are_available(self):
        self.write_lock({"base": {"dash": "1"}, "app": {"redis": "2"}})
        for name, version in (("dash", "1"), ("redis", "2")):
            self.write_deb(name, version)
        selection = applications.fetch(["app"], {"images": {"app": {}}})
        self.assertEqual(selection["app"], {"redis": "2"})

    def test_current_versions_replace_pins_that_are_not_available(self):
        self.write_lock({"base": {"dash": "1"}, "app": {"redis": "2"}})
        current = {"base": {"dash": "3"}, "app": {"redis": "4"}}
        for versions in current.values():
            for name, version in versions.items():
                self.write_deb(name, version)
        printed = StringIO()
        with mock.patch.object(debian, "run", side_effect=ClusterError("version 1 was not found")), \
                mock.patch.object(applications, "select_current", return_value=current), redirect_stderr(printed):
            self.assertEqual(applications.fetch(["app"], {"images": {"app": {}}}), current)
        self.assertIn("version 1 was not found", printed.getvalue())

    def write_lock(self, images: dict) -> None:
        lock = self.folder / "lock.json"
        hashes = {name: files.sha256(self.write_deb(name, "hash")) for name in ("dash", "redis")}
        lock.write_text(json.dumps({"amd64": {"images": images, "sha256": hashes}}))
        patch = mock.patch.object(applications, "LOCK_FILE", lock)
        patch.start()
        self.addCleanup(patch.stop)


class Recipes(unittest.TestCase):
    """Properties of the recipes and of their pins."""

    def test_every_image_is_pinned_with_its_packages(self):
        wanted = applications.recipes()
        for architecture, lock in json.loads(applications.LOCK_FILE.read_text()).items():
            self.assertEqual(lock["images"].keys(), {"base", *wanted["images"]}, architecture)
            for name, recipe in wanted["images"].items():
                self.assertLessEqual(set(recipe["packages"]), set(lock["images"][name]), name)
                self.assertFalse(set(lock["images"][name]) & set(wanted["without"]), name)
                self.assertLessEqual(set(lock["images"][name]), set(lock["sha256"]), name)

    def test_image_has_the_first_user_the_path_and_the_stop_signal_of_its_recipe(self):
        recipe = {"packages": ["app"], "users": {"app": 999}, "path": "/opt/bin", "stop-signal": "SIGQUIT"}
        with mock.patch.object(debian, "layer", return_value=[Entry("usr/bin/app", text="")]):
            image = applications.image("app", recipe, {"base": {}, "app": {"app": "1"}})
        self.assertEqual(image.user, "999:999")
        self.assertEqual(image.env, ["PATH=/opt/bin:/usr/bin:/usr/sbin"])
        self.assertEqual(oci.configuration(image, [])["config"]["StopSignal"], "SIGQUIT")

    def test_image_without_a_recipe_is_named(self):
        with self.assertRaisesRegex(ClusterError, "image unknown has no recipe"):
            applications.build(["unknown"])
