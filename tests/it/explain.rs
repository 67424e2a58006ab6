//! `casgate explain` says of a call what the gate does with it.

use std::process::{Command, Output};

use casgate::policy::method::Method;
use rcgen::{CertificateParams, DnType};
use serde_json::Value;

use crate::harness::backend::{Backend, unary};
use crate::harness::gate::{Config, Gate};
use crate::harness::pki::{Authority, Credentials, expired};
use crate::harness::wire::Client;

/// Runs it on the configuration of a gate; `None` is an anonymous caller.
fn explain(gate: &Gate, caller: Option<&Credentials>, arguments: &[&str]) -> Output {
    let file = gate.dir().join("explained.crt");
    let mut command = Command::new(env!("CARGO_BIN_EXE_casgate"));
    command
        .arg("explain")
        .arg("--config")
        .arg(gate.dir().join("casgate.toml"));
    match caller {
        Some(credentials) => {
            let chain = credentials.chain();
            let chain = chain.iter().map(|der| crate::harness::pki::pem("CERTIFICATE", der));
            std::fs::write(&file, chain.collect::<String>()).unwrap();
            command.arg("--certificate").arg(file);
        }
        None => {
            command.args(["--peer", "anonymous"]);
        }
    }
    command.args(arguments).output().unwrap()
}

fn json(gate: &Gate, caller: Option<&Credentials>, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = explain(gate, caller, &[arguments, &["--format", "json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let parsed = serde_json::from_str(&text);
    (
        output.status.code(),
        parsed.unwrap_or_else(|error| panic!("{error}: {text}")),
    )
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

fn config(backend: &Backend) -> Config {
    let mut config = Config::to(backend).with_anonymous();
    let other = Authority::new("other");
    config.files.insert("other.crt", other.pem());
    config.client_ca = "{ name = \"ci\", file = \"ca.crt\" }, { name = \"dev\", file = \"other.crt\" }".to_owned();
    config.rule("everybody", "\"anonymous\"", &["pull"], Some(&["public"]));
    config.rule(
        "tenants",
        "{ organization = \"Team\", issued-by = \"ci\" }",
        &["pull", "push", "execute"],
        Some(&["team/**"]),
    );
    config.rules.push_str(
        "\n[[rules]]\nname = \"frozen\"\ncertificate = \"any\"\ndeny = [\"push\"]\ninstances = [\"team/frozen\"]\n",
    );
    config
}

#[tokio::test]
async fn the_explained_answer_is_the_answer() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend)).await;
    let authority = &gate.config.authority;
    let team = authority.client_with("x", |params| {
        params.distinguished_name.push(DnType::OrganizationName, "Team")
    });
    let callers = [
        Some(authority.client("reader")),
        Some(authority.client("writer")),
        Some(authority.client("stranger")),
        Some(authority.client("odd `name`\n100 %")),
        Some(team),
        None,
    ];
    let methods = [
        Method::FindMissingBlobs,
        Method::BatchUpdateBlobs,
        Method::UpdateActionResult,
        Method::Execute,
        Method::WaitExecution,
        Method::PushBlob,
        Method::GetCapabilities,
    ];
    let (mut allowed, mut denied) = (0, 0);
    for caller in &callers {
        let mut client = Client::connect(&gate, caller.as_ref()).await;
        for method in methods {
            for instance in ["", "public", "team/a", "team/frozen", "a//b"] {
                let before = backend.streams();
                let reply = client.ask(method, instance).await;
                let arguments = ["--method", method.path(), "--instance", instance];
                let (code, account) = json(&gate, caller.as_ref(), &arguments);
                let place = format!("{method:?} {instance:?}: {account:#}\n{reply:?}");
                let reached = backend.streams() > before;
                assert_eq!(account["allowed"], reached, "{place}");
                assert_eq!(code, Some(if reached { 0 } else { 2 }), "{place}");
                if reached {
                    assert_eq!(account["backend"], "cache", "{place}");
                    assert_eq!(account["answer"], Value::Null, "{place}");
                    allowed += 1;
                } else {
                    assert_eq!(account["answer"]["code"], reply.code().unwrap(), "{place}");
                    // Each denial has an id of its own.
                    let message = reply.message();
                    let said = message.split(" (call ").next().unwrap();
                    assert_eq!(account["answer"]["message"], said, "{place}");
                    denied += 1;
                }
            }
        }
    }
    assert!(allowed > 20 && denied > 80, "{allowed} {denied}");
}

#[tokio::test]
async fn a_kind_refusal_is_explained_as_it_is_answered() {
    let backend = Backend::start(unary);
    let mut config = config(&backend);
    for (name, key) in [
        ("discard", "on-denied-push = \"discard\""),
        ("probe", "push-probe = \"accept\""),
    ] {
        config.rules.push_str(&format!(
            "\n[[rules]]\nname = \"{name}\"\ncertificate = \"any\"\ninstances = [\"{name}\"]\n{key}\n"
        ));
    }
    let gate = Gate::start(config).await;
    let reader = gate.config.authority.client("reader");
    let mut client = Client::connect(&gate, Some(&reader)).await;
    for (method, instance, code, answered) in [
        (Method::BatchUpdateBlobs, "discard", 0, Some("discarded")),
        (Method::Write, "discard", 0, Some("discarded")),
        (Method::PushBlob, "discard", 7, None),
        (Method::Write, "probe", 7, None),
        (Method::PushBlob, "probe", 3, Some("probe")),
        (Method::Write, "a//b", 3, None),
    ] {
        let reply = client.ask(method, instance).await;
        let arguments = ["--method", method.path(), "--instance", instance];
        let (exit, account) = json(&gate, Some(&reader), &arguments);
        let place = format!("{method:?} {instance}: {account:#}\n{reply:?}");
        assert_eq!((exit, reply.code()), (Some(2), Some(code)), "{place}");
        assert_eq!(account["answer"]["code"], code, "{place}");
        let message = reply.message();
        assert_eq!(
            account["answer"]["message"],
            message.split(" (call ").next().unwrap(),
            "{place}"
        );
        assert_eq!(account["answer"]["answered"].as_str(), answered, "{place}");
        assert_eq!(account["allowed"], false, "{place}");
    }
    let batch = ["--method", "BatchUpdateBlobs", "--instance", "probe"];
    let (_, account) = json(&gate, Some(&reader), &batch);
    assert_eq!(
        (&account["answer"]["code"], &account["answer-if-empty"]["code"]),
        (&7.into(), &0.into())
    );
    assert_eq!(client.ask(Method::BatchUpdateBlobs, "probe").await.code(), Some(0));
    let said = text(&explain(&gate, Some(&reader), &batch));
    for line in [
        "rule \"probe\" matches: it has probes for pushes accepted",
        "rule \"discard\" matches: it has denied pushes discarded, but not on the instance `probe`",
        "but by rule \"probe\", of an empty request: it is a probe, and is accepted",
        "answer OK (0)",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\nis not in:\n{said}");
    }
    assert_eq!(backend.streams(), 0);
}

#[tokio::test]
async fn it_tells_why_each_rule_matches_or_not() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend)).await;
    let authority = &gate.config.authority;
    let team = |params: &mut CertificateParams| params.distinguished_name.push(DnType::OrganizationName, "Team");
    let caller = authority.client_with("x", team);
    let output = explain(
        &gate,
        Some(&caller),
        &["--method", "ByteStream/Write", "--instance", "team/frozen"],
    );
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for line in [
        "certificate CN=x, O=Team",
        "  issued-by           ci",
        "listener 1, https://127.0.0.1:0: accepted",
        "call /google.bytestream.ByteStream/Write on instance \"team/frozen\", which needs cas-push",
        "rule \"readers\" does not match: it wants common-name `reader`, which is `x`",
        "rule \"everybody\" does not match: it is about callers without a certificate",
        "rule \"tenants\" matches: it allows cas-push",
        "rule \"frozen\" matches: it denies cas-push",
        "refused by rule \"frozen\": forbidden",
        "answer PermissionDenied (7): certificate `CN=x` may not push here; set `push: false` for this remote (BuildStream) or `--remote_upload_local_results=false` (Bazel) (call ID)",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\nis not in:\n{said}");
    }
    let double = DnType::CustomDnType(vec![2, 5, 4, 3]);
    let ambiguous = authority.client_with("reader", |params| params.distinguished_name.push(double, "y"));
    let said = text(&explain(&gate, Some(&ambiguous), &["--method", "Read"]));
    let line = "rule \"readers\" is ambiguous: it wants the one common-name `reader`, and there are `reader`, `y`; so it gives nothing, and takes what it denies";
    assert!(said.contains(line), "{said}");
    let said = text(&explain(
        &gate,
        Some(&caller),
        &["--method", "Read", "--instance", "team/a"],
    ));
    assert!(
        said.contains("allowed by rule \"tenants\" with pull\nanswered by backend cache\n"),
        "{said}"
    );
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_has_no_answer() {
    let backend = Backend::start(unary);
    let gate = Gate::start(config(&backend)).await;
    let late = gate.config.authority.client_with("reader", expired);
    for (caller, why) in [
        (late, "it has expired"),
        (
            Authority::new("x").client("reader"),
            "neither it nor its issuer stands in `client-ca`",
        ),
    ] {
        let (code, account) = json(&gate, Some(&caller), &["--method", "Read"]);
        assert_eq!(code, Some(2));
        assert_eq!(account["listener"]["accepted"], false);
        assert_eq!(account["listener"]["reason"], why);
        assert_eq!(account["answer"], Value::Null);
        let said = text(&explain(&gate, Some(&caller), &["--method", "Read"]));
        assert!(
            said.ends_with("refused: there is no connection, and no answer\n"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn mistakes_of_the_command_line_are_told_from_denials() {
    let backend = Backend::start(unary);
    let mut with_two = config(&backend);
    with_two.more_listeners = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n".to_owned();
    let gate = Gate::start(with_two).await;
    for (arguments, why) in [
        (&["--method", "Wirte"][..], "near it: ByteStream/Write"),
        (&["--method", "Read", "--listener", "3"], "there are 2, counted from 1"),
        (&["--method", "Read", "--listener", "0"], "there are 2, counted from 1"),
    ] {
        let output = explain(&gate, None, arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(why), "{}", text(&output));
    }
    // Callers of the second listener show no certificate.
    let reader = gate.config.authority.client("reader");
    for (caller, code) in [(None, 0), (Some(&reader), 2)] {
        let output = explain(
            &gate,
            caller,
            &["--method", "Read", "--instance", "public", "--listener", "2"],
        );
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    }
}
