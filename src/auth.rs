//! Who calls: bearer tokens, the principals they stand for, and what those may do.
//!
//! Owns the reading of `Authorization` and the comparison of keys. Does not own which route needs which scope (the
//! front's one table), how a refusal looks (`http::problem`), or where keys come from (`config`).
//!
//! Invariant: only digests are kept, and the time a token takes says nothing about how much of it is right or which
//! key it is: it is digested once and the digest compared with all keys, in constant time, also after a match.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::limits::AUTH_TOKEN_BYTES_MAX;

/// One thing a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scope {
    /// Call functions.
    Invoke = 1,
    /// Deploy, read, change and delete functions; see figures and instances.
    Manage = 2,
    /// Everything, the server itself included.
    Admin = 4,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Scope; 3] = [Scope::Invoke, Scope::Manage, Scope::Admin];

    /// The name that configuration and problems use.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Invoke => "invoke",
            Scope::Manage => "manage",
            Scope::Admin => "admin",
        }
    }

    /// The scope of that name.
    pub fn from_name(name: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// A set of scopes. `admin` implies the others.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// The set with `scope` and what it implies added.
    pub const fn with(self, scope: Scope) -> Scopes {
        match scope {
            Scope::Admin => Scopes(Scope::Invoke as u8 | Scope::Manage as u8 | Scope::Admin as u8),
            Scope::Invoke | Scope::Manage => Scopes(self.0 | scope as u8),
        }
    }

    /// Whether the set allows what needs `scope`.
    pub const fn allows(self, scope: Scope) -> bool {
        self.0 & scope as u8 != 0
    }

    /// Whether the set allows nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Scopes::default(), Scopes::with)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Scope::ALL.iter().filter(|scope| self.allows(**scope))).finish()
    }
}

/// Who a token stands for. Several keys may have principals of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name in the configuration, for logs.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
}

/// SHA-256 of a token.
pub type TokenDigest = [u8; 32];

/// A key as the configuration has it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// Name of the principal.
    pub name: String,
    /// Digest of the token.
    pub sha256: TokenDigest,
    /// What the principal may do.
    pub scopes: Scopes,
}

impl fmt::Debug for KeyEntry {
    /// Leaves the digest out: a short token could be found from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyEntry").field("name", &self.name).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// The digest under which `token` is known.
pub fn token_digest(token: &[u8]) -> TokenDigest {
    Sha256::digest(token).into()
}

/// Tokens that the documentation prints. They work out of the box, and only on a loopback address.
const WELL_KNOWN: [(&str, Scopes); 2] = [
    ("demo-key", Scopes(Scope::Invoke as u8 | Scope::Manage as u8)),
    ("admin-key", Scopes(Scope::Invoke as u8 | Scope::Manage as u8 | Scope::Admin as u8)),
];

/// The entries of the well-known keys: `demo-key` (invoke, manage) and `admin-key` (everything).
pub fn well_known_keys() -> Vec<KeyEntry> {
    let entry = |(token, scopes): (&str, Scopes)| KeyEntry {
        name: token.to_string(),
        sha256: token_digest(token.as_bytes()),
        scopes,
    };
    WELL_KNOWN.into_iter().map(entry).collect()
}

/// Whether this is the digest of a key that the documentation prints.
pub fn is_well_known(digest: &TokenDigest) -> bool {
    WELL_KNOWN.iter().any(|(token, _)| token_digest(token.as_bytes()) == *digest)
}

/// Why a set of keys is not usable.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyRingError {
    /// Two entries have the same token, so that it would be chance whose scopes count.
    SameToken {
        /// Name of the first.
        first: String,
        /// Name of the second.
        second: String,
    },
}

impl fmt::Display for KeyRingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyRingError::SameToken { first, second } => {
                write!(f, "the keys {first} and {second} have the same token")
            }
        }
    }
}

impl std::error::Error for KeyRingError {}

/// Why a request has no principal. None of it says anything about the keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// There is no `Authorization` header.
    Missing,
    /// It is not `Bearer`, one space and a token.
    Malformed,
    /// There are several; which one counts would be a guess.
    Several,
    /// The token is not that of a key.
    Unknown,
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthError::Missing => "the request has no Authorization header; send \"Authorization: Bearer KEY\"",
            AuthError::Malformed => "the Authorization header is not \"Bearer\", one space and a token",
            AuthError::Several => "the request has several Authorization headers",
            AuthError::Unknown => "the key is not known",
        })
    }
}

impl std::error::Error for AuthError {}

/// All keys that are valid.
pub struct KeyRing {
    /// `digests[i]` is that of `principals[i]`; apart, so that the comparison walks over nothing else.
    digests: Vec<DigestWords>,
    principals: Vec<Principal>,
}

/// A digest in four words: `subtle` compares those with a tenth of the work that 32 bytes take.
type DigestWords = [u64; 4];

impl KeyRing {
    /// The ring of `entries`. Fails when two have the same token.
    pub fn new(entries: impl IntoIterator<Item = KeyEntry>) -> Result<KeyRing, KeyRingError> {
        let mut ring = KeyRing { digests: Vec::new(), principals: Vec::new() };
        for KeyEntry { name, sha256, scopes } in entries {
            let digest = words(&sha256);
            if let Some(index) = ring.digests.iter().position(|other| *other == digest) {
                return Err(KeyRingError::SameToken { first: ring.principals[index].name.clone(), second: name });
            }
            ring.digests.push(digest);
            ring.principals.push(Principal { name, scopes });
        }
        Ok(ring)
    }

    /// The scopes that nobody has.
    pub fn scopes_of_nobody(&self) -> Vec<Scope> {
        let held = |scope: &Scope| self.principals.iter().any(|principal| principal.scopes.allows(*scope));
        Scope::ALL.into_iter().filter(|scope| !held(scope)).collect()
    }

    /// The principal of a request, from the values of all its `Authorization` headers.
    ///
    /// Every request comes by here: 0.1 us with two keys, 0.7 us with a hundred, nearly all of it the digest and the
    /// comparisons. A cache of known headers would have to be compared in constant time as well and save nothing.
    pub fn authenticate<'h>(&self, mut values: impl Iterator<Item = &'h [u8]>) -> Result<&Principal, AuthError> {
        let value = values.next().ok_or(AuthError::Missing)?;
        if values.next().is_some() {
            return Err(AuthError::Several);
        }
        let token = bearer_token(value).ok_or(AuthError::Malformed)?;
        self.find(&words(&token_digest(token))).ok_or(AuthError::Unknown)
    }

    /// Looks at every key, whatever it finds. That the result is then looked up by its index tells only what the answer
    /// tells anyway: that the token was right.
    fn find(&self, digest: &DigestWords) -> Option<&Principal> {
        let mut found = u64::MAX;
        for (index, known) in (0u64..).zip(&self.digests) {
            found.conditional_assign(&index, known.ct_eq(digest));
        }
        self.principals.get(usize::try_from(found).ok()?)
    }
}

impl fmt::Debug for KeyRing {
    /// Leaves the digests out: a short token could be found from one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("principals", &self.principals).finish_non_exhaustive()
    }
}

fn words(digest: &TokenDigest) -> DigestWords {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

/// The token of `Bearer TOKEN`. The scheme's case is free (RFC 9110); there is one space and nothing after the token.
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    let well_formed = scheme.eq_ignore_ascii_case(b"Bearer ")
        && (1..=AUTH_TOKEN_BYTES_MAX).contains(&token.len())
        && token.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._~+/=-".contains(byte));
    well_formed.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring() -> KeyRing {
        let robot = KeyEntry {
            name: "robot".to_string(),
            sha256: token_digest(b"a.B_9~+/=-"),
            scopes: [Scope::Invoke].into_iter().collect(),
        };
        KeyRing::new(well_known_keys().into_iter().chain([robot])).unwrap()
    }

    fn authenticate(values: &[&str]) -> Result<String, AuthError> {
        ring().authenticate(values.iter().map(|value| value.as_bytes())).map(|principal| principal.name.clone())
    }

    #[test]
    fn a_token_stands_for_its_principal() {
        for (value, name) in
            [("Bearer demo-key", "demo-key"), ("bearer admin-key", "admin-key"), ("BEARER a.B_9~+/=-", "robot")]
        {
            assert_eq!(authenticate(&[value]).as_deref(), Ok(name), "{value}");
        }
    }

    #[test]
    fn what_is_not_exactly_one_well_formed_header_is_refused() {
        assert_eq!(authenticate(&[]), Err(AuthError::Missing));
        assert_eq!(authenticate(&["Bearer demo-key", "Bearer demo-key"]), Err(AuthError::Several));
        assert_eq!(authenticate(&["junk", "Bearer demo-key"]), Err(AuthError::Several));
        let too_long = format!("Bearer {}", "x".repeat(AUTH_TOKEN_BYTES_MAX + 1));
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer  demo-key",
            " Bearer demo-key",
            "Bearer demo-key ",
            "Bearer\tdemo-key",
            "Bearer demo key",
            "Bearer demo-key,Bearer demo-key",
            "Bearer demo-k\u{e9}y",
            "Basic ZGVtby1rZXk=",
            "Bearerdemo-key",
            "demo-key",
            &too_long,
        ] {
            assert_eq!(authenticate(&[bad]), Err(AuthError::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn a_token_that_is_nearly_right_is_unknown() {
        let longest = format!("Bearer {}", "x".repeat(AUTH_TOKEN_BYTES_MAX));
        for unknown in ["Bearer demo-ke", "Bearer demo-key1", "Bearer Demo-key", "Bearer robot", &longest] {
            assert_eq!(authenticate(&[unknown]), Err(AuthError::Unknown), "{unknown}");
        }
        let empty = KeyRing::new([]).unwrap();
        assert_eq!(empty.authenticate([&b"Bearer demo-key"[..]].into_iter()).err(), Some(AuthError::Unknown));
    }

    #[test]
    fn admin_may_do_everything_and_demo_may_not_administer() {
        let scopes = |value: &str| ring().authenticate([value.as_bytes()].into_iter()).unwrap().scopes;
        let allowed = |scopes: Scopes| Scope::ALL.map(|scope| scopes.allows(scope));
        assert_eq!(allowed(scopes("Bearer admin-key")), [true, true, true]);
        assert_eq!(allowed(scopes("Bearer demo-key")), [true, true, false]);
        assert_eq!(allowed([Scope::Admin].into_iter().collect()), [true, true, true]);
        assert!([].into_iter().collect::<Scopes>().is_empty());
    }

    #[test]
    fn a_scope_is_nobodys_when_no_key_has_it_or_implies_it() {
        assert_eq!(ring().scopes_of_nobody(), []);
        assert_eq!(KeyRing::new([]).unwrap().scopes_of_nobody(), Scope::ALL);
        let only = |scope| KeyEntry { scopes: [scope].into_iter().collect(), ..well_known_keys().remove(0) };
        assert_eq!(KeyRing::new([only(Scope::Admin)]).unwrap().scopes_of_nobody(), []);
        assert_eq!(KeyRing::new([only(Scope::Manage)]).unwrap().scopes_of_nobody(), [Scope::Invoke, Scope::Admin]);
    }

    #[test]
    fn scopes_have_names() {
        for scope in Scope::ALL {
            assert_eq!(Scope::from_name(scope.as_str()), Some(scope));
        }
        assert_eq!(Scope::from_name("Invoke"), None);
    }

    #[test]
    fn the_same_token_twice_is_refused_and_well_known_keys_are_noticed() {
        let twice = well_known_keys().into_iter().chain(well_known_keys());
        assert!(matches!(KeyRing::new(twice), Err(KeyRingError::SameToken { first, .. }) if first == "demo-key"));
        assert!(well_known_keys().iter().all(|key| is_well_known(&key.sha256)));
        assert!(!is_well_known(&token_digest(b"robot")));
    }

    #[test]
    fn nothing_printed_for_debugging_holds_a_digest() {
        let digest = token_digest(b"demo-key");
        for text in [format!("{:?}", ring()), format!("{:?}", well_known_keys())] {
            assert!(text.contains("demo-key") && !text.contains(&format!("{}, {}", digest[0], digest[1])), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(value in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = ring().authenticate([value.as_slice()].into_iter());
        }
    }
}
