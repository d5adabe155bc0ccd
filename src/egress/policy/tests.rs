use super::*;
use proptest::prelude::*;

const SERVER_PORT: u16 = 8000;

fn verdict(address: &str, exceptions: &[&str], own: &[&str]) -> Result<(), Refusal> {
    let address = address.parse().unwrap_or_else(|_| SocketAddr::new(address.parse().unwrap(), 443));
    let exceptions: Vec<_> = exceptions.iter().map(|text| Exception::parse(text).unwrap()).collect();
    let own: Vec<IpAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
    judge(address, SERVER_PORT, &exceptions, |ip| own.contains(&ip))
}

#[test]
fn the_public_internet_is_allowed() {
    let public = [
        "8.8.8.8",
        "1.0.0.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.88.98.255",
        "192.167.255.255",
        "192.169.0.0",
        "192.0.3.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "168.63.129.15",
        "168.63.129.17",
        "223.255.255.255",
        "2000::",
        "2001:200::",
        "2001:db7:ffff::1",
        "2001:db9::",
        "2001:4860:4860::8888",
        "2003::1",
        "3ffe:ffff::",
        "3fff:1000::",
        "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "::ffff:8.8.8.8",
        "2002:0808:0808::1",
        "64:ff9b::8.8.8.8",
        "::8.8.8.8",
    ];
    for address in public {
        assert_eq!(verdict(address, &[], &[]), Ok(()), "{address}");
    }
}

#[test]
fn private_and_special_addresses_are_refused_to_their_last_one() {
    let private = [
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.0",
        "192.0.0.255",
        "192.88.99.0",
        "192.88.99.255",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "::ffff:10.0.0.1",
        "::ffff:192.168.1.1",
        "2002:0a00:0001::",
        "64:ff9b::10.0.0.1",
        "::10.0.0.1",
        "2001::",
        "2001:0:ffff::1",
        "2001:1::1",
        "2001:2::1",
        "2001:20::1",
        "2001:1ff:ffff::1",
        "2001:db8::",
        "2001:db8:ffff::1",
        "3fff::",
        "3fff:fff:ffff::1",
        "5f00::1",
        "192.0.2.0",
        "192.0.2.255",
        "198.51.100.0",
        "198.51.100.255",
        "203.0.113.0",
        "203.0.113.255",
        "1fff:ffff::",
        "4000::",
        "fc00::1",
        "fd00::1",
        "fec0::1",
        "64:ff9b:1::8.8.8.8",
        "100::1",
    ];
    for address in private {
        assert_eq!(verdict(address, &[], &[]), Err(Refusal::NotPublic), "{address}");
    }
}

#[test]
fn links_and_what_is_no_machine_are_refused_whatever_is_excepted() {
    let never = [
        "169.254.169.254",
        "169.254.0.0",
        "169.254.255.255",
        "::ffff:169.254.169.254",
        "2002:a9fe:a9fe::",
        "64:ff9b::169.254.169.254",
        "::169.254.169.254",
        "fe80::1",
        "febf:ffff::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "ff02::1",
    ];
    let everything = ["10.0.0.0/8", "128.0.0.0/3", "2000::/3", "64:ff9b::/96"];
    for address in never {
        assert_eq!(verdict(address, &[], &[]), Err(Refusal::Never), "{address}");
        assert_eq!(verdict(address, &everything, &[]), Err(Refusal::Never), "{address}");
    }
}

#[test]
fn metadata_of_cloud_providers_is_refused_wherever_they_keep_it() {
    let metadata = [
        "168.63.129.16:80",
        "168.63.129.16:32526",
        "[::ffff:168.63.129.16]:80",
        "[2002:a83f:8110::1]:80",
        "[64:ff9b::168.63.129.16]:80",
        "100.100.100.200:80",
        "192.0.0.192:80",
        "[fd00:ec2::254]:80",
        "[fd00:ec2::23]:80",
        "[fd20:ce::254]:80",
        "[fd00:c1::a9fe:a9fe]:80",
        "[fd00:42::42]:80",
    ];
    let around = ["168.63.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "fd00::/8", "64:ff9b::/96", "2000::/3"];
    for address in metadata {
        assert_eq!(verdict(address, &[], &[]), Err(Refusal::Never), "{address}");
        assert_eq!(verdict(address, &around, &[]), Err(Refusal::Never), "{address}");
    }
    assert_eq!(verdict("[fd00:ec3::254]:80", &around, &[]), Ok(()), "its neighbours are not closed by it");
    for alone in ["168.63.129.16", "168.63.129.16:80", "100.100.100.200/32", "fd00:ec2::254", "[fd00:ec2::/32]:80"] {
        assert_eq!(Exception::parse(alone), Err(ExceptionError::Never), "{alone}");
    }
}

#[test]
fn the_machine_itself_is_refused_by_whatever_name() {
    let own = ["198.41.0.5", "2001:4860::5", "127.0.0.1", "127.4.5.6"];
    let names = [
        "198.41.0.5",
        "::ffff:198.41.0.5",
        "2002:c629:0005::1",
        "64:ff9b::198.41.0.5",
        "2001:4860::5",
        "127.0.0.1",
        "::1",
        "127.4.5.6",
        "127.255.255.254",
        "::ffff:127.0.0.1",
    ];
    for address in names {
        assert_eq!(verdict(address, &[], &own), Err(Refusal::Own), "{address}");
    }
    assert_eq!(verdict("198.41.0.6", &[], &own), Ok(()));
}

#[test]
fn an_exception_opens_its_addresses_and_ports_and_no_other() {
    let allow = ["10.1.2.0/24", "192.168.1.10:5432", "fd00::/8", "[fc00::5]:443", "127.0.0.1:6379"];
    let allowed = [
        "10.1.2.0:1",
        "10.1.2.255:80",
        "[::ffff:10.1.2.3]:80",
        "192.168.1.10:5432",
        "[fd12::1]:22",
        "[fc00::5]:443",
        "127.0.0.1:6379",
    ];
    for address in allowed {
        assert_eq!(verdict(address, &allow, &["127.0.0.1"]), Ok(()), "{address}");
    }
    for address in ["10.1.3.0:80", "10.1.1.255:80", "192.168.1.10:5433", "192.168.1.11:5432", "[fc00::5]:444"] {
        assert_eq!(verdict(address, &allow, &[]), Err(Refusal::NotPublic), "{address}");
    }
    assert_eq!(verdict("127.0.0.1:6380", &allow, &[]), Err(Refusal::Own));
}

#[test]
fn the_server_is_refused_on_every_address_of_the_machine_whatever_is_excepted() {
    let allow = ["127.0.0.0/8", "198.41.0.5", "::1"];
    for address in ["127.0.0.1:8000", "127.7.7.7:8000", "198.41.0.5:8000", "[::1]:8000", "[::ffff:127.0.0.1]:8000"] {
        assert_eq!(verdict(address, &allow, &["198.41.0.5"]), Err(Refusal::Server), "{address}");
        let other = address.replace("8000", "8001");
        assert_eq!(verdict(&other, &allow, &["198.41.0.5"]), Ok(()), "{other}");
    }
    assert_eq!(verdict("8.8.8.8:8000", &[], &[]), Ok(()), "another machine's port of that number");
}

#[test]
fn exceptions_have_one_form() {
    for wrong in [
        "",
        "x",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "10.0.0",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:080",
        "10.0.0.1:http",
        "fd00::/129",
        "[fd00::5]",
        "[fd00::5",
        "[fd00::5]443",
        "[10.0.0.1]:80",
        "fd00::1%eth0",
        " 10.0.0.1",
        "10.0.0.1 ",
        "localhost",
        "[]:80",
        "10.0.0.0/8/8",
    ] {
        assert_eq!(Exception::parse(wrong), Err(ExceptionError::Form), "{wrong}");
    }
    for wrong in ["10.1.2.3/24", "fd00::1/8", "0.0.0.1/0"] {
        assert_eq!(Exception::parse(wrong), Err(ExceptionError::HostBits), "{wrong}");
    }
    for right in ["10.0.0.1", "10.0.0.0/8:80", "fd00::", "fd00::/8", "[fd00::/8]:1", "[fd00::]/8:1", "8.8.8.8:65535"] {
        assert!(Exception::parse(right).is_ok(), "{right}");
    }
    assert_eq!(Exception::parse("[fd00::/8]:1"), Exception::parse("[fd00::]/8:1"));
}

#[test]
fn no_exception_touches_what_must_stay_closed() {
    for wrong in [
        "169.254.169.254",
        "169.254.0.0/16",
        "169.254.169.254:80",
        "169.0.0.0/8",
        "0.0.0.0/0",
        "128.0.0.0/1",
        "fe80::/10",
        "fe80::1",
        "::/0",
        "fc00::/6",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "::ffff:0:0/96",
        "::ffff:10.0.0.1",
        "ff02::1",
    ] {
        assert_eq!(Exception::parse(wrong), Err(ExceptionError::Never), "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_spelling_of_an_address_is_judged_more_kindly_than_the_address(bits in any::<u32>(), port in 1u16..) {
        let plain = Ipv4Addr::from_bits(bits);
        let [a, b, c, d] = plain.octets();
        let word = |high, low| u16::from_be_bytes([high, low]);
        let spellings = [
            plain.to_ipv6_mapped(),
            Ipv6Addr::new(0x2002, word(a, b), word(c, d), 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, word(a, b), word(c, d)),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, word(a, b), word(c, d)),
        ];
        let judged = |ip: IpAddr| judge(SocketAddr::new(ip, port), SERVER_PORT, &[], |_| false);
        for spelling in spellings {
            prop_assert_eq!(judged(spelling.into()).is_ok(), judged(plain.into()).is_ok(), "{}", spelling);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[0-9a-f.:/\\[\\]]{0,24}") {
        let _ = Exception::parse(&text);
    }
}
