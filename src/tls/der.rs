//! Elements of DER (X.690) one after the other, without a copy and without a tree: revocation lists have hundreds of
//! thousands of them.

/// What is left of a sequence's content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements<'a>(&'a [u8]);

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// With its tag and its length.
    pub(super) whole: &'a [u8],
}

/// What certificates and revocation lists have in common (RFC 5280, 4.1 and 5.1): something that is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signed<'a> {
    /// What the signature is over, and what it says.
    pub(super) tbs: Element<'a>,
    /// The content of the AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

/// Bytes that are no DER, or not the element that must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotDer;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

impl<'a> Elements<'a> {
    pub(super) fn new(content: &'a [u8]) -> Elements<'a> {
        Elements(content)
    }

    /// The next element, unless this is the end.
    pub(super) fn next(&mut self) -> Result<Option<Element<'a>>, NotDer> {
        let [tag, length, ..] = *self.0 else {
            return if self.0.is_empty() { Ok(None) } else { Err(NotDer) };
        };
        // X.690, 8.1.2.4: tags of several bytes, which nothing here has.
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        // X.690, 10.1: lengths are definite and in as few bytes as they fit into.
        let (head, length) = match length {
            0..=0x7f => (2, usize::from(length)),
            0x81..=0x84 => {
                let bytes = usize::from(length & 0x7f);
                let digits = self.0.get(2..2 + bytes).ok_or(NotDer)?;
                let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
                let is_shortest = length >= 0x80 && digits.first() != Some(&0);
                (2 + bytes, if is_shortest { length } else { return Err(NotDer) })
            }
            _ => return Err(NotDer),
        };
        let end = head + length;
        let (content, whole) = (self.0.get(head..end), self.0.get(..end));
        let (Some(content), Some(whole), Some(rest)) = (content, whole, self.0.get(end..)) else {
            return Err(NotDer);
        };
        self.0 = rest;
        Ok(Some(Element { tag, content, whole }))
    }

    /// The next element, which must be there, with one of these tags.
    pub(super) fn expect(&mut self, tags: &[u8]) -> Result<Element<'a>, NotDer> {
        let element = self.next()?.ok_or(NotDer)?;
        if tags.contains(&element.tag) {
            Ok(element)
        } else {
            Err(NotDer)
        }
    }

    /// The next element, where it has one of these tags.
    pub(super) fn optional(&mut self, tags: &[u8]) -> Result<Option<Element<'a>>, NotDer> {
        match self.0.first() {
            Some(tag) if tags.contains(tag) => self.next(),
            _ => Ok(None),
        }
    }

    /// That nothing is left.
    pub(super) fn end(self) -> Result<(), NotDer> {
        if self.0.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

impl<'a> Signed<'a> {
    /// Reads what is signed; nothing may follow it.
    pub(super) fn read(der: &'a [u8]) -> Result<Signed<'a>, NotDer> {
        let mut outer = Elements::new(der);
        let mut parts = Elements::new(outer.expect(&[SEQUENCE])?.content);
        outer.end()?;
        let tbs = parts.expect(&[SEQUENCE])?;
        let algorithm = parts.expect(&[SEQUENCE])?.content;
        // No signature ends within a byte.
        let [0, signature @ ..] = parts.expect(&[BIT_STRING])?.content else {
            return Err(NotDer);
        };
        parts.end()?;
        Ok(Signed {
            tbs,
            algorithm,
            signature,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn elements_come_one_after_the_other_and_end_where_they_say() {
        let long = [&[OCTET_STRING, 0x81, 0x80][..], &[7; 0x80]].concat();
        let bytes = [&[INTEGER, 1, 5][..], &long, &[SEQUENCE, 0]].concat();
        let mut elements = Elements::new(&bytes);
        assert_eq!(elements.next().unwrap().unwrap().content, [5]);
        assert_eq!(elements.optional(&[INTEGER]), Ok(None));
        assert_eq!(elements.expect(&[OCTET_STRING]).unwrap().whole, long);
        assert_eq!(elements.end(), Err(NotDer));
        assert!(elements.next().unwrap().unwrap().content.is_empty());
        assert_eq!(elements.next(), Ok(None));
        assert_eq!(elements.end(), Ok(()));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_no_der() {
        for bad in [
            &[INTEGER][..],
            &[INTEGER, 2, 0],
            &[0x1f, 1, 1],
            &[SEQUENCE, 0x80, 0, 0],
            &[OCTET_STRING, 0x81, 1, 1],
            &[OCTET_STRING, 0x82, 0, 0x80],
            &[OCTET_STRING, 0x85, 0, 0, 0, 0, 0],
            &[OCTET_STRING, 0x84, 0xff, 0xff, 0xff, 0xff, 0],
        ] {
            assert_eq!(Elements::new(bad).next(), Err(NotDer), "{bad:?}");
        }
    }
}
