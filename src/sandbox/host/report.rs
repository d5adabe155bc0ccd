//! The table that `--check-system` prints.

use std::fmt::Write as _;

/// How good one line's subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// The server runs, with less.
    Degraded,
    /// Process mode cannot run like this.
    Failed,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How good it is.
    pub status: Status,
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub detail: String,
    /// What the operator can do about it, when it is not ok.
    pub mend: Option<String>,
}

/// All findings, in the order in which they are printed. Others add theirs (interpreters, Docker).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The findings.
    pub lines: Vec<Line>,
}

impl Report {
    /// Adds a finding that is as it should be.
    pub fn ok(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.lines.push(Line { status: Status::Ok, what: what.into(), detail: detail.into(), mend: None });
    }

    /// Adds a finding that needs mending.
    pub fn bad(&mut self, status: Status, what: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) {
        self.lines.push(Line { status, what: what.into(), detail: detail.into(), mend: Some(mend.into()) });
    }

    /// The worst of all lines: `Failed` is what makes `--check-system` exit with 1.
    pub fn worst(&self) -> Status {
        self.lines.iter().map(|line| line.status).max().unwrap_or(Status::Ok)
    }

    /// Aligned text; the mend of a line that needs one follows it, indented.
    pub fn render(&self) -> String {
        let width = self.lines.iter().map(|line| line.what.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for line in &self.lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<9} {:<width$}  {}", line.status.word(), line.what, line.detail);
            if let Some(mend) = line.mend.as_ref().filter(|_| line.status != Status::Ok) {
                let _ = writeln!(text, "{:9} {:width$}  mend: {mend}", "", "");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_what_is_not_ok_says_how_to_mend_it() {
        let mut report = Report::default();
        report.ok("kernel", "6.18");
        report.bad(Status::Degraded, "mount_setattr", "not there", "use Linux 5.12 or later");
        let expected = "\
            ok        kernel         6.18\n\
            degraded  mount_setattr  not there\n\
            \u{20}                        mend: use Linux 5.12 or later\n";
        assert_eq!(report.render(), expected);
        assert_eq!(report.worst(), Status::Degraded);
        assert_eq!(Report::default().worst(), Status::Ok);
    }
}
