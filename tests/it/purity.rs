//! What the source must not say, since no run of a test could show that it is never used.

use std::fs;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file, without its tests and without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// All Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn pure_modules_know_no_runtime_socket_clock_or_file() {
    let single = [
        "policy.rs",
        "route.rs",
        "forward.rs",
        "wire.rs",
        "status.rs",
        "proxy/prefix.rs",
        "proxy/headers.rs",
        "proxy/capabilities.rs",
    ];
    let mut pure: Vec<PathBuf> = single.iter().map(|name| source().join(name)).collect();
    pure.extend(files(&source().join("policy")));
    pure.extend(files(&source().join("wire")));
    assert!(pure.len() > single.len() + 3, "{pure:?}");
    const OUTSIDE: [&str; 12] = [
        "tokio",
        "std::net",
        "std::fs",
        "SystemTime",
        "Instant",
        "std::io",
        "std::env",
        "std::process",
        "std::thread",
        "socket2",
        "h2::",
        "OffsetDateTime",
    ];
    for path in pure {
        let code = code(&path);
        for name in OUTSIDE {
            assert!(!code.contains(name), "{} uses `{name}`", path.display());
        }
    }
}

#[test]
fn there_is_one_door_to_a_backend_and_one_maker_of_permits() {
    let mut permits = Vec::new();
    let mut doors = Vec::new();
    for path in files(&source()) {
        let code = code(&path);
        let name = path.strip_prefix(source()).unwrap().display().to_string();
        if code.contains("Ok(Permit {") || code.contains("= Permit {") || code.contains("return Permit {") {
            permits.push(name.clone());
        }
        if code.contains(".send_request(") || code.contains("client::Builder::new()") && code.contains("h2::") {
            doors.push(name);
        }
    }
    permits.sort();
    doors.sort();
    assert_eq!(permits, ["policy.rs"]);
    assert_eq!(doors, ["upstream/check.rs", "upstream/dial.rs", "upstream/pool.rs"]);
    let upstream = code(&source().join("upstream.rs"));
    assert!(
        upstream.contains("        permit: Permit,\n"),
        "`Backend::send` asks for a permit"
    );
    // What needs none can't say anything that a caller said.
    let check = code(&source().join("upstream/check.rs"));
    assert!(check.contains("async fn ask(sender: SendRequest<Bytes>, endpoint: &Endpoint, question: &Question)"));
    for name in ["Caller", "Client", "pub fn", "pub(crate)"] {
        assert!(!check.contains(name), "{name}");
    }
    // Private, so that nobody goes round it.
    assert!(
        upstream.contains("\nmod dial;\n") && upstream.contains("\nmod pool;\n") && upstream.contains("\nmod check;\n")
    );
}
