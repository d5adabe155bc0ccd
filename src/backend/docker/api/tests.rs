//! Answers of a real engine (Docker 20.10.24, API 1.41), as they were recorded in `recorded/`, and forms of others.

use serde_json::{json, Value};

use super::containers::{self, Status};
use super::events::{subscribe, Event, Events, Happening};
use super::images::{self, PullProgress};
use super::system::{self, EngineKind, API_NEWEST};
use super::*;
use crate::backend::docker::http::request::ApiVersion;
use crate::registry::image::Reference;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn image(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn message(error: &EngineError) -> &str {
    match error {
        EngineError::Refused { message, .. } => message,
        other => panic!("{other}"),
    }
}

// ---- System ----

#[test]
fn the_version_spoken_is_the_smaller_of_both_newest() {
    let recorded = include_bytes!("recorded/version.json");
    let engine = system::negotiated(200, recorded).unwrap();
    let api = ApiVersion { major: 1, minor: 41 };
    assert_eq!(
        (engine.kind, engine.api, &*engine.name),
        (EngineKind::Docker, api, "Docker 20.10.24+dfsg1"),
        "{engine:?}"
    );
    let with = |changes: Value| {
        let mut body: Value = serde_json::from_slice(recorded).unwrap();
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        system::negotiated(200, body.to_string().as_bytes())
    };
    assert_eq!(with(json!({ "ApiVersion": "1.99", "MinAPIVersion": "1.44" })).unwrap().api, API_NEWEST);
    let too_old = with(json!({ "ApiVersion": "1.39" })).unwrap_err();
    assert!(matches!(too_old, EngineError::TooOld { .. }), "{too_old}");
    assert!(too_old.to_string().contains("has version 1.39, and 1.40 is the oldest"), "{too_old}");
    assert_eq!(with(json!({ "ApiVersion": "1.40" })).unwrap().api.minor, 40);
    let too_new = with(json!({ "ApiVersion": "2.0", "MinAPIVersion": "1.52" })).unwrap_err();
    assert!(too_new.to_string().contains("MinAPIVersion is 1.52"), "{too_new}");
    assert!(with(json!({ "ApiVersion": "new" })).is_err());
    assert!(matches!(with(json!({ "Os": "windows" })), Err(EngineError::Unexpected { .. })));
    let podman =
        with(json!({ "Components": [{ "Name": "Podman Engine", "Version": "4.3.1" }], "MinAPIVersion": null }));
    assert_eq!(podman.unwrap().kind, EngineKind::Podman);
}

/// As the history of the API's versions documents what changed from 1.42 to 1.56: of all that is sent nothing is refused or
/// passed over, and what is read here is still told.
#[test]
fn an_engine_that_takes_only_newer_versions_is_spoken_to_in_one_that_it_takes() {
    let docker = |newest: &str, oldest: &str| {
        let body = json!({
            "Platform": { "Name": "Docker Engine - Community" },
            "Components": [{
                "Name": "Engine", "Version": "29.0.0",
                "Details": { "ApiVersion": newest, "MinAPIVersion": oldest, "Os": "linux", "Arch": "amd64" },
            }],
            "Version": "29.0.0", "ApiVersion": newest, "MinAPIVersion": oldest, "Os": "linux", "Arch": "amd64",
        });
        system::negotiated(200, body.to_string().as_bytes())
    };
    for (newest, oldest, spoken) in [("1.52", "1.44", 51), ("1.44", "1.44", 44), ("1.56", "1.51", 51)] {
        let version = docker(newest, oldest).unwrap();
        assert_eq!((version.kind, version.api.minor, &*version.name), (EngineKind::Docker, spoken, "Docker 29.0.0"));
        let start = String::from_utf8(containers::start(ID).encode(Some(version.api))).unwrap();
        assert!(start.starts_with(&format!("POST /v1.{spoken}/containers/{ID}/start ")), "{start}");
    }
    docker("1.60", "1.52").unwrap_err();
}

#[test]
fn what_newer_versions_leave_out_is_not_missed() {
    // 1.45 and 1.52: `ContainerConfig`, and what of an image's `Config` is empty.
    let image =
        json!({ "Id": format!("sha256:{ID}"), "Os": "linux", "Architecture": "amd64", "Size": 7, "Config": {} });
    let image = images::inspected(200, image.to_string().as_bytes()).unwrap().unwrap();
    assert_eq!((image.size_bytes, image.volumes.len()), (7, 0));
    // 1.52: `status`, `id` and `from` of an event.
    let event = json!({
        "Type": "container", "Action": "oom", "scope": "local", "time": 1, "timeNano": 1_000_000_000,
        "Actor": { "ID": ID, "Attributes": { "name": "f" } },
    });
    let event = all_of(&mut Events::default(), format!("{event}\n").as_bytes()).remove(0);
    assert_eq!((event.happening, &*event.attributes["name"]), (Happening::OutOfMemory, "f"));
    // 1.48: `error` and `progress` of a pull.
    let mut pull = PullProgress::default();
    pull.push(b"{\"errorDetail\":{\"message\":\"denied\"}}\n");
    assert_eq!(pull.failure(), Some("denied"));
}

/// As Docker 28.5 answers that keeps images in containerd: an image is what its name stands for at the registry, an index of
/// several architectures for instance, and a container's image is the same.
#[test]
fn an_image_of_containerd_s_is_known_by_the_digest_of_its_index() {
    let index = format!("sha256:{ID}");
    let image = json!({
        "Id": index, "RepoTags": ["127.0.0.1:5000/base:1"], "RepoDigests": [format!("127.0.0.1:5000/base@{index}")],
        "Os": "linux", "Architecture": "amd64", "Size": 41_962_493, "GraphDriver": { "Data": null, "Name": "overlayfs" },
        "Descriptor": { "mediaType": "application/vnd.oci.image.index.v1+json", "digest": index, "size": 490 },
        "Config": { "Cmd": null, "Env": null, "User": "", "Volumes": null, "WorkingDir": "" },
    });
    let image = images::inspected(200, image.to_string().as_bytes()).unwrap().unwrap();
    assert_eq!((&image.id, &*image.architecture, image.volumes.len()), (&index, "amd64", 0));
    let pulled = [
        json!({ "status": "Pulling from base", "id": "1" }),
        json!({ "status": "Pulling fs layer", "progressDetail": {}, "id": "e50311baa790" }),
        json!({ "status": "Downloading", "progressDetail": { "current": 7, "total": 41 }, "id": "e50311baa790" }),
        json!({ "status": "Download complete", "progressDetail": { "hidecounts": true }, "id": "e50311baa790" }),
        json!({ "status": "Pull complete", "progressDetail": { "hidecounts": true }, "id": "e50311baa790" }),
        json!({ "status": format!("Digest: {index}") }),
    ];
    let mut pull = PullProgress::default();
    pulled.iter().for_each(|line| pull.push(format!("{line}\n").as_bytes()));
    assert_eq!((pull.layers(), pull.layers_complete(), pull.digest()), (1, 1, Some(&*index)));
}

#[test]
fn calls_that_ask_for_the_version_have_none_themselves() {
    assert!(!system::ping().is_versioned && !system::version().is_versioned);
    assert!(system::pinged(200, b"OK").is_ok() && system::pinged(500, b"").is_err());
}

// ---- Containers ----

#[test]
fn a_container_is_made_started_and_named_by_its_id() {
    let created = containers::created(201, include_bytes!("recorded/created.json")).unwrap();
    assert_eq!((created.id.len(), created.warnings.len()), (64, 0));
    assert_eq!(containers::start(&created.id).path, format!("/containers/{}/start", created.id));
    assert_eq!(containers::start("a/../b").path, "/containers/a%2F..%2Fb/start");
    for (status, good) in [(204, true), (304, true), (200, false), (404, false), (500, false)] {
        assert_eq!(containers::started(status, b"").is_ok(), good, "{status}");
    }
    for body in ["{}", "{\"Id\":\"\"}", "{\"Id\":\"../../x\"}", "{\"Id\":7}", "[]", "", "{\"Id\":\"ABCDEF\"}", "\u{0}"]
    {
        assert!(matches!(containers::created(201, body.as_bytes()), Err(EngineError::Garbage { .. })), "{body}");
    }
    let warned = json!({ "Id": ID, "Warnings": ["No swap limit\nsupport"] }).to_string();
    assert_eq!(containers::created(201, warned.as_bytes()).unwrap().warnings, ["No swap limit support"]);
}

#[test]
fn what_the_engine_refuses_is_told_in_its_words() {
    let missing = containers::created(404, include_bytes!("recorded/create-404.json")).unwrap_err();
    assert_eq!(message(&missing), "No such image: faas-none:1");
    let taken = containers::created(409, include_bytes!("recorded/create-409.json")).unwrap_err();
    assert!(message(&taken).starts_with("Conflict. The container name"), "{taken}");
    let no_program = containers::started(400, include_bytes!("recorded/start-400.json")).unwrap_err();
    assert!(message(&no_program).contains("executable file not found"), "{no_program}");
    let plain = containers::started(502, b"<html>\r\n\x1b[31mbad gateway\xff").unwrap_err();
    assert_eq!(message(&plain), "<html>   [31mbad gateway\u{fffd}");
    let long = containers::started(500, "é".repeat(100_000).as_bytes()).unwrap_err();
    assert_eq!(message(&long).chars().count(), limits::ENGINE_TEXT_CHARS_MAX + 1);
}

#[test]
fn the_state_of_a_container_is_read_and_its_pid_is_checked() {
    let recorded: Value = serde_json::from_slice(include_bytes!("../hardening/recorded/docker-20.10.json")).unwrap();
    let read = |state: Value| {
        let mut document = recorded.clone();
        document["State"].as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        containers::inspected(200, document.to_string().as_bytes())
    };
    let running = read(json!({})).unwrap();
    assert_eq!(running.status, Status::Running);
    assert!(running.pid.is_some_and(|pid| pid > 1));
    let ended = read(json!({ "Status": "exited", "Pid": 0, "ExitCode": 137, "OOMKilled": true })).unwrap();
    assert_eq!((ended.status, ended.pid, ended.exit_code, ended.is_out_of_memory), (Status::Ended, None, 137, true));
    for pid in
        [json!(0), json!(1), json!(-5), json!(4_294_967_296_u64), json!(3_000_000_000_u64), json!("7"), json!(null)]
    {
        assert!(matches!(read(json!({ "Pid": pid })), Err(EngineError::Garbage { .. })), "{pid}");
    }
    assert!(read(json!({ "Status": "flying" })).unwrap_err().to_string().contains("State.Status is \"flying\""));
    let nameless =
        containers::inspected(200, b"{\"State\":{\"Status\":\"created\",\"Pid\":0,\"ExitCode\":0}}").unwrap_err();
    assert!(nameless.to_string().contains("Id"), "{nameless}");
}

#[test]
fn limits_are_updated_together_with_those_of_swap_and_period() {
    let update = containers::update(EngineKind::Docker, ID, 1 << 28, 10);
    let body: Value = serde_json::from_slice(&update.body.unwrap()).unwrap();
    let expected = json!({ "Memory": 268_435_456, "MemorySwap": 268_435_456, "CpuPeriod": 100_000, "CpuQuota": 1000 });
    assert_eq!(body, expected);
    containers::updated(EngineKind::Docker, 200, b"{\"Warnings\":null}").unwrap();
    let warned = containers::updated(EngineKind::Docker, 200, b"{\"Warnings\":[\"no swap\"]}").unwrap_err();
    assert!(warned.to_string().contains("Warnings is no swap"), "{warned}");
    let refused = containers::updated(EngineKind::Docker, 500, include_bytes!("recorded/update-500.json")).unwrap_err();
    assert!(message(&refused).starts_with("Cannot update container"), "{refused}");
}

#[test]
fn podman_is_asked_for_limits_by_its_own_call_which_has_its_own_version() {
    let update = containers::update(EngineKind::Podman, ID, 1 << 28, 10);
    let request = String::from_utf8(update.encode(Some(ApiVersion { major: 1, minor: 41 }))).unwrap();
    assert!(request.starts_with(&format!("POST /v4.3.0/libpod/containers/{ID}/update HTTP/1.1\r\n")), "{request}");
    let body: Value = serde_json::from_slice(&update.body.unwrap()).unwrap();
    let (memory, cpu) =
        (json!({ "limit": 268_435_456, "swap": 268_435_456 }), json!({ "quota": 1000, "period": 100_000 }));
    assert_eq!(body, json!({ "memory": memory, "cpu": cpu }));
    containers::updated(EngineKind::Podman, 201, ID.as_bytes()).unwrap();
    let missing = containers::updated(EngineKind::Podman, 404, b"Not Found\n").unwrap_err();
    assert_eq!(message(&missing), "Not Found");
    containers::updated(EngineKind::Docker, 201, b"{\"Warnings\":null}").unwrap_err();
}

#[test]
fn an_end_that_has_come_already_is_as_good() {
    assert_eq!(containers::waited(200, b"{\"Error\":null,\"StatusCode\":137}").unwrap(), 137);
    assert!(containers::waited(200, b"{\"Error\":{\"Message\":\"no\"},\"StatusCode\":0}").is_err());
    assert!(containers::waited(200, b"{\"StatusCode\":99999999999}").is_err());
    containers::killed(204, b"").unwrap();
    containers::killed(409, include_bytes!("recorded/kill-409.json")).unwrap();
    containers::removed(404, include_bytes!("recorded/remove-404.json")).unwrap();
    assert!(containers::killed(500, b"").is_err());
    let podman =
        json!({ "cause": "container state improper", "message": "can only kill running containers.", "response": 500 });
    containers::killed(500, podman.to_string().as_bytes()).unwrap();
    let podman = json!({ "cause": "permission denied", "message": "container state improper", "response": 500 });
    assert!(containers::killed(500, podman.to_string().as_bytes()).is_err());
    assert!(
        containers::removed(409, b"{\"message\":\"removal is already in progress\"}").is_err(),
        "it is there still"
    );
    assert!(containers::removed(500, b"{\"message\":\"device or resource busy\"}").is_err());
    assert_eq!(containers::remove(ID).path, format!("/containers/{ID}?force=1&v=1"));
}

#[test]
fn only_containers_that_have_every_label_are_listed_whatever_the_engine_says() {
    let path = containers::list("a&b").path;
    assert!(path.starts_with("/containers/json?all=1&filters=%7B%22label%22%3A%5B%22faas.managed%3D1%22"), "{path}");
    assert!(path.ends_with("%22faas.server%3Da%26b%22%5D%7D"), "{path}");
    let recorded = include_bytes!("recorded/list.json");
    let listed = containers::listed("recorded", 200, recorded).unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].is_running && listed[0].side == 0 && listed[0].name == "c5b-rec4", "{listed:?}");
    assert_eq!(containers::listed("another", 200, recorded).unwrap(), []);
    assert_eq!(containers::listed("recorded", 200, b"[]").unwrap(), []);
    assert!(containers::listed("recorded", 200, b"null").is_err());
    let mut labels: std::collections::BTreeMap<_, _> = containers::labels("s", 1).into_iter().collect();
    let one = |labels: &Value| {
        let list = json!([{ "Id": ID, "Names": null, "Labels": labels, "State": "exited" }]).to_string();
        containers::listed("s", 200, list.as_bytes()).unwrap()
    };
    let listed = one(&json!(labels));
    assert_eq!((listed[0].side, listed[0].is_running, &*listed[0].name), (1, false, ""));
    for without in [containers::LABEL_MANAGED, containers::LABEL_SERVER, containers::LABEL_SIDE] {
        let label = labels.remove(without).unwrap();
        assert_eq!(one(&json!(labels)), [], "{without}");
        labels.insert(without.to_owned(), label);
    }
    assert_eq!(one(&Value::Null), []);
}

// ---- Events ----

fn all_of(events: &mut Events, bytes: &[u8]) -> Vec<Event> {
    events.push(bytes).unwrap().into_iter().map(Result::unwrap).collect()
}

#[test]
fn events_are_read_however_they_are_cut() {
    let recorded = include_bytes!("recorded/events.jsonl");
    for size in [1, 7, 100, recorded.len()] {
        let mut events = Events::default();
        let seen: Vec<_> = recorded.chunks(size).flat_map(|piece| all_of(&mut events, piece)).collect();
        let happenings: Vec<&Happening> = seen.iter().map(|event| &event.happening).collect();
        let died = Happening::Died { status: Some(137) };
        assert_eq!(happenings, [&Happening::Started, &Happening::OutOfMemory, &died, &Happening::Removed], "{size}");
        assert!(seen.iter().all(|event| event.attributes["faas.server"] == "recorded"));
    }
    let podman = json!({ "Action": "died", "Actor": { "ID": ID, "Attributes": { "containerExitCode": "3" } } });
    let event = all_of(&mut Events::default(), format!("{podman}\n").as_bytes()).remove(0);
    assert_eq!(event.happening, Happening::Died { status: Some(3) });
    let other = json!({ "Action": "exec_create: sh\n", "Actor": { "ID": ID, "Attributes": null } });
    let event = all_of(&mut Events::default(), format!("{other}\n").as_bytes()).remove(0);
    assert_eq!(event.happening, Happening::Other("exec_create: sh".to_owned()));
    for garbage in ["{}\n", "{\"Action\":\"die\",\"Actor\":{\"ID\":\"x\"}}\n", "hello\n"] {
        let batch = format!("{podman}\n{garbage}{other}\n");
        let seen = Events::default().push(batch.as_bytes()).unwrap();
        let is_read: Vec<bool> = seen.iter().map(Result::is_ok).collect();
        assert_eq!(is_read, [true, false, true], "it costs no other: {garbage}");
    }
}

#[test]
fn events_are_asked_for_by_label_and_may_be_silent_for_ever() {
    let labels = [("faas.managed".to_owned(), "1".to_owned())];
    let request = subscribe(EngineKind::Docker, &labels);
    assert!(request.is_stream() && request.idle_timeout.is_none());
    assert!(
        request.path.starts_with("/events?filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22label%22"),
        "{request:?}"
    );
    // What befell while nobody listened is told by the one that has it at hand.
    assert!(request.path.ends_with("&since=1") && !subscribe(EngineKind::Podman, &labels).path.contains("since"));
}

// ---- Images ----

#[test]
fn a_name_of_an_image_leads_to_that_image_alone() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    assert_eq!(images::inspect(&image("h.x:1/a/b:v")).path, "/images/h.x%3A1/a/b:v/json");
    assert_eq!(images::pull(&image("a/b"), None).path, "/images/create?fromImage=a%2Fb&tag=latest");
    let path = images::pull(&image(&format!("a@{digest}")), None).path;
    assert_eq!(path, format!("/images/create?fromImage=a&tag=sha256%3A{}", &digest[7..]));
}

#[test]
fn an_image_is_known_by_its_id_and_its_volumes_are_told() {
    let found = images::inspected(200, include_bytes!("recorded/image.json")).unwrap().unwrap();
    assert_eq!((&*found.os, found.volumes.len()), ("linux", 0), "{found:?}");
    assert!(found.size_bytes > 1_000_000);
    assert_eq!(images::inspected(404, include_bytes!("recorded/image-404.json")).unwrap(), None);
    let with_volume =
        json!({ "Id": ID, "Os": "linux", "Architecture": "amd64", "Config": { "Volumes": { "/data": {} } } });
    let found = images::inspected(200, with_volume.to_string().as_bytes()).unwrap().unwrap();
    assert_eq!((found.volumes.as_slice(), &*found.id), (&["/data".to_owned()][..], &*format!("sha256:{ID}")));
    let listed = images::listed(200, include_bytes!("recorded/images.json")).unwrap();
    assert_eq!(listed[0].1, ["faas-base:1"]);
    assert!(
        images::removed(404, b"").unwrap()
            && images::removed(200, b"[]").unwrap()
            && !images::removed(409, b"").unwrap()
    );
}

#[test]
fn a_pull_fails_with_the_line_that_says_so_though_its_status_is_200() {
    let good = "{\"status\":\"Pulling from library/a\",\"id\":\"1\"}\r\n\
        {\"status\":\"Already exists\",\"progressDetail\":{},\"id\":\"ee55\"}\r\n\
        {\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"aa11\"}\r\n\
        {\"status\":\"Downloading\",\"progressDetail\":{\"current\":1500000,\"total\":2},\"progress\":\"[>]\",\"id\":\"aa11\"}\r\n\
        {\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"bb22\"}\r\n\
        {\"status\":\"Download complete\",\"progressDetail\":{},\"id\":\"aa11\"}\r\n\
        {\"status\":\"Extracting\",\"progressDetail\":{\"current\":9,\"total\":9},\"id\":\"aa11\"}\r\n\
        {\"status\":\"Status: Downloaded newer image for a:1\"}\r\n";
    for size in [1, 10, good.len()] {
        let mut pull = PullProgress::default();
        good.as_bytes().chunks(size).for_each(|piece| pull.push(piece));
        assert_eq!((pull.layers(), pull.bytes(), pull.failure()), (2, 1_500_000, None));
        assert_eq!(pull.to_string(), "1 of 2 layers, 1.5 MB");
        assert_eq!((pull.layers_complete(), pull.percent()), (1, 50.0));
    }
    let mut half = PullProgress::default();
    half.push(b"{\"status\":\"Downloading\",\"progressDetail\":{\"current\":3,\"total\":4},\"id\":\"aa11\"}\n");
    half.push(b"{\"status\":\"Waiting\",\"id\":\"bb22\"}\n{\"status\":\"Waiting\",\"id\":\"cc33\"}\n");
    assert_eq!((half.percent(), half.digest(), PullProgress::default().percent()), (25.0, None, 0.0));
    half.push(format!("{{\"status\":\"Digest: sha256:{ID}\"}}\n").as_bytes());
    assert_eq!(half.digest(), Some(&*format!("sha256:{ID}")));
    let failure = |text: &str| {
        let mut pull = PullProgress::default();
        pull.push(good.as_bytes());
        pull.push(text.as_bytes());
        pull.failure().map(str::to_owned)
    };
    let bad = "{\"errorDetail\":{\"message\":\"no space left on device\"},\"error\":\"no space\"}";
    assert_eq!(failure(bad).unwrap(), "no space left on device", "also without an end of its line");
    assert_eq!(failure("{\"error\":\"denied\"}\n{\"status\":\"more\"}\n").unwrap(), "denied");
    assert!(failure("<html>\n").unwrap().contains("not valid"));
    assert!(failure(&"x".repeat(limits::ENGINE_LINE_BYTES_MAX + 1)).unwrap().contains("exceeds"));
    // Recorded from a registry of its own, once with a layer that the registry does not have.
    assert_eq!(failure(include_str!("recorded/pull-failed.jsonl")).unwrap(), "unknown blob");
    let mut recorded = PullProgress::default();
    recorded.push(include_bytes!("recorded/pull.jsonl"));
    assert_eq!((recorded.layers(), recorded.failure()), (1, None));
    assert!(recorded.to_string().starts_with("1 of 1 layers"), "{recorded}");
}

#[test]
fn a_pull_of_endless_layers_is_not_held() {
    let mut pull = PullProgress::default();
    for number in 0..10_000 {
        pull.push(format!("{{\"status\":\"Pulling fs layer\",\"id\":\"{number}\"}}\n").as_bytes());
    }
    assert_eq!(pull.layers(), limits::IMAGE_LAYERS_MAX);
}
