"""Tests of process identities, the supervisor and file operations."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from kermode_cluster import files, kernel, node, reboot, supervisor
from kermode_cluster.processes import ProcessIdentity, parent, process_state, start_time, wait_until

STAT = "77 (odd) name (x) S 12 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2 18446744073709551615"


class Processes(unittest.TestCase):
    """Process identities."""

    def test_fields_are_found_after_a_command_name_with_brackets_and_spaces(self):
        self.assertEqual((start_time(STAT), process_state(STAT), parent(STAT)), (987654, "S", 12))

    def test_recycled_pid_is_not_killed(self):
        child = subprocess.Popen(["sleep", "60"])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        current = ProcessIdentity.of(child.pid)
        earlier = ProcessIdentity(child.pid, current.start - 1)
        self.assertFalse(earlier.is_alive())
        earlier.kill()
        self.assertTrue(current.is_alive())
        self.assertIsNone(child.poll())

    def test_process_with_the_recorded_start_time_is_killed(self):
        child = subprocess.Popen(["sleep", "60"])
        found = ProcessIdentity.of(child.pid)
        found.kill()
        self.assertEqual(child.wait(), -9)
        self.assertFalse(found.is_alive())

    def test_zombie_is_not_alive(self):
        child = subprocess.Popen(["true"])
        found = ProcessIdentity.of(child.pid)
        self.assertTrue(wait_until(lambda: not found.is_alive(), 5))
        self.assertTrue(os.path.exists(f"/proc/{child.pid}"))
        child.wait()

    def test_processes_of_a_node_are_process_1_and_its_descendants(self):
        parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1}
        self.assertEqual(node.descendants(10, parents), {10, 11, 12})

    def test_mounts_of_containers_and_pods_do_not_survive_a_reboot(self):
        mounts = [
            (1, 0, "/"), (2, 1, "/run/netns"), (3, 1, "/run"), (4, 3, "/run/netns"), (5, 4, "/run/netns/cni-1"),
            (6, 1, "/var/lib/kubelet"), (7, 6, "/var/lib/kubelet/pods/1/volumes/t"),
        ]
        mountinfo = "".join(f"{identity} {parent} 0:1 / {point} rw shared:1 - tmpfs tmpfs rw\n"
                            for identity, parent, point in mounts)
        # The mount 2 is below the host's /run, which the mount 3 hides.
        self.assertEqual(reboot.former_mounts(mountinfo),
                         ["/var/lib/kubelet/pods/1/volumes/t", "/run/netns/cni-1", "/run/netns"])


class Supervision(unittest.TestCase):
    """Components that are stopped and started."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        spec = {"name": "x", "command": ["sleep", "60"], "after": [], "url": None, "socket": None}
        self.component = supervisor.ManagedComponent(spec, Path(folder.name))

    def end(self):
        """Reaps the child, as process 1 does."""
        self.component.record_end(os.waitpid(self.component.pid, 0)[1])

    def test_stopped_component_stays_down_until_it_is_started(self):
        self.assertFalse(supervisor.reconcile([self.component]))
        self.assertTrue(supervisor.reconcile([self.component]))
        self.assertFalse(supervisor.reconcile([self.component], {"x"}))
        self.end()
        self.assertTrue(supervisor.reconcile([self.component], {"x"}))
        self.assertIsNone(self.component.pid)
        self.component.start_at = 0.0
        supervisor.reconcile([self.component])
        self.assertIsNotNone(self.component.pid)
        self.assertEqual(self.component.restarts, 0)
        self.component.stop()
        self.end()


class Files(unittest.TestCase):
    """Digests and damaged files."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_digest_depends_on_content_name_and_flags(self):
        one, two = self.folder / "one", self.folder / "two"
        one.write_text("a")
        two.write_text("a")
        first = files.digest([one], "flags")
        self.assertNotEqual(first, files.digest([two], "flags"))
        self.assertNotEqual(first, files.digest([one], "other"))
        os.utime(one, (1, 1))
        self.assertEqual(first, files.digest([one], "flags"))
        one.write_text("b")
        self.assertNotEqual(first, files.digest([one], "flags"))

    def test_kernel_settings_are_raised_and_restored(self):
        low, high = self.folder / "low", self.folder / "high"
        low.write_text("128\n")
        high.write_text("4096\n")
        minima = {str(low): 1024, str(high): 1024}
        with mock.patch.dict(os.environ, KERMODE_CACHE=str(self.folder)):
            # The second cluster finds the raised value.
            for _ in range(2):
                kernel.raise_to(minima)
                self.assertEqual((low.read_text(), high.read_text()), ("1024", "4096\n"))
            kernel.restore()
            self.assertEqual((low.read_text(), high.read_text()), ("128", "4096\n"))
            low.write_text("256")
            kernel.restore()
            self.assertEqual(low.read_text(), "256")

    def test_truncated_file_reads_as_none(self):
        broken = self.folder / "x.json"
        broken.write_text('{"a": ')
        self.assertIsNone(files.read_json(broken))
        self.assertIsNone(files.read_json(self.folder / "absent"))

    def test_secret_is_never_readable_by_others(self):
        secret = self.folder / "secret"
        files.write_json(secret, {}, mode=0o600)
        self.assertEqual(secret.stat().st_mode & 0o777, 0o600)
