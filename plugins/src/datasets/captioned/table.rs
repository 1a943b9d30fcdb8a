//! Tables of captions: JSON, JSON lines, CSV.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use realign::data::files::read_file;
use serde_json::Value;

use super::pictures::Captions;

const NAMES: [&str; 2] = ["file_name", "image"];
const TEXTS: [&str; 2] = ["caption", "text"];

/// Captions of a file, in the format that its ending says.
///
/// # Errors
/// Names the file, and the entry or line that is no caption.
pub fn read(path: &Path) -> Result<Captions> {
    let read = || {
        let text = String::from_utf8(read_file(path)?).context("it is not UTF-8")?;
        match path.extension().and_then(|ending| ending.to_str()).unwrap_or_default() {
            "json" => json(&text),
            "jsonl" => json_lines(&text),
            "csv" => csv(&text),
            other => bail!("captions end in `{other}`; known: json, jsonl, csv"),
        }
    };
    read().with_context(|| format!("captions `{}`", path.display()))
}

fn json(text: &str) -> Result<Captions> {
    let mut captions = Captions::new();
    match serde_json::from_str(text)? {
        Value::Object(entries) => {
            for (name, texts) in entries {
                let texts = strings(texts).with_context(|| format!("`{name}`"))?;
                captions.entry(name).or_default().extend(texts);
            }
        }
        Value::Array(entries) => {
            for (entry, number) in entries.into_iter().zip(1..) {
                add(&mut captions, entry).with_context(|| format!("entry {number}"))?;
            }
        }
        _ => bail!("expected an object of file name to caption, or a list of objects"),
    }
    Ok(captions)
}

fn json_lines(text: &str) -> Result<Captions> {
    let mut captions = Captions::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let add = serde_json::from_str(line).map_err(anyhow::Error::from).and_then(|entry| add(&mut captions, entry));
        add.with_context(|| format!("line {number}"))?;
    }
    Ok(captions)
}

/// Adds an object's caption or captions.
fn add(captions: &mut Captions, mut entry: Value) -> Result<()> {
    let mut take = |keys: [&str; 2]| {
        let key = keys.into_iter().find(|key| !entry[*key].is_null());
        let key = key.with_context(|| format!("it has no `{}` and no `{}`", keys[0], keys[1]))?;
        Ok::<_, anyhow::Error>(entry[key].take())
    };
    let (name, texts) = (take(NAMES)?, take(TEXTS)?);
    let name = name.as_str().context("the file's name is no text")?.to_string();
    captions.entry(name).or_default().extend(strings(texts)?);
    Ok(())
}

fn strings(texts: Value) -> Result<Vec<String>> {
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        other => Err(anyhow!("a caption is text, found `{other}`")),
    };
    match texts {
        Value::Array(texts) => texts.into_iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

fn csv(text: &str) -> Result<Captions> {
    // Spreadsheets begin a file with a mark of its encoding.
    let mut rows = rows(text.trim_start_matches('\u{feff}'))?.into_iter();
    let (_, header) = rows.next().context("it is empty; expected a header `image,caption`")?;
    let column = |keys: [&str; 2]| {
        let found = header.iter().position(|name| keys.contains(&name.trim()));
        found.with_context(|| format!("the header has no column `{}` or `{}`", keys[0], keys[1]))
    };
    let (name, caption) = (column(NAMES)?, column(TEXTS)?);
    let mut captions = Captions::new();
    for (line, mut row) in rows {
        ensure!(
            row.len() == header.len(),
            "line {line} has {} columns and the header {}; texts with commas stand in quotes",
            row.len(),
            header.len()
        );
        let text = std::mem::take(&mut row[caption]);
        captions.entry(row.swap_remove(name)).or_default().push(text);
    }
    Ok(captions)
}

/// Rows of comma-separated fields with the line that each begins at; fields in quotes may hold commas, line breaks and
/// doubled quotes (RFC 4180). Empty lines are left out.
fn rows(text: &str) -> Result<Vec<(usize, Vec<String>)>> {
    let (mut rows, mut row, mut field) = (vec![], vec![], String::new());
    let (mut letters, mut line, mut start, mut is_quoted) = (text.chars().peekable(), 1, 1, false);
    while let Some(letter) = letters.next() {
        line += usize::from(letter == '\n');
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => field.extend(letters.next()),
            '"' if is_quoted || field.is_empty() => is_quoted = !is_quoted,
            ',' if !is_quoted => row.push(std::mem::take(&mut field)),
            '\r' if !is_quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !is_quoted => {
                if !(row.is_empty() && field.is_empty()) {
                    row.push(std::mem::take(&mut field));
                    rows.push((start, std::mem::take(&mut row)));
                }
                start = line;
            }
            letter => field.push(letter),
        }
    }
    ensure!(!is_quoted, "the quote in the row of line {start} does not end");
    if !(row.is_empty() && field.is_empty()) {
        row.push(field);
        rows.push((start, row));
    }
    Ok(rows)
}
