//! What an instance with the outbound network may not do that others may: its sockets lead out of the sandbox, and only
//! the broker says where to. The reasoning is at the head of `egress`.

use super::{Check, Treatment, Verdict, ENOPROTOOPT, EOPNOTSUPP, EPERM, IOCTL_REQUESTS_OF_FILES};

/// What is different where `connect` is brokered, name by name. A brokered socket is one of the host's network namespace
/// in hostile hands, and only the broker may say where it leads; `egress` has the reasoning.
pub(super) const BROKERED: &[Brokered] = &[
    Brokered { names: "connect", purpose: "the broker answers", treatment: Treatment::Always(Verdict::Ask) },
    Brokered { names: "bind listen", purpose: "no listening", treatment: Treatment::Always(EPERM) },
    Brokered {
        names: "sendto sendmmsg",
        purpose: "without MSG_FASTOPEN, which connects",
        treatment: Treatment::Checked(&[Check::one_of(3, MSG_FASTOPEN, &[0], EOPNOTSUPP)]),
    },
    Brokered {
        names: "sendmsg",
        purpose: "without MSG_FASTOPEN, which connects",
        treatment: Treatment::Checked(&[Check::one_of(2, MSG_FASTOPEN, &[0], EOPNOTSUPP)]),
    },
    Brokered {
        names: "setsockopt",
        purpose: "what clients set; nothing that steers packets, loads a protocol or a filter, or lists routers",
        treatment: Treatment::Checked(&[Check::Pair {
            arguments: [1, 2],
            values: SOCKET_OPTIONS,
            lists_refused: false,
            refusal: ENOPROTOOPT,
        }]),
    },
    Brokered {
        names: "ioctl",
        purpose: "as above, without what lists the host's interfaces",
        treatment: Treatment::Checked(&[Check::one_of(1, !0, IOCTL_REQUESTS_OF_FILES, EPERM)]),
    },
];

/// A replacement for what the tables above say.
pub(super) struct Brokered {
    pub(super) names: &'static str,
    pub(super) purpose: &'static str,
    pub(super) treatment: Treatment,
}

const MSG_FASTOPEN: u32 = 0x2000_0000;

/// Options by level. Never here: IP_OPTIONS and IPV6_RTHDR (source routes lead packets past the address that was looked
/// at), SO_BINDTODEVICE and SO_DONTROUTE (so do they), TCP_FASTOPEN_CONNECT, TCP_ULP and TCP_CONGESTION (more of the
/// kernel), SO_ATTACH_*, SO_REUSEPORT, IP_TTL with IP_RECVERR (routers would name themselves), SO_LINGER (whoever closes
/// such a socket last can be held up for ever by its peer, and that may be the broker).
const SOCKET_OPTIONS: &[(u32, &[u32])] = &[
    // IPPROTO_IP: IP_TOS.
    (0, &[1]),
    // SOL_SOCKET: REUSEADDR, BROADCAST, SNDBUF, RCVBUF, KEEPALIVE, OOBINLINE, PASSCRED, RCVLOWAT, RCVTIMEO and
    // SNDTIMEO in both spellings.
    (1, &[2, 6, 7, 8, 9, 10, 16, 18, 20, 21, 66, 67]),
    // IPPROTO_TCP: NODELAY, MAXSEG, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, QUICKACK, USER_TIMEOUT,
    // NOTSENT_LOWAT.
    (6, &[1, 2, 3, 4, 5, 6, 7, 8, 12, 18, 25]),
    // IPPROTO_IPV6: V6ONLY, TCLASS.
    (41, &[26, 67]),
];
