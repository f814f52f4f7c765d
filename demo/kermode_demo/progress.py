"""Progress output, and waits that collect diagnostics when they fail."""

import time

from .errors import DemoError
from .kubectl import Kubectl

# Reasons of a container in state `waiting` for which `wait_for_deployment` fails at once.
PERMANENT_REASONS = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ErrImagePull",
                     "ImagePullBackOff")
# Number of restarts of a container at which `wait_for_deployment` fails.
MAX_RESTARTS = 3


def print_step(text: str) -> None:
    """Prints the title of a step."""
    print(f"\n== {text}", flush=True)


def print_detail(text: str) -> None:
    """Prints a line below the title of the step."""
    print(f"   {text}", flush=True)


def wait_for(condition_name: str, condition, seconds: float = 120, interval: float = 0.5):
    """Polls `condition`, which returns (value, text), until the value is true, and returns the value. Prints each new
    text."""
    end = time.monotonic() + seconds
    printed = None
    while True:
        value, text = condition()
        if value:
            return value
        if text != printed:
            printed = text
            print_detail(f"{condition_name}: {text}")
        if time.monotonic() >= end:
            raise DemoError(f"timed out after {seconds:.0f} s waiting for {condition_name}: {text}")
        time.sleep(interval)


def rollout_progress(deployment: dict) -> tuple:
    """Returns whether a Deployment is rolled out, and its progress as text. Pure."""
    wanted = deployment["spec"]["replicas"]
    status = deployment.get("status", {})
    current = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    done = current and updated >= wanted and available >= wanted and status.get("replicas", 0) == wanted
    return done, f"{min(updated, available)} of {wanted} ready"


def current_pods(pods: list, deployment: dict) -> list:
    """Returns the Pods with the current images of the Deployment, without those of earlier rollouts. Pure."""
    images = {container["name"]: container["image"]
              for container in deployment["spec"]["template"]["spec"]["containers"]}
    return [pod for pod in pods
            if all(images.get(container["name"], container["image"]) == container["image"]
                   for container in pod["spec"]["containers"])]


def permanent_failure(pods: list) -> str:
    """Returns the reason why these Pods cannot become ready, if there is one. Pure."""
    for pod in pods:
        status = pod.get("status", {})
        for container in status.get("initContainerStatuses", []) + status.get("containerStatuses", []):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason") in PERMANENT_REASONS or container.get("restartCount", 0) >= MAX_RESTARTS:
                reason = waiting.get("reason") or f"{container['restartCount']} restarts"
                return f"container {container['name']} of Pod {pod['metadata']['name']}: {reason}"
    return ""


def wait_for_deployment(kubectl: Kubectl, namespace: str, name: str) -> None:
    """Waits until a Deployment is rolled out. Errors contain the object, its events and the logs of its Pods."""
    def outcome():
        deployment = kubectl.get("deployment", name, namespace)
        done, text = rollout_progress(deployment)
        pods = kubectl.get("pods", namespace=namespace, selector=f"app={name}")["items"]
        failure = permanent_failure(current_pods(pods, deployment))
        if failure and not done:
            raise DemoError(failure)
        return done, text
    try:
        wait_for(f"Deployment {name}", outcome)
    except DemoError as error:
        raise DemoError(f"{error}\n\n{diagnosis(kubectl, namespace, name)}") from error
    print_detail(f"Deployment {name}: ready")


def diagnosis(kubectl: Kubectl, namespace: str, name: str) -> str:
    """Returns objects, events and last log lines of a Deployment that does not become ready."""
    namespace_flag = f"--namespace={namespace}"
    parts = [
        ("objects", ("get", "deployments,replicasets,pods", namespace_flag, "--output=wide")),
        ("events", ("get", "events", namespace_flag, "--sort-by=.lastTimestamp")),
    ]
    pods = kubectl.attempt("get", "pods", namespace_flag, f"--selector=app={name}", "--output=name").stdout.split()
    for pod in pods[:2]:
        parts.append((pod, ("describe", pod, namespace_flag)))
        parts.append((f"logs of {pod}", ("logs", pod, namespace_flag, "--all-containers", "--prefix", "--tail=30")))
        parts.append((f"earlier logs of {pod}",
                      ("logs", pod, namespace_flag, "--all-containers", "--prefix", "--tail=30", "--previous")))
    texts = []
    for title, arguments in parts:
        result = kubectl.attempt(*arguments)
        lines = (result.stdout or "").strip().splitlines()[-80:]
        if lines:
            texts.append(f"--- {title}\n" + "\n".join(lines))
    return "\n\n".join(texts)
