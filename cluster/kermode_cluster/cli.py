"""Command line of the cluster tool, which the Makefile calls."""

import argparse
import os
import sys

from . import applications, build, chromium, down, envoy, faults, images, node, paths, promtool, reboot, sbom, status, up
from .errors import ClusterError


def parser() -> argparse.ArgumentParser:
    """Returns the parser of commands and arguments."""
    main_parser = argparse.ArgumentParser(prog="kermode_cluster", description="A real Kubernetes on this machine")
    commands = main_parser.add_subparsers(dest="command", required=True)

    def add_command(name: str, text: str, positional: bool = True) -> argparse.ArgumentParser:
        """Adds a command that takes the cluster's name as its argument, or as `--name`."""
        added = commands.add_parser(name, help=text, description=text)
        if positional:
            added.add_argument("name", nargs="?", default="kermode", help="cluster (default: kermode)")
        else:
            added.add_argument("--name", default="kermode", help="cluster (default: kermode)")
        return added

    add_command("up", "bring a cluster up, or repair it")
    api_only = add_command("api-only", "run only etcd and API server, for API tests and benchmarks", positional=False)
    api_only.add_argument("action", choices=["up", "down"])
    api_only.add_argument("--controllers", action="store_true", help="also run the controller manager")
    add_command("down", "take a cluster down and remove everything that belongs to it")
    add_command("status", "print the state of a cluster and how to use it")
    add_command("load-images", "import the built images that a cluster does not have")
    commands.add_parser("images", help="build Kermode's images that changed")
    commands.add_parser("images-push", help="push the built images to $KERMODE_REGISTRY")
    application_images = commands.add_parser("application-images", help="build images of applications for tests")
    application_images.add_argument("images", nargs="*", help="names in images/applications.json (default: all)")
    load_applications = add_command("load-application-images", "build images of applications, and import them",
                                    positional=False)
    load_applications.add_argument("images", nargs="+", help="names in images/applications.json")
    commands.add_parser("pin-application-packages", help="write images/applications.lock.json with current packages")
    commands.add_parser("sbom", help="write the bill of materials of each program, and the list of licences")
    commands.add_parser("rustflags", help="print the compiler flags of the images' binaries")
    commands.add_parser("envoy", help="print the path of the pinned Envoy binary")
    commands.add_parser("coredns", help="build CoreDNS, and print its path")
    commands.add_parser("cnitool", help="build the CNI specification's tool, and print its path")
    commands.add_parser("helm", help="build Helm, and print its path")
    commands.add_parser("promtool", help="unpack the tool that checks rules of Prometheus, and print its path")
    commands.add_parser("chromium", help="unpack a headless Chromium, and print its path")
    add_command("kubeconfig", "print the path of the kubeconfig")
    kubectl = add_command("kubectl", "run kubectl of the cluster's version", positional=False)
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    for name, text in (("stop", "kill a component and keep it down"), ("start", "start a stopped component")):
        stop_or_start = add_command(name, text, positional=False)
        stop_or_start.add_argument("component", help="such as kube-apiserver or etcd; status lists them")
    add_command("reboot", "end all processes of the node, and start its components again", positional=False)
    execute = add_command("exec", "run a program inside the node's namespaces", positional=False)
    execute.add_argument("arguments", nargs=argparse.REMAINDER)
    return main_parser


def replace_process(command: list, env: dict = None) -> int:
    """Replaces this process by another program."""
    sys.stdout.flush()
    os.execvpe(command[0], command, dict(os.environ, **(env or {})))


def registry() -> str:
    """Returns the registry to push to."""
    found = os.environ.get("KERMODE_REGISTRY")
    if not found:
        raise ClusterError("KERMODE_REGISTRY is not set: set it to a registry and a path, such as "
                           "KERMODE_REGISTRY=registry.example.org/kermode")
    return found.rstrip("/")


def after_separator(arguments: list) -> list:
    """Returns the arguments without a leading `--`."""
    return arguments[1:] if arguments[:1] == ["--"] else arguments


def dispatch(options) -> int:
    """Runs the selected command."""
    if options.command == "up":
        up.up(options.name)
    elif options.command == "api-only" and options.action == "up":
        up.up(options.name, api_only=True, controllers=options.controllers)
    elif options.command in ("down", "api-only"):
        down.down(options.name)
    elif options.command == "status":
        return status.show(options.name)
    elif options.command == "load-images":
        loaded = images.load(status.require_running(options.name))
        print("\n".join(f"loaded {reference}" for reference in loaded) or "nothing to load: the cluster has all images")
    elif options.command == "images":
        images.show(images.build())
    elif options.command == "images-push":
        images.show(images.build())
        print("\n".join(images.push(registry()).values()))
    elif options.command == "application-images":
        for name, reference in applications.build(options.images or list(applications.recipes()["images"])).items():
            print(f"{reference:55}{applications.archive_of(name).stat().st_size / 2**20:8.1f} MiB")
    elif options.command == "load-application-images":
        applications.load(status.require_running(options.name), options.images)
    elif options.command == "pin-application-packages":
        applications.pin()
    elif options.command == "sbom":
        print("\n".join(str(path) for path in sbom.write()))
    elif options.command == "rustflags":
        print(images.rustflags(images.host_triple()))
    elif options.command == "envoy":
        print(envoy.binary())
    elif options.command == "coredns":
        print(build.coredns())
    elif options.command == "cnitool":
        print(build.cnitool())
    elif options.command == "helm":
        print(build.helm())
    elif options.command == "promtool":
        print(promtool.binary())
    elif options.command == "chromium":
        print(chromium.binary())
    elif options.command == "kubeconfig":
        print(status.require_running(options.name).kubeconfig)
    elif options.command in ("stop", "start"):
        change = faults.stop if options.command == "stop" else faults.start
        change(status.require_running(options.name), options.component)
    elif options.command == "reboot":
        reboot.reboot(status.require_running(options.name))
    elif options.command == "kubectl":
        cluster = status.require_running(options.name)
        return replace_process([str(cluster.bin / "kubectl"), *after_separator(options.arguments)],
                               {"KUBECONFIG": str(cluster.kubeconfig)})
    elif options.command == "exec":
        return replace_process([*node.enter_command(paths.ClusterPaths(options.name)),
                                *after_separator(options.arguments)])
    return 0


def main() -> int:
    """Parses arguments and runs the command; prints errors without a traceback."""
    options = parser().parse_args()
    # Debian installs nft, iptables and ip in folders that the PATH of some users lacks.
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    try:
        return dispatch(options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output (such as head) has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
