//! The file in which the verdicts of scans outlive the server: a JSON array with an object for each.
//!
//! It is a memory aid, and a verdict in it lets an image in. So it is read like what strangers wrote: an entry that is
//! not as this server writes them costs that entry, and what is no such file at all is put aside, for people to look
//! at, and forgotten. What cannot be written costs another scan later.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::unix_ms;
use crate::limits::{IMAGE_SCAN_STATUS_BYTES_MAX, IMAGE_VERDICTS_BYTES_MAX, IMAGE_VERDICTS_MAX};
use crate::registry::image::ImageId;

use super::super::scan::readable;
use super::{ByImage, Refusal, Subject, Verdict, COMMAND_DIGITS};

/// A verdict as the file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    image: ImageId,
    command_sha256: String,
    at_ms: u64,
    // Said, and null where there is none: what leaves it out, or has it by another name, says nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    refusal: Option<Refusal>,
}

/// What is wrong with one entry.
#[derive(Debug)]
enum EntryFault {
    /// A field is missing, or is another thing.
    Form { source: serde_json::Error },
    /// What says of which command it is, is no digest.
    Command,
    /// It is of a time that has not come: another clock made it.
    Future { at_ms: u64 },
    /// What the command said is longer than is kept, or is no text for people.
    Report,
}

impl fmt::Display for EntryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryFault::Form { source } => source.fmt(f),
            EntryFault::Command => f.write_str("command_sha256 is no digest"),
            EntryFault::Future { at_ms } => write!(f, "at_ms, {at_ms}, has not come yet"),
            EntryFault::Report => f.write_str("refusal is not what this server keeps of what a command says"),
        }
    }
}

impl std::error::Error for EntryFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EntryFault::Form { source } => Some(source),
            EntryFault::Command | EntryFault::Future { .. } | EntryFault::Report => None,
        }
    }
}

/// What is wrong with the whole file.
#[derive(Debug)]
enum FileFault {
    /// It cannot be read.
    Unreadable { source: io::Error },
    /// No server wrote one so large.
    TooLarge { bytes: u64 },
    /// It is no JSON array.
    Form { source: serde_json::Error },
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFault::Unreadable { source } => source.fmt(f),
            FileFault::TooLarge { bytes } => {
                write!(f, "it has {bytes} bytes, and at most {IMAGE_VERDICTS_BYTES_MAX} were written")
            }
            FileFault::Form { source } => write!(f, "it is damaged: {source}"),
        }
    }
}

impl std::error::Error for FileFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FileFault::Unreadable { source } => Some(source),
            FileFault::TooLarge { .. } => None,
            FileFault::Form { source } => Some(source),
        }
    }
}

/// What can be believed of the file. The log has what cannot.
pub(super) fn read(file: &Path) -> ByImage {
    match try_read(file) {
        Ok(Found { verdicts, faults: 0, .. }) => verdicts,
        Ok(Found { verdicts, faults, first }) => {
            let first = first.map(|(number, fault)| format!("; the first, number {number}: {fault}"));
            let (file, first) = (file.display(), first.unwrap_or_default());
            log::warn!("{file}: {faults} of its entries cannot be believed, and those images are scanned anew{first}");
            verdicts
        }
        Err(FileFault::Unreadable { source }) if source.kind() == io::ErrorKind::NotFound => ByImage::new(),
        Err(fault @ FileFault::Unreadable { .. }) => {
            log::warn!("{} is not used, and images are scanned anew: {fault}", file.display());
            ByImage::new()
        }
        Err(fault) => {
            let aside = aside(file);
            let done = match fs::rename(file, &aside) {
                Ok(()) => format!("put aside as {}", aside.display()),
                Err(error) => format!("not used (and cannot be put aside: {error})"),
            };
            log::error!("{} is {done}, and images are scanned anew: {fault}", file.display());
            ByImage::new()
        }
    }
}

/// Where a file goes that is none, in the place of the one that was put there before.
fn aside(file: &Path) -> PathBuf {
    file.with_extension("json.damaged")
}

/// What is in a file.
#[derive(Default)]
struct Found {
    verdicts: ByImage,
    faults: usize,
    /// The number of the first entry that is wrong, counted from 1, and what is wrong with it.
    first: Option<(usize, EntryFault)>,
}

fn try_read(file: &Path) -> Result<Found, FileFault> {
    let unreadable = |source| FileFault::Unreadable { source };
    let opened = File::open(file).map_err(unreadable)?;
    let bytes = opened.metadata().map_err(unreadable)?.len();
    if bytes > IMAGE_VERDICTS_BYTES_MAX {
        return Err(FileFault::TooLarge { bytes });
    }
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(opened));
    let found = json.deserialize_seq(Entries { now_ms: unix_ms() });
    found.and_then(|found| json.end().map(|()| found)).map_err(|source| match source.io_error_kind() {
        Some(kind) => unreadable(kind.into()),
        None => FileFault::Form { source },
    })
}

/// Takes the entries one by one, so that one may be wrong, and that no more of the file is held than is kept.
struct Entries {
    now_ms: u64,
}

impl<'de> Visitor<'de> for Entries {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of verdicts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Found, A::Error> {
        let (mut found, mut number) = (Found::default(), 0);
        while let Some(entry) = entries.next_element::<Value>()? {
            number += 1;
            match check(entry, self.now_ms) {
                Ok(_) if found.verdicts.len() >= IMAGE_VERDICTS_MAX => {}
                Ok((subject, verdict)) => drop(found.verdicts.insert(subject, verdict)),
                Err(fault) => {
                    found.faults += 1;
                    found.first.get_or_insert((number, fault));
                }
            }
        }
        Ok(found)
    }
}

fn check(entry: Value, now_ms: u64) -> Result<(Subject, Verdict), EntryFault> {
    let entry: Entry = serde_json::from_value(entry).map_err(|source| EntryFault::Form { source })?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if entry.command_sha256.len() != COMMAND_DIGITS || !entry.command_sha256.bytes().all(is_digit) {
        return Err(EntryFault::Command);
    }
    if entry.at_ms > now_ms {
        return Err(EntryFault::Future { at_ms: entry.at_ms });
    }
    let is_kept = |text: &str| readable(text.as_bytes()) == text;
    if entry.refusal.as_ref().is_some_and(|Refusal { status, report }| {
        status.len() > IMAGE_SCAN_STATUS_BYTES_MAX || !is_kept(status) || !is_kept(report)
    }) {
        return Err(EntryFault::Report);
    }
    let said = entry.refusal.map_or(Ok(()), Err);
    Ok(((entry.image, entry.command_sha256), Verdict { at_ms: entry.at_ms, said }))
}

/// Replaces the file whole.
pub(super) fn write(file: &Path, verdicts: &ByImage) -> io::Result<()> {
    let entry = |((image, command), verdict): (&Subject, &Verdict)| Entry {
        image: image.clone(),
        command_sha256: command.clone(),
        at_ms: verdict.at_ms,
        refusal: verdict.said.clone().err(),
    };
    let entries: Vec<Entry> = verdicts.iter().map(entry).collect();
    let new = file.with_extension("new");
    let options = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    options?.write_all(&serde_json::to_vec(&entries)?)?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::IMAGE_SCAN_OUTPUT_BYTES_MAX;
    use crate::registry::testing::image_id;
    use serde_json::json;

    fn entry(digit: char, change: Value) -> Value {
        let mut entry = json!({
            "image": image_id(digit), "command_sha256": "5".repeat(COMMAND_DIGITS), "at_ms": unix_ms(), "refusal": null,
        });
        let Value::Object(change) = change else { panic!("{change}") };
        entry.as_object_mut().unwrap().extend(change);
        entry
    }

    fn without(field: &str) -> Value {
        let mut entry = entry('b', json!({}));
        entry.as_object_mut().unwrap().remove(field).unwrap();
        entry
    }

    #[test]
    fn an_entry_that_is_not_as_the_server_writes_them_costs_itself_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image_scans.json");
        let said = |status: &str, report: &str| json!({ "refusal": { "status": status, "report": report } });
        let longest = "x".repeat(IMAGE_SCAN_OUTPUT_BYTES_MAX);
        for (wrong, why) in [
            (json!(7), "invalid type"),
            (json!({}), "missing field"),
            (without("refusal"), "missing field"),
            (entry('b', json!({ "refused": {} })), "unknown field"),
            (entry('b', json!({ "refusal": { "status": "1", "report": "", "more": 1 } })), "unknown field"),
            (entry('b', json!({ "image": "sha256:xyz" })), "is not the id of an image"),
            (entry('b', json!({ "command_sha256": "5".repeat(COMMAND_DIGITS - 1) })), "command_sha256"),
            (entry('b', json!({ "command_sha256": "A".repeat(COMMAND_DIGITS) })), "command_sha256"),
            (entry('b', json!({ "at_ms": -1 })), "invalid value"),
            (entry('b', json!({ "at_ms": unix_ms() + 60_000 })), "has not come yet"),
            (entry('b', json!({ "refusal": false })), "invalid type"),
            (entry('b', said("exit status: 1", &format!("{longest}x"))), "refusal"),
            (entry('b', said("exit status: 1", "\u{1b}[31mred")), "refusal"),
            (entry('b', said(&"1".repeat(IMAGE_SCAN_STATUS_BYTES_MAX + 1), "")), "refusal"),
        ] {
            let good = [entry('a', json!({})), entry('c', said("signal: 9 (SIGKILL) (core dumped)", &longest))];
            fs::write(&file, json!([good[0], wrong, good[1]]).to_string()).unwrap();
            let found = try_read(&file).unwrap();
            assert_eq!(found.faults, 1, "{wrong}");
            let (number, fault) = found.first.unwrap();
            assert!(number == 2 && fault.to_string().contains(why), "{wrong}: {fault}");
            let images: Vec<_> = read(&file).into_keys().map(|(image, _)| image).collect();
            assert_eq!(images, [image_id('a'), image_id('c')], "{wrong}");
            assert!(file.exists() && !aside(&file).exists());
        }
    }

    #[test]
    fn what_is_no_file_of_verdicts_is_put_aside_whole_and_another_one_can_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image_scans.json");
        for (number, damaged) in ["", "{", "{}", "[7,", "[] x", "\u{0}"].into_iter().enumerate() {
            fs::write(&file, damaged).unwrap();
            assert!(read(&file).is_empty(), "{damaged:?}");
            assert!(!file.exists(), "{damaged:?}");
            assert_eq!(fs::read_to_string(aside(&file)).unwrap(), damaged, "number {number}");
        }
        let deep = "[".repeat(100_000);
        fs::write(&file, &deep).unwrap();
        assert!(read(&file).is_empty() && !file.exists(), "depth has a bound");
        File::create(&file).unwrap().set_len(IMAGE_VERDICTS_BYTES_MAX + 1).unwrap();
        assert!(read(&file).is_empty() && !file.exists());
        assert_eq!(fs::metadata(aside(&file)).unwrap().len(), IMAGE_VERDICTS_BYTES_MAX + 1);
        let subject = (image_id('a'), "5".repeat(COMMAND_DIGITS));
        let verdicts = ByImage::from([(subject, Verdict { at_ms: unix_ms(), said: Ok(()) })]);
        write(&file, &verdicts).unwrap();
        assert_eq!(read(&file), verdicts);
    }

    #[test]
    fn a_file_that_is_not_there_or_cannot_be_opened_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image_scans.json");
        assert!(read(&file).is_empty() && !aside(&file).exists());
        fs::create_dir(&file).unwrap();
        assert!(read(&file).is_empty());
        assert!(file.is_dir() && !aside(&file).exists(), "it is not what was written, and says nothing");
    }
}
