//! Where a function with `network: outbound` may connect to: the public internet, and what the operator adds.
//!
//! Pure: whether an address is this machine's own is asked of the caller, who asks the kernel.
//!
//! Invariant: an address counts as what a packet to it would reach, so an IPv4 address inside an IPv6 one is judged as
//! well, and an address that is none of the kinds known here is refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address, or a network of them, that is allowed although the rules refuse it: an entry of
/// `system.outbound_allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    network: Network,
    /// Every port when not given.
    port: Option<u16>,
}

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    first: IpAddr,
    bits: u8,
}

/// What the rules refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Links, on which cloud providers keep their metadata, where else they keep it, and what is no address of one
    /// machine.
    Never,
    /// The server itself.
    Server,
    /// This machine.
    Own,
    /// A private network, or one set aside for something else than the public internet.
    NotPublic,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Network {
    Network { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
}

const fn v6(first: [u16; 2], bits: u8) -> Network {
    let [a, b] = first;
    Network { first: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), bits }
}

/// One address: its first two words and its last two.
const fn v6_host(first: [u16; 2], last: [u16; 2]) -> Network {
    let ([a, b], [y, z]) = (first, last);
    Network { first: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, y, z)), bits: 128 }
}

/// What no exception opens: "this network", links, several machines at once, and what is reserved.
const NEVER: [Network; 6] = [
    v4(0, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v6([0xfe80, 0], 10),
    v6([0xff00, 0], 8),
];

/// Where cloud providers answer their machines besides the links: with credentials and secrets, to whoever asks from the
/// machine, and partly to root alone, as which the server connects. No exception opens them, but it may lie around them.
const METADATA: [Network; 7] = [
    // Azure: a public address.
    v4(168, 63, 129, 16, 32),
    // Alibaba.
    v4(100, 100, 100, 200, 32),
    // Oracle.
    v4(192, 0, 0, 192, 32),
    v6_host([0xfd00, 0x00c1], [0xa9fe, 0xa9fe]),
    // Amazon: metadata, credentials of pods, name server, clock.
    v6([0xfd00, 0x0ec2], 32),
    // Google.
    v6_host([0xfd20, 0x00ce], [0, 0x0254]),
    // Scaleway.
    v6_host([0xfd00, 0x0042], [0, 0x0042]),
];

/// IPv4 addresses that are not of the public internet (RFC 6890 and its successors), besides those above.
const NOT_PUBLIC: [Network; 11] = [
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
];

/// The one range of public IPv6 addresses.
const PUBLIC_V6: Network = v6([0x2000, 0], 3);
/// What is not public in it: special purposes (among them benchmarks, hashes that are no addresses, and Teredo, which
/// tunnels to an IPv4 address that is hidden in the last 32 bits, inverted, and can be any), and documentation.
const NOT_PUBLIC_V6: [Network; 3] = [v6([0x2001, 0], 23), v6([0x2001, 0x0db8], 32), v6([0x3fff, 0], 20)];
const SIX_TO_FOUR: Network = v6([0x2002, 0], 16);
const NAT64: Network = v6([0x0064, 0xff9b], 96);
/// IPv4-compatible addresses. `::` and `::1` look like two of them.
const COMPATIBLE: Network = v6([0, 0], 96);

/// Whether a function may connect to `address`. `is_own` says whether an address is this machine's.
///
/// # Errors
/// Why it may not.
pub fn judge(
    address: SocketAddr,
    server_port: u16,
    exceptions: &[Exception],
    is_own: impl Fn(IpAddr) -> bool,
) -> Result<(), Refusal> {
    let ip = address.ip().to_canonical();
    let inner = embedded(ip).map(IpAddr::V4);
    let parts = || std::iter::once(ip).chain(inner);
    let is_closed = |part| NEVER.iter().chain(&METADATA).any(|network| network.contains(part));
    if parts().any(is_closed) || ip.is_unspecified() {
        return Err(Refusal::Never);
    }
    let own = parts().any(&is_own) || ip.is_loopback();
    if own && address.port() == server_port {
        return Err(Refusal::Server);
    }
    if exceptions.iter().any(|exception| exception.covers(ip, address.port())) {
        return Ok(());
    }
    if own {
        return Err(Refusal::Own);
    }
    if is_public(ip) {
        Ok(())
    } else {
        Err(Refusal::NotPublic)
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => !NEVER.iter().chain(&NOT_PUBLIC).any(|network| network.contains(ip)),
        IpAddr::V6(_) => match embedded(ip) {
            Some(inner) => is_public(inner.into()),
            None => PUBLIC_V6.contains(ip) && !NOT_PUBLIC_V6.iter().any(|network| network.contains(ip)),
        },
    }
}

/// The IPv4 address to which packets to this IPv6 address would be handed on.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let [_, _, a, b, c, d, .., w, x, y, z] = v6.octets();
    if SIX_TO_FOUR.contains(ip) {
        Some(Ipv4Addr::new(a, b, c, d))
    } else if NAT64.contains(ip) || (COMPATIBLE.contains(ip) && !v6.is_loopback() && !v6.is_unspecified()) {
        Some(Ipv4Addr::new(w, x, y, z))
    } else {
        None
    }
}

impl Network {
    fn contains(&self, ip: IpAddr) -> bool {
        match (self.first, ip) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => (first.to_bits() ^ ip.to_bits()) & mask_v4(self.bits) == 0,
            (IpAddr::V6(first), IpAddr::V6(ip)) => (first.to_bits() ^ ip.to_bits()) & mask_v6(self.bits) == 0,
            _ => false,
        }
    }

    fn overlaps(&self, other: &Network) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

fn mask_v4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn mask_v6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

/// Why a text is no exception. Displayed as what is allowed instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExceptionError {
    /// It does not have the form.
    Form,
    /// The address has bits set beyond those that count.
    HostBits,
    /// It would open what must never be opened.
    Never,
}

impl fmt::Display for ExceptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExceptionError::Form => {
                "ADDRESS, ADDRESS/BITS, or either with :PORT (an IPv6 address then in brackets), such as 10.1.2.0/24, \
                 192.168.1.10:5432, fd00::/8 or [fd00::5]:443"
            }
            ExceptionError::HostBits => "the first address of the network: no bits may be set after the first BITS",
            ExceptionError::Never => {
                "addresses without 0.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3, fe80::/10, ff00::/8 and ::ffff:0:0/96, and other \
                 than those of cloud providers' metadata, which can never be allowed"
            }
        })
    }
}

impl std::error::Error for ExceptionError {}

impl Exception {
    /// Reads `ADDRESS[/BITS][:PORT]`, an IPv6 address with a port in brackets (its bits may be inside or behind them).
    ///
    /// # Errors
    /// When it is anything else, or would open what must stay closed.
    pub fn parse(text: &str) -> Result<Exception, ExceptionError> {
        let (network, port) = split_port(text).ok_or(ExceptionError::Form)?;
        let (address, bits) = match network.split_once('/') {
            Some((address, bits)) => (address, Some(decimal(bits).ok_or(ExceptionError::Form)?)),
            None => (network.as_str(), None),
        };
        let first: IpAddr = address.parse().map_err(|_| ExceptionError::Form)?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(ExceptionError::Form);
        }
        let network = Network { first, bits: bits as u8 };
        let host_bits = match first {
            IpAddr::V4(first) => first.to_bits() & !mask_v4(network.bits) != 0,
            IpAddr::V6(first) => first.to_bits() & !mask_v6(network.bits) != 0,
        };
        if host_bits {
            return Err(ExceptionError::HostBits);
        }
        // An IPv4 address is written as one, whichever way a function spells it.
        let mapped = Network { first: IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()), bits: 96 };
        let is_metadata = METADATA.iter().any(|closed| closed.bits <= network.bits && closed.contains(first));
        if is_metadata || NEVER.iter().any(|never| never.overlaps(&network)) || mapped.overlaps(&network) {
            return Err(ExceptionError::Never);
        }
        Ok(Exception { network, port })
    }

    fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.network.contains(ip) && self.port.is_none_or(|only| only == port)
    }
}

/// What stands before the port, without brackets, and the port.
fn split_port(text: &str) -> Option<(String, Option<u16>)> {
    let port = |text: &str| decimal(text).and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0);
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, behind) = rest.split_once(']')?;
        let (bits, number) = behind.split_once(':')?;
        if !inside.contains(':') {
            return None;
        }
        return Some((format!("{inside}{bits}"), Some(port(number)?)));
    }
    match text.split_once(':') {
        Some((network, number)) if !number.contains(':') && !network.is_empty() && network.contains('.') => {
            Some((network.to_owned(), Some(port(number)?)))
        }
        _ => Some((text.to_owned(), None)),
    }
}

/// A number of plain digits, without sign or leading zero.
fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests;
