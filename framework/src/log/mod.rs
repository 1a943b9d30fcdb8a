//! What a run leaves behind while it trains: TensorBoard events, `metrics.jsonl`, sample pictures,
//! and the events by which the command layer learns what happens.
//!
//! Logging never stops a run: after [`RunLog::open`] nothing here fails. What goes wrong is kept,
//! once per file, and handed out by [`RunLog::problems`].

mod event;
mod event_record;
mod grid;
mod histogram;
mod metrics;
mod record_file;
mod run_log;
mod tensorboard;

pub use event::{Event, EventSink, SilentSink};
pub use grid::{encode_png, image_grid, magnify, save_png};
pub use metrics::MetricsWriter;
pub use run_log::RunLog;
pub use tensorboard::EventWriter;
