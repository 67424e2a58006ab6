use futures_util::StreamExt;
use reapi::execution_client::ExecutionClient;
use tonic::Code;

use super::*;

#[tokio::test]
async fn the_capabilities_are_those_of_a_cache() {
    let mut remote = Remote::in_memory().await;
    let request = reapi::GetCapabilitiesRequest::default();
    let response = remote.capabilities.get_capabilities(request).await.unwrap();
    let response = response.into_inner();
    assert!(response.execution_capabilities.is_none());
    let low = response.low_api_version.unwrap();
    assert_eq!((low.major, low.minor), (2, 0));
    let cache = response.cache_capabilities.unwrap();
    assert_eq!(cache.digest_functions, [1]);
    let updates = cache.action_cache_update_capabilities.unwrap();
    assert!(updates.update_enabled);
    assert_eq!(cache.max_batch_total_size_bytes, (4 << 20) - (64 << 10));
    assert!(cache.supported_compressors.is_empty());
    assert!(!cache.split_blob_support && !cache.splice_blob_support);
}

#[tokio::test]
async fn the_largest_batch_announced_fits_a_default_client() {
    let mut remote = Remote::in_memory().await;
    let data = noise((4 << 20) - (64 << 10));
    let digest = remote.store(&data).await;
    let request = reapi::BatchReadBlobsRequest {
        digests: vec![digest],
        ..Default::default()
    };
    let response = remote.cas.batch_read_blobs(request).await.unwrap();
    assert_eq!(response.into_inner().responses[0].data, data);
}

#[tokio::test]
async fn other_services_are_unimplemented() {
    let remote = Remote::in_memory().await;
    let mut execution = ExecutionClient::new(remote.channel.clone());
    let request = reapi::ExecuteRequest::default();
    let error = execution.execute(request).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
}

/// h2 counts the streams that were reset early, and by default gives up a connection after some.
#[tokio::test]
async fn clients_that_break_off_do_not_end_the_connection() {
    let mut remote = Remote::in_memory().await;
    let data = noise(1 << 20);
    let digest = remote.store(&data).await;
    let name = upload_name("u", &digest);
    for _ in 0..1500 {
        // An early answer, while the client goes on sending.
        let messages = stream::iter([message(&name, 0, &data[..1000])]).chain(stream::pending());
        let response = remote.bytestream.write(messages).await.unwrap();
        assert_eq!(response.into_inner().committed_size, digest.size_bytes);
        // A read that is given up.
        let request = ReadRequest {
            resource_name: blob_name(&digest),
            ..Default::default()
        };
        drop(remote.bytestream.read(request).await.unwrap());
    }
    assert_eq!(remote.connections(), 1);
    assert_eq!(remote.read(&blob_name(&digest), 0, 0).await.unwrap(), data);
}
