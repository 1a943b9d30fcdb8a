//! Pictures that fit into memory together.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::ops::OutOfMemory;

/// How many pictures are drawn together: as many as are asked for until memory ends, then half as many from there on.
#[derive(Debug)]
pub struct DrawSize(AtomicUsize);

impl Default for DrawSize {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl DrawSize {
    /// What the user should know once memory has ended.
    pub fn note(&self) -> Option<String> {
        let most = self.0.load(Ordering::Relaxed);
        (most < usize::MAX).then(|| format!("drawn {most} at a time, because more did not fit into memory"))
    }

    /// The bytes that `draw` makes of all items, in order; it takes the first item's place and as many items as fit.
    ///
    /// # Errors
    /// As `draw`, but for [`OutOfMemory`] only when it draws a single item.
    pub(crate) fn parts<T>(&self, items: &[T], draw: impl Fn(usize, &[T]) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let (mut bytes, mut done) = (vec![], 0);
        while done < items.len() {
            let count = self.0.load(Ordering::Relaxed).min(items.len() - done);
            match draw(done, &items[done..done + count]) {
                Ok(drawn) => {
                    bytes.extend(drawn);
                    done += count;
                }
                Err(error) if count > 1 && error.is::<OutOfMemory>() => self.0.store(count / 2, Ordering::Relaxed),
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;
    use crate::ops;

    /// What libtorch says when a GPU's memory ends.
    const MESSAGE: &str = "CUDA out of memory. Tried to allocate 1.95 GiB. GPU 0 has a total capacity of 14.57 GiB of which \
                           966.00 MiB is free.";

    /// Draws every item as itself, but no more than `most` at once; returns the sizes that were tried.
    fn draw(size: &DrawSize, items: &[u8], most: usize) -> (Result<Vec<u8>>, Vec<(usize, usize)>) {
        let tried = RefCell::new(vec![]);
        let bytes = size.parts(items, |from, part| {
            tried.borrow_mut().push((from, part.len()));
            ops::guard(|| if part.len() > most { panic!("{MESSAGE}") } else { Ok(part.to_vec()) })
        });
        (bytes, tried.into_inner())
    }

    #[test]
    fn a_draw_that_does_not_fit_is_halved_and_the_next_ones_stay_small() {
        let size = DrawSize::default();
        let items: Vec<u8> = (0..11).collect();
        assert_eq!(size.note(), None);
        let (bytes, tried) = draw(&size, &items, 3);
        assert_eq!(
            (bytes.unwrap(), tried),
            (items.clone(), vec![(0, 11), (0, 5), (0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (10, 1)])
        );
        let (bytes, tried) = draw(&size, &items[..4], 3);
        assert_eq!((bytes.unwrap(), tried), (items[..4].to_vec(), vec![(0, 2), (2, 2)]));
        assert_eq!(size.note().unwrap(), "drawn 2 at a time, because more did not fit into memory");
    }

    #[test]
    fn a_single_picture_that_does_not_fit_is_an_error_and_so_is_any_other_failure() {
        let (bytes, tried) = draw(&DrawSize::default(), &[1, 2, 3], 0);
        assert!(bytes.unwrap_err().to_string().contains("1.95 GiB were asked for"));
        assert_eq!(tried, [(0, 3), (0, 1)]);
        let size = DrawSize::default();
        let error = size.parts(&[1, 2, 3], |_, _| bail!("the text says out of memory and means something else"));
        assert!(error.is_err() && size.note().is_none());
    }
}
