//! The profile is evaluated as the engine's library does, and compared with the filter of process mode.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::sandbox::seccomp::tests::{Filter, ARCHES, FORBIDDEN, NEEDED, NEEDED_X86_64};

const NETWORKS: [Network; 3] = [Network::None, Network::Outbound, Network::Host];
const NO_SYS: Verdict = Verdict::Errno(ENOSYS);

/// Where the profile gives another answer than the filter of process mode: the call, the filter's answer, the profile's,
/// and why. Every one of them is a refusal in both.
const DIFFERENCES: &[(&str, Verdict, Verdict, &str)] = &[
    ("ioctl", Verdict::Errno(1), NO_SYS, "118 rules would be needed to say which requests are refused"),
    ("prctl", Verdict::Errno(1), NO_SYS, "81 rules would be needed to say which options are refused"),
    ("socket", Verdict::Errno(1), NO_SYS, "87 rules for the types that are refused"),
    ("socketpair", Verdict::Errno(1), NO_SYS, "87 rules for the types that are refused"),
    (
        "setsockopt",
        Verdict::Errno(92),
        NO_SYS,
        "of the brokered filter's list the complement is long; the filter itself says it",
    ),
    ("socket", Verdict::Errno(93), NO_SYS, "192 rules for the protocols that are refused"),
    ("socketpair", Verdict::Errno(93), NO_SYS, "192 rules for the protocols that are refused"),
];

/// The profile as it is read from its text: by name, what is answered when these arguments have these bits.
struct Evaluator(BTreeMap<String, Vec<(Verdict, Comparisons)>>);

/// Index of an argument, mask, value.
type Comparisons = Vec<[u64; 3]>;

impl Evaluator {
    fn new(arch: Arch, network: Network) -> Self {
        let text: Value = serde_json::from_str(&profile(arch, network)).unwrap();
        assert_eq!((&text["defaultAction"], &text["defaultErrnoRet"]), (&"SCMP_ACT_ERRNO".into(), &38.into()));
        let comparison = |comparison: &Value| {
            assert_eq!(comparison["op"], "SCMP_CMP_MASKED_EQ");
            ["index", "value", "valueTwo"].map(|key| comparison[key].as_u64().unwrap())
        };
        let mut rules: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for rule in text["syscalls"].as_array().unwrap() {
            let verdict = match (rule["action"].as_str().unwrap(), rule["errnoRet"].as_u64()) {
                ("SCMP_ACT_ALLOW", None) => Verdict::Allow,
                ("SCMP_ACT_ERRNO", Some(number)) => Verdict::Errno(number as u16),
                other => panic!("{other:?}"),
            };
            let comparisons: Vec<_> = rule["args"].as_array().into_iter().flatten().map(comparison).collect();
            for name in rule["names"].as_array().unwrap() {
                rules.entry(name.as_str().unwrap().to_owned()).or_default().push((verdict, comparisons.clone()));
            }
        }
        Evaluator(rules)
    }

    /// What the profile answers. Panics when two rules that hold do not agree, which the library leaves undefined.
    fn answer(&self, name: &str, arguments: &[u64]) -> Verdict {
        let argument = |index: u64| arguments.get(index as usize).copied().unwrap_or(0);
        let holds = |&[index, mask, value]: &[u64; 3]| argument(index) & mask == value;
        let mut found = None;
        for (verdict, _) in self.0.get(name).into_iter().flatten().filter(|(_, all)| all.iter().all(holds)) {
            assert!(found.is_none_or(|found| found == *verdict), "{name} {arguments:x?}: {found:?} and {verdict:?}");
            found = Some(*verdict);
        }
        found.unwrap_or(NO_SYS)
    }
}

/// Whether the profile may answer so where the filter answers otherwise.
fn is_known_difference(name: &str, filter: Verdict, profile: Verdict) -> bool {
    DIFFERENCES.iter().any(|(call, before, after, _)| *call == name && *before == filter && *after == profile)
}

fn names(arch: Arch) -> Vec<&'static str> {
    calls(arch, Sockets::Direct).map(|(_, name, _)| name).collect()
}

/// Values of arguments at which some rule changes its mind, and their neighbours, with and without high bits.
fn edges() -> Vec<u64> {
    let mut edges: Vec<u64> = (0..70).chain((0..32).map(|bit| 1 << bit)).collect();
    edges.extend([0x5401, 0x540F, 0x5412, 0x541C, 0x5410, 0x8905, 0x8933, 0x802C_542A, 0x4004_9409, 0x5356_4D41]);
    edges.extend([0o010_600, 0o100_600, 0o140_600, 0o020_600, 0o060_600, 0o170_000, 0x003d_0f00, 0x0120_0011]);
    edges.extend([0x80801, 0x80802, 0x80003, 0x80805, 132, 136, 262, 282, 0x7E02_0080]);
    let near = edges.iter().flat_map(|&edge| [edge, edge.wrapping_sub(1), edge + 1]);
    near.flat_map(|edge| [edge, edge | 1 << 32]).collect()
}

#[test]
fn what_must_never_happen_is_refused_with_the_same_error_as_in_process_mode() {
    for (arch, network) in ARCHES.into_iter().flat_map(|arch| NETWORKS.map(|network| (arch, network))) {
        let (known, profile) = (names(arch), Evaluator::new(arch, network));
        for name in FORBIDDEN.split_ascii_whitespace().filter(|name| known.contains(name)) {
            if !is_loader(network, name) {
                assert_eq!(profile.answer(name, &[]), Verdict::Errno(1), "{name} on {arch:?}, {network}");
            }
        }
    }
}

#[test]
fn what_python_needs_is_allowed_and_what_has_another_way_is_absent() {
    for (arch, network) in ARCHES.into_iter().flat_map(|arch| NETWORKS.map(|network| (arch, network))) {
        let profile = Evaluator::new(arch, network);
        let more = if arch == Arch::X86_64 { NEEDED_X86_64 } else { "" };
        for name in NEEDED.split_ascii_whitespace().chain(more.split_ascii_whitespace()) {
            // What a broker takes away, and an option of sockets that is none of those it leaves.
            let is_brokered = network == Network::Outbound && ["bind", "listen", "setsockopt"].contains(&name);
            assert_eq!(profile.answer(name, &[]) == Verdict::Allow, !is_brokered, "{name} on {arch:?}, {network}");
        }
        for name in ["clone3", "io_uring_setup", "io_uring_enter", "io_submit", "a_call_of_the_future"] {
            assert_eq!(profile.answer(name, &[]), NO_SYS, "{name} on {arch:?}");
        }
    }
}

#[test]
fn every_call_with_arguments_at_every_edge_is_answered_as_in_process_mode_but_for_listed_refusals() {
    let (edges, mut seen) = (edges(), BTreeSet::new());
    for (arch, network) in ARCHES.into_iter().flat_map(|arch| [(arch, Network::None), (arch, Network::Outbound)]) {
        let (evaluator, filter) = (Evaluator::new(arch, network), Filter::new(sockets(network), arch));
        for (_, name, treatment) in calls(arch, sockets(network)).filter(|(_, name, _)| !is_loader(network, name)) {
            let mut compare = |arguments: &[u64]| {
                let filter = match filter.answer(name, arguments) {
                    Verdict::Ask => Verdict::Allow,
                    other => other,
                };
                let profile = evaluator.answer(name, arguments);
                if filter == profile {
                    return;
                }
                assert!(
                    is_known_difference(name, filter, profile),
                    "{name} {arguments:x?} on {arch:?}, {network}: {filter:?} in process mode, {profile:?} here"
                );
                assert!(![filter, profile].contains(&Verdict::Allow), "{name} {arguments:x?}");
                seen.insert((name, format!("{filter:?} {profile:?}")));
            };
            compare(&[]);
            if let Treatment::Checked(_) = treatment {
                for base in [[1, 1, 0, 0], [1, 5, 0, 0], [2, 2, 17, 0], [41, 41, 41, 32], [3, 41, 32, 0], [3, 6, 1, 0]]
                {
                    for (place, &edge) in (0..4).flat_map(|place| edges.iter().map(move |edge| (place, edge))) {
                        let mut arguments = base;
                        arguments[place] = edge;
                        compare(&arguments);
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), DIFFERENCES.len(), "a difference that is none: {seen:?}");
}

#[test]
fn only_where_connections_are_brokered_a_filter_can_be_loaded_and_only_one_that_asks() {
    let (set_mode, strict, listener, killable, tsync) = (1, 0, 8, 32, 1);
    for (arch, network) in ARCHES.into_iter().flat_map(|arch| NETWORKS.map(|network| (arch, network))) {
        let profile = Evaluator::new(arch, network);
        let loads = if network == Network::Outbound { Verdict::Allow } else { Verdict::Errno(1) };
        assert_eq!(profile.answer("seccomp", &[set_mode, listener]), loads, "{network}");
        assert_eq!(profile.answer("seccomp", &[set_mode, listener | killable]), loads, "{network}");
        for (operation, flags) in [(set_mode, 0), (set_mode, tsync), (strict, listener), (2, listener), (3, 0)] {
            assert_ne!(profile.answer("seccomp", &[operation, flags]), Verdict::Allow, "{operation} {flags}");
        }
        assert_ne!(profile.answer("prctl", &[22, 2]), Verdict::Allow, "PR_SET_SECCOMP");
        let inner = Filter::new(Sockets::Brokered, arch);
        assert_eq!(inner.answer("seccomp", &[set_mode, listener]), Verdict::Errno(1), "once it is loaded");
    }
}

#[test]
fn no_rule_compares_one_argument_twice_which_runtimes_would_take_for_an_alternative() {
    for (arch, network) in ARCHES.into_iter().flat_map(|arch| NETWORKS.map(|network| (arch, network))) {
        for rule in Profile::new(arch, network).syscalls {
            let mut indices: Vec<u32> = rule.args.iter().map(|comparison| comparison.index).collect();
            indices.dedup();
            assert_eq!(indices.len(), rule.args.len(), "{rule:?}");
            assert!(!rule.names.is_empty());
        }
    }
}

#[test]
fn the_profile_fits_a_request_and_has_one_architecture() {
    for (arch, name) in [(Arch::X86_64, "SCMP_ARCH_X86_64"), (Arch::Aarch64, "SCMP_ARCH_AARCH64")] {
        let text = profile(arch, Network::Outbound);
        println!("{arch:?}: {} bytes, {} rules", text.len(), Profile::new(arch, Network::Outbound).syscalls.len());
        assert!(text.len() < 64 * 1024, "{}", text.len());
        assert!(!text.contains('\n') && text.contains(&format!(r#""architectures":["{name}"]"#)), "{text}");
        for foreign in ["SCMP_ARCH_X86\"", "SCMP_ARCH_X32", "SCMP_ARCH_ARM\""] {
            assert!(!text.contains(foreign), "{foreign}");
        }
    }
}

proptest! {
    /// Under any mask, a number fits exactly one prefix of the complement, or is one of the values.
    #[test]
    fn a_number_is_a_value_or_fits_exactly_one_prefix(
        mask in any::<u32>(),
        values in proptest::collection::vec(prop_oneof![0u32..70, any::<u32>()], 0..12),
        probe in prop_oneof![0u32..70, any::<u32>()],
    ) {
        let values: Vec<u32> = values.iter().map(|value| value & mask).collect();
        let prefixes = complement(mask, &values);
        for probe in values.iter().copied().chain([probe, 0, u32::MAX]) {
            let fitting = prefixes.iter().filter(|(bits, value)| probe & bits == *value).count();
            // Of a mask without bits there is nothing to write out: everything is the value 0.
            let expected = usize::from(!values.contains(&(probe & mask)) && mask != 0);
            prop_assert_eq!(fitting, expected);
        }
    }
}
