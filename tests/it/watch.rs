//! Files that change under the running program, and the signal that makes it read them.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use casgate::policy::method::Method;
use rustix::fs::{CWD, Mode, mkfifoat};

use crate::harness::backend::{Backend, Exchange, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, Credentials};
use crate::harness::wire::{Client, tls_config};
use crate::harness::{DEADLINE, frames, grpc, until};

const RELOADED: &str = "configuration reloaded";
const KEPT: &str = "configuration kept as it was";

/// Long enough for the program to have noticed what it must not make anything of.
const A_WHILE: Duration = Duration::from_millis(1500);

/// The program with a log that can be read, and the credentials of a writer whose certificate may come to be revoked.
async fn program(backend: &Backend, change: impl FnOnce(&mut Config)) -> (Gate, Credentials) {
    let mut config = Config::to(backend);
    config.top.push_str("\nlog = { format = \"json\" }");
    config.files.insert("ca.crl", config.authority.revoke(&[]));
    config.listen.push_str("client-crl = [\"ca.crl\"]\n");
    change(&mut config);
    let writer = config.authority.client("writer");
    (Gate::spawn(config).await, writer)
}

/// Puts a file under a name as `mv` and most editors do.
fn replace(gate: &Gate, name: &str, content: &str) {
    let made = gate.dir().join("new");
    std::fs::write(&made, content).unwrap();
    std::fs::rename(made, gate.dir().join(name)).unwrap();
}

async fn until_told(gate: &Gate, what: &str, times: usize) {
    until(what, || gate.told(what) >= times).await;
    assert_eq!(gate.told(what), times, "{:?}", gate.reload_log());
}

/// The revocation of a certificate that is in use shows on its connection, and on the next one.
async fn assert_revoked(gate: &Gate, client: &mut Client, writer: &Credentials) {
    let reply = client.ask(Method::Read, "").await;
    assert_eq!(reply.code(), Some(7), "{reply:?}");
    assert!(reply.message().contains("it is revoked"), "{}", reply.message());
    assert!(Client::try_connect(gate, tls_config(gate, Some(writer))).await.is_err());
}

#[tokio::test]
async fn a_changed_configuration_is_taken_into_use_however_it_was_written() {
    let backend = Backend::start(unary);
    let (gate, writer) = program(&backend, |_| {}).await;
    let mut client = gate.client_with(&writer).await;
    let path = gate.dir().join("casgate.toml");
    type Write<'a> = &'a dyn Fn(&str);
    let ways: [(&str, Write<'_>); 3] = [
        ("written in place", &|text| std::fs::write(&path, text).unwrap()),
        ("moved over", &|text| replace(&gate, "casgate.toml", text)),
        ("removed and made", &|text| {
            std::fs::rename(&path, path.with_extension("toml~")).unwrap();
            std::fs::write(&path, text).unwrap();
        }),
    ];
    let good = std::fs::read_to_string(&path).unwrap();
    let mut times = 0;
    for (way, write) in ways {
        for (allow, code) in [(r#"allow = ["pull"]"#, 7), (r#"allow = ["pull", "push"]"#, 0)] {
            write(&good.replace(r#"allow = ["pull", "push"]"#, allow));
            times += 1;
            until_told(&gate, RELOADED, times).await;
            let reply = client.ask(Method::BatchUpdateBlobs, "").await;
            assert_eq!(reply.code(), Some(code), "{way}: {allow}");
        }
    }
    assert_eq!(gate.told(KEPT), 0, "{:?}", gate.reload_log());
}

#[tokio::test]
async fn a_revocation_list_that_is_replaced_or_added_bites_without_a_signal() {
    let backend = Backend::start(unary);
    let (gate, writer) = program(&backend, |_| {}).await;
    let mut client = gate.client_with(&writer).await;
    client.tap.ignore_go_away();
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    replace(&gate, "ca.crl", &gate.config.authority.revoke(&[&writer]));
    until_told(&gate, RELOADED, 1).await;
    assert_revoked(&gate, &mut client, &writer).await;

    let other = gate.config.authority.client("writer");
    let mut client = gate.client_with(&other).await;
    client.tap.ignore_go_away();
    // Named first and made afterwards.
    let toml = std::fs::read_to_string(gate.dir().join("casgate.toml")).unwrap();
    replace(
        &gate,
        "casgate.toml",
        &toml.replace(r#"["ca.crl"]"#, r#"["ca.crl", "lists/more.crl"]"#),
    );
    until_told(&gate, KEPT, 1).await;
    let (level, text) = gate.reload_log().pop().unwrap();
    assert_eq!(level, "ERROR");
    assert!(
        text.contains("listen[0].client-crl") && text.contains("more.crl"),
        "{text}"
    );
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    std::fs::create_dir(gate.dir().join("lists")).unwrap();
    std::fs::write(
        gate.dir().join("lists/more.crl"),
        gate.config.authority.revoke(&[&other]),
    )
    .unwrap();
    until_told(&gate, RELOADED, 2).await;
    assert_revoked(&gate, &mut client, &other).await;
}

#[tokio::test]
async fn a_volume_of_kubernetes_is_followed_when_its_link_is_moved() {
    let backend = Backend::start(unary);
    let (gate, writer) = program(&backend, |_| {}).await;
    let mut client = gate.client_with(&writer).await;
    client.tap.ignore_go_away();
    let dir = gate.dir();
    let names = ["casgate.toml", "ca.crt", "ca.crl", "server.crt", "server.key"];
    let fill = |volume: &str| {
        std::fs::create_dir(dir.join(volume)).unwrap();
        for name in names {
            std::fs::copy(dir.join(name), dir.join(volume).join(name)).unwrap();
        }
    };
    let point = |volume: &str| {
        symlink(volume, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    fill("..first");
    point("..first");
    for name in names {
        symlink(Path::new("..data").join(name), dir.join("link")).unwrap();
        std::fs::rename(dir.join("link"), dir.join(name)).unwrap();
    }
    tokio::time::sleep(A_WHILE).await;
    // Links to the same contents are no news.
    assert_eq!(gate.reload_log(), []);
    for (times, (volume, old)) in [("..second", "..first"), ("..third", "..second")]
        .into_iter()
        .enumerate()
    {
        fill(volume);
        let revoked: &[&Credentials] = if times == 0 { &[] } else { &[&writer] };
        std::fs::write(dir.join(volume).join("ca.crl"), gate.config.authority.revoke(revoked)).unwrap();
        point(volume);
        std::fs::remove_dir_all(dir.join(old)).unwrap();
        until_told(&gate, RELOADED, times + 1).await;
    }
    assert_revoked(&gate, &mut client, &writer).await;
    assert_eq!(gate.told(KEPT), 0, "{:?}", gate.reload_log());
}

#[tokio::test]
async fn files_that_say_the_same_as_before_are_no_news() {
    let backend = Backend::start(unary);
    let (gate, _) = program(&backend, |_| {}).await;
    for name in ["casgate.toml", "server.key", "ca.crl"] {
        let content = std::fs::read_to_string(gate.dir().join(name)).unwrap();
        std::fs::write(gate.dir().join(name), &content).unwrap();
        replace(&gate, name, &content);
    }
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(gate.reload_log(), []);
    assert_eq!(gate.scrape("casgate_config_reload_total", &[]), 0.0);
    // A signal is an order.
    gate.hang_up();
    until_told(&gate, RELOADED, 1).await;
    assert_eq!(gate.scrape("casgate_config_reload_total", &["success"]), 1.0);
}

#[tokio::test]
async fn a_certificate_that_comes_before_its_key_is_waited_for() {
    let backend = Backend::start(unary);
    let (mut gate, writer) = program(&backend, |_| {}).await;
    let renewed = Authority::new("renewed");
    let server = renewed.server();
    replace(&gate, "server.crt", &server.pem());
    until_told(&gate, KEPT, 1).await;
    let (_, text) = gate.reload_log().pop().unwrap();
    for part in ["casgate.toml", "listen[0].certificate", "server.crt", "server.key"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(gate.told(KEPT), 1, "{:?}", gate.reload_log());
    assert_eq!(gate.scrape("casgate_config_reload_total", &["failure"]), 1.0);
    // The old pair goes on.
    let old = std::mem::replace(&mut gate.config.authority, renewed);
    let trusts_new = tls_config(&gate, Some(&writer));
    gate.config.authority = old;
    assert!(Client::try_connect(&gate, trusts_new.clone()).await.is_err());
    assert_eq!(
        gate.client_with(&writer).await.ask(Method::Read, "").await.code(),
        Some(0)
    );
    replace(&gate, "server.key", &server.key_pem());
    until_told(&gate, RELOADED, 1).await;
    assert!(Client::try_connect(&gate, trusts_new).await.is_ok());
    assert_eq!(gate.scrape("casgate_config_reload_total", &["success"]), 1.0);
}

#[tokio::test]
async fn a_mistake_is_told_of_once_and_again_at_each_signal() {
    let backend = Backend::start(unary);
    let (gate, _) = program(&backend, |_| {}).await;
    let good = std::fs::read_to_string(gate.dir().join("casgate.toml")).unwrap();
    for (times, broken) in ["[[[", "rules = 7"].into_iter().enumerate() {
        replace(&gate, "casgate.toml", broken);
        until("it is told of", || {
            gate.scrape("casgate_config_reload_total", &["failure"]) == times as f64 + 1.0
        })
        .await;
    }
    let told = gate.told(KEPT);
    // No file that is looked at.
    std::fs::write(gate.dir().join("server.key"), "").unwrap();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(gate.told(KEPT), told, "{:?}", gate.reload_log());
    gate.hang_up();
    until("it is told of again", || gate.told(KEPT) > told).await;
    assert_eq!(gate.scrape("casgate_config_generation", &[]), 1.0);
    std::fs::write(gate.dir().join("server.key"), &gate.config.files["server.key"]).unwrap();
    replace(&gate, "casgate.toml", &good);
    until_told(&gate, RELOADED, 1).await;
}

#[tokio::test]
async fn a_signal_ends_what_the_files_do_not_allow_any_more() {
    // What is taken away, from whom, what the client reads, and whether its connection is closed.
    type Change = fn(&mut Config, &Credentials);
    let cases: [(Change, &str, bool); 3] = [
        (
            |config, _| config.rules = config.rules.replace(r#"["pull", "push"]"#, r#"["pull"]"#),
            "may not push",
            false,
        ),
        (
            |config, writer| {
                config.files.insert("ca.crl", config.authority.revoke(&[writer]));
            },
            "it is revoked",
            true,
        ),
        (
            |config, _| {
                config.files.insert("ca.crt", Authority::new("another").pem());
            },
            "nor its issuer stands in `client-ca`",
            true,
        ),
    ];
    for (change, why, is_closed) in cases {
        let backend = Backend::start(|mut exchange: Exchange| async move { exchange.drain().await });
        let (mut gate, writer) = program(&backend, |config| config.top.push_str("\nwatch = false")).await;
        let mut client = gate.client_with(&writer).await;
        client.tap.ignore_go_away();
        let mut call = client.open(Method::Write);
        call.send(grpc::write(10)).await;
        backend
            .until("the call runs", |seen| {
                seen.first().is_some_and(|seen| seen.received > 0)
            })
            .await;
        change(&mut gate.config, &writer);
        gate.write();
        gate.hang_up();
        let (running, next) = (call.reply().await, client.ask(Method::BatchUpdateBlobs, "").await);
        for reply in [running, next] {
            assert_eq!(reply.code(), Some(7), "{reply:?}");
            assert!(reply.message().contains(why), "{}", reply.message());
        }
        assert_eq!(backend.streams(), 1);
        let told_to_go = || client.tap.received().iter().any(|frame| frame.kind == frames::GOAWAY);
        if is_closed {
            until("GOAWAY", told_to_go).await;
        } else {
            assert!(!told_to_go());
        }
        let again = Client::try_connect(&gate, tls_config(&gate, Some(&writer))).await;
        assert_eq!(again.is_err(), is_closed, "{why}");
    }
}

#[tokio::test]
async fn what_takes_a_restart_is_told_of_as_long_as_it_is_so() {
    let backend = Backend::start(unary);
    let (gate, _) = program(&backend, |_| {}).await;
    let path = gate.dir().join("casgate.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    let changes = [
        (
            "listen.address",
            "[[listen]]\naddress = \"127.0.0.1:0\"",
            "[[listen]]\naddress = \"127.0.0.2:0\"",
        ),
        (
            "admin.address",
            "[admin]\naddress = \"127.0.0.1:0\"",
            "[admin]\naddress = \"127.0.0.2:0\"",
        ),
        ("threads", "threads = 1", "threads = 2"),
        ("log.format", "format = \"json\"", "format = \"text\""),
        (
            "log.filter",
            "format = \"json\"",
            "format = \"json\", filter = \"debug\"",
        ),
    ];
    let mut reloads = 0;
    for (key, from, to) in changes {
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replace(from, to)).unwrap();
        // The second time nothing has changed since the first.
        for times in 1..=2 {
            gate.hang_up();
            reloads += 1;
            until("a reload", || gate.told(RELOADED) >= reloads).await;
            reloads = gate.told(RELOADED);
            let told = gate.told(&format!("`{key}` has changed, which takes a restart"));
            assert!(told >= times, "{key}: {:?}", gate.reload_log());
        }
    }
    std::fs::write(&path, &good).unwrap();
    gate.hang_up();
    until("a reload", || gate.told(RELOADED) > reloads).await;
    let log = gate.reload_log();
    let last = log.iter().rposition(|(_, text)| text.contains(RELOADED)).unwrap();
    let before_last = log[..last]
        .iter()
        .rposition(|(_, text)| text.contains(RELOADED))
        .unwrap();
    assert!(
        !log[before_last..]
            .iter()
            .any(|(_, text)| text.contains("takes a restart")),
        "{log:?}"
    );
    assert_eq!(gate.told(KEPT), 0);
}

#[tokio::test]
async fn without_a_watch_only_the_signal_counts() {
    let backend = Backend::start(unary);
    let (mut gate, _) = program(&backend, |config| config.top.push_str("\nwatch = false")).await;
    let mut client = gate.client("reader").await;
    gate.config.rules.clear();
    gate.write();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    assert_eq!(gate.reload_log(), []);
    // The watch that the new configuration asks for begins with it.
    gate.config.top = gate.config.top.replace("watch = false", "watch = true");
    gate.write();
    gate.hang_up();
    until_told(&gate, RELOADED, 1).await;
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(7));
    gate.config.rule("everybody", "\"any\"", &["pull"], None);
    gate.write();
    until_told(&gate, RELOADED, 2).await;
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
}

#[tokio::test]
async fn a_named_pipe_in_the_place_of_a_file_holds_up_nothing() {
    let backend = Backend::start(unary);
    let (mut gate, writer) = program(&backend, |_| {}).await;
    let mut client = gate.client_with(&writer).await;
    assert_eq!(client.ask(Method::Read, "").await.code(), Some(0));
    let key = std::fs::read_to_string(gate.dir().join("server.key")).unwrap();
    let pipe = gate.dir().join("pipe");
    mkfifoat(CWD, &pipe, Mode::RUSR).unwrap();
    std::fs::rename(&pipe, gate.dir().join("server.key")).unwrap();
    until_told(&gate, KEPT, 1).await;
    for word in ["check", "serve"] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_casgate"));
        command
            .args([word, "--config"])
            .arg(gate.dir().join("casgate.toml"))
            .kill_on_drop(true);
        let output = tokio::time::timeout(DEADLINE, command.output()).await.unwrap().unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(
            !output.status.success() && told.contains("it is a named pipe"),
            "{word}: {told}"
        );
    }

    // Later changes are seen, and so is SIGTERM.
    let list = gate.config.authority.revoke(&[&writer]);
    replace(&gate, "ca.crl", &list);
    replace(&gate, "server.key", &key);
    until("it is reloaded", || gate.told(RELOADED) > 0).await;
    assert!(
        Client::try_connect(&gate, tls_config(&gate, Some(&writer)))
            .await
            .is_err()
    );
    drop(client);
    assert!(gate.terminate().await.success());
}
