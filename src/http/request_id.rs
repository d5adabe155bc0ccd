//! The id under which one request is known to its client, in its answer and in every log line.
//!
//! A client's own `X-Request-Id` is kept when it is harmless to print anywhere; otherwise one is made. Made ids are
//! unique, not secret: nothing may be granted to whoever knows one.

use std::fmt;

/// Longest `X-Request-Id` that is taken from a client, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// A request id: 1 to 128 bytes of `[A-Za-z0-9._-]`.
///
/// It is held inline and copied, because each request needs it in two places and neither is worth an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    bytes: [u8; REQUEST_ID_BYTES_MAX],
    len: u8,
}

impl RequestId {
    /// Takes the client's value, or nothing when it breaks the rules.
    pub fn from_client(value: &[u8]) -> Option<RequestId> {
        let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if value.is_empty() || value.len() > REQUEST_ID_BYTES_MAX || !value.iter().all(harmless) {
            return None;
        }
        Some(RequestId::copy_of(value))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Every constructor admits ASCII only, so the default is never taken.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The id as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn copy_of(value: &[u8]) -> RequestId {
        let mut bytes = [0; REQUEST_ID_BYTES_MAX];
        bytes[..value.len()].copy_from_slice(value);
        // The callers have checked the length against 128, which a u8 holds.
        RequestId { bytes, len: value.len() as u8 }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.as_str())
    }
}

/// Makes request ids: 128 bits each from xoshiro256++, which costs no system call after its seed.
#[derive(Debug, Clone)]
pub struct RequestIds {
    state: [u64; 4],
}

impl RequestIds {
    /// Seeds the generator from the kernel.
    ///
    /// # Errors
    /// When the kernel gives no random bytes; a server that cannot get any should not start.
    pub fn from_kernel() -> Result<RequestIds, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let word = |i: usize| seed[i * 8..][..8].iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        Ok(RequestIds::from_seed([word(0), word(1), word(2), word(3)]))
    }

    /// Seeds the generator from `seed`, for tests that replay.
    pub fn from_seed(mut seed: [u64; 4]) -> RequestIds {
        // The all-zero state is the one state that xoshiro never leaves.
        seed[0] |= u64::from(seed == [0; 4]);
        RequestIds { state: seed }
    }

    /// The next id: 32 lower-case hexadecimal digits.
    pub fn make(&mut self) -> RequestId {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let value = u128::from(self.next()) << 64 | u128::from(self.next());
        let mut text = [0; 32];
        for (i, digit) in text.iter_mut().enumerate() {
            *digit = DIGITS[(value >> (124 - 4 * i)) as usize & 15];
        }
        RequestId::copy_of(&text)
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harmless_id_of_the_client_is_kept() {
        for good in ["a", "0f.A_z-9", "x".repeat(128).as_str()] {
            assert_eq!(RequestId::from_client(good.as_bytes()).map(|id| id.to_string()), Some(good.to_string()));
        }
    }

    #[test]
    fn any_other_is_not() {
        for bad in ["", "a b", "a\tb", "a\"b", "é", "a/b", "a\0", "x".repeat(129).as_str()] {
            assert_eq!(RequestId::from_client(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn made_ids_are_32_digits_and_differ() {
        let mut ids = RequestIds::from_seed([0; 4]);
        let made: std::collections::HashSet<String> = (0..1000).map(|_| ids.make().to_string()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| id.len() == 32 && RequestId::from_client(id.as_bytes()).is_some()));
    }

    #[test]
    fn the_kernel_gives_two_servers_different_ids() {
        let mut one = RequestIds::from_kernel().unwrap();
        let mut other = RequestIds::from_kernel().unwrap();
        assert_ne!(one.make(), other.make());
    }
}
