"""Addresses of a cluster: each cluster has a number, which determines its subnets."""

import ipaddress
import json
from dataclasses import dataclass

from .errors import ClusterError
from .processes import run

# Service addresses exist only inside a node's network namespace, so every cluster can have the same range.
SERVICES = "10.96.0.0/16"
# ClusterIPs of the Services `kubernetes` and `kube-dns`.
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
API_PORT = 6443
# Maximum number of clusters side by side. The number of each cluster is below this limit.
MAX_CLUSTERS = 200


@dataclass(frozen=True)
class Addresses:
    """Networks of the cluster with this number."""

    number: int

    @property
    def link(self) -> str:
        """Network of the veth pair between host and node."""
        return f"10.180.{self.number}.0/30"

    @property
    def host(self) -> str:
        """Host end of the veth pair, where Pods and the API server reach processes on the host."""
        return f"10.180.{self.number}.1"

    @property
    def node(self) -> str:
        """Node end of the veth pair: API server, node ports."""
        return f"10.180.{self.number}.2"

    @property
    def pods(self) -> str:
        """Network of the Pods, routed from the host."""
        return f"10.244.{self.number}.0/24"

    @property
    def interface(self) -> str:
        """Interface name of the host end of the veth pair."""
        return f"kermode{self.number}"

    @property
    def api_url(self) -> str:
        """URL of the API server, on the host and in the node."""
        return f"https://{self.node}:{API_PORT}"


def first_free(used_networks, used_interfaces, used_numbers) -> Addresses:
    """Returns the addresses of the lowest cluster number whose networks and interface are unused. Pure."""
    networks = [ipaddress.ip_network(network, strict=False) for network in used_networks]
    for number in range(MAX_CLUSTERS):
        candidate = Addresses(number)
        wanted = [ipaddress.ip_network(candidate.link), ipaddress.ip_network(candidate.pods)]
        if number in used_numbers or candidate.interface in used_interfaces:
            continue
        if not any(network.overlaps(other) for network in wanted for other in networks):
            return candidate
    raise ClusterError(
        "no free network for the cluster: 10.180.N.0/30 and 10.244.N.0/24 are taken for every N; "
        "take a cluster down (make cluster-down CLUSTER=NAME) or free those routes"
    )


def networks_and_interfaces_in_use() -> tuple:
    """Returns the networks (routes and addresses) and interface names in use on this host."""
    networks = set()
    for route in json.loads(run("ip", "-4", "-json", "route", "show", "table", "all")):
        if route.get("dst", "default") != "default":
            networks.add(route["dst"])
    interfaces = {link["ifname"] for link in json.loads(run("ip", "-json", "link"))}
    return networks, interfaces
