//! What is counted and logged of a call: once, also when the task of the call is dropped.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use crate::connection::Caller;
use crate::live::Live;
use crate::policy::identity::printable;
use crate::policy::instance::InstanceName;
use crate::policy::method::Method;
use crate::policy::{Permit, RuleId};
use crate::status::{Code, Rejection};

/// The record of one call, written when dropped.
pub(super) struct Record {
    caller: Arc<Caller>,
    method: Option<Method>,
    path: String,
    begun: Instant,
    instance: String,
    rule: Option<(Arc<Live>, RuleId)>,
    backend: String,
    received: u64,
    sent: u64,
    code: u8,
    reason: &'static str,
    message: String,
}

impl Record {
    /// Begins a record; `path` is kept for calls without a method only.
    pub(super) fn new(caller: &Arc<Caller>, method: Option<Method>, path: &str) -> Record {
        caller.shared.metrics.call_started(method);
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
            rule: None,
            backend: String::new(),
            received: 0,
            sent: 0,
            code: Code::Cancelled as u8,
            reason: "dropped",
            message: String::new(),
        }
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

    /// Notes and counts the decision that allowed the call.
    pub(super) fn allowed(&mut self, live: &Arc<Live>, permit: &Permit) {
        live.count_allowed(permit);
        self.rule = Some((Arc::clone(live), permit.rule()));
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
        self.reason = "";
    }

    /// Ends with a rejection by the gate.
    pub(super) fn rejected(mut self, rejection: &Rejection) {
        let metrics = &self.caller.shared.metrics;
        match rejection {
            Rejection::Denied(_, denial) => metrics.denied(Some(denial.right), rejection.label()),
            Rejection::Expired(_) | Rejection::Withdrawn(..) | Rejection::UnknownMethod { .. } => {
                metrics.denied(None, rejection.label());
            }
            Rejection::NoBackend(_)
            | Rejection::Unreadable(_)
            | Rejection::Instance(_)
            | Rejection::Resource(_)
            | Rejection::Reference(_)
            | Rejection::TooLarge(_)
            | Rejection::Unavailable { .. }
            | Rejection::NotGrpc { .. }
            | Rejection::Cancelled => {}
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

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.begun.elapsed();
        let metrics = &self.caller.shared.metrics;
        metrics.call_handled(self.method, self.code, elapsed.as_secs_f64());
        metrics.received.inc_by(self.received);
        metrics.sent.inc_by(self.sent);
        let rule = self
            .rule
            .as_ref()
            .and_then(|(live, id)| live.snapshot.policy.rules().get(id.index()));
        tracing::info!(
            target: "casgate::access",
            certificate = self.caller.peer.label,
            method = self.path(),
            instance = self.instance,
            code = self.code,
            rule = rule.map_or("", |rule| &*rule.name),
            backend = self.backend,
            received = self.received,
            sent = self.sent,
            seconds = elapsed.as_secs_f64(),
            reason = self.reason,
            detail = self.message,
            "call"
        );
    }
}
