"""Report of the running demo: Pods, Dataplanes, responding replicas, rejected clients, Envoy's statistics."""

from . import application
from .application import NAMESPACE, OUTSIDE
from .errors import DemoError
from .kubectl import Kubectl
from .progress import say, wait

REPLICAS = 3
# Number of requests to wait for: enough that each of three replicas serves some.
REQUESTS = 60
REJECTIONS = 4
# Statistics of the cluster in the client's sidecar, and of the listener in front of the server.
STATISTICS = ("^(cluster\\.demo-server_kermode-demo_svc_80|listener\\..*_8080)\\."
              "(ssl\\.(handshake|connection_error|fail_verify_.*|versions\\..*|ciphers\\..*)|upstream_rq_[245]xx)$")


def table(headers: list, rows: list) -> str:
    """Returns a text table with aligned columns. Pure."""
    texts = [[str(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(headers))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in texts]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(f"   {line}" for line in lines)


def names(containers: list) -> str:
    """Returns names of containers. Pure."""
    return ", ".join(container["name"] for container in containers) or "-"


def pods(items: list) -> str:
    """Returns a table of Pods and their containers. Pure."""
    rows = []
    for pod in items:
        spec = pod["spec"]
        rows.append([pod["metadata"]["namespace"], pod["metadata"]["name"], names(spec.get("initContainers", [])),
                     names(spec["containers"]), pod["status"].get("podIP", "-")])
    return table(["namespace", "pod", "init containers", "containers", "address"], sorted(rows))


def dataplanes(items: list) -> str:
    """Returns a table of Dataplanes and their services. Pure."""
    rows = []
    for item in items:
        inbounds = item["spec"].get("networking", {}).get("inbound", [])
        services = ", ".join(inbound.get("tags", {}).get("kuma.io/service", "?") for inbound in inbounds)
        ready = all(inbound.get("health", {"ready": True}).get("ready", False) for inbound in inbounds)
        rows.append([item["metadata"]["name"], item.get("mesh", "?"), services, "yes" if ready else "no"])
    return table(["dataplane", "mesh", "services", "ready"], sorted(rows))


def identities(certificates: str) -> dict:
    """Returns the URIs in an x-forwarded-client-cert header, of the server (By) and of the client (URI). Pure."""
    found = {"By": [], "URI": []}
    for element in certificates.split(";"):
        key, _, value = element.partition("=")
        if key in found:
            found[key].append(value.strip('"'))
    return found


def statistics(text: str) -> list:
    """Returns Envoy's statistics that are not zero, from `name: value` lines. Pure."""
    pairs = (line.rpartition(": ") for line in text.splitlines())
    return [(name, int(value)) for name, _, value in pairs if value.isdigit() and value != "0"]


def traffic(kubectl: Kubectl) -> tuple:
    """Waits until every replica has served some requests of the client. Returns (increase by Pod, failures, last
    response)."""
    before = application.counters(kubectl, "demo-client", NAMESPACE)

    def enough():
        now = application.counters(kubectl, "demo-client", NAMESPACE)
        by_pod = application.increase(before["byPod"], now["byPod"])
        failures = application.increase(before["byFailure"], now["byFailure"])
        reasons = "".join(f"; {reason}: {count}" for reason, count in failures.items())
        done = sum(by_pod.values()) >= REQUESTS and len(by_pod) >= REPLICAS
        return (by_pod, failures, now["lastAnswer"]) if done else None, \
            f"responses from {len(by_pod)} of {REPLICAS} replicas so far{reasons}"
    return wait("responses from all replicas", enough, seconds=60)


def rejected(kubectl: Kubectl, name: str, namespace: str) -> dict:
    """Waits until some requests of a client outside the mesh have failed. Returns its failures by reason. A successful
    request is an error, because the mesh must reject it. A name that does not resolve is an error as well: such a request
    never reaches the mesh."""
    before = application.counters(kubectl, name, namespace)

    def enough():
        now = application.counters(kubectl, name, namespace)
        if now["succeeded"] > before["succeeded"]:
            raise DemoError(f"{name} in namespace {namespace} is outside the mesh but got responses: {now}")
        failures = application.increase(before["byFailure"], now["byFailure"])
        if any(reason.startswith("name:") for reason in failures):
            raise DemoError(f"{name} in namespace {namespace} cannot resolve the server's name: {failures}")
        count = sum(failures.values())
        return failures if count >= REJECTIONS else None, f"{count} failed requests so far"
    return wait(f"failed requests of {name}", enough, seconds=60)


def handshakes(kubectl: Kubectl, name: str, container: str) -> list:
    """Returns TLS and request statistics of the sidecar beside a container."""
    pod = application.pod_of(kubectl, name, NAMESPACE)
    url = f"http://127.0.0.1:9901/stats?usedonly&filter={STATISTICS}"
    return statistics(application.fetch(kubectl, pod, NAMESPACE, container, url))


def show(kubectl: Kubectl, environment: list) -> None:
    """Prints the report."""
    by_pod, failures, response = traffic(kubectl)
    outside = [(name, namespace, rejected(kubectl, name, namespace))
               for name, namespace in (("demo-opted-out", NAMESPACE), ("demo-outsider", OUTSIDE))]
    print("\nPods: in the labelled namespace, every Pod has a sidecar unless it opted out.\n")
    print(pods(kubectl.get("pods", namespace=NAMESPACE)["items"] + kubectl.get("pods", namespace=OUTSIDE)["items"]))
    print("\nDataplanes: the control plane derives them from Pods and Services.\n")
    print(dataplanes(kubectl.get("dataplanes", namespace=NAMESPACE)["items"]))
    print("\nRequests: demo-client calls http://demo-server.kermode-demo.svc/ without knowledge of replicas or TLS.\n"
          "Requests of the last seconds:\n")
    rows = sorted(by_pod.items()) + [("failed", sum(failures.values()))]
    print(table(["replica", "requests"], rows))
    print("\nIdentity: the certificate of the client, as the server's sidecar passes it on in the header\n"
          "x-forwarded-client-cert. The first URI is the service, the others are the caller's tags.\n")
    uris = identities(response["headers"].get("x-forwarded-client-cert", ""))["URI"]
    if not uris:
        raise DemoError(f"the server saw no client certificate: {response}")
    for uri in uris:
        say(uri)
    print("\nEnvoy's own statistics, in the sidecars of client and server, since their start, including requests before\n"
          "the first server was ready.\n")
    rows = [("client", *pair) for pair in handshakes(kubectl, "demo-client", "client")]
    rows += [("server", *pair) for pair in handshakes(kubectl, "demo-server", "server")]
    print(table(["sidecar of", "statistic", "value"], rows))
    print("\nRejected: without a sidecar, the same client has no certificate, and mTLS is STRICT.\n")
    rows = [(name, namespace, reason, count) for name, namespace, reasons in outside
            for reason, count in reasons.items()]
    print(table(["client", "namespace", "failure", "count"], rows))
    print("\nCommands for a closer look:\n")
    for line in [*environment, *NEXT]:
        say(line)
    print("\nmake demo-down removes everything.")


NEXT = (
    "kubectl get dataplanes --namespace=kermode-demo",
    "kubectl logs deployment/demo-client --namespace=kermode-demo --container=client --follow",
    "kubectl logs deployment/demo-outsider --namespace=kermode-demo-outside --tail=5",
    "kubectl exec deployment/demo-client --namespace=kermode-demo --container=client -- "
    "kermode-demo get 'http://127.0.0.1:9901/clusters'",
    "kubectl rollout restart deployment/demo-server --namespace=kermode-demo   # and watch the client's log",
    "kubectl logs deployment/kuma-control-plane --namespace=kong-mesh-system --tail=20",
)
