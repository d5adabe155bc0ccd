//! From a method and a path to what is asked for, and which scope that needs. Pure.
//!
//! [`TABLE`] is the one list of the API's resources: routing, `Allow`, and the check of scopes all read it, so a
//! resource without a scope cannot exist.

use crate::auth::Scope;
use crate::call::Slot;
use crate::http::target::{Path, TargetError};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Live,
    Ready,
    FunctionsList,
    FunctionCreate,
    FunctionGet(String),
    FunctionUpdate(String),
    FunctionDelete(String),
    FunctionLogs(String),
    FunctionSandbox(String),
    /// The function, and the decoded path behind its name (`/` when there is none).
    Invoke(String, String),
    Stats,
    FunctionStats(String),
    Instances,
    InstanceStop(Slot),
    Reload,
    /// `OPTIONS *` and `OPTIONS` on a known resource.
    Options(&'static str),
}

/// Why there is no route.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// The path is malformed.
    BadTarget(TargetError),
    /// Nothing is there.
    NotFound,
    /// Something is there, for other methods.
    Method { allow: &'static str },
}

/// One segment of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Is(&'static str),
    Name,
    Rest,
}

/// One resource: its pattern, its methods with the scope each needs, and the value of `Allow`.
struct Resource {
    pattern: &'static [Segment],
    methods: &'static [(&'static str, Access, Make)],
    allow: &'static str,
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// Who holds this scope.
    Scope(Scope),
}

/// Makes the route from the decoded segments behind `Name` and `Rest`.
type Make = fn(&[String], &str) -> Option<Route>;

const MANAGE: Access = Access::Scope(Scope::Manage);
const ADMIN: Access = Access::Scope(Scope::Admin);

/// The method that stands for all.
const ANY: &str = "*";

use Segment::{Is, Name, Rest};

static TABLE: &[Resource] = &[
    Resource {
        pattern: &[Is("health")],
        methods: &[("GET", Access::Open, |_, _| Some(Route::Health))],
        allow: "GET, HEAD, OPTIONS",
    },
    Resource {
        pattern: &[Is("livez")],
        methods: &[("GET", Access::Open, |_, _| Some(Route::Live))],
        allow: "GET, HEAD, OPTIONS",
    },
    Resource {
        pattern: &[Is("readyz")],
        methods: &[("GET", Access::Open, |_, _| Some(Route::Ready))],
        allow: "GET, HEAD, OPTIONS",
    },
    Resource {
        pattern: &[Is("functions")],
        methods: &[
            ("GET", MANAGE, |_, _| Some(Route::FunctionsList)),
            ("POST", MANAGE, |_, _| Some(Route::FunctionCreate)),
        ],
        allow: "GET, HEAD, POST, OPTIONS",
    },
    Resource {
        pattern: &[Is("functions"), Name],
        methods: &[
            ("GET", MANAGE, |names, _| Some(Route::FunctionGet(names.first()?.clone()))),
            ("PUT", MANAGE, |names, _| Some(Route::FunctionUpdate(names.first()?.clone()))),
            ("DELETE", MANAGE, |names, _| Some(Route::FunctionDelete(names.first()?.clone()))),
        ],
        allow: "GET, HEAD, PUT, DELETE, OPTIONS",
    },
    Resource {
        pattern: &[Is("functions"), Name, Is("logs")],
        methods: &[("GET", MANAGE, |names, _| Some(Route::FunctionLogs(names.first()?.clone())))],
        allow: "GET, HEAD, OPTIONS",
    },
    Resource {
        pattern: &[Is("functions"), Name, Is("sandbox")],
        methods: &[("GET", MANAGE, |names, _| Some(Route::FunctionSandbox(names.first()?.clone())))],
        allow: "GET, HEAD, OPTIONS",
    },
    Resource {
        pattern: &[Is("invoke"), Name, Rest],
        methods: &[(ANY, Access::Scope(Scope::Invoke), |names, rest| {
            Some(Route::Invoke(names.first()?.clone(), rest.to_owned()))
        })],
        allow: "any method",
    },
    Resource {
        pattern: &[Is("stats")],
        methods: &[("GET", MANAGE, |_, _| Some(Route::Stats))],
        allow: "GET, HEAD, OPTIONS",
    },
    Resource {
        pattern: &[Is("stats"), Is("functions"), Name],
        methods: &[("GET", MANAGE, |names, _| Some(Route::FunctionStats(names.first()?.clone())))],
        allow: "GET, HEAD, OPTIONS",
    },
    Resource {
        pattern: &[Is("instances")],
        methods: &[("GET", MANAGE, |_, _| Some(Route::Instances))],
        allow: "GET, HEAD, OPTIONS",
    },
    Resource {
        pattern: &[Is("instances"), Name],
        methods: &[("DELETE", MANAGE, |names, _| Some(Route::InstanceStop(names.first()?.parse().ok()?)))],
        allow: "DELETE, OPTIONS",
    },
    Resource {
        pattern: &[Is("admin"), Is("reload")],
        methods: &[("POST", ADMIN, |_, _| Some(Route::Reload))],
        allow: "POST, OPTIONS",
    },
];

/// Finds the route of a request. `path` is raw, as it stood in the request line.
pub(super) fn route(method: &str, path: &str) -> Result<(Route, Access), NoRoute> {
    if let Some(found) = invoke_fast(path) {
        return Ok(found);
    }
    if method == "OPTIONS" && path == "*" {
        return Ok((Route::Options("GET, HEAD, POST, PUT, DELETE, OPTIONS"), Access::Open));
    }
    let path = Path::decode(path).map_err(NoRoute::BadTarget)?;
    for resource in TABLE {
        let Some((names, rest)) = matches(resource.pattern, &path) else { continue };
        // HEAD is GET without the body, which the connection leaves out.
        let wanted = if method == "HEAD" { "GET" } else { method };
        let row = resource.methods.iter().find(|(name, ..)| *name == wanted || *name == ANY);
        return match row {
            Some((_, access, make)) => make(&names, &rest).map(|route| (route, *access)).ok_or(NoRoute::NotFound),
            None if method == "OPTIONS" => Ok((Route::Options(resource.allow), Access::Open)),
            None => Err(NoRoute::Method { allow: resource.allow }),
        };
    }
    Err(NoRoute::NotFound)
}

/// The way of nearly every request: `/invoke/NAME` and nothing to decode.
fn invoke_fast(path: &str) -> Option<(Route, Access)> {
    let name = path.strip_prefix("/invoke/")?;
    let plain =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    plain.then(|| (Route::Invoke(name.to_owned(), "/".to_owned()), Access::Scope(Scope::Invoke)))
}

fn matches(pattern: &[Segment], path: &Path<'_>) -> Option<(Vec<String>, String)> {
    let mut names = Vec::new();
    let mut given = path.segments().iter();
    for segment in pattern {
        match segment {
            Is(text) => {
                if given.next()? != text {
                    return None;
                }
            }
            Name => names.push(given.next().filter(|name| !name.is_empty())?.to_string()),
            Rest => return Some((names, path.behind(pattern.len() - 1))),
        }
    }
    given.next().is_none().then_some((names, String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_its_methods_in_allow() {
        for resource in TABLE {
            for (method, ..) in resource.methods {
                assert!(*method == ANY || resource.allow.split(", ").any(|allowed| allowed == *method));
            }
        }
    }

    #[test]
    fn only_what_probes_ask_is_open() {
        let open = [[Is("health")], [Is("livez")], [Is("readyz")]];
        for resource in TABLE {
            for (_, access, _) in resource.methods {
                assert_eq!(*access == Access::Open, open.iter().any(|open| resource.pattern == open.as_slice()));
            }
        }
    }

    #[test]
    fn the_fast_way_and_the_table_agree() {
        for path in ["/invoke/hello", "/invoke/hello/", "/invoke/hello/a/b", "/invoke/h%65llo"] {
            let (route, access) = route("POST", path).unwrap();
            assert_eq!(access, Access::Scope(Scope::Invoke));
            assert!(matches!(&route, Route::Invoke(name, _) if name == "hello"), "{path}: {route:?}");
        }
        assert_eq!(route("POST", "/invoke/hello").unwrap().0, Route::Invoke("hello".into(), "/".into()));
        assert_eq!(route("POST", "/invoke/hello/a%20b/c").unwrap().0, Route::Invoke("hello".into(), "/a b/c".into()));
    }

    #[test]
    fn wrong_methods_name_the_right_ones() {
        assert_eq!(route("POST", "/health"), Err(NoRoute::Method { allow: "GET, HEAD, OPTIONS" }));
        assert_eq!(route("PATCH", "/functions/a"), Err(NoRoute::Method { allow: "GET, HEAD, PUT, DELETE, OPTIONS" }));
        assert_eq!(route("GET", "/nothing"), Err(NoRoute::NotFound));
        for nameless in ["/invoke/", "/invoke//a", "/functions/", "/functions//logs", "/stats/functions/"] {
            assert_eq!(route("GET", nameless), Err(NoRoute::NotFound), "{nameless}");
        }
        assert_eq!(route("DELETE", "/instances/one"), Err(NoRoute::NotFound));
        assert!(matches!(route("GET", "/functions/%2e%2e"), Err(NoRoute::BadTarget(_))));
        assert_eq!(route("HEAD", "/health").unwrap().0, Route::Health);
        assert_eq!(route("OPTIONS", "/functions").unwrap().0, Route::Options("GET, HEAD, POST, OPTIONS"));
    }
}
