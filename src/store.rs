//! The embedded backend.
/// The store.
#[derive(Clone, Debug)]
pub struct Store;
/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("the embedded store is not built yet")]
pub struct OpenError;
impl Store {
    /// Opens a store.
    pub async fn open(_url: &str) -> Result<Store, OpenError> {
        Err(OpenError)
    }
    /// Serves one HTTP/2 connection.
    pub async fn serve<IO>(self, _io: IO)
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
    }
}
