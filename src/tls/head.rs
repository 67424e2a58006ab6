//! What is seen of a certificate without a look at most of it: a stranger may put ten thousand names into one.

use super::der::{BOOLEAN, Elements, INTEGER, NotDer, OCTET_STRING, OID, SEQUENCE, Signed};

/// Parts of a certificate (RFC 5280, 4.1.2), each as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) signed: Signed<'a>,
    /// The content of the INTEGER.
    pub(super) serial: &'a [u8],
    /// The names in DER.
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    /// SubjectPublicKeyInfo.
    pub(super) key: &'a [u8],
    /// The identifier of the key (RFC 5280, 4.2.1.2).
    pub(super) key_id: Option<&'a [u8]>,
    /// The identifier of the key that signed it, as it says so itself (RFC 5280, 4.2.1.1).
    pub(super) issuer_key_id: Option<&'a [u8]>,
}

const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x0e];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];

impl<'a> Head<'a> {
    pub(super) fn read(der: &'a [u8]) -> Result<Head<'a>, NotDer> {
        let signed = Signed::read(der)?;
        let mut parts = Elements::new(signed.tbs.content);
        parts.optional(&[0xa0])?;
        let serial = parts.expect(&[INTEGER])?.content;
        parts.expect(&[SEQUENCE])?;
        let issuer = parts.expect(&[SEQUENCE])?.whole;
        parts.expect(&[SEQUENCE])?;
        let subject = parts.expect(&[SEQUENCE])?.whole;
        let key = parts.expect(&[SEQUENCE])?.whole;
        let mut head = Head {
            signed,
            serial,
            issuer,
            subject,
            key,
            key_id: None,
            issuer_key_id: None,
        };
        while let Some(part) = parts.next()? {
            if part.tag == 0xa3 {
                head.read_extensions(Elements::new(part.content).expect(&[SEQUENCE])?.content)?;
            }
        }
        Ok(head)
    }

    fn read_extensions(&mut self, extensions: &'a [u8]) -> Result<(), NotDer> {
        let mut extensions = Elements::new(extensions);
        while let Some(extension) = extensions.next()? {
            let mut parts = Elements::new(extension.content);
            let id = parts.expect(&[OID])?.content;
            parts.optional(&[BOOLEAN])?;
            let mut value = Elements::new(parts.expect(&[OCTET_STRING])?.content);
            // They only say which key is likely: what can't be read says nothing.
            if id == SUBJECT_KEY_IDENTIFIER {
                self.key_id = value.expect(&[OCTET_STRING]).ok().map(|id| id.content);
            } else if id == AUTHORITY_KEY_IDENTIFIER {
                let id = value
                    .expect(&[SEQUENCE])
                    .and_then(|id| Elements::new(id.content).optional(&[0x80]));
                self.issuer_key_id = id.ok().flatten().map(|id| id.content);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rcgen::{CertificateParams, Issuer, KeyPair};

    use super::*;
    use crate::tls::identity;

    #[test]
    fn it_is_what_the_parser_of_all_of_it_reads() {
        let keys = [(); 2].map(|()| KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(["example.org".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_params(&params, &keys[0]);
        let der = params.signed_by(&keys[1], &issuer).unwrap().der().clone();
        let (head, all) = (Head::read(&der).unwrap(), identity::parse(&der).unwrap());
        assert_eq!(head.serial, all.raw_serial());
        assert_eq!(head.issuer, all.issuer().as_raw());
        assert_eq!(head.subject, all.subject().as_raw());
        assert_eq!(head.key, all.public_key().raw);
        assert_eq!(head.key_id, identity::key_id(&all));
        assert!(head.key_id.is_some());
        assert_eq!(head.issuer_key_id, identity::issuer_key_id(&all));
        assert!(head.issuer_key_id.is_some());
        for end in 0..der.len() {
            assert_eq!(Head::read(&der[..end]), Err(NotDer));
        }
    }
}
