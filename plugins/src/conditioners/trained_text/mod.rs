//! A small text encoder over words or bytes that trains with the network: text-to-image without a published encoder.

mod network;

pub use network::TrainedText;

use anyhow::{Result, bail, ensure};
use realign::nn::ParamBuilder;
use realign::plugin::{ConditionSpec, Conditioner, ConditionerConfig, ConditionerContext};
use realign::recipe::Check;
use realign::registry::nearest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MOST_SHOWN: usize = 80; // letters of a caption in a message

/// `trained_text`: a small transformer over the words or bytes of a caption, trained with the network.
///
/// The empty caption is the null condition. Nothing is masked: what fills up a short caption is a token as any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainedTextConfig {
    /// All words that captions may hold, in lower case; none stands for the bytes of the text.
    pub vocabulary: Vec<String>,
    /// Tokens of a caption; shorter ones are filled up, longer ones refused.
    #[schemars(range(min = 1, max = 4096))]
    pub max_tokens: usize,
    /// Channels of a token, a multiple of `num_heads`.
    #[schemars(range(min = 1, max = 65_536))]
    pub channels: usize,
    /// Transformer blocks over the tokens.
    #[schemars(range(min = 0, max = 100))]
    pub depth: usize,
    /// Attention heads.
    #[schemars(range(min = 1))]
    pub num_heads: usize,
}

impl Default for TrainedTextConfig {
    fn default() -> Self {
        Self { vocabulary: vec![], max_tokens: 64, channels: 64, depth: 1, num_heads: 4 }
    }
}

impl TrainedTextConfig {
    /// Different tokens: one that fills up, and one for each word or byte.
    fn num_tokens(&self) -> usize {
        1 + if self.vocabulary.is_empty() { 256 } else { self.vocabulary.len() }
    }

    /// `max_tokens` numbers of tokens; 0 fills up.
    ///
    /// # Errors
    /// The caption is too long, or has a word that is not in the vocabulary.
    fn tokens(&self, caption: &str) -> Result<Vec<i64>> {
        let mut tokens = if self.vocabulary.is_empty() {
            caption.bytes().map(|byte| i64::from(byte) + 1).collect()
        } else {
            words(caption).map(|word| self.word(&word)).collect::<Result<Vec<_>>>()?
        };
        ensure!(
            tokens.len() <= self.max_tokens,
            "the caption `{}` has {} tokens; conditioner.max_tokens is `{}`",
            shown(caption),
            tokens.len(),
            self.max_tokens
        );
        tokens.resize(self.max_tokens, 0);
        Ok(tokens)
    }

    fn word(&self, word: &str) -> Result<i64> {
        if let Some(at) = self.vocabulary.iter().position(|known| known == word) {
            return Ok(at as i64 + 1);
        }
        let known = self.vocabulary.iter().map(String::as_str);
        let meant = nearest(word, known).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        let word = shown(word);
        bail!("unknown word `{word}` in a caption; {meant}known: {}", self.vocabulary.join(", "))
    }
}

/// The beginning of a text, for messages.
fn shown(text: &str) -> String {
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Runs of letters and digits, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[typetag::serde(name = "trained_text")]
impl ConditionerConfig for TrainedTextConfig {
    fn spec(&self, _num_classes: usize) -> ConditionSpec {
        ConditionSpec::Text { tokens: self.max_tokens, channels: self.channels }
    }

    fn is_trained(&self) -> bool {
        true
    }

    fn build(&self, _ctx: &ConditionerContext, params: &ParamBuilder) -> Result<Box<dyn Conditioner>> {
        Ok(Box::new(TrainedText::new(self, params)))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("max_tokens", self.max_tokens, 1, 4096);
        check.range("channels", self.channels, 1, 65_536);
        check.range("depth", self.depth, 0, 100);
        if self.num_heads == 0 || !self.channels.is_multiple_of(self.num_heads) {
            check.bad("num_heads", format!("`{}` does not divide channels `{}`", self.num_heads, self.channels));
        }
        for (i, word) in self.vocabulary.iter().enumerate() {
            let key = format!("vocabulary.{i}");
            if !words(word).eq([word.clone()]) {
                check.bad(&key, format!("`{word}` is not a word of letters and digits in lower case"));
            }
            if self.vocabulary[..i].contains(word) {
                check.bad(&key, format!("`{word}` is given twice"));
            }
        }
    }
}

realign::register!(ConditionerConfig as "conditioner": TrainedTextConfig);

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainedTextConfig {
        let vocabulary = ["a", "red", "circle"].map(String::from).to_vec();
        TrainedTextConfig { vocabulary, max_tokens: 4, ..Default::default() }
    }

    #[test]
    fn words_and_bytes_become_numbers_and_short_captions_are_filled_up() {
        assert_eq!(config().tokens("A red, red circle.").unwrap(), [1, 2, 2, 3]);
        assert_eq!(config().tokens("").unwrap(), [0; 4]);
        let bytes = TrainedTextConfig { vocabulary: vec![], ..config() };
        assert_eq!(bytes.tokens("aé").unwrap(), [98, 196, 170, 0]);
        assert_eq!((config().num_tokens(), bytes.num_tokens()), (4, 257));
    }

    #[test]
    fn an_unknown_word_and_a_long_caption_are_refused() {
        let message = |caption: &str| config().tokens(caption).unwrap_err().to_string();
        assert!(message("a red circel").contains("`circel` in a caption; did you mean `circle`?"));
        assert!(message("a a a a a").contains("5 tokens; conditioner.max_tokens is `4`"));
    }
}
