//! Conditioner `my_idea`: the class label as it is.

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::Device;
use realign::nn::ParamBuilder;
use realign::plugin::{Condition, ConditionSpec, Conditioner, ConditionerConfig, ConditionerContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: class labels; the number of classes is the null label.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {}

#[typetag::serde(name = "my_idea")]
impl ConditionerConfig for MyIdeaConfig {
    fn spec(&self, num_classes: usize) -> ConditionSpec {
        ConditionSpec::Labels { num_classes }
    }

    fn build(&self, ctx: &ConditionerContext, _params: &ParamBuilder) -> Result<Box<dyn Conditioner>> {
        Ok(Box::new(MyIdea { num_classes: ctx.num_classes }))
    }
}

realign::register!(ConditionerConfig as "conditioner": MyIdeaConfig);

/// The built conditioner `my_idea`.
#[derive(Module, Debug)]
pub struct MyIdea {
    num_classes: usize,
}

impl Conditioner for MyIdea {
    fn condition(&self, labels: &[i64], _captions: &[Option<String>], device: &Device) -> Result<Condition> {
        let classes = 0..self.num_classes as i64;
        let bad = labels.iter().find(|label| !classes.contains(label));
        ensure!(bad.is_none(), "label {} is out of range; allowed is 0 to {}", bad.unwrap_or(&0), classes.end - 1);
        Ok(Condition::labels(labels, device))
    }

    fn null(&self, batch: usize, device: &Device) -> Condition {
        Condition::labels(&vec![self.num_classes as i64; batch], device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built() -> Box<dyn Conditioner> {
        let ctx = ConditionerContext { num_classes: 5, weights_dir: "absent".into() };
        MyIdeaConfig::default().build(&ctx, &ParamBuilder::new(&Device::flex(), 0)).unwrap()
    }

    fn labels(condition: Condition) -> Vec<i64> {
        let Condition::Labels(labels) = condition else { unreachable!("it makes labels") };
        labels.into_data().convert::<i64>().try_to_vec().unwrap()
    }

    #[test]
    fn labels_pass_and_the_null_label_is_the_number_of_classes() {
        let device = Device::flex();
        assert_eq!(labels(built().condition(&[0, 4, 2], &[None, None, None], &device).unwrap()), [0, 4, 2]);
        assert_eq!(labels(built().null(2, &device)), [5, 5]);
        assert_eq!(MyIdeaConfig::default().spec(5), ConditionSpec::Labels { num_classes: 5 });
    }

    #[test]
    fn a_label_out_of_range_is_an_error() {
        let error = built().condition(&[1, 5], &[None, None], &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("label 5") && error.contains("0 to 4"), "{error}");
    }
}
