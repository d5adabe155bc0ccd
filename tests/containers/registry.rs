//! A registry of images on this machine: an engine takes one on a loopback address without TLS. It has images of one
//! layer each, can hold a layer back half way, and can want a password.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{json, Value};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// The first byte of a client that wants TLS.
const TLS_HANDSHAKE: u8 = 22;

/// See the module's documentation.
pub(crate) struct Registry {
    inside: Arc<Inside>,
    port: u16,
}

struct Inside {
    /// What is there, by `NAME/manifests/TAG`, `NAME/manifests/DIGEST` and `NAME/blobs/DIGEST`.
    things: Mutex<HashMap<String, Thing>>,
    is_open: Mutex<bool>,
    opened: Condvar,
    /// What `Authorization` has to be.
    password: Option<String>,
    layers_asked: AtomicUsize,
}

#[derive(Clone)]
struct Thing {
    kind: &'static str,
    digest: String,
    bytes: Arc<Vec<u8>>,
}

impl Registry {
    /// An open one; `password` is what `Authorization` has to be, if it wants that.
    pub(crate) fn start(password: Option<&str>) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inside = Arc::new(Inside {
            things: Mutex::default(),
            is_open: Mutex::new(true),
            opened: Condvar::new(),
            password: password.map(str::to_owned),
            layers_asked: AtomicUsize::new(0),
        });
        let served = Arc::clone(&inside);
        // It listens until this process ends.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let inside = Arc::clone(&served);
                // Whoever hangs up has had enough.
                std::thread::spawn(move || drop(inside.serve(&stream)));
            }
        });
        Registry { inside, port }
    }

    /// `HOST:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Adds an image whose files are this archive's; its reference, and what its manifest's digest is.
    pub(crate) fn add(&self, name: &str, archive: Vec<u8>) -> (String, String) {
        self.add_for(name, archive, if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" })
    }

    /// The same for machines of this architecture.
    pub(crate) fn add_for(&self, name: &str, archive: Vec<u8>, architecture: &str) -> (String, String) {
        let layer = Thing { kind: LAYER, digest: digest(&archive), bytes: Arc::new(archive) };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] }, "history": [{ "created_by": "a test" }],
        });
        let config = thing(CONFIG, &config);
        let described =
            |thing: &Thing| json!({ "mediaType": thing.kind, "size": thing.bytes.len(), "digest": thing.digest });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": described(&config), "layers": [described(&layer)],
        });
        let manifest = thing(MANIFEST, &manifest);
        let digest = manifest.digest.clone();
        let mut things = self.inside.things.lock().unwrap();
        for blob in [config, layer] {
            things.insert(format!("{name}/blobs/{}", blob.digest), blob);
        }
        for version in ["1", &digest] {
            things.insert(format!("{name}/manifests/{version}"), manifest.clone());
        }
        (format!("{}/{name}:1", self.host()), digest)
    }

    /// Layers are held back half way from now on.
    pub(crate) fn close(&self) {
        *self.inside.is_open.lock().unwrap() = false;
    }

    /// What was held back goes on.
    pub(crate) fn open(&self) {
        *self.inside.is_open.lock().unwrap() = true;
        self.inside.opened.notify_all();
    }

    /// How often a layer was asked for.
    pub(crate) fn layers_asked(&self) -> usize {
        self.inside.layers_asked.load(Ordering::SeqCst)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.open();
    }
}

impl Inside {
    fn serve(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut first = [0];
        if stream.peek(&mut first)? == 1 && first[0] == TLS_HANDSHAKE {
            // Docker whose images are in containerd goes on without TLS if it hears that this is HTTP. The rest of the
            // greeting is taken first, as what is left of it would cut the answer off.
            let _ = stream.read(&mut [0; 16384])?;
            return write!(stream, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().unwrap_or(Ok(String::new()))?;
        let mut authorization = None;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or_default();
            if name.eq_ignore_ascii_case("authorization") {
                authorization = Some(value.to_owned());
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if self.password.is_some() && authorization != self.password {
            let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Length: 0";
            return write!(stream, "{head}\r\nConnection: close\r\n\r\n");
        }
        let path = path.strip_prefix("/v2/").unwrap_or("nothing");
        if path.is_empty() {
            return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
        }
        let thing = self.things.lock().unwrap().get(path).cloned();
        let Some(thing) = thing else {
            return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let (kind, digest, length) = (thing.kind, &thing.digest, thing.bytes.len());
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        )?;
        if method == "HEAD" {
            return Ok(());
        }
        let (first, rest) = thing.bytes.split_at(length / 2);
        stream.write_all(first)?;
        if kind == LAYER {
            self.layers_asked.fetch_add(1, Ordering::SeqCst);
            let is_open = self.is_open.lock().unwrap();
            drop(self.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
        }
        stream.write_all(rest)
    }
}

fn thing(kind: &'static str, document: &Value) -> Thing {
    let bytes = document.to_string().into_bytes();
    Thing { kind, digest: digest(&bytes), bytes: Arc::new(bytes) }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
