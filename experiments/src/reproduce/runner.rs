//! Does what is missing of a table's runs, several at a time, and nothing twice.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::board::Board;
use super::children::Children;
use super::work::{Assessment, Stage, Training};

const AGAIN: Duration = Duration::from_millis(500);
/// Held by the program that works on a run folder for a table.
const OURS: &str = ".reproduce.lock";
/// Held by the program that trains there, which may have outlived the one that started it.
const TRAINING: &str = ".lock";

/// How a table's runs are done.
#[derive(Debug)]
pub struct Runner<'a> {
    /// Profile of the runs.
    pub profile: &'a str,
    /// Pictures that are drawn of each evaluation of the first seed.
    pub num_pictures: usize,
    /// Labels of the pictures; the recipe's way when empty.
    pub labels: Vec<i64>,
    /// Runs at the same time.
    pub jobs: usize,
    /// Set when everything is to stop.
    pub stop: &'a AtomicBool,
}

/// A run that could not be done.
#[derive(Debug)]
pub struct Failure {
    /// Folder of the run.
    pub run_dir: PathBuf,
    /// Name of the run and why.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Taken,
    Done,
}

impl Runner<'_> {
    /// Trains, evaluates and draws what is missing; lines about it go to `out`.
    ///
    /// # Errors
    /// The output is closed. A run that fails does not keep others from going on.
    pub fn run(&self, trainings: &[Training], out: &mut dyn Write) -> Result<Vec<Failure>> {
        let states: Mutex<Vec<State>> = Mutex::new(
            trainings.iter().map(|training| if training.is_done() { State::Done } else { State::Waiting }).collect(),
        );
        let failures = Mutex::new(vec![]);
        let board = Board::new();
        let (say, hear) = channel::<String>();
        let mut written = Ok(());
        thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, trainings.len().max(1)) {
                let say = say.clone();
                let (states, failures, board) = (&states, &failures, &board);
                scope.spawn(move || self.work(trainings, states, failures, board, &say));
            }
            drop(say);
            for line in hear {
                if written.is_ok() {
                    written = board.print(&line, out);
                    // Nobody reads any more: runs are to save and end.
                    self.stop.fetch_or(written.is_err(), Ordering::Relaxed);
                }
            }
        });
        written.context("cannot write what is done")?;
        Ok(failures.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn work(
        &self,
        trainings: &[Training],
        states: &Mutex<Vec<State>>,
        failures: &Mutex<Vec<Failure>>,
        board: &Board,
        say: &Sender<String>,
    ) {
        let mut has_said = false;
        while !self.stop.load(Ordering::Relaxed) {
            let (at, locked) = match take(trainings, states) {
                Next::Work(at, lock) => (at, lock),
                Next::Nothing => return,
                Next::Locked(at) => {
                    if !has_said {
                        drop(say.send(format!("{}: another program is at it; waiting", trainings[at].name)));
                        has_said = true;
                    }
                    thread::sleep(AGAIN);
                    continue;
                }
                Next::Broken(at, problem) => {
                    fail(failures, say, &trainings[at], &problem);
                    continue;
                }
            };
            let (training, total) = (&trainings[at], trainings.len());
            if let Err(problem) = self.training(training, [at + 1, total], locked.first(), board, say) {
                fail(failures, say, training, &problem);
            }
            drop(locked);
        }
    }

    /// One run to its last stage. The lock is held, so what is found done stays done.
    fn training(
        &self,
        training: &Training,
        [number, total]: [usize; 2],
        lock: Option<&File>,
        board: &Board,
        say: &Sender<String>,
    ) -> Result<()> {
        let job = board.job(&format!("{number}/{total} {}", training.name), say);
        let children = Children { stop: self.stop, num_jobs: self.jobs, lock };
        let log = training.run_dir.join("reproduce.log");
        let step = |args: Vec<String>| children.run(&args, &log, &|line| job.line(line));
        for stage in &training.stages {
            if !stage.is_trained(&training.run_dir) {
                job.say(&format!("training to step {}", stage.steps));
                if !step(self.train_args(training, stage))? {
                    return Ok(());
                }
                if !stage.is_trained(&training.run_dir) {
                    bail!("the run ended before step {} and said no error; `{}`", stage.steps, log.display());
                }
            }
            for assessment in &stage.assessments {
                let wants_pictures = training.seed == 0 && !assessment.has_pictures();
                if (!assessment.is_done() || wants_pictures) && !stage.has_checkpoint(&training.run_dir) {
                    bail!(
                        "`{}` went on beyond step {} and its checkpoint there is gone; name another folder with --runs, or \
                         move this one away, to train to that step again",
                        training.run_dir.display(),
                        stage.steps
                    );
                }
                if !assessment.is_done() {
                    job.say("evaluating");
                    if !step(eval_args(training, stage, assessment))? {
                        return Ok(());
                    }
                }
                if wants_pictures && !step(self.sample_args(training, stage, assessment))? {
                    return Ok(());
                }
            }
        }
        job.say("done");
        Ok(())
    }

    fn train_args(&self, training: &Training, stage: &Stage) -> Vec<String> {
        let start = ["run".into(), text(&training.recipe), "--profile".into(), self.profile.into()];
        // The evaluation says it better than the demo's classifier; the user's own value comes later and wins.
        let quiet = ["--set".into(), "log.classifier=false".into()];
        let place = ["--run-dir".into(), text(&training.run_dir)];
        start.into_iter().chain(quiet).chain(sets(&stage.sets)).chain(place).collect()
    }

    fn sample_args(&self, training: &Training, stage: &Stage, assessment: &Assessment) -> Vec<String> {
        let mut args = vec!["sample".into(), text(&training.run_dir), "--step".into(), stage.steps.to_string()];
        args.extend(["--num".into(), self.num_pictures.to_string(), "--out".into(), text(&assessment.pictures)]);
        if !self.labels.is_empty() {
            let labels: Vec<String> = self.labels.iter().map(i64::to_string).collect();
            args.extend(["--labels".into(), labels.join(",")]);
        }
        // What `evaluation` says is nothing to samples, and harmless.
        args.extend(sets(&assessment.sets));
        args
    }
}

fn eval_args(training: &Training, stage: &Stage, assessment: &Assessment) -> Vec<String> {
    let start = ["eval".into(), text(&training.run_dir), "--step".into(), stage.steps.to_string()];
    let place = ["--out".into(), text(&assessment.result)];
    start.into_iter().chain(sets(&assessment.sets)).chain(place).collect()
}

fn sets(sets: &[String]) -> impl Iterator<Item = String> {
    sets.iter().flat_map(|set| ["--set".to_string(), set.clone()])
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn fail(failures: &Mutex<Vec<Failure>>, say: &Sender<String>, training: &Training, problem: &anyhow::Error) {
    let message = format!("{}: {problem:#}", training.name);
    drop(say.send(format!("failed: {message}")));
    let failure = Failure { run_dir: training.run_dir.clone(), message };
    failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
}

enum Next {
    Work(usize, Vec<File>),
    Locked(usize),
    Broken(usize, anyhow::Error),
    Nothing,
}

/// The next run that nobody is at. A run that another program finished meanwhile is done.
fn take(trainings: &[Training], states: &Mutex<Vec<State>>) -> Next {
    let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
    let mut locked = None;
    for at in 0..trainings.len() {
        if states[at] != State::Waiting {
            continue;
        }
        match lock(&trainings[at].run_dir) {
            Ok(Some(_)) if trainings[at].is_done() => states[at] = State::Done,
            Ok(Some(lock)) => {
                states[at] = State::Taken;
                return Next::Work(at, lock);
            }
            Ok(None) => locked = locked.or(Some(at)),
            Err(problem) => {
                states[at] = State::Done;
                return Next::Broken(at, problem);
            }
        }
    }
    locked.map_or(Next::Nothing, Next::Locked)
}

/// The folder for us alone; nothing where another program is at it.
fn lock(run_dir: &Path) -> Result<Option<Vec<File>>> {
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make `{}`", run_dir.display()))?;
    let mut held = vec![];
    for name in [OURS, TRAINING] {
        let path = run_dir.join(name);
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write `{}`", path.display()))?;
        match file.try_lock() {
            // The program that trains takes its lock itself.
            Ok(()) if name == TRAINING => drop(file.unlock()),
            Ok(()) => held.push(file),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(_)) => {} // some network file systems have no locks
        }
    }
    Ok(Some(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_is_for_one_program_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("run");
        let held = lock(&run_dir).unwrap().unwrap();
        assert!(lock(&run_dir).unwrap().is_none());
        drop(held);
        let trains = File::options().append(true).open(run_dir.join(TRAINING)).unwrap();
        trains.lock().unwrap();
        assert!(lock(&run_dir).unwrap().is_none());
        drop(trains);
        assert!(lock(&run_dir).unwrap().is_some());
    }
}
