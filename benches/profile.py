#!/usr/bin/env python3
"""Makes `benches/casgate.profdata` anew: what runs often in casgate, which optimised builds use (`.cargo/rustc`).

usage: profile.py [--seconds N] [DIR]
       profile.py --check

Two programs that count serve the works of `cargo bench --bench side_by_side` for N seconds each (default 2): the one that is
installed, and the one that is measured, whose dependencies have the features that tests and benches ask for, and with them
other names for their functions. What they wrote becomes the profile. Everything else is kept under DIR (default
target/profile). It takes `rustup component add llvm-tools`, some 3 GB of disk, and 20 minutes of two cores.

It is of the compiler that makes it, of Cargo.lock and of Cargo.toml: make it anew when one of them changes, or what casgate
does with a call. `benches/casgate.profdata.of` says of which; `--check` fails where they are not those that are here.
"""

import glob
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time

WORKS = ["unary", "read", "write", "connect", "mixed", "rate"]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROFILE = os.path.join(ROOT, "benches", "casgate.profdata")
ORIGIN = f"{PROFILE}.of"
# Serves as `casgate`, but may write counts when it ends, wherever that is.
COUNTING = """#!/bin/sh
case "$1" in
serve) sed -i '1i sandbox = "off"' "$3" ;;
esac
LLVM_PROFILE_FILE={raw}/%p.profraw exec {program} "$@"
"""


def step(text):
    print(f"profile: {time.strftime('%H:%M:%S')} {text}", flush=True)


def cargo(folder, verb, *arguments):
    """Runs cargo with builds that count. What is no program of casgate's counts as well, and keeps it to itself."""
    variables = {
        "CASGATE_PROFILE": "count",
        "CARGO_TARGET_DIR": folder,
        "LLVM_PROFILE_FILE": os.devnull,
        # Whatever else the user has there.
        "RUSTC_WRAPPER": os.path.join(ROOT, ".cargo", "rustc"),
    }
    environment = {**os.environ, **variables}
    # Locked: the profile is of Cargo.lock as it is.
    subprocess.run(["cargo", verb, "--locked", *arguments], check=True, stdin=subprocess.DEVNULL, env=environment, cwd=ROOT)


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def origin(profile):
    """A profile, and what functions are named after: one of another origin does not know them."""
    compiler = [line for line in output("rustc", "-vV").splitlines() if line.startswith(("rustc ", "host: "))]
    files = {"Cargo.lock": os.path.join(ROOT, "Cargo.lock"), "Cargo.toml": os.path.join(ROOT, "Cargo.toml"), "profile": profile}
    return "\n".join([*compiler, *(f"{name}: {digest(path)}" for name, path in files.items()), ""])


def check():
    with open(ORIGIN, encoding="utf-8") as file:
        made_of, here = file.read(), origin(PROFILE)
    if made_of != here:
        sys.exit(f"profile: {PROFILE} is of\n{made_of}and here are\n{here}so builds have little of it or nothing: run {sys.argv[0]}")
    print(f"profile: {PROFILE} is of what is here")


def merger():
    """llvm-profdata of the compiler itself: the format changes with its version."""
    libraries = output("rustc", "--print", "target-libdir").strip()
    program = os.path.join(os.path.dirname(libraries), "bin", "llvm-profdata")
    if not os.path.exists(program):
        sys.exit(f"profile: no {program}: run `rustup component add llvm-tools`")
    return program


def build(folder, name, *arguments):
    """Gives a program that lets casgate count."""
    cargo(folder, *arguments)
    program = os.path.join(folder, name)
    shutil.copy2(os.path.join(folder, "release", "casgate"), program)
    counting = f"{program}-counting"
    with open(counting, "w", encoding="utf-8") as script:
        script.write(COUNTING.format(raw=shlex.quote(os.path.join(folder, "raw")), program=shlex.quote(program)))
    os.chmod(counting, 0o755)
    return counting


def serve(folder, programs, seconds):
    """Gives the counts of every process that served."""
    raw = os.path.join(folder, "raw")
    shutil.rmtree(raw, ignore_errors=True)
    os.makedirs(raw)
    works = ["--only", ",".join(WORKS), "--beside", "floor", "--seconds", seconds, "--rounds", "1"]
    for program in programs:
        cargo(folder, "bench", "--bench", "side_by_side", "--", *works, "--before", program)
    counts = glob.glob(os.path.join(raw, "*.profraw"))
    # Before the works there is a check that it gives the same rights as the others.
    if len(counts) != (len(WORKS) + 1) * len(programs):
        sys.exit(f"profile: {len(counts)} processes have written counts to {raw}, of {len(WORKS)} works and a check each")
    return counts


def main(arguments):
    if arguments == ["--check"]:
        return check()
    seconds = "2"
    if arguments[:1] == ["--seconds"] and len(arguments) > 1:
        seconds, arguments = arguments[1], arguments[2:]
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        sys.exit(__doc__)
    folder = os.path.abspath(arguments[0] if arguments else os.path.join(ROOT, "target", "profile"))
    merge = merger()
    os.makedirs(folder, exist_ok=True)
    try:
        step("1 of 3: the program that is installed, built so that it counts")
        installed = build(folder, "installed", "build", "--release", "--bin", "casgate")
        step("2 of 3: the one that is measured")
        measured = build(folder, "measured", "bench", "--bench", "side_by_side", "--no-run")
        step("3 of 3: they serve")
        counts = serve(folder, [installed, measured], seconds)
        # Sparse: without the functions that never ran.
        merged = os.path.join(folder, "casgate.profdata")
        subprocess.run([merge, "merge", "--sparse", "-o", merged, *counts], check=True)
        # Its origin last: without it, or between the two, `--check` fails.
        shutil.copyfile(merged, PROFILE)
        with open(ORIGIN, "w", encoding="utf-8") as file:
            file.write(origin(merged))
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"profile: FAILED: {error}")
    step(f"done: {PROFILE}, {os.path.getsize(PROFILE) // 1024} KiB")
    print("It is for builds from now on: run `cargo clean --release`. To see what it brings, beside a build without:")
    print("  CASGATE_PROFILE=none cargo bench --bench side_by_side --no-run --target-dir target/plain")
    print("  cargo bench --bench side_by_side -- --beside floor --before target/plain/release/casgate")


if __name__ == "__main__":
    main(sys.argv[1:])
