//! Names with stars.

/// A dotted name in which `*` stands for one segment or a part of one, and `**` for one or more segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(&'static str);

impl Pattern {
    pub(super) fn new(text: &'static str) -> Self {
        Self(text)
    }

    /// What the stars stand for in `name`, from left to right, if it fits.
    pub(super) fn captures<'a>(&self, name: &'a str) -> Option<Vec<&'a str>> {
        let (mut wanted, mut found): (Vec<&str>, Vec<&str>) = (self.0.split('.').collect(), name.split('.').collect());
        let mut captures = vec![];
        if let Some(many) = wanted.iter().position(|segment| *segment == "**") {
            let num_more = found.len().checked_sub(wanted.len())?;
            // The segments that `**` takes lie in one piece: from its first's beginning to its last's end.
            let start: usize = found[..many].iter().map(|segment| segment.len() + 1).sum();
            let length: usize = found[many..=many + num_more].iter().map(|segment| segment.len() + 1).sum();
            let middle = &name[start..start + length - 1];
            found.splice(many..=many + num_more, [middle]);
            wanted[many] = "*";
        }
        if wanted.len() != found.len() {
            return None;
        }
        for (wanted, found) in wanted.into_iter().zip(found) {
            match wanted.split_once('*') {
                None if wanted == found => {}
                None => return None,
                Some((before, after)) => {
                    let part = found.strip_prefix(before)?.strip_suffix(after)?;
                    captures.push(part);
                }
            }
        }
        captures.iter().all(|part| !part.is_empty()).then_some(captures)
    }

    /// The name with the stars replaced by `captures`.
    pub(super) fn fill(&self, captures: &[&str]) -> String {
        let mut name = String::new();
        let mut captures = captures.iter();
        let mut rest = self.0;
        while let Some((before, after)) = rest.split_once('*') {
            name.push_str(before);
            name.push_str(captures.next().copied().unwrap_or_default());
            rest = after.strip_prefix('*').unwrap_or(after);
        }
        name + rest
    }

    /// Number of stars, `**` counted as one.
    pub(super) fn num_stars(&self) -> usize {
        self.0.replace("**", "*").matches('*').count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_segments_and_their_parts() {
        let cases: [(&str, &str, Option<&[&str]>); 9] = [
            ("a.*.b", "a.17.b", Some(&["17"])),
            ("a.*.b", "a.17.c", None),
            ("a.*.b", "a.1.7.b", None),
            ("layer*.w", "layer12.w", Some(&["12"])),
            ("layer*.w", "layer.w", None),
            ("a.*.**", "a.3.norm.weight", Some(&["3", "norm.weight"])),
            ("**.bias", "x.y.bias", Some(&["x.y"])),
            ("a.**.w*", "a.b.c.w2", Some(&["b.c", "2"])),
            ("a.**", "a", None),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Pattern::new(pattern).captures(name).as_deref(), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn what_was_captured_fills_another_pattern() {
        let captures = Pattern::new("blocks.*.norm1.**").captures("blocks.3.norm1.weight").unwrap();
        assert_eq!(Pattern::new("layer.*.ln_1.**").fill(&captures), "layer.3.ln_1.weight");
        assert_eq!(Pattern::new("layer.*.ln_1.**").num_stars(), 2);
    }
}
