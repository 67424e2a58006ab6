use bazel_remote_apis::build::bazel::remote::asset::v1 as asset_v1;
use bazel_remote_apis::google::protobuf::Timestamp;
use prost::Message;
use tonic::Code;

use super::cas::directory;
use super::*;

const URI: &str = "urn:fdc:buildstream.build:2020:artifact:project/element/key";

#[tokio::test]
async fn requests_without_a_uri_are_invalid() {
    let mut remote = Remote::in_memory().await;
    let codes = [
        remote.fetch.fetch_blob(fetch_blob(&[])).await.unwrap_err().code(),
        remote.push.push_blob(push_blob(&[], None)).await.unwrap_err().code(),
        fetch_directory(&mut remote, &[]).await.unwrap_err().code(),
        push_directory(&mut remote, &[], None).await.unwrap_err().code(),
        remote.fetch.fetch_blob(fetch_blob(&[""])).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::InvalidArgument; 5]);
}

#[tokio::test]
async fn pushes_need_a_digest() {
    let mut remote = Remote::in_memory().await;
    let malformed = reapi::Digest::default();
    for digest in [None, Some(&malformed)] {
        let request = push_blob(&[URI], digest);
        let error = remote.push.push_blob(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        let error = push_directory(&mut remote, &[URI], digest).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    let error = remote.fetch.fetch_blob(fetch_blob(&[URI])).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn blobs_and_directories_have_names_of_their_own() {
    let mut remote = Remote::in_memory().await;
    let blob = remote.store(b"blob").await;
    let root = remote.store(b"").await;
    let request = push_blob(&[URI], Some(&blob));
    remote.push.push_blob(request).await.unwrap();
    let error = fetch_directory(&mut remote, &[URI]).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    push_directory(&mut remote, &[URI], Some(&root)).await.unwrap();

    let found = remote.fetch.fetch_blob(fetch_blob(&[URI])).await.unwrap();
    let found = found.into_inner();
    assert_eq!(found.status.unwrap().code, 0);
    assert_eq!((found.uri.as_str(), found.blob_digest), (URI, Some(blob)));
    let found = fetch_directory(&mut remote, &[URI]).await.unwrap();
    assert_eq!(found.status.unwrap().code, 0);
    assert_eq!(found.root_directory_digest, Some(root));

    let other = asset_v1::FetchBlobRequest {
        instance_name: "other".to_owned(),
        ..fetch_blob(&[URI])
    };
    let error = remote.fetch.fetch_blob(other).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn nothing_is_fetched_from_elsewhere() {
    let mut remote = Remote::in_memory().await;
    for uri in [
        "http://127.0.0.1:1/x",
        "https://localhost/x",
        "file:///etc/hostname",
        "git://x/y",
    ] {
        let error = remote.fetch.fetch_blob(fetch_blob(&[uri])).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{uri}");
        let error = fetch_directory(&mut remote, &[uri]).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{uri}");
    }
}

#[tokio::test]
async fn several_uris_are_several_names() {
    let mut remote = Remote::in_memory().await;
    let (first, second) = (remote.store(b"1").await, remote.store(b"2").await);
    let request = push_blob(&["urn:a", "urn:b"], Some(&first));
    remote.push.push_blob(request).await.unwrap();
    let request = push_blob(&["urn:b"], Some(&second));
    remote.push.push_blob(request).await.unwrap();
    for (uris, digest) in [
        (["urn:a", "urn:b"].as_slice(), &first),
        (&["urn:b", "urn:a"], &second),
        (&["urn:none", "urn:b"], &second),
    ] {
        let found = remote.fetch.fetch_blob(fetch_blob(uris)).await.unwrap();
        assert_eq!(found.into_inner().blob_digest.as_ref(), Some(digest), "{uris:?}");
    }
}

#[tokio::test]
async fn qualifiers_match_as_a_set() {
    let mut remote = Remote::in_memory().await;
    let blob = remote.store(b"blob").await;
    let pushed = asset_v1::PushBlobRequest {
        qualifiers: qualifiers(&[("a", "1"), ("b", "2")]),
        ..push_blob(&[URI], Some(&blob))
    };
    remote.push.push_blob(pushed).await.unwrap();
    let cases: [(&[(&str, &str)], Code); 7] = [
        (&[("a", "1"), ("b", "2")], Code::Ok),
        (&[("b", "2"), ("a", "1")], Code::Ok),
        (&[("a", "1")], Code::NotFound),
        (&[], Code::NotFound),
        (&[("a", "2"), ("b", "1")], Code::NotFound),
        (&[("a", "1"), ("b", "2"), ("c", "3")], Code::NotFound),
        (&[("a", "1"), ("a", "2")], Code::InvalidArgument),
    ];
    for (pairs, code) in cases {
        let request = asset_v1::FetchBlobRequest {
            qualifiers: qualifiers(pairs),
            ..fetch_blob(&[URI])
        };
        let result = remote.fetch.fetch_blob(request).await;
        let actual = result.map_or_else(|error| error.code(), |_| Code::Ok);
        assert_eq!(actual, code, "{pairs:?}");
    }
}

#[tokio::test]
async fn assets_expire_and_grow_old() {
    let mut remote = Remote::in_memory().await;
    let blob = remote.store(b"blob").await;
    for (seconds, code) in [(1, Code::NotFound), (253_402_300_799, Code::Ok)] {
        let expire_at = Some(Timestamp { seconds, nanos: 0 });
        let pushed = asset_v1::PushBlobRequest {
            expire_at,
            ..push_blob(&[URI], Some(&blob))
        };
        remote.push.push_blob(pushed).await.unwrap();
        let result = remote.fetch.fetch_blob(fetch_blob(&[URI])).await;
        if let Ok(response) = &result {
            assert_eq!(response.get_ref().expires_at, expire_at);
        }
        let actual = result.map_or_else(|error| error.code(), |_| Code::Ok);
        assert_eq!(actual, code);
        let request = asset_v1::FetchBlobRequest {
            oldest_content_accepted: Some(Timestamp { seconds, nanos: 0 }),
            ..fetch_blob(&[URI])
        };
        // In the second round everything is older than what is accepted.
        let error = remote.fetch.fetch_blob(request).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
    let request = asset_v1::FetchBlobRequest {
        oldest_content_accepted: Some(Timestamp { seconds: 1, nanos: 0 }),
        ..fetch_blob(&[URI])
    };
    assert!(remote.fetch.fetch_blob(request).await.is_ok());
}

#[tokio::test]
async fn an_asset_without_its_blobs_is_not_found() {
    let mut remote = Remote::in_memory().await;
    let gone = digest(b"gone");
    let child = directory([("gone", gone.clone())], []).encode_to_vec();
    let root = directory([], [("child", digest(&child))]).encode_to_vec();
    let request = push_blob(&[URI], Some(&gone));
    remote.push.push_blob(request).await.unwrap();
    push_directory(&mut remote, &[URI], Some(&digest(&root))).await.unwrap();
    for blob in [b"gone".as_slice(), &root, &child] {
        let error = fetch_directory(&mut remote, &[URI]).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        let found = remote.fetch.fetch_blob(fetch_blob(&[URI])).await;
        assert_eq!(found.is_ok(), blob != b"gone");
        remote.store(blob).await;
    }
    assert!(remote.fetch.fetch_blob(fetch_blob(&[URI])).await.is_ok());
    assert!(fetch_directory(&mut remote, &[URI]).await.is_ok());
    // What is no directory can't be fetched as one.
    push_directory(&mut remote, &[URI], Some(&gone)).await.unwrap();
    let error = fetch_directory(&mut remote, &[URI]).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

fn owned(uris: &[&str]) -> Vec<String> {
    uris.iter().map(|uri| (*uri).to_owned()).collect()
}

fn qualifiers(pairs: &[(&str, &str)]) -> Vec<asset_v1::Qualifier> {
    let qualifier = |(name, value): &(&str, &str)| asset_v1::Qualifier {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    pairs.iter().map(qualifier).collect()
}

fn fetch_blob(uris: &[&str]) -> asset_v1::FetchBlobRequest {
    asset_v1::FetchBlobRequest {
        uris: owned(uris),
        ..Default::default()
    }
}

fn push_blob(uris: &[&str], digest: Option<&reapi::Digest>) -> asset_v1::PushBlobRequest {
    asset_v1::PushBlobRequest {
        uris: owned(uris),
        blob_digest: digest.cloned(),
        ..Default::default()
    }
}

async fn fetch_directory(remote: &mut Remote, uris: &[&str]) -> Result<asset_v1::FetchDirectoryResponse, Status> {
    let request = asset_v1::FetchDirectoryRequest {
        uris: owned(uris),
        ..Default::default()
    };
    Ok(remote.fetch.fetch_directory(request).await?.into_inner())
}

async fn push_directory(remote: &mut Remote, uris: &[&str], digest: Option<&reapi::Digest>) -> Result<(), Status> {
    let request = asset_v1::PushDirectoryRequest {
        uris: owned(uris),
        root_directory_digest: digest.cloned(),
        ..Default::default()
    };
    remote.push.push_directory(request).await?;
    Ok(())
}
