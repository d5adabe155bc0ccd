//! The filter of an instance whose connections a broker makes.

use super::*;

/// What the filter with the broker says of a call.
fn brokered(arch: Arch, name: &str, arguments: &[u64]) -> Verdict {
    answer_of(Sockets::Brokered, arch, name, arguments)
}

#[test]
fn with_a_broker_connect_is_asked_for_and_nothing_else_leads_out() {
    for arch in ARCHES {
        assert_eq!(answer(arch, "connect", &[3]), Verdict::Allow);
        assert_eq!(brokered(arch, "connect", &[3]), Verdict::Ask);
        assert_eq!((brokered(arch, "bind", &[3]), brokered(arch, "listen", &[3])), (EPERM, EPERM));
        for (call, flags) in [("sendto", 3), ("sendmmsg", 3), ("sendmsg", 2)] {
            let with = |value: u64| {
                let mut arguments = [0; 6];
                arguments[flags] = value;
                brokered(arch, call, &arguments)
            };
            for fast_open in [0x2000_0000, 0x2000_4000, 0xFFFF_FFFF_2000_0000, u64::MAX] {
                assert_eq!(with(fast_open), EOPNOTSUPP, "{call} {fast_open:#x}");
            }
            assert_eq!((with(0), with(0x4000)), (Verdict::Allow, Verdict::Allow), "{call}");
        }
        for request in [0x8910, 0x8912, 0x8913, 0x8915, 0x891B, 0x8921, 0x8933, 0xFFFF_FFFF_0000_8912] {
            assert_eq!(answer(arch, "ioctl", &[0, request]), Verdict::Allow, "{request:#x}");
            assert_eq!(brokered(arch, "ioctl", &[0, request]), EPERM, "{request:#x}");
        }
        for request in [0x5401, 0x5421, 0x541B, 0x5451, 0x8905] {
            assert_eq!(brokered(arch, "ioctl", &[0, request]), Verdict::Allow, "{request:#x}");
        }
    }
}

#[test]
fn with_a_broker_only_harmless_options_can_be_set() {
    let (ip, socket, tcp, ipv6, tls) = (0, 1, 6, 41, 282);
    let harmless = [(socket, 2), (socket, 9), (socket, 20), (socket, 67), (tcp, 1), (tcp, 4), (tcp, 18), (ipv6, 26)];
    // SO_BINDTODEVICE, SO_DONTROUTE, SO_MARK, SO_ATTACH_FILTER, SO_REUSEPORT, SO_BINDTOIFINDEX, SO_LINGER; TCP_ULP,
    // TCP_FASTOPEN_CONNECT, TCP_FASTOPEN, TCP_CONGESTION, TCP_REPAIR; IP_OPTIONS, IP_TTL, IP_RECVERR, IP_TRANSPARENT;
    // IPV6_RTHDR, IPV6_HOPOPTS, IPV6_UNICAST_HOPS, IPV6_RECVERR; SOL_TLS.
    let harmful = [
        (socket, 25),
        (socket, 5),
        (socket, 36),
        (socket, 26),
        (socket, 15),
        (socket, 62),
        (socket, 13),
        (tcp, 31),
        (tcp, 30),
        (tcp, 23),
        (tcp, 13),
        (tcp, 19),
        (ip, 4),
        (ip, 2),
        (ip, 11),
        (ip, 19),
        (ipv6, 57),
        (ipv6, 54),
        (ipv6, 16),
        (ipv6, 25),
        (tls, 1),
        (u64::from(u32::MAX), 1),
    ];
    for arch in ARCHES {
        for (level, option) in harmless {
            assert_eq!(brokered(arch, "setsockopt", &[3, level, option]), Verdict::Allow, "{level} {option}");
        }
        for (level, option) in harmful {
            assert_eq!(brokered(arch, "setsockopt", &[3, level, option]), ENOPROTOOPT, "{level} {option}");
            assert_eq!(answer(arch, "setsockopt", &[3, level, option]), Verdict::Allow, "{level} {option}");
        }
        let high = 0xFFFF_FFFF_0000_0000;
        assert_eq!(brokered(arch, "setsockopt", &[3, high | socket, high | 25]), ENOPROTOOPT);
    }
}

#[test]
fn both_filters_agree_on_all_that_is_no_socket() {
    let differ: BTreeSet<&str> = BROKERED.iter().flat_map(|rule| rule.names.split_ascii_whitespace()).collect();
    for arch in ARCHES {
        let (direct, brokered) = (program(arch, Sockets::Direct), program(arch, Sockets::Brokered));
        let names: BTreeMap<u32, &str> = table::numbered(arch.table()).collect();
        for number in (0..600).filter(|number| names.get(number).is_none_or(|name| !differ.contains(name))) {
            for arguments in [[0; 6], [1; 6], [u64::MAX; 6]] {
                let call = Call { number, arch: arch.audit(), arguments };
                assert_eq!(run(&direct, call).0, run(&brokered, call).0, "{:?}", names.get(&number));
            }
        }
    }
}
