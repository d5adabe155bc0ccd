//! The bytes of a plan. Their format is described at `sys/executor/decode.rs`, which reads them.
//!
//! Invariant: the executor reads exactly the fields that [`Step::encode`] writes, in that order.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{BindKind, Plan, Step};
use crate::sys::executor::{Opcode, BIND_DEVICE, BIND_RECURSIVE, MAGIC};

impl Plan {
    /// The bytes for `sys::executor::run`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        // A plan has tens of steps. One with more than fits is encoded as none, which the executor refuses.
        out.extend(u16::try_from(self.0.len()).unwrap_or(0).to_le_bytes());
        out.extend([0, 0]);
        for planned in &self.0 {
            let mut fields = Encoder(Vec::new());
            let opcode = planned.step.encode(&mut fields);
            out.extend((opcode as u16).to_le_bytes());
            out.extend([u8::from(planned.required), 0]);
            let mut frame = Encoder(out);
            frame.bytes(&fields.0);
            out = frame.0;
        }
        out
    }
}

impl Step {
    /// The step's short name, as the executor reports it.
    pub fn name(&self) -> &'static str {
        self.encode(&mut Encoder(Vec::new())).name()
    }

    fn encode(&self, out: &mut Encoder) -> Opcode {
        match self {
            Step::Unshare(flags) => out.number(Opcode::Unshare, *flags),
            Step::JoinNetwork { fd } => out.number(Opcode::JoinNetwork, *fd),
            Step::MakePrivate => Opcode::MakePrivate,
            Step::MountTmpfs { target, size_bytes, inodes, mode, executable } => {
                let options = format!("size={size_bytes},nr_inodes={inodes},mode={mode:o}");
                out.text(target).text(options).number(Opcode::MountTmpfs, u32::from(*executable))
            }
            Step::MkDir { path, mode } => out.text(path).number(Opcode::MkDir, *mode),
            Step::Symlink { target, path } => out.text(target).string(Opcode::Symlink, path),
            Step::WriteFile { path, mode, bytes } => {
                out.text(path).u32(*mode).bytes(bytes);
                Opcode::WriteFile
            }
            Step::Bind { source, target, kind } => out.text(source).text(target).number(Opcode::Bind, kind.flags()),
            Step::MountProc { target, whole } => {
                let (options, fallback) = if *whole { ("", "") } else { ("hidepid=invisible,subset=pid", "hidepid=2") };
                out.text(target).text(options).string(Opcode::MountProc, fallback)
            }
            Step::Mask(path) => out.string(Opcode::Mask, path),
            Step::ReadOnly { path, recursive } => out.text(path).number(Opcode::ReadOnly, u32::from(*recursive)),
            Step::PivotRoot(path) => out.string(Opcode::PivotRoot, path),
            Step::DetachOldRoot => Opcode::DetachOldRoot,
            Step::Hostname(name) => {
                out.bytes(name.as_bytes());
                Opcode::Hostname
            }
            Step::Rlimit { resource, soft, hard } => {
                out.u32(*resource as u32).u64(*soft).u64(*hard);
                Opcode::Rlimit
            }
            Step::ClearGroups => Opcode::ClearGroups,
            Step::SetIds { uid, gid } => out.u32(*uid).number(Opcode::SetIds, *gid),
            Step::KeepCaps => Opcode::KeepCaps,
            Step::WriteProc { path, text } => {
                out.text(path).bytes(text.as_bytes());
                Opcode::WriteProc
            }
            Step::Dumpable(value) => out.number(Opcode::Dumpable, u32::from(*value)),
            Step::NoNewPrivs => Opcode::NoNewPrivs,
            Step::DropBounding { keep } => {
                out.u64(*keep);
                Opcode::DropBounding
            }
            Step::LockSecurebits => Opcode::LockSecurebits,
            Step::SetCaps { keep } => {
                out.u64(*keep);
                Opcode::SetCaps
            }
            Step::DeathSignal(signal) => out.number(Opcode::DeathSignal, *signal),
            Step::ResetSignalMask => Opcode::ResetSignalMask,
            Step::SetSid => Opcode::SetSid,
            Step::OpenOwnPidfd { fd } => out.number(Opcode::OpenOwnPidfd, *fd),
            Step::AwaitExit { fd, timeout_ms } => out.u32(*fd).number(Opcode::AwaitExit, *timeout_ms),
            Step::OpenAs { path, fd } => out.text(path).number(Opcode::OpenAs, *fd),
            Step::Connect { path, fd } => out.text(path).number(Opcode::Connect, *fd),
            Step::Dup2 { from, to } => out.u32(*from).number(Opcode::Dup2, *to),
            Step::CloseFrom(first) => out.number(Opcode::CloseFrom, *first),
            Step::WriteFd { fd, bytes } => {
                out.u32(*fd).bytes(bytes);
                Opcode::WriteFd
            }
            Step::Chdir(path) => out.string(Opcode::Chdir, path),
            Step::Umask(mask) => out.number(Opcode::Umask, *mask),
            Step::SeccompNotify { filter, socket } => {
                out.u32(*socket).bytes(filter);
                Opcode::SeccompNotify
            }
            Step::Landlock { allowed, deny_tcp_connect } => {
                out.u32(u32::from(*deny_tcp_connect)).u32(u32::try_from(allowed.len()).unwrap_or(u32::MAX));
                for (path, access) in allowed {
                    out.text(path).u64(*access);
                }
                Opcode::Landlock
            }
            Step::Seccomp(filter) => {
                out.bytes(filter);
                Opcode::Seccomp
            }
            Step::Exec { path, arguments, environment } => {
                out.text(path).list(arguments.iter().cloned());
                out.list(environment.iter().map(|(name, value)| format!("{name}={value}")));
                Opcode::Exec
            }
        }
    }
}

impl BindKind {
    fn flags(self) -> u32 {
        match self {
            BindKind::Plain => 0,
            BindKind::Recursive => BIND_RECURSIVE,
            BindKind::Device => BIND_DEVICE,
        }
    }
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        // Files, filters and plans are far below 4 GiB; a longer run of bytes would be cut here, and then the
        // executor would find the frame damaged.
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend(bytes);
        self
    }

    /// A NUL inside the text is left there: the executor refuses the step.
    fn text(&mut self, text: impl AsRef<OsStr>) -> &mut Self {
        let mut bytes = text.as_ref().as_bytes().to_vec();
        bytes.push(0);
        self.bytes(&bytes)
    }

    fn number(&mut self, opcode: Opcode, last: u32) -> Opcode {
        self.u32(last);
        opcode
    }

    fn string(&mut self, opcode: Opcode, last: impl AsRef<OsStr>) -> Opcode {
        self.text(last);
        opcode
    }

    fn list(&mut self, items: impl ExactSizeIterator<Item = String>) {
        self.u32(u32::try_from(items.len()).unwrap_or(u32::MAX));
        items.for_each(|item| {
            self.text(item);
        });
    }
}
