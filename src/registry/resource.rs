//! A function as the API shows it.
//!
//! Owns the fields' names and order, not their transport: `front::api` serialises it. The settings' own form belongs
//! to `registry::settings`, and who may see which of them is the caller's decision; so is what is known of instances.

use serde::Serialize;
use serde_json::Value;

use super::function::FunctionVersion;
use super::image::ImageId;
use crate::rfc3339;

/// The JSON form of one function.
#[derive(Debug, Serialize)]
pub struct FunctionResource<'a> {
    name: &'a str,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    code_sha256: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_id: Option<&'a ImageId>,
    config: Value,
    created_at: String,
    updated_at: String,
    instances: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pulled: Option<Value>,
}

impl<'a> FunctionResource<'a> {
    /// The resource with its code. `config` is the settings' JSON form, `instances` what the front knows of them.
    pub fn new(function: &'a FunctionVersion, config: Value, instances: Value) -> Self {
        FunctionResource {
            name: &function.name,
            version: function.version,
            code: Some(&function.code),
            code_sha256: &function.code_sha256,
            image_id: function.image_id.as_ref(),
            config,
            created_at: rfc3339::format(function.created_at_ms),
            updated_at: rfc3339::format(function.updated_at_ms),
            instances,
            pulled: None,
        }
    }

    /// The same with how its image came, as the answer to a deployment that had to wait for that has it.
    pub fn with_pulled(self, pulled: Option<Value>) -> Self {
        FunctionResource { pulled, ..self }
    }

    /// The same without its code, as listings have it.
    pub fn without_code(self) -> Self {
        FunctionResource { code: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::version;
    use serde_json::json;

    #[test]
    fn shows_every_field_in_a_fixed_order_and_the_code_only_when_asked_for() {
        let mut function = version("hello", 3);
        (function.created_at_ms, function.updated_at_ms) = (0, 1_763_878_713_042);
        function.code = "def handle(request):\n    return 'é'\n".to_string();
        function.code_sha256 = "ab".to_string();
        function.image_id = None;
        let resource = || FunctionResource::new(&function, json!({"timeout": 30}), json!([]));
        assert_eq!(
            serde_json::to_string(&resource()).unwrap(),
            concat!(
                r#"{"name":"hello","version":3,"code":"def handle(request):\n    return 'é'\n","code_sha256":"ab","#,
                r#""config":{"timeout":30},"created_at":"1970-01-01T00:00:00.000Z","#,
                r#""updated_at":"2025-11-23T06:18:33.042Z","instances":[]}"#
            )
        );
        let listed = serde_json::to_value(resource().without_code()).unwrap();
        assert_eq!((listed.get("code"), &listed["code_sha256"]), (None, &json!("ab")));
        assert_eq!(listed.get("image_id"), None, "it runs in no container");
    }

    #[test]
    fn shows_which_image_a_version_was_deployed_with() {
        let function = version("hello", 3);
        let shown = serde_json::to_value(FunctionResource::new(&function, json!({}), json!([]))).unwrap();
        assert_eq!(shown["image_id"], format!("sha256:{}", "a".repeat(64)));
    }
}
