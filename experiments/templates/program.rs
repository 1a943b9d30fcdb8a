//! Program `my_idea`: trains a diffusion model with an optimizer step of its own.

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor};
use realign::data::loader::Batch;
use realign::plugin::{Program, ProgramConfig, ProgramContext};
use realign::recipe::Check;
use realign::streams::Streams;
use realign::train::{
    Assembly, Ema, Gradients, Optimizer, OptimizerSettings, Preview, PreviewSettings, ReadTensors, TrainModel,
    WriteTensors, build_model, sample_previews,
};
use realign::weights::{StateDict, load_state_dict, state_dict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: the recipe's loss times a factor; put what your method does in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Factor on the loss, above 0.
    pub factor: f64,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { factor: 1.0 }
    }
}

#[typetag::serde(name = "my_idea")]
impl ProgramConfig for MyIdeaConfig {
    /// Without this line the recipe has no backbone, objective, alignment or samples.
    fn trains_diffusion(&self) -> bool {
        true
    }

    fn build(&self, ctx: &ProgramContext<'_>, _device: &Device) -> Result<Box<dyn Program>> {
        let plan = ctx.plan.context("the recipe has no diffusion model")?;
        let assembly = Assembly::new(plan)?;
        let model = build_model(plan, &assembly.device.clone().autodiff())?;
        let emas = ctx.train.ema.iter().map(|ema| Ema::new(&model, ema.clone())).collect::<Result<_>>()?;
        let optimizer = Optimizer::new(&model, OptimizerSettings::new(ctx.train));
        let previews = PreviewSettings::new(plan);
        Ok(Box::new(MyIdea { factor: self.factor, assembly, model, optimizer, emas, previews }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("factor", self.factor, 1e-6, 1e6);
    }
}

realign::register!(ProgramConfig as "program": MyIdeaConfig);

/// The built program `my_idea`.
#[derive(Debug)]
pub struct MyIdea {
    factor: f64,
    assembly: Assembly,
    model: TrainModel,
    optimizer: Optimizer,
    emas: Vec<Ema>,
    previews: PreviewSettings,
}

impl Program for MyIdea {
    fn step(&mut self, batch: &Batch, streams: &Streams, learning_rate: f64) -> Result<Vec<(String, Tensor<1>)>> {
        let loss = self.assembly.loss(&self.model, batch, streams)?;
        let mut scalars = loss.scalars;
        let gradients = Gradients::of_loss(&self.model, loss.total * self.factor);
        let norm = self.optimizer.step(&mut self.model, gradients, learning_rate);
        scalars.push(("train/grad_norm".into(), norm));
        for ema in &mut self.emas {
            ema.update(&self.model, streams.step);
        }
        Ok(scalars)
    }

    fn save(&self, write: &mut WriteTensors<'_>) -> Result<()> {
        write("model", &state_dict(&self.model))?;
        write("opt", &self.optimizer.counted_state_dict())?;
        for ema in &self.emas {
            write(&format!("ema-{}", ema.settings.name), &state_dict(ema.model()))?;
        }
        Ok(())
    }

    fn load(&mut self, _steps: u64, read: &ReadTensors<'_>) -> Result<()> {
        self.model = load_state_dict(self.model.clone(), read("model")?)?;
        self.optimizer.load_counted_state_dict(read("opt")?)?;
        let restored = |ema: &Ema| {
            let dict = read(&format!("ema-{}", ema.settings.name))?;
            Ema::from_state_dict(&self.model, ema.settings.clone(), dict)
        };
        self.emas = self.emas.iter().map(restored).collect::<Result<_>>()?;
        Ok(())
    }

    fn previews(&mut self) -> Result<Vec<Preview>> {
        let name = &self.previews.weights;
        let ema = self.emas.iter().find(|ema| ema.settings.name == *name);
        let shown = match ema {
            Some(ema) => ema.model().clone(),
            None => burn::module::Module::valid(&self.model),
        };
        sample_previews(&self.assembly, &shown, &self.previews)
    }

    fn weights(&self) -> StateDict {
        state_dict(&self.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_a_round_trip_as_a_recipe_writes_them() {
        let config: Box<dyn ProgramConfig> = Box::new(MyIdeaConfig { factor: 0.5 });
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains("\"type\":\"my_idea\""), "{text}");
        let read: Box<dyn ProgramConfig> = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert!(read.trains_diffusion());
    }
}
