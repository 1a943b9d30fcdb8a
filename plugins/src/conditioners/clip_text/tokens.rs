//! Captions to numbers of tokens.

use anyhow::{Context, Result, anyhow};
use tokenizers::Tokenizer;

/// The token that begins a text.
pub const BEGIN: &str = "<|startoftext|>";
/// The token that ends a text.
pub const END: &str = "<|endoftext|>";

/// Byte-pair encoding with the tokens that begin and end a text.
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    begin: i64,
    end: i64,
    num_tokens: usize,
}

impl ClipTokenizer {
    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// They are no tokenizer, or it does not know the tokens that begin and end a text.
    pub fn new(json: &[u8], num_tokens: usize) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|problem| anyhow!("{problem}"))?;
        // Length is this conditioner's business, whatever the file says.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|problem| anyhow!("{problem}"))?;
        let special = |token: &str| {
            let number = tokenizer.token_to_id(token).with_context(|| format!("it has no token `{token}`"))?;
            anyhow::Ok(i64::from(number))
        };
        let (begin, end) = (special(BEGIN)?, special(END)?);
        Ok(Self { tokenizer, begin, end, num_tokens })
    }

    /// Tokens that it knows.
    pub fn num_tokens(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Numbers of each caption's tokens, cut or filled up to the wanted count.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn encode(&self, captions: &[&str]) -> Result<Vec<Vec<i64>>> {
        let one = |caption: &&str| {
            let encoding = self.tokenizer.encode_fast(*caption, false).map_err(|problem| anyhow!("{problem}"))?;
            let mut tokens = vec![self.begin];
            tokens.extend(encoding.get_ids().iter().take(self.num_tokens - 2).map(|id| i64::from(*id)));
            tokens.resize(self.num_tokens, self.end);
            Ok(tokens)
        };
        captions.iter().map(one).collect()
    }
}
