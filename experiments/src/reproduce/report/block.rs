//! Pieces of a report, and their form in Markdown.

use std::path::Path;

use anyhow::Result;
use realign::files::write_whole;
use realign::log::encode_png;

use crate::table::Table;

/// A piece of a report.
#[derive(Debug, Clone)]
pub enum Block {
    /// A heading of its level, 1 to 3.
    Heading(u8, String),
    /// Plain text.
    Text(String),
    /// What must not be overlooked.
    Notice(String),
    /// Text as it is typed.
    Command(String),
    /// A list.
    List(Vec<String>),
    /// A table.
    Table(Table),
    /// A figure: name of its file, SVG, and what it shows in words.
    Figure(String, String, String),
    /// Pictures beside each other, with a caption each.
    Pictures(Vec<Picture>),
}

/// A picture with its caption.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Name of its file, without ending.
    pub name: String,
    /// Below it.
    pub caption: String,
    /// RGB, row by row.
    pub rgb: Vec<u8>,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Picture {
    /// The file.
    ///
    /// # Errors
    /// Its sizes do not fit its bytes.
    pub fn png(&self) -> Result<Vec<u8>> {
        encode_png(&self.rgb, self.width, self.height)
    }
}

/// The report as Markdown; its figures and pictures are written into `folder`.
///
/// # Errors
/// The disk refuses.
pub fn markdown(blocks: &[Block], folder: &Path) -> Result<String> {
    let mut text = String::new();
    for block in blocks {
        match block {
            Block::Heading(level, words) => text += &format!("{} {words}\n", "#".repeat(usize::from(*level))),
            Block::Text(words) => text += &format!("{words}\n"),
            Block::Notice(words) => text += &format!("> **{words}**\n"),
            Block::Command(words) => text += &format!("```\n{words}\n```\n"),
            Block::List(items) => text.extend(items.iter().map(|item| format!("* {item}\n"))),
            Block::Table(table) => text += &table_lines(table),
            Block::Figure(name, svg, words) => {
                write_whole(&folder.join(format!("{name}.svg")), standing_alone(svg).as_bytes())?;
                text += &format!("![{words}]({name}.svg)\n");
            }
            Block::Pictures(pictures) => {
                for picture in pictures {
                    write_whole(&folder.join(format!("{}.png", picture.name)), &picture.png()?)?;
                    text += &format!("![{0}]({1}.png)\n\n{0}\n\n", picture.caption, picture.name);
                }
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// An SVG element as a file.
fn standing_alone(svg: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{svg}")
}

fn table_lines(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = vec!["---".to_string(); table.header.len()];
    [line(&table.header), line(&rule)].into_iter().chain(table.rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_their_bars_and_pictures_become_files() {
        let mut table = Table::new(["a", "b"]);
        table.rows.push(vec!["x | y".into(), "1".into()]);
        let picture = Picture { name: "p".into(), caption: "three".into(), rgb: vec![9; 3 * 15], width: 5, height: 3 };
        let folder = tempfile::tempdir().unwrap();
        let blocks = [
            Block::Table(table),
            Block::Figure("f".into(), "<svg></svg>".into(), "words".into()),
            Block::Pictures(vec![picture]),
        ];
        let text = markdown(&blocks, folder.path()).unwrap();
        assert!(text.contains("| x \\| y | 1 |") && text.contains("![three](p.png)"), "{text}");
        assert_eq!(image::open(folder.path().join("p.png")).unwrap().width(), 5);
        assert!(folder.path().join("f.svg").is_file());
    }
}
