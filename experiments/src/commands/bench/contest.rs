//! Our program, PyTorch eager and torch.compile in turn, in one run.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use clap::Args;
use realign::burn::tensor::Device;
use realign::ops::{self, DeviceChoice, Precision};
use serde_json::{Value, json};

use super::Timing;
use super::network::Sizes;
use super::torch::TorchStep;
use super::utilization;

/// What every comparison is told.
#[derive(Debug, Args)]
pub struct ContestArgs {
    /// Where both programs compute: `cpu`, `cuda` or `cuda:<index>`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Arithmetic of both programs: `f32`, `tf32` or `bf16`
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Rounds; each runs every program's steps in turn
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Steps of each program per round; on a GPU their mean is one measurement
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Python with PyTorch
    #[arg(long, default_value = "python3")]
    python: String,
    /// Leave torch.compile out
    #[arg(long)]
    no_compile: bool,
    /// One line of JSON per size instead of a table
    #[arg(long)]
    json: bool,
}

/// What was timed.
pub struct Contest<'a> {
    args: &'a ContestArgs,
    sizes: Sizes,
    ours: Timing,
    eager: Rival,
    compiled: Option<Rival>,
}

/// PyTorch, in one of its ways.
struct Rival {
    step: TorchStep,
    timing: Timing,
    /// Why it ended, where it did: the others go on.
    problem: Option<String>,
}

impl Rival {
    fn new(step: TorchStep) -> Self {
        Self { step, timing: Timing::default(), problem: None }
    }

    fn run(&mut self, count: usize, is_first: bool) {
        if self.problem.is_some() {
            return;
        }
        match self.step.steps(count) {
            Ok(found) => self.timing.add(found, is_first),
            Err(problem) => self.problem = Some(format!("{problem:#}")),
        }
    }
}

impl ContestArgs {
    /// The device.
    ///
    /// # Errors
    /// It has no such name, or PyTorch has no such device.
    pub fn device(&self) -> Result<DeviceChoice> {
        let device = DeviceChoice::parse(&self.device).context("--device")?;
        let is_shared = matches!(device, DeviceChoice::Cpu | DeviceChoice::Cuda(_));
        ensure!(is_shared, "--device: `{}` is not PyTorch's too; allowed are cpu, cuda, cuda:<index>", self.device);
        Ok(device)
    }

    /// The arithmetic.
    ///
    /// # Errors
    /// It has no such name, or the device does not have it.
    pub fn precision(&self, device: &Device) -> Result<Precision> {
        let precision: Precision = serde_json::from_value(self.precision.as_str().into())
            .with_context(|| format!("--precision: unknown `{}`; allowed are f32, tf32, bf16", self.precision))?;
        precision.check(device)?;
        Ok(precision)
    }

    /// Starts PyTorch; `more` are settings beside the sizes.
    ///
    /// # Errors
    /// The device has no such name, there is no such Python, or it has no PyTorch.
    pub fn start(&self, sizes: Sizes, more: &Value) -> Result<Contest<'_>> {
        self.device()?; // a wrong name is answered before PyTorch starts
        let settings = |is_compiled: bool| {
            let mut settings = json!({
                "device": self.device, "compile": is_compiled, "precision": self.precision, "count_flops": false, "num_steps": 0,
            });
            for (key, value) in more.as_object().into_iter().flatten() {
                settings[key] = value.clone();
            }
            settings["count_flops"] = (settings["count_flops"] == true && !is_compiled).into();
            settings
        };
        Ok(Contest {
            args: self,
            sizes,
            ours: Timing::default(),
            eager: Rival::new(TorchStep::start(&self.python, &sizes, &settings(false))?),
            compiled: match self.no_compile {
                true => None,
                false => Some(Rival::new(TorchStep::start(&self.python, &sizes, &settings(true))?)),
            },
        })
    }
}

impl Contest<'_> {
    /// PyTorch eager.
    pub fn eager(&self) -> &TorchStep {
        &self.eager.step
    }

    /// Runs all programs in turn. `ours` is told how many steps to do, and whether to wait for each.
    ///
    /// PyTorch may end early, for want of memory say; the report then says why.
    ///
    /// # Errors
    /// Our program fails.
    pub fn run(&mut self, mut ours: impl FnMut(usize, bool) -> Result<Timing>) -> Result<()> {
        let (count, waits_each) = (self.args.steps, self.args.device()? == DeviceChoice::Cpu);
        for round in 0..=self.args.rounds {
            self.ours.add(ours(count, waits_each)?, round == 0);
            self.eager.run(count, round == 0);
            if let Some(compiled) = &mut self.compiled {
                compiled.run(count, round == 0);
            }
        }
        Ok(())
    }

    /// Prints what was found; `flops` are the operations that one step needs.
    ///
    /// # Errors
    /// The output does not take it.
    pub fn report(&self, title: &str, about: Value, flops: f64, out: &mut dyn Write) -> Result<()> {
        let (ours, eager) = (&self.ours, &self.eager.timing);
        let rivals = [("PyTorch eager", Some(&self.eager)), ("torch.compile", self.compiled.as_ref())];
        let rivals: Vec<(&str, &Rival)> = rivals.into_iter().filter_map(|(name, rival)| Some((name, rival?))).collect();
        let programs =
            std::iter::once(("realign", ours)).chain(rivals.iter().map(|(name, rival)| (*name, &rival.timing)));
        let programs = programs.filter(|(_, timing)| !timing.ms.is_empty());
        let problems = rivals.iter().filter_map(|(name, rival)| Some((*name, rival.problem.as_ref()?)));
        let per_second = |timing: &Timing| self.sizes.batch as f64 * 1e3 / timing.min();
        let torch = &self.eager.step;
        let device_name = torch.device_name.as_deref();
        if self.args.json {
            let mut line = about;
            for (name, timing) in programs {
                line[name] = json!({
                    "min_ms": timing.min(), "median_ms": timing.median(), "images_per_s": per_second(timing),
                    "flops_per_s": flops * 1e3 / timing.min(), "peak_bytes": timing.peak_bytes,
                    "ratio": ours.min() / timing.min(), "memory_ratio": ours.peak_bytes / timing.peak_bytes,
                });
            }
            for (name, problem) in problems {
                line["problems"][name] = problem.as_str().into();
            }
            line["flops"] = flops.into();
            line["bf16_peak"] = device_name.and_then(utilization::bf16_peak).into();
            line["device"] = device_name.unwrap_or("cpu").into();
            line["torch"] = torch.version.as_str().into();
            line["threads"] = ops::num_threads().into();
            return Ok(writeln!(out, "{line}")?);
        }
        writeln!(
            out,
            "{title}, batch {}, {}, {} threads, PyTorch {}, {} measurements each",
            self.sizes.batch,
            device_name.unwrap_or("cpu"),
            ops::num_threads(),
            torch.version,
            ours.ms.len()
        )?;
        writeln!(
            out,
            "  {:14} {:>9} {:>10} {:>9} {:>9} {:>7}",
            "", "min ms", "median ms", "images/s", "peak MB", "ratio"
        )?;
        for (name, timing) in programs {
            let (min, median, megabytes) = (timing.min(), timing.median(), timing.peak_bytes / 1e6);
            let (speed, ratio) = (per_second(timing), ours.min() / min);
            let utilization = utilization::describe(flops, min, device_name);
            writeln!(
                out,
                "  {name:14} {min:9.1} {median:10.1} {speed:9.1} {megabytes:9.0} {ratio:7.3}  {utilization}"
            )?;
        }
        if !eager.ms.is_empty() {
            writeln!(out, "  memory: {:.2} of PyTorch eager's", ours.peak_bytes / eager.peak_bytes)?;
        }
        problems.into_iter().try_for_each(|(name, problem)| writeln!(out, "  {name} did not finish: {problem}"))?;
        Ok(())
    }
}
