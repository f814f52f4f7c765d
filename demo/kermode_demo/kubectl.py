"""kubectl, as the demo uses it: every call names its kubeconfig, every failure carries kubectl's own words."""

import json
import os
import subprocess

from .errors import DemoError


class Kubectl:
    """One kubectl and one cluster."""

    def __init__(self, program: str, kubeconfig: str):
        self.program = program
        self.kubeconfig = kubeconfig

    def attempt(self, *arguments, stdin: str = None) -> subprocess.CompletedProcess:
        """Run to its end, whatever the outcome."""
        return subprocess.run(
            [self.program, *arguments], input=stdin, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env=dict(os.environ, KUBECONFIG=self.kubeconfig))

    def run(self, *arguments, stdin: str = None) -> str:
        """Run and return the output; raise DemoError with kubectl's words."""
        result = self.attempt(*arguments, stdin=stdin)
        if result.returncode != 0:
            shown = " ".join(arguments)
            raise DemoError(f"kubectl {shown}: {(result.stderr or result.stdout).strip()}")
        return result.stdout

    def get(self, kind: str, name: str = None, namespace: str = None, selector: str = None) -> dict:
        """An object, or a list."""
        arguments = ["get", kind, "--output=json"]
        arguments += [name] if name else []
        arguments += [f"--namespace={namespace}"] if namespace else []
        arguments += [f"--selector={selector}"] if selector else []
        return json.loads(self.run(*arguments))

    def apply(self, text: str) -> None:
        """Apply manifests, as `kubectl apply -f -` does."""
        self.run("apply", "--filename=-", stdin=text)

    def apply_over(self, text: str) -> tuple:
        """Apply manifests of objects that others have made: server-side, so that what they set stays. (True, "")
        when done, (False, why) when a webhook did not answer, which another attempt may find mended."""
        result = self.attempt("apply", "--server-side", "--field-manager=kermode-demo", "--filename=-", stdin=text)
        if result.returncode != 0 and "failed calling webhook" not in result.stderr:
            raise DemoError(f"kubectl apply --server-side: {result.stderr.strip()}")
        return result.returncode == 0, result.stderr.strip()

    def inside(self, pod: str, namespace: str, container: str, *command) -> str:
        """Run a program inside a container."""
        return self.run("exec", pod, f"--namespace={namespace}", f"--container={container}", "--", *command)
