//! What the tests of the sandbox share: a server of a few lines around the real plans.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::slice::from_ref;
use std::time::{Duration, Instant};

use faas::sandbox::plan::{
    instance_inner_plan, instance_outer_plan, zygote_plan, InstanceSpec, Plan, Privilege, ZygoteSpec, CONTROL_FD,
};
use faas::sandbox::runtime::{find, host_files, probe, Interpreter};
use faas::sys::io::{output_pipe, recv, send, send_with_descriptors, seqpacket_pair, wait_readable};
use faas::sys::process::{adopt_orphans, pidfd_open, pidfd_reap, spawn_with_plan, ProcessEnd};
use serde_json::Value;

pub(crate) const HOST_UID: u32 = 654_321;
/// `BPF_RET | BPF_K`, `SECCOMP_RET_ALLOW`.
pub(crate) const ALLOW_ALL: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];

/// Waits end in failure after this long; an emulated machine says in `FAAS_TEST_SLOWNESS` how much slower it is.
fn patience() -> Duration {
    Duration::from_secs(20) * std::env::var("FAAS_TEST_SLOWNESS").map_or(1, |factor| factor.parse().unwrap())
}

/// Whether the test has to be left out because it is not run by root.
pub(crate) fn root_or_skip(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert_ne!(std::env::var("FAAS_CI").as_deref(), Ok("1"), "{test} needs root, and CI must not leave it out");
    println!("SKIP {test}: needs root");
    true
}

pub(crate) fn python(name: &str) -> Interpreter {
    find(name, &BTreeMap::new()).unwrap()
}

pub(crate) fn system_python() -> Interpreter {
    probe(Path::new("/usr/bin/python3"), patience()).unwrap()
}

/// The system's Python, and those of pyenv that are new enough.
pub(crate) fn all_pythons() -> Vec<Interpreter> {
    let home = std::env::var("HOME").unwrap_or_default();
    let versions = std::fs::read_dir(format!("{home}/.pyenv/versions")).into_iter().flatten().flatten();
    let others = versions.filter_map(|entry| probe(&entry.path().join("bin/python3"), patience()).ok());
    others.chain([system_python()]).collect()
}

pub(crate) struct Zygote {
    child: Child,
    control: Socket,
    _staging: tempfile::TempDir,
}

/// One end of a datagram socket, with patience.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn send(&self, bytes: &[u8]) {
        send(&self.0, &[IoSlice::new(bytes)]).unwrap();
    }

    /// The next datagram; `None` when the peer is gone.
    fn receive(&self) -> Option<Value> {
        let mut buffer = vec![0; 200_000];
        wait_readable(&self.0, Instant::now() + patience()).unwrap();
        let length = recv(&self.0, &mut buffer).map_or(0, |(length, _)| length);
        (length > 0).then(|| serde_json::from_slice(&buffer[..length]).unwrap())
    }

    /// Keeps this end open beyond the death of this process.
    #[allow(clippy::zombie_processes)] // the child is to outlive this process
    pub(crate) fn keep_open_in_a_child(&self) {
        let copy = self.0.try_clone().unwrap();
        Command::new("/bin/sleep").arg("30").stdin(copy).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    }

    pub(crate) fn assert_open(&self) {
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(recv(&self.0, &mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

impl Zygote {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn start(interpreter: &Interpreter, privilege: Privilege) -> Zygote {
        adopt_orphans().unwrap();
        let staging = tempfile::tempdir_in("/tmp").unwrap();
        let shim = [("zygote.py", include_str!("zygote.py"))];
        let host = host_files(interpreter);
        let root = staging.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let spec =
            ZygoteSpec { privilege, staging: root.clone(), interpreter, host: &host, shows_host: false, shim: &shim };
        let plan = zygote_plan(&spec);
        let (control, theirs) = seqpacket_pair().unwrap();
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        let (program, arguments) = command(privilege, staging.path(), &root);
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let child = spawn_with_plan(&program, &arguments, &plan.encode(), &theirs, CONTROL_FD, stderr).unwrap();
        drop(theirs);
        let zygote = Zygote { child, control: Socket(control), _staging: staging };
        let ready = zygote.control.receive();
        assert!(ready.is_some(), "the zygote did not start; its plan:\n{}", plan.describe().join("\n"));
        zygote
    }

    pub(crate) fn spawn(&self, spec: &InstanceSpec) -> Instance {
        self.try_spawn(spec).unwrap_or_else(|failure| {
            panic!("{failure}\n{}", instance_inner_plan(spec).describe().join("\n"));
        })
    }

    /// An instance, or errno and message of the step that failed.
    pub(crate) fn try_spawn(&self, spec: &InstanceSpec) -> Result<Instance, Value> {
        self.spawn_plans(&[instance_outer_plan(spec)], &[instance_inner_plan(spec)])
    }

    fn spawn_plans(&self, outer: &[Plan], inner: &[Plan]) -> Result<Instance, Value> {
        let encoded = [outer, inner].map(|plans| plans.iter().map(Plan::encode).collect::<Vec<_>>());
        let lengths = encoded.each_ref().map(|plans| plans.iter().map(Vec::len).collect::<Vec<_>>());
        let head = format!("{}\n", serde_json::to_string(&lengths).unwrap());
        let body = encoded.concat().concat();
        let (channel, theirs) = seqpacket_pair().unwrap();
        let (output, write) = output_pipe().unwrap();
        let pieces = [IoSlice::new(head.as_bytes()), IoSlice::new(&body)];
        let begun = Instant::now();
        send_with_descriptors(&self.control.0, &pieces, &[theirs.as_fd(), write.as_fd()]).unwrap();
        drop((theirs, write));
        let mut spawned = self.control.receive().expect("the zygote ended");
        if spawned["failed"].is_array() {
            return Err(spawned["failed"].take());
        }
        let pid = u32::try_from(spawned["pid"].as_u64().unwrap()).unwrap();
        let pidfd = pidfd_open(pid).unwrap();
        let channel = Socket(channel);
        let mut answer = channel.receive().expect("the instance ended without a word");
        if answer["failed"].is_array() {
            return Err(answer["failed"].take());
        }
        Ok(Instance { pid, pidfd, channel, output, answer, took: begun.elapsed() })
    }

    /// Prints the medians of `rounds` blanks: as a whole, and step by step.
    pub(crate) fn print_costs(&self, spec: &InstanceSpec, rounds: usize) {
        let (outer, inner) = (instance_outer_plan(spec), instance_inner_plan(spec));
        let single = |plan: &Plan| -> Vec<Plan> {
            plan.steps().iter().map(|planned| Plan::new([planned.step.clone()])).collect()
        };
        let mut whole: Vec<Duration> =
            (0..rounds).map(|_| self.spawn_plans(from_ref(&outer), from_ref(&inner)).unwrap().took).collect();
        whole.sort();
        println!("a blank, from request to answer: median {:?}, p90 {:?}", whole[rounds / 2], whole[rounds * 9 / 10]);
        let mut names = vec!["fork of M"];
        names.extend(outer.steps().iter().map(|planned| planned.step.name()));
        names.push("fork of the instance");
        names.extend(inner.steps().iter().map(|planned| planned.step.name()));
        let mut columns = vec![Vec::new(); names.len()];
        for _ in 0..rounds {
            let instance = self.spawn_plans(&single(&outer), &single(&inner)).unwrap();
            let times = instance.answer["times"].as_array().unwrap();
            columns.iter_mut().zip(times).for_each(|(column, time)| column.push(time.as_u64().unwrap()));
        }
        let median = |column: &mut Vec<u64>| {
            column.sort_unstable();
            column[rounds / 2] / 1000
        };
        let mut costs: Vec<(u64, &str)> = columns.iter_mut().map(median).zip(names).collect();
        println!("sum of the medians: {} us", costs.iter().map(|(cost, _)| cost).sum::<u64>());
        costs.sort_unstable_by(|left, right| right.cmp(left));
        costs.iter().take(14).for_each(|(cost, name)| println!("{cost:>6} us  {name}"));
    }
}

/// The helper as this user, or as another through `setpriv`, who needs a copy of the binary that he can reach.
fn command(privilege: Privilege, reachable: &Path, root: &Path) -> (PathBuf, Vec<String>) {
    use std::os::unix::fs::{chown, PermissionsExt};
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_faas"));
    let Privilege::Unprivileged { uid, gid } = privilege else {
        return (binary, vec!["__run-plan".to_owned()]);
    };
    std::fs::set_permissions(reachable, std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(root, Some(uid), Some(gid)).unwrap();
    let copy = reachable.join("faas");
    // By another process: what a child of another thread's test has open for writing cannot be run.
    let copied = std::process::Command::new("install").args(["-m", "755"]).args([&binary, &copy]).status().unwrap();
    assert!(copied.success());
    let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={gid}"));
    let copy = copy.to_string_lossy().into_owned();
    ("/usr/bin/setpriv".into(), vec![uid, gid, "--clear-groups".into(), copy, "__run-plan".into()])
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Instance {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: Socket,
    output: OwnedFd,
    answer: Value,
    took: Duration,
}

impl Instance {
    /// What the instance sees of itself and of the world.
    pub(crate) fn look(&self) -> Value {
        self.channel.send(b"look");
        self.channel.receive().expect("the instance ended while it looked")
    }

    /// What has arrived in the output pipe.
    pub(crate) fn output(&self) -> String {
        let mut buffer = [0; 4096];
        let length = nix::unistd::read(&self.output, &mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Waits for its end.
    pub(crate) fn end(&self) -> ProcessEnd {
        wait_readable(&self.pidfd, Instant::now() + patience()).unwrap();
        pidfd_reap(&self.pidfd).unwrap().unwrap()
    }
}

/// A server in a process of its own: this program again, running one ignored test.
pub(crate) struct SeparateServer {
    child: Child,
    pidfds: Vec<OwnedFd>,
}

impl SeparateServer {
    /// Starts it and waits until it has said which processes it made.
    pub(crate) fn start(test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", test])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let pids = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("pids ").map(str::to_owned));
        let pids = pids.expect("the server ended early");
        let pidfds = pids.split(' ').map(|pid| pidfd_open(pid.parse().unwrap()).unwrap()).collect();
        SeparateServer { child, pidfds }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn assert_orphans_die(&self) {
        let deadline = Instant::now() + patience();
        for pidfd in &self.pidfds {
            wait_readable(pidfd, deadline).expect("a process outlived its server");
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = faas::sys::process::pidfd_kill(&self.pidfd);
        let _ = wait_readable(&self.pidfd, Instant::now() + patience());
        let _ = pidfd_reap(&self.pidfd);
    }
}
