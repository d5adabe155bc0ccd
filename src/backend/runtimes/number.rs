//! How the scheduler's numbers of runtimes are made: a number stands for an interpreter or an image, and a network.
//!
//! Each of these pairs has a pool of its own, since a blank is made with its network. The top bit tells images from
//! interpreters ([`RuntimeId::is_container`]).

use crate::registry::function::Network;
use crate::scheduler::RuntimeId;

const NETWORKS: u32 = Network::NAMES.len() as u32;

/// The runtime of this interpreter with this network.
pub fn of_interpreter(index: usize, network: Network) -> RuntimeId {
    RuntimeId(index as u32 * NETWORKS + network as u32)
}

/// The runtime of this image with this network.
pub fn of_image(index: usize, network: Network) -> RuntimeId {
    RuntimeId::container(index as u32 * NETWORKS + network as u32)
}

/// Which interpreter, or which image.
pub fn index_of(id: RuntimeId) -> usize {
    (id.number() / NETWORKS) as usize
}

/// The network of instances of this runtime.
pub fn network_of(id: RuntimeId) -> Network {
    let by_number = |network: &Network| *network as u32 == id.number() % NETWORKS;
    Network::NAMES.map(|(_, network)| network).into_iter().find(by_number).unwrap_or(Network::None)
}

/// The same interpreter or image with another network.
pub fn with_network(id: RuntimeId, network: Network) -> RuntimeId {
    if id.is_container() {
        of_image(index_of(id), network)
    } else {
        of_interpreter(index_of(id), network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{IMAGES_MAX, RUNTIMES_MAX};
    use std::collections::HashSet;

    #[test]
    fn every_pair_has_a_number_of_its_own_that_says_what_it_is() {
        let networks = Network::NAMES.map(|(_, network)| network);
        let mut seen = HashSet::new();
        for index in (0..RUNTIMES_MAX).chain([IMAGES_MAX - 1]) {
            for network in networks {
                for (id, is_image) in [(of_interpreter(index, network), false), (of_image(index, network), true)] {
                    assert!(seen.insert(id), "{id:?} is two");
                    assert_eq!((id.is_container(), index_of(id), network_of(id)), (is_image, index, network));
                    for other in networks {
                        let moved = with_network(id, other);
                        let is_same = moved.is_container() == is_image && index_of(moved) == index;
                        assert!(is_same && network_of(moved) == other);
                    }
                }
            }
        }
    }
}
