"""Runs kubectl with an explicit kubeconfig. Errors contain kubectl's messages."""

import json
import os
import subprocess

from .errors import DemoError


class Kubectl:
    """kubectl for one cluster."""

    def __init__(self, program: str, kubeconfig: str):
        self.program = program
        self.kubeconfig = kubeconfig

    def attempt(self, *arguments, stdin: str = None) -> subprocess.CompletedProcess:
        """Runs kubectl and returns the result, successful or not."""
        return subprocess.run(
            [self.program, *arguments], input=stdin, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env=dict(os.environ, KUBECONFIG=self.kubeconfig))

    def run(self, *arguments, stdin: str = None) -> str:
        """Runs kubectl and returns its output; raises DemoError with its message."""
        result = self.attempt(*arguments, stdin=stdin)
        if result.returncode != 0:
            shown = " ".join(arguments)
            raise DemoError(f"kubectl {shown}: {(result.stderr or result.stdout).strip()}")
        return result.stdout

    def get(self, kind: str, name: str = None, namespace: str = None, selector: str = None) -> dict:
        """Returns an object or a list."""
        arguments = ["get", kind, "--output=json"]
        arguments += [name] if name else []
        arguments += [f"--namespace={namespace}"] if namespace else []
        arguments += [f"--selector={selector}"] if selector else []
        return json.loads(self.run(*arguments))

    def apply(self, text: str) -> None:
        """Applies manifests, as `kubectl apply -f -` does."""
        self.run("apply", "--filename=-", stdin=text)

    def try_server_side_apply(self, text: str) -> tuple:
        """Applies manifests server-side, which keeps the fields of other field managers. Returns (True, ""), or
        (False, message) when a webhook cannot be reached; the caller may then retry."""
        result = self.attempt("apply", "--server-side", "--field-manager=kermode-demo", "--filename=-", stdin=text)
        if result.returncode != 0 and "failed calling webhook" not in result.stderr:
            raise DemoError(f"kubectl apply --server-side: {result.stderr.strip()}")
        return result.returncode == 0, result.stderr.strip()

    def run_in_container(self, pod: str, namespace: str, container: str, *command) -> str:
        """Runs a program inside a container."""
        return self.run("exec", pod, f"--namespace={namespace}", f"--container={container}", "--", *command)
