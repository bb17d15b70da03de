//! Decoding: every kind of pixel becomes 8-bit RGB, and no content does harm.

use std::io::Cursor;

use ijepa_data::decode::{Encoded, Limits, decode, decode_file};
use ijepa_data::transform::{CropBox, Filter, Span, resize};
use ijepa_data::{DataError, DecodeError, Picture};
use image::codecs::png::PngEncoder;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage, RgbaImage};
use libjpeg_turbo_rs::{Decoder, Encoder, PixelFormat, ScalingFactor, Subsampling};
use proptest::prelude::*;

fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 5) as u8, (y * 7) as u8, 128]))
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

fn decoded(bytes: &[u8]) -> Picture {
    decode(bytes, Limits::default()).expect("decodes")
}

#[test]
fn lossless_formats_give_back_their_pixels() {
    let image = gradient(23, 17);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
        let picture = decoded(&encode(&image.clone().into(), format));
        assert_eq!((picture.width, picture.height), (23, 17), "{format:?}");
        assert_eq!(&picture.rgb, image.as_raw(), "{format:?}");
    }
}

#[test]
fn a_jpeg_is_close_to_its_pixels() {
    let image = gradient(40, 30);
    let picture = decoded(&encode(&image.clone().into(), ImageFormat::Jpeg));
    let error: f64 =
        picture.rgb.iter().zip(image.as_raw()).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / 3600.0;
    assert!(error < 4.0, "{error}");
}

#[test]
fn alpha_is_dropped_and_not_blended() {
    let image = RgbaImage::from_pixel(3, 2, image::Rgba([200, 100, 50, 0]));
    let picture = decoded(&encode(&image.into(), ImageFormat::Png));
    assert!(picture.rgb.chunks_exact(3).all(|pixel| pixel == [200, 100, 50]));
}

#[test]
fn grey_is_repeated_and_sixteen_bits_are_scaled() {
    let mut bytes = Vec::new();
    let samples: Vec<u8> = [0u16, 257, 32896, 65535].iter().flat_map(|value| value.to_ne_bytes()).collect();
    PngEncoder::new(&mut bytes).write_image(&samples, 2, 2, ExtendedColorType::L16).expect("encodes");
    assert_eq!(decoded(&bytes).rgb, [0, 0, 0, 1, 1, 1, 128, 128, 128, 255, 255, 255]);
}

/// A JPEG with an EXIF block that holds nothing but the orientation.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend((exif.len() as u16 + 2).to_be_bytes());
    bytes.extend(exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn all_eight_exif_orientations_are_applied() {
    // Left half red, right half blue, 32×16.
    let image = RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
    let jpeg = encode(&image.into(), ImageFormat::Jpeg);
    // Where red is afterwards: (column, row) of a quarter of the way along the long side.
    let red_at = [(8, 8), (24, 8), (24, 8), (8, 8), (8, 8), (8, 8), (8, 24), (8, 24)];
    for (orientation, (x, y)) in (1..=8).zip(red_at) {
        let picture = decoded(&with_orientation(&jpeg, orientation));
        let size = if orientation < 5 { (32, 16) } else { (16, 32) };
        assert_eq!((picture.width, picture.height), size, "orientation {orientation}");
        let red = picture.rgb[(y * picture.width + x) * 3];
        assert!(red > 200, "orientation {orientation}: {red} at ({x}, {y})");
    }
}

#[test]
fn a_truncated_jpeg_is_an_error_wherever_it_is_cut() {
    // The EXIF block ends in what looks like the end of a JPEG, as a thumbnail would.
    let mut bytes = with_orientation(&encode(&gradient(64, 64).into(), ImageFormat::Jpeg), 1);
    let exif_end = 4 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    bytes[exif_end - 2..exif_end].copy_from_slice(&[0xff, 0xd9]);
    decoded(&bytes);
    for cut in (4..bytes.len()).step_by(7).chain([bytes.len() - 1, bytes.len() - 2]) {
        assert!(decode(&bytes[..cut], Limits::default()).is_err(), "cut at {cut} of {}", bytes.len());
    }
    bytes.extend(b"trailing bytes do no harm");
    decoded(&bytes);
}

#[test]
fn names_do_not_matter_contents_do() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let png_named_jpg = folder.path().join("a.jpg");
    std::fs::write(&png_named_jpg, encode(&gradient(5, 5).into(), ImageFormat::Png)).expect("written");
    assert_eq!(decode_file(&png_named_jpg).expect("a PNG").width, 5);
    let text_named_jpg = folder.path().join("b.jpg");
    std::fs::write(&text_named_jpg, "<html>404</html>").expect("written");
    let error = decode_file(&text_named_jpg).expect_err("text");
    assert!(matches!(error, DataError::Decode { source: DecodeError::UnknownFormat, .. }), "{error}");
    assert!(error.to_string().contains("b.jpg"), "{error}");
    assert!(decode_file(folder.path()).is_err(), "a folder");
}

#[test]
fn a_picture_that_declares_too_many_pixels_is_refused_before_it_is_decoded() {
    let bytes = encode(&gradient(40, 40).into(), ImageFormat::Png);
    let error = decode(&bytes, Limits { pixels: 1599, ..Limits::default() }).expect_err("1600 pixels");
    assert!(matches!(error, DecodeError::TooManyPixels { width: 40, height: 40, limit: 1599 }));

    // A header of 65535×65535 pixels without any.
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0".to_vec();
    let mut crc = !0u32;
    for byte in &bomb[12..] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    bomb.extend((!crc).to_be_bytes());
    bomb.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    assert!(decode(&bomb, Limits::default()).is_err());
}

#[test]
fn empty_and_cut_files_are_errors_or_pictures_and_never_panics() {
    assert!(matches!(decode(&[], Limits::default()), Err(DecodeError::Empty)));
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp] {
        let bytes = encode(&gradient(32, 32).into(), format);
        for cut in [1, 2, 8, 30, bytes.len() / 3] {
            assert!(decode(&bytes[..cut], Limits::default()).is_err(), "{format:?} cut at {cut}");
        }
        let _ = decode(&bytes[..bytes.len() - 1], Limits::default());
    }
}

proptest! {
    #[test]
    fn flipped_bytes_are_errors_or_pictures(at in 0usize..2000, value in any::<u8>()) {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif] {
            let mut bytes = encode(&gradient(24, 24).into(), format);
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(picture) = decode(&bytes, Limits::default()) {
                prop_assert_eq!(picture.rgb.len(), picture.width * picture.height * 3);
            }
        }
    }
}

/// What a JPEG may be, as far as its pixels are concerned.
#[derive(Debug, Clone, Copy)]
struct Kind {
    format: PixelFormat,
    sampling: Subsampling,
    progressive: bool,
    restarts: bool,
    orientation: u8,
}

/// Noise over gradients: every block of every channel is busy.
#[cfg(not(feature = "avif"))]
#[test]
fn an_avif_is_refused_with_the_way_to_build_for_it() {
    for head in [b"\0\0\0\x18ftypavif\0\0\0\0mif1miaf", b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif"] {
        let error = decode(head, Limits::default()).expect_err("it is left out").to_string();
        assert!(error.contains("--features avif"), "{error}");
    }
}

fn busy_jpeg(width: usize, height: usize, kind: Kind) -> Vec<u8> {
    let channels = match kind.format {
        PixelFormat::Grayscale => 1,
        PixelFormat::Cmyk => 4,
        _ => 3,
    };
    let value = |k: usize| (((k * 2_654_435_761) >> 13) % 90 + k / (width * channels) * 40 / height + k % 97) as u8;
    let pixels: Vec<u8> = (0..width * height * channels).map(value).collect();
    let mut encoder = Encoder::new(&pixels, width, height, kind.format)
        .quality(92)
        .subsampling(kind.sampling)
        .progressive(kind.progressive);
    if kind.restarts {
        encoder = encoder.restart_rows(1);
    }
    with_orientation(&encoder.encode().expect("encodes"), kind.orientation)
}

fn part_at(place: (usize, usize, usize, usize), (width, height): (usize, usize)) -> CropBox {
    let (left, top) = (place.0 % width, place.1 % height);
    CropBox { left, top, width: place.2 % (width - left) + 1, height: place.3 % (height - top) + 1 }
}

/// Every part of the picture is, to the bit, that part of the whole.
fn part_is_of_the_whole(bytes: &[u8], place: (usize, usize, usize, usize)) -> Result<(), TestCaseError> {
    let whole = decoded(bytes);
    let part = part_at(place, (whole.width, whole.height));
    let encoded = Encoded::open(bytes, Limits::default()).expect("opens");
    prop_assert_eq!(encoded.size(), (whole.width, whole.height));
    let got = encoded.region(part).expect("decodes");
    let expected = whole.crop(part.left, part.top, part.width, part.height);
    let first = got.rgb.iter().zip(&expected.rgb).position(|(a, b)| a != b);
    prop_assert!(
        got == expected,
        "{:?} of {}×{}: first different byte {:?}",
        part,
        whole.width,
        whole.height,
        first.map(|at| (at / 3 % part.width, at / 3 / part.width, got.rgb[at], expected.rgb[at]))
    );
    Ok(())
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let format = prop_oneof![
        6 => Just(PixelFormat::Rgb),
        1 => Just(PixelFormat::Grayscale),
        1 => Just(PixelFormat::Cmyk),
    ];
    let sampling = prop_oneof![
        Just(Subsampling::S444),
        Just(Subsampling::S422),
        Just(Subsampling::S420),
        Just(Subsampling::S440),
        Just(Subsampling::S411),
        Just(Subsampling::S441),
        Just(Subsampling::S410),
    ];
    (format, sampling, any::<bool>(), any::<bool>(), 1u8..=8).prop_map(
        |(format, sampling, progressive, restarts, orientation)| Kind {
            format,
            sampling: if format == PixelFormat::Rgb { sampling } else { Subsampling::S444 },
            // The encoder has no progressive CMYK.
            progressive: progressive && format != PixelFormat::Cmyk,
            restarts,
            orientation,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn a_part_of_a_jpeg_is_to_the_bit_that_of_the_whole(
        kind in any_kind(), width in 1usize..140, height in 1usize..140,
        place in (0usize..1000, 0usize..1000, 0usize..1000, 0usize..1000)
    ) {
        part_is_of_the_whole(&busy_jpeg(width, height, kind), place)?;
    }

    #[test]
    fn a_part_of_any_other_picture_is_that_of_the_whole(
        width in 1u32..40, height in 1u32..40, place in (0usize..1000, 0usize..1000, 0usize..1000, 0usize..1000)
    ) {
        part_is_of_the_whole(&encode(&gradient(width, height).into(), ImageFormat::Png), place)?;
    }

    #[test]
    fn a_part_that_is_decoded_smaller_is_to_the_bit_that_of_the_whole_decoded_smaller(
        kind in any_kind(), width in 2usize..140, height in 2usize..140, least in 1usize..20,
        place in (0usize..1000, 0usize..1000, 0usize..1000, 0usize..1000)
    ) {
        let bytes = busy_jpeg(width, height, Kind { orientation: 1, ..kind });
        let part = part_at(place, (width, height));
        let encoded = Encoded::open(&bytes, Limits::default()).expect("a JPEG");
        let region = encoded.region_for(part, least).expect("decodes");
        let span = region.span;
        let picture = region.cut();
        let shrunk = [8, 4, 2].into_iter().find(|shrunk| part.width.min(part.height) / shrunk >= least).unwrap_or(1);
        let mut decoder = Decoder::new(&bytes).expect("a JPEG");
        prop_assume!(decoder.header().components.len() < 4);
        decoder.set_output_format(PixelFormat::Rgb);
        decoder.set_scale(ScalingFactor::new(1, shrunk as u32));
        let whole = decoder.decode_image().expect("decodes");
        let whole = Picture::new(whole.width, whole.height, whole.data);
        let (left, top) = (part.left / shrunk, part.top / shrunk);
        prop_assert_eq!(&picture, &whole.crop(left, top, picture.width, picture.height));
        let place = |pixels: usize| pixels as f64 / shrunk as f64;
        let begin = (span.left + left as f64, span.top + top as f64);
        prop_assert_eq!(begin, (place(part.left), place(part.top)));
        prop_assert_eq!((span.width, span.height), (place(part.width), place(part.height)));
        prop_assert!(span.left + span.width <= picture.width as f64 && span.top + span.height <= picture.height as f64);
    }
}

#[test]
fn a_part_decoded_smaller_shows_the_same_place_in_every_orientation() {
    let slope = |x: u32, by: f64| (f64::from(x) * by) as u8;
    let image = RgbImage::from_fn(101, 91, |x, y| Rgb([slope(x, 2.5), slope(y, 2.7), slope(x + y, 1.3)]));
    let jpeg = encode(&image.into(), ImageFormat::Jpeg);
    for orientation in 1..=8 {
        let bytes = with_orientation(&jpeg, orientation);
        for (part, least) in [((13, 7, 70, 75), 30), ((5, 22, 67, 65), 16), ((0, 0, 91, 91), 11), ((20, 3, 71, 84), 8)]
        {
            let (left, top, width, height) = part;
            let part = CropBox { left, top, width, height };
            let open = || Encoded::open(&bytes, Limits::default()).expect("a JPEG");
            let expected = resize(open().region(part).expect("decodes"), least, least, Filter::Bilinear);
            let region = open().region_for(part, least).expect("decodes");
            assert_ne!(region.span, Span::of(width, height), "it is smaller");
            let got = region.resize(least, least, Filter::Bilinear);
            // At the border the file's pixels beyond the part count a little. Half a pixel of the file away it would be 1.25 levels.
            let inside = |picture: &Picture| picture.crop(1, 1, least - 2, least - 2).rgb;
            let (got, expected) = (inside(&got), inside(&expected));
            let off: u32 = got.iter().zip(&expected).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            let off = f64::from(off) / expected.len() as f64;
            assert!(off < 1.1, "orientation {orientation}, {part:?} at {least}: {off} levels");
        }
    }
}
