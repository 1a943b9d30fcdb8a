//! A recipe with all its layers: what was given, where, and whether it fits.

use std::path::Path;

use anyhow::{Result, anyhow};
use figment::value::{Dict, Tag, Value};
use serde::de::DeserializeOwned;

use super::check::Check;
use super::deserialize::deserialize;
use super::loading::{Loading, sentence};
use super::merge::Part;
use super::origin::{Layer, Source};
use super::profiles::choose;
use super::settings::Settings;
use super::text::shown;
use super::yaml::parse;

/// A recipe with all its layers merged, in which every value knows where it was written.
///
/// ```no_run
/// use std::path::Path;
/// let recipe = realign::recipe::Layered::load(Path::new("recipes/sit-irepa.yaml"), Some("demo"), &[])?;
/// println!("{} comes from {}", recipe.recipe_name(), recipe.origin_of("train.learning_rate"));
/// # anyhow::Ok(())
/// ```
#[derive(Debug)]
pub struct Layered {
    pub(super) root: Value,
    layers: Vec<Layer>,
    /// The recipe's path as the user wrote it.
    shown: String,
    recipe: String,
    profile: String,
}

impl Layered {
    /// Reads the recipe's base files, the recipe, the profile and the `--set key=value` overrides.
    ///
    /// `profile` is a file name in `profiles/` beside the recipe or one folder up; `none` uses no profile and
    /// the default is `demo`. Overrides apply from left to right.
    ///
    /// # Errors
    /// `file:line: key: message` for a file that cannot be read or parsed, a circle of base files, an unknown
    /// profile, an override or a list patch that has no target.
    pub fn load(recipe: &Path, profile: Option<&str>, sets: &[String]) -> Result<Self> {
        Self::load_over(&Settings::default(), recipe, profile, sets)
    }

    /// As [`load`](Self::load), with the user's settings below everything.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_over(settings: &Settings, recipe: &Path, profile: Option<&str>, sets: &[String]) -> Result<Self> {
        let mut loading = Loading::new();
        loading.file(recipe, Part::Recipe)?;
        let profile = choose(recipe, profile, &loading.own_profiles())?;
        if let Some(file) = &profile.file {
            loading.file(file, Part::Profile)?;
        }
        loading.own_profile(&profile.name)?;
        sets.iter().try_for_each(|typed| loading.set(typed))?;
        if let Some((source, section)) = settings.layer() {
            loading.fill(section, source)?;
        }
        Ok(Layered {
            root: loading.root,
            layers: loading.layers,
            shown: shown(recipe),
            recipe: recipe.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
            profile: profile.name,
        })
    }

    /// One section of a recipe, given on the command line as `option text`: YAML, or the bare name of a plugin.
    ///
    /// ```
    /// let layered = realign::recipe::Layered::typed("--encoder", "encoder", "{type: hog, channels: 64}")?;
    /// assert_eq!(layered.origin_of("encoder.channels"), "--encoder {type: hog, channels: 64}");
    /// # anyhow::Ok(())
    /// ```
    ///
    /// # Errors
    /// `option text: message` when the text is no YAML.
    pub fn typed(option: &str, key: &str, text: &str) -> Result<Self> {
        let typed = format!("{option} {text}");
        let value = parse(text).map_err(|fault| anyhow!("{typed}: {}", fault.message))?;
        let section = match value {
            Value::String(tag, name) => Value::Dict(tag, Dict::from([("type".into(), Value::from(name))])),
            section => section,
        };
        let root = Value::Dict(Tag::Default, Dict::from([(key.into(), section)]));
        let (layer, root) = Layer::new(root, Source::Typed(typed.clone()))?;
        Ok(Layered { root, layers: vec![layer], shown: typed, recipe: String::new(), profile: String::new() })
    }

    /// The recipe as a `T`.
    ///
    /// # Errors
    /// `file:line: key: message` for the first key that does not fit, with the known words and the nearest one.
    pub fn extract<T: DeserializeOwned>(&self) -> Result<T> {
        deserialize(&self.root).map_err(|misfit| {
            let place = if misfit.key.is_empty() { self.shown.clone() } else { self.place(misfit.tag, &misfit.key) };
            anyhow!("{}", sentence(&place, &misfit.key, &misfit.message))
        })
    }

    /// Runs checks of values and reports all problems at once, one `file:line: key: message` each.
    ///
    /// # Errors
    /// Any problem that the checks recorded.
    pub fn check(&self, checks: impl FnOnce(&mut Check<'_>)) -> Result<()> {
        let mut problems = vec![];
        checks(&mut Check::new(&mut problems));
        if problems.is_empty() {
            return Ok(());
        }
        let line = |(key, message): &(String, String)| {
            let (tag, _) = self.find(key);
            sentence(&self.place(tag, key), key, message)
        };
        Err(anyhow!("{}", problems.iter().map(line).collect::<Vec<_>>().join("\n")))
    }

    /// Where a dotted key was given: `recipes/base/sit.yaml:12`, `--set a=b`, or `default` when it was not.
    pub fn origin_of(&self, key: &str) -> String {
        match self.find(key) {
            (tag, true) => self.place(tag, key),
            (_, false) => "default".into(),
        }
    }

    /// File stem of the recipe: `sit-irepa`.
    pub fn recipe_name(&self) -> &str {
        &self.recipe
    }

    /// Name of the profile: `demo`, or `none`.
    pub fn profile_name(&self) -> &str {
        &self.profile
    }

    pub(super) fn place(&self, tag: Tag, key: &str) -> String {
        let layer = self.layers.iter().find(|layer| layer.tag == tag);
        layer.map_or_else(|| self.shown.clone(), |layer| layer.source.place(key))
    }

    /// Tag of the value at a key, or of the deepest section around it, and whether the key itself is there.
    fn find(&self, key: &str) -> (Tag, bool) {
        let mut value = &self.root;
        for segment in key.split('.').filter(|segment| !segment.is_empty()) {
            let next = match value {
                Value::Dict(_, section) => section.get(segment),
                Value::Array(_, items) => segment.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            match next {
                Some(next) => value = next,
                None => return (value.tag(), false),
            }
        }
        (value.tag(), true)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Recipe {
        backbone: Backbone,
        #[serde(default)]
        seed: u64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Backbone {
        depth: usize,
    }

    /// Files of a recipe folder; errors are compared with the folder's own path removed.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                let path = folder.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Folder(folder)
        }

        fn try_load(&self, profile: Option<&str>, sets: &[&str]) -> Result<Layered> {
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            Layered::load(&self.0.path().join("r/a.yaml"), profile, &sets)
        }

        fn load(&self, profile: Option<&str>, sets: &[&str]) -> Layered {
            self.try_load(profile, sets).unwrap()
        }

        fn relative(&self, text: &str) -> String {
            text.replace(&format!("{}/", self.0.path().display()), "")
        }

        fn error(&self, profile: Option<&str>, sets: &[&str]) -> String {
            self.relative(&self.try_load(profile, sets).unwrap_err().to_string())
        }

        fn origin(&self, layered: &Layered, key: &str) -> String {
            self.relative(&layered.origin_of(key))
        }
    }

    fn value(layered: &Layered, key: &str) -> Option<String> {
        layered.leaves().into_iter().find(|(name, ..)| name == key).map(|(_, value, _)| value)
    }

    const BASE: (&str, &str) = ("r/base/b.yaml", "a: 1\nb: 1\nc: 1\nd: 1\ne: 1\n");

    #[test]
    fn later_layers_win_and_each_value_keeps_its_origin() {
        let folder = Folder::new(&[
            BASE,
            (
                "r/a.yaml",
                "base: base/b.yaml\nb: 2\nc: 2\nd: 2\ne: 2\nprofiles:\n  big:\n    d: 4\n    e: 4\n  unknown: {}\n",
            ),
            ("r/profiles/big.yaml", "base: shared/s.yaml\nd: 3\n"),
            ("r/profiles/shared/s.yaml", "c: 3\n"),
        ]);
        let layered = folder.load(Some("big"), &["e=5"]);
        for (key, expected, origin) in [
            ("a", "1", "r/base/b.yaml:1"),
            ("b", "2", "r/a.yaml:2"),
            ("c", "3", "r/profiles/shared/s.yaml:1"),
            ("d", "4", "r/a.yaml:8"),
            ("e", "5", "--set e=5"),
        ] {
            assert_eq!(value(&layered, key).as_deref(), Some(expected), "{key}");
            assert_eq!(folder.origin(&layered, key), origin, "{key}");
        }
        assert_eq!(layered.origin_of("zzz"), "default");
        assert_eq!((layered.recipe_name(), layered.profile_name()), ("a", "big"));
        assert_eq!(value(&folder.load(Some("none"), &[]), "d").as_deref(), Some("2"));
    }

    #[test]
    fn a_profile_patches_the_items_of_a_list_that_the_recipe_has() {
        let profile = ("r/profiles/demo.yaml", "alignment:\n  0:\n    loss: {type: patches, width: 5}\n");
        let folder =
            Folder::new(&[("r/a.yaml", "alignment:\n  - weight: 1\n    loss: {type: dino, size: 3}\n"), profile]);
        let layered = folder.load(None, &[]);
        assert_eq!(value(&layered, "alignment.0.loss.type").as_deref(), Some("patches"));
        assert_eq!(value(&layered, "alignment.0.loss.size"), None);
        assert_eq!(folder.origin(&layered, "alignment.0.loss.width"), "r/profiles/demo.yaml:3");
        assert_eq!(folder.origin(&layered, "alignment.0.weight"), "r/a.yaml:2");

        let without = Folder::new(&[("r/a.yaml", "seed: 1\n"), profile]);
        assert_eq!(without.load(None, &[]).leaves().len(), 1);

        let beyond =
            Folder::new(&[("r/a.yaml", "alignment: [{}]\n"), ("r/profiles/demo.yaml", "alignment:\n  1: {a: 1}\n")]);
        let message = beyond.error(None, &[]);
        assert!(message.starts_with("r/profiles/demo.yaml:2: alignment.1: `alignment` has no item `1`"), "{message}");
    }

    #[test]
    fn one_encoder_is_a_list_of_one_wherever_it_is_written() {
        let hog = "alignment:\n  - encoders: [{type: hog}, {type: dino}]\n    weight: 1\n";
        let dino = ("r/profiles/demo.yaml", "alignment:\n  0:\n    encoder:\n      type: vit\n      size: 3\n");
        let folder = Folder::new(&[("r/a.yaml", hog), dino]);
        let layered = folder.load(None, &[]);
        assert_eq!(value(&layered, "alignment.0.encoders.0.size").as_deref(), Some("3"));
        assert_eq!(value(&layered, "alignment.0.encoders.1.type"), None);
        assert_eq!(folder.origin(&layered, "alignment.0.encoders.0.size"), "r/profiles/demo.yaml:5");
        for sets in [
            &["alignment.0.encoder={type: sift, size: 5}"][..],
            &["alignment.0.encoder.type=sift", "alignment.0.encoder.size=5"],
            &["alignment=[{encoder: {type: sift, size: 5}}]"],
            &["alignment.0={encoder: {type: sift, size: 5}}"],
        ] {
            let layered = folder.load(None, sets);
            assert_eq!(value(&layered, "alignment.0.encoders.0.type").as_deref(), Some("sift"), "{sets:?}");
            assert_eq!(value(&layered, "alignment.0.encoders.0.size").as_deref(), Some("5"), "{sets:?}");
            assert!(folder.origin(&layered, "alignment.0.encoders.0.size").starts_with("--set alignment"));
        }
        let both = Folder::new(&[("r/a.yaml", "alignment:\n  - encoders: []\n    encoder: {type: hog}\n")]);
        let message = both.error(None, &[]);
        assert!(message.starts_with("r/a.yaml:3: alignment.0.encoder: `encoder` is another spelling"), "{message}");
    }

    #[test]
    fn errors_of_reading_name_file_line_and_key() {
        for (text, expected) in [
            ("", "r/a.yaml:1: the file is empty"),
            ("# nothing\n", "r/a.yaml:1: the file is empty"),
            ("- 1\n", "r/a.yaml:1: found a list"),
            ("sit\n", "r/a.yaml:1: found a single value"),
            ("a: 1\na: 2\n", "r/a.yaml:2: a: the key `a` is given twice"),
            ("a: {b: 1\nc: 2\n", "r/a.yaml:2: "),
            ("a:\n  b: .nan\n", "r/a.yaml:2: a.b: `NaN` is not a finite number"),
            ("a: 1\n\0\0\n", "r/a.yaml"),
            ("a: 1\n---\nb: 2\n", "r/a.yaml: "),
            ("a: *b\n", "r/a.yaml:1: "),
            ("profiles: 3\n", "r/a.yaml:1: profiles: expected a section"),
            ("profiles: {demo: 3}\n", "r/a.yaml:1: profiles.demo: expected a section"),
        ] {
            let message = Folder::new(&[("r/a.yaml", text)]).error(None, &[]);
            assert!(message.starts_with(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let folder = Folder::new(&[("r/b.yaml", "a: 1\n")]);
        assert!(folder.error(None, &[]).starts_with("`r/a.yaml` does not exist\n  did you mean `b.yaml`?"));
        let folder = Folder::new(&[("r/a.yaml/x.yaml", "a: 1\n")]);
        assert!(folder.error(None, &[]).starts_with("`r/a.yaml` is a folder"));
    }

    #[test]
    fn base_files_that_are_absent_or_name_each_other_are_errors() {
        let folder = Folder::new(&[BASE, ("r/a.yaml", "a: 1\nbase:\n  - base/b.yaml\n  - base/c.yaml\n")]);
        let message = folder.error(None, &[]);
        assert!(message.starts_with("r/a.yaml:4: base: `r/base/c.yaml` does not exist"), "{message}");

        let circle = Folder::new(&[("r/a.yaml", "base: b.yaml\n"), ("r/b.yaml", "x: 1\nbase: ../r/a.yaml\n")]);
        let message = circle.error(None, &[]);
        assert!(message.starts_with("r/b.yaml:2: base: `r/a.yaml` is a base of itself"), "{message}");

        for base in ["3", "{a: 1}", "[~]", "''"] {
            let message = Folder::new(&[("r/a.yaml", &format!("base: {base}\n"))]).error(None, &[]);
            assert!(message.starts_with("r/a.yaml:1: base: expected a file name"), "{message}");
        }
        let message = Folder::new(&[("r/a.yaml", "base: .\n")]).error(None, &[]);
        assert!(message.contains("is a folder"), "{message}");
    }

    #[test]
    fn base_files_that_double_at_each_level_are_stopped() {
        let names: Vec<String> = (0..30).map(|i| format!("r/f{i}.yaml")).collect();
        let texts: Vec<String> = (1..31).map(|i| format!("base: [f{i}.yaml, f{i}.yaml]\n")).collect();
        let mut files: Vec<(&str, &str)> =
            names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str())).collect();
        files.extend([("r/f30.yaml", "x: 1\n"), ("r/a.yaml", "base: f0.yaml\n")]);
        assert!(Folder::new(&files).error(None, &[]).contains("more than 64 base files"));
    }

    #[test]
    fn overrides_that_have_no_target_are_errors() {
        let folder = Folder::new(&[("r/a.yaml", "l: [{a: 1}]\ns: 3\n")]);
        for (set, expected) in [
            ("l", "--set l: expected `section.key=value`"),
            ("l.3.a=1", "--set l.3.a=1: l.3: `l` has no item `3`; the list has 1 item, number 0"),
            ("m.0.a=1", "--set m.0.a=1: m.0: `m` has no list"),
            ("s.x=1", "--set s.x=1: s.x: `s` is a plain value"),
            ("s=.nan", "--set s=.nan: `NaN` is not a finite number"),
            ("s={a: 1, a: 2}", "--set s={a: 1, a: 2}: the key `a` is given twice"),
            ("=1", "--set =1: a part of the key is empty"),
        ] {
            let message = folder.error(None, &[set]);
            assert!(message.starts_with(expected), "{message}");
        }
        assert_eq!(value(&folder.load(None, &["l.0.a=7", "l.0.a=9"]), "l.0.a").as_deref(), Some("9"));
    }

    #[test]
    fn keys_that_the_recipe_struct_does_not_have_are_placed_and_explained() {
        let folder = Folder::new(&[BASE, ("r/a.yaml", "x-note: 1\nbackbone:\n  dpeth: 3\n")]);
        let message = folder.relative(&folder.load(None, &[]).extract::<Recipe>().unwrap_err().to_string());
        assert_eq!(message, "r/a.yaml:3: backbone.dpeth: unknown key `dpeth`\n  did you mean `depth`? known: depth");

        let folder = Folder::new(&[("r/a.yaml", "backbone: {depth: 3}\n")]);
        let message = folder.load(None, &["sead=3"]).extract::<Recipe>().unwrap_err().to_string();
        assert_eq!(message, "--set sead=3: sead: unknown key `sead`\n  did you mean `seed`? known: backbone, seed");
        assert_eq!(folder.load(None, &["seed=3"]).extract::<Recipe>().unwrap().seed, 3);

        let folder = Folder::new(&[BASE, ("r/a.yaml", "base: base/b.yaml\n")]);
        let empty = Folder::new(&[("r/a.yaml", "seed: 3\n")]);
        let message = empty.relative(&empty.load(None, &[]).extract::<Recipe>().unwrap_err().to_string());
        assert_eq!(message, "r/a.yaml: missing required key `backbone`");
        let message = folder.relative(&folder.load(None, &[]).extract::<Recipe>().unwrap_err().to_string());
        assert!(message.starts_with("r/base/b.yaml:1: a: unknown key `a`"), "{message}");
    }

    #[test]
    fn a_section_of_the_command_line_is_a_name_or_yaml_and_its_errors_repeat_it() {
        let typed = |text: &str| Layered::typed("--backbone", "backbone", text);
        assert_eq!(typed("{depth: 3}").unwrap().extract::<Recipe>().unwrap().backbone.depth, 3);
        assert_eq!(typed("sit").unwrap().leaves()[0].1, "sit");
        let message = typed("{dpeth: 3}").unwrap().extract::<Recipe>().unwrap_err().to_string();
        assert!(message.starts_with("--backbone {dpeth: 3}: backbone.dpeth: unknown key `dpeth`"), "{message}");
        assert!(typed("{depth: 3").unwrap_err().to_string().starts_with("--backbone {depth: 3: "));
    }

    #[test]
    fn all_failed_checks_are_reported_at_once_with_their_places() {
        let folder = Folder::new(&[("r/a.yaml", "train:\n  lr: 5\n  steps: 0\n")]);
        let layered = folder.load(None, &["train.ema=2"]);
        let checked = layered.check(|c| {
            c.within("train", |c| {
                c.range("lr", 5.0, 0.0, 1.0);
                c.positive("steps", 0);
                c.range("ema", 2.0, 0.0, 1.0);
                c.range("clip", f64::NAN, 0.0, 1.0);
            });
        });
        let expected = [
            "r/a.yaml:2: train.lr: `5` is out of range; allowed is 0 to 1",
            "r/a.yaml:3: train.steps: `0` is out of range; allowed is 1 or more",
            "--set train.ema=2: train.ema: `2` is out of range; allowed is 0 to 1",
            "r/a.yaml:1: train.clip: `NaN` is out of range; allowed is 0 to 1",
        ];
        assert_eq!(folder.relative(&checked.unwrap_err().to_string()), expected.join("\n"));
        layered.check(|_| ()).unwrap();
    }
}
