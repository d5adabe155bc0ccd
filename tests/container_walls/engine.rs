//! An engine that is asked by hand, and containers in whose shim's place a script runs.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tempfile::TempDir;

use faas::backend::docker::api::containers::{self, Inspect};
use faas::backend::docker::api::system::{self, EngineKind};
use faas::backend::docker::api::{images, logs};
use faas::backend::docker::hardening::{ContainerSpec, SeccompProfile};
use faas::backend::docker::http::request::{ApiVersion, Request};
use faas::backend::docker::profile::profile;
use faas::registry::image::Reference;
use faas::sandbox::plan::Network;
use faas::sandbox::seccomp::Arch;

use super::common::{self, patience, skip};

pub(crate) const MEBIBYTE: u64 = 1024 * 1024;

/// An engine, spoken to over a connection for each call.
pub(crate) struct Engine {
    socket: PathBuf,
    api: Option<ApiVersion>,
    pub(crate) kind: EngineKind,
    image: images::Image,
    /// What its containers are told by.
    pub(crate) server: String,
    directory: TempDir,
    containers: AtomicU32,
}

impl Engine {
    /// The engine that the environment names, or nothing and a line that says so.
    pub(crate) fn find(test: &str) -> Option<Engine> {
        let shared = match common::engine::Engine::shared() {
            Ok(shared) => shared,
            Err(reason) => {
                skip(reason);
                return None;
            }
        };
        let (socket, image) = (shared.socket(), shared.image().to_owned());
        let directory = tempfile::tempdir().unwrap();
        let mut engine = Engine {
            socket: socket.to_owned(),
            api: None,
            kind: EngineKind::Docker,
            image: no_image(),
            server: format!("test-{test}-{}", std::process::id()),
            directory,
            containers: AtomicU32::new(0),
        };
        let (status, body) = engine.ask(&system::version());
        let found = system::negotiated(status, &body).unwrap();
        (engine.api, engine.kind) = (Some(found.api), found.kind);
        let image = Reference::parse(&image).unwrap();
        let (status, body) = engine.ask(&images::inspect(&image));
        engine.image = images::inspected(status, &body).unwrap().expect("the engine has FAAS_TEST_IMAGE");
        Some(engine)
    }

    pub(crate) fn ask(&self, request: &Request) -> (u16, Vec<u8>) {
        let mut stream = self.open(request);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let field = |name: &str| {
            head.lines().filter_map(|line| line.split_once(": ")).find(|(found, _)| found.eq_ignore_ascii_case(name))
        };
        if matches!(status, 204 | 304) {
            return (status, Vec::new());
        }
        if let Some((_, length)) = field("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            return (status, body);
        }
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                line.push(byte[0]);
            }
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).unwrap();
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return (status, body);
            }
        }
    }

    pub(crate) fn open(&self, request: &Request) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        stream.write_all(&request.encode(self.api)).unwrap();
        stream
    }

    /// A container that runs `script` in place of the shim.
    pub(crate) fn spec(&self, network: Network, script: &str) -> ContainerSpec {
        let number = self.containers.fetch_add(1, Ordering::Relaxed);
        let place = self.directory.path().join(number.to_string());
        let (run, shim) = (place.join("run"), place.join("shim"));
        for directory in [&run, &shim] {
            std::fs::create_dir_all(directory).unwrap();
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::write(shim.join("container.py"), script).unwrap();
        let resolver = (self.kind == EngineKind::Podman).then(|| place.join("resolv.conf"));
        if let Some(path) = &resolver {
            std::fs::write(path, "nameserver 127.0.0.53\noptions use-vc\n").unwrap();
        }
        let text = profile(Arch::native().unwrap(), network);
        let seccomp = match self.kind {
            EngineKind::Docker => SeccompProfile::Inline(text),
            EngineKind::Podman => {
                let path = place.join("profile.json");
                std::fs::write(&path, &*text).unwrap();
                SeccompProfile::File(path)
            }
        };
        ContainerSpec {
            engine: self.kind,
            image: self.image.id.clone(),
            command: ["python3", "-I", "-S", "-B", "/faas/shim/container.py"].map(str::to_owned).to_vec(),
            labels: containers::labels(&self.server, 0),
            uid: 2_100_000_000 + number,
            memory_bytes: 128 * MEBIBYTE,
            cpu_millis: 1500,
            network,
            seccomp,
            label: None,
            run_directory: run,
            shim_directory: shim,
            resolver,
        }
    }

    pub(crate) fn make(&self, spec: &ContainerSpec) -> String {
        let name = format!("{}-{}", self.server, spec.uid);
        let (status, body) = self.ask(&containers::create(&name, spec));
        let created = containers::created(status, &body).unwrap();
        assert_eq!(created.warnings, Vec::<String>::new());
        let (status, body) = self.ask(&containers::start(&created.id));
        containers::started(status, &body).unwrap();
        created.id
    }

    pub(crate) fn inspect(&self, id: &str) -> Inspect {
        let (status, body) = self.ask(&containers::inspect(id));
        containers::inspected(status, &body).unwrap()
    }

    /// What the container writes until it ends.
    pub(crate) fn output_of(&self, spec: &ContainerSpec) -> String {
        let id = self.make(spec);
        let (status, body) = self.ask(&containers::wait(&id, patience()));
        let code = containers::waited(status, &body).unwrap();
        let (status, body) = self.ask(&logs::last(&id, 1000));
        let text = logs::text(status, &body).unwrap();
        assert_eq!(code, 0, "{text}");
        text
    }

    pub(crate) fn ours(&self) -> Vec<containers::Listed> {
        let (status, body) = self.ask(&containers::list(&self.server));
        containers::listed(&self.server, status, &body).unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.api.is_some() && !std::thread::panicking() {
            for container in self.ours() {
                let (status, body) = self.ask(&containers::remove(&container.id));
                containers::removed(status, &body).unwrap();
            }
        }
    }
}

fn no_image() -> images::Image {
    let body = json!({ "Id": "0".repeat(64), "Os": "linux", "Architecture": "none" }).to_string();
    images::inspected(200, body.as_bytes()).unwrap().unwrap()
}
