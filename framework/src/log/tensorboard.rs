//! TensorBoard event files.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::Message;
use tensorboard_rs::record_writer::RecordWriter;

use super::event_record::{
    DATA_CLASS_TENSOR, DTYPE_STRING, EventRecord, Image, Metadata, PluginData, SESSION_START, ScalarShape, SessionLog,
    StringTensor, Summary, Value,
};
use super::grid::encode_png;
use super::histogram::histogram_of;
use super::record_file::RecordFile;

const FILE_VERSION: &str = "brain.Event:2";

/// One event file, written record by record.
///
/// Nothing but [`EventWriter::create`] fails; what goes wrong later is kept for [`EventWriter::take_problem`].
pub struct EventWriter {
    records: RecordFile,
}

impl EventWriter {
    /// A new event file in `dir`, which is made if absent.
    ///
    /// Its name, `events.out.tfevents.<unix seconds>.<host>.<process>.<counter>`, is one that no other writer has, also
    /// when several start in the same second.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make the log folder `{}`", dir.display()))?;
        let stem =
            format!("events.out.tfevents.{:010.0}.{}.{}", unix_seconds().floor(), host_name(), std::process::id());
        let mut counter = 0_u64;
        loop {
            let path = dir.join(format!("{stem}.{counter}"));
            match RecordFile::create_new(&path) {
                Ok(records) => return Ok(Self::start(records)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => counter += 1,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make the event file `{}`", path.display()));
                }
            }
        }
    }

    fn start(records: RecordFile) -> Self {
        let mut writer = Self { records };
        writer.write(0, EventRecord { file_version: Some(FILE_VERSION.into()), ..EventRecord::default() });
        writer
    }

    /// The event file.
    pub fn path(&self) -> &Path {
        self.records.path()
    }

    /// Tells readers that the run goes on after `step`: they forget what older files of the folder say of later steps.
    pub fn resume_after(&mut self, step: u64) {
        let session_log = Some(SessionLog { status: SESSION_START });
        self.write(step.saturating_add(1), EventRecord { session_log, ..EventRecord::default() });
    }

    /// One number. TensorBoard keeps it as f32.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) {
        self.scalars(step, &[(tag, value)]);
    }

    /// Several numbers of one step, in one record.
    pub fn scalars<T: AsRef<str>>(&mut self, step: u64, scalars: &[(T, f64)]) {
        let value = |(tag, value): &(T, f64)| Value {
            tag: tag.as_ref().into(),
            simple_value: Some(*value as f32),
            ..Value::default()
        };
        self.write_values(step, scalars.iter().map(value).collect());
    }

    /// A picture; one whose bytes do not fit its size is a problem, not a panic.
    ///
    /// # Shapes
    /// * `rgb`: `[height, width, 3]`
    pub fn image(&mut self, tag: &str, step: u64, rgb: &[u8], width: usize, height: usize) {
        match encode_png(rgb, width, height) {
            Ok(png) => self.png(tag, step, png, width, height),
            Err(error) => self.records.note(|| format!("image `{tag}` of step `{step}` is not logged: {error:#}")),
        }
    }

    /// A picture that is a PNG file already, of `width` by `height` pixels.
    pub(super) fn png(&mut self, tag: &str, step: u64, png: Vec<u8>, width: usize, height: usize) {
        // PNG sizes end at 2^31 - 1, so these never saturate.
        let pixels = |size: usize| i32::try_from(size).unwrap_or(i32::MAX);
        let (height, width) = (pixels(height), pixels(width));
        let image = Some(Image { height, width, colorspace: 3, encoded_image_string: png });
        self.write_values(step, vec![Value { tag: tag.into(), image, ..Value::default() }]);
    }

    /// The distribution of `values`, in TensorBoard's buckets; NaN and infinities are left out.
    pub fn histogram(&mut self, tag: &str, step: u64, values: &[f32]) {
        let histo = Some(histogram_of(values));
        self.write_values(step, vec![Value { tag: tag.into(), histo, ..Value::default() }]);
    }

    /// A text, which TensorBoard shows as Markdown.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) {
        let plugin_data = Some(PluginData { plugin_name: "text".into() });
        let tensor_shape = Some(ScalarShape {});
        let value = Value {
            tag: tag.into(),
            tensor: Some(StringTensor { dtype: DTYPE_STRING, tensor_shape, string_val: vec![text.into()] }),
            metadata: Some(Metadata { plugin_data, data_class: DATA_CLASS_TENSOR }),
            ..Value::default()
        };
        self.write_values(step, vec![value]);
    }

    /// Asks the system to put the records on the disk.
    pub fn flush(&mut self) {
        self.records.flush();
    }

    /// The first thing that went wrong, once.
    pub fn take_problem(&mut self) -> Option<String> {
        self.records.take_problem()
    }

    fn write_values(&mut self, step: u64, value: Vec<Value>) {
        self.write(step, EventRecord { summary: Some(Summary { value }), ..EventRecord::default() });
    }

    fn write(&mut self, step: u64, record: EventRecord) {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let record = EventRecord { wall_time: unix_seconds(), step, ..record };
        let mut framed = Vec::new();
        match RecordWriter::new(&mut framed).write(&record.encode_to_vec()) {
            Ok(()) => self.records.append(&framed),
            Err(error) => self.records.note(|| format!("an event of step `{step}` is not logged: {error}")),
        }
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The name of this machine, fit for a file name; `localhost` where the system does not say.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_default();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let name: String = name.trim().chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensorboard_rs::masked_crc32c::masked_crc32c;

    /// The records of an event file, checksums verified.
    fn read_records(path: &Path) -> Vec<EventRecord> {
        let bytes = std::fs::read(path).unwrap();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            assert_eq!(word(at + 8), masked_crc32c(&bytes[at..at + 8]));
            let content = &bytes[at + 12..at + 12 + length];
            assert_eq!(word(at + 12 + length), masked_crc32c(content));
            records.push(EventRecord::decode(content).unwrap());
            at += length + 16;
        }
        records
    }

    #[test]
    fn writers_started_at_the_same_instant_get_files_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let threads: Vec<_> = (0..9_u64)
            .map(|n| {
                let dir = dir.path().to_path_buf();
                std::thread::spawn(move || {
                    let mut writer = EventWriter::create(&dir).unwrap();
                    writer.scalar("train/loss", n, n as f64);
                    writer.path().to_path_buf()
                })
            })
            .collect();
        for (n, thread) in threads.into_iter().enumerate() {
            let records = read_records(&thread.join().unwrap());
            assert_eq!(records.len(), 2);
            assert_eq!(records[0].file_version.as_deref(), Some(FILE_VERSION));
            assert_eq!(records[1].step, n as i64);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 9);
    }

    #[test]
    fn scalars_of_one_step_share_a_record_and_keep_zero_and_nan() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.scalars(11, &[("train/loss", f64::NAN), ("train/lr", 0.0)]);
        let records = read_records(writer.path());
        let values = &records[1].summary.as_ref().unwrap().value;
        assert!(values[0].simple_value.unwrap().is_nan());
        assert_eq!((values[1].tag.as_str(), values[1].simple_value), ("train/lr", Some(0.0)));
    }

    #[test]
    fn a_picture_that_is_not_square_keeps_width_and_height() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.image("sample/ema", 3, &[9; 5 * 7 * 3], 7, 5);
        let records = read_records(writer.path());
        let image = records[1].summary.as_ref().unwrap().value[0].image.clone().unwrap();
        assert_eq!((image.width, image.height), (7, 5));
        let decoded = image::load_from_memory(&image.encoded_image_string).unwrap().to_rgb8();
        assert_eq!(decoded.dimensions(), (7, 5));
    }

    #[test]
    fn a_picture_of_the_wrong_size_is_a_problem_and_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.image("sample/ema", 3, &[9; 10], 7, 5);
        assert!(writer.take_problem().unwrap().contains("`sample/ema`"));
        assert_eq!(read_records(writer.path()).len(), 1);
    }

    #[test]
    fn a_resumed_writer_tells_readers_to_forget_later_steps() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.resume_after(40);
        let restart = &read_records(writer.path())[1];
        assert_eq!((restart.step, restart.session_log.as_ref().unwrap().status), (41, SESSION_START));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported_once_and_stops_nothing() {
        let full = RecordFile::continue_at(Path::new("/dev/full")).unwrap();
        let mut writer = EventWriter::start(full);
        for step in 0..5 {
            writer.scalar("train/loss", step, 1.0);
            writer.histogram("weights", step, &[1.0]);
            writer.text("recipe", step, "text");
            writer.flush();
        }
        assert!(writer.take_problem().unwrap().contains("`/dev/full`"));
        assert_eq!(writer.take_problem(), None);
    }
}
