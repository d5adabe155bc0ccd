//! The name servers that stand behind [`STUB`], the one that functions are told of.
//!
//! Pure but for [`name_servers`], which reads the host's file at every connection, since it changes while a machine
//! moves between networks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where a function asks for names: what `/etc/resolv.conf` in the tree says.
pub(crate) const STUB: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), PORT);
const PORT: u16 = 53;
const HOST_FILE: &str = "/etc/resolv.conf";
/// As many as the C library uses.
const NAME_SERVERS_MAX: usize = 3;

/// The host's name servers as its file has them now, beginning with number `turn`.
pub(super) fn name_servers(turn: usize) -> Vec<SocketAddr> {
    let mut servers = parse(&std::fs::read_to_string(HOST_FILE).unwrap_or_default());
    let first = turn % servers.len().max(1);
    servers.rotate_left(first);
    servers
}

/// The servers of a resolv.conf(5); one on this machine when it names none, as the C library has it. An address with a
/// scope (`fe80::1%eth0`) is left out.
fn parse(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    };
    let mut servers: Vec<_> =
        text.lines().filter_map(address).take(NAME_SERVERS_MAX).map(|ip| SocketAddr::new(ip, PORT)).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nsearch example.org\nnameserver 10.0.0.2\n\
                    nameserver\t2001:4860:4860::8888 # trailing\nnameserver fe80::1%eth0\nnameserver x\n\
                    options edns0\nnameserver 127.0.0.53\nnameserver 9.9.9.9\n";
        let servers: Vec<String> = parse(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[2001:4860:4860::8888]:53", "127.0.0.53:53"]);
        assert_eq!(parse(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn the_turn_decides_who_is_asked_first() {
        let servers = name_servers(0);
        for turn in 0..7 {
            let rotated = name_servers(turn);
            assert_eq!(rotated[0], servers[turn % servers.len()]);
            assert_eq!(rotated.len(), servers.len());
        }
    }
}
