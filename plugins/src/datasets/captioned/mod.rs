//! Pictures with captions: a folder or zip beside a table of captions, and MS-COCO.

pub mod captioned_folder;
pub mod coco;
mod pictures;
mod table;
