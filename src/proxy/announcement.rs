//! What the audit log tells of a call before the call is whole at its backend.

use std::sync::Arc;

use super::subject::Subject;
use crate::audit::{Event, Line, Place};
use crate::status::Rejection;

/// Digests and names in one line; more are in further lines of the same call.
const A_LINE: usize = 1024;

/// The lines that begin a call, but for what it names.
#[derive(Debug)]
pub(super) struct Announcement {
    place: Arc<Place>,
    line: Line,
}

impl Announcement {
    /// Of a call whose lines go to this place. `line` has all that is known without its messages.
    pub(super) fn new(place: Arc<Place>, line: Line) -> Announcement {
        Announcement { place, line }
    }

    /// Writes it, and waits where the log has to have it first.
    ///
    /// # Errors
    /// Where it has not.
    pub(super) async fn make(self, subject: Option<&Subject>) -> Result<(), Rejection> {
        let Announcement { place, line } = self;
        Ok(place.begin(&lines(line, subject)).await?)
    }
}

fn lines(line: Line, subject: Option<&Subject>) -> Vec<Line> {
    let first = Line {
        event: Event::Begin,
        time: crate::audit::now(),
        ..line
    };
    let Some(subject) = subject else {
        return vec![first];
    };
    let mut digests = subject.digests.chunks(A_LINE).peekable();
    let mut uris = subject.uris.chunks(A_LINE).peekable();
    let names = subject.names.clone();
    let mut lines = Vec::new();
    while lines.is_empty() || digests.peek().is_some() || uris.peek().is_some() {
        lines.push(Line {
            digests: digests.next().map(super::subject::digest_names).unwrap_or_default(),
            uris: uris.next().unwrap_or_default().to_vec(),
            names: names.clone(),
            ..first.clone()
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use bazel_remote_apis::build::bazel::remote::execution::v2::Digest;

    use super::*;

    #[test]
    fn nothing_is_left_out_of_many() {
        let digests = (0..2500).map(|size_bytes| Digest {
            hash: "a".to_owned(),
            size_bytes,
        });
        let subject = Subject {
            digests: digests.collect(),
            uris: vec!["urn:x".to_owned()],
            names: Vec::new(),
        };
        let line = Line {
            call: "7".to_owned(),
            ..Line::default()
        };
        let lines = lines(line.clone(), Some(&subject));
        assert_eq!(
            lines.iter().map(|line| line.digests.len()).collect::<Vec<_>>(),
            [1024, 1024, 452]
        );
        assert_eq!(lines.iter().flat_map(|line| &line.uris).collect::<Vec<_>>(), ["urn:x"]);
        assert!(lines.iter().all(|line| line.call == "7" && line.event == Event::Begin));
        assert_eq!(lines[2].digests[451], "a/2499");
        assert_eq!(super::lines(line, None).len(), 1);
    }
}
