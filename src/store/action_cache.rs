//! `ActionCache`: results at `ac/<instance>/<2 hex>/<hash>-<size>`.

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use object_store::path::Path;
use reapi::action_cache_server::ActionCache;
use tonic::{Request, Response, Status};

use super::blobs::by_digest;
use super::digest::BlobDigest;
use super::fault::Fault;
use super::instance::Instance;
use super::memory;
use super::result;
use super::{Cache, check_digest_function};

#[tonic::async_trait]
impl ActionCache for Cache {
    /// A result is given out only while all it refers to is here, for clients such as Bazel
    /// fail a build over an output that is gone, and take NOT_FOUND for a miss.
    async fn get_action_result(
        &self,
        request: Request<reapi::GetActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let request = request.into_inner();
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        let action = BlobDigest::required(request.action_digest.as_ref(), "action_digest")?;
        let found = self.records.read(&path(&instance, &action)).await?;
        let (result, room): (reapi::ActionResult, _) = found.ok_or(Fault::NoActionResult(action))?;
        if !self.is_complete(&instance, &result).await? {
            self.records.forget(&path(&instance, &action), &result).await?;
            return Err(Fault::NoActionResult(action).into());
        }
        let mut response = Response::new(result);
        memory::keep_until_encoded(room, &mut response);
        Ok(response)
    }

    async fn update_action_result(
        &self,
        request: Request<reapi::UpdateActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let request = request.into_inner();
        check_digest_function(request.digest_function)?;
        let instance = Instance::parse(&request.instance_name)?;
        let action = BlobDigest::required(request.action_digest.as_ref(), "action_digest")?;
        let result = request.action_result.ok_or(Fault::Absent("action_result"))?;
        result::check(&result)?;
        self.records.write(&path(&instance, &action), &result).await?;
        Ok(Response::new(result))
    }
}

fn path(instance: &Instance, action: &BlobDigest) -> Path {
    by_digest("ac", instance, action)
}
