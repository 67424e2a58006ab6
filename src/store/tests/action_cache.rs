use prost::Message;
use tonic::Code;

use super::cas::directory;
use super::*;

#[tokio::test]
async fn results_are_kept_by_action_and_instance() {
    let mut remote = Remote::in_memory().await;
    let action = digest(b"action");
    let code = get(&mut remote, "", &action).await.unwrap_err().code();
    assert_eq!(code, Code::NotFound);
    let result = reapi::ActionResult {
        exit_code: 7,
        stdout_digest: Some(reapi::Digest::default()),
        ..Default::default()
    };
    let echoed = update(&mut remote, "", &action, &result).await.unwrap();
    assert_eq!(echoed, result);
    assert_eq!(get(&mut remote, "", &action).await.unwrap(), result);
    let code = get(&mut remote, "other", &action).await.unwrap_err().code();
    assert_eq!(code, Code::NotFound);
    let mut other_size = action.clone();
    other_size.size_bytes += 1;
    let code = get(&mut remote, "", &other_size).await.unwrap_err().code();
    assert_eq!(code, Code::NotFound);
    // The result of no fields is a record of no bytes.
    let empty = reapi::ActionResult::default();
    update(&mut remote, "", &action, &empty).await.unwrap();
    assert_eq!(get(&mut remote, "", &action).await.unwrap(), empty);
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let mut remote = Remote::in_memory().await;
    let malformed = reapi::Digest {
        hash: "../../x".to_owned(),
        size_bytes: 1,
    };
    let error = get(&mut remote, "", &malformed).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let result = reapi::ActionResult::default();
    let error = update(&mut remote, "", &malformed, &result).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let request = reapi::UpdateActionResultRequest {
        action_digest: Some(digest(b"a")),
        ..Default::default()
    };
    let error = remote.action_cache.update_action_result(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let request = reapi::GetActionResultRequest::default();
    let error = remote.action_cache.get_action_result(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_result_is_a_miss_while_something_of_it_is_missing() {
    let mut remote = Remote::in_memory().await;
    let file = |digest| reapi::OutputFile {
        path: "out".to_owned(),
        digest: Some(digest),
        ..Default::default()
    };
    let tree_of = |root: reapi::Directory, children| reapi::Tree {
        root: Some(root),
        children,
    };
    let subdirectory = directory([("deep", digest(b"deep"))], []);
    let root = directory(
        [("flat", digest(b"flat"))],
        [("sub", digest(&subdirectory.encode_to_vec()))],
    );
    let tree = tree_of(root.clone(), vec![subdirectory.clone()]);
    let as_tree = reapi::OutputDirectory {
        tree_digest: Some(digest(&tree.encode_to_vec())),
        ..Default::default()
    };
    let as_root = reapi::OutputDirectory {
        root_directory_digest: Some(digest(&root.encode_to_vec())),
        ..Default::default()
    };
    let (tree, root) = (tree.encode_to_vec(), root.encode_to_vec());
    let subdirectory = subdirectory.encode_to_vec();
    let with = |change: &dyn Fn(&mut reapi::ActionResult)| {
        let mut result = reapi::ActionResult::default();
        change(&mut result);
        result
    };
    let cases: [(reapi::ActionResult, &[&[u8]]); 6] = [
        (
            with(&|result| result.output_files = vec![file(digest(b"out"))]),
            &[b"out"],
        ),
        (
            with(&|result| result.stdout_digest = Some(digest(b"stdout"))),
            &[b"stdout"],
        ),
        (
            with(&|result| result.stderr_digest = Some(digest(b"stderr"))),
            &[b"stderr"],
        ),
        (
            with(&|result| result.output_directories = vec![as_tree.clone()]),
            &[&tree, b"flat", b"deep"],
        ),
        (
            with(&|result| result.output_directories = vec![as_root.clone()]),
            &[&root, &subdirectory, b"flat", b"deep"],
        ),
        (
            with(&|result| {
                result.output_files = vec![file(digest(b"")), file(digest(b"out"))];
            }),
            &[b"out"],
        ),
    ];
    for (index, (result, blobs)) in cases.iter().enumerate() {
        let instance = format!("case{index}");
        let action = digest(instance.as_bytes());
        update(&mut remote, &instance, &action, result).await.unwrap();
        for blob in *blobs {
            let error = get(&mut remote, &instance, &action).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "case {index}");
            remote.update(&instance, blob).await;
        }
        let found = get(&mut remote, &instance, &action).await;
        assert_eq!(&found.unwrap(), result, "case {index}");
    }
}

#[tokio::test]
async fn results_that_can_never_be_whole_are_misses() {
    let mut remote = Remote::in_memory().await;
    let text = remote.store(b"\xff\xff no message").await;
    let mut huge = text.clone();
    huge.size_bytes = 1 << 40;
    let of = |output: reapi::OutputDirectory| reapi::ActionResult {
        output_directories: vec![output],
        ..Default::default()
    };
    let tree = |digest: &reapi::Digest| reapi::OutputDirectory {
        tree_digest: Some(digest.clone()),
        ..Default::default()
    };
    let root = |digest: &reapi::Digest| reapi::OutputDirectory {
        root_directory_digest: Some(digest.clone()),
        ..Default::default()
    };
    let results = [of(tree(&text)), of(tree(&huge)), of(root(&text)), of(root(&huge))];
    for (index, result) in results.iter().enumerate() {
        let action = digest(index.to_string().as_bytes());
        update(&mut remote, "", &action, result).await.unwrap();
        let error = get(&mut remote, "", &action).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "case {index}");
    }
}

/// [`crate::store::result`] has the cases.
#[tokio::test]
async fn results_that_no_client_can_use_are_not_stored() {
    let mut remote = Remote::in_memory().await;
    let results = [
        reapi::ActionResult {
            output_directories: vec![reapi::OutputDirectory::default()],
            ..Default::default()
        },
        reapi::ActionResult {
            output_files: vec![reapi::OutputFile::default()],
            ..Default::default()
        },
        reapi::ActionResult {
            output_symlinks: vec![reapi::OutputSymlink::default()],
            ..Default::default()
        },
    ];
    for (index, result) in results.iter().enumerate() {
        let action = digest(index.to_string().as_bytes());
        let error = update(&mut remote, "", &action, result).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "case {index}: {error}");
        let error = get(&mut remote, "", &action).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "case {index}");
    }
}

async fn get(remote: &mut Remote, instance: &str, action: &reapi::Digest) -> Result<reapi::ActionResult, Status> {
    let request = reapi::GetActionResultRequest {
        instance_name: instance.to_owned(),
        action_digest: Some(action.clone()),
        ..Default::default()
    };
    let response = remote.action_cache.get_action_result(request).await?;
    Ok(response.into_inner())
}

async fn update(
    remote: &mut Remote,
    instance: &str,
    action: &reapi::Digest,
    result: &reapi::ActionResult,
) -> Result<reapi::ActionResult, Status> {
    let request = reapi::UpdateActionResultRequest {
        instance_name: instance.to_owned(),
        action_digest: Some(action.clone()),
        action_result: Some(result.clone()),
        ..Default::default()
    };
    let response = remote.action_cache.update_action_result(request).await?;
    Ok(response.into_inner())
}
