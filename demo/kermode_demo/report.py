"""Report of the running demo: Pods, Dataplanes, requests by replica, failures of clients outside the mesh, Envoy's
statistics."""

from . import application
from .application import NAMESPACE, OUTSIDE_NAMESPACE
from .errors import DemoError
from .kubectl import Kubectl
from .progress import print_detail, wait_for

# Number of replicas of demo-server, as in the manifest.
REPLICAS = 3
# Number of successful requests of demo-client to wait for: enough that each of three replicas serves some.
MIN_REQUESTS = 60
# Number of failed requests to wait for, of each client outside the mesh.
MIN_FAILURES = 4
# Envoy's statistics to print: those of the outbound cluster in the client's sidecar, and of the inbound listener in the
# server's sidecar.
STATISTICS_FILTER = ("^(cluster\\.demo-server_kermode-demo_svc_80|listener\\..*_8080)\\."
              "(ssl\\.(handshake|connection_error|fail_verify_.*|versions\\..*|ciphers\\..*)|upstream_rq_[245]xx)$")


def text_table(headers: list, rows: list) -> str:
    """Returns a text table with aligned columns. Pure."""
    texts = [[str(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(headers))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in texts]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(f"   {line}" for line in lines)


def container_names(containers: list) -> str:
    """Returns names of containers. Pure."""
    return ", ".join(container["name"] for container in containers) or "-"


def pod_table(items: list) -> str:
    """Returns a table of Pods and their containers. Pure."""
    rows = []
    for pod in items:
        spec = pod["spec"]
        rows.append([pod["metadata"]["namespace"], pod["metadata"]["name"],
                     container_names(spec.get("initContainers", [])),
                     container_names(spec["containers"]), pod["status"].get("podIP", "-")])
    return text_table(["namespace", "pod", "init containers", "containers", "address"], sorted(rows))


def dataplane_table(items: list) -> str:
    """Returns a table of Dataplanes and their services. Pure."""
    rows = []
    for item in items:
        inbounds = item["spec"].get("networking", {}).get("inbound", [])
        services = ", ".join(inbound.get("tags", {}).get("kuma.io/service", "?") for inbound in inbounds)
        ready = all(inbound.get("health", {"ready": True}).get("ready", False) for inbound in inbounds)
        rows.append([item["metadata"]["name"], item.get("mesh", "?"), services, "yes" if ready else "no"])
    return text_table(["dataplane", "mesh", "services", "ready"], sorted(rows))


def certificate_uris(certificates: str) -> dict:
    """Returns the URIs in an x-forwarded-client-cert header, of the server (By) and of the client (URI). Pure."""
    found = {"By": [], "URI": []}
    for element in certificates.split(";"):
        key, _, value = element.partition("=")
        if key in found:
            found[key].append(value.strip('"'))
    return found


def nonzero_statistics(text: str) -> list:
    """Returns Envoy's statistics that are not zero, from `name: value` lines. Pure."""
    pairs = (line.rpartition(": ") for line in text.splitlines())
    return [(name, int(value)) for name, _, value in pairs if value.isdigit() and value != "0"]


def wait_for_traffic(kubectl: Kubectl) -> tuple:
    """Waits until every replica has served some requests of demo-client. Returns the numbers of successful requests by
    Pod and of failures by reason during the wait, and the last response."""
    before = application.counters(kubectl, "demo-client", NAMESPACE)

    def enough():
        now = application.counters(kubectl, "demo-client", NAMESPACE)
        by_pod = application.increase(before["byPod"], now["byPod"])
        failures = application.increase(before["byFailure"], now["byFailure"])
        reasons = "".join(f"; {reason}: {count}" for reason, count in failures.items())
        done = sum(by_pod.values()) >= MIN_REQUESTS and len(by_pod) >= REPLICAS
        return (by_pod, failures, now["lastAnswer"]) if done else None, \
            f"responses from {len(by_pod)} of {REPLICAS} replicas so far{reasons}"
    return wait_for("responses from all replicas", enough, seconds=60)


def wait_for_failures(kubectl: Kubectl, name: str, namespace: str) -> dict:
    """Waits until MIN_FAILURES requests of a client outside the mesh have failed. Returns its failures by reason.

    Raises DemoError if a request succeeds, because the mesh must reject it, or if the server's name does not resolve,
    because such a request never reaches the mesh.
    """
    before = application.counters(kubectl, name, namespace)

    def enough():
        now = application.counters(kubectl, name, namespace)
        if now["succeeded"] > before["succeeded"]:
            raise DemoError(f"{name} in namespace {namespace} is outside the mesh but got responses: {now}")
        failures = application.increase(before["byFailure"], now["byFailure"])
        # The client's reasons begin with the step that failed; `name` is the resolution of the host name.
        if any(reason.startswith("name:") for reason in failures):
            raise DemoError(f"{name} in namespace {namespace} cannot resolve the server's name: {failures}")
        count = sum(failures.values())
        return failures if count >= MIN_FAILURES else None, f"{count} failed requests so far"
    return wait_for(f"failed requests of {name}", enough, seconds=60)


def sidecar_statistics(kubectl: Kubectl, name: str, container: str) -> list:
    """Returns TLS and request statistics of the sidecar in a Pod of a Deployment, read from inside a container."""
    pod = application.running_pod(kubectl, name, NAMESPACE)
    url = f"http://127.0.0.1:9901/stats?usedonly&filter={STATISTICS_FILTER}"
    return nonzero_statistics(application.fetch(kubectl, pod, NAMESPACE, container, url))


def show(kubectl: Kubectl, environment: list) -> None:
    """Prints the report."""
    by_pod, failures, response = wait_for_traffic(kubectl)
    clients_outside = [(name, namespace, wait_for_failures(kubectl, name, namespace))
                       for name, namespace in (("demo-opted-out", NAMESPACE), ("demo-outsider", OUTSIDE_NAMESPACE))]
    print("\nPods: in the labelled namespace, every Pod has a sidecar unless it opted out.\n")
    demo_pods = kubectl.get("pods", namespace=NAMESPACE)["items"]
    outside_pods = kubectl.get("pods", namespace=OUTSIDE_NAMESPACE)["items"]
    print(pod_table(demo_pods + outside_pods))
    print("\nDataplanes: the control plane derives them from Pods and Services.\n")
    print(dataplane_table(kubectl.get("dataplanes", namespace=NAMESPACE)["items"]))
    print("\nRequests: demo-client calls http://demo-server.kermode-demo.svc/. Its sidecar selects a replica.\n"
          "Requests of the last seconds:\n")
    rows = sorted(by_pod.items()) + [("failed", sum(failures.values()))]
    print(text_table(["replica", "requests"], rows))
    print("\nIdentity: URIs of the client's certificate. The server's sidecar passes them on in the header\n"
          "x-forwarded-client-cert. The first URI names the client's service, the others name its tags.\n")
    uris = certificate_uris(response["headers"].get("x-forwarded-client-cert", ""))["URI"]
    if not uris:
        raise DemoError(f"the server saw no client certificate: {response}")
    for uri in uris:
        print_detail(uri)
    print("\nEnvoy's statistics in the sidecars of client and server, since their start. They include requests from before\n"
          "the first server was ready.\n")
    rows = [("client", *pair) for pair in sidecar_statistics(kubectl, "demo-client", "client")]
    rows += [("server", *pair) for pair in sidecar_statistics(kubectl, "demo-server", "server")]
    print(text_table(["sidecar of", "statistic", "value"], rows))
    print("\nFailed requests of clients without a sidecar: they have no certificate, and the mesh requires mTLS.\n")
    rows = [(name, namespace, reason, count) for name, namespace, reasons in clients_outside
            for reason, count in reasons.items()]
    print(text_table(["client", "namespace", "failure", "count"], rows))
    print("\nCommands for a closer look:\n")
    for line in [*environment, *NEXT_COMMANDS]:
        print_detail(line)
    print("\nmake demo-down removes everything.")


NEXT_COMMANDS = (
    "kubectl get dataplanes --namespace=kermode-demo",
    "kubectl logs deployment/demo-client --namespace=kermode-demo --container=client --follow",
    "kubectl logs deployment/demo-outsider --namespace=kermode-demo-outside --tail=5",
    "kubectl exec deployment/demo-client --namespace=kermode-demo --container=client -- "
    "kermode-demo get 'http://127.0.0.1:9901/clusters'",
    "kubectl rollout restart deployment/demo-server --namespace=kermode-demo   # and watch the client's log",
    "kubectl logs deployment/kuma-control-plane --namespace=kong-mesh-system --tail=20",
)
