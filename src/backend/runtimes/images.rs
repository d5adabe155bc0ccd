//! The images that functions of this server are deployed with, by number.
//!
//! An image is numbered when a function is deployed with it, by a control thread, so that the front can look its number
//! up without waiting. A number is never given to another image: instances may still be there that were made from the
//! one, long after its last function is gone. So the table only grows, and has a bound.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::IMAGES_MAX;
use crate::registry::image::ImageId;

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is.
    pub id: ImageId,
    /// By which name it was deployed first: for people. The name may be another image's by now.
    pub name: String,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.id.short())
    }
}

/// The table is full. It is empty again when the server starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyImages;

impl fmt::Display for TooManyImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this server process has seen {IMAGES_MAX} images, which is all that it can tell apart: start it again"
        )
    }
}

impl std::error::Error for TooManyImages {}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Images {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<ImageId, usize>,
    images: Vec<Image>,
}

impl Images {
    /// The number of this image, which gets one if it has none.
    ///
    /// # Errors
    /// When there are too many.
    pub fn add(&self, id: &ImageId, name: &str) -> Result<usize, TooManyImages> {
        let mut table = self.table();
        if let Some(&index) = table.by_id.get(id) {
            return Ok(index);
        }
        let index = table.images.len();
        if index >= IMAGES_MAX {
            return Err(TooManyImages);
        }
        table.images.push(Image { id: id.clone(), name: name.to_owned() });
        table.by_id.insert(id.clone(), index);
        Ok(index)
    }

    /// The number of this image, if it has one.
    pub fn index_of(&self, id: &ImageId) -> Option<usize> {
        self.table().by_id.get(id).copied()
    }

    /// The image with this number.
    pub fn get(&self, index: usize) -> Option<Image> {
        self.table().images.get(index).cloned()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // An image that a panic has left without its entry by id is numbered again, and its first number stays its own.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::image_id;

    #[test]
    fn an_image_keeps_its_number_by_whatever_name_it_comes_again() {
        let images = Images::default();
        assert_eq!(images.index_of(&image_id('a')), None);
        assert_eq!((images.add(&image_id('a'), "one"), images.add(&image_id('b'), "two")), (Ok(0), Ok(1)));
        assert_eq!(images.add(&image_id('a'), "other"), Ok(0));
        assert_eq!((images.index_of(&image_id('a')), images.index_of(&image_id('b'))), (Some(0), Some(1)));
        assert_eq!(images.get(0).unwrap().to_string(), "one (aaaaaaaaaaaa)");
        assert_eq!(images.get(2), None);
    }

    #[test]
    fn the_table_has_an_end_and_what_is_in_it_stays() {
        let images = Images::default();
        let id = |number: usize| ImageId::parse(&format!("sha256:{number:064x}")).unwrap();
        for number in 0..IMAGES_MAX {
            assert_eq!(images.add(&id(number), "x"), Ok(number));
        }
        assert_eq!(images.add(&id(IMAGES_MAX), "x"), Err(TooManyImages));
        assert_eq!(images.add(&id(7), "x"), Ok(7));
        assert_eq!(images.index_of(&id(IMAGES_MAX)), None);
    }
}
