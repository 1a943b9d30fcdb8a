//! Files that PyTorch wrote, against the values that it read back.
#![cfg(test)]

use std::path::{Path, PathBuf};

use super::{StateDict, TensorFile, read_weights};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/weights").join(name)
}

fn assert_equal(file: &str, expected: &str) {
    let (found, expected) = (read_weights(&fixture(file)).unwrap(), read_weights(&fixture(expected)).unwrap());
    let names = |dict: &StateDict| dict.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{file}");
    for (name, tensor) in &expected {
        assert_eq!(&found[name], tensor, "{file}: {name}");
    }
}

#[test]
fn views_and_types_of_a_zip_file_are_read() {
    assert_equal("views.pt", "views.safetensors");
}

#[test]
fn views_and_types_of_a_file_before_1_6_are_read() {
    assert_equal("views-legacy.pt", "views.safetensors");
}

#[test]
fn parameters_in_modules_come_under_the_names_of_their_state_dict() {
    for file in ["module.pt", "state-dict.pt"] {
        assert_equal(file, "module.safetensors");
    }
}

#[test]
fn torch_script_archives_are_read() {
    assert_equal("scripted.pt", "module.safetensors");
    assert_equal("traced.pt", "traced.safetensors");
    assert_eq!(TensorFile::open(&fixture("scripted.pt")).unwrap().format(), "torch.jit.save (TorchScript)");
}

#[test]
fn nested_dictionaries_become_dotted_names_and_settings_are_left_out() {
    for file in ["training.pth", "training-legacy.pth"] {
        let names: Vec<String> = read_weights(&fixture(file)).unwrap().into_keys().collect();
        let expected = ["model.x.y", "optimizer.state.0.exp_avg", "optimizer.state.0.step", "seen.0", "seen.1.z"];
        assert_eq!(names, expected, "{file}");
    }
}
