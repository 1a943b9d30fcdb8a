//! The report as one page of HTML that needs no other file and no script.

use std::fmt::Write as _;

use anyhow::Result;

use super::block::{Block, Picture};
use crate::table::Table;

const STYLE: &str = include_str!("style.css");

/// The page.
///
/// # Errors
/// A picture's bytes do not fit its size.
pub fn page(title: &str, blocks: &[Block]) -> Result<String> {
    let mut body = String::new();
    for block in blocks {
        body += &element(block)?;
    }
    let title = escaped(title);
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    ))
}

fn element(block: &Block) -> Result<String> {
    Ok(match block {
        Block::Heading(level, words) => format!("<h{level}>{}</h{level}>\n", inline(words)),
        Block::Text(words) => format!("<p>{}</p>\n", inline(words)),
        Block::Notice(words) => format!("<p class=\"notice\">{}</p>\n", inline(words)),
        Block::Command(words) => format!("<pre>{}</pre>\n", escaped(words)),
        Block::List(items) => {
            let items: String = items.iter().map(|item| format!("<li>{}</li>\n", inline(item))).collect();
            format!("<ul>\n{items}</ul>\n")
        }
        Block::Table(shown) => table(shown),
        Block::Figure(_, svg, words) => {
            format!("<figure role=\"img\" aria-label=\"{}\">\n{svg}\n</figure>\n", escaped(words))
        }
        Block::Pictures(pictures) => {
            let shown = pictures.iter().map(picture).collect::<Result<String>>()?;
            format!("<div class=\"pictures\">\n{shown}</div>\n")
        }
    })
}

fn table(table: &Table) -> String {
    let is_number = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit() || "-−+±–".contains(c));
    let is_right: Vec<bool> = (0..table.header.len())
        .map(|column| {
            table.rows.iter().filter_map(|row| row.get(column)).all(|cell| is_number(cell) || cell.is_empty())
        })
        .collect();
    let class = |column: usize| if is_right.get(column) == Some(&true) { " class=\"number\"" } else { "" };
    let mut text = String::from("<div class=\"wide\"><table>\n<thead><tr>");
    for (column, name) in table.header.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(text, "<th{}>{}</th>", class(column), inline(name));
    }
    text += "</tr></thead>\n<tbody>\n";
    for row in &table.rows {
        text += "<tr>";
        for (column, cell) in row.iter().enumerate() {
            let verdict = verdict(cell).map(|verdict| format!(" class=\"{verdict}\"")).unwrap_or_default();
            let class = if verdict.is_empty() { class(column).to_string() } else { verdict };
            let _ = write!(text, "<td{class}>{}</td>", inline(cell));
        }
        text += "</tr>\n";
    }
    text + "</tbody>\n</table></div>\n"
}

/// The color of a verdict, for cells that are one.
fn verdict(cell: &str) -> Option<&'static str> {
    match cell {
        "holds" => Some("holds"),
        "does not hold" => Some("fails"),
        "within noise" => Some("noise"),
        _ => None,
    }
}

fn picture(picture: &Picture) -> Result<String> {
    let data = base64(&picture.png()?);
    // Small pictures are shown larger, as the pixels that they are.
    let width = picture.width * (640 / picture.width.max(1)).clamp(1, 3);
    Ok(format!(
        "<figure><img src=\"data:image/png;base64,{data}\" width=\"{width}\" alt=\"{0}\">\
         <figcaption>{1}</figcaption></figure>\n",
        escaped(&picture.caption),
        inline(&picture.caption)
    ))
}

/// Text with what stands between backticks as code.
fn inline(words: &str) -> String {
    let parts = words.split('`').map(escaped).enumerate();
    parts.map(|(i, part)| if i % 2 == 1 { format!("<code>{part}</code>") } else { part }).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Bytes as text (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize]; // six bits are below 64
            text.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_the_letters_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
    }

    #[test]
    fn the_page_stands_alone_and_shows_text_as_text() {
        let mut table = Table::new(["a<b", "number"]);
        table.rows = vec![vec!["holds".into(), "1.5".into()]];
        let picture = Picture { name: "p".into(), caption: "c".into(), rgb: vec![0; 12], width: 2, height: 2 };
        let blocks = [Block::Text("`x` & y".into()), Block::Table(table), Block::Pictures(vec![picture])];
        let text = page("t", &blocks).unwrap();
        for part in
            ["<code>x</code> &amp; y", "a&lt;b", "class=\"holds\"", "class=\"number\"", "data:image/png;base64,iVBOR"]
        {
            assert!(text.contains(part), "{part}");
        }
        for other in ["<script", "src=\"http", "href"] {
            assert!(!text.contains(other), "{other}");
        }
    }
}
