//! Operations a second: assumed at the paper's scale, tried at the small ones.

use std::time::Instant;

use anyhow::{Result, ensure};
use realign::ops::{self, DeviceChoice};
use realign::recipe::Plan;

use crate::commands::explain::Costs;
use crate::measuring::{Trial, fitting_micro_batch};

const H100: f64 = 989e12; // dense bf16 operations per second, NVIDIA's data sheet (SXM)
const UTILIZATION: f64 = 0.4;
/// Two CPU cores in f32 with AVX-512: iREPA's demo takes 3 min 21 s, previews counted in (README).
const TWO_CORES: f64 = 124e9;
/// Steps that are timed after one that is not.
const STEPS: u32 = 3;

/// What turns operations into time.
#[derive(Debug, Clone)]
pub struct Speed {
    /// Floating-point operations per second.
    pub flops: f64,
    /// Where the number is from.
    pub source: String,
}

impl Speed {
    /// Of the paper's scale.
    pub fn paper() -> Self {
        let source = format!(
            "one H100 at {:.0} % of its {:.0} TFLOP/s in bf16; not measured here",
            UTILIZATION * 100.0,
            H100 / 1e12
        );
        Self { flops: H100 * UTILIZATION, source }
    }

    /// Of this machine: a few steps of a run are done and thrown away; where they cannot be, assumed.
    pub fn here(plan: &Plan, name: &str) -> Self {
        match tried(plan) {
            Ok((flops, device)) => {
                let source =
                    format!("{:.0} GFLOP/s on {device}, measured now in {STEPS} steps of `{name}`", flops / 1e9);
                Self { flops, source }
            }
            Err(problem) => {
                let source = format!(
                    "two CPU cores with AVX-512 at {:.0} GFLOP/s in f32; not measured here: {problem:#}",
                    TWO_CORES / 1e9
                );
                Self { flops: TWO_CORES, source }
            }
        }
    }
}

fn tried(plan: &Plan) -> Result<(f64, String)> {
    let missing: Vec<String> = plan.missing.iter().map(ToString::to_string).collect();
    ensure!(missing.is_empty(), "{}", missing.join("; "));
    let device = DeviceChoice::parse(&plan.recipe.device).and_then(ops::open)?;
    ops::guard(|| {
        let mut trial = Trial::of_plan(plan, fitting_micro_batch(plan)?.as_ref())?;
        trial.step()?.read()?; // makes the values of parameters, which a step does once
        let begin = Instant::now();
        for _ in 0..STEPS {
            trial.step()?.read()?;
        }
        let seconds = begin.elapsed().as_secs_f64() / f64::from(STEPS);
        Ok((Costs::new(plan)?.flops_per_step / seconds, ops::describe(&device)))
    })
}
