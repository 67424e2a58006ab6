//! Why a certificate is refused, beyond what rustls has a name for.

use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};

/// A refusal of casgate's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// More than anybody needs.
    #[error("it was shown with {certificates} certificates of {bytes} bytes in all: at most {most} of {most_bytes} bytes are taken", most = super::verifier::MOST_CERTIFICATES, most_bytes = super::verifier::MOST_BYTES)]
    TooLong { certificates: usize, bytes: usize },
    /// Work that no honest chain makes.
    #[error("who signed the certificates that it was shown with is not known after {0} tries")]
    TooManySignatures(usize),
    /// Its issuer is taken for a client.
    #[error(
        "its issuer stands in `client-ca` as a client's own certificate; if it is an authority, write {{ file = \"..\", role = \"authority\" }}"
    )]
    IssuerIsClient,
    /// The certificate of its authority has ended.
    #[error("its authority `{0}` has expired (`client-ca-expired`)")]
    AuthorityExpired(String),
    /// The certificate of its authority has not begun.
    #[error("its authority `{0}` is not valid yet (`client-ca-expired`)")]
    AuthorityNotYetValid(String),
    /// An authority between it and `client-ca` is revoked.
    #[error("the authority `{0}`, between it and `client-ca`, is revoked")]
    AuthorityRevoked(String),
    /// A list that names the key of the authority, and was not signed by it.
    #[error("the revocation list of its issuer in `{0}` is damaged: its signature is wrong")]
    DamagedList(String),
}

impl Refusal {
    /// The reason as a label of metrics: a closed set.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Refusal::TooLong { .. } | Refusal::TooManySignatures(_) => "chain-too-long",
            Refusal::IssuerIsClient => "unknown-issuer",
            Refusal::AuthorityExpired(_) => "authority-expired",
            Refusal::AuthorityNotYetValid(_) => "not-yet-valid",
            Refusal::AuthorityRevoked(_) => "revoked",
            Refusal::DamagedList(_) => "list-damaged",
        }
    }

    /// The refusal in what rustls says of a certificate.
    pub(super) fn of(error: &CertificateError) -> Option<&Refusal> {
        match error {
            CertificateError::Other(OtherError(error)) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}
