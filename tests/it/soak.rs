//! What the soak (`benches/soak`) makes of what it sees: it passes only where everything is explained, and nothing leaks.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outages::Outages;
use tally::{Failure, Tally};
use vitals::Vitals;

#[path = "../../benches/soak/outages.rs"]
mod outages;
#[expect(dead_code, reason = "what is printed is not looked at here")]
#[path = "../../benches/soak/tally.rs"]
mod tally;
#[expect(dead_code, reason = "what is printed is not looked at here")]
#[path = "../../benches/soak/vitals.rs"]
mod vitals;

fn failure(code: u8, text: &str) -> Failure {
    Failure {
        code: Some(code),
        text: text.to_owned(),
    }
}

/// Whether a call that ends so is explained, to someone who has an explanation for every failure or for none.
fn is_explained(may: bool, done: Result<(), Failure>, because: Option<&'static str>) -> bool {
    let tally = Tally::new();
    tally.ended("reader", ("Write", may), Instant::now(), done, |_| because);
    tally.unexplained() == 0
}

#[test]
fn a_call_that_has_to_be_refused_is_refused_whatever_happens() {
    let because = Some("a backend restarts");
    assert!(is_explained(false, Err(failure(7, "may not push")), None));
    assert!(!is_explained(false, Ok(()), because));
    assert!(!is_explained(false, Err(failure(14, "is not available")), because));
    assert!(!is_explained(false, Err(Failure::broken("wrong bytes")), because));
}

#[test]
fn a_call_that_is_allowed_fails_only_for_a_reason() {
    assert!(is_explained(true, Ok(()), None));
    assert!(is_explained(true, Err(failure(14, "")), Some("a backend restarts")));
    assert!(!is_explained(true, Err(failure(14, "")), None));
    assert!(!is_explained(true, Err(failure(7, "may not push")), None));
}

#[test]
fn a_restart_explains_unavailable_and_only_while_it_lasts() {
    let away = failure(14, "backend `replicas` is not available: its connection broke off");
    let outages = Outages::new();
    let now = Instant::now();
    assert_eq!(outages.explain(&away, now), None);
    outages.begin();
    assert!(outages.explain(&away, now).is_some());
    for other in [
        failure(14, "the gate is full"),
        failure(13, &away.text),
        Failure::broken("wrong bytes"),
    ] {
        assert_eq!(outages.explain(&other, now), None, "{other:?}");
    }
    outages.end();
    assert!(outages.explain(&away, now).is_some());
    assert_eq!(outages.explain(&away, now + Duration::from_secs(60)), None);
}

#[test]
fn what_does_not_come_back_is_a_leak() {
    let mut shell = Command::new("sh")
        .args(["-c", "echo; read line; exec 8</dev/null; echo; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
    let mut look = || {
        output.read_exact(&mut [0]).unwrap();
        Vitals::of(shell.id()).unwrap()
    };
    let before = look();
    input.write_all(b"\n").unwrap();
    let after = look();
    drop(input);
    shell.wait().unwrap();
    assert_eq!(before.grown_since(&before), [""; 0]);
    let grown = after.grown_since(&before);
    assert!(
        grown.len() == 1 && grown[0].contains("descriptors that have no reason"),
        "{grown:?}"
    );
    let mut large = before.clone();
    large.resident = before.most() + 1;
    let grown = large.grown_since(&before);
    assert!(grown.len() == 1 && grown[0].contains("MiB of memory"), "{grown:?}");
    // Connections to backends may stay.
    let mut connected = after;
    connected.backends = 1;
    assert_eq!(connected.grown_since(&before), [""; 0]);
}
