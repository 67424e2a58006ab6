//! What operators and machines do to a gate that serves: reloads, revocations, backends that come and go. Each of them waits
//! until it has had its effect.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use casgate::certs::Folder;
use casgate::policy::method::Method;

use crate::Result;
use crate::calls::framed;
use crate::client::{Client, Door, answer};
use crate::metrics::Metrics;
use crate::noise::Random;
use crate::scene::{STORE, Scene};
use crate::tally::{Failure, REFUSED};

/// How long anything may take that must happen. Long: the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);
/// Whose rights change from reload to reload.
pub(crate) const FICKLE: &str = "fickle";
/// What the log says of a configuration that is broken here for a try.
pub(crate) const MISTAKE: &str = "no-such-key";

/// Changes the configuration every few seconds, and with it what `fickle` may on a connection that goes on.
pub(crate) async fn reload(scene: Arc<Scene>, door: Door) {
    let mut random = Random(3);
    while scene.pause(Duration::from_millis(2000 + random.next() % 4000)).await {
        let number = 1 + scene.reloads.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = reload_once(&scene, &door, number).await {
            scene.tally.fault(&format!("reload {number}: {error}"));
        }
    }
}

async fn reload_once(scene: &Scene, door: &Door, number: u64) -> Result<()> {
    let stage = &scene.stage;
    let folder = stage.folder.lock().await;
    let is_told = number.is_multiple_of(2);
    let told = if is_told { "by SIGHUP" } else { "by itself" };
    if number.is_multiple_of(6) {
        // Everything goes on as before.
        let failures = |now: &Metrics| now.sum("casgate_config_reload_total", "failure");
        let before = failures(&Metrics::of(stage.admin).await?);
        stage.write(&format!("{MISTAKE} = true\n"))?;
        stage.hang_up()?;
        wait(scene, "a broken configuration is noticed", |now| failures(now) > before).await?;
        scene.tally.did("broken configuration");
    }
    if number.is_multiple_of(5) {
        std::fs::remove_file(folder.path().join("server.crt"))?;
        folder.server(&["localhost".to_owned(), "127.0.0.1".to_owned()], 30)?;
        scene.tally.did("new server certificate");
    }
    let may_push = !number.is_multiple_of(2);
    let client = door.connect().await.map_err(|failure| failure.text)?;
    if push(&client).await.is_ok() == may_push {
        return Err("what `fickle` may has changed before".into());
    }
    let mut more = format!("connections = {}\n", 1 + number / 4 % 2);
    if may_push {
        more += &format!("[[rules]]\ncertificate = {{ common-name = \"{FICKLE}\" }}\nallow = [\"push\"]\n");
    }
    // Rules for callers who are not there.
    for absent in 0..number % 100 {
        more += &format!("[[rules]]\ncertificate = {{ common-name = \"absent-{absent}\" }}\nallow = [\"pull\"]\n");
    }
    stage.write(&more)?;
    if is_told {
        stage.rotate()?;
        stage.hang_up()?;
    }
    scene.tally.did(&format!("reload {told}"));
    // From the first call on for which the new rules hold, they hold for all.
    let (begun, mut held) = (Instant::now(), 0);
    while held < 10 {
        let asked = Instant::now();
        let done = push(&client).await;
        let holds = done.is_ok() == may_push;
        if !holds && held > 0 {
            return Err(format!("rules came and went: {done:?}").into());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("new rules do not hold within {PATIENCE:?}").into());
        }
        held += u32::from(holds);
        scene
            .tally
            .ended(FICKLE, ("push, as rules change", done.is_ok()), asked, done, |_| None);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.close().await;
    Ok(())
}

/// Revokes a certificate every some seconds.
pub(crate) async fn revoke(scene: Arc<Scene>) {
    let mut random = Random(4);
    while scene.pause(Duration::from_millis(4000 + random.next() % 8000)).await {
        let folder = scene.stage.folder.lock().await;
        if let Err(error) = revoke_once(&scene, &folder, random.next()).await {
            scene.tally.fault(&format!("revocation: {error}"));
        }
    }
}

async fn revoke_once(scene: &Scene, folder: &Folder, number: u64) -> Result<()> {
    let name = format!("victim-{}", uuid::Uuid::new_v4());
    folder.client(&name, 2)?;
    let door = scene.stage.door(Some(&name))?;
    let client = door.connect().await.map_err(|failure| failure.text)?;
    // A call that has begun, and whose request has no end yet.
    let (response, mut body) = client
        .open(Method::FindMissingBlobs)
        .await
        .map_err(|failure| failure.text)?;
    body.send_data(framed(&request()), false)?;
    let running = tokio::spawn(answer(response, drop));
    find(&client)
        .await
        .map_err(|failure| format!("before it was revoked: {failure:?}"))?;
    folder.revoke(std::slice::from_ref(&name), None)?;
    let is_told = number.is_multiple_of(2);
    if is_told {
        scene.stage.hang_up()?;
    }
    scene.tally.did(if is_told {
        "revocation by SIGHUP"
    } else {
        "revocation by itself"
    });
    let revoked = |what, failure: &Failure| {
        // Refused, or not let in at all.
        let is_known = matches!(failure.code, None | Some(REFUSED));
        scene.tally.failed(what, failure, is_known.then_some("it was revoked"));
    };
    let begun = Instant::now();
    while !client.has_ended() {
        if begun.elapsed() > PATIENCE {
            return Err("the connection of a revoked certificate goes on".into());
        }
        match find(&client).await {
            // It may not have come round yet.
            Ok(()) => {}
            Err(failure) => revoked("FindMissingBlobs", &failure),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match tokio::time::timeout(PATIENCE, running).await?? {
        Err(failure) if failure.code == Some(REFUSED) => revoked("a running call", &failure),
        other => return Err(format!("a running call of a revoked certificate ended with {other:?}").into()),
    }
    for _ in 0..3 {
        // With TLS 1.3 the client hears of it after its part of the handshake.
        let failure = match door.connect().await {
            Ok(client) => match find(&client).await {
                Ok(()) => return Err("a revoked certificate was let in again".into()),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        revoked("connect", &failure);
    }
    Ok(())
}

/// Ends replicas and starts them again.
pub(crate) async fn restart(scene: Arc<Scene>) {
    let mut random = Random(5);
    while scene.pause(Duration::from_millis(6000 + random.next() % 9000)).await {
        if let Err(error) = restart_once(&scene, &mut random).await {
            scene.tally.fault(&format!("restart: {error}"));
        }
    }
}

async fn restart_once(scene: &Scene, random: &mut Random) -> Result<()> {
    let replicas = &scene.stage.replicas;
    let (what, which) = match random.next() % 4 {
        0 => ("both replicas restart", replicas.as_slice()),
        1 => ("replica b restarts", &replicas[1..]),
        _ => ("replica a restarts", &replicas[..1]),
    };
    scene.outages.begin();
    scene.tally.did(what);
    which.iter().for_each(|replica| replica.kill());
    tokio::time::sleep(Duration::from_millis(random.next() % 4000)).await;
    for replica in which {
        replica.start()?;
    }
    let begun = Instant::now();
    while !which.iter().all(|replica| replica.is_there()) {
        if begun.elapsed() > PATIENCE {
            return Err("a replica does not start".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.outages.end();
    wait(scene, "the gate finds both replicas again", |now| {
        now.sum("casgate_endpoint_up", "backend=\"replicas\"") == 2.0
    })
    .await
}

/// Asks the gate until something is so.
async fn wait(scene: &Scene, what: &str, mut holds: impl FnMut(&Metrics) -> bool) -> Result<()> {
    let begun = Instant::now();
    while !holds(&Metrics::of(scene.stage.admin).await?) {
        if begun.elapsed() > PATIENCE {
            return Err(format!("did not happen within {PATIENCE:?}: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// It goes to the store, which does not go away.
fn request() -> reapi::FindMissingBlobsRequest {
    reapi::FindMissingBlobsRequest {
        instance_name: STORE.to_owned(),
        ..Default::default()
    }
}

async fn find(client: &Client) -> std::result::Result<(), Failure> {
    let _answer: reapi::FindMissingBlobsResponse = client.ask(Method::FindMissingBlobs, &request()).await?;
    Ok(())
}

/// A push of nothing, as BuildStream asks whether it may.
async fn push(client: &Client) -> std::result::Result<(), Failure> {
    let request = reapi::BatchUpdateBlobsRequest {
        instance_name: STORE.to_owned(),
        ..Default::default()
    };
    let _answer: reapi::BatchUpdateBlobsResponse = client.ask(Method::BatchUpdateBlobs, &request).await?;
    Ok(())
}
