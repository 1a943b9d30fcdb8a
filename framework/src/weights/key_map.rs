//! How published names become ours, as data.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::Module;

use super::key_import::put_together;
use super::pattern::Pattern;
use super::{HostTensor, ParamInfo, StateDict, TensorFile, load_state_dict, parameters};

/// A layout of published weights: which names become which of ours, and how their values are put together.
///
/// Names are dotted; in patterns `*` stands for one segment or a part of one and `**` for one or more segments, and the
/// stars of one side mean the same as those of the other, in order. Names that no rule mentions stay as they are.
/// Several rules for one of our names are alternatives: the first whose tensors are in the file is used.
///
/// ```
/// use realign::weights::{HostTensor, KeyMap, ParamInfo, StateDict};
/// let layout = KeyMap::new()
///     .strip(&["model."])
///     .concat_or_zeros("blocks.*.qkv.bias", &["layer.*.q.bias", "layer.*.k.bias", "layer.*.v.bias"], &["layer.*.k.bias"])
///     .ignore(&["head.**"]);
/// let tensor = |values: &[f32]| HostTensor { shape: vec![values.len()], values: values.to_vec() };
/// let published = StateDict::from([
///     ("model.layer.0.q.bias".into(), tensor(&[1.0, 2.0])),
///     ("model.layer.0.v.bias".into(), tensor(&[5.0, 6.0])),
///     ("model.head.bias".into(), tensor(&[9.0])),
/// ]);
/// let wanted = [ParamInfo { name: "blocks.0.qkv.bias".into(), shape: vec![6], is_trainable: false }];
/// let ours = layout.import(&published, &wanted)?;
/// assert_eq!(ours["blocks.0.qkv.bias"].values, [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
/// # anyhow::Ok(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct KeyMap {
    pub(super) prefixes: Vec<&'static [&'static str]>,
    rules: Vec<Rule>,
    pub(super) ignored: Vec<Pattern>,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub ours: Vec<Pattern>,
    pub theirs: Vec<Pattern>,
    /// Those of `theirs` that are zero where the file does not have them.
    pub or_zeros: Vec<Pattern>,
    pub how: How,
}

/// How one or several of our tensors come from one or several published ones.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// One tensor, whose published shape is this function of ours.
    One(fn(&[usize]) -> Vec<usize>),
    /// The rows of several published tensors below one another.
    Concat,
    /// One published tensor that holds the rows of several of ours.
    Split,
}

impl KeyMap {
    /// Names as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps only the names below the first of these prefixes that the file has, and cuts it off; a file with none of
    /// them stays as it is. May be repeated: `strip(&["ema.", "model."]).strip(&["module."])`.
    pub fn strip(mut self, prefixes: &'static [&'static str]) -> Self {
        self.prefixes.push(prefixes);
        self
    }

    /// Our name and the published one.
    pub fn rename(self, ours: &'static str, theirs: &'static str) -> Self {
        self.rule(&[ours], &[theirs], &[], How::One(|shape| shape.to_vec()))
    }

    /// Our name and the published one, whose tensor has the same values in another shape: `published` of ours.
    ///
    /// A linear patch embedding for our convolution:
    /// `.reshape("proj.weight", "embedder.weight", |ours| vec![ours[0], ours[1..].iter().product()])`.
    pub fn reshape(self, ours: &'static str, theirs: &'static str, published: fn(&[usize]) -> Vec<usize>) -> Self {
        self.rule(&[ours], &[theirs], &[], How::One(published))
    }

    /// Our tensor and the published ones whose rows make it up, in order.
    pub fn concat(self, ours: &'static str, theirs: &[&'static str]) -> Self {
        self.rule(&[ours], theirs, &[], How::Concat)
    }

    /// As [`concat`](Self::concat), where those of `theirs` that `or_zeros` repeats are zero when the file lacks them.
    pub fn concat_or_zeros(self, ours: &'static str, theirs: &[&'static str], or_zeros: &[&'static str]) -> Self {
        self.rule(&[ours], theirs, or_zeros, How::Concat)
    }

    /// Our tensors, in order, and the published one that holds the rows of all.
    pub fn split(self, ours: &[&'static str], theirs: &'static str) -> Self {
        self.rule(ours, &[theirs], &[], How::Split)
    }

    /// Published names that may be there and are not used.
    pub fn ignore(mut self, patterns: &[&'static str]) -> Self {
        self.ignored.extend(patterns.iter().map(|pattern| Pattern::new(pattern)));
        self
    }

    fn rule(mut self, ours: &[&'static str], theirs: &[&'static str], or_zeros: &[&'static str], how: How) -> Self {
        let patterns = |texts: &[&'static str]| texts.iter().map(|text| Pattern::new(text)).collect::<Vec<_>>();
        self.rules.push(Rule { ours: patterns(ours), theirs: patterns(theirs), or_zeros: patterns(or_zeros), how });
        self
    }

    /// Our tensors out of published ones that are in memory.
    ///
    /// # Errors
    /// Lists every tensor that is missing, not expected or of another shape, under its published name.
    pub fn import(&self, published: &StateDict, params: &[ParamInfo]) -> Result<StateDict> {
        let found = published.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()));
        put_together(self, found, params, |name| {
            published.get(name).cloned().with_context(|| format!("`{name}` is not there"))
        })
    }

    /// Our tensors out of a file; reads only those that are used, one at a time.
    ///
    /// # Errors
    /// As [`TensorFile::open`] and [`import`](Self::import).
    pub fn load(&self, path: &Path, params: &[ParamInfo]) -> Result<StateDict> {
        let file = TensorFile::open(path)?;
        self.take(&file, params)
    }

    /// Our tensors out of a file that is open.
    ///
    /// # Errors
    /// As [`import`](Self::import).
    pub fn take(&self, file: &TensorFile, params: &[ParamInfo]) -> Result<StateDict> {
        let found = file.tensors().map(|(name, info)| (name, info.shape));
        put_together(self, found, params, |name| file.read(name))
            .with_context(|| format!("`{}` ({})", file.path().display(), file.format()))
    }

    /// The module with all its parameters out of a file.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn fill<M: Module>(&self, module: M, path: &Path) -> Result<M> {
        let dict = self.load(path, &parameters(&module))?;
        load_state_dict(module, dict)
    }

    /// Published tensors out of ours, under `prefix`: the inverse of [`import`](Self::import).
    ///
    /// Of alternatives the first is written, concatenated tensors come apart in equal parts, and nothing that
    /// was ignored comes back.
    ///
    /// # Errors
    /// A tensor has no inverse.
    pub fn export(&self, ours: StateDict, prefix: &str) -> Result<StateDict> {
        let mut published = StateDict::new();
        let mut put = |name: String, tensor: HostTensor| {
            ensure!(!published.contains_key(&name), "two tensors would be called `{prefix}{name}`");
            published.insert(format!("{prefix}{name}"), tensor);
            Ok(())
        };
        for (name, tensor) in &ours {
            let Some((rule, part, captures)) = self.rules_of(name).next() else {
                put(name.clone(), tensor.clone())?;
                continue;
            };
            match rule.how {
                How::One(published) => {
                    let shape = published(&tensor.shape);
                    ensure!(shape.iter().product::<usize>() == tensor.values.len(), "`{name}` cannot be {shape:?}");
                    put(rule.theirs[0].fill(&captures), HostTensor { shape, values: tensor.values.clone() })?;
                }
                How::Concat => {
                    let parts = rows_apart(tensor, rule.theirs.len()).with_context(|| format!("`{name}`"))?;
                    for (pattern, part) in rule.theirs.iter().zip(parts) {
                        put(pattern.fill(&captures), part)?;
                    }
                }
                How::Split if part == 0 => {
                    let sibling = |pattern: &Pattern| {
                        let name = pattern.fill(&captures);
                        ours.get(&name).with_context(|| format!("`{name}` is missing"))
                    };
                    let parts = rule.ours.iter().map(sibling).collect::<Result<Vec<_>>>()?;
                    put(rule.theirs[0].fill(&captures), rows_together(&parts))?;
                }
                How::Split => {}
            }
        }
        Ok(published)
    }

    /// The rules for one of our names, with the place of the name in it and what its stars stand for.
    pub(super) fn rules_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Rule, usize, Vec<&'a str>)> {
        self.rules.iter().filter_map(move |rule| {
            let matches = rule.ours.iter().enumerate();
            matches.filter_map(|(i, ours)| Some((rule, i, ours.captures(name)?))).next()
        })
    }
}

/// A tensor's rows in `count` equal parts.
fn rows_apart(tensor: &HostTensor, count: usize) -> Result<Vec<HostTensor>> {
    let rows = tensor.shape.first().copied().unwrap_or(0);
    ensure!(rows > 0 && rows.is_multiple_of(count), "{rows} rows do not come apart in {count} equal parts");
    let mut shape = tensor.shape.clone();
    shape[0] = rows / count;
    let part = |values: &[f32]| HostTensor { shape: shape.clone(), values: values.to_vec() };
    Ok(tensor.values.chunks((tensor.values.len() / count).max(1)).map(part).collect())
}

/// The rows of several tensors below one another.
fn rows_together(parts: &[&HostTensor]) -> HostTensor {
    let mut shape = parts[0].shape.clone();
    shape[0] = parts.iter().map(|part| part.shape[0]).sum();
    HostTensor { shape, values: parts.iter().flat_map(|part| part.values.iter().copied()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], first: f32) -> HostTensor {
        let count = shape.iter().product::<usize>();
        HostTensor { shape: shape.to_vec(), values: (0..count).map(|i| first + i as f32).collect() }
    }

    fn params(list: &[(&str, &[usize])]) -> Vec<ParamInfo> {
        let param = |(name, shape): &(&str, &[usize])| ParamInfo {
            name: name.to_string(),
            shape: shape.to_vec(),
            is_trainable: false,
        };
        list.iter().map(param).collect()
    }

    fn dict(list: &[(&str, &[usize], f32)]) -> StateDict {
        list.iter().map(|(name, shape, first)| (name.to_string(), tensor(shape, *first))).collect()
    }

    fn layout() -> KeyMap {
        KeyMap::new()
            .strip(&["ema.", "model."])
            .strip(&["module."])
            .rename("blocks.*.norm1.**", "layer.*.ln_1.**")
            .rename("blocks.13.norm1.**", "layer.13.ln_13.**")
            .concat_or_zeros("blocks.*.qkv.bias", &["l.*.q.bias", "l.*.k.bias", "l.*.v.bias"], &["l.*.k.bias"])
            .split(&["blocks.*.gate.weight", "blocks.*.up.weight"], "l.*.w12.weight")
            .reshape("proj.weight", "embedder.weight", |ours| vec![ours[0], ours[1..].iter().product()])
            .ignore(&["head.**"])
    }

    #[test]
    fn every_operation_goes_there_and_back() {
        let published = dict(&[
            ("layer.0.ln_1.weight", &[5], 0.0),
            ("l.0.q.bias", &[3], 10.0),
            ("l.0.k.bias", &[3], 20.0),
            ("l.0.v.bias", &[3], 30.0),
            ("l.0.w12.weight", &[14, 5], 100.0),
            ("embedder.weight", &[5, 12], 200.0),
            ("pos_embed", &[1, 7, 5], 300.0),
        ]);
        let wanted = params(&[
            ("blocks.0.norm1.weight", &[5]),
            ("blocks.0.qkv.bias", &[9]),
            ("blocks.0.gate.weight", &[7, 5]),
            ("blocks.0.up.weight", &[7, 5]),
            ("proj.weight", &[5, 3, 2, 2]),
            ("pos_embed", &[1, 7, 5]),
        ]);
        let ours = layout().import(&published, &wanted).unwrap();
        assert_eq!(ours["blocks.0.qkv.bias"].values, [10.0, 11.0, 12.0, 20.0, 21.0, 22.0, 30.0, 31.0, 32.0]);
        assert_eq!(ours["blocks.0.up.weight"], tensor(&[7, 5], 135.0));
        assert_eq!(ours["proj.weight"], tensor(&[5, 3, 2, 2], 200.0));
        assert_eq!(layout().export(ours, "").unwrap(), published);
    }

    #[test]
    fn the_first_prefix_of_each_stage_wins_and_hides_the_rest() {
        let found = dict(&[
            ("model.module.pos_embed", &[3], 1.0),
            ("ema.module.pos_embed", &[3], 2.0),
            ("ema.other", &[3], 4.0),
            ("optimizer.pos_embed", &[3], 3.0),
        ]);
        let ours = layout().import(&found, &params(&[("pos_embed", &[3])])).unwrap();
        assert_eq!(ours["pos_embed"].values, [2.0, 3.0, 4.0]);
    }

    #[test]
    fn an_alternative_name_is_used_where_the_file_has_it() {
        let wanted = params(&[("blocks.13.norm1.bias", &[3])]);
        let typo = dict(&[("layer.13.ln_13.bias", &[3], 1.0), ("head.weight", &[3], 0.0)]);
        assert_eq!(layout().import(&typo, &wanted).unwrap()["blocks.13.norm1.bias"].values[0], 1.0);
    }

    #[test]
    fn an_absent_key_bias_is_zero_and_an_absent_query_bias_is_missing() {
        let wanted = params(&[("blocks.0.qkv.bias", &[9])]);
        let without = |name: &str| {
            let mut found = dict(&[("l.0.q.bias", &[3], 1.0), ("l.0.k.bias", &[3], 1.0), ("l.0.v.bias", &[3], 1.0)]);
            found.remove(name);
            layout().import(&found, &wanted)
        };
        assert_eq!(without("l.0.k.bias").unwrap()["blocks.0.qkv.bias"].values[3..6], [0.0; 3]);
        let message = without("l.0.q.bias").unwrap_err().to_string();
        assert!(message.contains("missing `l.0.q.bias`"), "{message}");
    }

    #[test]
    fn misfits_are_listed_under_their_published_names_with_the_nearest_one() {
        let found = dict(&[
            ("model.layer.0.ln_l.weight", &[5], 0.0),
            ("model.embedder.weight", &[12, 5], 0.0),
            ("model.l.0.w12.weight", &[13, 5], 0.0),
        ]);
        let wanted = params(&[
            ("blocks.0.norm1.weight", &[5]),
            ("proj.weight", &[5, 3, 2, 2]),
            ("blocks.0.gate.weight", &[7, 5]),
            ("blocks.0.up.weight", &[7, 5]),
        ]);
        let message = layout().import(&found, &wanted).unwrap_err().to_string();
        let expected = "weights do not fit: 1 missing, 1 not expected, 2 of another shape\n  \
            missing `model.layer.0.ln_1.weight` [5]; did you mean `model.layer.0.ln_l.weight` [5], which is there?\n  \
            not expected `model.layer.0.ln_l.weight` [5]\n  \
            `model.embedder.weight` is [12, 5], expected [5, 12]\n  \
            `model.l.0.w12.weight` is [13, 5], expected [14, 5]";
        assert_eq!(message, expected);
    }

    #[test]
    fn a_file_of_another_network_is_told_by_its_names() {
        let found = dict(&[("encoder.x.weight", &[5], 0.0), ("decoder.y", &[5], 0.0)]);
        let message = layout().import(&found, &params(&[("pos_embed", &[3])])).unwrap_err().to_string();
        assert!(message.contains("none of its names is of this layout"), "{message}");
        assert!(message.contains("`decoder.y`") && message.contains("expected names like `pos_embed`"), "{message}");
    }
}
