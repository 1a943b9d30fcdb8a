//! Every table and figure of the paper resolves, and says what the paper prints.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use realign::recipe::Settings;
use realign_experiments::reproduce::{Entry, Kind, PaperTable, Scale, Setting, TABLES, Tables, trainings};
use realign_plugins as _;

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes")
}

fn resolve(table: &PaperTable, entries: &[Entry], profile: &str, sets: &[String]) -> anyhow::Result<Vec<Setting>> {
    let (settings, recipes) = (Settings::default(), recipes());
    let scale = Scale {
        settings: &settings,
        recipes: &recipes,
        runs: Path::new("runs"),
        profile,
        is_paper: profile == table.profile,
        sets,
        other: vec![],
    };
    entries.iter().filter(|entry| entry.kind != Kind::Quoted).map(|entry| scale.setting(entry, 0)).collect()
}

fn all() -> Vec<(String, PaperTable)> {
    let tables = Tables::read().unwrap();
    TABLES.iter().map(|(name, _)| tables.table(name).unwrap()).collect()
}

#[test]
fn every_file_of_the_folder_is_a_table_or_what_tables_share() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../experiments/tables");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let shared = ["compared.yaml", "differences.yaml", "encoders.yaml"];
    let found: BTreeSet<String> = files.filter(|name| !shared.contains(&name.as_str())).collect();
    let known: BTreeSet<String> = TABLES.iter().map(|(name, _)| format!("{name}.yaml")).collect();
    assert_eq!(found, known);
}

#[test]
fn all_205_entries_of_the_tables_are_here_and_five_are_quoted() {
    let tables = Tables::read().unwrap();
    let mut counts = BTreeMap::new();
    let (mut runs, mut quoted) = (0, 0);
    for (name, table) in all().into_iter().filter(|(name, _)| name.starts_with("table")) {
        let entries: Vec<Entry> =
            table.entries(&tables, true).unwrap().into_iter().filter(|entry| entry.kind != Kind::Extra).collect();
        for entry in &entries {
            assert!(entry.number(0).is_some(), "{name}: {} has no number", entry.name());
            *(if entry.kind == Kind::Quoted { &mut quoted } else { &mut runs }) += 1;
        }
        counts.insert(name, entries.len());
    }
    assert_eq!((runs, quoted), (200, 5));
    let expected = [
        ("table1a", 6),
        ("table1b", 6),
        ("table1c", 6),
        ("table2", 16),
        ("table3a", 8),
        ("table3b", 24),
        ("table4", 32),
        ("table5", 32),
        ("table6", 16),
        ("table7", 8),
        ("table8", 40),
        ("table9", 4),
        ("table10", 7),
    ];
    assert_eq!(counts, expected.into_iter().map(|(name, count)| (name.to_string(), count)).collect());
}

/// With `REALIGN_PAPER_TABLES` naming a transcription of the paper, number for number.
#[test]
fn printed_numbers_are_those_of_a_transcription() {
    let Some(path) = std::env::var_os("REALIGN_PAPER_TABLES") else {
        realign_tests::say_skipped("REALIGN_PAPER_TABLES names no transcription");
        return;
    };
    let text = std::fs::read_to_string(path).unwrap();
    let spec: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let tables = Tables::read().unwrap();
    let mut num_compared = 0;
    for known in spec["tables"].as_sequence().unwrap() {
        let (_, table) = tables.table(&format!("table{}", known["id"].as_str().unwrap())).unwrap();
        let entries = table.entries(&tables, true).unwrap();
        for row in known["rows"].as_sequence().unwrap() {
            let (number, block) = (row["row"].as_u64().unwrap(), row["block"].as_str());
            let mut found =
                entries.iter().filter(|entry| entry.row as u64 == number && entry.column.as_deref() == block);
            let entry = found.next().unwrap_or_else(|| panic!("{} row {number} {block:?}", table.source));
            for (i, metric) in table.metrics.iter().enumerate() {
                assert_eq!(
                    entry.number(i),
                    row["metrics"][metric.as_str()].as_f64(),
                    "{}: {}",
                    table.source,
                    entry.name()
                );
                num_compared += 1;
            }
            if entry.kind == Kind::Run {
                assert_eq!(entry.steps, row["steps"].as_u64(), "{}: {}", table.source, entry.name());
                let scale = entry.sample.get("cfg_scale").and_then(serde_yaml::Value::as_f64).unwrap_or(1.0);
                let trained = entry.set.contains_key("objective.guidance.kappa");
                assert!(
                    trained || (scale > 1.0) == row["cfg"].as_bool().unwrap(),
                    "{}: {}",
                    table.source,
                    entry.name()
                );
            }
        }
    }
    assert!(num_compared > 900, "{num_compared}");
}

#[test]
fn every_entry_resolves_at_the_papers_scale() {
    let tables = Tables::read().unwrap();
    for (name, table) in all() {
        let entries = table.entries(&tables, true).unwrap();
        let settings =
            resolve(&table, &entries, &table.profile, &[]).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let runs = entries.iter().filter(|entry| entry.kind != Kind::Quoted);
        for (entry, setting) in runs.zip(settings) {
            let recipe = &setting.plan.recipe;
            assert_eq!(recipe.train.steps, entry.steps.unwrap(), "{name}: {}", entry.name());
            assert!(setting.instead.is_empty(), "{name}: {}: {:?}", entry.name(), setting.instead);
            if let (Some(share), Some(term)) = (entry.depth, recipe.alignment.first()) {
                assert_eq!((term.encoder_depth, setting.plan.backbone.depth), (share.block, share.of), "{name}");
            }
            assert_eq!(recipe.alignment.is_empty(), ["none", "JiT"].contains(&entry.arm.as_deref().unwrap()), "{name}");
        }
    }
}

#[test]
fn every_table_resolves_at_the_small_scales() {
    let tables = Tables::read().unwrap();
    for (name, table) in all() {
        let entries = table.entries(&tables, false).unwrap();
        let pictures = ["data.type=shapes".to_string()]; // any labeled pictures show that shapes fit
        let scales: &[(&str, &[String])] = match table.profile.as_str() {
            "coco" => &[("demo", &[])], // small real pictures have no captions
            _ => &[("demo", &[]), ("tiny-imagenet", &pictures)],
        };
        for (profile, sets) in scales {
            let settings = resolve(&table, &entries, profile, sets).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert!(settings.iter().all(|setting| setting.plan.missing.is_empty()), "{name} needs files at {profile}");
        }
    }
}

#[test]
fn entries_that_differ_in_sampling_or_steps_share_a_run() {
    let tables = Tables::read().unwrap();
    let (_, table) = tables.table("table4").unwrap();
    let entries = table.entries(&tables, true).unwrap();
    let (settings, recipes) = (Settings::default(), recipes());
    let scale = Scale {
        settings: &settings,
        recipes: &recipes,
        runs: Path::new("runs"),
        profile: "imagenet256",
        is_paper: true,
        sets: &[],
        other: vec![],
    };
    let (runs, _) = trainings(&entries, &scale, 1).unwrap();
    // Four encoders with two methods, each after 100K and 400K steps, each without and with guidance.
    assert_eq!(runs.len(), 8);
    for run in &runs {
        assert_eq!(run.stages.iter().map(|stage| stage.steps).collect::<Vec<_>>(), [100_000, 400_000]);
        assert!(run.stages.iter().all(|stage| stage.assessments.len() == 2));
    }
    // Table 7 is the guided half of them, after 400K steps: no run of its own.
    let (_, other) = tables.table("table7").unwrap();
    let (others, _) = trainings(&other.entries(&tables, true).unwrap(), &scale, 1).unwrap();
    let folders: BTreeSet<_> = runs.iter().map(|run| &run.run_dir).collect();
    assert!(others.iter().all(|run| folders.contains(&run.run_dir)));
    let results = |runs: &[realign_experiments::reproduce::Training]| -> BTreeSet<PathBuf> {
        runs.iter()
            .flat_map(|run| &run.stages)
            .flat_map(|stage| &stage.assessments)
            .map(|one| one.result.clone())
            .collect()
    };
    assert!(results(&others).is_subset(&results(&runs)));
}

#[test]
fn at_the_demo_the_four_arms_of_table_2_are_four_runs_and_seeds_are_runs_of_their_own() {
    let tables = Tables::read().unwrap();
    let (_, table) = tables.table("table2").unwrap();
    let entries = table.entries(&tables, false).unwrap();
    let (settings, recipes) = (Settings::default(), recipes());
    let scale = Scale {
        settings: &settings,
        recipes: &recipes,
        runs: Path::new("runs"),
        profile: "demo",
        is_paper: false,
        sets: &["train.steps=7".into()],
        other: vec![],
    };
    let (runs, of_entries) = trainings(&entries, &scale, 3).unwrap();
    assert_eq!((entries.len(), runs.len()), (16, 12));
    assert!(runs.iter().all(|run| run.stages.len() == 1 && run.stages[0].steps == 7));
    assert_eq!(runs.iter().map(|run| run.seed).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    assert!(of_entries.iter().all(|seeds| seeds.len() == 3));
    assert!(
        of_entries[0][0].instead.iter().any(|phrase| phrase == "hog for dinov2-vit-b"),
        "{:?}",
        of_entries[0][0].instead
    );
}

#[test]
fn the_other_reading_of_a_difference_changes_what_it_concerns_and_nothing_else() {
    let tables = Tables::read().unwrap();
    let (settings, recipes) = (Settings::default(), recipes());
    for (name, table) in all() {
        for difference in &table.differences {
            let other = tables.chosen(&table, std::slice::from_ref(difference)).unwrap();
            let scale = |other| Scale {
                settings: &settings,
                recipes: &recipes,
                runs: Path::new("runs"),
                profile: &table.profile,
                is_paper: true,
                sets: &[],
                other,
            };
            let mut num_changed = 0;
            let entries = table.entries(&tables, true).unwrap();
            for entry in entries.iter().filter(|entry| entry.kind != Kind::Quoted) {
                let [used, taken] = [vec![], other.clone()].map(|other| {
                    let setting = scale(other).setting(entry, 0).unwrap_or_else(|error| panic!("{name}: {error:#}"));
                    (setting.run_dir, setting.sampling)
                });
                let is_concerned = other[0].concerns(entry);
                assert_eq!(used != taken, is_concerned, "{name}: {difference}: {}", entry.name());
                num_changed += usize::from(is_concerned);
            }
            assert!(num_changed > 0, "{name}: {difference} concerns no entry");
        }
    }
}

#[test]
fn an_unknown_table_or_difference_names_the_nearest() {
    let tables = Tables::read().unwrap();
    let message = tables.table("tabel2").unwrap_err().to_string();
    assert!(message.contains("did you mean `table2`?") && message.contains("fig3c"), "{message}");
    let (_, table) = tables.table("table2").unwrap();
    let message = tables.chosen(&table, &["coeficient".into()]).unwrap_err().to_string();
    assert!(message.contains("did you mean `coefficient`?") && message.contains("table 2"), "{message}");
}

#[test]
fn overrides_of_an_alignment_hold_for_the_runs_that_align() {
    let tables = Tables::read().unwrap();
    let (_, table) = tables.table("table1c").unwrap();
    let entries = table.entries(&tables, true).unwrap();
    let sets = ["data.type=shapes", "alignment.0.proj_coeff=0.25"].map(str::to_string);
    let settings = resolve(&table, &entries, "tiny-imagenet", &sets).unwrap();
    let coefficients = |aligned: bool| {
        let terms = settings.iter().map(|setting| setting.plan.recipe.alignment.first());
        terms.filter(|term| term.is_some() == aligned).map(|term| term.map(|term| term.proj_coeff)).collect::<Vec<_>>()
    };
    assert_eq!((coefficients(true), coefficients(false)), (vec![Some(0.25); 6], vec![None]));
    assert!(resolve(&table, &entries, "tiny-imagenet", &["alignment.7.proj_coeff=1".into()]).is_err());
}
