//! What is counted and logged of a call: once, also when the task of the call is dropped.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::announcement::Announcement;
use super::call_id::CallId;
use super::subject::{self, Subject};
use crate::audit::{Event, Holder, Line, Place};
use crate::connection::{Caller, View};
use crate::live::Live;
use crate::metrics::{Action, End, Limit};
use crate::policy::identity::{Identity, printable};
use crate::policy::instance::InstanceName;
use crate::policy::kindness::Kindly;
use crate::policy::method::Method;
use crate::policy::pattern::hex;
use crate::policy::{Permit, RuleId};
use crate::status::{Code, Rejection};

/// Digests in the line of a call that has changed nothing; more are counted.
const MOST: usize = 1024;

/// The record of one call, written when dropped.
pub(super) struct Record {
    caller: Arc<Caller>,
    method: Option<Method>,
    path: String,
    begun: Instant,
    instance: String,
    instance_at_backend: String,
    /// With the view of the connection: threads would wait for each other to count who keeps the configuration itself.
    rule: Option<(Arc<View>, RuleId)>,
    backend: String,
    received: u64,
    sent: u64,
    code: u8,
    reason: &'static str,
    message: String,
    id: CallId,
    resource: String,
    subject: Subject,
    place: Option<Arc<Place>>,
    answered: &'static str,
}

impl Record {
    /// Begins a record; `path` is kept for calls without a method only.
    pub(super) fn new(caller: &Arc<Caller>, method: Option<Method>, path: &str) -> Record {
        caller.calls().started(method);
        Record {
            caller: Arc::clone(caller),
            path: if method.is_none() {
                printable(path)
            } else {
                String::new()
            },
            method,
            begun: Instant::now(),
            instance: String::new(),
            instance_at_backend: String::new(),
            rule: None,
            backend: String::new(),
            received: 0,
            sent: 0,
            code: Code::Cancelled as u8,
            reason: "dropped",
            message: String::new(),
            id: CallId::next(),
            resource: String::new(),
            subject: Subject::default(),
            place: None,
            answered: "",
        }
    }

    /// The call's id.
    pub(super) fn id(&self) -> CallId {
        self.id
    }

    /// Whether the call will be noted in the audit log; takes a place there.
    ///
    /// # Errors
    /// When nothing may be changed without a line.
    pub(super) fn audit(&mut self, live: &Live) -> Result<bool, Rejection> {
        if let Some(audit) = &live.audit {
            self.place = audit.place()?.map(Arc::new);
        }
        Ok(self.place.is_some())
    }

    /// What the audit log has to tell before the call is whole at its backend; `None` where it tells nothing.
    pub(super) fn announcement(&self) -> Option<Announcement> {
        let place = Arc::clone(self.place.as_ref()?);
        Some(Announcement::new(place, self.beginning()))
    }

    /// Notes the resource name that the call names, for the audit log.
    pub(super) fn resource(&mut self, name: &str) {
        name.clone_into(&mut self.resource);
    }

    /// Notes what the call was about.
    pub(super) fn subject(&mut self, subject: Subject) {
        self.subject = subject;
    }

    /// The path that was asked for.
    pub(super) fn path(&self) -> &str {
        match self.method {
            Some(method) => method.path(),
            None => &self.path,
        }
    }

    /// Notes the instance that the call names.
    pub(super) fn instance(&mut self, instance: &InstanceName) {
        self.instance = instance.to_string();
    }

    /// Notes what the instance is called behind the gate, where that is another name.
    pub(super) fn instance_at_backend(&mut self, instance: &InstanceName) {
        self.instance_at_backend = instance.to_string();
    }

    /// Notes and counts the decision that allowed the call.
    pub(super) fn allowed(&mut self, view: &Arc<View>, permit: &Permit) {
        let metrics = &self.caller.shared.metrics;
        view.live.count_allowed(metrics, self.caller.worker, permit);
        self.rule = Some((Arc::clone(view), permit.rule()));
    }

    /// Notes the backend.
    pub(super) fn backend(&mut self, name: &str) {
        self.backend = name.to_owned();
    }

    /// Notes bytes of the request body, in all.
    pub(super) fn received(&mut self, bytes: u64) {
        self.received = bytes;
    }

    /// Notes more bytes of the answer.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Ends with the status that a backend gave.
    pub(super) fn answered(mut self, code: u8) {
        self.code = code;
        if self.answered.is_empty() {
            self.reason = "";
        }
    }

    /// Notes and counts a denial that is answered kindly.
    pub(super) fn kindly(&mut self, denial: &Rejection, kindly: Kindly) {
        self.note(denial);
        self.pretend(kindly);
    }

    /// Notes and counts an answer that tells of a right which the caller does not have.
    pub(super) fn pretend(&mut self, kindly: Kindly) {
        self.answered = kindly.name();
        self.caller.shared.metrics.kind_answer(kindly);
    }

    /// Ends with a rejection by the gate.
    pub(super) fn rejected(mut self, rejection: &Rejection) {
        self.note(rejection);
    }

    fn note(&mut self, rejection: &Rejection) {
        let metrics = &self.caller.shared.metrics;
        let calls = self.caller.calls();
        match rejection {
            Rejection::LargeHeaders | Rejection::UnreadableHeaders => {
                self.caller.shared.census.count(Limit::HeaderList, Action::Refused);
            }
            Rejection::Stalled | Rejection::Silent => metrics.limited(Limit::StallTimeout, Action::Closed),
            Rejection::Memory => self.caller.shared.census.count(Limit::Memory, Action::Refused),
            Rejection::Limited(_, excess, _) => self.caller.shared.census.count((*excess).into(), Action::Refused),
            Rejection::Denied(_, denial) => calls.denied(Some(denial.right), rejection.label()),
            Rejection::Expired(_) | Rejection::Withdrawn(..) | Rejection::UnknownMethod { .. } => {
                calls.denied(None, rejection.label());
            }
            Rejection::Unavailable { backend, .. } | Rejection::NotGrpc { backend, .. } => {
                metrics.backend_fault(backend, rejection.label());
            }
            Rejection::NoBackend(_)
            | Rejection::NoRoute(_)
            | Rejection::Unreadable(_)
            | Rejection::Instance(_)
            | Rejection::Resource(_)
            | Rejection::Reference(_)
            | Rejection::TooLarge(_)
            | Rejection::Audit(_)
            | Rejection::Idle
            | Rejection::Cancelled => {}
        }
        if rejection.is_denial()
            && self.place.is_none()
            && let Some(audit) = &self.caller.view().live.audit
        {
            // It is refused already, so there is nothing more to refuse.
            self.place = audit.place().ok().flatten().map(Arc::new);
        }
        self.code = rejection.code() as u8;
        self.reason = rejection.label();
        self.message = rejection.to_string();
    }

    /// Ends a request that was no gRPC.
    pub(super) fn not_grpc(mut self, status: StatusCode) {
        self.code = Code::Unknown as u8;
        self.reason = "not-a-grpc-request";
        self.message = format!("answered with HTTP status {}", status.as_u16());
    }
}

impl Record {
    /// The rule that allowed the call.
    fn rule(&self) -> &str {
        let rule = self.rule.as_ref();
        let rule = rule.and_then(|(view, id)| view.live.snapshot.policy.rules().get(id.index()));
        rule.map_or("", |rule| &*rule.name)
    }

    /// What is known of the call before it is forwarded.
    fn beginning(&self) -> Line {
        let certificate = match &self.caller.peer.identity {
            Identity::Anonymous => None,
            Identity::Certificate(certificate) => Some(Holder {
                subject: certificate.subject.clone(),
                issuer: certificate.issuer.clone(),
                serial: certificate.serial.clone(),
                sha256: hex(certificate.sha256),
                uris: certificate.uris.clone(),
                dns: certificate.dns.clone(),
            }),
        };
        Line {
            call: self.id.to_string(),
            peer: self.caller.peer.address.to_string(),
            certificate,
            rule: self.rule().to_owned(),
            method: self.path().trim_start_matches('/').to_owned(),
            instance: self.instance.clone(),
            instance_at_backend: self.instance_at_backend.clone(),
            resource: self.resource.clone(),
            ..Line::default()
        }
    }

    /// The last line of the call, which is the only one where none has begun it.
    fn ending(&self, has_begun: bool) -> Line {
        let line = match has_begun {
            true => Line {
                event: Event::End,
                call: self.id.to_string(),
                method: self.path().trim_start_matches('/').to_owned(),
                ..Line::default()
            },
            false => Line {
                // Nothing was changed: some of it is enough.
                digests: subject::digest_names(self.subject.digests.get(..MOST).unwrap_or(&self.subject.digests)),
                more: self.subject.digests.len().saturating_sub(MOST) as u64,
                uris: self.subject.uris.clone(),
                names: self.subject.names.clone(),
                ..self.beginning()
            },
        };
        Line {
            time: crate::audit::now(),
            received: self.received,
            code: Some(self.code),
            reason: self.reason.to_owned(),
            answered: self.answered.to_owned(),
            ..line
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.begun.elapsed();
        let end = End {
            code: self.code,
            seconds: elapsed.as_secs_f64(),
            received: self.received,
            sent: self.sent,
        };
        self.caller.calls().handled(self.method, end);
        if let Some(place) = &self.place {
            place.end(&self.ending(place.has_begun()));
        }
        let rule = self.rule();
        tracing::info!(
            target: "casgate::access",
            call = %self.id,
            peer = %self.caller.peer.address,
            certificate = self.caller.peer.label,
            method = self.path(),
            instance = self.instance,
            instance_at_backend = self.instance_at_backend,
            code = self.code,
            rule,
            backend = self.backend,
            received = self.received,
            sent = self.sent,
            seconds = elapsed.as_secs_f64(),
            reason = self.reason,
            answered = self.answered,
            detail = self.message,
            "call"
        );
    }
}
