"""Command line of the demo, which the Makefile calls."""

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
from .place import Local, chosen
from .progress import step


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


def built() -> Path:
    """Installs missing packages and builds programs and images. Returns the path of kumactl."""
    step("Debian packages")
    subprocess.run([str(paths.CLUSTER_SOURCES / "install-packages")], check=True)
    step("programs and images (the first build takes several minutes)")
    images.show(images.build())
    return images.compile_binaries() / "kumactl"


def existing_kumactl() -> Path:
    """Returns the kumactl of an earlier build, which is sufficient for removal."""
    found = sorted(paths.TARGET.glob("*/release/kumactl"))
    return found[0] if found else images.compile_binaries() / "kumactl"


def installed(place) -> tuple:
    """Installs the mesh on the cluster. Returns kubectl and the image references."""
    kumactl = built()
    step(place.title)
    references = place.prepare()
    kubectl = place.kubectl()
    step("control plane")
    install.install(kubectl, kumactl, references)
    return kubectl, references


def up(place) -> None:
    """Installs mesh and application, and prints the report."""
    kubectl, references = installed(place)
    step("demo application")
    application.deploy(kubectl, references)
    step("report")
    report.show(kubectl, place.environment())


def down(place) -> None:
    """Removes application, mesh and, locally, the cluster."""
    if not isinstance(place, Local):
        kubectl = place.kubectl()
        application.remove(kubectl)
        install.uninstall(kubectl, existing_kumactl(), images.built_references())
    place.tear_down()


def dispatch(options) -> None:
    """Runs the selected command."""
    place = chosen(options.cluster, dict(os.environ))
    start = time.monotonic()
    if options.command == "up":
        up(place)
    elif options.command == "install":
        installed(place)
    elif options.command == "show":
        report.show(place.kubectl(), place.environment())
    else:
        down(place)
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
