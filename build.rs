//! Compiles what of `src/sys/native/` the server embeds: `module.rs` into `_faas.so`, the sandbox executor as a Python
//! extension, and `launcher.rs` into `faas-launch`, the same as a static program.
//!
//! Each is built with the same compiler as the server, in one call, without cargo and without dependencies. `lto=fat`
//! matters in debug builds too: it compiles the parts of `core` that are used anew with `panic=abort`; as they are
//! shipped they refer to an unwinder (`rust_eh_personality`), and the object would not load.

use std::path::PathBuf;
use std::process::{exit, Command};

/// What is linked to nothing, and lies where it says.
const STATIC: [&str; 3] =
    ["relocation-model=static", "target-feature=+crt-static", "link-args=-nostartfiles -nostdlib -static"];

fn main() {
    for watched in ["build.rs", "src/sys/native", "src/sys/executor"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    println!("cargo::rustc-check-cfg=cfg(faas_native)");

    let target = variable("TARGET");
    let supported = ["x86_64-", "aarch64-"].iter().any(|arch| target.starts_with(arch)) && target.contains("-linux-");
    if !supported {
        fail(&format!("faas runs on 64-bit Linux on x86_64 or aarch64; the target is {target}"));
    }

    compile("src/sys/native/module.rs", "cdylib", "_faas.so", &[], &target);
    compile("src/sys/native/launcher.rs", "bin", "faas-launch", &STATIC, &target);
}

fn compile(source: &str, kind: &str, name: &str, options: &[&str], target: &str) {
    let output = PathBuf::from(variable("OUT_DIR")).join(name);
    let mut compiler = Command::new(variable("RUSTC"));
    compiler.args(["--edition", "2021", "--crate-type", kind, "--crate-name", "_faas", "--cfg", "faas_native"]);
    let always = ["panic=abort", "opt-level=2", "lto=fat", "codegen-units=1", "debuginfo=0", "strip=symbols"];
    for option in always.iter().chain(options) {
        compiler.args(["-C", option]);
    }
    // A cross-linker that cargo was told of is the right one here as well.
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        compiler.args(["-C", &format!("linker={linker}")]);
    }
    compiler.args(["--target", target]).arg("-o").arg(&output).arg(source);

    match compiler.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{source} did not compile ({status}): {compiler:?}")),
        Err(error) => fail(&format!("cannot run the compiler for {source}: {error}: {compiler:?}")),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| fail(&format!("cargo did not set {name} for build.rs")))
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
