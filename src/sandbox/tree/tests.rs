//! Trees of three kinds of systems, given as facts.

use super::*;

fn interpreter(executable: &str, directories: &[&str]) -> Interpreter {
    Interpreter {
        executable: executable.into(),
        version: (3, 11, 2),
        directories: directories.iter().map(PathBuf::from).collect(),
        hidden: directories.iter().map(|directory| Path::new(directory).join("site-packages")).collect(),
    }
}

fn host(directories: &[&str], links: &[(&str, &str)]) -> HostFiles {
    let directories = directories.iter().map(|path| (PathBuf::from(path), HostFile::Directory));
    let links = links.iter().map(|(path, target)| (PathBuf::from(path), HostFile::Link(target.into())));
    directories.chain(links).collect()
}

fn tree(interpreter: &Interpreter, host: &HostFiles) -> Vec<Step> {
    steps(Path::new("/s"), interpreter, host, BindKind::Plain, false)
}

/// The host's files that are shown, without the devices.
fn shown(steps: &[Step]) -> Vec<String> {
    let source = |step: &Step| match step {
        Step::Bind { source, target, kind } if *kind != BindKind::Device => {
            assert_eq!(*target, crate::sandbox::plan::under(Path::new("/s"), source), "not at its own place");
            Some(source.display().to_string())
        }
        _ => None,
    };
    steps.iter().filter_map(source).collect()
}

fn links<'a>(steps: &'a [Step]) -> Vec<(&'a Path, &'a Path)> {
    let link = |step: &'a Step| match step {
        Step::Symlink { path, target } => Some((path.as_path(), target.as_path())),
        _ => None,
    };
    steps.iter().filter_map(link).collect()
}

#[test]
fn a_debian_shows_its_architectures_libraries_and_no_more_of_usr() {
    let multiarch = format!("/usr/lib/{MULTIARCH}");
    let debian = host(
        &["/usr/lib", &multiarch, "/usr/lib64", "/usr/lib/python3.11", "/etc/ssl/certs"],
        &[("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/usr/lib/ssl/certs", "/etc/ssl/certs")],
    );
    let steps = tree(&interpreter("/usr/bin/python3.11", &[&multiarch, "/usr/lib/python3.11"]), &debian);
    let expected = [&*multiarch, "/usr/lib64", "/usr/lib/python3.11", "/usr/bin/python3.11", "/etc/ssl/certs"];
    assert_eq!(shown(&steps), expected);
    let link = |path, target| (Path::new(path), Path::new(target));
    let expected = [
        link("/s/lib", "usr/lib"),
        link("/s/lib64", "usr/lib64"),
        link("/s/usr/lib/ssl/certs", "/etc/ssl/certs"),
        link("/s/etc/localtime", "/usr/share/zoneinfo/UTC"),
    ];
    assert_eq!(links(&steps), expected);
}

#[test]
fn a_system_without_architecture_directories_shows_usr_lib_once() {
    let arch = host(
        &["/usr/lib", "/usr/lib/python3.11", "/usr/lib/locale/C.utf8"],
        &[("/lib", "usr/lib"), ("/lib64", "usr/lib"), ("/usr/lib64", "lib")],
    );
    let steps = tree(&interpreter("/usr/bin/python3.11", &["/usr/lib/python3.11"]), &arch);
    assert_eq!(shown(&steps), ["/usr/lib", "/usr/bin/python3.11"]);
    assert!(steps.contains(&Step::Mask("/s/usr/lib/python3.11/site-packages".into())), "packages are in sight");
}

#[test]
fn an_interpreter_in_a_home_directory_shows_itself_and_nothing_beside() {
    let files = host(&["/lib64", "/root/py/lib"], &[]);
    let steps = tree(&interpreter("/root/py/bin/python3", &["/root/py/lib", "/root/py/lib/python3.11"]), &files);
    assert_eq!(shown(&steps), ["/lib64", "/root/py/lib", "/root/py/bin/python3"]);
    for directory in ["/s/root", "/s/root/py"] {
        // Readable by the instance, whatever the mode of the host's own.
        assert!(steps.contains(&Step::MkDir { path: directory.into(), mode: 0o755 }), "{directory}");
    }
}

#[test]
fn every_directory_is_made_before_what_lies_in_it_and_nothing_is_made_in_the_hosts_own() {
    let files = host(&["/usr/lib", "/etc/ssl/certs", "/usr/share/zoneinfo"], &[("/lib", "usr/lib")]);
    let steps = tree(&interpreter("/usr/bin/python3", &["/usr/lib/python3.11"]), &files);
    let mut made = BTreeSet::from([PathBuf::from("/s")]);
    let mut bound = BTreeSet::new();
    for step in &steps {
        let path = match step {
            Step::MkDir { path, .. } | Step::Symlink { path, .. } | Step::WriteFile { path, .. } => path,
            Step::Bind { target, .. } => {
                assert!(made.contains(target), "{step}");
                bound.insert(target.clone());
                continue;
            }
            _ => continue,
        };
        assert!(made.contains(path.parent().unwrap()), "{step}");
        assert!(!path.ancestors().any(|above| bound.contains(above)), "{step}");
        assert!(made.insert(path.clone()), "twice: {step}");
    }
}

#[test]
fn etc_and_dev_are_synthetic() {
    let steps = tree(&interpreter("/usr/bin/python3", &[]), &HostFiles::new());
    let file =
        |path: &str| steps.iter().any(|step| matches!(step, Step::WriteFile { path: at, .. } if at == Path::new(path)));
    for name in ["passwd", "group", "hosts", "resolv.conf", "nsswitch.conf"] {
        assert!(file(&format!("/s/etc/{name}")), "{name}");
    }
    let devices = steps.iter().filter(|step| matches!(step, Step::Bind { kind: BindKind::Device, .. })).count();
    assert_eq!(devices, DEVICES.len());
}
