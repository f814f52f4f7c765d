"""Certificate authority, certificates and kubeconfigs of the cluster, made by openssl."""

import base64
import json
from pathlib import Path

from . import files
from .addresses import API_SERVICE, Addresses
from .processes import run

DAYS = "365"


class Authority:
    """Certificate authority in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self.key = folder / "ca.key"

    def create(self) -> None:
        """Creates key and certificate of the authority."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
            "-keyout", self.key, "-out", self.certificate, "-days", DAYS, "-subj", "/CN=kermode-cluster")

    def issue(self, name: str, subject: str, alternative_names: str = "") -> tuple:
        """Issues a certificate for servers and clients. Returns the paths of certificate and key."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        extensions = ["-addext", "basicConstraints=critical,CA:FALSE",
                      "-addext", "keyUsage=critical,digitalSignature",
                      "-addext", "extendedKeyUsage=serverAuth,clientAuth"]
        if alternative_names:
            extensions += ["-addext", f"subjectAltName={alternative_names}"]
        run("openssl", "req", "-x509", "-CA", self.certificate, "-CAkey", self.key,
            "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
            "-keyout", key, "-out", certificate, "-days", DAYS, "-subj", subject, *extensions)
        return certificate, key

    def kubeconfig(self, path: Path, cluster: str, server: str, subject: str) -> None:
        """Writes a kubeconfig for one user, with embedded certificates, as JSON, which is valid YAML."""
        certificate, key = self.issue(path.name, subject)
        files.write_json(path, {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": cluster,
            "clusters": [{"name": cluster, "cluster": {
                "server": server, "certificate-authority-data": encoded(self.certificate)}}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
            "users": [{"name": cluster, "user": {
                "client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}}],
        }, mode=0o600)


def encoded(path: Path) -> str:
    """Returns the content of a file in base64, as kubeconfigs embed it."""
    return base64.b64encode(path.read_bytes()).decode()


def service_account_keys(folder: Path) -> None:
    """Creates the key pair of service-account tokens."""
    key = folder / "service-account.key"
    run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    run("openssl", "pkey", "-in", key, "-pubout", "-out", folder / "service-account.pub")


def api_server_names(addresses: Addresses) -> str:
    """Returns all names and addresses by which clients call the API server."""
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
             "kubernetes.default.svc.cluster.local"]
    ips = ["127.0.0.1", API_SERVICE, addresses.node]
    return ",".join([f"DNS:{name}" for name in names] + [f"IP:{ip}" for ip in ips])


def kubeconfig_credentials(path: Path) -> dict:
    """Returns server, authority, certificate and key (PEM) of a kubeconfig that this module wrote."""
    config = json.loads(path.read_text(encoding="utf-8"))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    return {
        "server": cluster["server"],
        "authority": base64.b64decode(cluster["certificate-authority-data"]).decode(),
        "certificate": base64.b64decode(user["client-certificate-data"]).decode(),
        "key": base64.b64decode(user["client-key-data"]).decode(),
    }
