//! Reads the files of a recipe and lays them on one another.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use figment::value::{Dict, Tag, Value};

use super::merge::{Clash, Part, merge, set};
use super::origin::{Layer, Source};
use super::program::{is_key, standing_alone};
use super::singular::{spell_out, spelled_out};
use super::text::{folder_of, read, shown};
use super::yaml::{Fault, parse};

/// Most files in one recipe; `base:` files may name further ones.
const MAX_FILES: usize = 64;

/// Layers that are being laid on one another.
pub(super) struct Loading {
    pub root: Value,
    pub layers: Vec<Layer>,
    /// Files that are being read, outermost first.
    open: Vec<PathBuf>,
    num_files: usize,
    /// The `profiles:` sections, with the file that has them.
    scales: Vec<(Source, Dict)>,
}

impl Loading {
    pub(super) fn new() -> Self {
        let root = Value::Dict(Tag::Default, Dict::new());
        Loading { root, layers: vec![], open: vec![], num_files: 0, scales: vec![] }
    }

    /// Reads a file's base files, then the file.
    pub(super) fn file(&mut self, path: &Path, part: Part) -> Result<()> {
        let text = read(path).map_err(|message| anyhow!(message))?;
        let (source, mut section) = parsed(path, text)?;
        section.retain(|key, _| !key.starts_with("x-"));
        let (base, scales) = (section.remove("base"), section.remove("profiles"));
        if let Some(base) = base {
            self.open.push(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
            self.base_files(path, &source, base, part)?;
            self.open.pop();
        }
        match (scales, part) {
            (Some(Value::Dict(_, scales)), Part::Recipe) => self.scales.push((source.clone(), scales)),
            (Some(_), Part::Recipe) => {
                bail!("{}: profiles: expected a section with one section per profile", source.place("profiles"))
            }
            (Some(_), Part::Profile) => {
                bail!("{}: profiles: belongs in a recipe, not in a profile", source.place("profiles"))
            }
            (None, _) => {}
        }
        self.lay(Value::Dict(Tag::Default, section), source, part)
    }

    fn base_files(&mut self, path: &Path, source: &Source, base: Value, part: Part) -> Result<()> {
        let (list, is_list) = match base {
            Value::Array(_, list) => (list, true),
            one => (vec![one], false),
        };
        for (index, name) in list.iter().enumerate() {
            let place = source.place(&if is_list { format!("base.{index}") } else { "base".into() });
            let Some(name) = name.as_str().filter(|name| !name.is_empty()) else {
                bail!("{place}: base: expected a file name or a list of file names");
            };
            let folder = path.parent().unwrap_or(Path::new(""));
            let file = folder.join(name);
            self.num_files += 1;
            if self.num_files > MAX_FILES {
                bail!("{place}: base: more than {MAX_FILES} base files");
            }
            if file.canonicalize().is_ok_and(|file| self.open.contains(&file)) {
                bail!("{place}: base: `{}` is a base of itself: the files name each other in a circle", shown(&file));
            }
            if !file.is_file() {
                let message = read(&file).err().unwrap_or_default();
                bail!("{place}: base: {message}\n  paths are relative to `{}`", shown(&folder_of(path)));
            }
            self.file(&file, part)?;
        }
        Ok(())
    }

    /// Names in the `profiles:` sections of the recipe and its base files.
    pub(super) fn own_profiles(&self) -> Vec<String> {
        self.scales.iter().flat_map(|(_, scales)| scales.keys().cloned()).collect()
    }

    /// Lays on what the recipe itself says for a profile; nothing for one it does not mention.
    pub(super) fn own_profile(&mut self, name: &str) -> Result<()> {
        for (source, mut scales) in std::mem::take(&mut self.scales) {
            let Some(value) = scales.remove(name) else { continue };
            let Source::File { shown, text, .. } = source else { continue };
            let source = Source::File { shown, text, within: format!("profiles.{name}") };
            match value {
                Value::Dict(..) => self.lay(value, source, Part::Profile)?,
                Value::Empty(..) => {}
                _ => bail!("{}: profiles.{name}: expected a section", source.place("")),
            }
        }
        Ok(())
    }

    fn lay(&mut self, mut value: Value, source: Source, part: Part) -> Result<()> {
        if let (Part::Profile, Value::Dict(_, section), Some(program)) = (part, &mut value, standing_alone(&self.root))
        {
            section.retain(|key, _| is_key(&*program, key));
        }
        let (layer, mut value) = Layer::new(value, source)?;
        self.layers.push(layer);
        let merged = spell_out(&mut value, "").and_then(|()| merge(&mut self.root, value, "", part));
        merged.map_err(|clash| self.placed(clash))
    }

    /// Lays on one `--set`.
    pub(super) fn set(&mut self, typed: &str) -> Result<()> {
        let Some((key, text)) = typed.split_once('=') else {
            bail!("--set {typed}: expected `section.key=value`");
        };
        let value = parse(text).map_err(|fault| anyhow!("--set {typed}: {}", fault.message))?;
        let (layer, value) = Layer::new(value, Source::Typed(format!("--set {typed}")))?;
        self.layers.push(layer);
        let done = spelled_out(key.trim(), value).and_then(|(key, value)| set(&mut self.root, &key, value));
        done.map_err(|clash| self.placed(clash))
    }

    /// Gives what no layer gave.
    pub(super) fn fill(&mut self, section: Dict, source: Source) -> Result<()> {
        let (layer, value) = Layer::new(Value::Dict(Tag::Default, section), source)?;
        self.layers.push(layer);
        if let (Value::Dict(_, root), Value::Dict(_, section)) = (&mut self.root, value) {
            for (key, value) in section {
                root.entry(key).or_insert(value);
            }
        }
        Ok(())
    }

    fn placed(&self, clash: Clash) -> anyhow::Error {
        let layer = self.layers.iter().find(|layer| layer.tag == clash.tag);
        let place = layer.map(|layer| layer.source.place(&clash.key)).unwrap_or_default();
        anyhow!("{}", sentence(&place, &clash.key, &clash.message))
    }
}

/// The top-level section of a file.
pub(super) fn parsed(path: &Path, text: String) -> Result<(Source, Dict)> {
    let shown = shown(path);
    let value = parse(&text).map_err(|Fault { line, key, message }| {
        let place = line.map_or_else(|| shown.clone(), |line| format!("{shown}:{line}"));
        anyhow!("{}", sentence(&place, &key, &message))
    })?;
    let found = match value {
        Value::Dict(_, section) => {
            return Ok((Source::File { shown, text: text.into(), within: String::new() }, section));
        }
        Value::Empty(..) => "the file is empty",
        Value::Array(..) => "found a list",
        _ => "found a single value",
    };
    bail!("{shown}:1: {found}; expected sections and keys, such as `seed: 0`")
}

/// `place: key: message`; an empty key stands for the whole recipe.
pub(super) fn sentence(place: &str, key: &str, message: &str) -> String {
    match key {
        "" => format!("{place}: {message}"),
        key => format!("{place}: {key}: {message}"),
    }
}
