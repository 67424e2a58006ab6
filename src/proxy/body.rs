//! The request body on its way up: read as far as the decision needs, then forwarded as it came, under the flow control
//! of both sides.
//!
//! What is small is copied together: a client may send its bytes one by one, and a backend that got them so would take the
//! connection, which others share, for an attack. A server acts on whole messages only, so that the pieces of one may wait
//! for each other. A copy also lets go of the buffer that the bytes came in, which may be much larger than they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use h2::RecvStream;

use super::announcement::Announcement;
use super::metered::Pace;
use super::outgoing::{Outgoing, SMALL as SMALLEST};
use super::prefix::{Progress, Reader, Refusal};
use super::rename::Rename;
use super::subject::{Picker, Subject};
use crate::clients::{Full, Reservation};
use crate::connection::Caller;
use crate::http2::{self, Closed};
use crate::policy::instance::InstanceName;
use crate::policy::method::{InstanceIn, Method, Requests};
use crate::policy::resource;
use crate::status::Rejection;
use crate::upstream::Body;

/// Requests up to this many bytes are kept until the answer begins, to be sent again where a backend has certainly not
/// seen them.
const REPLAY_LIMIT: usize = 64 * 1024;
/// Chunks below this size are copied together.
const SMALL: usize = 4 * 1024;
/// What is copied together is sent on from this size.
const PIECE: usize = 16 * 1024;
/// Bytes of a body that what a call takes beside it has room for: most requests are shorter.
const SHORT: u64 = 2 * 1024;

/// The body of a request.
pub(super) struct Upload {
    body: RecvStream,
    method: Method,
    reader: Reader,
    /// Changes the name, where it is another one behind the gate.
    rename: Option<Rename>,
    /// What was read and not thrown away: all of the body so far, while it can be sent again.
    kept: Vec<Bytes>,
    /// What comes behind that, still growing.
    tail: BytesMut,
    kept_bytes: usize,
    replayable: bool,
    /// How many of `kept` were sent on the present stream.
    sent: usize,
    /// Bytes taken from the client's window and not yet given back.
    owed: usize,
    /// What the call takes beside its body, and what is kept of that and not in the client's window any more.
    held: Reservation,
    /// The part of it that is no body.
    base: u64,
    /// The part of it that is body.
    in_hand: u64,
    /// What the backend has not taken.
    outgoing: Outgoing,
    /// Whether something stays in the window because no more may be kept.
    is_short: bool,
    received: u64,
    ended: bool,
    /// Looks at what goes by, for the audit log.
    picker: Option<Picker>,
    /// What must be in the audit log before the request is whole at the backend.
    announcement: Option<Announcement>,
    /// How fast it may go, where that is limited.
    pace: Option<Pace>,
    /// How long the client may send nothing at all; without it, for ever.
    patience: Option<Duration>,
}

/// How the forwarding of a body ended before the body did.
pub(super) enum Stop {
    /// The backend takes no more; its answer says why.
    BackendClosed,
    /// The call must be ended.
    Reject(Rejection),
}

impl Upload {
    /// `held` is what the call takes beside its body.
    pub(super) fn new(method: Method, body: RecvStream, caller: &Arc<Caller>, mut held: Reservation) -> Upload {
        let outgoing = Outgoing::new(caller);
        outgoing.set_least(held.split(SMALLEST as u64));
        Upload {
            outgoing,
            base: held.bytes(),
            held,
            in_hand: 0,
            is_short: false,
            ended: body.is_end_stream(),
            body,
            method,
            reader: Reader::new(method),
            rename: None,
            kept: Vec::new(),
            tail: BytesMut::new(),
            kept_bytes: 0,
            replayable: true,
            sent: 0,
            owed: 0,
            received: 0,
            picker: None,
            announcement: None,
            pace: None,
            patience: None,
        }
    }

    /// Gives the client up when nothing at all comes for so long though it is waited for.
    pub(super) fn wait_at_most(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// Has somebody look at what goes by.
    pub(super) fn pick(&mut self, picker: Picker) {
        self.picker = Some(picker);
    }

    /// Has the audit log told of the call before its last byte is forwarded.
    pub(super) fn announce(&mut self, announcement: Announcement) {
        self.announcement = Some(announcement);
    }

    /// Waits until the audit log tells of the call, with all that was seen of its subject.
    ///
    /// # Errors
    /// Where it does not, and nothing may be changed without.
    pub(super) async fn announced(&mut self) -> Result<(), Rejection> {
        let Some(announcement) = self.announcement.take() else {
            return Ok(());
        };
        announcement.make(self.picker.as_ref().map(Picker::subject)).await
    }

    /// Whether what is kept may make the request whole, or a part of it that a backend acts on.
    fn may_be_whole(&self) -> bool {
        self.ended || self.reader.is_between_messages() || self.method.requests() == Requests::Stream
    }

    /// Forwards no faster than this from now on.
    pub(super) fn pace(&mut self, pace: Pace) {
        self.pace = Some(pace);
    }

    /// What was seen of the call's subject.
    pub(super) fn subject(&mut self) -> Subject {
        self.picker.take().map(Picker::finish).unwrap_or_default()
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Reads until the reader has what the decision needs.
    pub(super) async fn settle(&mut self) -> Result<&mut Reader, Rejection> {
        if self.ended {
            // The headers were all of the request.
            self.reader.finish()?;
        }
        while let Some((chunk, progress)) = self.next().await? {
            // Held bytes are bounded by the reader; their window is given back so that many calls whose messages are
            // under way can't use up that of the connection.
            self.keep(chunk)?;
            self.hold(self.owed);
            if progress == Progress::Settled {
                break;
            }
        }
        Ok(&mut self.reader)
    }

    /// Has the request name the instance otherwise, from its begin. To be called when it is settled, and before anything is
    /// forwarded.
    pub(super) fn rename(&mut self, instance: &InstanceName) -> Result<(), Rejection> {
        let (name, number) = match self.method.instance_in() {
            InstanceIn::Field(number) => (instance.to_string(), number),
            // As in the reader.
            InstanceIn::ResourceName(_) => (resource::with_instance(self.reader.name()?, instance), 1),
            InstanceIn::Unknown => return Ok(()),
        };
        self.flush();
        let read = Bytes::from(self.kept.concat());
        self.kept.clear();
        self.kept_bytes = 0;
        self.reader = Reader::with_cuts(self.method);
        self.reader.push(&read)?;
        self.rename = Some(Rename::to(&name, number));
        self.keep(read)
    }

    /// Reads the only message of the call to its end, at most `limit` bytes of it; gives it with its prefix.
    pub(super) async fn whole(&mut self, limit: usize) -> Result<Bytes, Rejection> {
        while let Some((chunk, _)) = self.next().await? {
            self.keep(chunk)?;
            self.hold(self.owed);
            if self.kept_bytes > limit {
                return Err(Rejection::Unreadable(Refusal::TooLong(
                    "a request of this kind is short",
                )));
            }
        }
        self.flush();
        Ok(Bytes::from(self.kept.concat()))
    }

    /// The name that the first message has; for a reader that has settled.
    pub(super) fn name(&self) -> Result<&str, Refusal> {
        self.reader.name()
    }

    /// Takes the next piece of the request for good, from its begin on and without keeping any; `None` at its end.
    pub(super) async fn pass(&mut self) -> Result<Option<Bytes>, Rejection> {
        self.flush();
        if !self.kept.is_empty() {
            return Ok(Some(self.kept.remove(0)));
        }
        let chunk = self.next().await?.map(|(chunk, _)| chunk);
        self.release(self.owed);
        Ok(chunk)
    }

    /// Whether the whole request so far can be sent again, for [`Upload::forward`] on another stream.
    pub(super) fn rewind(&mut self) -> bool {
        self.sent = 0;
        self.replayable
    }

    /// Whether there is nothing to send, so that the request headers can end the stream.
    pub(super) fn is_empty(&self) -> bool {
        self.ended && self.received == 0
    }

    /// Forwards what is kept and all that comes, up to the end of the body. Once `answer_begun`, nothing is kept for
    /// another try.
    pub(super) async fn forward(&mut self, mut to: Body<'_>, answer_begun: &AtomicBool) -> Result<(), Stop> {
        loop {
            self.replayable &= !answer_begun.load(Ordering::Relaxed);
            if self.announcement.is_some() && self.may_be_whole() {
                self.announced().await.map_err(Stop::Reject)?;
            }
            // A backend that gets small pieces is better than a client that waits for ever.
            if self.ended || self.reader.is_between_messages() || self.is_short {
                self.flush();
            }
            while let Some(chunk) = self.kept.get(self.sent).cloned() {
                let is_last = self.ended && self.sent + 1 == self.kept.len();
                let is_first = self.sent == 0 && self.replayable;
                self.sent += 1;
                if let Some(pace) = &mut self.pace {
                    pace.pass(chunk.len()).await;
                }
                let sent = send(&mut self.outgoing, &mut to, chunk, is_first, is_last).await;
                sent.map_err(|Closed| Stop::BackendClosed)?;
                // What was sent and is not reserved can't stay to be sent again.
                self.replayable &= !self.is_short;
                self.is_short = false;
                self.release(self.owed);
                if is_last {
                    return Ok(());
                }
            }
            self.trim();
            if self.ended {
                return to.send(Bytes::new(), true).await.map_err(|Closed| Stop::BackendClosed);
            }
            if let Some((chunk, _)) = self.next().await.map_err(Stop::Reject)? {
                self.keep(chunk).map_err(Stop::Reject)?;
                self.keep_what_is_there().map_err(Stop::Reject)?;
            }
        }
    }

    /// Reads on while small chunks are there already.
    fn keep_what_is_there(&mut self) -> Result<(), Rejection> {
        while !self.tail.is_empty() && !self.ended {
            match self.read().now_or_never() {
                Some(Ok(Some((chunk, _)))) => self.keep(chunk)?,
                Some(Ok(None)) | None => break,
                Some(Err(rejection)) => return Err(rejection),
            }
        }
        Ok(())
    }

    /// The next chunk, waited for as long as a client may be silent; `None` at the end of the body.
    async fn next(&mut self) -> Result<Option<(Bytes, Progress)>, Rejection> {
        let patience = self.patience;
        let read = self.read();
        let read = http2::within(patience, read).await;
        // It may be that the client could not send.
        let silent = if self.is_short {
            Rejection::Memory
        } else {
            Rejection::Silent
        };
        read.ok_or(silent)?
    }

    /// The next chunk, looked at by the reader; `None` at the end of the body.
    async fn read(&mut self) -> Result<Option<(Bytes, Progress)>, Rejection> {
        if self.ended {
            return Ok(None);
        }
        match self.body.data().await {
            Some(Ok(chunk)) => {
                self.owed += chunk.len();
                self.received += chunk.len() as u64;
                let progress = self.reader.push(&chunk)?;
                if let Some(picker) = &mut self.picker {
                    let before = picker.bytes();
                    picker.push(&chunk)?;
                    if picker.bytes() > before {
                        self.held.grow_to(self.reserved(0))?;
                    }
                }
                if self.body.is_end_stream() {
                    self.finish()?;
                }
                Ok(Some((chunk, progress)))
            }
            Some(Err(_)) => Err(Rejection::Cancelled),
            None => {
                // h2 drops pseudo-headers of trailers, with which they would be malformed (RFC 9113, 8.1): none are taken.
                if let Ok(Some(_)) = self.body.trailers().await {
                    return Err(Rejection::Unreadable(Refusal::Trailers));
                }
                self.finish()?;
                Ok(None)
            }
        }
    }

    fn finish(&mut self) -> Result<(), Rejection> {
        self.ended = true;
        Ok(self.reader.finish()?)
    }

    fn keep(&mut self, chunk: Bytes) -> Result<(), Rejection> {
        let Some(mut rename) = self.rename.take() else {
            self.keep_as_it_is(chunk);
            return Ok(());
        };
        let bytes = chunk.len();
        let mut pieces = Vec::new();
        let renamed = rename.push(chunk, &mut self.reader, |piece| pieces.push(piece));
        pieces.into_iter().for_each(|piece| self.keep_as_it_is(piece));
        if rename.holds() {
            // As with small pieces.
            self.hold(bytes);
        }
        self.rename = Some(rename);
        Ok(renamed?)
    }

    fn keep_as_it_is(&mut self, chunk: Bytes) {
        self.kept_bytes += chunk.len();
        let stays = self.replayable && self.kept_bytes <= REPLAY_LIMIT;
        self.replayable = stays;
        if stays || chunk.len() < SMALL {
            self.tail.extend_from_slice(&chunk);
            // Its window is given back, so that pieces of messages that wait can't use up that of the connection.
            self.hold(chunk.len());
            if self.tail.len() >= PIECE {
                self.flush();
            }
        } else {
            self.flush();
            self.kept.push(chunk);
        }
    }

    /// Ends the piece that grows.
    fn flush(&mut self) {
        if !self.tail.is_empty() {
            self.kept.push(self.tail.split().freeze());
        }
    }

    /// Drops what was sent, where it will not be needed again.
    fn trim(&mut self) {
        if !self.replayable {
            self.kept.drain(..self.sent);
            self.sent = 0;
            let held = self.rename.as_ref().map_or(0, Rename::held);
            let left = self.kept.iter().map(Bytes::len).sum::<usize>() + self.tail.len() + held;
            self.in_hand = self.in_hand.min(left as u64);
            self.held.shrink_to(self.reserved(0));
        }
    }

    /// Takes bytes that are kept out of the client's window, where they can be reserved instead.
    fn hold(&mut self, bytes: usize) {
        let bytes = bytes.min(self.owed);
        match self.held.grow_to(self.reserved(bytes as u64)) {
            Ok(()) => {
                self.in_hand += bytes as u64;
                self.release(bytes);
            }
            Err(Full) => self.is_short = true,
        }
    }

    /// What is to be reserved, with so many bytes of body more.
    fn reserved(&self, more: u64) -> u64 {
        let kept = self.in_hand + more + self.reader.kept() as u64;
        let picked = self.picker.as_ref().map_or(0, Picker::bytes);
        // Buffers are larger than what is in them.
        self.base + (kept + picked + kept / 8).saturating_sub(SHORT)
    }

    fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.owed);
        self.owed -= bytes;
        release(&mut self.body, bytes);
    }
}

/// Hands a chunk to HTTP/2, which keeps it until the backend takes it. What can't be reserved stays in the client's window.
async fn send(
    outgoing: &mut Outgoing,
    to: &mut Body<'_>,
    mut chunk: Bytes,
    is_first: bool,
    is_last: bool,
) -> Result<(), Closed> {
    let mut is_first = is_first;
    while !chunk.is_empty() {
        let Some(piece) = outgoing.piece(&mut chunk) else {
            outgoing.gone().await;
            continue;
        };
        let is_last = is_last && chunk.is_empty();
        if std::mem::take(&mut is_first) {
            to.send_first(piece, is_last).await?;
        } else {
            to.send(piece, is_last).await?;
        }
    }
    Ok(())
}

/// Gives back window of a stream for bytes that were taken care of.
pub(super) fn release(body: &mut RecvStream, bytes: usize) {
    // Fails only when the stream is gone, and then there is no window to give back.
    let _gone = body.flow_control().release_capacity(bytes);
}
