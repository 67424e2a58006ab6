//! The steps of a decision, which a call takes one by one while its body arrives, and `casgate explain` in one go.

use crate::policy::identity::Identity;
use crate::policy::instance::InstanceName;
use crate::policy::kindness::Kindly;
use crate::policy::method::{InstanceIn, Method, Service};
use crate::policy::{Permit, Policy, Scope, Standing, Uris};
use crate::route::Way;
use crate::snapshot::Snapshot;
use crate::status::{Code, Rejection};

/// Whether the method is served.
///
/// # Errors
/// What the client is told.
pub fn check_served(snapshot: &Snapshot, method: Method) -> Result<(), Rejection> {
    if method.service() == Service::ReferenceStorage && !snapshot.reference_storage {
        return Err(Rejection::unknown_method(method.path()));
    }
    Ok(())
}

/// Whether the certificate is still good, at a time in seconds since 1970. `withdrawn` says why the configuration does
/// not accept it.
///
/// # Errors
/// What the client is told.
pub fn check_good(identity: &Identity, withdrawn: Option<&String>, now: i64) -> Result<(), Rejection> {
    if identity.expired_at(now) {
        return Err(Rejection::Expired(identity.clone()));
    }
    match withdrawn {
        Some(reason) => Err(Rejection::Withdrawn(identity.clone(), reason.clone())),
        None => Ok(()),
    }
}

/// Whether the caller may ever call the method, or may be answered kindly when it does, before a byte of the body is read.
///
/// # Errors
/// What the client is told.
pub fn check_ever(policy: &Policy, identity: &Identity, standing: &Standing, method: Method) -> Result<(), Rejection> {
    if policy.may_be_kind(standing, method) {
        return Ok(());
    }
    standing
        .may_ever(method.rights())
        .map_err(|denial| Rejection::denied(identity, denial))
}

/// The instance that a name is, where the method has one.
///
/// # Errors
/// What the client is told.
pub fn scope(method: Method, instance: &str) -> Result<Scope, Rejection> {
    match method.instance_in() {
        InstanceIn::Unknown => Ok(Scope::Unknown),
        InstanceIn::Field(_) | InstanceIn::ResourceName(_) => Ok(Scope::Instance(InstanceName::parse(instance)?)),
    }
}

/// The decision.
///
/// # Errors
/// What the client is told.
pub fn decide(
    snapshot: &Snapshot,
    identity: &Identity,
    standing: &Standing,
    method: Method,
    scope: Scope,
    uris: Uris,
) -> Result<Permit, Rejection> {
    snapshot
        .policy
        .decide(standing, method, scope, uris)
        .map_err(|denial| Rejection::denied(identity, denial))
}

/// The status of a denied call that is answered kindly, and its text.
pub fn kind_status(method: Method, kindly: Kindly) -> (Code, &'static str) {
    match (method, kindly) {
        // What BuildStream takes for the right to push.
        (Method::PushBlob | Method::PushDirectory, Kindly::Probe) => {
            (Code::InvalidArgument, "the request names no URI")
        }
        (_, Kindly::Probe | Kindly::Discard) => (Code::Ok, ""),
    }
}

/// The way of an authorized call.
///
/// # Errors
/// What the client is told where no route leads to a backend.
pub fn way(snapshot: &Snapshot, permit: &Permit) -> Result<Way, Rejection> {
    let service = permit.method().service();
    way_to(snapshot, service, permit.instance())
}

/// The same for a service that the gate itself asks for the call.
///
/// # Errors
/// What the client is told where no route leads to a backend.
pub fn way_to(snapshot: &Snapshot, service: Service, instance: Option<&InstanceName>) -> Result<Way, Rejection> {
    snapshot.routes.pick(service, instance).ok_or_else(|| {
        if snapshot.routes.of(service).is_empty() {
            Rejection::NoBackend(service)
        } else {
            Rejection::NoRoute(service)
        }
    })
}
