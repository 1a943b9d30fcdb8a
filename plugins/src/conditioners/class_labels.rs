//! Class labels; the number of classes is the null label.

use anyhow::{Result, bail};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::Device;
use realign::nn::ParamBuilder;
use realign::plugin::{Condition, ConditionSpec, Conditioner, ConditionerConfig, ConditionerContext};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `class_labels`: the data set's classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassLabelsConfig {
    /// Number of classes; the data set's when left out.
    pub num_classes: Option<usize>,
}

/// The conditioner.
#[derive(Module, Debug)]
pub struct ClassLabels {
    num_classes: usize,
}

impl Conditioner for ClassLabels {
    fn condition(&self, labels: &[i64], _captions: &[Option<String>], device: &Device) -> Result<Condition> {
        let is_known = |label: i64| usize::try_from(label).is_ok_and(|label| label < self.num_classes);
        if let Some(label) = labels.iter().find(|label| !is_known(**label)) {
            bail!("label `{label}` is out of range; conditioner.num_classes is {}", self.num_classes);
        }
        Ok(Condition::labels(labels, device))
    }

    fn null(&self, batch: usize, device: &Device) -> Condition {
        Condition::labels(&vec![self.num_classes as i64; batch], device)
    }
}

#[typetag::serde(name = "class_labels")]
impl ConditionerConfig for ClassLabelsConfig {
    fn spec(&self, num_classes: usize) -> ConditionSpec {
        ConditionSpec::Labels { num_classes: self.num_classes.unwrap_or(num_classes) }
    }

    fn build(&self, ctx: &ConditionerContext, _params: &ParamBuilder) -> Result<Box<dyn Conditioner>> {
        Ok(Box::new(ClassLabels { num_classes: self.num_classes.unwrap_or(ctx.num_classes) }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        if let Some(num_classes) = self.num_classes {
            check.range("num_classes", num_classes, 1, 1 << 24);
        }
    }
}

realign::register!(ConditionerConfig as "conditioner": ClassLabelsConfig);

#[cfg(test)]
mod tests {
    use super::*;

    fn build(config: ClassLabelsConfig, device: &Device) -> Box<dyn Conditioner> {
        let ctx = ConditionerContext { num_classes: 7, weights_dir: "absent".into() };
        config.build(&ctx, &ParamBuilder::new(device, 0)).unwrap()
    }

    #[test]
    fn a_label_beyond_the_classes_is_an_error() {
        let device = Device::flex();
        let labels = build(ClassLabelsConfig::default(), &device);
        assert!(labels.condition(&[0, 6], &[None, None], &device).is_ok());
        let problem = labels.condition(&[0, 7], &[None, None], &device).unwrap_err();
        assert!(problem.to_string().contains("label `7` is out of range"), "{problem}");
        assert!(labels.condition(&[-1], &[None], &device).is_err());
    }

    #[test]
    fn the_null_label_is_the_number_of_classes_that_the_recipe_gives() {
        let (config, device) = (ClassLabelsConfig { num_classes: Some(1000) }, Device::flex());
        assert_eq!(config.spec(7), ConditionSpec::Labels { num_classes: 1000 });
        let labels = build(config, &device);
        let Condition::Labels(null) = labels.null(3, &device) else { panic!("class labels are labels") };
        assert_eq!(null.into_data().iter::<i64>().collect::<Vec<_>>(), [1000; 3]);
    }
}
