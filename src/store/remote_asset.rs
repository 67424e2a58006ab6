//! Remote Asset `Fetch` and `Push`.

use asset_v1::fetch_server::Fetch;
use asset_v1::push_server::Push;
use bazel_remote_apis::build::bazel::remote::asset::v1 as asset_v1;
use bazel_remote_apis::build::bazel::remote::execution::v2::digest_function;
use bazel_remote_apis::google::rpc;
use tonic::{Request, Response, Status};

use super::asset::{Kind, Names};
use super::digest::BlobDigest;
use super::instance::Instance;
use super::{Cache, check_digest_function};

/// What is not here is NOT_FOUND as the status of the call, not in the response: BuildStream 1
/// never looks at the latter.
#[tonic::async_trait]
impl Fetch for Cache {
    async fn fetch_blob(
        &self,
        request: Request<asset_v1::FetchBlobRequest>,
    ) -> Result<Response<asset_v1::FetchBlobResponse>, Status> {
        let request = request.into_inner();
        let names = Names::parse(request.uris, request.qualifiers)?;
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        let oldest = request.oldest_content_accepted;
        let asset = self.fetch_asset(&instance, Kind::Blob, names, oldest).await?;
        Ok(Response::new(asset_v1::FetchBlobResponse {
            status: Some(rpc::Status::default()),
            uri: asset.uri,
            qualifiers: asset.qualifiers,
            expires_at: asset.expire_at,
            blob_digest: asset.digest,
            digest_function: digest_function::Value::Sha256.into(),
        }))
    }

    async fn fetch_directory(
        &self,
        request: Request<asset_v1::FetchDirectoryRequest>,
    ) -> Result<Response<asset_v1::FetchDirectoryResponse>, Status> {
        let request = request.into_inner();
        let names = Names::parse(request.uris, request.qualifiers)?;
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        let oldest = request.oldest_content_accepted;
        let asset = self.fetch_asset(&instance, Kind::Directory, names, oldest).await?;
        Ok(Response::new(asset_v1::FetchDirectoryResponse {
            status: Some(rpc::Status::default()),
            uri: asset.uri,
            qualifiers: asset.qualifiers,
            expires_at: asset.expire_at,
            root_directory_digest: asset.digest,
            digest_function: digest_function::Value::Sha256.into(),
        }))
    }
}

#[tonic::async_trait]
impl Push for Cache {
    async fn push_blob(
        &self,
        request: Request<asset_v1::PushBlobRequest>,
    ) -> Result<Response<asset_v1::PushBlobResponse>, Status> {
        let request = request.into_inner();
        let names = Names::parse(request.uris, request.qualifiers)?;
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        let digest = BlobDigest::required(request.blob_digest.as_ref(), "blob_digest")?;
        self.push_asset(&instance, Kind::Blob, names, &digest, request.expire_at)
            .await?;
        Ok(Response::new(asset_v1::PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<asset_v1::PushDirectoryRequest>,
    ) -> Result<Response<asset_v1::PushDirectoryResponse>, Status> {
        let request = request.into_inner();
        let names = Names::parse(request.uris, request.qualifiers)?;
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        let root = request.root_directory_digest.as_ref();
        let digest = BlobDigest::required(root, "root_directory_digest")?;
        self.push_asset(&instance, Kind::Directory, names, &digest, request.expire_at)
            .await?;
        Ok(Response::new(asset_v1::PushDirectoryResponse {}))
    }
}
