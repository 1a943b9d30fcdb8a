//! Makes our tensors out of published ones, as a [`KeyMap`] says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::key_map::{How, KeyMap};
use super::misfit::Misfit;
use super::{HostTensor, ParamInfo, StateDict};

/// Shapes of the published tensors by their names after the prefix.
type Found<'a> = BTreeMap<&'a str, &'a [usize]>;

/// Our tensors; `read` gives the values of a published one.
///
/// # Errors
/// Every misfit at once, or `read` fails.
pub(super) fn put_together<'a>(
    map: &KeyMap,
    found: impl Iterator<Item = (&'a str, &'a [usize])>,
    params: &[ParamInfo],
    read: impl Fn(&str) -> Result<HostTensor>,
) -> Result<StateDict> {
    let (prefix, found) = below_prefix(map, found.collect());
    let mut misfit = Misfit::new(&prefix);
    let (mut used, mut steps) = (BTreeSet::new(), vec![]);
    let by_name: BTreeMap<&str, &ParamInfo> = params.iter().map(|param| (param.name.as_str(), param)).collect();
    for param in params {
        let choice = Choice::of(map, param, &found);
        used.extend(choice.sources.iter().cloned());
        steps.extend(choice.step(param, &by_name, &found, &mut misfit));
    }
    for (name, shape) in &found {
        let is_ignored = map.ignored.iter().any(|pattern| pattern.captures(name).is_some());
        if !is_ignored && !used.contains(*name) {
            misfit.unexpected(name, shape);
        }
    }
    misfit.into_result(used.iter().any(|name| found.contains_key(name.as_str())))?;
    let read = |name: &String| read(&format!("{prefix}{name}"));
    steps.into_iter().map(|step| Ok((step.param.name.clone(), step.make(read)?))).collect()
}

/// The prefix that is cut off, and what lies below it.
fn below_prefix<'a>(map: &KeyMap, mut found: Vec<(&'a str, &'a [usize])>) -> (String, Found<'a>) {
    let mut prefix = String::new();
    for choices in &map.prefixes {
        let is_there = |choice: &&&str| found.iter().any(|(name, _)| name.starts_with(**choice));
        if let Some(choice) = choices.iter().find(is_there) {
            prefix.push_str(choice);
            let below = |(name, shape): (&'a str, &'a [usize])| Some((name.strip_prefix(choice)?, shape));
            found = found.into_iter().filter_map(below).collect();
        }
    }
    (prefix, found.into_iter().collect())
}

/// One way to make a parameter.
struct Choice {
    sources: Vec<String>,
    /// Sources that are zero where they are absent.
    or_zeros: Vec<String>,
    /// Our names that share the source, and which of them this is.
    siblings: Vec<String>,
    place: usize,
    how: How,
}

impl Choice {
    /// The first rule whose tensors are all there, else the first of which one is there, else the first.
    fn of(map: &KeyMap, param: &ParamInfo, found: &Found<'_>) -> Self {
        let from_rules = map.rules_of(&param.name).map(|(rule, place, captures)| {
            let [sources, or_zeros, siblings] = [&rule.theirs, &rule.or_zeros, &rule.ours]
                .map(|patterns| patterns.iter().map(|pattern| pattern.fill(&captures)).collect());
            Self { sources, or_zeros, siblings, place, how: rule.how }
        });
        let mut choices: Vec<Self> = from_rules.collect();
        choices.push(Self {
            sources: vec![param.name.clone()],
            or_zeros: vec![],
            siblings: vec![],
            place: 0,
            how: How::One(|shape| shape.to_vec()),
        });
        let is_there = |name: &String| found.contains_key(name.as_str());
        let has_some = |choice: &Self| choice.sources.iter().any(is_there);
        let is_whole = |choice: &Self| {
            has_some(choice) && choice.sources.iter().all(|name| is_there(name) || choice.or_zeros.contains(name))
        };
        let best = choices.iter().position(is_whole).or_else(|| choices.iter().position(has_some));
        choices.swap_remove(best.unwrap_or(0))
    }

    /// The step that makes the parameter; nothing, and an entry in `misfit`, when it cannot be made.
    fn step<'p>(
        self,
        param: &'p ParamInfo,
        params: &BTreeMap<&str, &ParamInfo>,
        found: &Found<'_>,
        misfit: &mut Misfit<'_>,
    ) -> Option<Step<'p>> {
        let shape = |name: &String| found.get(name.as_str()).copied();
        let absent: Vec<&String> = self.sources.iter().filter(|name| shape(name).is_none()).collect();
        if let Some(name) = absent.iter().find(|name| !self.or_zeros.contains(name)) {
            let expected = if let How::One(published) = self.how { Some(published(&param.shape)) } else { None };
            misfit.missing(name, expected);
            return None;
        }
        let rows = param.shape.first().copied().unwrap_or(0);
        let mut first_row = 0;
        match self.how {
            How::One(published) => {
                misfit.check(&self.sources[0], shape(&self.sources[0])?, &published(&param.shape))?;
            }
            How::Split => {
                let rows_of = |name: &String| params.get(name.as_str()).and_then(|param| param.shape.first()).copied();
                let siblings: Vec<usize> = self.siblings.iter().map(|name| rows_of(name).unwrap_or(rows)).collect();
                let expected = with_rows(&param.shape, siblings.iter().sum());
                misfit.check(&self.sources[0], shape(&self.sources[0])?, &expected)?;
                first_row = siblings[..self.place].iter().sum();
            }
            How::Concat => {
                let present: Vec<_> = self.sources.iter().filter_map(|name| Some((name, shape(name)?))).collect();
                let total: usize = present.iter().filter_map(|(_, shape)| shape.first()).sum();
                let fits = if absent.is_empty() {
                    total == rows
                } else {
                    total < rows && (rows - total).is_multiple_of(absent.len())
                };
                for (name, shape) in present {
                    // Where rows do not add up, each part is shown beside an equal share.
                    let expected = if fits { shape.first().copied() } else { Some(rows / self.sources.len()) };
                    misfit.check(name, shape, &with_rows(&param.shape, expected.unwrap_or(0)))?;
                }
                if !fits {
                    misfit.rows(&self.sources, total, rows);
                    return None;
                }
            }
        }
        let is_there = |name: String| found.contains_key(name.as_str()).then_some(name);
        Some(Step { param, sources: self.sources.into_iter().map(is_there).collect(), how: self.how, first_row })
    }
}

fn with_rows(shape: &[usize], rows: usize) -> Vec<usize> {
    std::iter::once(rows).chain(shape.iter().skip(1).copied()).collect()
}

/// How a parameter is made, with all shapes checked.
struct Step<'p> {
    param: &'p ParamInfo,
    /// Published names; nothing for one that is zeros.
    sources: Vec<Option<String>>,
    how: How,
    /// First row of the published tensor that is meant.
    first_row: usize,
}

impl Step<'_> {
    fn make(&self, read: impl Fn(&String) -> Result<HostTensor>) -> Result<HostTensor> {
        let count: usize = self.param.shape.iter().product();
        let parts = self.sources.iter().map(|source| source.as_ref().map(&read).transpose());
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        let values = match self.how {
            How::One(_) => parts.pop().flatten().map(|tensor| tensor.values),
            How::Split => {
                let rows = self.param.shape.first().copied().unwrap_or(1).max(1);
                let start = self.first_row * (count / rows);
                let cut = |tensor: HostTensor| tensor.values.get(start..start + count).map(<[f32]>::to_vec);
                parts.pop().flatten().and_then(cut)
            }
            How::Concat => {
                let present: usize = parts.iter().flatten().map(|tensor| tensor.values.len()).sum();
                let num_absent = parts.iter().filter(|part| part.is_none()).count();
                let zeros = count.saturating_sub(present) / num_absent.max(1);
                let values = parts.into_iter().map(|part| part.map_or(vec![0.0; zeros], |tensor| tensor.values));
                Some(values.flatten().collect())
            }
        };
        let values = values.filter(|values: &Vec<f32>| values.len() == count);
        let values = values.with_context(|| format!("`{}` did not come out in its size", self.param.name))?;
        Ok(HostTensor { shape: self.param.shape.clone(), values })
    }
}
