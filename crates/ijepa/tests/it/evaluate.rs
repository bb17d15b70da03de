//! `eval`: what it prints, and what it refuses.

use super::{ijepa, scratch};

/// A scratch folder with a checkpoint of one step.
fn trained() -> tempfile::TempDir {
    let dir = scratch();
    let arguments = ["-q", "pretrain", "small.yaml", "--data", "scenes:16", "--out", "run", "--steps", "1"];
    assert_eq!(ijepa(dir.path(), &arguments).code, Some(0));
    dir
}

const CHECKPOINT: [&str; 2] = ["--checkpoint", "run/checkpoints/latest.safetensors"];

#[test]
fn the_json_names_every_kind_of_features_and_what_was_measured() {
    let dir = trained();
    let data = ["--train", "scenes:60", "--val", "scenes:30", "--json"];
    let eval = |protocol: &str, options: &[&str]| {
        let shown = ijepa(dir.path(), &[&["-q", "eval", protocol], &CHECKPOINT[..], &data, options].concat()).json();
        assert_eq!(shown["protocol"], protocol);
        let results = shown["results"].as_array().expect("a list").clone();
        for row in &results {
            assert_eq!((&row["metric"], &row["n_train"], &row["n_val"]), (&"accuracy".into(), &60.into(), &30.into()));
            assert!(row["head"].is_string(), "{row}");
            assert!(row["value"].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{row}");
        }
        results.iter().map(|row| row["features"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(eval("knn", &["--baselines", "--k", "5"]), ["trained", "untrained", "pixels"]);
    assert_eq!(eval("knn", &["--k", "1,5,20"]), ["trained"; 3]);
    assert_eq!(eval("linear", &[]), ["trained"]);
    assert_eq!(eval("logistic", &["--penalty", "0.001"]), ["trained"]);
}

#[test]
fn classes_may_have_any_numbers() {
    let dir = trained();
    let pixels: Vec<u8> = (0..20 * 3 * 32 * 32).flat_map(|k| ((k % 977) as f32 / 977.0).to_le_bytes()).collect();
    let labels: Vec<u8> = (0..20i64).flat_map(|k| (3_000_000_000 + k % 2).to_le_bytes()).collect();
    let view = |dtype, shape, bytes| safetensors::tensor::TensorView::new(dtype, shape, bytes).expect("the shape fits");
    let tensors = [
        ("images", view(safetensors::Dtype::F32, vec![20, 3, 32, 32], &pixels)),
        ("labels", view(safetensors::Dtype::I64, vec![20], &labels)),
    ];
    safetensors::serialize_to_file(tensors, None, &dir.path().join("a.safetensors")).expect("it can be written");
    for protocol in ["knn", "linear"] {
        let data = ["--train", "a.safetensors", "--val", "a.safetensors", "--json"];
        let shown = ijepa(dir.path(), &[&["-q", "eval", protocol], &CHECKPOINT[..], &data].concat()).json();
        assert_eq!(shown["results"][0]["n_val"], 20);
    }
}

#[test]
fn data_that_cannot_be_judged_and_blocks_that_are_not_there_are_told_apart() {
    let dir = trained();
    let eval = |options: &[&str]| ijepa(dir.path(), &[&["-q", "eval", "linear"], &CHECKPOINT[..], options].concat());
    eval(&["--train", "scenes:1", "--val", "scenes:4"]).refused(3, &["at least two classes"]);
    eval(&["--train", "scenes:60", "--val", "scenes:4", "--pool", "last4"])
        .refused(2, &["last4 takes four blocks", "has 1"]);
    eval(&["--train", "scenes:60", "--val", "scenes:4", "--draws", "3"]).refused(2, &["--draws 3", "--fraction"]);
}

/// Entries of the store of features.
fn kept(dir: &std::path::Path) -> usize {
    std::fs::read_dir(dir.join("cache/ijepa/features")).map_or(0, Iterator::count)
}

#[test]
fn features_are_computed_once_and_anew_when_anything_changed() {
    let dir = trained();
    let eval = |options: &[&str]| {
        let said =
            ijepa(dir.path(), &[&["eval", "knn", "--json", "--val", "scenes:8"], &CHECKPOINT[..], options].concat());
        (said.json(), said.stderr.matches("were kept before").count())
    };
    let (first, from_before) = eval(&["--train", "scenes:40"]);
    assert_eq!((from_before, kept(dir.path())), (0, 2));
    assert_eq!(eval(&["--train", "scenes:40"]), (first.clone(), 2));
    assert_eq!(eval(&["--train", "scenes:40", "--no-cache"]), (first, 0));
    // Other data, another seed of it, another pooling, another network: nothing of it was there.
    assert_eq!(eval(&["--train", "scenes:41"]).1, 1);
    assert_eq!(eval(&["--train", "scenes:40", "--seed", "1"]).1, 0);
    assert_eq!(eval(&["--train", "scenes:40", "--image-size", "40"]).1, 0);
    assert_eq!(eval(&["--train", "scenes:40", "--network", "context"]).1, 0);
    // Another checkpoint of the same name.
    let arguments = ["-q", "pretrain", "--resume", "--out", "run", "--steps", "2"];
    assert_eq!(ijepa(dir.path(), &arguments).code, Some(0));
    assert_eq!(eval(&["--train", "scenes:40"]).1, 0);
}

#[test]
fn an_image_that_was_changed_in_place_is_read_again() {
    let dir = trained();
    for (class, image) in ["a", "b"].into_iter().flat_map(|class| (0..6).map(move |image| (class, image))) {
        let folder = dir.path().join("photos").join(class);
        std::fs::create_dir_all(&folder).expect("it can be made");
        let shade = if class == "a" { 20 + image } else { 200 + image };
        image::RgbImage::from_pixel(32, 32, image::Rgb([shade, 90, 90]))
            .save(folder.join(format!("{image}.png")))
            .expect("it can be written");
    }
    let eval = || {
        let data = ["--train", "photos", "--val", "photos", "--k", "3"];
        ijepa(dir.path(), &[&["eval", "knn"], &CHECKPOINT[..], &data].concat())
            .stderr
            .matches("were kept before")
            .count()
    };
    assert_eq!((eval(), eval()), (1, 2), "training and validation images are the same here");
    let changed = dir.path().join("photos/a/0.png");
    image::RgbImage::from_pixel(32, 32, image::Rgb([1, 2, 3])).save(changed).expect("it can be written");
    assert_eq!(eval(), 1);
}

#[test]
fn few_labels_are_drawn_by_class_and_several_draws_give_their_mean() {
    let dir = trained();
    let data = ["--train", "scenes:120", "--val", "scenes:30", "--json", "--per-class", "3", "--draws", "4"];
    let shown = ijepa(dir.path(), &[&["-q", "eval", "knn", "--k", "3"], &CHECKPOINT[..], &data].concat()).json();
    let row = &shown["results"][0];
    assert_eq!(row["n_train"], 18);
    let draws: Vec<f64> =
        row["draws"].as_array().expect("a list").iter().map(|draw| draw.as_f64().expect("a number")).collect();
    assert_eq!(draws.len(), 4);
    assert!((row["value"].as_f64().expect("a number") - draws.iter().sum::<f64>() / 4.0).abs() < 1e-9);
}

#[test]
fn objects_are_counted_and_distances_judged_as_classes_and_as_numbers() {
    let dir = trained();
    for question in ["count", "distance"] {
        let data = ["--train", "scenes:150", "--val", "scenes:40", "--json"];
        let shown = ijepa(dir.path(), &[&["-q", "eval", question], &CHECKPOINT[..], &data].concat()).json();
        let metrics: Vec<_> =
            shown["results"].as_array().expect("a list").iter().map(|row| row["metric"].clone()).collect();
        assert_eq!(metrics, ["accuracy", "r2", "mae"]);
    }
}

#[test]
fn a_folder_with_a_table_is_asked_by_its_column_and_every_image_needs_an_answer() {
    let dir = trained();
    let mut table = String::from("file,scene,n_objects\n");
    for (split, count) in [("train", 24), ("val", 8)] {
        std::fs::create_dir_all(dir.path().join("dots").join(split)).expect("it can be made");
        for image in 0..count {
            let name = format!("{split}/{image}.png");
            let mut picture = image::RgbImage::new(64, 16);
            (0..1 + image % 3).for_each(|dot| picture.put_pixel(5 + 20 * dot, 8, image::Rgb([255; 3])));
            picture.save(dir.path().join("dots").join(&name)).expect("it can be written");
            table += &format!("{name},x,{}\n", 1 + image % 3);
        }
    }
    std::fs::write(dir.path().join("dots/labels.csv"), &table).expect("it can be written");
    let eval = |options: &[&str]| {
        let data = ["--train", "dots", "--val", "dots", "--json"];
        ijepa(dir.path(), &[&["-q", "eval", "count"], &CHECKPOINT[..], &data, options].concat())
    };
    let shown = eval(&["--report", "page.html"]).json();
    assert_eq!(
        (&shown["results"][0]["n_train"], &shown["results"][0]["head"]),
        (&24.into(), &"logistic, 3 classes".into())
    );
    let page = std::fs::read_to_string(dir.path().join("page.html")).expect("it was written");
    assert!(page.contains("logistic, 3 classes") && page.contains("</html>"));
    eval(&["--column", "dots"]).refused(3, &["labels.csv", "no column dots", "there are scene, n_objects"]);
    std::fs::write(dir.path().join("dots/labels.csv"), table.replace("val/3.png", "val/none.png"))
        .expect("it can be written");
    eval(&[]).refused(3, &["val/3.png", "no answer"]);
}

#[test]
fn many_heads_are_compared_and_one_of_them_is_reported() {
    let dir = trained();
    let data = ["--train", "scenes:60", "--val", "scenes:30", "--json", "--pools", "last"];
    let eval = |options: &[&str]| {
        ijepa(dir.path(), &[&["-q", "eval", "linear"], &CHECKPOINT[..], &data, &["--preset"], options].concat())
    };
    let shown = eval(&["cifar100", "--epochs", "3", "--rates", "0.1,0.01", "--baselines"]).json();
    let rows = shown["results"].as_array().expect("a list");
    assert_eq!(rows.iter().map(|row| row["features"].clone()).collect::<Vec<_>>(), ["trained", "untrained", "pixels"]);
    for row in rows {
        assert_eq!((&row["head"], &row["n_train"]), (&"cifar100: chosen of 4 heads".into(), &60.into()));
        let heads = row["heads"].as_array().expect("a list");
        assert_eq!(
            heads.iter().map(|head| head["rate"].as_f64().expect("a number")).collect::<Vec<_>>(),
            [0.1, 0.01, 0.1, 0.01]
        );
        assert_eq!(heads.iter().filter(|head| head["batch_norm"] == true).count(), 2);
    }
    let options = [
        "imagenet",
        "--epochs",
        "2",
        "--choose",
        "val",
        "--batch-norm",
        "true",
        "--decays",
        "0",
        "--report",
        "page.html",
    ];
    let shown = eval(&options).json();
    let row = &shown["results"][0];
    assert_eq!(row["head"], "imagenet: best on val of 2 heads");
    let best = row["heads"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|head| head["accuracy"].as_f64())
        .fold(0.0, f64::max);
    assert_eq!(row["value"].as_f64(), Some(best));
    let page = std::fs::read_to_string(dir.path().join("page.html")).expect("it was written");
    assert!(page.contains("Heads that were compared") && page.contains("BatchNorm, lr 0.1, wd 0"));
}

#[test]
fn heads_need_a_preset_and_blocks_that_are_there() {
    let dir = trained();
    let data = ["--train", "scenes:60", "--val", "scenes:30"];
    let eval =
        |options: &[&str]| ijepa(dir.path(), &[&["-q", "eval", "linear"], &CHECKPOINT[..], &data, options].concat());
    eval(&["--rates", "0.1"]).refused(2, &["--preset"]);
    eval(&["--preset", "default", "--pool", "last"]).refused(2, &["--pool"]);
    eval(&["--preset", "default"]).refused(2, &["last4 takes four blocks", "--pools last"]);
    eval(&["--preset", "default", "--pools", "last", "--rates=-1"]).refused(2, &["learning rate is -1"]);
}

#[test]
fn ranks_need_no_labels() {
    let dir = trained();
    let eval = |options: &[&str]| {
        let data = ["--data", "scenes:40", "--json"];
        ijepa(dir.path(), &[&["-q", "eval", "rank"], &CHECKPOINT[..], &data, options].concat())
    };
    let shown = eval(&["--baselines", "--pictures", "12", "--views", "3", "--report", "page.html"]).json();
    let rows = shown["results"].as_array().expect("a list").clone();
    assert_eq!(rows.len(), 15);
    for row in &rows {
        let lidar = row["metric"] == "lidar";
        assert_eq!(row["n_val"], if lidar { 36 } else { 40 });
        assert!(row["standard_error"].is_null() && row["value"].as_f64().is_some_and(f64::is_finite), "{row}");
    }
    let page = std::fs::read_to_string(dir.path().join("page.html")).expect("it was written");
    assert!(page.contains("rank_me") && !page.contains("NaN"));
    // The same views again, and none.
    assert_eq!(eval(&["--pictures", "12", "--views", "3"]).json()["results"][4], rows[4]);
    assert_eq!(eval(&["--views", "0"]).json()["results"].as_array().map(Vec::len), Some(4));
    eval(&["--views", "1"]).refused(2, &["--views 1", "--views 2"]);
}

#[test]
fn tokens_are_looked_at_and_kept() {
    let dir = trained();
    let eval = |options: &[&str]| {
        let data = ["--train", "scenes:60", "--val", "scenes:30", "--epochs", "2", "--json"];
        ijepa(dir.path(), &[&["eval", "attentive"], &CHECKPOINT[..], &data, options].concat())
    };
    let said = eval(&["--baselines", "--queries", "3"]);
    let shown = said.json();
    let rows = shown["results"].as_array().expect("a list");
    assert_eq!(rows.iter().map(|row| row["features"].clone()).collect::<Vec<_>>(), ["trained", "untrained", "pixels"]);
    // 8 × 8 tokens of 48 numbers each, and 8 × 8 patches of 4 × 4 pixels.
    assert!(rows.iter().all(|row| row["width"] == 64 * 48 && row["head"] == "attentive, 3 queries"), "{shown}");
    let again = eval(&["--queries", "3"]);
    assert_eq!(again.stderr.matches("were kept before").count(), 2);
    assert_eq!(again.json()["results"][0], rows[0]);
    eval(&["--queries", "5"]).refused(2, &["--queries 5", "a token, 48"]);
    eval(&["--pool", "last4"]).refused(2, &["--pool"]);
}
