use serde_json::{json, Value};

use super::*;
use crate::backend::docker::api::containers::{inspected, Inspect};

/// What Docker 20.10 says of a container that was made from [`spec`].
const DOCKER: &str = include_str!("recorded/docker-20.10.json");
const IMAGE: &str = "sha256:9c4f358eb4719c8a63bb410a4150165b846278ba22734a0073cf1e620378b086";

fn spec() -> ContainerSpec {
    ContainerSpec {
        engine: EngineKind::Docker,
        image: IMAGE.to_owned(),
        command: ["python3", "-I", "-S", "-B", "/faas/shim/container.py"].map(str::to_owned).to_vec(),
        labels: vec![
            ("faas.managed".to_owned(), "1".to_owned()),
            ("faas.server".to_owned(), "5f3a".to_owned()),
            ("faas.side".to_owned(), "0".to_owned()),
        ],
        uid: 2_000_000_007,
        memory_bytes: 256 << 20,
        cpu_millis: 1000,
        network: Network::None,
        seccomp: SeccompProfile::Inline(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.into()),
        label: None,
        run_directory: "/var/lib/faas/run/7".into(),
        shim_directory: "/var/lib/faas/shim".into(),
        resolver: None,
    }
}

fn reported(document: &Value) -> Inspect {
    inspected(200, document.to_string().as_bytes()).unwrap()
}

fn docker() -> Value {
    serde_json::from_str(DOCKER).unwrap()
}

/// What Docker 28.5 says of it.
const DOCKER_28: &str = include_str!("recorded/docker-28.5.json");

/// What Podman 4.3 says of a container that was made from the same, on its compatible socket.
const PODMAN: &str = include_str!("recorded/podman-4.3.json");

/// What Podman 5.8 says of it.
const PODMAN_5: &str = include_str!("recorded/podman-5.8.json");

fn podman(recorded: &str) -> (ContainerSpec, Value) {
    let document: Value = serde_json::from_str(recorded).unwrap();
    let spec = ContainerSpec {
        engine: EngineKind::Podman,
        image: document["Image"].as_str().unwrap().to_owned(),
        seccomp: SeccompProfile::File("/var/lib/faas/profile.json".into()),
        resolver: Some("/var/lib/faas/resolv.conf".into()),
        ..spec()
    };
    (spec, document)
}

#[test]
fn the_request_is_what_was_last_reviewed() {
    let reviewed: Value = serde_json::from_str(include_str!("recorded/create.json")).unwrap();
    let made = spec().create_body();
    assert_eq!(made, reviewed, "{}", serde_json::to_string_pretty(&made).unwrap());
}

#[test]
fn what_any_engine_reports_of_such_a_container_is_believed() {
    for recorded in [DOCKER, DOCKER_28] {
        verify(&spec(), &reported(&serde_json::from_str(recorded).unwrap())).unwrap();
    }
    for recorded in [PODMAN, PODMAN_5] {
        let (spec, document) = podman(recorded);
        verify(&spec, &reported(&document)).unwrap();
    }
}

#[test]
fn the_forms_of_one_engine_are_not_taken_from_the_other() {
    let (of_podman, document) = podman(PODMAN);
    let taken_for_docker = ContainerSpec { engine: EngineKind::Docker, ..of_podman };
    verify(&taken_for_docker, &reported(&document)).unwrap_err();
}

#[test]
fn what_podman_leaves_out_is_noticed_as_well() {
    for recorded in [PODMAN, PODMAN_5] {
        let (spec, document) = podman(recorded);
        for (pointer, value) in [
            ("/HostConfig/CapDrop", json!(["CHOWN", "KILL"])),
            ("/HostConfig/Tmpfs/~1run", json!("rw,rprivate,nosuid,nodev,tmpcopyup")),
            ("/HostConfig/Ulimits/0/Soft", json!(1024)),
            ("/HostConfig/SecurityOpt", json!(["no-new-privileges"])),
            ("/HostConfig/IpcMode", json!("host")),
            ("/HostConfig/PidMode", json!("host")),
            ("/HostConfig/Memory", json!(0)),
            ("/HostConfig/CpuQuota", json!(0)),
            ("/Mounts/2/RW", json!(true)),
            ("/Config/Healthcheck/Test", json!(["CMD", "true"])),
        ] {
            let mut altered = document.clone();
            *altered.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
            verify(&spec, &reported(&altered)).expect_err(pointer);
        }
    }
}

/// What is asked for and not read back, and why.
const NOT_READ_BACK: &[(&str, &str)] = &[
    ("Domainname", "it is empty, and nothing depends on it"),
    ("AttachStdout", "who is attached is said by another call"),
    ("AttachStderr", "who is attached is said by another call"),
    ("Cmd", "Path and Args say what is run"),
    ("Entrypoint", "Path and Args say what is run"),
    ("HostConfig.ShmSize", "/dev/shm is a file system of our own"),
    ("HostConfig.Mounts", "Mounts says what is mounted"),
];

/// Another value of the same kind.
fn alter(value: &mut Value) {
    match value {
        Value::Null => *value = json!("x"),
        Value::Bool(is) => *is = !*is,
        Value::Number(number) => *value = json!(number.as_i64().unwrap() + 1),
        Value::String(text) => text.push('x'),
        Value::Array(list) if list.is_empty() => list.push(json!("x")),
        Value::Array(list) => {
            list.pop();
        }
        Value::Object(members) if members.is_empty() => {
            members.insert("x".to_owned(), json!("x"));
        }
        Value::Object(members) => members.iter_mut().for_each(|(_, member)| alter(member)),
    }
}

#[test]
fn everything_that_is_asked_for_is_read_back_whether_it_is_altered_or_missing() {
    let spec = spec();
    let body = spec.create_body();
    let top = body.as_object().unwrap().keys().filter(|key| *key != "HostConfig").cloned();
    let inner = body["HostConfig"].as_object().unwrap().keys().map(|key| format!("HostConfig.{key}"));
    let fields = top.chain(inner).filter(|field| !NOT_READ_BACK.iter().any(|(known, _)| known == field));
    let effective = ["Path", "Args", "Mounts"].map(str::to_owned);
    let documents: [Value; 2] = [DOCKER, DOCKER_28].map(|recorded| serde_json::from_str(recorded).unwrap());
    let mut count = 0;
    for (field, reading) in
        fields.chain(effective).flat_map(|field| documents.iter().map(move |it| (field.clone(), it)))
    {
        let pointer = match &*field {
            "Image" | "Path" | "Args" | "Mounts" => format!("/{field}"),
            nested if nested.starts_with("HostConfig.") => format!("/{}", nested.replace('.', "/")),
            of_config => format!("/Config/{of_config}"),
        };
        let mut document = reading.clone();
        alter(document.pointer_mut(&pointer).unwrap_or_else(|| panic!("{pointer}")));
        verify(&spec, &reported(&document)).expect_err(&format!("{field} altered"));
        // Gone is as good as empty for what is to be nothing, and for two that say where they are checked why.
        let is_wanted = body
            .pointer(&pointer.replace("/Config", ""))
            .is_none_or(|value| ![json!(false), json!([]), json!({}), json!(""), Value::Null].contains(value));
        if is_wanted && !["Healthcheck", "HostConfig.CgroupnsMode"].contains(&&*field) {
            let mut document = reading.clone();
            *document.pointer_mut(&pointer).unwrap() = Value::Null;
            verify(&spec, &reported(&document)).expect_err(&format!("{field} missing"));
        }
        count += 1;
    }
    assert!(count >= 80, "{count}");
}

#[test]
fn an_engine_that_does_not_know_the_label_is_quoted_with_the_setting() {
    let armor = ContainerSpec { label: Some(SecurityLabel::AppArmor("faas".to_owned())), ..spec() };
    // Docker 20.10 with runc 1.1 on a kernel with AppArmor.
    let said = "unable to apply apparmor profile: write /proc/self/attr/apparmor/exec: no such file or directory";
    assert_eq!(
        armor.explain(said),
        format!("{said} (system.container_security_label is apparmor=faas: is it loaded?)")
    );
    assert_eq!(armor.explain("no such image"), "no such image");
    assert_eq!(spec().explain(said), said);
}

#[test]
fn a_limit_that_the_engines_kernel_cannot_hold_is_told_with_what_to_do() {
    for (name, dropped, words) in [
        ("Memory", json!(0), "cgroup_enable=memory"),
        ("MemorySwap", json!(-1), "swapaccount=1"),
        ("CpuQuota", json!(0), "CONFIG_CFS_BANDWIDTH"),
        ("PidsLimit", Value::Null, "pids controller"),
    ] {
        let mut document = docker();
        document["HostConfig"][name] = dropped;
        let text = verify(&spec(), &reported(&document)).unwrap_err().to_string();
        assert!(text.contains(&format!("HostConfig.{name} is")) && text.contains(words), "{text}");
    }
}

#[test]
fn what_nobody_asked_for_is_noticed() {
    for (pointer, value) in [
        ("/HostConfig/Devices", json!([{ "PathOnHost": "/dev/kvm", "PathInContainer": "/dev/kvm" }])),
        ("/HostConfig/DeviceRequests", json!([{ "Count": -1 }])),
        ("/HostConfig/GroupAdd", json!(["0"])),
        ("/HostConfig/VolumesFrom", json!(["another"])),
        ("/HostConfig/Sysctls", json!({ "net.ipv4.ip_forward": "1" })),
        ("/HostConfig/PublishAllPorts", json!(true)),
        ("/HostConfig/UsernsMode", json!("host")),
        ("/HostConfig/PidMode", json!("container:abc")),
        ("/HostConfig/OomKillDisable", json!(true)),
    ] {
        let mut document = docker();
        document["HostConfig"][pointer.rsplit('/').next().unwrap()] = value;
        let ignored = verify(&spec(), &reported(&document)).expect_err(pointer);
        assert_eq!(format!("/{}", ignored.field.replace('.', "/")), pointer, "{ignored}");
    }
    let mut document = docker();
    let volume = json!({ "Type": "volume", "Name": "a", "Source": "/var/lib/docker/volumes/a/_data",
                         "Destination": "/data", "RW": true, "Propagation": "" });
    document["Mounts"].as_array_mut().unwrap().push(volume);
    assert_eq!(verify(&spec(), &reported(&document)).unwrap_err().field, "Mounts", "a volume of the image's");
    let mut document = docker();
    document["HostConfig"]["SecurityOpt"].as_array_mut().unwrap().push(json!("systempaths=unconfined"));
    assert_eq!(verify(&spec(), &reported(&document)).unwrap_err().field, "HostConfig.SecurityOpt");
}

#[test]
fn a_label_that_is_asked_for_is_to_be_seen_in_force() {
    let (name, kind) = ("faas".to_owned(), "faas_t".to_owned());
    let armor = ContainerSpec { label: Some(SecurityLabel::AppArmor(name)), ..spec() };
    let selinux = ContainerSpec { label: Some(SecurityLabel::SelinuxType(kind)), ..spec() };
    for (spec, field, value) in
        [(armor, "AppArmorProfile", "faas"), (selinux, "ProcessLabel", "system_u:system_r:faas_t:s0:c1,c2")]
    {
        let mut document = docker();
        document["HostConfig"]["SecurityOpt"] = json!(spec.security_options());
        document[field] = json!("");
        assert_eq!(verify(&spec, &reported(&document)).unwrap_err().field, field);
        document[field] = json!(value);
        verify(&spec, &reported(&document)).unwrap();
    }
}

#[test]
fn with_the_hosts_network_its_resolver_is_left_and_the_mode_is_checked() {
    let spec = ContainerSpec { network: Network::Host, ..spec() };
    let body = spec.create_body();
    assert_eq!((&body["HostConfig"]["NetworkMode"], body["HostConfig"].get("Dns")), (&json!("host"), None));
    assert_eq!(verify(&spec, &reported(&docker())).unwrap_err().field, "HostConfig.NetworkMode");
}

/// The first process of a container that was made from [`spec`], as the kernel describes it.
const STATUS: &str = "Name:\tpython3\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t17171\n\
    Uid:\t2000000007\t2000000007\t2000000007\t2000000007\nGid:\t2000000007\t2000000007\t2000000007\t2000000007\n\
    Groups:\t2000000007 \nNStgid:\t17171\t1\nNSpid:\t17171\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
    CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
    Seccomp_filters:\t1\n";

#[test]
fn what_the_kernel_says_is_held_against_the_engine() {
    verify_process(&spec(), STATUS).unwrap();
    verify_process(&spec(), &STATUS.replace("Groups:\t2000000007 ", "Groups:\t")).unwrap();
    for (before, after, field) in [
        ("2000000007\nGid", "0\nGid", "Uid"),
        ("Gid:\t2000000007", "Gid:\t0", "Gid"),
        ("Groups:\t", "Groups:\t0 ", "Groups"),
        ("CapEff:\t0000000000000000", "CapEff:\t00000000a80425fb", "CapEff"),
        ("CapBnd:\t0000000000000000", "CapBnd:\t00000000a80425fb", "CapBnd"),
        ("CapAmb:\t0000000000000000\n", "", "CapAmb"),
        // The host's own, and not the first.
        ("NSpid:\t17171\t1", "NSpid:\t17171", "NSpid"),
        ("NSpid:\t17171\t1", "NSpid:\t1", "NSpid"),
        ("NSpid:\t17171\t1", "NSpid:\t17171\t11", "NSpid"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
        ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
    ] {
        assert!(STATUS.contains(before), "{before}");
        let ignored = verify_process(&spec(), &STATUS.replace(before, after)).expect_err(field);
        assert_eq!(ignored.field, format!("{field} of its process"));
    }
    assert!(verify_process(&spec(), "").is_err());
}

#[test]
fn a_process_beside_the_container_is_not_in_its_group() {
    let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    for path in [
        "/docker/ID",
        "/system.slice/docker-ID.scope",
        "/libpod_parent/libpod-ID",
        "/machine.slice/libpod-ID.scope",
        "/machine.slice/libpod-ID.scope/container",
        "/system.slice/some.service/libpod-payload-ID",
    ] {
        let path = path.replace("ID", id);
        assert!(is_in_group_of(&format!("9:name=systemd:/\n4:memory:{path}\n0::/\n"), id), "{path}");
        assert!(is_in_group_of(&format!("0::{path}\n"), id), "{path}");
        let other = id.replace('0', "9");
        assert!(!is_in_group_of(&format!("0::{path}\n"), &other), "{path}");
    }
    for path in [
        "/",
        "/machine.slice/libpod-conmon-ID.scope",
        "/libpod_parent/libpod-ID/supervisor",
        "/libpod_parent/conmon/ID-conmon",
        "/docker/IDe",
        "/docker/ID/of-another",
    ] {
        let path = path.replace("ID", id);
        assert!(!is_in_group_of(&format!("4:memory:{path}\n0::/\n"), id), "{path}");
    }
    assert!(!is_in_group_of("", id));
}
