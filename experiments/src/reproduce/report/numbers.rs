//! The report's tables.

use super::Findings;
use crate::reproduce::entry::{Entry, Kind};
use crate::reproduce::setting::{Setting, encoder_name};
use crate::reproduce::state::{Outcome, same_metric};
use crate::table::Table;

/// A number with its spread over seeds, or its interval.
pub fn shown(outcome: Outcome) -> String {
    let digits = match outcome.mean.abs() {
        100.0.. => 1,
        10.0.. => 2,
        0.1.. | 0.0 => 3,
        // Three digits that say something.
        small => (2.0 - small.log10().floor()).clamp(3.0, 9.0) as usize,
    };
    let text = |value: f64| format!("{value:.digits$}");
    match (outcome.spread, outcome.interval) {
        (Some(spread), _) => format!("{} ± {}", text(outcome.mean), text(spread)),
        (None, Some([low, high])) => format!("{} [{}, {}]", text(outcome.mean), text(low), text(high)),
        (None, None) => text(outcome.mean),
    }
}

/// What a run aligns with: encoder and block.
pub fn aligned(setting: &Setting) -> String {
    let Some(term) = setting.plan.recipe.alignment.first() else { return "nothing".into() };
    let sections = term.encoders.iter().map(|encoder| serde_yaml::to_value(encoder).unwrap_or_default());
    let names: Vec<String> = sections.map(|section| encoder_name(&section)).collect();
    format!("{}, block {} of {}", names.join(" + "), term.encoder_depth, setting.plan.backbone.depth)
}

/// A line for each evaluation that was run: what it is, and our numbers, the one that orders first.
pub fn runs(findings: &Findings<'_>) -> Table {
    let mut metrics: Vec<&String> = findings.metrics.iter().collect();
    metrics.sort_by_key(|metric| Some(*metric) != findings.metric.as_ref());
    let mut table = Table::new(["#", "method", "aligned with", "steps", "sampling", "seeds"]);
    table.header.extend(metrics.iter().map(|metric| metric.to_string()));
    for (at, number) in findings.distinct.iter().zip(1..) {
        let ours = &findings.ours[*at];
        let Some(setting) = findings.subject.settings[*at].first() else { continue };
        let sample = &setting.plan.recipe.sample;
        let sampling =
            format!("guidance {}, {} evaluations", sample.cfg_scale, sample.sampler.build().num_evaluations());
        let mut row = vec![number.to_string(), findings.run_name(*at), aligned(setting)];
        row.extend([setting.steps.to_string(), sampling]);
        row.push(format!("{} of {}", ours.evaluations.len(), findings.subject.seeds));
        row.extend(metrics.iter().map(|metric| ours.outcome(metric).map_or("–".into(), shown)));
        table.rows.push(row);
    }
    table
}

/// As [`runs`], short.
pub fn summary(findings: &Findings<'_>) -> Table {
    let mut table = runs(findings);
    let kept = |row: &mut Vec<String>| {
        let mut short: Vec<String> = row.iter().take(3).cloned().collect();
        short.extend(row.get(6).cloned());
        *row = short;
    };
    kept(&mut table.header);
    table.rows.iter_mut().for_each(kept);
    table
}

/// A line for each cell of the paper's table: its numbers, and ours where the paper's metric is measured.
pub fn beside(findings: &Findings<'_>) -> Table {
    let subject = findings.subject;
    let (has_columns, metrics) = (!subject.table.columns.is_empty(), &subject.table.metrics);
    let both: Vec<(usize, &str)> = metrics.iter().enumerate().filter_map(|(i, m)| Some((i, same_metric(m)?))).collect();
    let measured: Vec<(usize, &str)> =
        both.into_iter().filter(|(_, ours)| findings.metrics.iter().any(|known| known == ours)).collect();
    let mut table = Table::new(["row"]);
    if has_columns {
        table.header.push("column".into());
    }
    table.header.extend(metrics.iter().map(|metric| format!("paper {metric}")));
    for (i, _) in &measured {
        table.header.extend([format!("our {}", metrics[*i]), format!("ours − paper {}", metrics[*i])]);
    }
    let is_other = findings.metric.as_deref().filter(|metric| measured.iter().all(|(_, ours)| ours != metric));
    table.header.extend(is_other.map(|metric| format!("our {metric}")));
    table.header.extend(["paper change", "our change", "run"].map(str::to_string));
    for (at, entry) in subject.entries.iter().enumerate() {
        let mut row = vec![entry.label.clone()];
        if has_columns {
            row.push(entry.column.clone().unwrap_or_default());
        }
        row.extend((0..metrics.len()).map(|i| entry.paper[i].clone().unwrap_or("–".into())));
        for (i, name) in &measured {
            let ours = findings.ours[at].outcome(name);
            row.push(ours.map_or("–".into(), shown));
            let difference = ours.zip(entry.number(*i)).map(|(ours, paper)| format!("{:+.2}", ours.mean - paper));
            row.push(difference.unwrap_or("–".into()));
        }
        row.extend(is_other.map(|metric| findings.ours[at].outcome(metric).map_or("–".into(), shown)));
        row.extend(gains(findings, at));
        row.push(match (entry.kind, findings.run_number(at)) {
            (Kind::Quoted, _) => "quoted".into(),
            (_, Some(number)) => number.to_string(),
            _ => "–".into(),
        });
        table.rows.push(row);
    }
    table
}

/// Change against the first method with everything else equal, in the paper and here.
fn gains(findings: &Findings<'_>, at: usize) -> [String; 2] {
    let entries = findings.subject.entries;
    let is_first = |other: &Entry| other.kind == Kind::Run && entries[at].differs_in_arm_alone(other);
    let none = || ["–".to_string(), "–".to_string()];
    let Some(base) = entries[..at].iter().position(is_first) else { return none() };
    let percent = |value: f64, base: f64| format!("{:+.1} %", (value / base - 1.0) * 100.0);
    let paper = entries[at].number(0).zip(entries[base].number(0)).map(|(value, base)| percent(value, base));
    let is_same = findings.results[at] == findings.results[base];
    let ours = findings.metric.as_deref().filter(|_| !is_same).and_then(|metric| {
        let [value, base] = [at, base].map(|at| findings.ours[at].outcome(metric));
        Some(percent(value?.mean, base?.mean))
    });
    [paper.unwrap_or("–".into()), ours.unwrap_or("–".into())]
}

/// Every number with what made it, for other programs.
pub fn results(findings: &Findings<'_>) -> Table {
    let mut table = Table::new([
        "row",
        "label",
        "column",
        "kind",
        "method",
        "metric",
        "paper",
        "ours",
        "spread",
        "low",
        "high",
        "seeds",
        "difference",
        "steps",
        "cfg_scale",
        "evaluations",
        "samples",
        "convention",
        "overlay",
        "sampling_digest",
        "run_folder",
        "instead",
    ]);
    let text = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for (at, entry) in findings.subject.entries.iter().enumerate() {
        let setting = findings.subject.settings[at].first();
        let paper = findings
            .subject
            .table
            .metrics
            .iter()
            .enumerate()
            .map(|(i, metric)| (metric.clone(), same_metric(metric).map(str::to_string), entry.paper[i].clone()));
        let is_ours_alone = |metric: &&String| {
            findings.subject.table.metrics.iter().all(|known| same_metric(known) != Some(metric.as_str()))
        };
        let ours =
            findings.metrics.iter().filter(is_ours_alone).map(|metric| (metric.clone(), Some(metric.clone()), None));
        for (name, own, printed) in paper.chain(ours) {
            let evaluated = own.as_ref().and_then(|own| {
                let found = findings.ours[at].evaluations.iter().find(|found| found.metrics.contains_key(own))?;
                Some((found.settings.num_samples, found.metrics[own].convention.clone()))
            });
            let outcome = own.and_then(|own| findings.ours[at].outcome(&own));
            let number: Option<f64> = printed.as_ref().and_then(|printed| printed.parse().ok());
            let kind = match entry.kind {
                Kind::Run => "run",
                Kind::Extra => "extra",
                Kind::Quoted => "quoted",
            };
            let mut row = vec![entry.row.to_string(), entry.label.clone(), entry.column.clone().unwrap_or_default()];
            row.extend([kind.into(), entry.arm.clone().unwrap_or_default(), name, printed.unwrap_or_default()]);
            row.push(text(outcome.map(|outcome| outcome.mean)));
            row.push(text(outcome.and_then(|outcome| outcome.spread)));
            row.extend([0, 1].map(|end| text(outcome.and_then(|outcome| Some(outcome.interval?[end])))));
            row.push(outcome.map_or(0, |outcome| outcome.count).to_string());
            row.push(text(outcome.zip(number).map(|(ours, paper)| ours.mean - paper)));
            let sample = setting.map(|setting| &setting.plan.recipe.sample);
            row.push(setting.map_or(String::new(), |setting| setting.steps.to_string()));
            row.push(sample.map_or(String::new(), |sample| sample.cfg_scale.to_string()));
            row.push(sample.map_or(String::new(), |sample| sample.sampler.build().num_evaluations().to_string()));
            let (samples, convention) = evaluated.unzip();
            row.push(samples.map_or(String::new(), |samples| samples.to_string()));
            row.push(convention.unwrap_or_default());
            let overlay = setting.map(|setting| [setting.train_args(), setting.sample_sets.clone()].concat().join(" "));
            row.push(overlay.unwrap_or_default());
            row.push(setting.map_or(String::new(), |setting| setting.sampling.clone()));
            row.push(setting.map_or(String::new(), |setting| setting.run_dir.display().to_string()));
            row.push(setting.map_or(String::new(), |setting| setting.instead.join("; ")));
            table.rows.push(row);
        }
    }
    table
}

/// A line for each encoder with its structure, as `realign correlate` reads it; numbers of several columns carry the
/// column's name.
pub fn encoders(findings: &Findings<'_>) -> Table {
    let subject = findings.subject;
    let columns: Vec<Option<String>> = match subject.table.columns.is_empty() {
        true => vec![None],
        false => subject.table.columns.iter().map(|column| Some(column.label.clone())).collect(),
    };
    let mut table = Table::new(["encoder"]);
    for column in &columns {
        let suffix = column.as_ref().map(|column| format!("@{column}")).unwrap_or_default();
        table.header.extend(findings.metrics.iter().map(|metric| format!("{metric}{suffix}")));
    }
    let properties = subject.structure.metrics();
    table.header.extend(properties.iter().map(|property| property.to_string()));
    let mut names: Vec<&String> = vec![];
    for entry in subject.entries {
        if !names.contains(&&entry.label) {
            names.push(&entry.label);
        }
    }
    for name in names {
        let mut row = vec![name.clone()];
        for column in &columns {
            let at = subject.entries.iter().position(|entry| entry.label == *name && entry.column == *column);
            let number = |metric: &String| Some(findings.ours[at?].outcome(metric)?.mean.to_string());
            row.extend(findings.metrics.iter().map(|metric| number(metric).unwrap_or_default()));
        }
        let known = |property: &&str| Some(subject.structure.of(name)?.get(*property)?.to_string());
        row.extend(properties.iter().map(|property| known(property).unwrap_or_default()));
        table.rows.push(row);
    }
    table
}
