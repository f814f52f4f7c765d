"""Configuration files of the components, rendered from the settings of the cluster. Pure."""

import ipaddress
import json

from .addresses import DNS_SERVICE, Addresses

# Folder of the CNI plugins, inside the node.
NODE_PLUGINS = "/opt/cni/bin"


def containerd(pause_image: str) -> str:
    """Returns containerd's configuration, with default paths inside the node."""
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE, runc cannot lower the OOM score of a sandbox, and every sandbox
    # would fail with "can't get final child's PID from pipe: EOF".
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{NODE_PLUGINS}"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def cni_network(addresses: Addresses, mtu: int) -> str:
    """Returns the CNI configuration list.

    With the plugin `ptp`, every packet between Pods is routed and passes the Service rules, also when a Pod reaches
    itself through a Service. The plugin `bridge` would need the kernel module br_netfilter for that.
    """
    return json.dumps({
        "cniVersion": "0.4.0",
        "name": "kermode",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": True,
                "mtu": mtu,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": addresses.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }, indent=2) + "\n"


def kubelet(cgroup: str, authority: str) -> str:
    """Returns the kubelet's configuration file."""
    return json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE],
        "resolvConf": "/etc/resolv.conf",
        "maxPods": 200,
        # The disk of a development machine is often nearly full: evict only when almost no space is left.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
        # How often the kubelet updates the ConfigMaps and tokens in running Pods. The default is a minute, for which
        # tests of new certificates would wait.
        "syncFrequency": "10s",
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
    }, indent=2) + "\n"


def name_servers(resolv_conf: str) -> list:
    """Returns the IPv4 name servers in a resolv.conf, without those on loopback (systemd-resolved), which Pods cannot
    reach."""
    usable = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        if address.version == 4 and not address.is_loopback:
            usable.append(words[1])
    return usable


def corefile(servers: list) -> str:
    """Returns CoreDNS's configuration. Without name servers, names outside of the cluster do not resolve."""
    forward = f"    forward . {' '.join(servers)}\n" if servers else ""
    return f""".:1053 {{
    errors
    health :8080
    ready :8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
{forward}    cache 30
    loadbalance
}}
"""
