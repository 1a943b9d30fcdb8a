//! Downloads one file: beside its place, checked, synced, renamed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use realign::files::aside;
use realign::weights::{PublishedWeights, TensorFile};

use realign::files::sha256;

/// Gets a file to `path`; `token` is sent to the hub for gated ones.
///
/// # Errors
/// The network or the disk fails, or what arrived is not the file: nothing is at `path` then.
pub fn download(weights: &PublishedWeights, token: Option<&str>, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    }
    let aside = aside(path);
    let arrived = fetch(&weights.url, token, &aside)
        .and_then(|length| check(&aside, length, weights))
        .and_then(|()| fs::rename(&aside, path).with_context(|| format!("cannot write `{}`", path.display())));
    if arrived.is_err() {
        fs::remove_file(&aside).ok(); // it may not exist; the error that matters is returned
    }
    arrived.with_context(|| format!("download of {}", weights.url))
}

/// Writes the body to a file and returns the length that the server promised.
fn fetch(url: &str, token: Option<&str>, aside: &Path) -> Result<Option<u64>> {
    let mut request = ureq::get(url);
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let mut response =
        request.call().context("the server refuses; is a license to be accepted, or HF_TOKEN to be set?")?;
    let length = response.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body = response.body_mut().as_reader();
    let mut file = File::create(aside).with_context(|| format!("cannot write `{}`", aside.display()))?;
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let count = body.read(&mut buffer).context("the connection broke")?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).with_context(|| format!("cannot write `{}`", aside.display()))?;
    }
    file.sync_all().with_context(|| format!("cannot write `{}`", aside.display()))?;
    Ok(length)
}

fn check(aside: &Path, promised: Option<u64>, weights: &PublishedWeights) -> Result<()> {
    let length = fs::metadata(aside)?.len();
    for wanted in [promised, weights.num_bytes].into_iter().flatten() {
        ensure!(length == wanted, "{length} bytes arrived of {wanted}");
    }
    if let Some(expected) = &weights.sha256 {
        let found = sha256(aside)?;
        ensure!(found == *expected, "its SHA-256 is {found}, expected {expected}");
    }
    TensorFile::open(aside).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use realign::weights::{HostTensor, StateDict, read_weights, write_safetensors};

    use super::*;

    /// Answers one request with `body`, promising `length` bytes.
    fn serve(body: Vec<u8>, length: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/w.safetensors", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").unwrap();
            stream.write_all(&body).unwrap();
        });
        url
    }

    fn weights(url: &str, sha256: Option<&str>) -> PublishedWeights {
        let weights = PublishedWeights::new("w", "w.safetensors", url, "ours", "MIT");
        PublishedWeights { sha256: sha256.map(str::to_string), ..weights }
    }

    fn file() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let dict = StateDict::from([("a".to_string(), HostTensor { shape: vec![3], values: vec![1.0, 2.0, 3.0] })]);
        write_safetensors(&path, &dict).unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn a_download_arrives_whole_under_its_name() {
        let (folder, bytes) = (tempfile::tempdir().unwrap(), file());
        let path = folder.path().join("deep/w.safetensors");
        download(&weights(&serve(bytes.clone(), bytes.len()), None), None, &path).unwrap();
        assert_eq!(read_weights(&path).unwrap()["a"].values, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn what_is_cut_short_or_another_file_leaves_nothing() {
        let (folder, bytes) = (tempfile::tempdir().unwrap(), file());
        let path = folder.path().join("w.safetensors");
        let page = b"<!DOCTYPE html><p>log in</p>".to_vec();
        for (body, length, hash) in [
            (bytes[..40].to_vec(), bytes.len(), None),
            (page.clone(), page.len(), None),
            (bytes.clone(), bytes.len(), Some("00")),
        ] {
            assert!(download(&weights(&serve(body, length), hash), None, &path).is_err());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
