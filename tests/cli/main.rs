//! The program as its user meets it: what it writes, what it refuses and in which words.

mod bench;
mod documents;
mod encoders;
mod evaluation;
mod exchange;
mod generate;
mod mistakes;
mod pictures;
mod profile;
mod program;
mod reproduce;
mod run_folders;
mod spatial;
mod weights;
