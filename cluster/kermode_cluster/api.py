"""A small client of the cluster's API server, on the HTTP and TLS modules of Python."""

import http.client
import json
import ssl
import tempfile
import urllib.parse
from pathlib import Path

from .certificates import kubeconfig_credentials
from .errors import ClusterError


class Api:
    """Client with the credentials of a kubeconfig."""

    def __init__(self, kubeconfig: Path):
        credentials = kubeconfig_credentials(kubeconfig)
        self.server = urllib.parse.urlsplit(credentials["server"]).netloc
        self.context = ssl.create_default_context(cadata=credentials["authority"])
        # Python reads client certificates only from files.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(credentials["certificate"] + credentials["key"])
            file.flush()
            self.context.load_cert_chain(file.name)

    def call(self, method: str, path: str, body=None, content_type: str = "application/json") -> dict:
        """Makes a call and returns the decoded response. Raises OSError when the server cannot be reached, ClusterError
        for an error status."""
        connection = http.client.HTTPSConnection(self.server, context=self.context, timeout=10)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, body=data, headers={"Content-Type": content_type})
            response = connection.getresponse()
            text = response.read().decode()
        except http.client.HTTPException as error:
            raise OSError(f"API server at {self.server}: {error!r}") from error
        finally:
            connection.close()
        if response.status >= 300:
            raise ClusterError(f"{method} {path}: the API server responded with status {response.status}: "
                               f"{text.strip()[:500]}")
        return json.loads(text) if text.startswith("{") else {"text": text}

    def get(self, path: str) -> dict:
        """Reads an object or a list."""
        return self.call("GET", path)

    def apply(self, path: str, body: dict) -> dict:
        """Creates or changes an object by server-side apply."""
        return self.call("PATCH", f"{path}?fieldManager=kermode-cluster&force=true", body,
                         "application/apply-patch+yaml")

    def is_ready(self) -> bool:
        """Whether the server is ready."""
        try:
            return self.get("/readyz").get("text") == "ok"
        except (OSError, ClusterError):
            return False

    def has_condition(self, path: str, kind: str) -> bool:
        """Whether an object has the status condition `kind` with value True."""
        try:
            conditions = self.get(path).get("status", {}).get("conditions", [])
        except (OSError, ClusterError):
            return False
        return any(item["type"] == kind and item["status"] == "True" for item in conditions)
