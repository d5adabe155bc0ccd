//! Which files an instance sees: the minimal tree, as steps.
//!
//! Owns the list of what is shown and where. Pure: what the host has is given as [`HostFiles`] (gathered by
//! `runtime::host_files`). Shown are the interpreter's executable, its standard library, the shared libraries,
//! certificates, time zones, and a synthetic /etc; nothing else of the host. No shell, no /usr/bin, no site-packages.
//!
//! Invariant: everything of the host is a bind mount at the path it has on the host, so that symbolic links among the
//! shown files, and paths compiled into the interpreter, mean what they mean there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::plan::{BindKind, Step};
use super::runtime::Interpreter;
use crate::limits;

/// What the host has at a path, links not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostFile {
    /// A directory.
    Directory,
    /// A file of any other kind.
    File,
    /// A symbolic link to this.
    Link(PathBuf),
}

/// What the host has of the paths in [`looked_at`]. Those that it does not have are left out.
pub type HostFiles = BTreeMap<PathBuf, HostFile>;

#[cfg(target_arch = "x86_64")]
const MULTIARCH: &str = "x86_64-linux-gnu";
#[cfg(not(target_arch = "x86_64"))]
const MULTIARCH: &str = "aarch64-linux-gnu";

/// Where systems keep shared libraries. On one with "merged /usr" the short ones are links.
const LIBRARY_ROOTS: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"];
/// The dynamic loader where it lies beside the directory of the libraries and not in it.
const LOADERS: [&str; 2] = ["/usr/lib/ld-linux-aarch64.so.1", "/lib/ld-linux-aarch64.so.1"];
/// Certificates as Debian, Fedora, Arch and Alpine lay them out (never a directory of private keys), time zones, the
/// loader's cache, and the one locale that the zygote asks for.
const DATA: [&str; 15] = [
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates/extracted",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki/ca-trust-source",
    "/usr/lib/ssl/certs",
    "/usr/lib/ssl/cert.pem",
    "/usr/share/zoneinfo",
    "/usr/lib/locale/C.utf8",
    "/usr/lib/locale/C.UTF-8",
    "/etc/ld.so.cache",
];
/// What every host has and no function should see.
const HOST: [&str; 3] = ["/etc", "/var", "/sys"];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// The /etc/resolv.conf of an instance. With outbound network the server connects this address to the host's own name
/// servers, over TCP as all it connects (`egress`). Without network nothing is reached, and a lookup fails at once.
pub const RESOLV_CONF: &str = "nameserver 127.0.0.53\noptions use-vc timeout:2 attempts:2\n";

/// The synthetic /etc: enough for the C library to find names, and nothing that tells of the host.
const ETC: [(&str, &str); 5] = [
    (
        "passwd",
        "root:x:0:0:root:/:/usr/sbin/nologin\nfunction:x:1000:1000:function:/tmp:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\nfunction:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("resolv.conf", RESOLV_CONF),
    (
        "nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n",
    ),
];

/// The paths whose kind [`steps`] has to know.
pub fn looked_at(interpreter: &Interpreter) -> BTreeSet<PathBuf> {
    let fixed = LIBRARY_ROOTS.iter().chain(&LOADERS).chain(&DATA).map(PathBuf::from);
    let multiarch = LIBRARY_ROOTS.iter().map(|root| Path::new(root).join(MULTIARCH));
    fixed.chain(multiarch).chain(interpreter.directories.iter().cloned()).collect()
}

/// The steps that build the tree on the directory `staging`. Binds of directories are of the kind `directories`.
///
/// With `shows_host` there is besides what a tree is made to leave out: for the experiment that shows what it is worth.
pub fn steps(
    staging: &Path,
    interpreter: &Interpreter,
    host: &HostFiles,
    directories: BindKind,
    shows_host: bool,
) -> Vec<Step> {
    let mut tree = Tree::new(staging, directories);
    if shows_host {
        HOST.iter().for_each(|path| tree.show(Path::new(path), &HostFile::Directory));
    }
    for empty in ["/dev/shm", "/proc", "/tmp"] {
        tree.directory(Path::new(empty));
    }
    libraries(&mut tree, host);
    for path in interpreter.directories.iter().filter(|path| host.get(*path) == Some(&HostFile::Directory)) {
        tree.show(path, &HostFile::Directory);
    }
    tree.show(&interpreter.executable, &HostFile::File);
    for path in DATA.iter().chain(&LOADERS).map(Path::new) {
        if let Some(file) = host.get(path) {
            tree.show(path, file);
        }
    }
    for path in &interpreter.hidden {
        tree.hide(path);
    }
    for device in DEVICES {
        tree.device(&Path::new("/dev").join(device));
    }
    for (name, text) in ETC {
        tree.file(&Path::new("/etc").join(name), text.as_bytes());
    }
    // Functions run on universal time wherever the machine stands.
    tree.link(Path::new("/etc/localtime"), Path::new("/usr/share/zoneinfo/UTC"));
    tree.steps
}

/// Shared libraries. Where the distribution has a directory for the architecture's own, only that is shown: the rest
/// of /usr/lib is programs' private affairs.
fn libraries(tree: &mut Tree<'_>, host: &HostFiles) {
    for root in LIBRARY_ROOTS.map(Path::new) {
        let multiarch = root.join(MULTIARCH);
        match (host.get(root), host.get(&multiarch)) {
            (Some(link @ HostFile::Link(_)), _) => tree.show(root, link),
            (Some(HostFile::Directory), Some(HostFile::Directory)) => tree.show(&multiarch, &HostFile::Directory),
            (Some(HostFile::Directory), _) => tree.show(root, &HostFile::Directory),
            (Some(HostFile::File) | None, _) => {}
        }
    }
}

/// The tree as it grows.
struct Tree<'a> {
    staging: &'a Path,
    directories: BindKind,
    /// Directories made so far.
    made: BTreeSet<PathBuf>,
    /// Directories of the host that are shown: what lies below them is there already, and cannot be added to.
    shown: BTreeSet<PathBuf>,
    /// Links and files made so far.
    taken: BTreeSet<PathBuf>,
    steps: Vec<Step>,
}

impl<'a> Tree<'a> {
    fn new(staging: &'a Path, directories: BindKind) -> Self {
        let root = Step::MountTmpfs {
            target: staging.to_owned(),
            size_bytes: limits::SANDBOX_TREE_BYTES,
            inodes: limits::SANDBOX_TREE_INODES,
            mode: 0o755,
            executable: true,
        };
        let (made, shown, taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Tree { staging, directories, made, shown, taken, steps: vec![root] }
    }

    fn at(&self, path: &Path) -> PathBuf {
        super::plan::under(self.staging, path)
    }

    fn is_shown(&self, path: &Path) -> bool {
        path.ancestors().any(|ancestor| self.shown.contains(ancestor))
    }

    /// Makes the directory and those above it.
    fn directory(&mut self, path: &Path) {
        if self.is_shown(path) {
            return;
        }
        let mut so_far = PathBuf::from("/");
        for component in path.components().filter(|component| matches!(component, Component::Normal(_))) {
            so_far.push(component);
            if self.made.insert(so_far.clone()) {
                self.steps.push(Step::MkDir { path: self.at(&so_far), mode: 0o755 });
            }
        }
    }

    /// Makes the directory above `path`, and says whether `path` is still to be made.
    fn claim(&mut self, path: &Path) -> bool {
        if self.is_shown(path) || !self.taken.insert(path.to_owned()) {
            return false;
        }
        path.parent().into_iter().for_each(|parent| self.directory(parent));
        true
    }

    fn link(&mut self, path: &Path, target: &Path) {
        if self.claim(path) {
            self.steps.push(Step::Symlink { target: target.to_owned(), path: self.at(path) });
        }
    }

    fn file(&mut self, path: &Path, bytes: &[u8]) {
        if self.claim(path) {
            self.steps.push(Step::WriteFile { path: self.at(path), mode: 0o444, bytes: bytes.to_vec() });
        }
    }

    /// Shows what the host has at `path`, unless it is in sight already.
    fn show(&mut self, path: &Path, file: &HostFile) {
        match file {
            HostFile::Link(target) => self.link(path, target),
            HostFile::File => {
                if self.claim(path) {
                    self.steps.push(Step::WriteFile { path: self.at(path), mode: 0o444, bytes: Vec::new() });
                    self.bind(path, BindKind::Plain);
                }
            }
            HostFile::Directory => {
                if !self.is_shown(path) {
                    self.directory(path);
                    self.bind(path, self.directories);
                    self.shown.insert(path.to_owned());
                }
            }
        }
    }

    fn device(&mut self, path: &Path) {
        if self.claim(path) {
            self.steps.push(Step::WriteFile { path: self.at(path), mode: 0o444, bytes: Vec::new() });
            self.bind(path, BindKind::Device);
        }
    }

    fn bind(&mut self, path: &Path, kind: BindKind) {
        self.steps.push(Step::Bind { source: path.to_owned(), target: self.at(path), kind });
    }

    /// Puts an empty directory over `path`, if it would be seen.
    fn hide(&mut self, path: &Path) {
        if self.is_shown(path) {
            self.steps.push(Step::Mask(self.at(path)));
        }
    }
}

#[cfg(test)]
mod tests;
