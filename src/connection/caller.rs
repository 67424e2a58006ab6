//! Who is at the other end, and what the running configuration gives to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::{Notify, watch};

use super::budget::Budget;
use super::meter::Meter;
use super::party::Member;
use super::resets::Resets;
use super::watches::Watches;
use super::window::Need;
use crate::clients::Purse;
use crate::forward::Headers;
use crate::live::{Live, Shared, now};
use crate::metrics::Calls;
use crate::policy::identity::Identity;
use crate::policy::pattern::Issuers;
use crate::policy::{Permit, RuleId, Standing};
use crate::route::BackendId;
use crate::snapshot::listen::ListenerId;
use crate::tls::identity;
use crate::tls::verifier::Accepted;

/// Bytes that a connection may make the gate keep of calls that are denied and answered kindly: one of the largest batches or
/// two of the largest action results at once, or thousands of usual ones. What is beyond it is told its denial.
const MOST_KEPT: usize = 8 << 20;

/// The other end of a connection whose handshake was verified.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// The identity as access lines name it.
    pub label: String,
    /// From where.
    pub address: SocketAddr,
    /// Where it came in.
    pub listener: ListenerId,
    chain: Vec<CertificateDer<'static>>,
}

/// A peer, and what it may do.
#[derive(Debug)]
pub struct Caller {
    /// The peer.
    pub peer: Peer,
    /// The thread that serves it.
    pub worker: usize,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// What is kept of its calls that are denied and answered kindly.
    pub kept: Budget,
    /// What is kept for its calls.
    pub purse: Arc<Purse>,
    /// Its watches of the health.
    pub watches: Watches,
    /// Whose connection it is, of the several that one may have.
    pub member: Member,
    need: AtomicU8,
    /// Whether its client does not take what was written.
    is_behind: AtomicBool,
    /// Tells of a new need for a window.
    pub(super) hurry: Notify,
    view: Mutex<Arc<View>>,
    rechecks: watch::Sender<u64>,
    resets: Resets,
}

/// What a configuration gives to a peer: found once for a connection and a configuration.
#[derive(Debug)]
pub struct View {
    /// The configuration.
    pub live: Arc<Live>,
    /// The rules that match.
    pub standing: Standing,
    /// What the peer has taken, by rules that limit that.
    meters: Vec<(RuleId, Arc<Meter>)>,
    /// What backends are told of the peer, for each that is told anything.
    forwarded: Vec<(BackendId, Headers)>,
    /// Why the certificate is not accepted any more.
    pub withdrawn: Option<String>,
    /// Last second in which all of this holds: then the verifier is asked again.
    until: i64,
    /// Last second in which the certificate is accepted.
    end: i64,
}

impl Peer {
    /// The peer with the chain that it showed, leaf first; anonymous when empty.
    ///
    /// # Errors
    /// When the leaf can't be read, which the verifier has ruled out.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        address: SocketAddr,
        listener: ListenerId,
    ) -> Result<Peer, identity::NotX509> {
        let identity = match chain.first() {
            Some(leaf) => Identity::Certificate(Box::new(identity::read(leaf)?)),
            None => Identity::Anonymous,
        };
        Ok(Peer {
            label: identity.label(),
            identity,
            address,
            listener,
            chain,
        })
    }
}

impl Caller {
    pub(super) fn new(shared: Arc<Shared>, worker: usize, peer: Peer) -> Caller {
        let member = shared.parties.join(&peer);
        let purse = member.party().account().purse();
        let view = Mutex::new(Arc::new(View::new(shared.live(), &peer, &member)));
        Caller {
            peer,
            worker,
            shared,
            kept: Budget::new(MOST_KEPT, &purse),
            purse,
            watches: Watches::default(),
            member,
            need: AtomicU8::new(Need::Nothing as u8),
            is_behind: AtomicBool::new(false),
            hurry: Notify::new(),
            view,
            rechecks: watch::Sender::new(0),
            resets: Resets::new(),
        }
    }

    /// Where its thread counts calls.
    pub fn calls(&self) -> &Calls {
        self.shared.metrics.calls(self.worker)
    }

    /// What the configuration that runs now gives to the peer.
    pub fn view(&self) -> Arc<View> {
        let mut view = self.view.lock();
        if !self.shared.is_current(&view.live) || view.until < now() {
            *view = Arc::new(View::new(self.shared.live(), &self.peer, &self.member));
        }
        Arc::clone(&view)
    }

    /// Has the connection take as much as an allowed call needs: at once for an upload, and otherwise when it has something
    /// else to do.
    pub fn make_room(&self, permit: &Permit) {
        let need = Need::of(permit) as u8;
        if self.need.load(Ordering::Relaxed) < need
            && self.need.fetch_max(need, Ordering::Relaxed) < need
            && need == Need::Uploads as u8
        {
            self.hurry.notify_one();
        }
    }

    /// What its calls so far need.
    pub(super) fn need(&self) -> Need {
        let needs = [Need::Uploads, Need::Requests];
        let need = self.need.load(Ordering::Relaxed);
        needs.into_iter().find(|known| *known as u8 == need).unwrap_or_default()
    }

    /// Whether its client does not take what was written, so that what is written now has to wait.
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Says whether it is.
    pub(super) fn set_behind(&self, is_behind: bool) {
        if self.is_behind() != is_behind {
            self.is_behind.store(is_behind, Ordering::Relaxed);
        }
    }

    /// Tells the calls under way to ask again whether they may go on.
    pub(super) fn recheck(&self) {
        self.rechecks.send_modify(|rechecks| *rechecks += 1);
    }

    /// Changes when a call under way must ask again.
    pub fn rechecks(&self) -> watch::Receiver<u64> {
        self.rechecks.subscribe()
    }

    /// Counts a call that the client has reset before its answer was complete.
    pub fn count_reset(&self) {
        self.resets.count(&self.view().live.snapshot.limits);
    }

    /// Ends when the client has reset too many.
    pub(super) async fn resets_too_many(&self) {
        self.resets.too_many().await;
    }

    /// Ends once the certificate has expired, or what it needs to be accepted: authorities above it, and their revocation
    /// lists. That is by the clock of the machine, which may be set in between.
    pub(super) async fn until_expired(&self) {
        let Identity::Certificate(certificate) = &self.peer.identity else {
            return std::future::pending().await;
        };
        let end = self.view().end.min(certificate.not_after);
        while end >= now() {
            let left = end.saturating_sub(now()).saturating_add(1);
            tokio::time::sleep(Duration::from_secs(left.clamp(1, 60).unsigned_abs())).await;
        }
    }
}

impl View {
    fn new(live: Arc<Live>, peer: &Peer, member: &Member) -> View {
        // Who vouches for a certificate belongs to the configuration: a reload may name authorities otherwise.
        let (accepted, withdrawn) = match verify(&live, peer) {
            Ok(accepted) => (accepted, None),
            Err(reason) => (Accepted::ANONYMOUS, Some(reason)),
        };
        let issuers = accepted.issuers;
        let policy = &live.snapshot.policy;
        let standing = policy.standing(&peer.identity, &issuers);
        View {
            meters: member.party().meters(policy, &standing),
            standing,
            forwarded: forwarded(&live, &peer.identity, &issuers),
            withdrawn,
            until: accepted.until,
            end: accepted.end,
            live,
        }
    }

    /// What the peer has taken by a rule; `None` where the rule does not limit that.
    pub fn meter(&self, rule: RuleId) -> Option<&Arc<Meter>> {
        self.meters
            .iter()
            .find_map(|(id, meter)| (*id == rule).then_some(meter))
    }

    /// Tells a backend who calls, and by which rule it may, as far as the backend is told at all.
    pub fn forward(&self, backend: BackendId, rule: RuleId, headers: &mut HeaderMap) {
        let Some((_, said)) = self.forwarded.iter().find(|(id, _)| *id == backend) else {
            return;
        };
        for (name, value) in said {
            headers.insert(name.clone(), value.clone());
        }
        let plan = self.live.snapshot.backends.get(backend.index());
        if let Some((name, value)) = plan.and_then(|plan| plan.forward.rule(rule)) {
            headers.insert(name.clone(), value.clone());
        }
    }
}

fn forwarded(live: &Live, identity: &Identity, issuers: &Issuers) -> Vec<(BackendId, Headers)> {
    let backends = live.snapshot.backends.iter().enumerate();
    let told = backends.filter(|(_, plan)| !plan.forward.is_empty());
    told.filter_map(|(index, plan)| Some((BackendId::new(index), plan.forward.of(identity, issuers)?)))
        .collect()
}

/// What a configuration says of the peer.
///
/// # Errors
/// Why a configuration does not accept the peer, though an earlier one did.
fn verify(live: &Live, peer: &Peer) -> Result<Accepted, String> {
    match live.snapshot.listener(peer.listener) {
        Some(listener) => listener.security.accept(&peer.chain, UnixTime::now()),
        None => Err("its listener is not in the configuration any more".to_owned()),
    }
}
