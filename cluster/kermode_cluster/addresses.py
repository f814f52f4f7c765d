"""Which addresses a cluster gets: a number per cluster, and subnets that follow from it."""

import ipaddress
import json
from dataclasses import dataclass

from .errors import ClusterError
from .processes import run

# Services live only inside a node's network namespace, so every cluster can have the same range.
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
API_PORT = 6443
CLUSTERS = 200


@dataclass(frozen=True)
class Addresses:
    """The networks of the cluster with this number."""

    number: int

    @property
    def link(self) -> str:
        """The network of the veth pair between host and node."""
        return f"10.180.{self.number}.0/30"

    @property
    def host(self) -> str:
        """The host's end: processes on the host are reached here by pods and the API server."""
        return f"10.180.{self.number}.1"

    @property
    def node(self) -> str:
        """The node's end: API server, node ports."""
        return f"10.180.{self.number}.2"

    @property
    def pods(self) -> str:
        """The pods' network, routed from the host."""
        return f"10.244.{self.number}.0/24"

    @property
    def interface(self) -> str:
        """Name of the host's end of the veth pair."""
        return f"kermode{self.number}"

    @property
    def api_url(self) -> str:
        """Where the API server answers, on the host and in the node."""
        return f"https://{self.node}:{API_PORT}"


def free(taken_networks, taken_interfaces, reserved) -> Addresses:
    """The first number whose networks and interface nobody uses."""
    networks = [ipaddress.ip_network(network, strict=False) for network in taken_networks]
    for number in range(CLUSTERS):
        candidate = Addresses(number)
        wanted = [ipaddress.ip_network(candidate.link), ipaddress.ip_network(candidate.pods)]
        if number in reserved or candidate.interface in taken_interfaces:
            continue
        if not any(mine.overlaps(other) for mine in wanted for other in networks):
            return candidate
    raise ClusterError(
        "no free network for the cluster: 10.180.N.0/30 and 10.244.N.0/24 are taken for every N; "
        "take a cluster down (make cluster-down CLUSTER=NAME) or free those routes"
    )


def taken() -> tuple:
    """Networks (routes and addresses) and interface names in use on this host."""
    networks = set()
    for route in json.loads(run("ip", "-4", "-json", "route", "show", "table", "all")):
        if route.get("dst", "default") != "default":
            networks.add(route["dst"])
    interfaces = {link["ifname"] for link in json.loads(run("ip", "-json", "link"))}
    return networks, interfaces
