//! What a report says, piece by piece.

use std::collections::BTreeSet;

use anyhow::Result;
use realign::recipe::Recipe;

use super::Findings;
use super::block::Block;
use super::{correlations, figures, numbers, pictures};
use crate::reproduce::entry::Kind;
use crate::reproduce::orders::{Order, Verdict};
use crate::reproduce::state::is_published;
use crate::table::Table;

/// The report.
///
/// # Errors
/// A figure cannot be drawn or a picture cannot be read.
pub fn blocks(findings: &Findings<'_>) -> Result<Vec<Block>> {
    let subject = findings.subject;
    let mut blocks = vec![
        Block::Heading(1, subject.table.title.clone()),
        Block::Text(format!(
            "{} of the iREPA paper (arXiv 2512.10794), run again at profile `{}`, {}.",
            capitalized(&subject.table.source),
            subject.scale.profile,
            if subject.seeds == 1 { "one seed".into() } else { format!("{} seeds", subject.seeds) }
        )),
    ];
    blocks.extend(notices(findings));
    blocks.push(Block::Heading(2, "Does the paper's order hold?".into()));
    blocks.extend(order_blocks(findings));
    blocks.push(Block::Heading(2, "What was run".into()));
    blocks.extend(figures::intervals(findings)?);
    blocks.push(Block::Table(numbers::runs(findings)));
    blocks.push(Block::Heading(2, "Beside the paper".into()));
    blocks.push(Block::Text(beside_text(findings)));
    blocks.push(Block::Table(numbers::beside(findings)));
    blocks.extend(correlations::blocks(findings)?);
    let curves = figures::curves(findings)?;
    if !curves.is_empty() {
        blocks.push(Block::Heading(2, "While training".into()));
        blocks.extend(curves);
    }
    let grids = pictures::grids(findings)?;
    if !grids.is_empty() {
        blocks.push(Block::Heading(2, "Samples".into()));
        blocks.push(Block::Text(
            "The same noise and the same classes in every grid, seed 0, sampled as evaluated.".into(),
        ));
        blocks.push(Block::Pictures(grids));
    }
    blocks.extend(settings_blocks(findings));
    Ok(blocks)
}

/// What must not be overlooked: scale, metrics, missing runs.
fn notices(findings: &Findings<'_>) -> Vec<Block> {
    let subject = findings.subject;
    let mut notices = vec![];
    if !subject.scale.is_paper {
        let data = findings.distinct.first().and_then(|at| subject.settings[*at].first()).map(|setting| {
            let recipe = &setting.plan.recipe;
            let [width, depth] = [setting.plan.backbone.hidden_size, setting.plan.backbone.depth];
            format!(
                "data `{}` at {} pixels, {depth} blocks of width {width}, {} steps of {} pictures",
                (recipe.data.info().name)(),
                recipe.image_size,
                setting.steps,
                recipe.train.global_batch_size
            )
        });
        notices.push(format!(
            "This is a small-scale repetition: {}. It can agree with the paper's order or not; its numbers say nothing \
             about the paper's.",
            data.unwrap_or_default()
        ));
    }
    match &findings.metric {
        None if findings.ours.iter().any(|ours| !ours.evaluations.is_empty()) => notices.push(format!(
            "The evaluations hold no `{}`, which this table is about: `evaluation.features` names other networks.",
            subject.table.metrics.first().map_or("number", String::as_str)
        )),
        None => notices.push("No run has been evaluated yet: there are no numbers of ours.".into()),
        Some(metric) if !is_published(metric) => notices.push(format!(
            "`{metric}` is not FID. It is computed from features of another network than the published Inception; it \
             orders runs of ours among each other and cannot be compared with any number of the paper."
        )),
        Some(_) => {}
    }
    notices.extend(measured_by_their_target(findings));
    let few: Vec<usize> =
        findings.ours.iter().flat_map(|ours| &ours.evaluations).map(|one| one.settings.num_samples).collect();
    if let Some(count) = few.iter().min().filter(|count| **count < 50_000 && findings.metric.is_some()) {
        notices.push(format!(
            "Each number is taken over {count} samples; the paper takes 50,000, and fewer raise every distance."
        ));
    }
    if subject.seeds == 1 && findings.metric.is_some() {
        notices.push("One seed: what another seed would change is unknown. `--seeds 3` tells.".into());
    }
    let left = subject.trainings.iter().filter(|training| !training.is_done()).count();
    if left > 0 {
        notices
            .push(format!("{left} of {} runs are not finished; the command below goes on.", subject.trainings.len()));
    }
    notices.extend(subject.failures.iter().map(|failure| format!("Failed: {}", failure.message)));
    notices.into_iter().map(Block::Notice).collect()
}

/// Names the methods whose samples are measured in the features that they were aligned with.
fn measured_by_their_target(findings: &Findings<'_>) -> Option<String> {
    let subject = findings.subject;
    let is_concerned = |at: &&usize| {
        let recipe = subject.settings[**at].first().map(|setting| &setting.plan.recipe);
        recipe.is_some_and(is_measured_by_its_target)
    };
    let concerned = findings.distinct.iter().filter(is_concerned);
    let arms: BTreeSet<&str> = concerned.filter_map(|at| subject.entries[*at].arm.as_deref()).collect();
    let arms: Vec<&str> = arms.into_iter().collect();
    (!arms.is_empty()).then(|| {
        format!(
            "The encoder that measures is also the target of {}, which favors what is aligned. \
             `--set 'evaluation.features=[...]'` names another.",
            arms.join(", ")
        )
    })
}

fn is_measured_by_its_target(recipe: &Recipe) -> bool {
    let encoders = recipe.alignment.iter().flat_map(|term| &term.encoders);
    let targets: Vec<_> = encoders.filter_map(|encoder| serde_json::to_value(encoder).ok()).collect();
    let mut networks = recipe.evaluation.features.iter().filter_map(|network| serde_json::to_value(network).ok());
    networks.any(|network| network.get("encoder").is_some_and(|encoder| targets.contains(encoder)))
}

fn order_blocks(findings: &Findings<'_>) -> Vec<Block> {
    if findings.orders.is_empty() {
        return vec![Block::Text("The paper prints no numbers that order these rows.".into())];
    }
    let mut blocks = vec![];
    let count = |verdict: &[Verdict]| findings.orders.iter().filter(|order| verdict.contains(&order.verdict)).count();
    let parts = [
        (count(&[Verdict::Holds]), "hold"),
        (count(&[Verdict::WithinNoise]), "within noise"),
        (count(&[Verdict::Reversed]), "do not hold"),
        (count(&[Verdict::HoldsOnce]), "in the same order by numbers of unknown noise"),
        (count(&[Verdict::ReversedOnce]), "in the other order by numbers of unknown noise"),
        (count(&[Verdict::SameRun]), "not tested at this scale"),
        (count(&[Verdict::NotRun]), "not run"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}")).collect();
    blocks.push(Block::Text(format!("Statements of the paper: {}.", parts.join(", "))));
    let metric = findings.metric.clone().unwrap_or("number".into());
    let mut table = Table::new(["better", "worse", "the paper says so at", "", "", "verdict"]);
    table.header[3] = format!("our {metric}, better");
    table.header[4] = format!("our {metric}, worse");
    for order in &findings.orders {
        let mut basis: Vec<String> = vec![];
        for text in &order.basis {
            if !basis.contains(text) {
                basis.push(text.clone());
            }
        }
        let ours = order.ours.map_or(["–".to_string(), "–".to_string()], |ours| ours.map(numbers::shown));
        let [better, worse] = ours;
        table.rows.push(vec![
            order.better.clone(),
            order.worse.clone(),
            basis.join("; "),
            better,
            worse,
            order.verdict.words().into(),
        ]);
    }
    blocks.push(Block::Table(table));
    let is_known = |order: &Order| !matches!(order.verdict, Verdict::HoldsOnce | Verdict::ReversedOnce);
    let text = match findings.subject.seeds {
        1 if !findings.orders.iter().any(is_known) => {
            "Noise unknown: there is one seed, and the evaluations have no intervals. `--seeds 3` tells what another seed \
             changes, `--set evaluation.bootstrap=100` what other samples do."
        }
        1 => {
            "Within noise: the difference is smaller than the half widths of both 95 % intervals over samples, added in \
             squares."
        }
        _ => "Within noise: the difference is smaller than twice its standard error over seeds.",
    };
    blocks.push(Block::Text(text.into()));
    blocks
}

fn beside_text(findings: &Findings<'_>) -> String {
    let first = findings.subject.table.metrics.first().cloned().unwrap_or_default();
    let change = format!(
        "Change: of {first} in the paper and of {} here against the first method with all else equal; below zero is \
         better for distances.",
        findings.metric.clone().unwrap_or("our number".into())
    );
    let quoted = findings.subject.entries.iter().any(|entry| entry.kind == Kind::Quoted);
    let quoted = if quoted { " Quoted: the paper takes the numbers from other work." } else { "" };
    let shared =
        findings.distinct.len() < findings.subject.entries.iter().filter(|entry| entry.kind != Kind::Quoted).count();
    let shared = if shared { " Rows with the same run number share one run of ours." } else { "" };
    format!("Numbers of the paper as printed. {change}{shared}{quoted}")
}

fn settings_blocks(findings: &Findings<'_>) -> Vec<Block> {
    let subject = findings.subject;
    let mut blocks = vec![Block::Heading(2, "Settings".into()), Block::Command(subject.command.clone())];
    let mut instead: Vec<String> = vec![];
    for setting in subject.settings.iter().filter_map(|settings| settings.first()) {
        for phrase in &setting.instead {
            if !instead.contains(phrase) {
                instead.push(phrase.clone());
            }
        }
    }
    if !instead.is_empty() {
        blocks.push(Block::Heading(3, "Here for the paper's".into()));
        blocks.push(Block::List(instead));
    }
    let differences =
        subject.table.differences.iter().filter_map(|name| Some((name, subject.tables.differences.get(name)?)));
    let mut table = Table::new(["where paper and code differ", "taken", "the other", "one flag away"]);
    for (name, difference) in differences {
        let is_other = subject.scale.other.iter().any(|other| other.about == difference.about);
        let [taken, other] =
            if is_other { [&difference.other, &difference.used] } else { [&difference.used, &difference.other] };
        let flag = if is_other { format!("without `--other {name}`") } else { format!("`--other {name}`") };
        table.rows.push(vec![difference.about.clone(), taken.clone(), other.clone(), flag]);
    }
    if !table.rows.is_empty() {
        blocks.push(Block::Table(table));
    }
    let notes = subject.entries.iter().filter_map(|entry| Some(format!("{}: {}", entry.name(), entry.note.as_ref()?)));
    let notes: Vec<String> = notes.collect();
    if !notes.is_empty() {
        blocks.extend([Block::Heading(3, "Notes".into()), Block::List(notes)]);
    }
    blocks.push(Block::Heading(3, "Run folders".into()));
    let mut folders = Table::new(["#", "recipe", "overlay", "sampling", "folder"]);
    for (at, number) in findings.distinct.iter().zip(1..) {
        let code = |words: &[String]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" ");
        for setting in &subject.settings[*at] {
            folders.rows.push(vec![
                number.to_string(),
                format!("`{}`", setting.recipe.display()),
                code(&setting.train_args()),
                code(&setting.sample_sets),
                format!("`{}`", setting.run_dir.display()),
            ]);
        }
    }
    blocks.push(Block::Table(folders));
    let made = findings.ours.iter().flat_map(|ours| &ours.evaluations).next().map(|one| {
        let settings = &one.settings;
        let libtorch = settings.libtorch.as_ref().map(|version| format!(", libtorch {version}")).unwrap_or_default();
        format!("Made with realign {}{libtorch} on {}.", settings.realign, settings.device)
    });
    blocks.extend(made.map(Block::Text));
    blocks
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
