//! Has the messages of a request name another instance or resource, while they stream by. Sans-I/O.
//!
//! Only the field with the name is replaced, and the length in front of the message; everything else, fields that nobody
//! knows included, stays byte for byte as it came.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::prefix::{Cut, Reader, Refusal};

/// What replaces the name in the messages of one request.
#[derive(Debug)]
pub(super) struct Rename {
    /// The field with the new name; nothing where that is empty.
    field: Bytes,
    /// Whether no message has begun yet: the first one has a name, also where the field is not there.
    at_first: bool,
    place: Place,
    /// Bytes of a message of which it is not known yet where its name stands.
    held: BytesMut,
}

#[derive(Debug)]
enum Place {
    /// Before the prefix of a message.
    Head,
    /// Within a message, so many bytes behind its begin.
    Body { at: u64, cut: Cut },
}

impl Rename {
    /// To this name, in the field of this number.
    pub(super) fn to(name: &str, number: u32) -> Rename {
        let mut field = BytesMut::new();
        if !name.is_empty() {
            prost::encoding::string::encode(number, &name.to_owned(), &mut field);
        }
        Rename {
            field: field.freeze(),
            at_first: true,
            place: Place::Head,
            held: BytesMut::new(),
        }
    }

    /// How many bytes wait for more.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether bytes wait for more.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the next bytes of the request, which the reader has taken, and gives what goes on instead.
    ///
    /// # Errors
    /// When the message would be longer than a prefix can say.
    pub(super) fn push(
        &mut self,
        chunk: Bytes,
        reader: &mut Reader,
        mut give: impl FnMut(Bytes),
    ) -> Result<(), Refusal> {
        let mut bytes = if self.held.is_empty() {
            chunk
        } else {
            self.held.extend_from_slice(&chunk);
            self.held.split().freeze()
        };
        loop {
            match &mut self.place {
                Place::Head => {
                    let Some(cut) = reader.next_cut() else {
                        self.held.extend_from_slice(&bytes);
                        return Ok(());
                    };
                    // The reader knows the message, so its prefix has come.
                    bytes.advance(bytes.len().min(5));
                    give(self.head(&cut)?);
                    self.at_first = false;
                    self.place = Place::Body { at: 0, cut };
                }
                Place::Body { at, cut } => {
                    let left = u64::from(cut.length) - *at;
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    pass(bytes.split_to(take), *at, cut, &mut give);
                    *at += take as u64;
                    if *at < u64::from(cut.length) {
                        return Ok(());
                    }
                    self.place = Place::Head;
                }
            }
        }
    }

    /// The prefix of a message, and the new name.
    fn head(&self, cut: &Cut) -> Result<Bytes, Refusal> {
        let name = if self.at_first || cut.name.is_some() {
            &self.field[..]
        } else {
            &[]
        };
        let removed = cut.name.as_ref().map_or(0, |name| name.end - name.start);
        let length = u64::from(cut.length) - removed + name.len() as u64;
        let length = u32::try_from(length).map_err(|_| Refusal::TooLong("a message has 4 GiB"))?;
        let mut head = BytesMut::with_capacity(5 + name.len());
        head.put_u8(0);
        head.put_u32(length);
        head.put_slice(name);
        Ok(head.freeze())
    }
}

/// Gives bytes of a message, from `at` on, without its old name.
fn pass(bytes: Bytes, at: u64, cut: &Cut, give: &mut impl FnMut(Bytes)) {
    let old = cut.name.clone().unwrap_or(0..0);
    let index = |place: u64| {
        usize::try_from(place.saturating_sub(at))
            .unwrap_or(usize::MAX)
            .min(bytes.len())
    };
    let (before, behind) = (bytes.slice(..index(old.start)), bytes.slice(index(old.end)..));
    for piece in [before, behind] {
        if !piece.is_empty() {
            give(piece);
        }
    }
}

#[cfg(test)]
mod tests;
