//! Numbers of the official code, recorded, against ours: every case of a folder on every backend.
//!
//! `REALIGN_GOLDEN` names the folder; by default it is `tests/fixtures`. Shapes, options and tolerances come from each
//! case's sidecar, so another folder of the same families runs unchanged.

mod case;
mod embeddings;
mod features;
mod preprocess;
mod samplers;
mod sit;
mod train_steps;
mod verdict;

use std::env;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use realign::ops::{DeviceChoice, open};

use case::{Case, sidecars};
use verdict::Verdict;

type Compare = fn(&Case, &Device) -> Result<Verdict>;

/// Families by prefix, the longer prefix first.
const FAMILIES: [(&str, Compare); 8] = [
    ("sit_embeddings_and_interpolants", embeddings::compare),
    ("sit_forward_backward", sit::compare),
    ("sit_train_steps", train_steps::compare),
    ("samplers_analytic", samplers::analytic),
    ("samplers_sit", samplers::network),
    ("spatial_norm", features::spatial_norm),
    ("encoder_hog", features::hog),
    ("data_preprocess", preprocess::compare),
];

fn folder() -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    env::var_os("REALIGN_GOLDEN").map_or(fixtures, PathBuf::from)
}

fn backends() -> Vec<(&'static str, Device)> {
    let open = |name, choice| (name, open(choice).expect("a backend of this build opens"));
    if realign::ops::backend_names().contains(&"libtorch") {
        return vec![open("libtorch", DeviceChoice::Cpu), open("flex", DeviceChoice::Flex)];
    }
    vec![open("flex", DeviceChoice::Flex)]
}

/// libtest hides what a passing test prints; these lines are for people.
fn say(line: &str) {
    writeln!(stdout(), "{line}").expect("stdout takes a line");
}

#[test]
fn every_recorded_case_agrees() {
    let folder = folder();
    let names = sidecars(&folder).unwrap_or_else(|problem| panic!("{problem:#}"));
    let family = |name: &str| FAMILIES.iter().find(|family| name.starts_with(family.0)).map(|family| family.1);
    let (mut passed, mut failed) = (0, vec![]);
    for (backend, device) in backends() {
        for (name, compare) in names.iter().filter_map(|name| Some((name, family(name)?))) {
            let verdict = Case::read(&folder, name).and_then(|case| compare(&case, &device));
            match verdict {
                Ok(verdict) => {
                    say(&format!("{backend:8}  {name:44}  {verdict}"));
                    if verdict.is_ok() { passed += 1 } else { failed.push(format!("{backend} {name}")) }
                }
                Err(problem) => {
                    say(&format!("{backend:8}  {name:44}  FAIL  {problem:#}"));
                    failed.push(format!("{backend} {name}"));
                }
            }
        }
    }
    let later: Vec<&str> = names.iter().filter(|name| family(name).is_none()).map(String::as_str).collect();
    if !later.is_empty() {
        say(&format!("not built yet: {}", later.join(", ")));
    }
    say(&format!("parity: {passed} passed, {} failed, {} not built yet", failed.len(), later.len()));
    assert!(failed.is_empty(), "these cases fail: {}", failed.join(", "));
    assert!(passed > 0, "`{}` holds no case of a known family", folder.display());
}

#[test]
fn a_folder_without_cases_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    assert!(sidecars(empty.path()).unwrap_err().to_string().contains("no case"));
    assert!(sidecars(&empty.path().join("absent")).is_err());
}
