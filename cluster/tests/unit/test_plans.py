"""Tests of the pure functions that determine the layout of a cluster."""

import json
import unittest

from kermode_cluster import addresses, cgroups, components, configuration, coredns, hostnet, libraries, paths, preflight
from kermode_cluster.errors import ClusterError


class Networks(unittest.TestCase):
    """Selection of addresses."""

    def test_first_cluster_gets_number_zero(self):
        self.assertEqual(addresses.first_free(["192.0.2.0/24"], [], []).number, 0)

    def test_used_numbers_networks_and_interfaces_are_skipped(self):
        taken = ["10.180.0.2", "10.244.1.0/25"]
        self.assertEqual(addresses.first_free(taken, ["kermode2"], [3]).number, 4)

    def test_error_without_free_networks_names_the_networks(self):
        with self.assertRaisesRegex(ClusterError, "10.180.N.0/30 and 10.244.N.0/24"):
            addresses.first_free(["10.0.0.0/8"], [], [])

    def test_packets_to_other_networks_are_masqueraded(self):
        text = hostnet.rules("x", addresses.Addresses(7))
        self.assertIn('ip saddr { 10.180.7.0/30, 10.244.7.0/24 } oifname != "kermode7" masquerade', text)


class Names(unittest.TestCase):
    """Cluster names."""

    def test_name_that_is_not_a_short_dns_label_is_rejected(self):
        for name in ("..", "a/b", "", "-a", "A", "x" * 41):
            with self.assertRaises(ClusterError, msg=name):
                paths.ClusterPaths(name)


class Dns(unittest.TestCase):
    """Name servers that CoreDNS forwards to."""

    def test_name_servers_on_loopback_are_ignored(self):
        text = "search x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\nnameserver bad\nnameserver\n"
        self.assertEqual(configuration.name_servers(text), ["192.0.2.1"])

    def test_corefile_forwards_only_if_there_are_name_servers(self):
        self.assertNotIn("forward", configuration.corefile([]))
        self.assertIn("forward . 192.0.2.1 192.0.2.2\n", configuration.corefile(["192.0.2.1", "192.0.2.2"]))

    def test_api_path_of_every_object_matches_its_metadata(self):
        for path, body in coredns.objects("image", []):
            self.assertTrue(path.endswith("/" + body["metadata"]["name"]), path)
            namespace = body["metadata"].get("namespace")
            self.assertEqual(f"/namespaces/{namespace}/" in path, namespace is not None, path)


class Components(unittest.TestCase):
    """Components."""

    def plan(self, api_only: bool, controllers: bool) -> dict:
        specs = components.components(paths.ClusterPaths("x"), addresses.Addresses(0), "/bin", api_only, controllers)
        return {spec["name"]: spec for spec in specs}

    def test_each_component_waits_only_for_components_that_run(self):
        for api_only, controllers in ((False, True), (True, True), (True, False)):
            plan = self.plan(api_only, controllers)
            for spec in plan.values():
                self.assertLessEqual(set(spec["after"]), set(plan), spec["name"])

    def test_service_account_admission_is_off_only_without_controllers(self):
        plan = self.plan(api_only=True, controllers=False)
        self.assertEqual(set(plan), {"etcd", "kube-apiserver"})
        self.assertIn("--disable-admission-plugins=ServiceAccount", plan["kube-apiserver"]["command"])
        full = self.plan(api_only=False, controllers=True)["kube-apiserver"]["command"]
        self.assertNotIn("--disable-admission-plugins=ServiceAccount", full)

    def test_configuration_files_are_valid_json(self):
        self.assertEqual(json.loads(configuration.kubelet("g", "/ca"))["cgroupRoot"], "/g")
        plugins = json.loads(configuration.cni_network(addresses.Addresses(3), 1400))["plugins"]
        self.assertEqual(plugins[0]["ipam"]["ranges"], [[{"subnet": "10.244.3.0/24"}]])


class Cgroups(unittest.TestCase):
    """Cgroup trees."""

    def used(self, *lines: str) -> list:
        return [(str(tree), version) for tree, version, used in cgroups.parse_hierarchies("\n".join(lines)) if used]

    V1 = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    HYBRID = "31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    V2 = "32 24 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"

    def test_version_two_tree_beside_version_one_trees_is_unused(self):
        self.assertEqual(self.used(self.V1, self.HYBRID), [("/sys/fs/cgroup/memory", 1)])

    def test_unused_version_two_tree_is_listed(self):
        self.assertEqual(len(cgroups.parse_hierarchies(f"{self.V1}\n{self.HYBRID}")), 2)

    def test_version_two_tree_without_version_one_trees_is_used(self):
        self.assertEqual(self.used(self.V2), [("/sys/fs/cgroup", 2)])


class Preflight(unittest.TestCase):
    """Missing packages and libraries."""

    def test_each_missing_package_is_named_once(self):
        commands = {"a": "one", "b": "one", "c": "two", "d": "three"}
        self.assertEqual(preflight.missing_packages(commands, lambda command: command == "d"), ["one", "two"])

    def test_libraries_and_loader_are_found_in_the_output_of_ldd(self):
        text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f2a)\n" \
               "\t/lib64/ld-linux-x86-64.so.2 (0x00007f2b)\n"
        self.assertEqual(libraries.parse_ldd(text), ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"])

    def test_missing_library_is_named(self):
        with self.assertRaisesRegex(ClusterError, "libnftables.so.1"):
            libraries.parse_ldd("\tlibnftables.so.1 => not found\n")
