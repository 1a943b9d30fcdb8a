//! Files of whole records.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A file that grows by whole records; a failed write is remembered and never raised.
///
/// A record that did not fit is cut off again, so that readers meet whole records only and writing goes on once there
/// is room. When the file is removed under the run, writing stops.
pub(super) struct RecordFile {
    file: File,
    path: PathBuf,
    length_bytes: u64,
    is_stopped: bool,
    problem: FirstProblem,
}

impl RecordFile {
    /// A new file at `path`; an existing one is an error of kind `AlreadyExists`.
    pub fn create_new(path: &Path) -> std::io::Result<Self> {
        Self::open(path, OpenOptions::new().append(true).create_new(true))
    }

    /// The file at `path`, made if absent, to be continued at its end.
    pub fn continue_at(path: &Path) -> std::io::Result<Self> {
        Self::open(path, OpenOptions::new().append(true).create(true))
    }

    fn open(path: &Path, options: &OpenOptions) -> std::io::Result<Self> {
        let file = options.open(path)?;
        let length_bytes = file.metadata()?.len();
        Ok(Self { file, path: path.to_path_buf(), length_bytes, is_stopped: false, problem: FirstProblem::default() })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one whole record, at once: a killed process loses nothing that was appended.
    pub fn append(&mut self, record: &[u8]) {
        if self.is_stopped {
            return;
        }
        // Writing to a removed file succeeds on Unix, and nobody would ever see it.
        if !self.path.exists() {
            self.is_stopped = true;
            let path = self.path.display();
            self.problem.note(|| format!("`{path}` was removed while the run writes it; nothing more is logged there"));
            return;
        }
        match self.file.write_all(record) {
            Ok(()) => self.length_bytes += record.len() as u64,
            Err(error) => {
                self.note_error("write", &error);
                self.cut_unfinished_record();
            }
        }
    }

    /// Asks the system to put the records on the disk.
    pub fn flush(&mut self) {
        match self.file.sync_data() {
            Ok(()) => {}
            // Pipes and devices have no disk to reach.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {}
            Err(error) => self.note_error("flush", &error),
        }
    }

    /// Keeps a problem that is not a write error, if it is the first.
    pub fn note(&mut self, message: impl FnOnce() -> String) {
        self.problem.note(message);
    }

    /// The first problem, once.
    pub fn take_problem(&mut self) -> Option<String> {
        self.problem.take()
    }

    fn note_error(&mut self, action: &str, error: &std::io::Error) {
        let path = self.path.display();
        self.problem.note(|| format!("cannot {action} `{path}`: {error}; the run goes on, its log has gaps"));
    }

    fn cut_unfinished_record(&mut self) {
        // Records after a torn one could not be read: better none.
        self.is_stopped = self.file.set_len(self.length_bytes).is_err();
    }
}

/// The first of many problems: a full disk fails at every step, and the user wants to hear it once.
#[derive(Default)]
pub(super) struct FirstProblem {
    message: Option<String>,
    is_noted: bool,
}

impl FirstProblem {
    /// Keeps `message` unless an earlier one was kept.
    pub fn note(&mut self, message: impl FnOnce() -> String) {
        if !self.is_noted {
            self.is_noted = true;
            self.message = Some(message());
        }
    }

    /// The kept message, once.
    pub fn take(&mut self) -> Option<String> {
        self.message.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_record_is_cut_off_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut records = RecordFile::create_new(&dir.path().join("log")).unwrap();
        records.append(b"first\n");
        records.file.write_all(b"tor").unwrap();
        records.cut_unfinished_record();
        records.append(b"second\n");
        assert_eq!(std::fs::read(records.path()).unwrap(), b"first\nsecond\n");
    }

    #[test]
    fn a_removed_folder_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut records = RecordFile::continue_at(&dir.path().join("log")).unwrap();
        drop(dir);
        records.append(b"lost\n");
        records.append(b"lost too\n");
        records.flush();
        assert!(records.take_problem().unwrap().contains("was removed"));
        assert_eq!(records.take_problem(), None);
    }
}
