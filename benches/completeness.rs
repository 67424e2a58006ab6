//! How long BuildStream 1 waits for the check that an artifact of 50,000 files is whole, with the embedded store on the
//! disk: `cargo bench --bench completeness`.

use std::error::Error;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
use bazel_remote_apis::build::bazel::remote::asset::v1::fetch_client::FetchClient;
use bazel_remote_apis::build::bazel::remote::asset::v1::push_client::PushClient;
use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::build::bazel::remote::execution::v2::content_addressable_storage_client::ContentAddressableStorageClient;
use casgate::certs::Folder;
use casgate::reference_storage::URN_PREFIX;
use casgate::server::Gate;
use prost::Message;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

const DIRECTORIES: usize = 500;
const FILES_IN_EACH: usize = 100;
/// Trees that differ in their root, so that each check of one is a cold one.
const ROUNDS: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = Folder::new(dir.path());
    folder.authority("bench", 2)?;
    folder.server(&["localhost".to_owned()], 2)?;
    folder.client("ci", 2)?;
    let config = dir.path().join("casgate.toml");
    std::fs::write(
        &config,
        r#"
        backends.store.store = "file:store"
        rules = [{ certificate = "any", allow = ["pull", "push"] }]
        [listen]
        address = "127.0.0.1:0"
        certificate = "server.crt"
        key = "server.key"
        client-ca = ["ca.crt"]
        "#,
    )?;
    let gate = Gate::start(&config)?;
    let port = gate.listen_address().port();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name));
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.crt")?))
            .identity(Identity::from_pem(read("ci.crt")?, read("ci.key")?));
        let channel = Channel::from_shared(format!("https://localhost:{port}"))?
            .tls_config(tls)?
            .connect()
            .await?;
        measure(channel).await
    })
}

async fn measure(channel: Channel) -> Result<()> {
    let roots = upload(&channel).await?;
    let mut fetch = FetchClient::new(channel.clone());
    let mut push = PushClient::new(channel);
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    let before = memory("VmRSS")?;
    for (number, root) in roots.into_iter().enumerate() {
        let uris = vec![format!("{URN_PREFIX}bench/tree/{number:064x}")];
        let request = asset::PushDirectoryRequest {
            uris: uris.clone(),
            root_directory_digest: Some(root),
            ..Default::default()
        };
        push.push_directory(request).await?;
        let request = asset::FetchDirectoryRequest {
            uris,
            ..Default::default()
        };
        for times in [&mut cold, &mut warm] {
            let begun = Instant::now();
            fetch.fetch_directory(request.clone()).await?;
            times.push(begun.elapsed());
        }
    }
    let grown = memory("VmHWM")?.saturating_sub(before) / 1024;
    println!(
        "an artifact of {} files in {DIRECTORIES} directories:",
        DIRECTORIES * FILES_IN_EACH
    );
    println!("  cold: {:?} (median of {ROUNDS})", median(cold));
    println!("  warm: {:?} (median of {ROUNDS})", median(warm));
    println!("  memory of gate, store and client together: {grown} KiB more at most");
    Ok(())
}

/// Uploads the trees; gives their roots.
async fn upload(channel: &Channel) -> Result<Vec<reapi::Digest>> {
    let mut blobs = Vec::new();
    let mut directories = Vec::new();
    for number in 0..DIRECTORIES {
        let mut directory = reapi::Directory::default();
        for file in 0..FILES_IN_EACH {
            let content = format!("{number} {file}").into_bytes();
            directory.files.push(reapi::FileNode {
                name: format!("file-{file}"),
                digest: Some(digest_of(&content)?),
                ..Default::default()
            });
            blobs.push(content);
        }
        let bytes = directory.encode_to_vec();
        directories.push(reapi::DirectoryNode {
            name: format!("directory-{number}"),
            digest: Some(digest_of(&bytes)?),
        });
        blobs.push(bytes);
    }
    let mut roots = Vec::new();
    for round in 0..ROUNDS {
        let root = reapi::Directory {
            directories: directories.clone(),
            symlinks: vec![reapi::SymlinkNode {
                name: format!("round-{round}"),
                target: "x".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let bytes = root.encode_to_vec();
        roots.push(digest_of(&bytes)?);
        blobs.push(bytes);
    }
    let batches = blobs.chunks(500).map(|batch| store(channel, batch));
    futures_util::future::try_join_all(batches).await?;
    Ok(roots)
}

async fn store(channel: &Channel, blobs: &[Vec<u8>]) -> Result<()> {
    let requests = blobs.iter().map(|data| {
        Ok(reapi::batch_update_blobs_request::Request {
            digest: Some(digest_of(data)?),
            data: data.clone(),
            ..Default::default()
        })
    });
    let request = reapi::BatchUpdateBlobsRequest {
        requests: requests.collect::<Result<_>>()?,
        ..Default::default()
    };
    let mut cas = ContentAddressableStorageClient::new(channel.clone());
    cas.batch_update_blobs(request).await?;
    Ok(())
}

fn digest_of(bytes: &[u8]) -> Result<reapi::Digest> {
    Ok(reapi::Digest {
        hash: digest(&SHA256, bytes)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        size_bytes: i64::try_from(bytes.len())?,
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A line of `/proc/self/status`, in KiB times 1024.
fn memory(line: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|found| found.starts_with(line))
        .ok_or("no such line")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? * 1024)
}
