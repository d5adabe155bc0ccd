//! Function specifications, their versions, and the store that keeps them.
//!
//! The way of a change: a control thread validates it, commits it to the [`store`], and hands the new
//! [`function::FunctionVersion`] to the front, which puts it into its [`snapshot`]. It must be handed over before the
//! store's mutex is let go, so that the front sees changes in the order in which they were committed.

pub mod function;
pub mod image;
pub mod resource;
pub mod settings;
pub mod snapshot;
pub mod store;

#[cfg(test)]
pub(crate) mod testing {
    //! Values for the tests of this module and of its users.

    use super::function::{ExecutionMode, FunctionConfig, FunctionVersion, Handler, IdleTtl, InvocationsMax, Network};
    use super::image::ImageId;

    /// A configuration in which no field has its default.
    pub(crate) fn config() -> FunctionConfig {
        FunctionConfig {
            runtime: "python3.11".to_string(),
            execution_mode: ExecutionMode::Container,
            image: Some("python:3.12-slim".to_string()),
            network: Network::Outbound,
            handler: Handler { module: "app".to_string(), name: "run".to_string() },
            timeout_ms: 1500,
            memory_bytes: 64 << 20,
            cpu_millis: 100,
            dependencies: vec!["requests==2.28.0".to_string()],
            environment: [("KEY", "secret"), ("EMPTY", "")].map(|(k, v)| (k.to_string(), v.to_string())).into(),
            min_instances: 1,
            max_instances: 3,
            max_invocations_per_instance: InvocationsMax::AtMost(50),
            idle_ttl: Some(IdleTtl::Adaptive),
        }
    }

    /// The id of an image whose digits are this one.
    pub(crate) fn image_id(digit: char) -> ImageId {
        ImageId::parse(&format!("sha256:{}", String::from(digit).repeat(64))).unwrap()
    }

    /// A version whose code says which one it is.
    pub(crate) fn version(name: &str, version: u64) -> FunctionVersion {
        let code = format!("# {name} {version}");
        FunctionVersion {
            name: name.to_string(),
            version,
            code_sha256: super::store::code_sha256(&code),
            code,
            config: config(),
            image_id: Some(image_id('a')),
            created_at_ms: 1000,
            updated_at_ms: 1000 + version,
        }
    }
}
