//! Where a value is, and why it was not taken.

use std::fmt;

use super::cut;
use super::nearest::nearest;

/// One step from a map or list to one of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Into a map.
    Key(String),
    /// Into a list, counted from 0.
    Index(usize),
}

/// Where a value is: `system.api_keys[0].name`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPath(Vec<Segment>);

impl KeyPath {
    /// The path of the whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of a map's member.
    pub fn key(&self, key: &str) -> Self {
        self.step(Segment::Key(key.to_owned()))
    }

    /// The path of a list's member.
    pub fn index(&self, index: usize) -> Self {
        self.step(Segment::Index(index))
    }

    /// The steps from the root.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    fn step(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => {
                    let dot = if position == 0 { "" } else { "." };
                    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
                    // A key with dots, spaces or control characters is quoted, so that the path stays unambiguous and
                    // a message stays on its line.
                    if plain {
                        write!(f, "{dot}{}", cut(key))?;
                    } else {
                        write!(f, "{dot}{:?}", cut(key))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Why a value was not taken. Its text names the key, what was given and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueError {
    /// No setting has this name.
    UnknownKey {
        /// The unknown key.
        path: KeyPath,
        /// What is known there.
        known: &'static [&'static str],
    },
    /// A map has the same key twice.
    DuplicateKey {
        /// The repeated key.
        path: KeyPath,
    },
    /// The value is of another kind than the setting.
    WrongKind {
        /// Which setting.
        path: KeyPath,
        /// What was given, described.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// The value is of the right kind and not one that the setting may have.
    NotAllowed {
        /// Which setting.
        path: KeyPath,
        /// What was given, cut.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// A setting that has no default was not given.
    Missing {
        /// Which setting.
        path: KeyPath,
        /// What it should be.
        allowed: String,
    },
    /// Two settings exclude each other.
    Both {
        /// The one.
        path: KeyPath,
        /// Name of the other.
        other: &'static str,
    },
    /// A setting is more than the one that bounds it.
    Exceeds {
        /// The larger one.
        path: KeyPath,
        /// Its value.
        given: u64,
        /// Name of the setting that bounds it.
        bound: &'static str,
        /// The bound.
        bound_value: u64,
    },
}

impl ValueError {
    /// The key at fault.
    pub fn path(&self) -> &KeyPath {
        match self {
            Self::UnknownKey { path, .. }
            | Self::DuplicateKey { path }
            | Self::WrongKind { path, .. }
            | Self::NotAllowed { path, .. }
            | Self::Missing { path, .. }
            | Self::Both { path, .. }
            | Self::Exceeds { path, .. } => path,
        }
    }

    /// The same error, seen from the map or list at `parent`.
    pub fn within(mut self, parent: &KeyPath) -> Self {
        match &mut self {
            Self::UnknownKey { path, .. }
            | Self::DuplicateKey { path }
            | Self::WrongKind { path, .. }
            | Self::NotAllowed { path, .. }
            | Self::Missing { path, .. }
            | Self::Both { path, .. }
            | Self::Exceeds { path, .. } => {
                path.0.splice(0..0, parent.0.iter().cloned());
            }
        }
        self
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole document has no name of its own.
        if !self.path().segments().is_empty() {
            write!(f, "{}: ", self.path())?;
        }
        match self {
            Self::UnknownKey { path, known } => {
                let meant = match path.segments().last() {
                    Some(Segment::Key(key)) => nearest(key, known),
                    _ => None,
                };
                match meant {
                    Some(name) => write!(f, "unknown key; did you mean {name}?"),
                    None => write!(f, "unknown key; known are {}", known.join(", ")),
                }
            }
            Self::DuplicateKey { .. } => f.write_str("given twice; keep one"),
            Self::WrongKind { given, allowed, .. } | Self::NotAllowed { given, allowed, .. } => {
                write!(f, "got {given}; expected {allowed}")
            }
            Self::Missing { allowed, .. } => write!(f, "missing; expected {allowed}"),
            Self::Both { other, .. } => write!(f, "given together with {other}; keep one of them"),
            Self::Exceeds { given, bound, bound_value, .. } => {
                write!(f, "{given} is more than {bound}, which is {bound_value}")
            }
        }
    }
}

impl std::error::Error for ValueError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_file() {
        let path = KeyPath::root().key("system").key("api_keys").index(2).key("name");
        assert_eq!(path.to_string(), "system.api_keys[2].name");
        assert_eq!(KeyPath::root().key("a.b").key("c\nd").to_string(), r#""a.b"."c\nd""#);
    }

    #[test]
    fn an_error_of_a_part_can_be_seen_from_the_whole() {
        let error = ValueError::DuplicateKey { path: KeyPath::root().key("timeout") };
        let whole = error.within(&KeyPath::root().key("functions").key("f"));
        assert_eq!(whole.to_string(), "functions.f.timeout: given twice; keep one");
    }
}
