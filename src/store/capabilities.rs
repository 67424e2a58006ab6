//! `Capabilities`.

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use bazel_remote_apis::build::bazel::semver::SemVer;
use reapi::capabilities_server::Capabilities;
use reapi::{digest_function, symlink_absolute_path_strategy};
use tonic::{Request, Response, Status};

use super::Cache;
use super::cas::LARGEST_BATCH;
use super::instance::Instance;

/// What is left of a message of 4 MiB for digests, statuses and framing.
const MARGIN: u64 = 64 << 10;

/// Largest batch that is announced, in bytes.
const BATCH: i64 = (LARGEST_BATCH - MARGIN) as i64;

#[tonic::async_trait]
impl Capabilities for Cache {
    async fn get_capabilities(
        &self,
        request: Request<reapi::GetCapabilitiesRequest>,
    ) -> Result<Response<reapi::ServerCapabilities>, Status> {
        Instance::parse(&request.into_inner().instance_name)?;
        let version = |minor| {
            Some(SemVer {
                major: 2,
                minor,
                ..SemVer::default()
            })
        };
        let symlinks = symlink_absolute_path_strategy::Value::Allowed;
        Ok(Response::new(reapi::ServerCapabilities {
            cache_capabilities: Some(reapi::CacheCapabilities {
                digest_functions: vec![digest_function::Value::Sha256.into()],
                action_cache_update_capabilities: Some(reapi::ActionCacheUpdateCapabilities { update_enabled: true }),
                max_batch_total_size_bytes: BATCH,
                symlink_absolute_path_strategy: symlinks.into(),
                ..reapi::CacheCapabilities::default()
            }),
            execution_capabilities: None,
            deprecated_api_version: None,
            // Bazel before 5 speaks 2.0 only, and refuses a server that doesn't.
            low_api_version: version(0),
            high_api_version: version(3),
        }))
    }
}
