"""What the demo shows once it runs: Pods, Dataplanes, who answered, who was refused, and what Envoy counted."""

from . import application
from .application import NAMESPACE, OUTSIDE
from .errors import DemoError
from .kubectl import Kubectl
from .progress import say, wait

REPLICAS = 3
# Enough that a replica which gets a third of them is not missed by chance.
REQUESTS = 60
REFUSALS = 4
# Of the cluster that the client's sidecar calls, and of the listener in front of the server.
STATISTICS = ("^(cluster\\.demo-server_kermode-demo_svc_80|listener\\..*_8080)\\."
              "(ssl\\.(handshake|connection_error|fail_verify_.*|versions\\..*|ciphers\\..*)|upstream_rq_[245]xx)$")


def table(headers: list, rows: list) -> str:
    """Rows under headers, columns as wide as they need. Pure."""
    texts = [[str(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(headers))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in texts]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(f"   {line}" for line in lines)


def names(containers: list) -> str:
    """Names of containers. Pure."""
    return ", ".join(container["name"] for container in containers) or "-"


def pods(items: list) -> str:
    """Pods and their containers. Pure."""
    rows = []
    for pod in items:
        spec = pod["spec"]
        rows.append([pod["metadata"]["namespace"], pod["metadata"]["name"], names(spec.get("initContainers", [])),
                     names(spec["containers"]), pod["status"].get("podIP", "-")])
    return table(["namespace", "pod", "init containers", "containers", "address"], sorted(rows))


def dataplanes(items: list) -> str:
    """Dataplanes and the services they offer. Pure."""
    rows = []
    for item in items:
        inbounds = item["spec"].get("networking", {}).get("inbound", [])
        services = ", ".join(inbound.get("tags", {}).get("kuma.io/service", "?") for inbound in inbounds)
        ready = all(inbound.get("health", {"ready": True}).get("ready", False) for inbound in inbounds)
        rows.append([item["metadata"]["name"], item.get("mesh", "?"), services, "yes" if ready else "no"])
    return table(["dataplane", "mesh", "services", "ready"], sorted(rows))


def identities(certificates: str) -> dict:
    """The URIs in an x-forwarded-client-cert header: the callee's own (By) and the caller's (URI). Pure."""
    found = {"By": [], "URI": []}
    for element in certificates.split(";"):
        key, _, value = element.partition("=")
        if key in found:
            found[key].append(value.strip('"'))
    return found


def statistics(text: str) -> list:
    """Envoy's `name: value` lines whose value is not zero. Pure."""
    pairs = (line.rpartition(": ") for line in text.splitlines())
    return [(name, int(value)) for name, _, value in pairs if value.isdigit() and value != "0"]


def traffic(kubectl: Kubectl) -> tuple:
    """Wait until every replica has answered some of the client's requests; (gains by Pod, failures, last answer)."""
    before = application.counters(kubectl, "demo-client", NAMESPACE)

    def enough():
        now = application.counters(kubectl, "demo-client", NAMESPACE)
        by_pod = application.grown(before["byPod"], now["byPod"])
        failures = application.grown(before["byFailure"], now["byFailure"])
        why = "".join(f"; {reason}: {count}" for reason, count in failures.items())
        done = sum(by_pod.values()) >= REQUESTS and len(by_pod) >= REPLICAS
        return (by_pod, failures, now["lastAnswer"]) if done else None, \
            f"answers so far from {len(by_pod)} of {REPLICAS} replicas{why}"
    return wait("answers from all replicas", enough, seconds=60)


def refused(kubectl: Kubectl, name: str, namespace: str) -> dict:
    """Wait until a client outside the mesh has been refused some times; its failures by reason. An answer that it
    got is an error: the mesh would have a hole. So is a name that does not resolve: it would prove nothing."""
    before = application.counters(kubectl, name, namespace)

    def enough():
        now = application.counters(kubectl, name, namespace)
        if now["succeeded"] > before["succeeded"]:
            raise DemoError(f"{name} in namespace {namespace} is outside the mesh but got answers: {now}")
        failures = application.grown(before["byFailure"], now["byFailure"])
        if any(reason.startswith("name:") for reason in failures):
            raise DemoError(f"{name} in namespace {namespace} cannot resolve the server's name: {failures}")
        count = sum(failures.values())
        return failures if count >= REFUSALS else None, f"{count} refusals so far"
    return wait(f"refusals of {name}", enough, seconds=60)


def handshakes(kubectl: Kubectl, name: str, container: str) -> list:
    """TLS and request statistics of the sidecar beside a container."""
    pod = application.pod_of(kubectl, name, NAMESPACE)
    url = f"http://127.0.0.1:9901/stats?usedonly&filter={STATISTICS}"
    return statistics(application.fetch(kubectl, pod, NAMESPACE, container, url))


def show(kubectl: Kubectl, environment: list) -> None:
    """The whole report."""
    by_pod, failures, answer = traffic(kubectl)
    outside = [(name, namespace, refused(kubectl, name, namespace))
               for name, namespace in (("demo-opted-out", NAMESPACE), ("demo-outsider", OUTSIDE))]
    print("\nPods: those of the labelled namespace have a sidecar, except the one that opted out.\n")
    print(pods(kubectl.get("pods", namespace=NAMESPACE)["items"] + kubectl.get("pods", namespace=OUTSIDE)["items"]))
    print("\nDataplanes: what the control plane made of the Pods and Services.\n")
    print(dataplanes(kubectl.get("dataplanes", namespace=NAMESPACE)["items"]))
    print("\nRequests: demo-client calls http://demo-server.kermode-demo.svc/ and knows nothing of replicas or TLS.\n"
          "Those of the last seconds:\n")
    rows = sorted(by_pod.items()) + [("failed", sum(failures.values()))]
    print(table(["answered by", "requests"], rows))
    print("\nIdentity: the certificate that the caller showed, as the server's sidecar passes it on in the header\n"
          "x-forwarded-client-cert. The first URI is the service, the others are the caller's tags.\n")
    uris = identities(answer["headers"].get("x-forwarded-client-cert", ""))["URI"]
    if not uris:
        raise DemoError(f"the server saw no certificate of its caller: {answer}")
    for uri in uris:
        say(uri)
    print("\nEnvoy's own statistics, in the sidecars of client and server, since they began: with the requests that came\n"
          "before the first server was ready.\n")
    rows = [("client", *pair) for pair in handshakes(kubectl, "demo-client", "client")]
    rows += [("server", *pair) for pair in handshakes(kubectl, "demo-server", "server")]
    print(table(["sidecar of", "statistic", "value"], rows))
    print("\nRefused: the same client without a sidecar has no certificate, and mTLS is STRICT.\n")
    rows = [(name, namespace, reason, count) for name, namespace, reasons in outside
            for reason, count in reasons.items()]
    print(table(["client", "namespace", "what it saw", "times"], rows))
    print("\nLook for yourself:\n")
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
