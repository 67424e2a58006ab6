//! The files of `tests/cases/adversarial`, one for each family of attacks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::certificates::Certificate;

/// The families whose cases are calls of callers with honest certificates.
pub(super) const CALLS: [&str; 7] = [
    "paths",
    "pseudo-headers",
    "framing",
    "first-messages",
    "resource-names",
    "later-messages",
    "spoofed-headers",
];

/// The family whose cases are certificates.
pub(super) const CERTIFICATES: &str = "certificates";

/// How little all families must have, and each of them.
const LEAST: (usize, usize) = (150, 10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File<Case> {
    cases: Vec<Case>,
}

/// One call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Call {
    pub(super) name: String,
    /// The commonName of the caller.
    #[serde(rename = "as", default = "root")]
    pub(super) who: String,
    /// By the name of the method; the path may be another one.
    #[serde(default = "read")]
    pub(super) method: String,
    /// Header fields that stand instead of the usual ones of the same name.
    #[serde(default)]
    pub(super) headers: Vec<(String, String)>,
    /// Usual header fields that are left out.
    #[serde(default)]
    pub(super) without: Vec<String>,
    /// The whole header block, part by part.
    pub(super) block: Option<Vec<String>>,
    /// Messages, each with its prefix; where there is neither this nor `body`, an honest one.
    #[serde(default)]
    pub(super) messages: Vec<Vec<String>>,
    /// All of the body as it is.
    pub(super) body: Option<Vec<String>>,
    /// Size of the DATA frames.
    pub(super) pieces: Option<usize>,
    /// What is sent once the backend has all of the rest: bodies.
    #[serde(default)]
    pub(super) later: Vec<Vec<String>>,
    /// Every frame, instead of all that.
    #[serde(default)]
    pub(super) frames: Vec<FrameText>,
    pub(super) answer: String,
    #[serde(default)]
    pub(super) backend: Sees,
}

/// A frame that is written out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FrameText {
    pub(super) kind: String,
    #[serde(default)]
    pub(super) flags: Vec<String>,
    pub(super) stream: Option<u32>,
    /// Bytes before the rest.
    #[serde(default)]
    pub(super) before: Vec<String>,
    #[serde(default)]
    pub(super) block: Vec<String>,
    pub(super) body: Option<Vec<String>>,
    /// Only these bytes of the payload.
    pub(super) cut: Option<[usize; 2]>,
    /// A length that is not that of the payload.
    pub(super) length: Option<u32>,
    pub(super) times: Option<usize>,
}

/// What the backend may see of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Sees {
    /// Nothing at all.
    #[default]
    Nothing,
    /// The call as it was sent: an honest one, which shows that the others are refused for what is odd about them.
    Call,
    /// The call, but none of the header fields that the case adds.
    Stripped,
    /// A call that is cut off: what came before, and never a whole message of what comes later.
    Cut,
    /// A call whose end never comes: a reset does.
    Unended,
}

/// One handshake, and a call after it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Handshake {
    pub(super) name: String,
    pub(super) certificate: Certificate,
    pub(super) answer: String,
}

fn root() -> String {
    "root".to_owned()
}

fn read() -> String {
    "Read".to_owned()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/adversarial")
}

/// The cases of a family. A key that is not known is an error, so that no case is weaker than it looks.
pub(super) fn load<Case: DeserializeOwned>(family: &str) -> Vec<Case> {
    let path = folder().join(format!("{family}.toml"));
    let text = std::fs::read_to_string(&path).unwrap();
    let file: File<Case> = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.cases
}

#[test]
fn there_are_many_cases_of_every_family_and_each_family_has_honest_ones() {
    let mut files: BTreeSet<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let (mut attacks, mut names) = (0, BTreeSet::new());
    let mut count = |family: &str, cases: Vec<(String, String, bool)>| {
        let odd = cases.iter().filter(|(_, _, is_honest)| !is_honest).count();
        assert!(odd >= LEAST.1, "{family} has {odd} cases");
        assert!(
            cases.len() >= odd + 2,
            "{family} has {} honest cases",
            cases.len() - odd
        );
        for (name, what, _) in cases {
            // The same thing under another name would be no case of its own.
            assert!(
                names.insert((family.to_owned(), what)),
                "{family}: `{name}` is there already"
            );
            assert!(
                names.insert((family.to_owned(), name.clone())),
                "{family}: two are called `{name}`"
            );
        }
        assert!(files.remove(family));
        println!("{family}: {odd} attacks");
        attacks += odd;
    };
    for family in CALLS {
        let without_name = |call: &Call| format!("{call:?}").replacen(&format!("{:?}", call.name), "", 1);
        let cases = load::<Call>(family).into_iter();
        count(
            family,
            cases
                .map(|call| (call.name.clone(), without_name(&call), call.backend == Sees::Call))
                .collect(),
        );
    }
    let cases = load::<Handshake>(CERTIFICATES).into_iter();
    count(
        CERTIFICATES,
        cases
            .map(|case| (case.name, format!("{:?}", case.certificate), case.answer == "grpc 0"))
            .collect(),
    );
    assert!(files.is_empty(), "nobody runs {files:?}");
    assert!(attacks >= LEAST.0, "{attacks} attacks");
    println!("{attacks} attacks in all");
}

#[test]
fn a_key_that_is_not_known_is_an_error() {
    let good = "name = \"x\"\nanswer = \"grpc 0\"\n";
    assert!(toml::from_str::<Call>(good).is_ok());
    for typo in [
        "header = []",
        "frames = [{ kind = \"DATA\", flag = [] }]",
        "backend = \"nothing at all\"",
    ] {
        assert!(toml::from_str::<Call>(&format!("{good}{typo}")).is_err(), "{typo}");
    }
    let certificate = |inside: &str| toml::from_str::<Handshake>(&format!("{good}certificate = {{ {inside} }}"));
    assert!(certificate("").is_ok());
    assert!(certificate("sans = []").is_err());
}
