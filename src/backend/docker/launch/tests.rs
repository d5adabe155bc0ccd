//! The host's half, met by processes of this machine: also by the real other half, without a container around it.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::connect;

use super::super::files;
use super::*;
use crate::egress::Egress;
use crate::limits::WIRE_MESSAGE_BYTES_MAX;
use crate::sandbox::plan::container_plan;
use crate::sandbox::seccomp::{instance_filter, Arch, Sockets};
use crate::wire::{self, AssignHead, CodeMessages, Direction, Kind};

const PATIENCE: Duration = Duration::from_secs(20);

fn our_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn knock(directory: &Path) -> io::Result<OwnedFd> {
    let stream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(stream.as_raw_fd(), &sys::io::address_in(&File::open(directory)?, NAME)?)?;
    Ok(stream)
}

fn heard(stream: &OwnedFd) -> Vec<OwnedFd> {
    let (length, descriptors) = sys::io::recv_descriptors(stream, &mut [0; 8]).unwrap();
    assert_eq!(length, 1);
    descriptors
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn who_comes_is_given_the_descriptors_and_whoever_comes_next_finds_nobody() {
    let state = tempfile::tempdir().unwrap();
    let parent = state.path().join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&parent).unwrap();
    let mut rendezvous = Rendezvous::prepare(&parent, "i3-17", Some(our_user())).unwrap();
    let (read, write) = sys::io::output_pipe().unwrap();
    let given = [write.as_fd(), read.as_fd()];
    assert!(rendezvous.meet(Network::None, &given).unwrap().is_none(), "nobody has come");
    fs::hard_link(rendezvous.directory().join(NAME), parent.join("other")).unwrap();
    let stream = knock(rendezvous.directory()).unwrap();
    sys::io::wait_readable(rendezvous.listener.as_ref().unwrap(), Instant::now() + PATIENCE).unwrap();
    assert!(rendezvous.meet(Network::None, &given).unwrap().unwrap().handover.is_none());
    let descriptors = heard(&stream);
    assert_eq!(descriptors.len(), 2);
    nix::unistd::write(&descriptors[0], b"!").unwrap();
    assert!(rendezvous.meet(Network::None, &given).unwrap().is_none(), "whoever comes next");
    drop((write, descriptors));
    assert_eq!(sys::io::read_until(&read, 9, Instant::now() + PATIENCE).unwrap(), b"!");
    assert_eq!(knock(rendezvous.directory()).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::rename(parent.join("other"), rendezvous.directory().join(NAME)).unwrap();
    let error = knock(rendezvous.directory()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "whoever kept the socket finds it closed");
    rendezvous.remove();
    assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
}

#[test]
fn who_needs_a_broker_comes_twice_and_his_second_connection_is_the_broker_s() {
    let state = tempfile::tempdir().unwrap();
    let (one, other) = sys::io::seqpacket_pair().unwrap();
    let given = [one.as_fd(), other.as_fd()];
    for at_once in [false, true] {
        let mut rendezvous = Rendezvous::prepare(state.path(), "i0-2", None).unwrap();
        let first = knock(rendezvous.directory()).unwrap();
        if !at_once {
            assert!(rendezvous.meet(Network::Outbound, &given).unwrap().is_none());
            assert!(rendezvous.meet(Network::Outbound, &given).unwrap().is_none());
        }
        let second = knock(rendezvous.directory()).unwrap();
        let handover = rendezvous.meet(Network::Outbound, &given).unwrap().unwrap().handover.unwrap();
        assert_eq!(heard(&first).len(), 2);
        sys::io::send(&second, &[IoSlice::new(b"x")]).unwrap();
        assert_eq!(sys::io::recv(&handover, &mut [0; 8]).unwrap(), (1, false));
        assert_eq!(knock(rendezvous.directory()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn another_user_than_the_container_s_is_hung_up_on() {
    let state = tempfile::tempdir().unwrap();
    let mut rendezvous = Rendezvous::prepare(state.path(), "i0-1", Some(our_user() + 1)).unwrap();
    let stream = knock(rendezvous.directory()).unwrap();
    let error = rendezvous.meet(Network::None, &[stream.as_fd(), stream.as_fd()]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains(&format!("uid {} and not uid {}", our_user(), our_user() + 1)), "{error}");
    assert_eq!(sys::io::recv(&stream, &mut [0; 8]).unwrap().0, 0);
}

#[test]
fn the_socket_is_its_user_s_where_the_server_can_give_it_away() {
    use std::os::unix::fs::MetadataExt;
    let state = tempfile::tempdir().unwrap();
    for user in [Some(2_000_000_017), None] {
        let rendezvous = Rendezvous::prepare(state.path(), "i0-1", user).unwrap();
        let path = rendezvous.directory().join(NAME);
        let owner = fs::symlink_metadata(&path).unwrap().uid();
        let wanted = match user {
            Some(user) if our_user() == 0 => (0o600, user),
            _ => (0o666, our_user()),
        };
        assert_eq!((mode(&path), owner), wanted);
        assert_eq!(mode(rendezvous.directory()), 0o711);
    }
}

/// A process of the shim's that ends with the test.
struct Container(Child);

impl Container {
    /// What the engine would run, with the paths of this machine for those of a container.
    fn start(files: &Path, rendezvous: &Rendezvous, network: Network, user: Option<u32>) -> Container {
        let shim = files::shim_directory(files);
        let socket = rendezvous.directory().join(NAME);
        let mut words = command(network).into_iter().map(|word| word.replace(SHIM, shim.to_str().unwrap()));
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::null()).stderr(Stdio::piped());
        match network {
            Network::Outbound => {
                let filter = instance_filter(Arch::native().unwrap(), Sockets::Brokered);
                let plan = shim.join(PLAN);
                fs::remove_file(&plan).unwrap();
                fs::write(&plan, container_plan(&socket, &filter).encode()).unwrap();
            }
            Network::None | Network::Host => drop(command.arg(socket)),
        }
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        // The program was written by this process: a child that another thread's test has just forked may have it open
        // for writing still, until it runs its own.
        let deadline = Instant::now() + PATIENCE;
        loop {
            match command.spawn() {
                Ok(child) => return Container(child),
                Err(error) => assert!(
                    error.kind() == std::io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline,
                    "{error}"
                ),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it says when it ends.
    fn end(mut self) -> String {
        let said = sys::io::read_until(self.0.stderr.take().unwrap(), 4096, Instant::now() + PATIENCE).unwrap();
        String::from_utf8(said).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that every user can pass through, as every user of a container can.
fn open_state() -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    files::prepare(state.path()).unwrap();
    fs::set_permissions(state.path(), Permissions::from_mode(0o755)).unwrap();
    state
}

/// Meets the process that comes: its channel, and what it says there first.
fn first_frame(rendezvous: &mut Rendezvous, network: Network) -> (OwnedFd, Kind, String) {
    let deadline = Instant::now() + PATIENCE;
    let (channel, instance_end) = sys::io::seqpacket_pair().unwrap();
    let (_output, output_writer) = sys::io::output_pipe().unwrap();
    let met = loop {
        sys::io::wait_readable(rendezvous.listener.as_ref().unwrap(), deadline).unwrap();
        if let Some(met) = rendezvous.meet(network, &[instance_end.as_fd(), output_writer.as_fd()]).unwrap() {
            break met;
        }
    };
    assert_eq!(met.handover.is_some(), network == Network::Outbound);
    if let Some(handover) = met.handover {
        Egress::new(1, Vec::new()).adopt("i0-1", handover).unwrap();
    }
    drop((instance_end, output_writer));
    let (kind, said) = next_frame(&channel);
    (channel, kind, said)
}

fn next_frame(channel: &OwnedFd) -> (Kind, String) {
    sys::io::wait_readable(channel, Instant::now() + PATIENCE).unwrap();
    let mut buffer = vec![0; WIRE_MESSAGE_BYTES_MAX];
    let (length, _) = sys::io::recv(channel, &mut buffer).unwrap();
    let mut frames = wire::decode_message(&buffer[..length], Direction::FromInstance).unwrap();
    let frame = frames.next().unwrap();
    (frame.kind, String::from_utf8_lossy(frame.payload).into_owned())
}

#[test]
fn the_shim_comes_as_the_container_s_user_and_becomes_a_blank() {
    let state = open_state();
    let user = (our_user() == 0).then_some(2_000_000_017);
    let mut rendezvous = Rendezvous::prepare(state.path(), "i0-1", Some(user.unwrap_or(our_user()))).unwrap();
    let _container = Container::start(state.path(), &rendezvous, Network::None, user);
    let (_channel, kind, said) = first_frame(&mut rendezvous, Network::None);
    assert_eq!(kind, Kind::Hello, "{said}");
}

#[test]
fn a_user_who_is_not_the_container_s_cannot_even_come() {
    if our_user() != 0 {
        return eprintln!("SKIP only root can be somebody else");
    }
    let state = open_state();
    let rendezvous = Rendezvous::prepare(state.path(), "i0-1", Some(2_000_000_017)).unwrap();
    let said = Container::start(state.path(), &rendezvous, Network::None, Some(2_000_000_018)).end();
    assert!(said.contains("it cannot connect to ") && said.contains("Permission denied"), "{said}");
}

#[test]
fn with_outbound_network_the_interpreter_begins_under_the_filter_and_its_connections_are_brokered() {
    if our_user() != 0 {
        return eprintln!("SKIP outside of a container only root may load a filter");
    }
    let state = open_state();
    let mut rendezvous = Rendezvous::prepare(state.path(), "i0-1", Some(0)).unwrap();
    let container = Container::start(state.path(), &rendezvous, Network::Outbound, None);
    let (channel, kind, said) = first_frame(&mut rendezvous, Network::Outbound);
    assert_eq!(kind, Kind::Hello, "{said}");
    let pid = container.0.id();
    assert!(fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("Seccomp:\t2"));
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("container.py"));
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|fd| fd.unwrap().file_name()).collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2", "3"]);
    let head = AssignHead {
        function: "f",
        version: 1,
        module: "main",
        handler: "handle",
        environment: &std::collections::BTreeMap::new(),
        instance: "i0-1",
        log_bytes_max: 0,
        response_bytes_max: 0,
    };
    // This machine is nowhere that a function may connect to; the kernel would say that nobody listens there.
    let code = "import socket\nsocket.create_connection(('127.0.0.1', 1), 5)\n";
    for message in CodeMessages::assign(&head, code).unwrap() {
        sys::io::send(&channel, &[IoSlice::new(&message)]).unwrap();
    }
    let (kind, said) = loop {
        let (kind, said) = next_frame(&channel);
        if kind != Kind::Log {
            break (kind, said);
        }
    };
    assert!(kind == Kind::Error && said.contains("PermissionError"), "{said}");
}

#[test]
fn a_launcher_whose_plan_fails_says_at_which_step_and_the_image_s_program_does_not_begin() {
    let state = open_state();
    let rendezvous = Rendezvous::prepare(state.path(), "i0-1", Some(our_user())).unwrap();
    // Nobody has come, so that nobody listens there.
    fs::remove_file(rendezvous.directory().join(NAME)).unwrap();
    let said = Container::start(state.path(), &rendezvous, Network::Outbound, None).end();
    assert_eq!(said, "faas: no function can run in this container: step 0: connect to a socket: error 2\n");
}
