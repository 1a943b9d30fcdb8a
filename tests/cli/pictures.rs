//! Data that is absent, broken or odd: what cannot be read is named, what can be read is used.

use std::io::{Cursor, Write};

use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};

use crate::program::{Answer, Desk};

fn check(desk: &Desk, data: &str) -> Answer {
    let path = format!("data.path={data}");
    let mut args = vec!["check", "recipes/sit.yaml"];
    for set in ["data.type=image_folder", &path, "log.classifier=false", "sample.sampler.num_steps=1", "device=auto"] {
        args.extend(["--set", set]);
    }
    desk.run(&args)
}

fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn picture() -> RgbImage {
    RgbImage::from_fn(40, 50, |x, y| image::Rgb([x as u8 * 5, y as u8 * 4, 90]))
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in entries {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A zip of two classes.
pub fn picture_zip() -> Vec<u8> {
    let png = encoded(picture(), ImageFormat::Png);
    zip(&[("a/x.png", &png), ("b/y.png", &png)])
}

#[test]
fn data_that_is_absent_or_empty_is_named() {
    let desk = Desk::new();
    std::fs::create_dir_all(desk.path("empty")).unwrap();
    desk.write("flat/a.txt", "no picture");
    check(&desk, "nowhere").assert_refused(&["data", "`nowhere`"]);
    check(&desk, "empty").assert_refused(&["data", "no pictures in `empty", "<class>/<picture>"]);
    check(&desk, "flat").assert_refused(&["data", "no pictures in `flat"]);
    check(&desk, "flat/a.txt").assert_refused(&["data", "neither a folder nor a readable zip"]);
}

#[test]
fn pictures_that_cannot_be_read_are_named() {
    let (jpeg, png) = (encoded(picture(), ImageFormat::Jpeg), encoded(picture(), ImageFormat::Png));
    for (name, bytes, word) in [
        ("corrupt.png", b"this is no picture".to_vec(), "corrupt.png"),
        ("truncated.jpg", jpeg[..jpeg.len() / 2].to_vec(), "cannot read"),
        ("truncated.png", png[..png.len() / 2].to_vec(), "truncated.png"),
        ("nothing.png", vec![], "is empty (0 bytes)"),
    ] {
        let desk = Desk::new();
        desk.write(&format!("data/class/{name}"), bytes);
        check(&desk, "data").assert_refused(&[name, word]);
    }
}

#[test]
fn odd_pictures_are_used() {
    let gray16 = image::ImageBuffer::<image::Luma<u16>, _>::from_fn(40, 50, |x, _| image::Luma([x as u16 * 1000]));
    let desk = Desk::new();
    desk.write("data/gray/a.png", encoded(GrayImage::from_pixel(40, 50, image::Luma([90])), ImageFormat::Png));
    desk.write("data/deep/a.png", encoded(DynamicImage::ImageLuma16(gray16), ImageFormat::Png));
    desk.write("data/pixel/a.png", encoded(RgbImage::from_pixel(1, 1, image::Rgb([9, 99, 199])), ImageFormat::Png));
    desk.write(
        "data/clear/a.png",
        encoded(image::RgbaImage::from_pixel(9, 70, image::Rgba([1, 2, 3, 4])), ImageFormat::Png),
    );
    check(&desk, "data").assert_done();
}

#[test]
fn a_zip_is_read_in_place_and_a_dangerous_one_refused() {
    let (desk, png) = (Desk::new(), encoded(picture(), ImageFormat::Png));
    let odd = zip(&[
        ("a/x.png", &png),
        ("b/y.png", &png),
        ("a/.hidden.png", b"?"),
        ("a/notes.txt", b"?"),
        ("__MACOSX/a/._x.png", b"?"),
    ]);
    desk.write("odd.zip", &odd);
    check(&desk, "odd.zip").assert_done();
    desk.write("cut.zip", &odd[..odd.len() / 2]);
    check(&desk, "cut.zip").assert_refused(&["cut.zip"]);
    desk.write("evil.zip", zip(&[("a/x.png", &png), ("../../evil.png", &png)]));
    check(&desk, "evil.zip").assert_refused(&["evil.zip", "../../evil.png"]);
}
