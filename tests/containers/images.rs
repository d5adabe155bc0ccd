//! Where the image of a function comes from, and which images are refused before anything of them runs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{json, Value};

use crate::common::engine::{image_archive, Engine};
use crate::common::{command, copy_program, eventually, reset, slowed, Home, Reply, Server};
use crate::registry::Registry;
use crate::scene::{
    assert_processes_answer, await_health, configuration, contained, deploy, engine, found, server, EXEC,
};

fn body(name: &str, image: &str) -> String {
    json!({ "name": name, "code": EXEC, "config": contained(json!({ "image": image })) }).to_string()
}

fn deploy_with(server: &Server, name: &str, image: &str) -> Reply {
    server.post("/functions", &body(name, image))
}

/// An archive with nothing in it but this file: every image is another one.
fn archive(word: &str) -> Vec<u8> {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("word"), word).unwrap();
    Command::new("tar").args(["--create", "--directory"]).arg(root.path()).arg(".").output().unwrap().stdout
}

fn forget(engine: &Engine, image: &str) {
    engine.call("DELETE", &format!("/images/{image}?force=1"), &Value::Null);
}

fn pulls(server: &Server) -> Vec<Value> {
    server.get("/stats").json()["pulls"].as_array().unwrap().clone()
}

#[test]
fn slow_pulls_hold_up_nobody_else_and_the_answer_says_what_came() {
    let Some(engine) = engine() else { return };
    if engine.is_podman() {
        eprintln!("DOES NOT APPLY to Podman: 4.3 tells of a layer when it has it, and of nothing before");
        return;
    }
    let registry = Registry::start(None);
    // The engine has the archive already, and one that keeps images in containerd would take the layer from there.
    let mut base = std::fs::read(image_archive().unwrap()).unwrap();
    base.extend([0; 512]);
    let (image, digest) = registry.add("base", base);
    // More than there are control threads.
    let others: Vec<String> =
        (0..4).map(|number| registry.add(&format!("other-{number}"), archive(&number.to_string())).0).collect();
    let server = server(engine.socket(), "");
    registry.close();
    std::thread::scope(|scope| {
        let server = &server;
        let first = scope.spawn(|| deploy_with(server, "first", &image));
        let shown = eventually("the pull is shown, half way", || {
            pulls(server)
                .into_iter()
                .find(|pull| pull["image"] == image.as_str() && pull["percent"].as_f64() > Some(1.0))
        });
        assert_eq!((&shown["layers"], &shown["layers_complete"]), (&json!(1), &json!(0)), "{shown}");
        assert!(shown["percent"].as_f64() < Some(60.0) && shown["bytes"].as_u64() > Some(0), "{shown}");
        let second = scope.spawn(|| deploy_with(server, "second", &image));
        let rest: Vec<_> = others.iter().map(|image| scope.spawn(move || deploy_with(server, "rest", image))).collect();
        // Who goes away costs no more than who stays, and gets nothing: he may have come again with something else.
        let text = body("gone", &image);
        let head = format!(
            "POST /functions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer demo-key\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        let mut gone = server.connect();
        std::io::Write::write_all(&mut gone, format!("{head}{text}").as_bytes()).unwrap();
        eventually("all are shown", || (pulls(server).len() == 1 + others.len()).then_some(()));
        reset(gone);

        let start = Instant::now();
        server.deploy("in-a-process", "def handle(request):\n    return 1", json!({}));
        deploy(server, "in-a-container", EXEC, json!({}));
        assert_eq!(found(server, "in-a-container", "got = 1"), 1);
        assert_eq!(server.call("DELETE", "/functions/in-a-process", "").status, 204);
        assert_processes_answer(server);
        assert!(start.elapsed() < slowed(Duration::from_secs(20)), "{:?}", start.elapsed());
        assert!(!first.is_finished() && !second.is_finished() && rest.iter().all(|it| !it.is_finished()));

        registry.open();
        for deployed in [first, second] {
            let deployed = deployed.join().unwrap();
            assert_eq!(deployed.status, 201, "{}", deployed.text());
            let deployed = deployed.json();
            let pulled = &deployed["pulled"];
            assert_eq!(
                (&pulled["image"], &pulled["digest"], &pulled["layers"]),
                (&json!(image), &json!(digest), &json!(1))
            );
            assert!(pulled["bytes"].as_u64() > Some(50 << 20) && pulled["seconds"].as_f64() > Some(0.0), "{pulled}");
        }
        // Images without Python: that is found out when they are here.
        rest.into_iter().for_each(|it| assert_eq!(it.join().unwrap().status, 503));
        let said = "function gone is not deployed: its client went away";
        eventually("who went away is seen to have", || server.home.log().contains(said).then_some(()));
        assert_eq!(server.get("/functions/gone").status, 404);
    });
    assert_eq!(registry.layers_asked(), 1 + others.len(), "each layer came once");
    assert_eq!(pulls(&server), Vec::<Value>::new());
    assert_eq!(found(&server, "second", "got = 2"), 2);
    assert_eq!(server.get("/functions/first").json().get("pulled"), None, "it is told once");
    let again = deploy_with(&server, "again", &image);
    assert_eq!((again.status, again.json().get("pulled")), (201, None), "{}", again.text());
    drop(server);
    others.iter().chain([&image]).for_each(|image| forget(engine, image));
}

#[test]
fn a_server_that_gave_its_place_away_pulls_no_more_and_sends_its_successor_who_waits() {
    let Some(engine) = engine() else { return };
    let registry = Registry::start(None);
    let (image, _) = registry.add("moved", archive("moved"));
    let old = server(engine.socket(), "");
    deploy(&old, "busy", EXEC, json!({}));
    registry.close();
    std::thread::scope(|scope| {
        // A call keeps the old server for longer than whoever waits for the image should wait.
        let call = scope.spawn(|| old.invoke("busy", "time.sleep(15); got = 'done'"));
        let waits = scope.spawn(|| deploy_with(&old, "f", &image));
        eventually("it is pulled", || (pulls(&old).len() == 1).then_some(()));
        let mut start = command(&old.home);
        start.arg("--takeover");
        let new = Server::launch(old.home.clone(), start);
        let sent_on = waits.join().unwrap();
        sent_on.refused(503, "taking_over");
        assert_eq!(sent_on.header("retry-after"), Some("1"));
        let said = "another server took over, and this one pulls no image any more";
        eventually("the pull is given up", || new.home.log().contains(said).then_some(()));
        assert!(!call.is_finished(), "all that while the old server was at work");
        assert_eq!(pulls(&new), Vec::<Value>::new());
        registry.open();
        // There is no Python in it, which the new server finds out when it has it.
        deploy_with(&new, "f", &image).refused(503, "check_failed");
        assert_eq!(call.join().unwrap().text(), "\"done\"");
    });
    let (_, status) = old.ended();
    assert_eq!(status.code(), Some(0));
    forget(engine, &image);
}

#[test]
fn an_image_with_volumes_or_for_another_machine_is_refused_by_what_is_wrong_with_it() {
    let Some(engine) = engine() else { return };
    let foreign = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };
    let server = server(engine.socket(), "");
    let (with_volumes, tar) = ("faas-volumes:test".to_owned(), archive("volumes"));
    engine.import_with(&with_volumes, "&changes=VOLUME%20/data%20/var/more", &mut &tar[..], tar.len() as u64);
    let registry = Registry::start(None);
    let (for_others, _) = registry.add_for("foreign", archive("foreign"), foreign);
    for (image, words) in [
        (with_volumes, "has volumes (/data, /var/more)"),
        (for_others, &*format!("is for {foreign}, and this host is")),
    ] {
        let detail = deploy_with(&server, "f", &image).refused(400, "image_unsuitable");
        assert!(detail.starts_with(&format!("config.image: {image} ")) && detail.contains(words), "{detail}");
        assert_eq!(server.get("/functions/f").status, 404);
        forget(engine, &image);
    }
}

#[test]
fn a_registry_that_wants_a_password_is_told_the_one_that_is_configured() {
    let Some(engine) = engine() else { return };
    // user:secret.
    let registry = Registry::start(Some("Basic dXNlcjpzZWNyZXQ="));
    let (image, _) = registry.add("private", archive("private"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auth.json");
    let write = |password: &str| {
        let entry = json!({ "username": "user", "password": password });
        std::fs::write(&file, json!({ "auths": { registry.host(): entry } }).to_string()).unwrap();
    };
    write("secret");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let server = server(engine.socket(), &format!("registry_auth: {}", file.display()));
    let detail = deploy_with(&server, "f", &image).refused(503, "engine_unavailable");
    assert!(detail.contains("system.registry_auth") && !detail.contains("auth.json"), "{detail}");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    write("wrong");
    let refused = deploy_with(&server, "f", &image);
    assert!(["image_unavailable", "engine_unavailable"].contains(&refused.code().as_str()), "{}", refused.text());
    assert_eq!(registry.layers_asked(), 0);
    // It is read anew for each pull.
    write("secret");
    let detail = deploy_with(&server, "f", &image).refused(503, "check_failed");
    assert!(!detail.is_empty(), "there is no Python in it, which is found out when it is here");
    assert_eq!(registry.layers_asked(), 1);
    let (home, _) = server.end(Signal::SIGTERM);
    let log = home.log();
    assert!(log.contains("its mode is 0644") && !log.contains("secret\"") && !log.contains("dXNlc"), "{log}");
    forget(engine, &image);
}

/// A command that looks at an image: it counts how often, and says this.
fn scanner(directory: &Path, says: &str) -> String {
    let (script, program, count) = (directory.join("script"), directory.join("scan"), directory.join("count"));
    std::fs::write(&script, format!("#!/bin/sh\necho >> {}\n{says}\n", count.display())).unwrap();
    copy_program(&script, &program);
    format!("image_scan: [{}, '{{image}}']", program.display())
}

fn scans(directory: &Path) -> usize {
    std::fs::read_to_string(directory.join("count")).unwrap_or_default().lines().count()
}

#[test]
fn a_scan_that_refuses_an_image_is_quoted_and_asked_again_when_its_verdict_is_old_and_not_before() {
    let Some(engine) = engine() else { return };
    let directory = tempfile::tempdir().unwrap();
    let scan = scanner(directory.path(), r#"printf 'CVE-1 in %s \033[31mlibx\033[0m \377\n' "${1%%:*}"; exit 3"#);
    let refuse = |server: &Server| {
        await_health(server, "available");
        let reply = server
            .post("/functions", &json!({ "name": "f", "code": EXEC, "config": contained(json!({})) }).to_string());
        let detail = reply.refused(400, "image_refused");
        assert!(detail.contains("system.image_scan") && !detail.contains("/scan "), "{detail}");
        assert_eq!(reply.json()["report"], "CVE-1 in sha256 libx \u{fffd}\n");
        reply
    };
    let server = server(engine.socket(), &scan);
    (0..3).for_each(|_| drop(refuse(&server)));
    assert_eq!(scans(directory.path()), 1);
    let (home, _) = server.end(Signal::SIGTERM);
    assert!(home.log().contains("CVE-1 in sha256 libx"), "{}", home.log());
    let server = crate::scene::server_on(home);
    refuse(&server);
    assert_eq!(scans(directory.path()), 1, "it is known after a restart");
    let (home, _) = server.end(Signal::SIGTERM);
    let home: Home = home.configured(&configuration(engine.socket(), &format!("{scan}\nimage_scan_max_age: 0")), "");
    let server = crate::scene::server_on(home);
    (0..2).for_each(|_| drop(refuse(&server)));
    assert_eq!(scans(directory.path()), 3, "an age of 0 asks each time");
}
