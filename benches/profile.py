#!/usr/bin/env python3
"""Builds casgate with a profile of itself, which the compiler uses to lay out what runs often (profile-guided optimisation).

usage: profile.py [--seconds N] [DIR]

Three steps: a build that counts, which serves the works of `cargo bench --bench side_by_side` for N seconds each (default 2),
and a build that uses the counts. Everything is kept under DIR (default target/profiled); the program is DIR/casgate. It takes
`rustup component add llvm-tools`, some 3 GB of disk, and ten minutes or more. RUSTFLAGS are used for both builds.
"""

import glob
import os
import shlex
import subprocess
import sys
import time

WORKS = ["unary", "read", "write", "connect", "mixed", "rate"]
# Serves as `casgate`, but may write counts when it ends, wherever that is.
COUNTING = """#!/bin/sh
case "$1" in
serve) sed -i '1i sandbox = "off"' "$3" ;;
esac
LLVM_PROFILE_FILE={raw}/%p.profraw exec {program} "$@"
"""


def step(text):
    print(f"profile: {time.strftime('%H:%M:%S')} {text}", flush=True)


def run(*command, **variables):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env={**os.environ, **variables})


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def merger():
    """llvm-profdata of the compiler itself: the format changes with its version."""
    libraries = output("rustc", "--print", "target-libdir").strip()
    program = os.path.join(os.path.dirname(libraries), "bin", "llvm-profdata")
    if not os.path.exists(program):
        sys.exit(f"profile: no {program}: run `rustup component add llvm-tools`")
    return program


def build(folder, flag):
    """With a target given, the flag is for the program, and not for what runs while it is built."""
    (host,) = [line.split()[1] for line in output("rustc", "-vV").splitlines() if line.startswith("host:")]
    flags = f"{os.environ.get('RUSTFLAGS', '')} {flag}".strip()
    run("cargo", "build", "--release", "--bin", "casgate", "--target", host, "--target-dir", folder, RUSTFLAGS=flags)
    return os.path.join(folder, host, "release", "casgate")


def serve(program, folder, seconds):
    """Gives the counts of every process that served."""
    raw = os.path.join(folder, "raw")
    os.makedirs(raw, exist_ok=True)
    for old in glob.glob(os.path.join(raw, "*.profraw")):
        os.remove(old)
    counting = os.path.join(folder, "casgate-counting")
    with open(counting, "w", encoding="utf-8") as script:
        script.write(COUNTING.format(raw=shlex.quote(raw), program=shlex.quote(program)))
    os.chmod(counting, 0o755)
    works = ["--only", ",".join(WORKS), "--beside", "floor", "--seconds", seconds, "--rounds", "1"]
    run("cargo", "bench", "--bench", "side_by_side", "--", *works, "--before", counting)
    counts = glob.glob(os.path.join(raw, "*.profraw"))
    if len(counts) < len(WORKS):
        sys.exit(f"profile: {len(counts)} processes have written counts to {raw}, of {len(WORKS)} works or more")
    return counts


def main(arguments):
    seconds = "2"
    if arguments[:1] == ["--seconds"] and len(arguments) > 1:
        seconds, arguments = arguments[1], arguments[2:]
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        sys.exit(__doc__)
    folder = os.path.abspath(arguments[0] if arguments else os.path.join("target", "profiled"))
    merge = merger()
    os.makedirs(folder, exist_ok=True)
    try:
        step("1 of 3: a build that counts")
        counting = build(os.path.join(folder, "counting"), "-Cprofile-generate")
        step("2 of 3: it serves")
        counts = serve(counting, folder, seconds)
        profile = os.path.join(folder, "casgate.profdata")
        run(merge, "merge", "-o", profile, *counts)
        step("3 of 3: a build that uses the counts")
        built = build(os.path.join(folder, "using"), f"-Cprofile-use={profile}")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"profile: FAILED: {error}")
    program = os.path.join(folder, "casgate")
    if os.path.lexists(program):
        os.remove(program)
    os.link(built, program)
    step(f"done: {program}, {output(program, '--version').strip()}")
    print("Beside the usual build: cargo bench --bench side_by_side -- --beside floor --before " + program)


if __name__ == "__main__":
    main(sys.argv[1:])
