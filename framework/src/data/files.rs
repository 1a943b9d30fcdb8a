//! Files of a folder or of a zip, read in place from any thread.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};
use zip::ZipArchive;
use zip::result::ZipError;

/// Longest single file that is read, 256 MiB.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// Endings of the names of pictures that can be decoded.
pub const PICTURE_ENDINGS: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"];
const MAX_DEPTH: usize = 16; // a link that points at its own parent must not be followed for ever

/// The files below a folder or inside a zip archive.
///
/// Names are relative, with `/` between the parts, and sorted. Hidden files, `__MACOSX` and what is not a
/// regular file are left out. A zip is never unpacked: each read opens its entry at its own position, so any
/// number of threads read at once.
#[derive(Debug)]
pub struct FileTree {
    root: PathBuf,
    names: Vec<String>,
    folders: Vec<String>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Folder,
    Zip { archive: ZipArchive<SharedFile>, entries: Vec<usize> },
}

impl FileTree {
    /// Lists the folder or zip at `path`.
    ///
    /// # Errors
    /// When `path` is absent, unreadable or neither a folder nor a zip, when folders nest too deep, and when an
    /// archive names an entry outside of itself.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = fs::metadata(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        if kind.is_dir() { Self::open_folder(path) } else { Self::open_zip(path) }
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let (mut names, mut folders) = (Vec::new(), Vec::new());
        list_folder(path, "", 0, &mut names, &mut folders)?;
        names.sort_unstable();
        folders.sort_unstable();
        Ok(Self { root: path.to_path_buf(), names, folders, store: Store::Folder })
    }

    fn open_zip(path: &Path) -> Result<Self> {
        let place = || format!("cannot read zip `{}`", path.display());
        let file = File::open(path).with_context(place)?;
        let length = file.metadata().with_context(place)?.len();
        let reader = SharedFile { file: Arc::new(file), length, position: 0 };
        let archive = ZipArchive::new(reader)
            .with_context(|| format!("`{}` is neither a folder nor a readable zip", path.display()))?;
        let (mut listed, mut folders) = (Vec::new(), Vec::new());
        for index in 0..archive.len() {
            let entry = archive.by_index_data(index).with_context(place)?;
            let name = entry.name().with_context(place)?.into_owned();
            check_entry_name(&name).with_context(place)?;
            if is_hidden(&name) {
                continue;
            }
            match name.strip_suffix('/') {
                Some(folder) => folders.push(folder.to_string()),
                None if entry.is_symlink() => {}
                None => listed.push((name, index)),
            }
        }
        listed.sort_unstable();
        folders.extend(listed.iter().flat_map(|(name, _)| parents(name)));
        folders.sort_unstable();
        folders.dedup();
        let (names, entries) = listed.into_iter().unzip();
        Ok(Self { root: path.to_path_buf(), names, folders, store: Store::Zip { archive, entries } })
    }

    /// The folder or zip itself, as the user wrote it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Names of all files, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Names of all folders, sorted; empty ones too.
    pub fn folders(&self) -> &[String] {
        &self.folders
    }

    /// Hash of all names, lengths and, in a folder, times of change; in a zip, checksums. None when one cannot be had.
    pub fn digest(&self) -> Option<String> {
        let mut hash = Sha256::new();
        for (at, name) in self.names.iter().enumerate() {
            let (length, mark) = match &self.store {
                Store::Folder => {
                    let found = fs::metadata(self.root.join(name)).ok()?;
                    (found.len(), found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos())
                }
                Store::Zip { archive, entries } => {
                    let entry = archive.by_index_data(*entries.get(at)?).ok()?;
                    (entry.size(), u128::from(entry.crc32()))
                }
            };
            hash.update(name.as_bytes());
            hash.update([0]); // ends the name
            hash.update(length.to_le_bytes());
            hash.update(mark.to_le_bytes());
        }
        Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Where the file `name` lives, for messages.
    pub fn place(&self, name: &str) -> String {
        match self.store {
            Store::Folder => self.root.join(name).display().to_string(),
            Store::Zip { .. } => format!("{}:{name}", self.root.display()),
        }
    }

    /// The bytes of the file `name`.
    ///
    /// # Errors
    /// Names the file when it is absent, unreadable, encrypted, compressed in an unsupported way, damaged, or
    /// longer than [`MAX_FILE_BYTES`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let found = self.names.binary_search_by(|known| known.as_str().cmp(name));
        let index = found.map_err(|_| anyhow!("no file `{}`", self.place(name)))?;
        match &self.store {
            Store::Folder => read_file(&self.root.join(name)),
            Store::Zip { archive, entries } => read_entry(archive.clone(), entries[index]),
        }
        .with_context(|| format!("cannot read `{}`", self.place(name)))
    }
}

/// Whether a file's name ends like a picture's.
pub fn is_picture(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| PICTURE_ENDINGS.contains(&end.to_ascii_lowercase().as_str()))
}

fn list_folder(
    at: &Path,
    prefix: &str,
    depth: usize,
    names: &mut Vec<String>,
    folders: &mut Vec<String>,
) -> Result<()> {
    ensure!(
        depth <= MAX_DEPTH,
        "`{}` is nested deeper than {MAX_DEPTH} folders; is there a circular link?",
        at.display()
    );
    for entry in fs::read_dir(at).with_context(|| format!("cannot list folder `{}`", at.display()))? {
        let entry = entry.with_context(|| format!("cannot list folder `{}`", at.display()))?;
        let path = entry.path();
        let Ok(part) = entry.file_name().into_string() else {
            bail!("file name `{}` is not valid UTF-8; rename it", path.display());
        };
        if is_hidden(&part) {
            continue;
        }
        let name = if prefix.is_empty() { part } else { format!("{prefix}/{part}") };
        let mut kind = entry.file_type().with_context(|| format!("cannot inspect `{}`", path.display()))?;
        if kind.is_symlink() {
            kind = fs::metadata(&path).with_context(|| format!("cannot follow link `{}`", path.display()))?.file_type();
        }
        if kind.is_dir() {
            list_folder(&path, &name, depth + 1, names, folders)?;
            folders.push(name);
        } else if kind.is_file() {
            names.push(name);
        }
    }
    Ok(())
}

fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') || part == "__MACOSX")
}

fn parents(name: &str) -> impl Iterator<Item = String> + '_ {
    name.match_indices('/').map(|(at, _)| name[..at].to_string())
}

fn check_entry_name(name: &str) -> Result<()> {
    let is_outside =
        name.starts_with('/') || name.contains(['\\', '\0', ':']) || name.split('/').any(|part| part == "..");
    ensure!(
        !is_outside,
        "entry `{}` has a name that leads out of the archive; make the archive anew",
        name.escape_debug()
    );
    Ok(())
}

/// The bytes of one file of at most [`MAX_FILE_BYTES`].
///
/// # Errors
/// It is absent, unreadable or longer.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    read_at_most(file, length)
}

fn read_entry(mut archive: ZipArchive<SharedFile>, index: usize) -> Result<Vec<u8>> {
    let entry = archive.by_index_data(index)?;
    ensure!(!entry.encrypted(), "the entry is encrypted; make the archive without a password");
    let method = entry.compression();
    let opened = archive.by_index(index);
    if let Err(ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_)) = opened {
        bail!("the entry's compression method is {method:?}; supported: stored, deflate");
    }
    let entry = opened?;
    let length = entry.size();
    read_at_most(entry, length)
}

/// Reads to the end; the declared length only bounds the first allocation.
fn read_at_most(reader: impl Read, declared: u64) -> Result<Vec<u8>> {
    ensure!(declared <= MAX_FILE_BYTES, "it holds {declared} bytes, more than the {MAX_FILE_BYTES} that are allowed");
    let mut bytes = Vec::with_capacity(usize::try_from(declared.min(16 << 20))?);
    reader.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_FILE_BYTES, "it holds more than the {MAX_FILE_BYTES} bytes that are allowed");
    Ok(bytes)
}

/// A file with its own position, so that clones read independently.
#[derive(Debug, Clone)]
struct SharedFile {
    file: Arc<File>,
    length: u64,
    position: u64,
}

impl Read for SharedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for SharedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn write_zip(path: &Path, entries: &[(&str, &[u8])]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (name, bytes) in entries {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn a_zip_and_a_folder_with_the_same_files_look_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("b/2.png", "two"), ("a/1.png", "one"), ("a/.hidden", "no"), ("classes.txt", "c")] {
            let path = folder.path().join("tree").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let zip = folder.path().join("tree.zip");
        write_zip(&zip, &[("b/2.png", b"two"), ("__MACOSX/a/1.png", b"x"), ("classes.txt", b"c"), ("a/1.png", b"one")]);
        for tree in [FileTree::open(&folder.path().join("tree")).unwrap(), FileTree::open(&zip).unwrap()] {
            assert_eq!(tree.names(), ["a/1.png", "b/2.png", "classes.txt"]);
            assert_eq!(tree.folders(), ["a", "b"]);
            assert_eq!(tree.read("b/2.png").unwrap(), b"two");
            assert!(tree.read("b/3.png").unwrap_err().to_string().contains("b/3.png"));
        }
    }

    #[test]
    fn threads_read_one_zip_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        let texts: Vec<(String, Vec<u8>)> =
            (0..40u8).map(|i| (format!("{i:02}"), vec![i; 500 + usize::from(i)])).collect();
        write_zip(&path, &texts.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>());
        let tree = FileTree::open(&path).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| texts.iter().for_each(|(name, bytes)| assert_eq!(&tree.read(name).unwrap(), bytes)));
            }
        });
    }

    #[test]
    fn names_that_leave_the_archive_are_refused() {
        for name in ["../x", "/etc/x", "a/../../x", "C:\\x"] {
            assert!(check_entry_name(name).unwrap_err().to_string().contains("archive"));
        }
        check_entry_name("train/n01440764/a..b.JPEG").unwrap();
    }

    #[test]
    fn an_encrypted_or_oddly_compressed_entry_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        write_zip(&path, &[("a", b"text")]);
        let whole = fs::read(&path).unwrap();
        let central = whole.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
        for (flag, method, expected) in [(1, 0, "encrypted"), (0, 14, "compression method")] {
            let mut bytes = whole.clone();
            bytes[central + 8] |= flag;
            bytes[central + 10] = method;
            (bytes[6], bytes[8]) = (bytes[central + 8], method);
            fs::write(&path, bytes).unwrap();
            let message = format!("{:#}", FileTree::open(&path).unwrap().read("a").unwrap_err());
            assert!(message.contains(expected) && message.contains("a.zip:a"), "{message}");
        }
    }

    #[test]
    fn a_missing_path_and_a_cut_zip_are_errors_that_name_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.zip");
        write_zip(&path, &[("a", b"text")]);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        for missing in [path, folder.path().join("none")] {
            let message = format!("{:#}", FileTree::open(&missing).unwrap_err());
            assert!(message.contains(&missing.display().to_string()), "{message}");
        }
    }
}
