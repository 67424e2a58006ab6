//! Who is there besides the authority that rules are about.

use std::collections::BTreeMap;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints,
};

use crate::harness::pki::{Authority, Credentials, build_stream, expired};

/// Who could issue a certificate, and certificates that are there already.
pub(super) struct Cast(pub(super) BTreeMap<&'static str, Credentials>);

impl Cast {
    pub(super) fn new(ca: &Authority) -> Cast {
        let leaf = ca.client_with("ci", |params| params.is_ca = IsCa::ExplicitNoCa);
        let below_leaf = leaf.issue(authority("below a client"));
        let sub = ca.own().issue(authority("sub"));
        let short = ca.own().issue(|params| {
            authority("short")(params);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        });
        let below_short = short.issue(authority("below short"));
        let mute = ca.own().issue(|params| {
            authority("mute")(params);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        });
        let late = ca.own().issue(|params| {
            authority("late")(params);
            expired(params);
        });
        let for_servers = ca.own().issue(|params| {
            authority("for servers")(params);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let limited = |name: &str, to: GeneralSubtree| {
            ca.own().issue(|params| {
                authority(name)(params);
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![to],
                    excluded_subtrees: Vec::new(),
                });
            })
        };
        let mut other = DistinguishedName::new();
        other.push(DnType::OrganizationName, "Other");
        Cast(BTreeMap::from([
            ("for servers", for_servers),
            (
                "for hosts",
                limited("for hosts", GeneralSubtree::DnsName("example.org".to_owned())),
            ),
            (
                "for other hosts",
                limited("for other hosts", GeneralSubtree::DnsName("other.example".to_owned())),
            ),
            (
                "for other mail",
                limited("for other mail", GeneralSubtree::Rfc822Name("other.example".to_owned())),
            ),
            (
                "for others",
                limited("for others", GeneralSubtree::DirectoryName(other)),
            ),
            ("dev", Authority::new("dev authority").into_own()),
            ("twin", Authority::new("test authority").into_own()),
            ("stranger", Authority::new("stranger").into_own()),
            ("own", build_stream("own")),
            ("pinned", ca.client("pinned")),
            ("revoked", ca.client("ci")),
            ("server", ca.server()),
            ("leaf", leaf),
            ("below leaf", below_leaf),
            ("sub", sub),
            ("short", short),
            ("below short", below_short),
            ("mute", mute),
            ("late", late),
        ]))
    }

    pub(super) fn of<'a>(&'a self, name: &str, ca: &'a Authority) -> &'a Credentials {
        match name {
            "ca" => ca.own(),
            name => self.0.get(name).unwrap_or_else(|| panic!("who is `{name}`?")),
        }
    }
}

fn authority(name: &str) -> impl Fn(&mut CertificateParams) {
    move |params| {
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
}
