//! Which number a function's runtime has, and what is said when it has none.

use std::collections::BTreeMap;

use super::*;
use crate::backend::process::runtimes::SandboxSettings;
use crate::registry::function::Network;
use crate::registry::settings::RUNTIME_DEFAULT;
use crate::registry::testing::{image_id, version};

/// No interpreter of the host is run, and containers are there unless something is said against them.
fn runtimes(containers_lack: Option<&str>) -> AllRuntimes {
    let sandbox = SandboxSettings::unused(vec![Network::None, Network::Outbound]);
    let configured = BTreeMap::from([(RUNTIME_DEFAULT.to_owned(), "/no/such/python".into())]);
    let process = Arc::new(Runtimes::new(sandbox, configured));
    AllRuntimes::new(process, Arc::default(), containers_lack.map(str::to_owned))
}

/// A function that runs in containers of the image whose digits are this one.
fn boxed(digit: char, network: Network) -> FunctionVersion {
    let mut function = version("f", 1);
    (function.config.execution_mode, function.config.network) = (ExecutionMode::Container, network);
    function.image_id = Some(image_id(digit));
    function
}

fn plain(network: Network) -> FunctionVersion {
    let mut function = boxed('a', network);
    function.config.execution_mode = ExecutionMode::Process;
    (function.config.image, function.image_id) = (None, None);
    function.config.runtime = RUNTIME_DEFAULT.to_owned();
    function
}

#[test]
fn functions_of_one_image_share_its_runtime_and_each_network_has_one_of_its_own() {
    let runtimes = runtimes(None);
    for digit in ['a', 'b'] {
        runtimes.learn(&boxed(digit, Network::None)).unwrap();
    }
    let of = |digit, network| runtimes.known_for(&boxed(digit, network)).unwrap();
    let a = of('a', Network::None);
    assert!(a.is_container() && of('a', Network::None) == a);
    assert!(of('b', Network::None) != a && of('a', Network::Outbound) != a);
    assert_eq!(with_network(a, Network::Outbound), of('a', Network::Outbound));
    assert_eq!((network_of(a), network_of(of('a', Network::Outbound))), (Network::None, Network::Outbound));
    assert_eq!(runtimes.name(of('b', Network::Outbound)), "image python:3.12-slim (bbbbbbbbbbbb)");
    assert_eq!(runtimes.name(of_image(9, Network::None)), "image 9");
}

#[test]
fn a_function_whose_image_is_not_known_has_no_runtime_and_that_is_said() {
    let runtimes = runtimes(None);
    let missing = runtimes.find(&boxed('c', Network::None)).unwrap_err();
    assert_eq!((missing.code(), runtimes.known_for(&boxed('c', Network::None))), ("no_instances", None));
    assert!(missing.to_string().contains("cccccccccccc") && missing.to_string().contains("deploy it again"));
    // Looking does not make it known.
    assert!(runtimes.find(&boxed('c', Network::None)).is_err());
    let nameless = FunctionVersion { image_id: None, ..boxed('c', Network::None) };
    runtimes.learn(&nameless).unwrap();
    assert_eq!(runtimes.find(&nameless), Err(Missing::Image { id: None }));
}

#[test]
fn where_there_are_no_containers_a_known_image_does_not_help() {
    let runtimes = runtimes(Some("there is no engine"));
    runtimes.learn(&boxed('a', Network::None)).unwrap();
    let missing = runtimes.find(&boxed('a', Network::None)).unwrap_err();
    assert_eq!(missing.to_string(), "it runs in containers, and there is no engine");
    assert_eq!((missing.code(), runtimes.containers_lack()), ("no_instances", Some("there is no engine")));
}

#[test]
fn a_network_that_is_not_allowed_is_missing_in_either_mode() {
    let runtimes = runtimes(None);
    runtimes.learn(&boxed('a', Network::None)).unwrap();
    for function in [boxed('a', Network::Host), plain(Network::Host)] {
        let missing = runtimes.find(&function).unwrap_err();
        assert_eq!(missing.code(), "network_unavailable");
        assert!(missing.to_string().starts_with("network host is not allowed on this server"), "{missing}");
    }
    runtimes.process().allow(vec![Network::Host]);
    assert!(runtimes.known_for(&boxed('a', Network::Host)).is_some());
}

#[test]
fn a_function_without_its_interpreter_is_told_so_and_an_image_needs_none() {
    let runtimes = runtimes(None);
    let function = plain(Network::None);
    assert!(matches!(runtimes.learn(&function), Err(LearnError::Interpreter(_))));
    let missing = runtimes.find(&function).unwrap_err();
    assert_eq!(
        (missing.code(), missing.to_string().as_str()),
        ("runtime_unavailable", "there is no runtime python3 on this host")
    );
    // Others are known for all that.
    runtimes.learn_all([&function, &boxed('a', Network::None)]);
    assert!(runtimes.known_for(&boxed('a', Network::None)).is_some());
    assert!(runtimes.known_for(&function).is_none());
}
