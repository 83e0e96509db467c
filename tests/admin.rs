//! The admin socket: who may, what is refused and how it is said, and the methods themselves.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Peer, World, eventually, message};
use serde_json::{Value, json};
use smsconnect::admin::METHODS;
use smsconnect::config::Principal;
use smsconnect::smpp::{CommandId, CommandStatus};
use smsconnect::tools::smsc::SmscOptions;

/// Writes a line as it is; the answer's line.
fn line(socket: &Path, text: &str) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(common::WAIT)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream.write_all(b"\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

fn call(world: &World, method: &str, params: Value) -> Value {
    let request = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    line(&world.config.admin.socket, &request.to_string())
}

fn code(answer: &Value) -> &str {
    answer["error"]["data"]["code"].as_str().unwrap_or("no error")
}

fn with_roles(roles: &[&str]) -> World {
    World::with(SmscOptions::default(), |c| {
        c.admin.principal = vec![Principal {
            name: "me".into(),
            uid: Some(nix::unistd::Uid::effective().as_raw()),
            roles: roles.iter().map(|r| r.to_string()).collect(),
            orgs: vec!["*".into()],
            ..Principal::default()
        }];
    })
}

#[test]
fn every_method_of_the_table_is_there_and_others_are_named_as_unknown() {
    let world = World::new();
    for method in METHODS.iter().filter(|m| m.name != "server.drain") {
        let answer = call(&world, method.name, json!({"no_such_parameter": 1}));
        assert!(
            ["E_ARG", "E_AMOUNT"].contains(&code(&answer)),
            "{}: {answer}",
            method.name
        );
        assert!(answer["error"]["data"]["field"].is_string(), "{answer}");
        assert_eq!(answer["id"], 7);
    }
    assert_eq!(code(&call(&world, "account.explode", json!({}))), "E_UNKNOWN_CMD");
}

#[test]
fn lines_that_are_no_requests_get_json_rpc_errors() {
    let world = World::new();
    let socket = &world.config.admin.socket;
    assert_eq!(line(socket, "hello")["error"]["code"], -32700);
    assert_eq!(line(socket, "{}")["error"]["code"], -32600);
    assert_eq!(
        line(socket, r#"{"jsonrpc":"1.0","id":1,"method":"stats.show"}"#)["error"]["code"],
        -32600
    );
    assert_eq!(
        line(
            socket,
            r#"{"jsonrpc":"2.0","id":1,"method":"stats.show","params":[1]}"#
        )["error"]["code"],
        -32602
    );
    let batch = line(
        socket,
        r#"[{"jsonrpc":"2.0","id":1,"method":"stats.show"},{"jsonrpc":"2.0","id":2,"method":"x.y"},{"jsonrpc":"2.0","method":"stats.show"}]"#,
    );
    assert_eq!(
        batch.as_array().unwrap().len(),
        2,
        "a notification is not answered: {batch}"
    );
    // Longer than a request may be: said, and closed.
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut sent = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let _closed_early = sent.write_all(&vec![b'x'; 1_200_000]);
    });
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    writer.join().unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("E_TOO_LARGE"), "{text}");
    call(&world, "stats.show", json!({}));
}

#[test]
fn a_role_opens_its_methods_and_no_others() {
    let world = with_roles(&["noc"]);
    assert_eq!(code(&call(&world, "session.list", json!({}))), "no error");
    assert_eq!(
        code(&call(&world, "upstream.disable", json!({"name": "sim"}))),
        "no error"
    );
    assert_eq!(code(&call(&world, "wallet.topup", json!({}))), "E_DENIED");
    assert_eq!(code(&call(&world, "account.create", json!({}))), "E_DENIED");
    assert_eq!(code(&call(&world, "server.drain", json!({}))), "E_DENIED");
}

#[test]
fn without_a_role_everything_is_denied() {
    let world = with_roles(&[]);
    for method in METHODS {
        assert_eq!(
            code(&call(&world, method.name, json!({}))),
            "E_DENIED",
            "{}",
            method.name
        );
    }
}

#[test]
fn accounts_are_created_shown_changed_and_closed() {
    let world = World::new();
    let made = call(
        &world,
        "account.create",
        json!({"name": "Acme Ltd", "system_id": "acme"}),
    );
    let made = &made["result"];
    let password = made["password"].as_str().unwrap();
    assert!(password.len() <= 8, "fits SMPP 3.4's password field");
    let mut peer = Peer::connect(world.addr());
    assert_eq!(
        peer.bind(CommandId::BIND_TRANSCEIVER, "acme", password),
        CommandStatus::ESME_ROK
    );
    let shown = call(&world, "account.show", json!({"account": "Acme Ltd"}));
    assert!(!shown.to_string().contains(password), "the secret is shown once");
    assert!(!shown.to_string().contains("argon2"), "nor is its hash: {shown}");
    for (again, field) in [
        (json!({"name": "Acme Ltd", "system_id": "other"}), "name"),
        (json!({"name": "Other", "system_id": "acme"}), "system_id"),
    ] {
        let answer = call(&world, "account.create", again);
        assert_eq!(code(&answer), "E_EXISTS");
        assert_eq!(answer["error"]["data"]["field"], field);
    }
    for (bad, field) in [
        (json!({"system_id": "x"}), "name"),
        (json!({"name": "x"}), "system_id"),
        (json!({"name": "x", "system_id": "sixteen_letters_"}), "system_id"),
        (json!({"name": "x", "system_id": "x", "tps": -1}), "tps"),
        (json!({"name": "x", "system_id": "x", "tariff": "gold"}), "tariff"),
        (json!({"name": "x", "system_id": "x", "bind": "sideways"}), "bind"),
        (
            json!({"name": "x", "system_id": "x", "password": "with blank"}),
            "password",
        ),
        (json!({"name": "x", "system_id": "x", "tsp": 5}), "tsp"),
    ] {
        let answer = call(&world, "account.create", bad.clone());
        assert_eq!(code(&answer), "E_ARG", "{bad}");
        assert_eq!(answer["error"]["data"]["field"], field, "{answer}");
    }
    let changed = call(
        &world,
        "account.update",
        json!({"account": "acme", "tps": 5, "password": "newpass1"}),
    );
    assert_eq!(changed["result"]["tps"], 5);
    let try_bind =
        |password: &str| Peer::connect(world.addr()).bind(CommandId::BIND_TRANSCEIVER, "acme", password);
    assert_eq!(try_bind("newpass1"), CommandStatus::ESME_ROK);
    assert_eq!(
        try_bind(password),
        CommandStatus::ESME_RBINDFAIL,
        "the old one is forgotten"
    );
    call(&world, "account.close", json!({"account": "acme"}));
    assert_eq!(try_bind("newpass1"), CommandStatus::ESME_RBINDFAIL);
    assert_eq!(
        code(&call(&world, "account.resume", json!({"account": "acme"}))),
        "E_STATE"
    );
    assert_eq!(
        code(&call(&world, "account.show", json!({"account": "nobody"}))),
        "E_NOT_FOUND"
    );
}

#[test]
fn changes_of_one_account_at_once_do_not_undo_each_other() {
    let world = World::new();
    world.account("acme", "1", json!({}));
    let socket = world.config.admin.socket.clone();
    let threads: Vec<_> = ["tps", "window", "max_binds"]
        .into_iter()
        .map(|field| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                for n in 1..=40 {
                    common::admin(&socket, "account.update", json!({"account": "acme", field: n})).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let shown = world.admin("account.show", json!({"account": "acme"})).unwrap();
    for field in ["tps", "window", "max_binds"] {
        assert_eq!(shown[field], 40, "{shown}");
    }
}

#[test]
fn a_payment_counts_once() {
    let world = World::new();
    world.account("acme", "0", json!({}));
    world.account("other", "0", json!({}));
    let pay = |account: &str, amount: &str, receipt: &str| {
        let params = json!({"account": account, "amount": amount, "provider": "MPESA", "receipt": receipt});
        call(&world, "wallet.topup", params)
    };
    let first = pay("acme", "250.00", "QK1")["result"].clone();
    assert_eq!(
        (first["duplicate"].clone(), first["balance"].clone()),
        (json!(false), json!("250.00"))
    );
    let again = pay("acme", "250.00", "qk1 ")["result"].clone();
    assert_eq!(
        (again["duplicate"].clone(), again["balance"].clone()),
        (json!(true), json!("250.00"))
    );
    assert_eq!(again["entry"], first["entry"]);
    assert_eq!(code(&pay("acme", "251.00", "QK1")), "E_IDEMPOTENCY_CONFLICT");
    assert_eq!(code(&pay("other", "250.00", "QK1")), "E_IDEMPOTENCY_CONFLICT");
    for amount in ["0", "-5", "1.0000001", "1e3", "abc", ""] {
        let answer = pay("acme", amount, "QK2");
        assert!(
            ["E_AMOUNT", "E_ARG"].contains(&code(&answer)),
            "{amount}: {answer}"
        );
        assert_eq!(answer["error"]["data"]["field"], "amount");
    }
    assert_eq!(world.wallet("acme").0, "250.00");
    let statement = call(&world, "wallet.statement", json!({"account": "acme"}));
    assert_eq!(
        statement["result"]["items"].as_array().unwrap().len(),
        1,
        "{statement}"
    );
    world.reconciles();
}

#[test]
fn the_same_payment_from_many_connections_at_once_counts_once() {
    let world = World::new();
    world.account("acme", "0", json!({}));
    let socket = world.config.admin.socket.clone();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                let params = json!({"account": "acme", "amount": "10", "provider": "bank", "receipt": "R"});
                let answer = common::admin(&socket, "wallet.topup", params).unwrap();
                u32::from(answer["duplicate"] == false)
            })
        })
        .collect();
    let firsts: u32 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!(world.wallet("acme").0, "10.00");
    assert_eq!(firsts, 1, "exactly one is told that it was first");
    world.reconciles();
}

#[test]
fn a_credit_limit_lets_the_balance_go_below_zero_and_no_further() {
    let world = World::new();
    world.account("acme", "0.80", json!({}));
    let mut p = world.bound("acme");
    call(
        &world,
        "wallet.limit",
        json!({"account": "acme", "credit": "0.80"}),
    );
    assert_eq!(p.submit(&message(b"x")).status, CommandStatus::ESME_ROK);
    assert_eq!(p.submit(&message(b"x")).status, CommandStatus::ESME_ROK);
    assert_eq!(p.submit(&message(b"x")).status, CommandStatus(0x0400));
    eventually("both are charged", || {
        world.wallet("acme") == ("-0.80".into(), "0.00".into())
    });
    world.reconciles();
}

#[test]
fn lists_come_in_pages() {
    let world = World::new();
    for n in 0..5 {
        world.account(&format!("a{n}"), "0", json!({}));
    }
    let mut names = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let page = call(&world, "account.list", json!({"limit": 2, "cursor": cursor}));
        let page = &page["result"];
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|a| a["account"].as_str().unwrap().to_string()));
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(names, ["a0", "a1", "a2", "a3", "a4"]);
}

#[test]
fn a_client_that_does_not_read_slows_nobody() {
    let world = World::new();
    world.account("acme", "10", json!({}));
    let mut deaf = UnixStream::connect(&world.config.admin.socket).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let request = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats.show\"}\n".repeat(2_000);
    for _ in 0..50 {
        if deaf.write_all(request.as_bytes()).is_err() {
            break;
        }
    }
    call(&world, "stats.show", json!({}));
    assert_eq!(
        world.bound("acme").submit(&message(b"x")).status,
        CommandStatus::ESME_ROK
    );
}

#[test]
fn the_socket_has_its_mode_replaces_a_stale_one_and_nothing_else() {
    let mut world = World::with(SmscOptions::default(), |c| c.admin.mode = 0o600);
    let socket = world.config.admin.socket.clone();
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    world.stop();
    // What a killed daemon leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    world.start();
    world.admin("stats.show", json!({})).unwrap();
    world.stop();
    std::fs::write(&socket, b"not a socket").unwrap();
    let refused = world
        .runtime
        .block_on(async { smsconnect::daemon::start(&world.config) })
        .unwrap_err()
        .to_string();
    assert!(refused.contains("not a socket"), "{refused}");
    assert_eq!(std::fs::read(&socket).unwrap(), b"not a socket");
}

fn ctl(world: &World, args: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_smsconnect"))
        .args(["ctl", "--socket"])
        .arg(&world.config.admin.socket)
        .args(args)
        .output()
        .unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[test]
fn ctl_maps_onto_the_methods_with_tables_json_and_exit_codes() {
    let world = World::new();
    let (exit, said, err) = ctl(
        &world,
        &[
            "account",
            "create",
            "--name",
            "acme",
            "--system-id",
            "acme",
            "--password",
            "secret1",
        ],
    );
    assert_eq!(exit, Some(0), "{said}{err}");
    let (exit, said, err) = ctl(
        &world,
        &[
            "wallet",
            "topup",
            "--account",
            "acme",
            "--amount",
            "5",
            "--provider",
            "bank",
            "--receipt",
            "1",
        ],
    );
    assert_eq!(exit, Some(0), "{said}{err}");
    let (exit, said, _) = ctl(&world, &["--json", "wallet", "show", "--account", "acme"]);
    assert_eq!(exit, Some(0));
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(shown["balance"], "5.00");
    let (exit, said, _) = ctl(&world, &["account", "list"]);
    assert_eq!(exit, Some(0));
    assert!(said.contains("acme") && said.contains("5.00"), "{said}");
    for (args, wanted) in [
        (&["wallet", "show", "--account", "nobody"][..], 4),
        (
            &["account", "create", "--name", "acme", "--system-id", "b"][..],
            5,
        ),
        (
            &[
                "wallet",
                "topup",
                "--account",
                "acme",
                "--amount",
                "x",
                "--provider",
                "b",
                "--receipt",
                "1",
            ][..],
            6,
        ),
        (&["account"][..], 2),
    ] {
        let (exit, said, err) = ctl(&world, args);
        assert_eq!(exit, Some(wanted), "{args:?}: {said}{err}");
        assert!(!err.is_empty(), "{args:?} says why");
    }
    let nowhere = Command::new(env!("CARGO_BIN_EXE_smsconnect"))
        .args(["ctl", "--socket", "/nonexistent/admin.sock", "stats", "show"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(9));
    let denied = with_roles(&["noc"]);
    let (exit, _, err) = ctl(&denied, &["server", "drain"]);
    assert_eq!(exit, Some(3), "{err}");
}
