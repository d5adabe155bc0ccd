//! `system.api_keys`: who may call what. A key leaves this file as its SHA-256 only.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use crate::auth::is_well_known;
use crate::limits;
use crate::values::{Entry, Table, ValueError};

/// Keys of one entry.
pub(super) const API_KEY_KEYS: &[&str] = &["name", "key", "key_sha256", "scopes"];

const SCOPES: &[(&str, ApiScope)] =
    &[("invoke", ApiScope::Invoke), ("manage", ApiScope::Manage), ("admin", ApiScope::Admin)];

/// One key that the API takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeySetting {
    /// Whose it is: for logs. Unique.
    pub name: String,
    /// SHA-256 of the key. Unique.
    pub sha256: [u8; 32],
    /// What it may do; at least one scope, none twice.
    pub scopes: Vec<ApiScope>,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ApiScope {
    /// Call functions.
    Invoke,
    /// Create, change, delete and watch functions.
    Manage,
    /// Everything.
    Admin,
}

/// Reads the list.
pub(super) fn read_api_keys(entry: &Entry<'_>) -> Result<Vec<ApiKeySetting>, ValueError> {
    let entries = entry.list()?;
    if entries.len() > limits::API_KEYS_MAX {
        return Err(entry.not_allowed(&format!("at most {} keys", limits::API_KEYS_MAX)));
    }
    let (mut names, mut digests) = (HashSet::new(), HashSet::new());
    let mut keys = Vec::with_capacity(entries.len());
    for entry in entries {
        let table = entry.table(API_KEY_KEYS)?;
        let key = read_api_key(&table)?;
        if !names.insert(key.name.clone()) {
            return Err(required(&table, "name", "a name")?.not_allowed("a name that no other key has"));
        }
        let given = table.get("key").or_else(|| table.get("key_sha256")).unwrap_or(entry);
        if !digests.insert(key.sha256) {
            return Err(given.secret_not_allowed("a key that no other entry has"));
        }
        // Whether those are valid, and where, is said by well_known_keys alone.
        if is_well_known(&key.sha256) {
            return Err(given.secret_not_allowed("a key of your own, not one that the documentation prints"));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn read_api_key(table: &Table<'_>) -> Result<ApiKeySetting, ValueError> {
    let allowed = format!("1 to {} letters, digits, '.', '_' or '-'", limits::API_KEY_NAME_BYTES_MAX);
    let name = required(table, "name", &allowed)?.text_where(&allowed, |name| {
        (1..=limits::API_KEY_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    })?;
    let sha256 = match (table.get("key"), table.get("key_sha256")) {
        (Some(key), None) => hash_key(&key)?,
        (None, Some(digest)) => read_digest(&digest)?,
        (Some(key), Some(_)) => return Err(ValueError::Both { path: key.path().clone(), other: "key_sha256" }),
        (None, None) => {
            return Err(missing(table, "key_sha256", "the SHA-256 of a key (or the key itself, as key)"));
        }
    };
    Ok(ApiKeySetting { name: name.to_owned(), sha256, scopes: read_scopes(table)? })
}

fn hash_key(key: &Entry<'_>) -> Result<[u8; 32], ValueError> {
    let allowed = format!(
        "{} to {} of the characters A-Z a-z 0-9 . _ ~ + / = - (make one with `openssl rand -hex 32`)",
        limits::API_KEY_BYTES_MIN,
        limits::API_KEY_BYTES_MAX
    );
    let text = key.text().map_err(|_| key.secret_not_allowed(&allowed))?;
    let holds = (limits::API_KEY_BYTES_MIN..=limits::API_KEY_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~+/=-".contains(&byte));
    if !holds {
        return Err(key.secret_not_allowed(&allowed));
    }
    Ok(Sha256::digest(text.as_bytes()).into())
}

fn read_digest(entry: &Entry<'_>) -> Result<[u8; 32], ValueError> {
    const ALLOWED: &str = "64 hexadecimal digits in quotes (`printf %s KEY | sha256sum`)";
    // Someone may have pasted the key here: it is not shown.
    let text = entry.text().map_err(|_| entry.secret_not_allowed(ALLOWED))?;
    let nibbles: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|nibble| nibble as u8)).collect();
    let bytes: Option<Vec<u8>> = nibbles
        .map(|nibbles| nibbles.chunks(2).map(|pair| pair.iter().fold(0, |byte, nibble| byte << 4 | nibble)).collect());
    let digest = bytes.filter(|_| text.len() == 64).and_then(|bytes| bytes.try_into().ok());
    digest.ok_or_else(|| entry.secret_not_allowed(ALLOWED))
}

fn read_scopes(table: &Table<'_>) -> Result<Vec<ApiScope>, ValueError> {
    const ALLOWED: &str = "a list of invoke, manage, admin";
    let entry = required(table, "scopes", ALLOWED)?;
    let mut scopes = Vec::new();
    for item in entry.list()? {
        let scope = item.one_of(SCOPES)?;
        if scopes.contains(&scope) {
            return Err(item.not_allowed("each scope once"));
        }
        scopes.push(scope);
    }
    if scopes.is_empty() {
        return Err(entry.not_allowed("at least one of invoke, manage, admin"));
    }
    Ok(scopes)
}

fn required<'a>(table: &Table<'a>, key: &str, allowed: &str) -> Result<Entry<'a>, ValueError> {
    table.get(key).ok_or_else(|| missing(table, key, allowed))
}

fn missing(table: &Table<'_>, key: &str, allowed: &str) -> ValueError {
    ValueError::Missing { path: table.path().key(key), allowed: allowed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::KeyPath;
    use serde_json::{json, Value};

    const DIGEST_OF_KEY: &str = "3c2aa5e53a2eefbb06f02d9e5b3c7dd8f28da9dcbcd1ed8c9b3de3eaf4b2d9d2";

    fn read(value: Value) -> Result<Vec<ApiKeySetting>, String> {
        read_api_keys(&Entry::new(KeyPath::root().key("api_keys"), &value)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_is_kept_as_its_digest() {
        let keys = read(json!([{"name": "ci", "key": "0123456789abcdef", "scopes": ["invoke", "manage"]}])).unwrap();
        let digest: [u8; 32] = Sha256::digest(b"0123456789abcdef").into();
        let scopes = vec![ApiScope::Invoke, ApiScope::Manage];
        assert_eq!(keys, [ApiKeySetting { name: "ci".into(), sha256: digest, scopes }]);
        let hex: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(read(json!([{"name": "ci", "key_sha256": hex, "scopes": ["admin"]}])).unwrap()[0].sha256, digest);
    }

    #[test]
    fn each_mistake_is_named_and_no_key_is_shown() {
        let base = json!({"name": "ci", "key": "0123456789abcdef", "scopes": ["invoke"]});
        let with = |key: &str, value: Value| {
            let mut entry = base.clone();
            entry[key] = value;
            read(json!([entry])).unwrap_err()
        };
        assert_eq!(
            with("key_sha256", json!(DIGEST_OF_KEY)),
            "api_keys[0].key: given together with key_sha256; keep one of them"
        );
        assert!(with("key", Value::Null).starts_with("api_keys[0].key_sha256: missing; expected the SHA-256"));
        assert!(with("name", json!("a b")).starts_with("api_keys[0].name: got \"a b\""));
        assert!(with("scopes", json!([])).contains("at least one"));
        assert!(with("scopes", json!(["invoke", "invoke"])).starts_with("api_keys[0].scopes[1]: "));
        assert!(with("scopes", json!("invoke")).contains("expected a list"));
        assert!(with("scopse", json!(1)).contains("did you mean scopes?"));
        for secret in ["hunter2", "white space in a long key", &"x".repeat(513)] {
            let text = with("key", json!(secret));
            assert!(text.starts_with("api_keys[0].key: got text (not shown)") && !text.contains(secret), "{text}");
        }
        for wrong in [&DIGEST_OF_KEY[1..], &DIGEST_OF_KEY.replace('3', "g"), ""] {
            let text = read(json!([{"name": "ci", "key_sha256": wrong, "scopes": ["invoke"]}])).unwrap_err();
            assert!(text.starts_with("api_keys[0].key_sha256: got text (not shown)"), "{text}");
        }
    }

    #[test]
    fn names_and_keys_are_unique() {
        let entry = |name: &str, key: &str| json!({"name": name, "key": key, "scopes": ["invoke"]});
        let (one, two) = ("0123456789abcdef", "fedcba9876543210");
        assert!(read(json!([entry("a", one), entry("a", two)])).unwrap_err().starts_with("api_keys[1].name: "));
        assert!(read(json!([entry("a", one), entry("b", one)])).unwrap_err().starts_with("api_keys[1].key: "));
        assert_eq!(read(json!([entry("a", one), entry("b", two)])).unwrap().len(), 2);
    }
}
