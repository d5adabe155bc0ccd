//! The request target: its forms, its path taken apart and decoded once, its query's parameters.
//!
//! Invariant: a decoded segment holds no slash, no backslash and no control character, and is neither `.` nor `..`;
//! so the segments joined with slashes mean one thing only, and none of them can climb out of anything.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Why a target is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetError {
    /// It is none of the forms that its method may have, or holds a byte that none of them has.
    Form,
    /// A `%` is not followed by two hexadecimal digits.
    Escape,
    /// The decoded text is not UTF-8.
    Utf8,
    /// A segment hides a slash or a backslash in an escape.
    Separator,
    /// A segment holds a control character.
    Control,
    /// A segment is `.` or `..`.
    Dots,
    /// A query parameter is given twice.
    Repeated,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetError::Form => "the request target is not valid",
            TargetError::Escape => "the request target has a % without two hexadecimal digits",
            TargetError::Utf8 => "the request target is not UTF-8",
            TargetError::Separator => "a path segment holds an escaped slash or a backslash",
            TargetError::Control => "a path segment holds a control character",
            TargetError::Dots => "a path segment is . or ..",
            TargetError::Repeated => "a query parameter is given twice",
        })
    }
}

impl std::error::Error for TargetError {}

/// Where path and query lie within a target, as byte ranges.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// The path; `None` when an absolute-form target has none, which means `/`.
    pub(super) path: Option<Range<usize>>,
    /// What follows the `?`, if there is one.
    pub(super) query: Option<Range<usize>>,
}

/// Finds path and query in a target of origin form (`/p?q`), absolute form (`http://h/p?q`) or asterisk form (`*`).
///
/// The absolute form's authority is checked and then ignored: this server is every host that it is called.
pub(super) fn locate(method: &str, target: &str) -> Result<Located, TargetError> {
    if target == "*" {
        return if method == "OPTIONS" {
            Ok(Located { path: Some(0..1), query: None })
        } else {
            Err(TargetError::Form)
        };
    }
    let path_start = if target.starts_with('/') { 0 } else { after_authority(target)? };
    let path_end = target[path_start..].find('?').map_or(target.len(), |at| path_start + at);
    let is_valid = target.as_bytes()[path_start..path_end].iter().all(|&byte| may_stand_in_path(byte))
        && target.as_bytes()[path_end..].iter().all(|&byte| may_stand_in_query(byte));
    if !is_valid {
        return Err(TargetError::Form);
    }
    Ok(Located {
        path: (path_start < path_end).then_some(path_start..path_end),
        query: (path_end < target.len()).then(|| path_end + 1..target.len()),
    })
}

/// The index behind `http://authority`. User information is refused: nobody sends it but to deceive.
fn after_authority(target: &str) -> Result<usize, TargetError> {
    let scheme_len = ["http://", "https://"]
        .iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .ok_or(TargetError::Form)?
        .len();
    let rest = &target[scheme_len..];
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    if authority.is_empty() || !is_host(authority.as_bytes()) {
        return Err(TargetError::Form);
    }
    Ok(scheme_len + authority.len())
}

/// True for what may stand in a `Host` field or an authority without user information: `host`, `host:port`,
/// `[address]:port`. The bytes are checked, not the grammar, since nothing is ever looked up by it.
pub(super) fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(byte))
}

/// RFC 3986 and what URL libraries leave unescaped in a path all the same: `|`, `[` and `]`.
fn may_stand_in_path(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b';' | b'=' | b'@'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'|' | b'~')
}

/// As for a path, and the rest of what browsers leave unescaped in a query. The `?` that begins it is one of them.
fn may_stand_in_query(byte: u8) -> bool {
    may_stand_in_path(byte) || matches!(byte, b'?' | b'\\' | b'^' | b'`' | b'{' | b'}')
}

/// A path's segments, decoded: `/invoke/a%20b` is `["invoke", "a b"]`, `/` is `[""]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Path<'a> {
    segments: Vec<Cow<'a, str>>,
}

impl<'a> Path<'a> {
    /// Takes a raw path apart and decodes each segment once.
    ///
    /// # Errors
    /// [`TargetError`], when a segment would not mean one thing only.
    pub fn decode(raw: &'a str) -> Result<Path<'a>, TargetError> {
        let relative = raw.strip_prefix('/').ok_or(TargetError::Form)?;
        let segments = relative.split('/').map(decode_segment).collect::<Result<_, _>>()?;
        Ok(Path { segments })
    }

    /// The segments, at least one. Empty ones are kept: `/a/` is `["a", ""]`.
    pub fn segments(&self) -> &[Cow<'a, str>] {
        &self.segments
    }

    /// The path behind the first `skip` segments, with its slash: `/` when nothing is left.
    pub fn behind(&self, skip: usize) -> String {
        let rest = self.segments.get(skip..).unwrap_or_default();
        let mut path = String::with_capacity(1 + rest.iter().map(|segment| segment.len() + 1).sum::<usize>());
        for segment in rest {
            path.push('/');
            path.push_str(segment);
        }
        if path.is_empty() {
            path.push('/');
        }
        path
    }
}

fn decode_segment(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    let segment = unescape(raw)?;
    if segment.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(TargetError::Control);
    }
    if segment.contains(['/', '\\']) {
        return Err(TargetError::Separator);
    }
    if segment == "." || segment == ".." {
        return Err(TargetError::Dots);
    }
    Ok(segment)
}

/// The value of the query parameter `name`, decoded as forms are (`+` is a space); `None` when it is not there.
///
/// # Errors
/// [`TargetError::Repeated`] when it is there twice; [`TargetError::Escape`] and [`TargetError::Utf8`].
pub fn query_parameter<'a>(query: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, TargetError> {
    let mut found = None;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if unescape_form(key)? == name && found.replace(value).is_some() {
            return Err(TargetError::Repeated);
        }
    }
    found.map(unescape_form).transpose()
}

fn unescape_form(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    if raw.contains('+') {
        return unescape(&raw.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()));
    }
    unescape(raw)
}

/// Replaces each `%XX` by its byte, once. Borrows when there is none.
fn unescape(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (&[high, low], after) = after.split_first_chunk().ok_or(TargetError::Escape)?;
            bytes.push(hex(high)? << 4 | hex(low)?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| TargetError::Utf8)
}

fn hex(digit: u8) -> Result<u8, TargetError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(TargetError::Escape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(method: &str, target: &str) -> Option<(String, Option<String>)> {
        let at = locate(method, target).ok()?;
        let path = at.path.map_or("/".to_string(), |range| target[range].to_string());
        Some((path, at.query.map(|range| target[range].to_string())))
    }

    #[test]
    fn every_form_that_is_served() {
        let some = |path: &str, query: Option<&str>| Some((path.to_string(), query.map(str::to_string)));
        assert_eq!(located("GET", "/"), some("/", None));
        assert_eq!(located("GET", "/a/b?"), some("/a/b", Some("")));
        assert_eq!(located("GET", "/a?x=1?y"), some("/a", Some("x=1?y")));
        assert_eq!(located("GET", "http://h"), some("/", None));
        assert_eq!(located("GET", "HTTP://h:80/a?b"), some("/a", Some("b")));
        assert_eq!(located("GET", "https://[::1]:8/?b"), some("/", Some("b")));
        assert_eq!(located("GET", "http://h?b"), some("/", Some("b")));
        assert_eq!(located("OPTIONS", "*"), some("*", None));
    }

    #[test]
    fn every_form_that_is_refused() {
        for bad in
            ["*", "a", "h:443", "http:/a", "http:///a", "http://u@h/", "ftp://h/", "/a#b", "/\\", "/é", "/<", "/\""]
        {
            assert_eq!(located("GET", bad), None, "{bad}");
        }
        assert_eq!(located("OPTIONS", "**"), None);
    }

    #[test]
    fn a_path_is_decoded_once() {
        let path = Path::decode("/invoke/a%20b/%252e%252E/c//").unwrap();
        assert_eq!(path.segments(), ["invoke", "a b", "%2e%2E", "c", "", ""]);
        assert_eq!(path.behind(2), "/%2e%2E/c//");
        assert_eq!(path.behind(6), "/");
        assert_eq!(path.behind(99), "/");
        assert_eq!(Path::decode("/").unwrap().segments(), [""]);
        assert_eq!(Path::decode("/%C3%A9").unwrap().segments(), ["é"]);
    }

    #[test]
    fn a_segment_that_could_mean_two_things_is_refused() {
        use TargetError::*;
        for (raw, why) in [
            ("/a%2fb", Separator),
            ("/a%2Fb", Separator),
            ("/a%5cb", Separator),
            ("/a%00", Control),
            ("/a%0d%0a", Control),
            ("/a%7f", Control),
            ("/a/../b", Dots),
            ("/%2e%2E/b", Dots),
            ("/.", Dots),
            ("/%ff", Utf8),
            ("/%c0%af", Utf8),
            ("/%", Escape),
            ("/%4", Escape),
            ("/%4g", Escape),
            ("/%+1", Escape),
            ("*", Form),
        ] {
            assert_eq!(Path::decode(raw), Err(why), "{raw}");
        }
    }

    #[test]
    fn query_parameters_are_found_by_their_decoded_name() {
        let find = |query, name| query_parameter(query, name).map(|value| value.map(Cow::into_owned));
        assert_eq!(find("limit=10&cursor=a%2Fb+c", "limit"), Ok(Some("10".into())));
        assert_eq!(find("limit=10&cursor=a%2Fb+c", "cursor"), Ok(Some("a/b c".into())));
        assert_eq!(find("l%69mit=%31", "limit"), Ok(Some("1".into())));
        assert_eq!(find("limit", "limit"), Ok(Some("".into())));
        assert_eq!(find("", "limit"), Ok(None));
        assert_eq!(find("xlimit=1", "limit"), Ok(None));
        assert_eq!(find("limit=1&limit=1", "limit"), Err(TargetError::Repeated));
        assert_eq!(find("limit=%zz", "limit"), Err(TargetError::Escape));
        assert_eq!(find("limit=%ff", "limit"), Err(TargetError::Utf8));
    }
}
