"""Tests of two real clusters side by side: the features that Kermode needs, and removal by `down`."""

import base64
import os
import subprocess
import tempfile
import unittest
import urllib.request
from pathlib import Path
from unittest import mock

from kermode_cluster import build, cgroups, components, down, files, hostnet, node, paths, reboot, status, up
from kermode_cluster.addresses import Addresses
from kermode_cluster.certificates import Authority
from kermode_cluster.errors import ClusterError
from kermode_cluster.processes import ProcessIdentity, run, wait_until

from .cluster import PODS, SERVICES, Cluster, host_processes

CLUSTERS = []
HOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


def setUpModule():  # pylint: disable=invalid-name
    """Brings both clusters up."""
    unittest.addModuleCleanup(lambda: [cluster.down() for cluster in CLUSTERS])
    for name in ("kermode-test-one", "kermode-test-two"):
        CLUSTERS.append(Cluster(name))


def fetch(url: str) -> str:
    """Makes a GET request from the host, without a proxy; returns an empty text on failure."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=2) as response:
            return response.read().decode().strip()
    except OSError:
        return ""


class Clusters(unittest.TestCase):
    """Features of Kubernetes that Kermode needs."""

    def test_pod_calls_a_service_of_its_own_cluster_by_name(self):
        for cluster in CLUSTERS:
            cluster.create_server("greeter", ["serve", ":8080", f"from {cluster.name}"], 8080, 80)
            cluster.create_pod("caller", [cluster.container("caller", ["call", "http://greeter.default"])])
        for cluster in CLUSTERS:
            self.assertEqual(cluster.wait_for_end("caller"), "Succeeded")
            self.assertEqual(cluster.kubectl("logs", "caller"), f"from {cluster.name}\n")

    def test_pod_reaches_itself_through_its_service(self):
        one = CLUSTERS[0]
        one.create_server("mirror", ["serve", ":8080", "myself"], 8080, 80)
        self.assertEqual(one.kubectl("exec", "mirror", "--", "/probe", "call", "http://mirror.default"), "myself\n")

    def test_native_sidecar_serves_later_init_containers_and_lets_the_pod_end(self):
        one = CLUSTERS[0]
        sidecar = one.container("sidecar", ["serve", ":9000", "sidecar"], restartPolicy="Always",
                                startupProbe={"tcpSocket": {"port": 9000}, "periodSeconds": 1})
        setup = one.container("setup", ["call", "http://127.0.0.1:9000"])
        app = one.container("app", ["call", "http://127.0.0.1:9000"])
        one.create_pod("with-sidecar", [app], initContainers=[sidecar, setup])
        self.assertEqual(one.wait_for_end("with-sidecar"), "Succeeded")
        for container in ("setup", "app"):
            self.assertEqual(one.kubectl("logs", "with-sidecar", "-c", container), "sidecar\n")

    def test_netfilter_rules_of_an_init_container_apply_to_the_application(self):
        one = CLUSTERS[0]
        rules = "add table ip t; add chain ip t c { type nat hook output priority -100; }; " \
                "add rule ip t c tcp dport 81 redirect to :9001"
        init = one.container("rules", [rules], image="nft", securityContext={
            "runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}})
        server = one.container("server", ["serve", ":9001", "redirected"], restartPolicy="Always",
                               startupProbe={"tcpSocket": {"port": 9001}, "periodSeconds": 1})
        app = one.container("app", ["call", "http://10.96.0.1:81"])
        one.create_pod("redirected", [app], initContainers=[init, server])
        self.assertEqual(one.wait_for_end("redirected"), "Succeeded", one.kubectl("describe", "pod", "redirected"))
        self.assertEqual(one.kubectl("logs", "redirected", "-c", "app"), "redirected\n")

    def test_host_reaches_pods_and_node_ports(self):
        one = CLUSTERS[0]
        one.create_server("open", ["serve", ":8080", "open"], 8080, 80, kind="NodePort")
        port = one.api.get(f"{SERVICES}/open")["spec"]["ports"][0]["nodePort"]
        self.assertEqual(fetch(f"http://{one.pod('open')['status']['podIP']}:8080"), "open")
        self.assertTrue(wait_until(lambda: fetch(f"http://{one.settings['node']}:{port}") == "open", 10))

    def test_api_server_reviews_a_pods_token(self):
        one = CLUSTERS[0]
        one.create_server("holder", ["serve", ":8080", "x"], 8080, 80)
        uid = one.pod("holder")["metadata"]["uid"]
        token = one.kubectl("create", "token", "default", "--bound-object-kind=Pod",
                            "--bound-object-name=holder", f"--bound-object-uid={uid}").strip()
        review = one.api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}})["status"]
        self.assertTrue(review["authenticated"])
        self.assertEqual(review["user"]["username"], "system:serviceaccount:default:default")
        self.assertEqual(review["user"]["extra"]["authentication.kubernetes.io/pod-name"], ["holder"])

    def test_deletion_of_an_owner_deletes_its_dependents(self):
        one = CLUSTERS[0]
        maps = "/api/v1/namespaces/default/configmaps"
        owner = one.api.call("POST", maps, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}})
        one.api.call("POST", maps, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": "owned", "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
                                                  "uid": owner["metadata"]["uid"]}]}})
        one.api.call("DELETE", f"{maps}/owner")
        one.until("the garbage collector has deleted the dependent", lambda: not any(
            item["metadata"]["name"] == "owned" for item in one.api.get(maps)["items"]))


class Webhooks(unittest.TestCase):
    """The API server calls admission webhooks in the cluster and on the host."""

    def register(self, cluster: Cluster, name: str, client: dict) -> None:
        """Registers a webhook for ConfigMaps that have a label with its name."""
        cluster.api.call("POST", HOOKS, {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": f"{name}.example.org", "clientConfig": client, "failurePolicy": "Fail",
                "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
                "objectSelector": {"matchLabels": {"webhook": name}},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                           "resources": ["configmaps"]}]}]})

    def expect_label(self, cluster: Cluster, name: str) -> None:
        """Waits until the webhook changes an object. A new webhook and its endpoint take effect with a delay."""
        def labelled() -> bool:
            try:
                created = cluster.api.call("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", {
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"webhook": name}}})
            except ClusterError as error:
                self.assertIn("connection refused", str(error))
                return False
            return created["metadata"]["labels"].get(f"seen-{name}") == "true"
        self.assertTrue(wait_until(labelled, 20))

    def test_webhook_behind_a_service_changes_an_object(self):
        one = CLUSTERS[0]
        with tempfile.TemporaryDirectory() as folder:
            authority = Authority(Path(folder))
            authority.create()
            certificate, key = authority.issue("hook", "/CN=hook", "DNS:hook.default.svc")
            bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
            one.api.call("POST", "/api/v1/namespaces/default/secrets", {
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hook"}, "stringData": {
                    "tls.crt": certificate.read_text(), "tls.key": key.read_text()}})
        one.create_server("hook", ["webhook", ":8443", "/tls/tls.crt", "/tls/tls.key", "seen-service"], 8443, 443,
                          mounts=[{"name": "tls", "mountPath": "/tls"}],
                          volumes=[{"name": "tls", "secret": {"secretName": "hook"}}])
        self.register(one, "service", {"service": {"namespace": "default", "name": "hook"}, "caBundle": bundle})
        self.expect_label(one, "service")

    def test_webhook_on_the_host_changes_an_object(self):
        one = CLUSTERS[0]
        address = one.settings["host"]
        with tempfile.TemporaryDirectory() as folder:
            authority = Authority(Path(folder))
            authority.create()
            certificate, key = authority.issue("hook", "/CN=hook", f"IP:{address}")
            bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
            server = subprocess.Popen([build.go_program("tests/probe"),
                                       "webhook", f"{address}:18443", certificate, key, "seen-url"])
            self.addCleanup(server.wait)
            self.addCleanup(server.kill)
            self.register(one, "url", {"url": f"https://{address}:18443/", "caBundle": bundle})
            self.expect_label(one, "url")


def held_namespaces() -> set:
    """Returns the inode numbers of all namespaces that a process or a mount holds."""
    return set(run("lsns", "--output", "NS", "--noheadings").split())


def assert_nothing_left(test: unittest.TestCase, cluster_paths: paths.ClusterPaths, number: int) -> None:
    """Checks that no folder, cgroup, mount, table, interface or route of a cluster exists."""
    test.assertFalse(cluster_paths.root.exists())
    test.assertEqual(cgroups.existing_folders(cluster_paths.cgroup), [])
    test.assertNotIn(str(cluster_paths.root), Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    test.assertNotIn(hostnet.table(cluster_paths.name), run("nft", "list", "tables"))
    addresses = Addresses(number)
    test.assertNotIn(addresses.interface, hostnet.interface_names())
    test.assertNotIn(addresses.pods, run("ip", "route", "show", "table", "all"))


class Failures(unittest.TestCase):
    """Failed starts and crashes."""

    NAME = "kermode-test-three"

    def test_failed_up_names_the_failed_component_and_removes_the_cluster(self):
        cluster_paths = paths.ClusterPaths(self.NAME)
        numbers = []

        def broken(paths_, chosen, programs):
            numbers.append(chosen.number)
            return components.Component("kubelet", [f"{programs}/kubelet", "--nonsense"], after=["kube-apiserver"])

        with mock.patch.object(components, "kubelet", broken):
            with self.assertRaisesRegex(ClusterError, "(?s)kubelet failed 3 times.*unknown flag: --nonsense"):
                up.up(self.NAME)
        assert_nothing_left(self, cluster_paths, numbers[0])

    def test_up_repairs_a_cluster_whose_process_1_was_killed(self):
        self.addCleanup(down.down, self.NAME)
        up.up(self.NAME, api_only=True, controllers=False)
        cluster_paths = paths.ClusterPaths(self.NAME)
        first = node.init_process(cluster_paths)
        first.kill()
        self.assertTrue(wait_until(lambda: not first.is_alive(), 10))
        self.assertFalse(status.is_healthy(cluster_paths))
        up.up(self.NAME, api_only=True, controllers=False)
        self.assertTrue(status.is_healthy(cluster_paths))
        self.assertNotEqual(node.init_process(cluster_paths), first)

    def test_killed_component_is_restarted(self):
        one = CLUSTERS[0]
        scheduler = next(pid for pid, command in node.processes(node.init_process(one.paths)).items()
                         if "kube-scheduler" in command)
        ProcessIdentity.of(scheduler).kill()
        one.until("the scheduler has restarted", lambda: (
            files.read_json(one.paths.state)["kube-scheduler"]["restarts"] == 1
            and files.read_json(one.paths.state)["kube-scheduler"]["ready"]))

    def test_pod_responds_again_after_a_reboot(self):
        two = CLUSTERS[1]
        two.create_server("rebooted", ["serve", ":8080", "again"], 8080, 80, restartPolicy="Always")
        before = two.pod("rebooted")["status"]["containerStatuses"][0]["containerID"]
        reboot.reboot(two.paths)

        def responds() -> bool:
            current = two.pod("rebooted")["status"]
            return (current["containerStatuses"][0].get("containerID") != before
                    and fetch(f"http://{current['podIP']}:8080") == "again")
        two.until("the Pod responds after the reboot", responds)


class ZDown(unittest.TestCase):
    """Takes one of the clusters down. Runs last, because classes run in the order of their names."""

    def test_down_removes_one_cluster_and_the_other_keeps_working(self):
        one, two = CLUSTERS
        inside = node.processes(node.init_process(two.paths))
        self.assertGreater(len(inside), 8)
        links = [os.readlink(f"/proc/{node.init_process(two.paths).pid}/ns/{kind}") for kind in ("pid", "mnt", "net")]
        namespaces = {link.partition("[")[2].rstrip("]") for link in links}
        self.assertLessEqual(namespaces, held_namespaces())
        CLUSTERS.remove(two)
        two.down()

        self.assertFalse([pid for pid in inside if os.path.exists(f"/proc/{pid}")], host_processes())
        self.assertFalse(namespaces & held_namespaces())
        assert_nothing_left(self, two.paths, two.settings["number"])

        one.create_server("after", ["serve", ":8080", "still here"], 8080, 80)
        one.create_pod("after-caller", [one.container("caller", ["call", "http://after"])])
        self.assertEqual(one.wait_for_end("after-caller"), "Succeeded")
        self.assertEqual(one.kubectl("logs", "after-caller"), "still here\n")
        self.assertIn("after", {item["metadata"]["name"] for item in one.api.get(PODS)["items"]})
