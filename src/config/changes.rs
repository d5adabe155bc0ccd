//! What a running server makes of a new configuration: which keys it takes at once and which wait for a restart.
//!
//! Invariants: every key of `system:` and `limits:` is in [`KEYS`]; the settings that rule after a reload are checked as
//! a whole, since half of a new configuration and half of the old one may be worse than either.

use std::collections::BTreeMap;

use super::{ConfigError, Settings};
use crate::values::KeyPath;

/// When a new value of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// At the reload.
    Now,
    /// At the next start: threads, sockets, directories or sandboxes were made by it.
    Restart,
}

struct Key {
    name: &'static str,
    effect: Effect,
    differs: fn(&Settings, &Settings) -> bool,
    copy: fn(&Settings, &mut Settings),
}

macro_rules! keys {
    ($($section:ident: { $($name:ident $effect:ident $($field:ident).+;)* })*) => {
        &[$($(Key {
            name: concat!(stringify!($section), ".", stringify!($name)),
            effect: Effect::$effect,
            differs: |one, other| one.$($field).+ != other.$($field).+,
            copy: |from, to| to.$($field).+.clone_from(&from.$($field).+),
        },)*)*]
    };
}

static KEYS: &[Key] = keys! {
    system: {
        default_mode Now default_mode;
        max_concurrent_functions Restart slots_max;
        cold_start_timeout Now cold_start_timeout;
        warm_instance_ttl Now warm_instance_ttl;
        drain_timeout Now drain_timeout;
        shutdown_grace Now shutdown_grace;
        host Restart host;
        api_gateway_port Restart port;
        function_storage_path Restart storage_path;
        container_runtime Restart container_runtime;
        base_image Now base_image;
        registry_auth Restart registry_auth;
        image_scan Now image_scan;
        image_scan_timeout Now image_scan_timeout;
        image_scan_max_age Now image_scan_max_age;
        container_pool_size Now container_pool_size;
        container_security_label Restart container_security_label;
        process_isolation_level Restart isolation;
        sandbox_without Restart sandbox_without;
        logging_level Now log_level;
        workers Restart workers;
        pin_workers Restart pin_workers;
        pool_size Now pool_size;
        sandbox_uid_base Restart sandbox_uid_base;
        python Restart python;
        runtimes Restart runtimes;
        allowed_networks Now allowed_networks;
        outbound_allow Now outbound_allow;
        well_known_keys Now well_known_keys;
        allow_well_known_keys_anywhere Now allow_well_known_keys_anywhere;
        api_keys Now api_keys;
    }
    limits: {
        max_connections Now limits.max_connections;
        max_request_body Now limits.max_request_body_bytes;
        max_response_body Now limits.max_response_body_bytes;
        max_invocations Now limits.max_invocations;
        max_queue_per_function Now limits.max_queue_per_function;
        max_queue_wait Now limits.max_queue_wait;
        max_functions Now limits.max_functions;
        max_log_entries Now limits.max_log_entries;
    }
};

/// A new configuration as a running server takes it.
#[derive(Debug)]
pub struct Changes {
    /// What rules from now on: the new values, but the old ones where only a restart changes them.
    pub settings: Settings,
    /// The keys whose new values rule from now on, by their paths. Entries of `api_keys` and `functions` are named.
    pub changed: Vec<String>,
    /// The keys whose new values wait for a restart.
    pub restart_needed: Vec<String>,
}

impl Settings {
    /// What becomes of these settings, which rule, when the configuration says `wanted`.
    ///
    /// # Errors
    /// When what may change now does not go with what may not: the well-known keys, say, with an address that is open
    /// to others until the restart.
    pub fn reloaded(&self, wanted: Settings) -> Result<Changes, ConfigError> {
        let mut settings = wanted.clone();
        for key in KEYS.iter().filter(|key| key.effect == Effect::Restart) {
            (key.copy)(self, &mut settings);
        }
        // The pools have room for no more than the slots that there are until the restart.
        settings.pool_size = settings.pool_size.min(settings.slots_max);
        settings.container_pool_size = settings.container_pool_size.min(settings.slots_max);
        let settings = settings.checked()?;
        let mut changed = Vec::new();
        for key in KEYS.iter().filter(|key| (key.differs)(self, &settings)) {
            match key.name {
                "system.api_keys" => {
                    changed.extend(differences(key.name, &self.api_keys, &settings.api_keys, |it| &it.name))
                }
                name => changed.push(name.to_owned()),
            }
        }
        changed.extend(differences("functions", &self.functions, &settings.functions, |it| &it.name));
        let waiting = KEYS.iter().filter(|key| (key.differs)(&settings, &wanted));
        let restart_needed = waiting.map(|key| key.name.to_owned()).collect();
        Ok(Changes { settings, changed, restart_needed })
    }
}

/// The paths below `section` of the named things that came, went or changed.
fn differences<T: PartialEq>(section: &str, old: &[T], new: &[T], name: fn(&T) -> &String) -> Vec<String> {
    let mut by_name: BTreeMap<&String, [Option<&T>; 2]> = BTreeMap::new();
    for (index, side) in [old, new].into_iter().enumerate() {
        for item in side {
            by_name.entry(name(item)).or_default()[index] = Some(item);
        }
    }
    let differing = by_name.into_iter().filter(|(_, [old, new])| old != new);
    // A name may have a dot, and then it is quoted, as in messages about it.
    differing.map(|(name, _)| format!("{section}.{}", KeyPath::root().key(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::system::{LIMIT_KEYS, SYSTEM_KEYS};
    use super::*;
    use std::collections::BTreeSet;

    use crate::config::{ApiKeySetting, ApiScope, DeclaredFunction};
    use crate::registry::settings::FunctionSettings;

    fn settings() -> Settings {
        Settings::builtin("/state".into())
    }

    fn key(name: &str, digest: u8) -> ApiKeySetting {
        ApiKeySetting { name: name.to_owned(), sha256: [digest; 32], scopes: vec![ApiScope::Invoke] }
    }

    #[test]
    fn every_key_of_the_file_says_when_it_takes_effect() {
        let named =
            |section: &str, keys: &[&str]| keys.iter().map(|key| format!("{section}.{key}")).collect::<Vec<_>>();
        let mut expected = named("system", SYSTEM_KEYS);
        expected.extend(named("limits", LIMIT_KEYS));
        assert_eq!(KEYS.iter().map(|key| key.name).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_guide_for_operators_lists_what_takes_effect_at_once() {
        let guide = include_str!("../../docs/operations.md");
        let list =
            guide.split("**What takes effect at once:**").nth(1).unwrap().split("everything under").next().unwrap();
        let listed: BTreeSet<&str> = list.split('`').skip(1).step_by(2).collect();
        let now = KEYS.iter().filter(|key| key.effect == Effect::Now);
        let now: BTreeSet<&str> = now.filter_map(|key| key.name.strip_prefix("system.")).collect();
        assert_eq!(listed, now);
        assert!(KEYS.iter().all(|key| key.effect == Effect::Now || key.name.starts_with("system.")), "all limits do");
    }

    #[test]
    fn the_same_configuration_changes_nothing() {
        let changes = settings().reloaded(settings()).unwrap();
        assert_eq!((changes.changed, changes.restart_needed), (vec![], vec![]));
        assert_eq!(changes.settings, settings());
    }

    #[test]
    fn what_needs_a_restart_keeps_its_value_and_is_named_until_then() {
        let mut wanted = settings();
        wanted.port = 1;
        wanted.workers = 77;
        wanted.limits.max_connections = 5;
        let changes = settings().reloaded(wanted.clone()).unwrap();
        assert_eq!(changes.changed, ["limits.max_connections"]);
        assert_eq!(changes.restart_needed, ["system.api_gateway_port", "system.workers"]);
        assert_eq!((changes.settings.port, changes.settings.workers), (settings().port, settings().workers));
        assert_eq!(changes.settings.limits.max_connections, 5);
        let again = changes.settings.reloaded(wanted).unwrap();
        assert_eq!((again.changed, again.restart_needed), (vec![], changes.restart_needed));
    }

    #[test]
    fn a_pool_for_more_slots_than_there_are_waits_for_them() {
        let mut wanted = settings();
        wanted.slots_max = settings().slots_max + 10;
        (wanted.pool_size, wanted.container_pool_size) = (wanted.slots_max, wanted.slots_max);
        let changes = settings().reloaded(wanted).unwrap();
        assert_eq!(changes.settings.pool_size, settings().slots_max);
        assert_eq!(changes.settings.container_pool_size, settings().slots_max);
        assert_eq!(
            changes.restart_needed,
            ["system.max_concurrent_functions", "system.container_pool_size", "system.pool_size"]
        );
    }

    #[test]
    fn keys_and_functions_are_told_by_name_and_nothing_else() {
        let function = |name: &str, code: &str| DeclaredFunction {
            name: name.to_owned(),
            settings: FunctionSettings::default(),
            code: Some(code.to_owned()),
        };
        let (mut old, mut new) = (settings(), settings());
        old.api_keys = vec![key("stays", 1), key("goes", 2), key("is.new", 3)];
        new.api_keys = vec![key("is.new", 4), key("stays", 1), key("comes", 5)];
        old.functions = vec![function("a", "1"), function("b", "1")];
        new.functions = vec![function("b", "2"), function("c", "1")];
        let changes = old.reloaded(new).unwrap();
        let keys = ["system.api_keys.comes", "system.api_keys.goes", "system.api_keys.\"is.new\""];
        assert_eq!(changes.changed[..3], keys);
        assert_eq!(changes.changed[3..], ["functions.a", "functions.b", "functions.c"]);
    }

    #[test]
    fn the_well_known_keys_do_not_come_back_to_an_address_that_is_open_until_the_restart() {
        let mut running = settings();
        running.host = "0.0.0.0".parse().unwrap();
        running.well_known_keys = false;
        let wanted = settings();
        assert!(matches!(running.reloaded(wanted), Err(ConfigError::WellKnownKeysExposed { .. })));
    }
}
