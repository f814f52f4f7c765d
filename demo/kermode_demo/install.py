"""Installs the control plane with the manifests of `kumactl install control-plane`."""

import subprocess
from pathlib import Path

from .errors import DemoError
from .kubectl import Kubectl
from .progress import print_detail, wait_for_deployment

NAMESPACE = "kong-mesh-system"
NAME = "kuma-control-plane"


def flags(references: dict) -> list:
    """Returns the flags of kumactl for these images. Pure."""
    result = []
    for flag, image in (("control-plane", "kuma-cp"), ("dataplane", "kuma-dp"), ("dataplane-init", "kuma-init"),
                        ("cni", "kuma-cni")):
        name, _, tag = references[image].rpartition(":")
        registry, _, repository = name.rpartition("/")
        result += [f"--{flag}-registry={registry}", f"--{flag}-repository={repository}", f"--{flag}-version={tag}"]
    return result


def manifests(kumactl: Path, references: dict) -> str:
    """Returns the manifests for these images."""
    command = [str(kumactl), "install", "control-plane", *flags(references)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise DemoError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


def install(kubectl: Kubectl, kumactl: Path, references: dict) -> None:
    """Applies the manifests and waits for the control plane."""
    kubectl.apply(manifests(kumactl, references))
    print_detail("kumactl install control-plane | kubectl apply -f -: applied")
    wait_for_deployment(kubectl, NAMESPACE, NAME)


def uninstall(kubectl: Kubectl, kumactl: Path, references: dict) -> None:
    """Deletes the objects that `install` applied. The webhook registrations are deleted first, so that no API request
    waits for a deleted control plane."""
    kubectl.run("delete", "--ignore-not-found",
                "mutatingwebhookconfiguration/kuma-admission-mutating-webhook-configuration",
                "validatingwebhookconfiguration/kuma-validating-webhook-configuration")
    kubectl.run("delete", "--ignore-not-found", "--filename=-", stdin=manifests(kumactl, references))
