//! 8-bit RGB pictures and how files become them.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, anyhow, bail, ensure};
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits};
use memchr::memmem;

/// Most pixels a file may declare; the count at which Pillow refuses a file.
pub const MAX_PIXELS: u64 = 178_956_970;
const SMALL_PIXELS: u64 = 1 << 24; // below this the declared size needs no justification: 48 MiB
const MAX_PIXELS_PER_BYTE: u64 = 8_256; // one-bit pixels behind deflate's best ratio, 1032
const MAX_DECODER_BYTES: u64 = 3 << 30; // `MAX_PIXELS` of four 16-bit channels, with room for the decoder

/// Picture of 8-bit RGB pixels, rows from the top, channels last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// A picture over `pixels` in the order height, width, channel.
    ///
    /// # Errors
    /// When a side is 0 or the number of bytes is not `width · height · 3`.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        ensure!(width > 0 && height > 0, "picture of {width} x {height} pixels: both sides must be at least 1");
        let expected = width.checked_mul(height).and_then(|count| count.checked_mul(3));
        ensure!(
            expected == Some(pixels.len()),
            "picture of {width} x {height} pixels: found {} bytes, expected width x height x 3",
            pixels.len()
        );
        Ok(Self { width, height, pixels })
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes in the order height, width, channel.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes themselves, in the order height, width, channel.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// Bytes of row `y`, or an empty slice below the picture.
    pub fn row(&self, y: usize) -> &[u8] {
        self.pixels.chunks_exact(self.width * 3).nth(y).unwrap_or_default()
    }
}

/// Decodes a picture of any compiled-in format, guessed from its content, as Pillow's `convert("RGB")` does.
///
/// Gray is repeated, palettes are looked up, alpha is dropped without blending, CMYK is converted, and of an
/// animation the first frame is taken; orientation tags and color profiles are ignored. 16-bit channels keep
/// their high byte. Pillow does so for color pictures but saturates 16-bit gray ones at 255; here both keep
/// the high byte. JPEG pixels may differ from libjpeg's by a few levels.
///
/// # Errors
/// Names the file `name` when it is empty, truncated, corrupt, of an unknown format, holds float pixels, or
/// declares more pixels than [`MAX_PIXELS`] or than its length can justify.
pub fn decode(bytes: &[u8], name: &str) -> Result<RgbImage> {
    ensure!(!bytes.is_empty(), "picture `{name}` is empty (0 bytes)");
    // Decoders of foreign formats are the one place where a file could still reach somebody else's assertion.
    match catch_unwind(AssertUnwindSafe(|| decode_unguarded(bytes, name))) {
        Ok(result) => result,
        Err(_) => {
            bail!("cannot decode picture `{name}`: the decoder failed on its content; the file is probably corrupt")
        }
    }
}

fn decode_unguarded(bytes: &[u8], name: &str) -> Result<RgbImage> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let format = reader.format().ok_or_else(|| {
        anyhow!(
            "picture `{name}` has an unknown format ({} bytes); known: png, jpeg, bmp, gif, webp, tiff, pnm",
            bytes.len()
        )
    })?;
    if format == ImageFormat::Jpeg && !jpeg_has_end(bytes) {
        bail!("picture `{name}` is a truncated JPEG ({} bytes without an end marker)", bytes.len());
    }
    let decoder = decoder(bytes, format).with_context(|| format!("cannot read the header of picture `{name}`"))?;
    check_declared_size(decoder.dimensions(), bytes.len(), name)?;
    let picture = DynamicImage::from_decoder(decoder)
        .with_context(|| format!("cannot decode picture `{name}` ({} bytes)", bytes.len()))?;
    to_rgb(picture, name)
}

fn decoder(bytes: &[u8], format: ImageFormat) -> image::ImageResult<impl ImageDecoder + '_> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    reader.into_decoder()
}

fn check_declared_size((width, height): (u32, u32), file_bytes: usize, name: &str) -> Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    ensure!(pixels > 0, "picture `{name}` declares {width} x {height} pixels");
    ensure!(
        pixels <= MAX_PIXELS,
        "picture `{name}` declares {width} x {height} pixels, more than the {MAX_PIXELS} that are allowed"
    );
    let justified = (file_bytes as u64).saturating_mul(MAX_PIXELS_PER_BYTE).max(SMALL_PIXELS);
    ensure!(
        pixels <= justified,
        "picture `{name}` declares {width} x {height} pixels in {file_bytes} bytes: refused as a decompression bomb"
    );
    Ok(())
}

/// Whether the last scan is closed; the decoder would fill what is missing with gray.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    let Some(scan) = memmem::rfind(bytes, &[0xFF, 0xDA]) else {
        return true; // no scan at all: the decoder says what is wrong
    };
    memmem::find(&bytes[scan..], &[0xFF, 0xD9]).is_some()
}

fn to_rgb(picture: DynamicImage, name: &str) -> Result<RgbImage> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let pixels = match picture {
        DynamicImage::ImageRgb8(buffer) => buffer.into_raw(),
        DynamicImage::ImageRgba8(buffer) => pick(buffer.as_raw(), [0, 1, 2], 4, |v| v),
        DynamicImage::ImageLuma8(buffer) => pick(buffer.as_raw(), [0, 0, 0], 1, |v| v),
        DynamicImage::ImageLumaA8(buffer) => pick(buffer.as_raw(), [0, 0, 0], 2, |v| v),
        DynamicImage::ImageRgb16(buffer) => pick(buffer.as_raw(), [0, 1, 2], 3, high_byte),
        DynamicImage::ImageRgba16(buffer) => pick(buffer.as_raw(), [0, 1, 2], 4, high_byte),
        DynamicImage::ImageLuma16(buffer) => pick(buffer.as_raw(), [0, 0, 0], 1, high_byte),
        DynamicImage::ImageLumaA16(buffer) => pick(buffer.as_raw(), [0, 0, 0], 2, high_byte),
        other => bail!("picture `{name}` holds {:?} pixels; save it with 8 or 16 bits per channel", other.color()),
    };
    RgbImage::new(width, height, pixels).with_context(|| format!("picture `{name}`"))
}

fn pick<T: Copy>(raw: &[T], channels: [usize; 3], stride: usize, to_byte: impl Fn(T) -> u8) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(raw.len() / stride * 3);
    for pixel in raw.chunks_exact(stride) {
        pixels.extend(channels.map(|channel| to_byte(pixel[channel])));
    }
    pixels
}

fn high_byte(value: u16) -> u8 {
    value.to_be_bytes()[0]
}

/// The picture as a PNG file.
///
/// # Errors
/// When a side does not fit the format's 32 bits.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>> {
    let (width, height) = (u32::try_from(picture.width)?, u32::try_from(picture.height)?);
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(&picture.pixels, width, height, image::ExtendedColorType::Rgb8)
        .with_context(|| format!("cannot encode a picture of {width} x {height} pixels as PNG"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, codecs};

    fn png(raw: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        codecs::png::PngEncoder::new(&mut bytes).write_image(raw, width, height, color).unwrap();
        bytes
    }

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let raw: Vec<u8> = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
        let mut bytes = Vec::new();
        codecs::jpeg::JpegEncoder::new(&mut bytes).write_image(&raw, width, height, ExtendedColorType::Rgb8).unwrap();
        bytes
    }

    #[test]
    fn a_png_survives_the_round_trip() {
        let picture = RgbImage::new(5, 3, (0..45).collect()).unwrap();
        assert_eq!(decode(&encode_png(&picture).unwrap(), "a").unwrap(), picture);
    }

    #[test]
    fn gray_is_repeated_alpha_dropped_and_16_bits_keep_the_high_byte() {
        let gray = decode(&png(&[7, 200], 2, 1, ExtendedColorType::L8), "a").unwrap();
        assert_eq!(gray.pixels(), [7, 7, 7, 200, 200, 200]);
        let gray_alpha = decode(&png(&[7, 0], 1, 1, ExtendedColorType::La8), "a").unwrap();
        assert_eq!(gray_alpha.pixels(), [7, 7, 7]);
        let clear = decode(&png(&[10, 20, 30, 0], 1, 1, ExtendedColorType::Rgba8), "a").unwrap();
        assert_eq!(clear.pixels(), [10, 20, 30]);
        let raw: Vec<u8> = [0x12FFu16, 0x8000, 0xFEFF].iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert_eq!(decode(&png(&raw, 1, 1, ExtendedColorType::Rgb16), "a").unwrap().pixels(), [0x12, 0x80, 0xFE]);
        assert_eq!(decode(&png(&raw[..2], 1, 1, ExtendedColorType::L16), "a").unwrap().pixels(), [0x12; 3]);
    }

    #[test]
    fn empty_unknown_and_truncated_files_are_errors_that_name_the_file() {
        let whole_png = png(&[9; 300], 10, 10, ExtendedColorType::Rgb8);
        let whole_jpeg = jpeg(37, 23);
        decode(&whole_jpeg, "x.jpg").unwrap();
        let cut_files =
            [&whole_png[..], &whole_jpeg].into_iter().flat_map(|file| [4, 30, file.len() / 2].map(|n| &file[..n]));
        for bytes in cut_files.chain([&[][..], b"hello, this is text"]) {
            let message = format!("{:#}", decode(bytes, "some/x.jpg").unwrap_err());
            assert!(message.contains("`some/x.jpg`"), "{message}");
        }
    }

    #[test]
    fn changed_bytes_never_panic() {
        for file in [jpeg(33, 17), png(&[9; 300], 10, 10, ExtendedColorType::Rgb8)] {
            for at in 0..file.len() {
                let mut bytes = file.clone();
                bytes[at] ^= 0xA5;
                let _ = decode(&bytes, "x");
            }
        }
    }

    #[test]
    fn a_small_file_that_declares_a_huge_picture_is_refused() {
        let mut bytes = b"P6\n12000 12000\n255\n".to_vec();
        bytes.extend([0; 64]);
        let message = format!("{:#}", decode(&bytes, "bomb.ppm").unwrap_err());
        assert!(message.contains("`bomb.ppm`") && message.contains("12000 x 12000"), "{message}");
        let message = format!("{:#}", decode(b"P6\n60000 60000\n255\n0", "bomb.ppm").unwrap_err());
        assert!(message.contains("allowed"), "{message}");
    }

    #[test]
    fn a_picture_checks_its_length() {
        assert!(RgbImage::new(2, 2, vec![0; 11]).is_err());
        assert!(RgbImage::new(0, 2, vec![]).is_err());
        assert!(RgbImage::new(usize::MAX, 2, vec![]).is_err());
    }
}
