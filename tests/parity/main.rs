//! Numerical parity with recorded results of the published PyTorch code.
//!
//! Reads every case of the folder that `REALIGN_GOLDEN` names, or of `fixtures`, and prints one line per case and
//! backend: name, largest forward error, largest gradient error, verdict.

mod case;
mod clip_text;
mod compare;
mod encoders_vit;
mod further_encoders;
mod generation;
mod inputs;
mod jit;
mod mean_flow;
mod mmdit;
mod repa_e;
mod samplers;
mod sift;
mod sit;
mod sit_parts;
mod spatial;
mod train_steps;
mod vae;
mod vae_losses;

use anyhow::{Result, bail};
use case::{Case, files, stem};
use compare::Comparison;
use realign::burn::tensor::Device;
use realign::ops;
use realign_experiments as _; // links all plugins
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

type Runner = fn(&Case, &Device, &mut Comparison) -> Result<()>;

/// Families by the start of their cases' names.
const FAMILIES: &[(&str, Runner)] = &[
    ("conditioner_clip_text", clip_text::clip_text),
    ("data_preprocess", inputs::data_preprocess),
    ("encoder_clip_hf", encoders_vit::clip_hf),
    ("encoder_clip_openai", encoders_vit::clip_openai),
    ("encoder_cls_mixing", encoders_vit::cls_mixing),
    ("encoder_cradio", encoders_vit::cradio),
    ("encoder_dinov2_timm", encoders_vit::dinov2_timm),
    ("encoder_dinov2", encoders_vit::dinov2),
    ("encoder_dinov3", encoders_vit::dinov3),
    ("encoder_dino", encoders_vit::timm),
    ("encoder_hog", inputs::encoder_hog),
    ("encoder_sam2", further_encoders::sam2),
    ("encoder_sam", further_encoders::sam),
    ("encoder_sift_kornia", sift::kornia),
    ("encoder_sift_opencv", sift::opencv),
    ("encoder_vgg", further_encoders::vgg),
    ("encoder_ijepa", encoders_vit::timm),
    ("encoder_mae", encoders_vit::mae),
    ("encoder_mocov3", encoders_vit::timm),
    ("encoder_pe_", encoders_vit::perception),
    ("encoder_pos_embed_resample", encoders_vit::pos_embed_resample),
    ("encoder_preprocess", encoders_vit::preprocess),
    ("encoder_siglip", encoders_vit::siglip),
    ("jit_", jit::jit),
    ("meanflow_", mean_flow::mean_flow),
    ("metrics_generation", generation::generation),
    ("mmdit_", mmdit::mmdit),
    ("repa_e_iteration", repa_e::iteration),
    ("repa_e_loss_functions", vae_losses::loss_functions),
    ("samplers_", samplers::samplers),
    ("sit_", sit::sit),
    ("spatial_metrics", spatial::spatial_metrics),
    ("spatial_norm", inputs::spatial_norm),
    ("vae_", vae::vae),
];

fn family(name: &str) -> Option<Runner> {
    FAMILIES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, runner)| *runner)
}

fn folder() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chosen = std::env::var_os("REALIGN_GOLDEN").filter(|chosen| !chosen.is_empty()).map(PathBuf::from);
    let Some(chosen) = chosen else { return tests.join("fixtures") };
    // Tests run in this crate's folder; a relative path was most likely meant from the workspace's root.
    let from_root = tests.join("..").join(&chosen);
    if chosen.is_relative() && !chosen.exists() && from_root.exists() { from_root } else { chosen }
}

/// What a folder amounted to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    not_built: usize,
}

/// Runs all cases of a folder on all devices and writes one line for each.
///
/// # Errors
/// The folder cannot be read, or holds no case of a known family.
fn run(folder: &Path, devices: &[(&str, Device)], out: &mut dyn Write) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut names: BTreeSet<PathBuf> = files(folder, "json")?.into_iter().collect();
    // Tensors without a sidecar are a case that cannot be read.
    names.extend(files(folder, "safetensors")?.into_iter().map(|path| path.with_extension("json")));
    for sidecar in &names {
        let name = stem(sidecar);
        let Some(runner) = family(&name) else {
            tally.not_built += 1;
            writeln!(out, "{name}: not built yet")?;
            continue;
        };
        let case = Case::read(sidecar);
        for (backend, device) in devices {
            let comparison = match &case {
                Ok(case) => compare(case, runner, device),
                Err(problem) => Comparison::failed(format!("{problem:#}")),
            };
            tally.passed += usize::from(comparison.failure.is_none());
            tally.failed += usize::from(comparison.failure.is_some());
            writeln!(out, "{}", line(backend, &name, &comparison))?;
        }
    }
    let Tally { passed, failed, not_built } = tally;
    let backends: Vec<_> = devices.iter().map(|(name, _)| *name).collect();
    let backends = backends.join(" and ");
    writeln!(out, "parity: {passed} ok, {failed} failed on {backends}; {not_built} cases not built yet")?;
    if passed + failed == 0 {
        bail!("`{}` holds no case of a known family", folder.display())
    }
    Ok(tally)
}

fn compare(case: &Case, runner: Runner, device: &Device) -> Comparison {
    let mut comparison = Comparison::default();
    match ops::guard(|| runner(case, device, &mut comparison)) {
        Ok(()) => comparison.finish(case),
        Err(problem) => comparison.fail(format!("{problem:#}").replace('\n', " ")),
    }
    comparison
}

fn line(backend: &str, name: &str, comparison: &Comparison) -> String {
    let verdict = match &comparison.failure {
        Some(reason) => format!("FAIL {reason}"),
        None => "ok".to_string(),
    };
    let gradient = comparison.gradient.map_or("      -".to_string(), |error| format!("{error:7.1e}"));
    format!("{backend:8} {name:46} forward {:7.1e}  gradient {gradient}  {verdict}", comparison.forward)
}

#[test]
fn every_recorded_case_agrees() {
    // The handle itself, so that the lines show although the test passes.
    let tally = run(&folder(), &ops::devices(), &mut std::io::stdout()).unwrap_or_else(|problem| panic!("{problem:#}"));
    assert_eq!(tally.failed, 0, "{} comparisons failed; the lines above say which", tally.failed);
}

fn copy_fixture(name: &str, folder: &Path) {
    for ending in ["json", "safetensors"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).with_extension(ending);
        std::fs::copy(from, folder.join(name).with_extension(ending)).unwrap();
    }
}

fn run_quietly(folder: &Path) -> (Result<Tally>, String) {
    let mut out = vec![];
    let tally = run(folder, &ops::devices()[..1], &mut out);
    (tally, String::from_utf8(out).unwrap())
}

#[test]
fn a_folder_without_known_cases_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(run_quietly(folder.path()).0.is_err());
    std::fs::write(folder.path().join("unheard_of.json"), "{}").unwrap();
    let (tally, lines) = run_quietly(folder.path());
    assert!(tally.unwrap_err().to_string().contains("no case of a known family"));
    assert!(lines.starts_with("unheard_of: not built yet\n"), "{lines}");
    assert!(run_quietly(&folder.path().join("absent")).0.is_err());
}

#[test]
fn files_that_cannot_be_read_fail_their_case() {
    const NAME: &str = "sit_embeddings_and_interpolants";
    type Breakage = (&'static str, fn(&Path));
    let breakages: [Breakage; 4] = [
        ("no sidecar", |sidecar| std::fs::remove_file(sidecar).unwrap()),
        ("no JSON", |sidecar| std::fs::write(sidecar, "{").unwrap()),
        ("no tensors", |sidecar| std::fs::remove_file(sidecar.with_extension("safetensors")).unwrap()),
        ("cut tensors", |sidecar| {
            let path = sidecar.with_extension("safetensors");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
    ];
    for (what, break_it) in breakages {
        let folder = tempfile::tempdir().unwrap();
        copy_fixture(NAME, folder.path());
        break_it(&folder.path().join(NAME).with_extension("json"));
        let (tally, lines) = run_quietly(folder.path());
        assert_eq!(tally.unwrap().failed, 1, "{what}: {lines}");
        assert!(lines.contains("FAIL"), "{what}: {lines}");
    }
}

/// One recorded value in the middle of a tensor is moved by a little more than its tolerance.
#[test]
fn one_wrong_element_fails_its_case() {
    for (name, tensor) in [("spatial_norm", "out.edge.alpha0.6"), ("sit_embeddings_and_interpolants", "out.unpatchify")]
    {
        let folder = tempfile::tempdir().unwrap();
        copy_fixture(name, folder.path());
        let path = folder.path().join(name).with_extension("safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let offset = element_offset(&bytes, tensor, 3);
        let value = f32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
        bytes[offset..offset + 4].copy_from_slice(&(value * 1.001 + 1e-4).to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let (tally, lines) = run_quietly(folder.path());
        assert_eq!(tally.unwrap(), Tally { passed: 0, failed: 1, not_built: 0 }, "{lines}");
        assert!(lines.contains(&format!("`{tensor}` element 3")), "{lines}");
    }
}

fn element_offset(bytes: &[u8], tensor: &str, element: usize) -> usize {
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    8 + header + json[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 4 * element
}
