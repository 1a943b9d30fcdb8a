//! Reads the text of a recipe, base or profile file.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use super::complaint::suggestion;

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The file's text without a byte order mark.
///
/// # Errors
/// `place: message` where the place is known, else `message`, for a file that is missing, a folder, too large
/// or not UTF-8.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let shown = shown(path);
    if path.is_dir() {
        return Err(format!("`{shown}` is a folder; name one recipe file in it{}", suggestion("", &yaml_files(path))));
    }
    let mut bytes = vec![];
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let found = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            return Err(format!("`{shown}` does not exist{}", suggestion(&found, &yaml_files(&folder_of(path)))));
        }
        Err(error) => return Err(format!("cannot read `{shown}`: {error}")),
        Ok(_) => {}
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("`{shown}` is larger than 1 MiB, which no recipe needs"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + good.filter(|byte| **byte == b'\n').count();
        format!("{shown}:{line}: not UTF-8 text; save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

/// The path as the user wrote it, without detours such as `recipes/a/../b.yaml`.
pub(super) fn shown(path: &Path) -> String {
    let mut clean = PathBuf::new();
    for part in path.components() {
        let ends_in_name = matches!(clean.components().next_back(), Some(Component::Normal(_)));
        match part {
            Component::ParentDir if ends_in_name => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean.display().to_string()
}

/// Folder that holds the file; `.` for a bare file name.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Names of the YAML files in a folder, sorted; none if it cannot be read.
pub(super) fn yaml_files(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".yaml")).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_suggests_its_neighbor() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sit.yaml"), "a: 1").unwrap();
        let message = read(&folder.path().join("sti.yaml")).unwrap_err();
        assert!(message.contains("does not exist") && message.contains("did you mean `sit.yaml`?"), "{message}");
    }

    #[test]
    fn a_folder_a_huge_file_and_bytes_that_are_no_text_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().contains("is a folder"));
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
        assert!(read(&path).unwrap_err().contains("larger than 1 MiB"));
        std::fs::write(&path, b"a: 1\nb: 2\nc: \xff\n").unwrap();
        assert!(read(&path).unwrap_err().ends_with("a.yaml:3: not UTF-8 text; save the file as UTF-8"));
    }

    #[test]
    fn a_byte_order_mark_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "\u{feff}a: 1").unwrap();
        assert_eq!(read(&path).unwrap(), "a: 1");
    }

    #[test]
    fn shown_paths_have_no_detours() {
        for (path, expected) in
            [("recipes/a/../b.yaml", "recipes/b.yaml"), ("../a.yaml", "../a.yaml"), ("/r/../a", "/a")]
        {
            assert_eq!(shown(Path::new(path)), expected);
        }
    }
}
