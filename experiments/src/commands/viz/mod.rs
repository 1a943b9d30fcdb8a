//! `realign viz`: which tokens are alike, as heat maps, with and without spatial normalization.

mod anchors;
mod figure;
mod maps;
mod npy;
mod runs;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use realign::burn::tensor::{Device, Tensor};
use realign::data::image_tensor;
use realign::log::EventWriter;
use realign::ops;
use realign::plugin::{Example, Normalizer, PatchGrid};

use self::anchors::{Anchor, anchors};
use self::maps::{Maps, OffObject};
use crate::measuring::{EncoderArgs, PictureArgs, Source, context, read_normalizer};
use crate::plot::Canvas;
use crate::table::{Table, number};

/// Self-similarity of features as heat maps, with and without spatial normalization
#[derive(Debug, Args)]
pub struct Viz {
    #[command(flatten)]
    encoders: EncoderArgs,
    #[command(flatten)]
    pictures: PictureArgs,
    /// Folder of a run, whose features are shown beside: targets, tokens inside the network, projected tokens; may be
    /// repeated
    #[arg(long = "run", value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Block of a run's network to look at; those that are aligned when left out; may be repeated
    #[arg(long = "tap", value_name = "BLOCK")]
    taps: Vec<usize>,
    /// Share of noise in what a run's network gets, 0 to 1
    #[arg(long, default_value_t = 0.5)]
    noise_level: f64,
    /// Normalizer of the second half of the figure
    #[arg(long, default_value = "spatial")]
    after: String,
    /// Anchor tokens, by number or as `y,x` in 0..1 separated by semicolons: `0.5,0.5; 0.2,0.7`
    #[arg(long, default_value = "4")]
    points: String,
    /// Folder for the figures, and for the maps as arrays
    #[arg(long, default_value = "viz")]
    out: PathBuf,
}

/// One row of a figure: features of all pictures from one place.
struct Row {
    label: String,
    grid: PatchGrid,
    /// `[pictures, tokens, channels]`
    tokens: Tensor<3>,
}

impl Viz {
    /// Encodes, draws and writes.
    ///
    /// # Errors
    /// An encoder, a run or a picture is not what it should be, or the disk refuses.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let encoders = self.encoders.named()?;
        ensure!(
            !encoders.is_empty() || !self.runs.is_empty(),
            "name at least one encoder or run: `--encoder hog`, `--run FOLDER`"
        );
        ensure!((0.0..=1.0).contains(&self.noise_level), "--noise-level {}: allowed is 0 to 1", self.noise_level);
        let (before, after) = (self.encoders.normalizer()?, read_normalizer("--after", &self.after)?);
        let anchors = anchors(&self.points, self.pictures.seed)?;
        let runs = self.runs.iter().map(|folder| runs::Run::open(folder)).collect::<Result<Vec<_>>>()?;
        let pictures = self.sized(&runs)?;
        let device = pictures.device()?;
        let source = pictures.open()?;
        let examples = source
            .indices
            .iter()
            .zip(&source.ids)
            .map(|(idx, id)| source.dataset.get(*idx).with_context(|| format!("picture `{id}`")))
            .collect::<Result<Vec<Example>>>()?;
        let context = context(pictures.image_size(), pictures.grid(), &self.encoders.weights_dir);
        let mut rows = vec![];
        for encoder in &encoders {
            let (spec, built) = encoder.build(&context, &device)?;
            let tokens =
                in_batches(&examples, pictures.batch, &device, |images| Ok(vec![built.encode(images)?.tokens]))
                    .with_context(|| format!("encoder `{}`", encoder.label))?;
            let tokens = tokens.into_iter().map(|tokens| (encoder.label.clone(), spec.grid, tokens));
            rows.extend(tokens.map(|(label, grid, tokens)| Row { label, grid, tokens }));
        }
        for run in &runs {
            rows.extend(run.rows(&self.taps, self.noise_level, &examples, pictures.batch)?);
        }
        self.draw(&rows, &source, &examples, &anchors, [&*before, &*after], &runs, out)
    }

    /// The pictures at the size of the runs.
    fn sized(&self, runs: &[runs::Run]) -> Result<PictureArgs> {
        let mut pictures = self.pictures.clone();
        for run in runs {
            let (size, grid) = (run.trained.plan.recipe.image_size, run.trained.plan.backbone.grid);
            let chosen = *pictures.image_size.get_or_insert(size);
            ensure!(
                chosen == size,
                "`{}` works on pictures of {size} pixels, and the others on {chosen}; leave out --image-size, or look at \
                 them one by one",
                run.folder().display()
            );
            pictures.grid.get_or_insert(grid.rows);
        }
        Ok(pictures)
    }

    #[allow(clippy::too_many_arguments)] // the parts of one page, used once
    fn draw(
        &self,
        rows: &[Row],
        source: &Source,
        examples: &[Example],
        anchors: &[Anchor],
        normalizers: [&dyn Normalizer; 2],
        runs: &[runs::Run],
        out: &mut dyn Write,
    ) -> Result<ExitCode> {
        let arrays = self.out.join("maps");
        fs::create_dir_all(&arrays).with_context(|| format!("cannot make the folder `{}`", arrays.display()))?;
        let mut logs =
            runs.iter().map(|run| Ok((run, EventWriter::create(run.folder())?))).collect::<Result<Vec<_>>>()?;
        let mut table = Table::new(["picture", "features", "off_object_before", "off_object_after"]);
        let mut how = OffObject::Far;
        for (i, (example, id)) in examples.iter().zip(&source.ids).enumerate() {
            let stem = file_stem(id);
            let mut drawn = vec![];
            for row in rows {
                let tokens = row.tokens.clone().narrow(0, i, 1);
                let mask = source.mask(source.indices[i], example, row.grid);
                let halves = normalizers.map(|normalizer| {
                    let tokens = normalizer.normalize(tokens.clone(), row.grid);
                    ops::guard(|| Maps::new(tokens, row.grid, anchors, mask.as_deref()))
                });
                let [before, after] = halves;
                let [before, after] = [before?, after?];
                how = before.how;
                table.rows.push(vec![
                    stem.clone(),
                    row.label.clone(),
                    number(before.off_object, 4),
                    number(after.off_object, 4),
                ]);
                for (half, name) in [(&before, "before"), (&after, "after")] {
                    let shape = [anchors.len(), row.grid.rows, row.grid.columns];
                    let file = arrays.join(format!("{stem}-{}-{name}.npy", file_stem(&row.label)));
                    npy::write(&file, &shape, &half.maps.concat())?;
                }
                drawn.push(figure::Line { label: row.label.clone(), grid: row.grid, halves: [before, after] });
            }
            let titles = [title(&self.encoders.normalizer), title(&self.after)];
            let canvas = figure::draw(&example.image, anchors, &drawn, &titles)?;
            canvas.save(&self.out.join(format!("{stem}.png")))?;
            logs.iter_mut().for_each(|(run, log)| show(log, run.step(), &stem, &canvas));
        }
        for (run, log) in &mut logs {
            log.flush();
            if let Some(problem) = log.take_problem() {
                writeln!(out, "warning: `{}`: {problem}", run.folder().display())?;
            }
        }
        write!(out, "{}", table.to_text())?;
        writeln!(out, "off-object similarity: {}", how.in_words())?;
        writeln!(out, "figures: {}", self.out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn show(log: &mut EventWriter, step: u64, stem: &str, canvas: &Canvas) {
    log.image(&format!("spatial/viz/{stem}"), step, &canvas.pixels, canvas.width, canvas.height);
}

fn title(normalizer: &str) -> String {
    match normalizer {
        "none" => "as they are".into(),
        "spatial" => "spatially normalized".into(),
        other => format!("normalizer {other}"),
    }
}

/// Features of the examples from `encode`, which may return several; batches are joined.
fn in_batches(
    examples: &[Example],
    batch: usize,
    device: &Device,
    encode: impl Fn(Tensor<4>) -> Result<Vec<Tensor<3>>>,
) -> Result<Vec<Tensor<3>>> {
    let mut joined: Vec<Vec<Tensor<3>>> = vec![];
    for batch in examples.chunks(batch.max(1)) {
        let found = ops::guard(|| encode(image_tensor(batch, device)?))?;
        joined.resize(found.len(), vec![]);
        joined.iter_mut().zip(found).for_each(|(all, next)| all.push(next));
    }
    Ok(joined.into_iter().map(|batches| Tensor::cat(batches, 0)).collect())
}

/// A name as part of a file's: without folders and endings, everything odd an underscore.
fn file_stem(name: &str) -> String {
    let stem = Path::new(name).file_stem().map_or_else(|| name.into(), |stem| stem.to_string_lossy().into_owned());
    let stem = if name.contains('(') { name.to_string() } else { stem };
    stem.chars().map(|letter| if letter.is_alphanumeric() || "-.".contains(letter) { letter } else { '_' }).collect()
}
