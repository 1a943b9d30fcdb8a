//! Data set `my_idea`: pictures of one gray level; the class is the level.

use anyhow::{Result, ensure};
use realign::data::image::RgbImage;
use realign::plugin::{Dataset, DatasetConfig, DatasetContext, Example};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const LEVELS: [u8; 4] = [0, 85, 170, 255];

/// `my_idea`: plain gray pictures in four levels, which are the classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Examples per epoch, at least 1.
    #[schemars(range(min = 1))]
    pub num_examples: usize,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { num_examples: 1000 }
    }
}

#[typetag::serde(name = "my_idea")]
impl DatasetConfig for MyIdeaConfig {
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        ensure!(self.num_examples > 0, "data set `my_idea`: num_examples is `0`; it must be at least 1");
        Ok(Box::new(MyIdea { num_examples: self.num_examples, size: ctx.image_size }))
    }

    fn num_classes_hint(&self) -> Option<usize> {
        Some(LEVELS.len())
    }

    fn has_captions(&self) -> bool {
        true
    }
}

realign::register!(DatasetConfig as "dataset": MyIdeaConfig);

/// The opened data set `my_idea`.
#[derive(Debug)]
pub struct MyIdea {
    num_examples: usize,
    size: usize,
}

impl Dataset for MyIdea {
    fn len(&self) -> usize {
        self.num_examples
    }

    fn num_classes(&self) -> usize {
        LEVELS.len()
    }

    fn class_name(&self, label: usize) -> String {
        format!("gray {}", LEVELS[label % LEVELS.len()])
    }

    fn prompt(&self, _idx: u64, label: usize) -> Option<String> {
        Some(self.class_name(label))
    }

    fn get(&self, idx: usize) -> Result<Example> {
        ensure!(idx < self.num_examples, "data set `my_idea`: index {idx} of {} examples", self.num_examples);
        let label = idx % LEVELS.len();
        let image = RgbImage::new(self.size, self.size, vec![LEVELS[label]; self.size * self.size * 3])?;
        Ok(Example { image, label, captions: vec![self.class_name(label)], mask: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_their_class_and_size() {
        let data = MyIdeaConfig::default().open(&DatasetContext { image_size: 9, seed: 0 }).unwrap();
        let example = data.get(6).unwrap();
        assert_eq!((example.label, example.image.pixels()), (2, [170; 243].as_slice()));
        assert!(data.get(1000).is_err());
    }

    #[test]
    fn a_recipe_can_name_it_and_unknown_keys_are_refused() {
        let parse = |text: &str| realign::serde_yaml::from_str::<Box<dyn DatasetConfig>>(text);
        assert!(parse("{type: my_idea, num_examples: 3}").is_ok());
        assert!(parse("{type: my_idea, examples: 3}").is_err());
    }
}
