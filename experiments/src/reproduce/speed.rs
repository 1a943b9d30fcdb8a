//! Operations a second: assumed at the paper's scale, tried at the small ones.

use std::time::Instant;

use anyhow::Result;
use realign::ops;
use realign::recipe::Plan;

use crate::commands::explain::Costs;
use crate::measuring::{Trial, device_of_plan, micro_batch_of_plan};
use crate::progress::duration;

const H100: f64 = 989e12; // dense bf16 operations per second, NVIDIA's data sheet (SXM)
const UTILIZATION: f64 = 0.4;
/// Two CPU cores in f32 with AVX-512: iREPA's demo takes 3 min 21 s, previews counted in (docs/benchmarks.md).
const TWO_CORES: f64 = 124e9;
/// Steps that are timed after one that is not.
const STEPS: usize = 3;

/// What turns operations into time.
#[derive(Debug, Clone)]
pub struct Speed {
    /// Floating-point operations per second.
    flops: f64,
    /// Where the number is from.
    pub source: String,
    in_gpu_hours: bool,
}

impl Speed {
    /// Of the paper's scale.
    pub fn paper() -> Self {
        let source = format!(
            "one H100 at {:.0} % of its {:.0} TFLOP/s in bf16; not measured here",
            UTILIZATION * 100.0,
            H100 / 1e12
        );
        Self { flops: H100 * UTILIZATION, source, in_gpu_hours: true }
    }

    /// Of this machine: a few steps of a run are done and thrown away; where they cannot be, assumed.
    pub fn here(plan: &Plan, name: &str) -> Self {
        let (flops, source) = match tried(plan) {
            Ok((flops, device)) => {
                let speed = format!("{:.0} GFLOP/s on {device}", flops / 1e9);
                (flops, format!("{speed}, the fastest of {STEPS} steps measured now of `{name}`"))
            }
            Err(problem) => {
                let speed = format!("two CPU cores with AVX-512 at {:.0} GFLOP/s in f32", TWO_CORES / 1e9);
                (TWO_CORES, format!("{speed}; not measured here: {problem:#}"))
            }
        };
        Self { flops, source, in_gpu_hours: false }
    }

    /// Time for so many operations, for people.
    pub fn time(&self, flops: f64) -> String {
        let seconds = flops / self.flops;
        if self.in_gpu_hours { format!("{:.1} GPU h", seconds / 3600.0) } else { duration(seconds) }
    }
}

fn tried(plan: &Plan) -> Result<(f64, String)> {
    let device = device_of_plan(plan)?;
    ops::guard(|| {
        let mut trial = Trial::of_plan(plan, micro_batch_of_plan(plan)?.as_ref())?;
        trial.step()?.read()?; // makes the values of parameters, which a step does once
        let mut seconds = f64::INFINITY;
        for _ in 0..STEPS {
            let begin = Instant::now();
            trial.step()?.read()?;
            seconds = seconds.min(begin.elapsed().as_secs_f64()); // others may be busy on this machine
        }
        Ok((Costs::new(plan)?.flops_per_step / seconds, ops::describe(&device)))
    })
}
