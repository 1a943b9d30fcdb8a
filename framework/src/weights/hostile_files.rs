//! Files that are broken, or that attack whoever reads them. Each is made here and refused with its reason.
#![cfg(test)]

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{TensorFile, read_weights};

/// A file of these bytes, and what reading it says.
fn refusal_of(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    match read_weights(&path) {
        Ok(dict) => format!("accepted with {} tensors", dict.len()),
        Err(problem) => format!("{problem:#}"),
    }
}

fn assert_refused(name: &str, bytes: &[u8], words: &[&str]) {
    let message = refusal_of(name, bytes);
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    assert!(message.contains(name) && message.len() < 1000, "{message}");
}

/// A zip archive as `torch.save` writes it, with this pickle and a storage `0` of these bytes.
fn archive(pickle: &[u8], storage: &[u8], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", storage), ("a/version", b"3\n")] {
        zip.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn pickled(pickle: &[u8]) -> Vec<u8> {
    archive(pickle, &[0; 24], CompressionMethod::Stored)
}

/// A pickle of `{"w": tensor}` over a storage of `count` floats, with the tensor's offset, shape and strides as opcodes.
fn tensor(count: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let head = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu";
    let tail = b"\x89ccollections\nOrderedDict\n)RtRs.";
    [head.as_slice(), count, b"tQ", offset, b"(", shape, b"t(", strides, b"t", tail].concat()
}

const ZERO: &[u8] = b"K\x00";
const SIX: &[u8] = b"K\x06";
const HUGE: &[u8] = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"; // 2^63 - 1
const MINUS_ONE: &[u8] = b"J\xff\xff\xff\xff";

#[test]
fn an_ordinary_file_of_these_parts_is_read() {
    assert_eq!(refusal_of("w.pt", &pickled(&tensor(SIX, ZERO, SIX, b"K\x01"))), "accepted with 1 tensors");
}

#[test]
fn pickles_that_would_run_code_are_refused_by_the_name_of_what_they_call() {
    for (pickle, name) in [
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.".as_slice(), "`os.system`"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "`builtins.eval`"),
        (b"(S'true'\nios\nsystem\n.", "`os.system`"),
        (b"(cposix\nsystem\nS'true'\no.", "`posix.system`"),
        (b"\x80\x02}X\x01\x00\x00\x00acsubprocess\nPopen\nX\x04\x00\x00\x00true\x85Rs.", "`subprocess.Popen`"),
        (b"\x80\x02cbuiltins\ngetattr\nX\x02\x00\x00\x00osX\x06\x00\x00\x00system\x86R.", "`builtins.getattr`"),
    ] {
        assert_refused("w.pt", &pickled(pickle), &["would call", name, "nothing of the file was run"]);
    }
}

#[test]
fn a_state_that_changes_a_class_and_extension_codes_are_refused() {
    assert_refused("w.pt", &pickled(b"\x80\x02ctorch\nTensor\n}b."), &["it changes `torch.Tensor` itself"]);
    for code in [b"\x82\x01.".as_slice(), b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00."] {
        assert_refused("w.pt", &pickled(code), &["extension codes"]);
    }
    assert_refused("w.pt", &pickled(b"\x97."), &["buffers outside"]);
}

#[test]
fn a_state_on_an_instance_runs_nothing() {
    // `BUILD` would call `__setstate__`; the instance is no tensor, so nothing is left of the file.
    let pickle = b"\x80\x02cevil\nClass\n)\x81}X\x01\x00\x00\x00aK\x01sb.";
    assert_refused("w.pt", &pickled(pickle), &["no tensor of floats"]);
}

#[test]
fn memo_bombs_unfold_no_further_than_a_limit() {
    // l0 = []; l1 = [l0, l0]; l2 = [l1, l1]; ... 2^60 leaves.
    let mut pickle = b"\x80\x04]\x94".to_vec();
    for level in 0..60u8 {
        pickle.extend([b'0', b']', 0x94, b'(', b'h', level, b'h', level, b'e']);
    }
    pickle.push(b'.');
    assert_refused("w.pt", &pickled(&pickle), &["unfolds to more than"]);
    // A list that holds itself.
    assert_refused("w.pt", &pickled(b"\x80\x04]\x94h\x00a."), &["nested deeper"]);
}

#[test]
fn pickles_without_end_are_refused() {
    let marks = [b"\x80\x04".as_slice(), &b"\x80\x02".repeat(10_000_001), b"}."].concat();
    assert_refused("w.pt", &pickled(&marks), &["more than 10000000 instructions"]);
}

#[test]
fn deep_nesting_ends_at_a_limit_and_not_the_stack() {
    let pickle = [b"\x80\x04".as_slice(), &b"]".repeat(1_000_000), &b"a".repeat(999_999), b"."].concat();
    assert_refused("w.pt", &pickled(&pickle), &["nested deeper"]);
    let tuples = [b"\x80\x04)".as_slice(), &b"\x85".repeat(1_000_000), b"."].concat();
    assert_refused("w.pt", &pickled(&tuples), &["nested deeper"]);
}

#[test]
fn names_that_multiply_are_refused() {
    let long = [b"\x80\x02}X\x00\x10\x00\x00".as_slice(), &b"n".repeat(4096), b"}K\x01K\x02ss."].concat();
    assert_refused("w.pt", &pickled(&long), &["a name is longer"]);
}

#[test]
fn pickles_that_end_early_or_underflow_are_refused() {
    let whole = tensor(SIX, ZERO, SIX, b"K\x01");
    for length in [0, 1, 2, 3, 20, 60, whole.len() - 1] {
        assert_refused("w.pt", &pickled(&whole[..length]), &["cut short"]);
    }
    for broken in
        [b".".as_slice(), b"R.", b"t.", b"u.", b"a.", b"0.", b"1.", b"2.", b"h\x00.", b"(0b.", b"Q.", b"\x87."]
    {
        let message = refusal_of("w.pt", &pickled(broken));
        assert!(message.contains("cannot read weights"), "{broken:?}: {message}");
    }
    assert_refused("w.pt", &pickled(b"\x80\x02B\xff\xff\xff\xff."), &["4294967295 bytes wanted"]);
    assert_refused("w.pt", &pickled(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff."), &["cut short"]);
    assert_refused("w.pt", &pickled(b"\xff."), &["no instruction 0xff"]);
}

#[test]
fn tensors_that_do_not_fit_their_storage_are_refused() {
    let one: &[u8] = b"K\x01";
    for (offset, shape, strides, word) in [
        (ZERO, b"K\x07".as_slice(), one, "reach beyond the 6 values"),
        (one, SIX, one, "reach beyond"),
        (ZERO, SIX, b"K\x02", "reach beyond"),
        (ZERO, SIX, MINUS_ONE, "stride of a tensor is negative: -1"),
        (MINUS_ONE, SIX, one, "offset of a tensor is negative"),
        (ZERO, MINUS_ONE, one, "size of a tensor is negative"),
        (ZERO, SIX, HUGE, "reach beyond"),
        (HUGE, SIX, one, "reach beyond"),
        (ZERO, &[HUGE, HUGE, b"K\x00"].concat(), &[one, one, one].concat(), "too many values"),
        (ZERO, SIX, b"", "1 axes has 0 strides"),
        (ZERO, HUGE, ZERO, "reach beyond|bytes in a file|overflows"),
    ] {
        let message = refusal_of("w.pt", &pickled(&tensor(SIX, offset, shape, strides)));
        assert!(word.split('|').any(|word| message.contains(word)), "{word}: {message}");
    }
}

#[test]
fn a_storage_that_is_smaller_than_the_pickle_says_or_absent_is_refused() {
    assert_refused("w.pt", &pickled(&tensor(b"K\x07", ZERO, SIX, b"K\x01")), &["has 24 bytes, and the pickle says 7"]);
    assert_refused("w.pt", &pickled(&tensor(HUGE, ZERO, SIX, b"K\x01")), &["has 24 bytes"]);
    assert_refused("w.pt", &pickled(&tensor(MINUS_ONE, ZERO, SIX, b"K\x01")), &["size of a storage is negative"]);
    let mut other = tensor(SIX, ZERO, SIX, b"K\x01");
    let at = other.windows(6).position(|bytes| bytes == b"X\x01\x00\x00\x000").unwrap();
    other[at + 5] = b'9';
    assert_refused("w.pt", &pickled(&other), &["no whole entry `a/data/9`"]);
    let pickle = [
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nComplexFloatStorage\n".as_slice(),
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ.",
    ];
    assert_refused("w.pt", &pickled(&pickle.concat()), &["storage type `torch.ComplexFloatStorage` is not known"]);
}

#[test]
fn one_value_spread_over_terabytes_is_refused() {
    // Strides of zero repeat a value without storing it.
    let million: &[u8] = b"J\x40\x42\x0f\x00";
    let shape = [million, million].concat();
    assert_refused("w.pt", &pickled(&tensor(SIX, ZERO, &shape, b"K\x00K\x00")), &["in a file of"]);
}

#[test]
fn many_tensors_over_one_storage_are_refused() {
    let storage = vec![0; 1 << 16];
    let large = tensor(b"J\x00\x40\x00\x00", ZERO, b"J\x00\x40\x00\x00", b"K\x01");
    let value = &large[9..large.len() - 2]; // without protocol, dictionary, name and end
    let mut many = [b"\x80\x02}X\x01\x00\x00\x00w".as_slice(), value, b"q\x01s"].concat();
    many.extend((0..255u8).flat_map(|n| [b'K', n, b'h', 1, b's']));
    many.push(b'.');
    assert_refused("w.pt", &archive(&many, &storage, CompressionMethod::Stored), &["unfold to more than 4 times"]);
}

#[test]
fn a_zip_bomb_is_refused_before_it_unfolds() {
    let bomb = archive(&vec![b'N'; 32 << 20], &[], CompressionMethod::Deflated);
    assert!(bomb.len() < 1 << 20);
    assert_refused("w.pt", &bomb, &["`a/data.pkl` is compressed"]);
}

#[test]
fn archives_that_are_cut_short_or_of_others_are_refused() {
    let whole = pickled(&tensor(SIX, ZERO, SIX, b"K\x01"));
    for length in [5, 40, whole.len() / 2, whole.len() - 1] {
        assert_refused("w.pt", &whole[..length], &["no whole zip archive"]);
    }
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    zip.start_file("x.npy", SimpleFileOptions::default().compression_method(CompressionMethod::Stored)).unwrap();
    assert_refused("stats.npz", &zip.finish().unwrap().into_inner(), &["numpy arrays (npz)"]);
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    zip.start_file("readme.txt", SimpleFileOptions::default()).unwrap();
    assert_refused("w.zip", &zip.finish().unwrap().into_inner(), &["without one `data.pkl`"]);
}

#[test]
fn legacy_files_that_are_cut_short_are_refused_at_every_length() {
    let whole = fs::read(fixture("views-legacy.pt")).unwrap();
    for length in (20..whole.len()).step_by(37) {
        let message = refusal_of("old.pt", &whole[..length]);
        assert!(message.contains("cut short"), "{length}: {message}");
    }
}

#[test]
fn files_with_a_byte_changed_are_read_or_refused_and_never_panic() {
    for name in ["views-legacy.pt", "views.pt", "scripted.pt", "views.safetensors"] {
        let whole = fs::read(fixture(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        for at in (0..whole.len()).step_by(13) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            fs::write(&path, bytes).unwrap();
            if let Ok(file) = TensorFile::open(&path) {
                let names: Vec<String> = file.tensors().map(|(name, _)| name.to_string()).collect();
                names.iter().for_each(|name| drop(file.read(name)));
            }
        }
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/weights").join(name)
}

/// A safetensors file with this header and `data` bytes of zeros.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let entry = |shape: &str, start: usize, end: usize| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    for (header, words) in [
        (format!(r#"{{"a":{}}}"#, entry("[6]", 0, 24)), "accepted"),
        (format!(r#"{{"a":{}}}"#, entry("[7]", 0, 28)), "not a whole safetensors file: bytes 0 to 28"),
        (format!(r#"{{"a":{}}}"#, entry("[6]", 24, 0)), "not a whole safetensors file: bytes 24 to 0"),
        (format!(r#"{{"a":{}}}"#, entry("[5]", 0, 24)), "does not fill its 24 bytes"),
        (format!(r#"{{"a":{}}}"#, entry("[4611686018427387904,4]", 0, 0)), "too many values"),
        (format!(r#"{{"a":{},"b":{}}}"#, entry("[4]", 0, 16), entry("[4]", 8, 24)), "`a` and `b` overlap"),
        (format!(r#"{{"a":{},"a":{}}}"#, entry("[3]", 0, 12), entry("[3]", 12, 24)), "the tensor `a` comes twice"),
        (format!(r#"{{"a":{}}}"#, entry("[-6]", 0, 24)), "header is not that of"),
        (
            format!(r#"{{"a":{}}}"#, entry("[6]", 0, 24).replace("F32", "F8_E4M3")),
            "element type `F8_E4M3` is not known",
        ),
        (format!(r#"{{"a":{}}}"#, entry("[3]", 0, 24).replace("F32", "I64")), "no tensor of floats"),
        ("{".repeat(100_000), "header is not that of"),
        (format!("{{\"a\":{}", "[".repeat(100_000)), "header is not that of"),
    ] {
        let message = refusal_of("w.safetensors", &safetensors(&header, 24));
        assert!(message.contains(words), "{words}: {message}");
    }
    for length in [u64::MAX, 1 << 40, 1000] {
        let bytes = [&length.to_le_bytes(), b"{}".as_slice(), &[0; 30]].concat();
        assert_refused("w.safetensors", &bytes, &["not a whole safetensors file", "does not fit"]);
    }
}

#[test]
fn an_index_stays_beside_its_shards_and_tells_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}"#;
    fs::write(folder.path().join("one.safetensors"), safetensors(header, 12)).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let refusal = |map: &str| {
        fs::write(&index, format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#)).unwrap();
        read_weights(&index).map_or_else(|problem| format!("{problem:#}"), |dict| format!("{} tensors", dict.len()))
    };
    assert_eq!(refusal(r#"{"a":"one.safetensors"}"#), "1 tensors");
    assert!(refusal(r#"{"a":"../one.safetensors"}"#).contains("a shard lies beside its index"));
    assert!(refusal(r#"{"a":"two.safetensors"}"#).contains("shard `two.safetensors`"));
    assert!(refusal(r#"{"a":"one.safetensors","b":"one.safetensors"}"#).contains("does not have it"));
}

#[test]
fn what_is_no_file_of_weights_is_told_by_what_it_is() {
    for (name, bytes, words) in [
        ("empty.pt", b"".as_slice(), "the file is empty"),
        ("pointer.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ("page.pt", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
        ("page.pth", b"\n<html lang=\"en\"><head>", "web page"),
        ("error.pt", b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "web page"),
        ("some.pkl", b"\x80\x04}.", "plain pickle"),
        ("text.txt", b"hello", "neither safetensors nor"),
    ] {
        assert_refused(name, bytes, &[words]);
    }
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert_refused("resnet.pth", &tar, &["tar archive"]);
    let folder = tempfile::tempdir().unwrap();
    assert!(format!("{:#}", read_weights(folder.path()).unwrap_err()).contains("it is a folder"));
    assert!(format!("{:#}", read_weights(&folder.path().join("no.pt")).unwrap_err()).contains("no.pt"));
}

#[test]
fn a_long_text_that_is_named_often_is_not_copied() {
    let text = [b"\x80\x04X".as_slice(), &100_000u32.to_le_bytes(), &[b'a'; 100_000], b"q\x000"].concat();
    let often = |part: &[u8]| part.repeat(1000);
    let global = [&text, often(b"h\x00h\x00\x930").as_slice(), b"N."].concat();
    assert_refused("global.pt", &pickled(&global), &["a global's name is longer than 500 bytes"]);
    let keys = [&text, b"}(".as_slice(), &often(b"h\x00N"), b"u."].concat();
    assert_refused("keys.pt", &pickled(&keys), &["a name is longer than 500 bytes: `aaa"]);
}
