//! Rendered scenes: reproducible, balanced in their labels, and with something to see.

use ijepa_data::dataset::{SCENE_CLASSES, SCENE_SIDE, Scenes, distance_bin};
use ijepa_data::{Dataset, Sample, Split};

#[test]
fn a_scene_is_a_function_of_seed_split_and_index() {
    let scenes = Scenes::new(10, Split::Train, 3);
    let longer = Scenes::new(99, Split::Train, 3);
    for index in [0, 4, 9] {
        assert_eq!(scenes.picture(index), longer.picture(index));
        assert_eq!(scenes.labels(index), longer.labels(index));
    }
    assert_ne!(scenes.picture(0), scenes.picture(1));
    assert_ne!(scenes.picture(0), Scenes::new(10, Split::Val, 3).picture(0));
    assert_ne!(scenes.picture(0), Scenes::new(10, Split::Train, 4).picture(0));
}

#[test]
fn labels_are_balanced_and_number_and_distance_are_independent() {
    let scenes = Scenes::new(3000, Split::Train, 0);
    let (mut classes, mut counts, mut bins) = ([0; 6], [0; 5], [0; 4]);
    let mut bin_sums = [0.0; 5]; // of the distance class, by count
    for index in 0..scenes.len() {
        let labels = scenes.labels(index);
        classes[labels.class as usize] += 1;
        counts[labels.count as usize - 1] += 1;
        bins[distance_bin(labels.distance) as usize] += 1;
        bin_sums[labels.count as usize - 1] += f64::from(distance_bin(labels.distance));
        assert!((1.0..2.2).contains(&labels.distance));
    }
    // Four standard deviations are at most 95.
    assert!(classes.iter().all(|&n: &i32| n.abs_diff(500) < 90), "{classes:?}");
    assert!(counts.iter().all(|&n: &i32| n.abs_diff(600) < 95), "{counts:?}");
    assert!(bins.iter().all(|&n: &i32| n.abs_diff(750) < 95), "{bins:?}");
    for (sum, count) in bin_sums.into_iter().zip(counts) {
        assert!((sum / f64::from(count) - 1.5).abs() < 0.2, "{bin_sums:?} {counts:?}");
    }
}

#[test]
fn a_data_set_of_scenes_gives_pictures_with_the_class_of_the_largest_object() {
    let dataset = Dataset::open("scenes:5", Split::Val, 1).expect("scenes");
    let labels = dataset.labels().expect("scenes have labels");
    assert_eq!(dataset.classes().expect("scenes have classes"), SCENE_CLASSES);
    for (index, &label) in labels.iter().enumerate() {
        assert_eq!(dataset.scene_labels(index).expect("a scene").class, label);
        let Sample::Picture(picture) = dataset.sample(index).expect("rendered") else { panic!("a scene is a picture") };
        assert_eq!((picture.width, picture.height), (SCENE_SIDE, SCENE_SIDE));
    }
    assert_eq!(dataset.name(3), "scenes:3");
}

#[test]
fn no_scene_is_flat_black_or_white() {
    let scenes = Scenes::new(200, Split::Train, 8);
    for index in 0..scenes.len() {
        let picture = scenes.picture(index);
        let n = picture.rgb.len() as f64;
        let mean = picture.rgb.iter().map(|&byte| f64::from(byte)).sum::<f64>() / n;
        let variance = picture.rgb.iter().map(|&byte| (f64::from(byte) - mean).powi(2)).sum::<f64>() / n;
        assert!((40.0..230.0).contains(&mean), "scene {index}: mean {mean}");
        assert!(variance.sqrt() > 8.0, "scene {index}: deviation {}", variance.sqrt());
    }
}
