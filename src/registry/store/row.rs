//! What is in a row beyond the columns' types: the settings as JSON, and the digests that vouch for it all.
//!
//! The stored form of the settings is our own, not the API's: the API may learn new spellings, and what is on a disk
//! must stay readable. A field is never renamed here; one that is added gets a serde default.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

use crate::registry::function::{ExecutionMode, FunctionConfig, Handler, IdleTtl, InvocationsMax, Network};
use crate::registry::image::ImageId;

/// SHA-256 of a function's source, 64 lower-case hexadecimal digits.
pub fn code_sha256(code: &str) -> String {
    let digest = Sha256::digest(code.as_bytes());
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(b"0123456789abcdef"[usize::from(nibble)]))
        .collect()
}

/// A version's columns except for the code itself, for which its digest stands.
pub(super) struct Sealed<'a> {
    pub(super) name: &'a str,
    pub(super) version: i64,
    pub(super) created_at_ms: i64,
    pub(super) updated_at_ms: i64,
    pub(super) code_sha256: &'a str,
    pub(super) config: &'a str,
}

impl Sealed<'_> {
    /// SHA-256 over all columns. It finds flipped bits and torn rows anywhere, settings included: a handler or a memory
    /// limit that was not deployed is as wrong as code that was not. Against an attacker who can write the database it
    /// protects nothing, and need not: the directory's permissions do.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(b"faas function version, form 1");
        for number in [self.version, self.created_at_ms, self.updated_at_ms] {
            digest.update(number.to_le_bytes());
        }
        for text in [self.name, self.code_sha256, self.config] {
            // The length goes first, so that no byte can move from one column to the next unnoticed.
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
        digest.finalize().into()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredConfig {
    runtime: String,
    execution_mode: StoredMode,
    /// Absent: as the server's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// No setting, but what the image was: it lies here so that the seal covers it. Absent: no container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_id: Option<ImageId>,
    #[serde(default)]
    network: StoredNetwork,
    handler_module: String,
    handler_name: String,
    timeout_ms: u64,
    memory_bytes: u64,
    cpu_millis: u32,
    dependencies: Vec<String>,
    environment: BTreeMap<String, String>,
    min_instances: u32,
    max_instances: u32,
    /// Absent: no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_invocations_per_instance: Option<u32>,
    /// Absent: as the server's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_ttl: Option<StoredIdleTtl>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredIdleTtl {
    AfterMs(u64),
    Adaptive,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredMode {
    Process,
    Container,
}

/// None for a function that was stored before there was a choice.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum StoredNetwork {
    #[default]
    None,
    Outbound,
    Host,
}

pub(super) fn encode_config(config: &FunctionConfig, image_id: Option<&ImageId>) -> Result<String, serde_json::Error> {
    // Destructured whole, so that a new field cannot be forgotten here.
    let FunctionConfig {
        runtime,
        execution_mode,
        image,
        network,
        handler: Handler { module, name },
        timeout_ms,
        memory_bytes,
        cpu_millis,
        dependencies,
        environment,
        min_instances,
        max_instances,
        max_invocations_per_instance,
        idle_ttl,
    } = config.clone();
    serde_json::to_string(&StoredConfig {
        runtime,
        execution_mode: match execution_mode {
            ExecutionMode::Process => StoredMode::Process,
            ExecutionMode::Container => StoredMode::Container,
        },
        image,
        image_id: image_id.cloned(),
        network: match network {
            Network::None => StoredNetwork::None,
            Network::Outbound => StoredNetwork::Outbound,
            Network::Host => StoredNetwork::Host,
        },
        handler_module: module,
        handler_name: name,
        timeout_ms,
        memory_bytes,
        cpu_millis,
        dependencies,
        environment,
        min_instances,
        max_instances,
        max_invocations_per_instance: match max_invocations_per_instance {
            InvocationsMax::Unlimited => None,
            InvocationsMax::AtMost(calls) => Some(calls),
        },
        idle_ttl: idle_ttl.map(|ttl| match ttl {
            IdleTtl::AfterMs(ms) => StoredIdleTtl::AfterMs(ms),
            IdleTtl::Adaptive => StoredIdleTtl::Adaptive,
        }),
    })
}

/// Reads what [`encode_config`] wrote. Values are not checked again: they were valid when they were written, and the
/// seal says that they are what was written.
pub(super) fn decode_config(text: &str) -> Result<(FunctionConfig, Option<ImageId>), serde_json::Error> {
    let stored: StoredConfig = serde_json::from_str(text)?;
    let config = FunctionConfig {
        runtime: stored.runtime,
        execution_mode: match stored.execution_mode {
            StoredMode::Process => ExecutionMode::Process,
            StoredMode::Container => ExecutionMode::Container,
        },
        image: stored.image,
        network: match stored.network {
            StoredNetwork::None => Network::None,
            StoredNetwork::Outbound => Network::Outbound,
            StoredNetwork::Host => Network::Host,
        },
        handler: Handler { module: stored.handler_module, name: stored.handler_name },
        timeout_ms: stored.timeout_ms,
        memory_bytes: stored.memory_bytes,
        cpu_millis: stored.cpu_millis,
        dependencies: stored.dependencies,
        environment: stored.environment,
        min_instances: stored.min_instances,
        max_instances: stored.max_instances,
        max_invocations_per_instance: stored
            .max_invocations_per_instance
            .map_or(InvocationsMax::Unlimited, InvocationsMax::AtMost),
        idle_ttl: stored.idle_ttl.map(|ttl| match ttl {
            StoredIdleTtl::AfterMs(ms) => IdleTtl::AfterMs(ms),
            StoredIdleTtl::Adaptive => IdleTtl::Adaptive,
        }),
    };
    Ok((config, stored.image_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing;

    #[test]
    fn settings_survive_the_way_to_text_and_back() {
        let config = testing::config();
        for image_id in [None, Some(testing::image_id('b'))] {
            let text = encode_config(&config, image_id.as_ref()).unwrap();
            assert_eq!(decode_config(&text).unwrap(), (config.clone(), image_id));
        }
    }

    #[test]
    fn the_stored_form_of_release_0_1_stays_readable() {
        let text = r#"{"runtime":"python3.11","execution_mode":"container","handler_module":"app","handler_name":"run",
            "timeout_ms":1500,"memory_bytes":67108864,"cpu_millis":100,"dependencies":["requests==2.28.0"],
            "environment":{"EMPTY":"","KEY":"secret"},"min_instances":1,"max_instances":3}"#;
        let expected = FunctionConfig {
            image: None,
            network: Network::None,
            max_invocations_per_instance: InvocationsMax::Unlimited,
            idle_ttl: None,
            ..testing::config()
        };
        assert_eq!(decode_config(text).unwrap(), (expected.clone(), None));
        // And it is written as it was, or its seal would not be the one that it has.
        let again =
            encode_config(&FunctionConfig { execution_mode: ExecutionMode::Process, ..expected }, None).unwrap();
        assert!(!again.contains("image"), "{again}");
    }

    /// `environment` may not name it any more, and was ignored when it could.
    #[test]
    fn a_stored_variable_that_the_server_sets_does_not_make_its_function_unreadable() {
        let mut config = testing::config();
        config.environment.insert("FAAS_FUNCTION".to_owned(), "other".to_owned());
        assert_eq!(decode_config(&encode_config(&config, None).unwrap()).unwrap(), (config, None));
    }

    #[test]
    fn code_digest_is_sha_256_in_lower_case_hexadecimal() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(code_sha256("abc"), abc);
    }

    #[test]
    fn every_column_counts_for_the_seal() {
        let row =
            || Sealed { name: "a", version: 1, created_at_ms: 2, updated_at_ms: 3, code_sha256: "bc", config: "d" };
        let changed = [
            Sealed { name: "b", ..row() },
            Sealed { version: 2, ..row() },
            Sealed { created_at_ms: 3, ..row() },
            Sealed { updated_at_ms: 2, ..row() },
            Sealed { code_sha256: "bd", ..row() },
            Sealed { config: "e", ..row() },
            Sealed { code_sha256: "b", config: "cd", ..row() },
        ];
        assert!(changed.iter().all(|other| other.digest() != row().digest()));
        assert_eq!(row().digest(), row().digest());
    }
}
