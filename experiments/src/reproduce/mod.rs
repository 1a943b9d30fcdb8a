//! The paper's tables, run again: from a table's file to runs, evaluations and a report.

mod board;
mod children;
mod cost;
mod entry;
mod library;
mod orders;
mod paper_table;
mod report;
mod runner;
mod setting;
mod speed;
mod state;
mod structure;
mod work;

pub use cost::{Cost, print_costs};
pub use entry::{Entry, Kind};
pub use library::{Difference, TABLES, Tables};
pub use orders::{Order, Verdict, orders};
pub use paper_table::{Claim, Correlated, PaperTable, Part, Share};
pub use report::{Subject, write_report};
pub use runner::{Failure, Runner};
pub use setting::{Scale, Setting};
pub use state::{Ours, Outcome, ordering_metric};
pub use structure::Structure;
pub use work::{Assessment, Stage, Training, trainings};
