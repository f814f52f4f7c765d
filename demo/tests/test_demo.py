"""Unit tests of the demo's pure functions."""

import unittest
from pathlib import Path

from kermode_demo import application, install, progress, report, target_cluster
from kermode_demo.errors import DemoError


def deployment(generation=1, observed=1, wanted=3, **status) -> dict:
    """Returns a Deployment with this status."""
    return {"metadata": {"generation": generation}, "spec": {"replicas": wanted},
            "status": {"observedGeneration": observed, **status}}


class TargetCluster(unittest.TestCase):
    """Selection of the cluster."""

    def test_cluster_is_local_unless_both_variables_are_set(self):
        self.assertEqual(target_cluster.select("one", {}), target_cluster.LocalCluster("one"))
        self.assertEqual(target_cluster.select("one", {"KUBECONFIG": "/k"}), target_cluster.LocalCluster("one"))
        both = {"KUBECONFIG": "/k", "KERMODE_REGISTRY": "r.example/k"}
        self.assertEqual(target_cluster.select("one", both), target_cluster.UserCluster("/k", "r.example/k"))

    def test_registry_without_kubeconfig_is_an_error(self):
        with self.assertRaisesRegex(DemoError, "KUBECONFIG"):
            target_cluster.select("one", {"KERMODE_REGISTRY": "r.example/k"})


class Install(unittest.TestCase):
    """Flags of kumactl."""

    def test_image_references_are_split_into_registry_repository_and_tag(self):
        images = {"kuma-cp": "r.example:5000/a/b/kuma-cp:1-x", "kuma-dp": "docker.io/a/kuma-dp:2",
                  "kuma-init": "docker.io/a/kuma-init:3", "kuma-cni": "docker.io/a/kuma-cni:4"}
        self.assertEqual(install.flags(images)[:3], [
            "--control-plane-registry=r.example:5000/a/b", "--control-plane-repository=kuma-cp",
            "--control-plane-version=1-x"])


class Progress(unittest.TestCase):
    """Success and failure of a wait for a Deployment."""

    def test_deployment_is_rolled_out_when_only_new_pods_remain(self):
        done = deployment(replicas=3, updatedReplicas=3, availableReplicas=3)
        self.assertTrue(progress.rollout_progress(done)[0])
        for other in (deployment(), deployment(observed=0, replicas=3, updatedReplicas=3, availableReplicas=3),
                      deployment(replicas=4, updatedReplicas=3, availableReplicas=4),
                      deployment(replicas=3, updatedReplicas=2, availableReplicas=3)):
            self.assertFalse(progress.rollout_progress(other)[0], other)

    def test_pod_that_keeps_failing_is_a_permanent_failure(self):
        def pod(**status):
            return {"metadata": {"name": "p"}, "status": {"containerStatuses": [{"name": "c", **status}]}}
        self.assertEqual(progress.permanent_failure([pod(state={"waiting": {"reason": "ContainerCreating"}})]), "")
        failing = pod(state={"waiting": {"reason": "ImagePullBackOff"}})
        self.assertIn("ImagePullBackOff", progress.permanent_failure([failing]))
        self.assertIn("3 restarts", progress.permanent_failure([pod(restartCount=3)]))

    def test_only_pods_with_the_images_of_the_deployment_are_current(self):
        def pod(image):
            sidecar = {"name": "kuma-sidecar", "image": "x"}
            return {"spec": {"containers": [sidecar, {"name": "c", "image": image}]}}
        wanted = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "new"}]}}}}
        self.assertEqual(progress.current_pods([pod("old"), pod("new")], wanted), [pod("new")])


class Application(unittest.TestCase):
    """Manifests and counters."""

    def test_every_container_gets_the_image(self):
        for path in application.MANIFESTS.glob("*.yaml"):
            text = application.manifest(path.stem, "registry.example/demo:1")
            self.assertNotIn("image: kermode-demo", text)
            self.assertEqual(text.count("image: registry.example/demo:1"), text.count("containers:"))

    def test_old_sidecar_is_found_among_containers_and_init_containers(self):
        container = {"name": "kuma-sidecar", "image": "a"}
        self.assertEqual(application.sidecar_image({"spec": {"containers": [container]}}), "a")
        self.assertEqual(application.sidecar_image({"spec": {"initContainers": [container], "containers": []}}), "a")
        self.assertIsNone(application.sidecar_image({"spec": {"containers": [{"name": "server"}]}}))

    def test_only_increases_are_reported(self):
        self.assertEqual(application.increase({"a": 1, "b": 2}, {"a": 1, "b": 5, "c": 1}), {"b": 3, "c": 1})


class Report(unittest.TestCase):
    """Tables."""

    def test_column_is_as_wide_as_its_widest_cell(self):
        self.assertEqual(report.text_table(["a", "count"], [["long name", 1]]),
                         "   a          count\n   ---------  -----\n   long name  1")

    def test_client_and_server_identities_are_distinguished(self):
        header = "By=spiffe://default/server;Hash=12;URI=spiffe://default/client;URI=kuma://app/client"
        self.assertEqual(report.certificate_uris(header)["URI"], ["spiffe://default/client", "kuma://app/client"])
        self.assertEqual(report.certificate_uris("")["URI"], [])

    def test_zeros_and_histograms_are_omitted(self):
        text = "cluster.a.ssl.handshake: 3\ncluster.a.ssl.fail_verify_san: 0\nlistener.x.h: P50(1,2)\n"
        self.assertEqual(report.nonzero_statistics(text), [("cluster.a.ssl.handshake", 3)])

    def test_inbound_without_health_is_ready(self):
        def item(**inbound):
            return {"metadata": {"name": "d"}, "mesh": "default", "spec": {"networking": {"inbound": [inbound]}}}
        self.assertIn("yes", report.dataplane_table([item()]))
        self.assertIn("no", report.dataplane_table([item(health={})]))
        self.assertIn("yes", report.dataplane_table([item(health={"ready": True})]))


class Manifests(unittest.TestCase):
    """Constants that repeat values of the manifests."""

    def test_number_of_replicas_matches_the_manifest(self):
        text = Path(application.MANIFESTS / "app.yaml").read_text(encoding="utf-8")
        self.assertIn(f"replicas: {report.REPLICAS}\n", text)
