//! Collects everything that is wrong with a recipe's values, so that one run reports it all.

use std::fmt::Display;

use super::complaint::suggestion;
use super::yaml::join;

/// Collector of problems; [`Layered::check`](super::Layered::check) adds the file and line of each.
///
/// Every method takes the key below the section that [`within`](Check::within) opened.
pub struct Check<'a> {
    path: String,
    problems: &'a mut Vec<(String, String)>,
}

impl<'a> Check<'a> {
    pub(super) fn new(problems: &'a mut Vec<(String, String)>) -> Self {
        Check { path: String::new(), problems }
    }

    /// What is wrong by `check`: keys and messages.
    pub fn problems(check: impl FnOnce(&mut Check<'_>)) -> Vec<(String, String)> {
        let mut problems = vec![];
        check(&mut Check::new(&mut problems));
        problems
    }

    /// Opens a section for the checks in `check`: `alignment.0`.
    pub fn within(&mut self, key: &str, check: impl FnOnce(&mut Check<'_>)) {
        check(&mut Check { path: join(&self.path, key), problems: self.problems });
    }

    /// Records a problem; an empty key stands for the section itself.
    pub fn bad(&mut self, key: &str, message: impl Display) {
        self.problems.push((join(&self.path, key), message.to_string()));
    }

    /// Records an error of a plugin; one whose message begins with `key: ` is shown at the line of that key.
    pub fn record(&mut self, problem: &anyhow::Error) {
        let message = format!("{problem:#}");
        let at_key = message.split_once(": ").filter(|(key, _)| !key.contains(' '));
        let (key, message) = at_key.unwrap_or(("", &message));
        self.bad(key, message);
    }

    /// Requires `low <= value <= high`; NaN is out of every range.
    pub fn range<T: PartialOrd + Display>(&mut self, key: &str, value: T, low: T, high: T) {
        if !(value >= low && value <= high) {
            self.bad(key, format!("`{value}` is out of range; allowed is {low} to {high}"));
        }
    }

    /// Requires a count of at least one.
    pub fn positive(&mut self, key: &str, value: usize) {
        if value == 0 {
            self.bad(key, "`0` is out of range; allowed is 1 or more");
        }
    }

    /// Requires one of the known words.
    pub fn one_of<S: AsRef<str>>(&mut self, key: &str, value: &str, known: &[S]) {
        if !known.iter().any(|word| word.as_ref() == value) {
            self.bad(key, format!("unknown value `{value}`{}", suggestion(value, known)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_their_ends_and_exclude_nan() {
        let found = Check::problems(|c| {
            c.range("low", 0.0, 0.0, 1.0);
            c.range("high", 1.0, 0.0, 1.0);
            c.range("nan", f64::NAN, 0.0, 1.0);
            c.range("count", 7, 1, 5);
        });
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["nan", "count"]);
        assert_eq!(found[1].1, "`7` is out of range; allowed is 1 to 5");
    }

    #[test]
    fn problems_carry_the_path_of_their_section() {
        let found = Check::problems(|c| {
            c.within("alignment.0", |c| {
                c.positive("depth", 0);
                c.within("loss", |c| c.one_of("kind", "cosin", &["cosine", "mse"]));
                c.bad("", "needs an encoder");
            });
            c.one_of("precision", "bf16", &["f32", "bf16"]);
        });
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["alignment.0.depth", "alignment.0.loss.kind", "alignment.0"]);
        assert!(found[1].1.contains("did you mean `cosine`? known: cosine, mse"));
    }
}
