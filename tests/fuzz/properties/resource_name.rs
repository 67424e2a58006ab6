//! Names of ByteStream.

use casgate::policy::instance::{InstanceName, InstancePattern, RESERVED};
use casgate::policy::method::ResourceKind;
use casgate::policy::resource::instance_of;
use casgate::status::Rejection;

use super::assert_can_be_sent;

/// A resource name, read as that of both kinds of methods: of an accepted one, no other reading gives another instance.
pub fn resource_name(bytes: &[u8]) -> String {
    let Ok(name) = str::from_utf8(bytes) else {
        return "not UTF-8".to_owned();
    };
    let mut outcome = String::new();
    for kind in [ResourceKind::Read, ResourceKind::Write] {
        match instance_of(name, kind) {
            Ok(instance) => {
                check(name, kind, &instance);
                outcome.push_str(if instance.as_str().is_empty() {
                    " empty"
                } else {
                    " named"
                });
            }
            Err(error) => {
                // What the text begins with tells the kind of error, without what it quotes.
                outcome.push_str(&format!(" {error:.24}"));
                assert_can_be_sent(&Rejection::Resource(error));
            }
        }
    }
    outcome
}

fn check(name: &str, kind: ResourceKind, instance: &InstanceName) {
    let rest = match instance.as_str() {
        "" => name,
        text => name.strip_prefix(text).and_then(|rest| rest.strip_prefix('/')).unwrap(),
    };
    assert_eq!(InstanceName::parse(instance.as_str()).as_ref(), Ok(instance));
    assert!(!name.chars().any(char::is_control));
    for component in instance.as_str().split('/') {
        assert!(!RESERVED.contains(&component) && component != "." && component != "..");
    }
    // Wherever a server looks for a keyword first or last, it finds the same one.
    let components: Vec<_> = rest.split('/').collect();
    let is_keyword = |component: &&&str| matches!(**component, "blobs" | "compressed-blobs" | "uploads");
    let keywords: Vec<_> = components.iter().filter(is_keyword).collect();
    match (kind, &keywords[..]) {
        (ResourceKind::Read, [one]) => assert!(**one == components[0] && **one != "uploads"),
        (ResourceKind::Write, [one, other]) => {
            assert!(**one == "uploads" && **one == components[0] && **other != "uploads" && **other == components[2]);
        }
        (kind, keywords) => panic!("{kind:?} with {keywords:?}"),
    }
    if !instance.as_str().contains('*') {
        assert!(InstancePattern::parse(instance.as_str()).unwrap().matches(instance));
    }
}
