//! The seam between the engine, which never prints, and the command layer, which does.

use std::path::PathBuf;

/// What happens during a run, told in the order it happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The run is built and its folder exists.
    Started {
        /// Folder of this run.
        run_dir: PathBuf,
        /// Optimizer steps of the whole run, those before a resume included.
        total_steps: u64,
        /// Step of the checkpoint the run goes on from; `None` for a fresh run.
        resumed_from: Option<u64>,
    },
    /// An optimizer step whose numbers were read back from the device.
    Step {
        /// Steps done.
        step: u64,
        /// Optimizer steps of the whole run.
        total_steps: u64,
        /// Total loss of this step.
        loss: f64,
        /// Samples per second of wall time, over the steps since the last event.
        images_per_s: f64,
        /// Share of the wall time since the last event that was spent waiting for data, in 0..1.
        data_wait_fraction: f64,
        /// Most memory that the run took so far, in bytes; `None` where the system does not tell.
        peak_memory_bytes: Option<u64>,
        /// Seconds to the end at the present speed; `None` before the speed is known.
        eta_s: Option<f64>,
    },
    /// A checkpoint is complete on disk.
    Saved {
        /// Step it holds.
        step: u64,
        /// Folder of the checkpoint.
        path: PathBuf,
    },
    /// A picture of samples is on disk.
    Preview {
        /// Step of the weights that drew it.
        step: u64,
        /// The PNG file.
        path: PathBuf,
    },
    /// What the run decided for itself.
    Note(String),
    /// Something the user should know and the run can live with.
    Warning(String),
    /// The run is over: it reached its last step, or was asked to stop and has saved.
    Finished {
        /// Steps done.
        step: u64,
        /// Optimizer steps of the whole run; more than `step` when the run was stopped early.
        total_steps: u64,
        /// Wall time of this life of the run, in seconds.
        elapsed_s: f64,
        /// Most memory that it took, in bytes; `None` where the system does not tell.
        peak_memory_bytes: Option<u64>,
    },
}

/// Whoever listens to a run: a progress bar, a test, or nobody.
///
/// Every closure over `&Event` is a sink:
///
/// ```
/// use realign::log::{Event, EventSink};
///
/// let mut warnings = Vec::new();
/// let mut sink = |event: &Event| {
///     if let Event::Warning(text) = event {
///         warnings.push(text.clone());
///     }
/// };
/// sink.event(&Event::Warning("the disk is nearly full".into()));
/// assert_eq!(warnings, ["the disk is nearly full"]);
/// ```
pub trait EventSink: Send {
    /// Takes note of `event`; it must return soon, since the training step waits for it.
    fn event(&mut self, event: &Event);
}

impl<F: FnMut(&Event) + Send> EventSink for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}

/// The sink that listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SilentSink;

impl EventSink for SilentSink {
    fn event(&mut self, _event: &Event) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boxed_closure_hears_every_event_in_order() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut sinks: Vec<Box<dyn EventSink>> =
            vec![Box::new(SilentSink), Box::new(move |event: &Event| sender.send(event.clone()).unwrap())];
        let events = [
            Event::Warning("first".into()),
            Event::Finished { step: 7, total_steps: 9, elapsed_s: 1.5, peak_memory_bytes: None },
        ];
        for event in &events {
            sinks.iter_mut().for_each(|sink| sink.event(event));
        }
        drop(sinks);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), events);
    }
}
