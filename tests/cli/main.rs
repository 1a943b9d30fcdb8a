//! The program as its user meets it: what it writes, what it refuses and in which words.

mod documents;
mod encoders;
mod evaluation;
mod exchange;
mod generate;
mod mistakes;
mod pictures;
mod program;
mod run_folders;
mod spatial;
mod weights;
