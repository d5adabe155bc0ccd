//! A machine and an internet: two network namespaces with a cable between them. The thread that makes a [`World`] moves
//! to the machine, and with it whatever it starts.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use nix::sched::{unshare, CloneFlags};

use crate::common::mode::can_run_functions;
use crate::common::{prepared, Home, Server};

/// The internet's public address; those of the machine end in 1.
pub(crate) const PUBLIC: &str = "11.0.113.2";
pub(crate) const PUBLIC_V6: &str = "2a0b:1:1::2";
/// Where the internet answers, too, and where no function may get.
pub(crate) const FORBIDDEN: [&str; 7] =
    ["10.9.9.9", "192.168.77.1", "169.254.169.254", "100.64.1.1", "168.63.129.16", "fd00:77::1", "fd00:ec2::254"];

/// See the module's documentation.
pub(crate) struct World {
    internet: Child,
}

impl World {
    /// `None` where it cannot be made, which is said.
    pub(crate) fn new() -> Option<World> {
        // An engine of containers has the machine's network, and not that of one test.
        if !can_run_functions() {
            return None;
        }
        // Of this thread alone; each test has one of its own.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/network/internet.py");
        // It begins when the cable is there: until then it waits for a line.
        let mut internet = Command::new("unshare")
            .args(["--net", "sh", "-c", "read line; exec python3 -S \"$0\"", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = internet.id().to_string();
        let other = format!("/proc/{pid}/ns/net");
        // `unshare` has done its work when the namespace is another than ours.
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        crate::common::eventually("a second network", || {
            std::fs::read_link(&other).ok().filter(|link| *link != own).map(drop)
        });
        ip("link set lo up");
        ip(&format!("link add cable0 type veth peer name cable1 netns {pid}"));
        for command in [
            "address add 11.0.113.1/24 dev cable0",
            "address add 2a0b:1:1::1/64 dev cable0 nodad",
            "link set cable0 up",
            "route add default via 11.0.113.2",
            "route add default via 2a0b:1:1::2",
        ] {
            ip(command);
        }
        let there = |command: &str| {
            let words = command.split(' ');
            run(Command::new("nsenter").arg(format!("--net={other}")).arg("ip").args(words));
        };
        there("link set lo up");
        there("address add 11.0.113.2/24 dev cable1");
        there("address add 2a0b:1:1::2/64 dev cable1 nodad");
        for address in FORBIDDEN {
            let more = if address.contains(':') { " nodad" } else { "" };
            there(&format!("address add {address} dev cable1{more}"));
        }
        there("link set cable1 up");
        internet.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let mut ready = String::new();
        BufReader::new(internet.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Some(World { internet })
    }

    /// A server on the machine, which has the internet for its name server.
    pub(crate) fn server(&self, system: &str) -> Server {
        self.server_on(Home::with(system, ""))
    }

    /// The same on an existing directory.
    pub(crate) fn server_on(&self, home: Home) -> Server {
        let command = self.command(&home, env!("CARGO_BIN_EXE_faas"), &[]);
        Server::launch(home, command)
    }

    /// The command that starts `program`, through `before`, on a machine whose name server is the internet.
    pub(crate) fn command(&self, home: &Home, program: &str, before: &[&str]) -> Command {
        let resolv_conf = home.path().join("resolv.conf");
        std::fs::write(&resolv_conf, self::resolv_conf()).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command
            .args(["mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""])
            .arg(resolv_conf)
            .args(before)
            .arg(program);
        prepared(home, command)
    }

    /// The addresses of the internet at which connections have arrived.
    pub(crate) fn accepted(&self) -> Vec<String> {
        serde_json::from_str(&http(PUBLIC, "/accepted")).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.internet.kill();
        let _ = self.internet.wait();
    }
}

/// The machine's name servers, of which the first one does not answer.
pub(crate) fn resolv_conf() -> String {
    format!("nameserver 11.0.113.1\nnameserver {PUBLIC}\noptions use-vc\n")
}

/// What an address answers to a request that is not brokered.
pub(crate) fn http(address: &str, path: &str) -> String {
    use std::io::Read;
    let address = (address.parse::<std::net::IpAddr>().unwrap(), 80).into();
    let mut stream = std::net::TcpStream::connect_timeout(&address, crate::common::patience()).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
