"""Deploys the demo application, restarts Deployments with old sidecars, and reads the counters of the clients."""

import json
from pathlib import Path

from .kubectl import Kubectl
from .progress import print_detail, wait_for, wait_for_deployment

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"
NAMESPACE = "kermode-demo"
OUTSIDE_NAMESPACE = "kermode-demo-outside"
# All Deployments with their namespaces.
DEPLOYMENTS = (("demo-server", NAMESPACE), ("demo-client", NAMESPACE),
               ("demo-opted-out", NAMESPACE), ("demo-outsider", OUTSIDE_NAMESPACE))
# Deployments in the mesh.
MESH_DEPLOYMENTS = ("demo-server", "demo-client")


def manifest(name: str, image: str) -> str:
    """Returns the text of manifests/NAME.yaml, with `image` as the image of all containers."""
    text = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
    return text.replace("image: kermode-demo\n", f"image: {image}\n")


def deploy(kubectl: Kubectl, references: dict) -> None:
    """Applies Mesh and application, and waits for the rollout."""
    # Retried: after a rollout of the control plane, the API server may still call a replica that has ended.
    wait_for("Mesh default", lambda: kubectl.try_server_side_apply(manifest("mesh", "")), seconds=30)
    print_detail("Mesh default: mTLS STRICT")
    for name in ("app", "outside"):
        kubectl.apply(manifest(name, references["kermode-demo"]))
    for name in MESH_DEPLOYMENTS:
        replace_old_sidecars(kubectl, name, references["kuma-dp"])
    for name, namespace in DEPLOYMENTS:
        wait_for_deployment(kubectl, namespace, name)


def replace_old_sidecars(kubectl: Kubectl, name: str, image: str) -> None:
    """Restarts a Deployment whose Pods have a sidecar of an earlier build: only new Pods get the new sidecar."""
    pods = kubectl.get("pods", namespace=NAMESPACE, selector=f"app={name}")["items"]
    old = [pod for pod in pods if sidecar_image(pod) not in (None, image)]
    if old:
        print_detail(f"Deployment {name}: restarted for a newer sidecar")
        kubectl.run("rollout", "restart", f"deployment/{name}", f"--namespace={NAMESPACE}")


def sidecar_image(pod: dict):
    """Returns the image of a Pod's sidecar, if it has one. Pure."""
    spec = pod["spec"]
    for container in spec.get("initContainers", []) + spec["containers"]:
        if container["name"] == "kuma-sidecar":
            return container["image"]
    return None


def running_pod(kubectl: Kubectl, name: str, namespace: str) -> str:
    """Returns the name of a running Pod of a Deployment."""
    def running():
        for pod in kubectl.get("pods", namespace=namespace, selector=f"app={name}")["items"]:
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
                return pod["metadata"]["name"], ""
        return None, "no running Pod yet"
    return wait_for(f"a Pod of {name}", running)


def fetch(kubectl: Kubectl, pod: str, namespace: str, container: str, url: str) -> str:
    """Makes a GET request from inside a Pod with the demo program. Returns the body of the response."""
    text = kubectl.run_in_container(pod, namespace, container, "kermode-demo", "get", url)
    return text.partition(" ")[2]


def counters(kubectl: Kubectl, name: str, namespace: str) -> dict:
    """Returns the counters of a client since its start."""
    pod = running_pod(kubectl, name, namespace)
    return json.loads(fetch(kubectl, pod, namespace, "client", "http://127.0.0.1:8081/"))


def increase(before: dict, after: dict) -> dict:
    """Returns the increase of each counter. Pure."""
    increases = {key: count - before.get(key, 0) for key, count in after.items()}
    return {key: count for key, count in increases.items() if count > 0}


def remove(kubectl: Kubectl) -> None:
    """Deletes the application."""
    for name in ("outside", "app", "mesh"):
        kubectl.run("delete", "--ignore-not-found", "--filename=-", stdin=manifest(name, "unused"))
