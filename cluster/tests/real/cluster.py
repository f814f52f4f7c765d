"""A real cluster for the tests: creates objects, waits for conditions, reads logs."""

import subprocess
import tempfile
from pathlib import Path

from kermode_cluster import archives, build, down, files, libraries, oci, paths, up
from kermode_cluster.api import Api
from kermode_cluster.processes import run, wait_until

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
SECONDS = 60


def images(folder: Path) -> dict:
    """Builds the test images: the probe, and nft with its libraries."""
    nft = Path("/usr/sbin/nft")
    nft_image = oci.Image(["/usr/sbin/nft"], [[oci.Entry("usr/sbin/nft", source=nft)] + libraries.of(nft)])
    return {
        "probe": archives.single_binary("probe", build.go_program("tests/probe")),
        "nft": archives.pack(nft_image, "docker.io/kermode-cluster/nft", "v1", folder),
    }


class Cluster:
    """A running cluster. The constructor brings it up."""

    def __init__(self, name: str):
        self.name = name
        up.up(name)
        self.paths = paths.ClusterPaths(name)
        self.settings = files.read_json(self.paths.settings)
        self.api = Api(self.paths.kubeconfig)
        with tempfile.TemporaryDirectory() as folder:
            built = images(Path(folder))
            archives.load(self.paths, built.values())
        self.images = {image: reference for image, (reference, _) in built.items()}

    def down(self) -> None:
        """Takes the cluster down."""
        down.down(self.name)

    def kubectl(self, *arguments: str) -> str:
        """Runs the cluster's kubectl."""
        return run(self.paths.bin / "kubectl", "--kubeconfig", self.paths.kubeconfig, *arguments)

    def container(self, name: str, arguments: list, image: str = "probe", **more) -> dict:
        """Returns a container of a test image."""
        return {"name": name, "image": self.images[image], "imagePullPolicy": "Never", "args": arguments, **more}

    def create_pod(self, name: str, containers: list, labels: dict = None, **spec) -> None:
        """Creates a Pod without restarts."""
        self.api.call("POST", PODS, {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers, **spec}})

    def create_server(self, name: str, arguments: list, target: int, port: int,
                      kind: str = "ClusterIP", **spec) -> None:
        """Creates a server Pod and a Service of the same name, and waits until the Pod is ready."""
        server = self.container("server", arguments, readinessProbe={
            "tcpSocket": {"port": target}, "periodSeconds": 1}, volumeMounts=spec.pop("mounts", []))
        self.create_pod(name, [server], {"app": name}, **spec)
        self.api.call("POST", SERVICES, {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": kind, "selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]}})
        self.until(f"Pod {name} is ready", lambda: self.api.has_condition(f"{PODS}/{name}", "Ready"))

    def pod(self, name: str) -> dict:
        """Reads a Pod."""
        return self.api.get(f"{PODS}/{name}")

    def wait_for_end(self, name: str) -> str:
        """Waits for a Pod to end and returns its phase."""
        def phase():
            current = self.pod(name)["status"].get("phase")
            return current if current in ("Succeeded", "Failed") else None
        return self.until(f"Pod {name} has ended", phase)

    def until(self, condition_name: str, condition):
        """Waits for a condition; the failure shows the state of the Pods."""
        value = wait_until(condition, seconds=SECONDS, interval=0.1)
        if not value:
            raise AssertionError(f"timed out after {SECONDS} s waiting until {condition_name}\n"
                                 f"{self.kubectl('describe', 'pods')}")
        return value


def host_processes() -> str:
    """Returns the command lines of all processes on the host."""
    return subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
