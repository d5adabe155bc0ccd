//! The Python half of an instance, carried in the binary: the sandbox's tree gets these files as `/faas/NAME`.

/// Name and text of every file of `runtime-shim/`.
pub const FILES: &[(&str, &str)] = &[
    ("answer.py", include_str!("../runtime-shim/answer.py")),
    ("check.py", include_str!("../runtime-shim/check.py")),
    ("children.py", include_str!("../runtime-shim/children.py")),
    ("container.py", include_str!("../runtime-shim/container.py")),
    ("instance.py", include_str!("../runtime-shim/instance.py")),
    ("logs.py", include_str!("../runtime-shim/logs.py")),
    ("request.py", include_str!("../runtime-shim/request.py")),
    ("wire.py", include_str!("../runtime-shim/wire.py")),
    ("zygote.py", include_str!("../runtime-shim/zygote.py")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_shim_is_carried() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime-shim");
        let mut on_disk: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".py"))
            .collect();
        on_disk.sort();
        let carried: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(carried, on_disk);
    }
}
