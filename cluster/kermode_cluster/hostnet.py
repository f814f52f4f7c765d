"""Host side of a node's network: a veth pair, a route to the Pods, masquerading."""

import json

from .addresses import Addresses
from .errors import ClusterError
from .processes import run, wait_until


def table(name: str) -> str:
    """Returns the name of a cluster's nftables table on the host."""
    return f"kermode-{name}"


def rules(name: str, addresses: Addresses) -> str:
    """Returns rules that masquerade packets from a cluster to any other network. Pure."""
    return f"""table ip {table(name)} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {{ {addresses.link}, {addresses.pods} }} oifname != "{addresses.interface}" masquerade
    }}
}}
"""


def uplink_mtu() -> int:
    """Returns the MTU of the default route's interface; Pods use it to avoid fragmentation."""
    routes = json.loads(run("ip", "-4", "-json", "route", "show", "default"))
    if not routes:
        return 1500
    return json.loads(run("ip", "-json", "link", "show", "dev", routes[0]["dev"]))[0]["mtu"]


def interface_names() -> set:
    """Returns the names of the host's interfaces."""
    return {link["ifname"] for link in json.loads(run("ip", "-json", "link"))}


def connect(name: str, addresses: Addresses, init_pid: int, mtu: int) -> None:
    """Connects the node's network namespace to the host."""
    run("ip", "link", "add", addresses.interface, "mtu", mtu, "type", "veth",
        "peer", "name", "eth0", "mtu", mtu, "netns", init_pid)
    run("ip", "address", "add", f"{addresses.host}/30", "dev", addresses.interface)
    run("ip", "link", "set", addresses.interface, "up")
    inside = ("nsenter", f"--net=/proc/{init_pid}/ns/net", "ip")
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "address", "add", f"{addresses.node}/30", "dev", "eth0")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "route", "add", "default", "via", addresses.host)
    run("ip", "route", "add", addresses.pods, "via", addresses.node)
    run("nft", "-f", "-", stdin=rules(name, addresses))


def disconnect(name: str, addresses: Addresses) -> None:
    """Removes what `connect` created on the host; the routes disappear with the interface."""
    def try_remove() -> bool:
        if addresses.interface not in interface_names():
            return True
        # The kernel would remove the interface as well, but only some time after the end of the node's namespace.
        run("ip", "link", "delete", addresses.interface, check=False)
        return False
    if not wait_until(try_remove, seconds=10):
        raise ClusterError(f"interface {addresses.interface} cannot be removed: "
                           f"run ip link delete {addresses.interface}")
    if f"table ip {table(name)}" in run("nft", "list", "tables").splitlines():
        run("nft", "delete", "table", "ip", table(name))
