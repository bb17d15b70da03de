//! Transforms: the crop's law, the filter, the arithmetic of normalisation.

use ijepa_data::key::{Key, Purpose};
use ijepa_data::transform::{Filter, random_resized_crop, resize};
use ijepa_data::{EvalTransform, Fit, Normalisation, Picture, TrainTransform};
use proptest::prelude::*;

const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
const PLAIN: Normalisation = Normalisation { mean: [0.0; 3], std: [1.0; 3] };

fn noise(width: usize, height: usize) -> Picture {
    let byte = |k: usize| ((k * 2_654_435_761) >> 7) as u8;
    Picture::new(width, height, (0..width * height * 3).map(byte).collect())
}

fn train(crop_size: usize) -> TrainTransform {
    TrainTransform {
        crop_size,
        crop_scale: (0.3, 1.0),
        horizontal_flip: false,
        color_distortion: false,
        color_jitter_strength: 0.0,
        gaussian_blur: false,
        scaled_decoding: false,
        normalisation: PLAIN,
    }
}

fn rng(item: u64) -> rand_chacha::ChaCha8Rng {
    Key::new(0, Purpose::Augment, 0, item).rng()
}

proptest! {
    #[test]
    fn crops_lie_inside_the_picture(width in 1usize..600, height in 1usize..600, low in 0.01f64..1.0, item in any::<u64>()) {
        let cut = random_resized_crop(width, height, (low, 1.0), RATIO, &mut rng(item));
        prop_assert!(cut.width > 0 && cut.left + cut.width <= width);
        prop_assert!(cut.height > 0 && cut.top + cut.height <= height);
    }

    #[test]
    fn crops_of_ordinary_pictures_keep_to_scale_and_ratio(
        width in 200usize..400, height in 200usize..400, item in any::<u64>()
    ) {
        let cut = random_resized_crop(width, height, (0.3, 1.0), RATIO, &mut rng(item));
        let share = (cut.width * cut.height) as f64 / (width * height) as f64;
        // The fallback keeps to the ratio only; within 200..400 it keeps at least 2/3 of the picture.
        prop_assert!(share > 0.29 && share <= 1.0, "{}", share);
        let ratio = cut.width as f64 / cut.height as f64;
        prop_assert!((0.73..1.37).contains(&ratio), "{}", ratio);
    }

    #[test]
    fn every_picture_can_be_transformed(width in 1usize..70, height in 1usize..70, side in 1usize..40, item in any::<u64>()) {
        let picture = noise(width, height);
        let mut out = vec![f32::NAN; 3 * side * side];
        let transform = TrainTransform {
            horizontal_flip: true,
            color_distortion: true,
            color_jitter_strength: 1.0,
            gaussian_blur: true,
            scaled_decoding: false,
            ..train(side)
        };
        transform.apply(&mut out, &picture, &mut rng(item));
        prop_assert!(out.iter().all(|value| (0.0..=1.0).contains(value)));
        out.fill(f32::NAN);
        EvalTransform { crop: (side, side), filter: Filter::Bilinear, fit: Fit::Cut, normalisation: PLAIN }.apply(&mut out, &picture);
        prop_assert!(out.iter().all(|value| (0.0..=1.0).contains(value)));
    }
}

#[test]
fn the_share_of_area_and_the_logarithm_of_the_ratio_are_uniform() {
    let n = 4000;
    let (mut shares, mut ratios) = (0.0, 0.0);
    for item in 0..n {
        let cut = random_resized_crop(1000, 1000, (0.2, 0.6), RATIO, &mut rng(item));
        shares += (cut.width * cut.height) as f64 / 1e6;
        ratios += (cut.width as f64 / cut.height as f64).ln();
    }
    // Standard errors are 0.0018 and 0.0026.
    assert!((shares / n as f64 - 0.4).abs() < 0.008, "{}", shares / n as f64);
    assert!((ratios / n as f64).abs() < 0.011, "{}", ratios / n as f64);
}

#[test]
fn a_picture_too_long_for_any_crop_falls_back_to_its_middle() {
    let cut = random_resized_crop(1000, 10, (0.9, 1.0), RATIO, &mut rng(0));
    assert_eq!((cut.width, cut.height, cut.left, cut.top), (13, 10, 493, 0));
    let cut = random_resized_crop(10, 1000, (0.9, 1.0), RATIO, &mut rng(0));
    assert_eq!((cut.width, cut.height, cut.left, cut.top), (10, 13, 0, 493));
}

#[test]
fn shrinking_averages_instead_of_picking() {
    // Stripes of one pixel: anything that picks pixels gives 0 or 255.
    let rgb = (0..64 * 64).flat_map(|k| if k % 2 == 0 { [0; 3] } else { [255; 3] }).collect();
    let small = resize(Picture::new(64, 64, rgb), 8, 8, Filter::Bilinear);
    assert!(small.rgb.iter().all(|&byte| (115..=140).contains(&byte)), "{:?}", &small.rgb[..24]);
}

#[test]
fn resizing_meets_the_triangle_filter_by_hand() {
    // 4 → 2 pixels: support 2 around source centres 1 and 3, weights 1 − |x − centre|/2 at pixel centres ½, 1½, 2½ (3½ is
    // out of reach): ¾, ¾, ¼ of 0, 100, 200 → (75 + 50)/1.75 = 71.4; mirrored (¼·100 + ¾·200 + ¾·40)/1.75 = 117.1.
    let rgb = [0u8, 100, 200, 40].iter().flat_map(|&byte| [byte; 3]).collect();
    let half = resize(Picture::new(4, 1, rgb), 2, 1, Filter::Bilinear);
    assert_eq!(half.rgb, [71, 71, 71, 117, 117, 117]);
}

#[test]
fn normalisation_is_byte_over_255_minus_mean_over_deviation_channel_by_channel() {
    let picture = Picture::new(2, 1, vec![0, 128, 255, 255, 0, 64]);
    let mut out = [0.0; 6];
    Normalisation::default().apply(&mut out, &picture);
    let value =
        |byte: f32, channel: usize| (byte / 255.0 - [0.485, 0.456, 0.406][channel]) / [0.229, 0.224, 0.225][channel];
    let expected = [value(0.0, 0), value(255.0, 0), value(128.0, 1), value(0.0, 1), value(255.0, 2), value(64.0, 2)];
    assert_eq!(out, expected);
}

#[test]
fn an_evaluation_picture_of_the_right_size_is_taken_as_it_is() {
    let picture = noise(32, 32);
    let mut out = vec![0.0; 3 * 32 * 32];
    EvalTransform { crop: (32, 32), filter: Filter::Bilinear, fit: Fit::Cut, normalisation: PLAIN }
        .apply(&mut out, &picture);
    assert_eq!(out[5], f32::from(picture.rgb[15]) / 255.0);
}

#[test]
fn evaluation_takes_the_middle_of_the_picture() {
    // At 256 pixels nothing is resized and 16 pixels fall off each side.
    let picture = noise(256, 256);
    let mut out = vec![0.0; 3 * 224 * 224];
    EvalTransform { crop: (224, 224), filter: Filter::Bilinear, fit: Fit::Cut, normalisation: PLAIN }
        .apply(&mut out, &picture);
    let red = |row: usize, col: usize| f32::from(picture.rgb[(row * 256 + col) * 3]) / 255.0;
    assert_eq!((out[0], out[224 * 224 - 1]), (red(16, 16), red(239, 239)));
}

#[test]
fn a_long_thin_picture_costs_no_more_than_it_must() {
    let mut out = vec![0.0; 3 * 64 * 64];
    EvalTransform { crop: (64, 64), filter: Filter::Bilinear, fit: Fit::Cut, normalisation: PLAIN }
        .apply(&mut out, &noise(60_000, 2));
    assert!(out.iter().all(|value| value.is_finite()));
}

#[test]
fn settings_that_no_picture_can_meet_are_refused() {
    train(32).validate().expect("good");
    for bad in [
        train(0),
        TrainTransform { crop_scale: (0.5, 0.3), ..train(32) },
        TrainTransform { crop_scale: (0.3, 1.5), ..train(32) },
        TrainTransform { color_jitter_strength: -1.0, ..train(32) },
        TrainTransform { normalisation: Normalisation { mean: [0.0; 3], std: [1.0, 0.0, 1.0] }, ..train(32) },
    ] {
        assert!(bad.validate().is_err(), "{bad:?}");
    }
}
