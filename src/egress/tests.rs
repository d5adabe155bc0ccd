//! The broker and a filter that asks it, in one process: a thread takes the filter upon itself and connects.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::IntoRawFd;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::sandbox::plan::{Plan, Step};
use crate::sandbox::seccomp::{instance_filter, Arch, Sockets};
use crate::sys::executor;
use crate::sys::io::seqpacket_pair;
use crate::sys::tcp::testing::FlippingAddress;

/// Runs `job` in a thread whose connections are brokered.
fn confined<T: Send + 'static>(egress: &Arc<Egress>, job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (ours, theirs) = seqpacket_pair().unwrap();
    egress.adopt("test", ours).unwrap();
    std::thread::spawn(move || {
        let filter = instance_filter(Arch::native().unwrap(), Sockets::Brokered);
        let socket = theirs.into_raw_fd() as u32;
        let plan = Plan::new([Step::NoNewPrivs, Step::SeccompNotify { filter, socket }]);
        executor::run(&plan.encode()).unwrap();
        job()
    })
}

fn allowing(exceptions: &[String]) -> Arc<Egress> {
    Egress::new(1, exceptions.iter().map(|text| Exception::parse(text).unwrap()).collect())
}

fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn errno<T: fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn an_allowed_address_is_connected_and_any_other_refused() {
    let (listener, address) = server();
    let (_other, closed) = server();
    let egress = allowing(&[address.to_string()]);
    let job = confined(&egress, move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        (stream.peer_addr().unwrap(), answer, errno(TcpStream::connect(closed)))
    });
    let (mut stream, _) = listener.accept().unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    stream.write_all(&heard).unwrap();
    assert_eq!(job.join().unwrap(), (address, *b"hello", libc::EACCES));
}

#[test]
fn what_is_no_tcp_gets_eacces() {
    let (_listener, address) = server();
    let udp_target = address;
    let job = confined(&allowing(&[address.to_string()]), move || {
        let udp: UdpSocket = udp_socket();
        let unix = std::os::unix::net::UnixStream::connect("/tmp/there-is-no-such-socket");
        (errno(udp.connect(udp_target)), errno(unix), errno(TcpListener::bind("127.0.0.1:0")))
    });
    assert_eq!(job.join().unwrap(), (libc::EACCES, libc::EACCES, libc::EPERM));
}

fn udp_socket() -> UdpSocket {
    use nix::sys::socket::{socket, AddressFamily, SockFlag, SockType};
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap().into()
}

#[test]
fn a_refused_connection_is_refused_and_the_socket_can_be_used_again() {
    let (listener, address) = server();
    let (gone, closed) = server();
    drop(gone);
    let job = confined(&allowing(&[address.to_string(), closed.to_string()]), move || {
        let socket = crate::sys::tcp::open(&address).unwrap();
        socket.set_nonblocking(false).unwrap();
        let connect = |address: SocketAddr| {
            use std::os::fd::AsRawFd;
            nix::sys::socket::connect(socket.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(address))
        };
        (connect(closed), connect(address), connect(address), socket.peer_addr().unwrap())
    });
    let _accepted = listener.accept().unwrap();
    let (first, second, third, peer) = job.join().unwrap();
    assert_eq!(first, Err(nix::errno::Errno::ECONNREFUSED));
    assert_eq!(second, Ok(()));
    assert_eq!(third, Err(nix::errno::Errno::EISCONN));
    assert_eq!(peer, address);
}

#[test]
fn a_socket_that_does_not_wait_is_connecting_when_it_comes_back() {
    let (listener, address) = server();
    let job = confined(&allowing(&[address.to_string()]), move || {
        // With a timeout the standard library connects without blocking, and polls.
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap();
        (stream.peer_addr().unwrap(), crate::sys::tcp::is_nonblocking(&stream).unwrap())
    });
    let _accepted = listener.accept().unwrap();
    assert_eq!(job.join().unwrap(), (address, false));
}

#[test]
fn the_new_socket_has_the_options_and_flags_of_the_old_one() {
    use crate::sys::tcp;
    let (listener, address) = server();
    let job = confined(&allowing(&[address.to_string()]), move || {
        use std::os::fd::AsRawFd;
        let socket = tcp::open(&address).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
        nix::fcntl::fcntl(&socket, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        nix::sys::socket::connect(socket.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(address)).unwrap();
        // The one flag that is not the old one's, since to look at it could be made as dear as one likes.
        let flags = nix::fcntl::fcntl(&socket, nix::fcntl::F_GETFD).unwrap();
        assert_eq!(flags, nix::fcntl::FdFlag::FD_CLOEXEC.bits());
        (socket.nodelay().unwrap(), socket.read_timeout().unwrap(), tcp::is_nonblocking(&socket).unwrap())
    });
    let _accepted = listener.accept().unwrap();
    assert_eq!(job.join().unwrap(), (true, Some(Duration::from_millis(2500)), false));
}

#[test]
fn the_time_for_sending_ends_the_wait() {
    // Nobody takes connections from this queue, so that the third is not answered.
    let (_listener, address) = full_server();
    let job = confined(&allowing(&[address.0.to_string()]), move || {
        let socket = crate::sys::tcp::open(&address.0).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let begun = Instant::now();
        use std::os::fd::AsRawFd;
        let outcome =
            nix::sys::socket::connect(socket.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(address.0));
        (outcome, begun.elapsed())
    });
    let (outcome, elapsed) = job.join().unwrap();
    assert_eq!(outcome, Err(nix::errno::Errno::EINPROGRESS));
    assert!(elapsed >= Duration::from_millis(300) && elapsed < Duration::from_secs(20), "{elapsed:?}");
}

#[test]
fn one_instance_cannot_take_all_connections() {
    let (_listener, (address, _filling)) = full_server();
    let job = confined(&allowing(&[address.to_string()]), move || {
        let most = crate::limits::EGRESS_CONNECTS_PER_INSTANCE_MAX;
        let threads: Vec<_> = (0..most + 3).map(|_| std::thread::spawn(move || call_in_vain(address))).collect();
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        outcomes.iter().filter(|outcome| **outcome == Err(nix::errno::Errno::EAGAIN)).count()
    });
    assert_eq!(job.join().unwrap(), 3);
}

/// Waits three seconds for a connection.
fn call_in_vain(address: SocketAddr) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = crate::sys::tcp::open(&address).unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    nix::sys::socket::connect(socket.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(address))
}

/// A listener whose queue is full, and what fills it.
fn full_server() -> (std::os::fd::OwnedFd, (SocketAddr, Vec<TcpStream>)) {
    use nix::sys::socket::{bind, listen, socket, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};
    use std::os::fd::AsRawFd;
    let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        filling.push(stream);
    }
    (listener, (address, filling))
}

#[test]
fn an_address_that_changes_while_it_is_looked_at_is_never_connected_unjudged() {
    let (listener, allowed) = server();
    let (forbidden_listener, forbidden) = server();
    forbidden_listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let job = confined(&allowing(&[allowed.to_string()]), move || {
        // The port is flipped by another thread as fast as it can.
        let ports = [allowed.port().to_be(), forbidden.port().to_be()];
        let address = Arc::new(FlippingAddress::new(ports[0]));
        let (stop, stopped) = channel::<()>();
        let flipper = {
            let address = Arc::clone(&address);
            std::thread::spawn(move || {
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    (0..200).for_each(|turn| address.set(ports[turn % 2]));
                }
            })
        };
        let (mut connected, mut refused) = (0, 0);
        for _ in 0..900 {
            let socket = crate::sys::tcp::open(&allowed).unwrap();
            socket.set_nonblocking(false).unwrap();
            match address.connect(&socket) {
                0 => {
                    connected += 1;
                    assert_eq!(socket.peer_addr().unwrap().port(), allowed.port());
                }
                errno => {
                    assert_eq!(errno, libc::EACCES);
                    refused += 1;
                }
            }
        }
        drop(stop);
        flipper.join().unwrap();
        (connected, refused)
    });
    let (connected, refused) = job.join().unwrap();
    println!("{connected} connected, {refused} refused");
    assert!(connected > 0 && refused > 0, "the address did not flip: {connected} {refused}");
    assert_eq!(forbidden_listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn without_a_broker_the_plan_fails() {
    let (ours, theirs) = seqpacket_pair().unwrap();
    drop(ours);
    let filter = instance_filter(Arch::native().unwrap(), Sockets::Brokered);
    let failure = std::thread::spawn(move || {
        let socket = theirs.into_raw_fd() as u32;
        executor::run(&Plan::new([Step::NoNewPrivs, Step::SeccompNotify { filter, socket }]).encode())
    });
    assert_eq!(failure.join().unwrap().unwrap_err().errno, libc::EPIPE);
}

#[test]
fn when_the_broker_is_gone_there_is_no_network() {
    let (ours, theirs) = seqpacket_pair().unwrap();
    let broker = std::thread::spawn(move || drop(take_listener(ours).unwrap().unwrap()));
    let job = std::thread::spawn(move || {
        let filter = instance_filter(Arch::native().unwrap(), Sockets::Brokered);
        let socket = theirs.into_raw_fd() as u32;
        executor::run(&Plan::new([Step::NoNewPrivs, Step::SeccompNotify { filter, socket }]).encode()).unwrap();
        broker.join().unwrap();
        errno(TcpStream::connect("8.8.8.8:53"))
    });
    assert_eq!(job.join().unwrap(), libc::ENOSYS);
}

/// How many of so many connections that nobody answers are told to try again, while others have all places.
fn told_to_try_again(connections: usize) -> usize {
    let (_listener, (address, _filling)) = full_server();
    let egress = allowing(&[address.to_string()]);
    let all = crate::limits::EGRESS_CONNECTS_MAX;
    egress.connecting.store(all, std::sync::atomic::Ordering::Relaxed);
    let job = confined(&egress, move || {
        let threads: Vec<_> = (0..connections).map(|_| std::thread::spawn(move || call_in_vain(address))).collect();
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        outcomes.iter().filter(|outcome| **outcome == Err(nix::errno::Errno::EAGAIN)).count()
    });
    let told = job.join().unwrap();
    assert_eq!(egress.connecting.load(std::sync::atomic::Ordering::Relaxed), all, "every place is given back");
    told
}

#[test]
fn a_caller_that_is_answered_has_given_its_place_back() {
    let (gone, closed) = server();
    drop(gone);
    let (_listener, address) = server();
    let egress = allowing(&[closed.to_string(), address.to_string()]);
    let places = Arc::clone(&egress);
    let job = confined(&egress, move || {
        let taken = || places.connecting.load(std::sync::atomic::Ordering::Relaxed);
        let refused = |_: &usize| TcpStream::connect(closed).is_err() && taken() > 0;
        let connected = |_: &usize| TcpStream::connect(address).is_ok() && taken() > 0;
        ((0..400).filter(refused).count(), (0..100).filter(connected).count())
    });
    assert_eq!(job.join().unwrap(), (0, 0));
}

#[test]
fn too_many_connections_at_once_are_told_to_try_again() {
    assert_eq!(told_to_try_again(crate::limits::EGRESS_CONNECTS_RESERVED + 3), 3);
}

#[test]
fn others_cannot_take_the_last_places_of_an_instance() {
    assert_eq!(told_to_try_again(crate::limits::EGRESS_CONNECTS_RESERVED), 0);
}
