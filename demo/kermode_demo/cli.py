"""Command line of the demo. The Makefile calls it."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from kermode_cluster import images, paths
from kermode_cluster.errors import ClusterError

from . import application, install, report
from .errors import DemoError
from .progress import print_step
from .target_cluster import LocalCluster, select


def parser() -> argparse.ArgumentParser:
    """Returns the parser of commands and arguments."""
    main_parser = argparse.ArgumentParser(prog="kermode_demo", description="Kermode's demo")
    commands = main_parser.add_subparsers(dest="command", required=True)
    for name, text in (("up", "install the mesh and the demo, and print the report"),
                       ("install", "install only the mesh"),
                       ("show", "print the report of a running demo"),
                       ("down", "remove everything")):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--cluster", default="kermode", help="local cluster (default: kermode)")
    return main_parser


def build_everything() -> Path:
    """Installs missing packages and builds programs and images. Returns the path of kumactl."""
    print_step("Debian packages")
    subprocess.run([str(paths.CLUSTER_SOURCES / "install-packages")], check=True)
    print_step("programs and images (the first build takes several minutes)")
    images.show(images.build())
    return images.compile_binaries() / "kumactl"


def find_kumactl() -> Path:
    """Returns the kumactl of an earlier build, which is sufficient for a removal, or else builds it."""
    found = sorted(paths.TARGET.glob("*/release/kumactl"))
    return found[0] if found else images.compile_binaries() / "kumactl"


def install_mesh(cluster) -> tuple:
    """Installs the mesh on the cluster. Returns kubectl and the image references."""
    kumactl = build_everything()
    print_step(cluster.title)
    references = cluster.prepare()
    kubectl = cluster.kubectl()
    print_step("control plane")
    install.install(kubectl, kumactl, references)
    return kubectl, references


def up(cluster) -> None:
    """Installs mesh and application, and prints the report."""
    kubectl, references = install_mesh(cluster)
    print_step("demo application")
    application.deploy(kubectl, references)
    print_step("report")
    report.show(kubectl, cluster.environment())


def down(cluster) -> None:
    """Removes application, mesh and, locally, the cluster."""
    if not isinstance(cluster, LocalCluster):
        kubectl = cluster.kubectl()
        application.remove(kubectl)
        install.uninstall(kubectl, find_kumactl(), images.built_references())
    cluster.tear_down()


def dispatch(options) -> None:
    """Runs the selected command."""
    cluster = select(options.cluster, dict(os.environ))
    start = time.monotonic()
    if options.command == "up":
        up(cluster)
    elif options.command == "install":
        install_mesh(cluster)
    elif options.command == "show":
        report.show(cluster.kubectl(), cluster.environment())
    else:
        down(cluster)
    print(f"({time.monotonic() - start:.0f} s)")


def main() -> int:
    """Parses arguments and runs the command; prints errors without a traceback."""
    options = parser().parse_args()
    try:
        dispatch(options)
        return 0
    except (DemoError, ClusterError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        print(f"\nerror: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1
