//! Parquet data sets: the same images and classes as the tree that they were made of, groups unpacked once, nothing hostile gets far.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ijepa_data::dataset::Parquet;
use ijepa_data::{
    DataError, Dataset, EvalConfig, EvalLoader, EvalTransform, LoaderConfig, Normalisation, Split, Stored, TrainLoader,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

/// The usual columns of image data sets of the Hub.
const SCHEMA: &str = "message schema {
    optional group image { optional binary bytes; optional binary path (STRING); }
    optional int64 label;
}";

#[derive(Clone, Default)]
struct Row {
    bytes: Option<Vec<u8>>,
    path: Option<&'static str>,
    label: Option<i64>,
}

fn row(bytes: Vec<u8>, label: i64) -> Row {
    Row { bytes: Some(bytes), path: None, label: Some(label) }
}

/// A picture of one colour, 20×16, as the bytes of a PNG.
fn picture(red: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(20, 16, image::Rgb([red, 100, 7]));
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("it encodes");
    bytes.into_inner()
}

fn properties(compression: Compression, names: Option<&[&str]>) -> WriterProperties {
    let features = serde_json::json!({"info": {"features": {
        "image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}
    }}});
    let entry = names.map(|_| vec![KeyValue::new("huggingface".to_owned(), features.to_string())]);
    WriterProperties::builder()
        .set_compression(compression)
        .set_key_value_metadata(entry)
        .set_data_page_size_limit(700) // several pages a group
        .set_dictionary_enabled(compression != Compression::UNCOMPRESSED)
        .build()
}

/// Writes groups of rows as the Hub's library does.
fn write_with(path: &Path, groups: &[&[Row]], compression: Compression, names: Option<&[&str]>) {
    std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("created");
    let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
    let file = File::create(path).expect("created");
    let mut writer =
        SerializedFileWriter::new(file, schema, Arc::new(properties(compression, names))).expect("a writer");
    for rows in groups {
        let mut group = writer.next_row_group().expect("a group");
        let level = |row: &Row, there: bool| match (there, row.bytes.is_some() || row.path.is_some()) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        };
        let texts =
            |texts: Vec<&[u8]>| texts.into_iter().map(|text| ByteArray::from(text.to_vec())).collect::<Vec<_>>();
        let bytes = texts(rows.iter().filter_map(|row| row.bytes.as_deref()).collect());
        let levels: Vec<i16> = rows.iter().map(|row| level(row, row.bytes.is_some())).collect();
        let mut column = group.next_column().expect("a column").expect("image.bytes");
        // One by one, or a page would hold all of them.
        let mut bytes = bytes.into_iter();
        for level in levels {
            let value: Vec<ByteArray> = bytes.by_ref().take(usize::from(level == 2)).collect();
            column.typed::<ByteArrayType>().write_batch(&value, Some(&[level]), None).expect("written");
        }
        column.close().expect("closed");
        let paths = texts(rows.iter().filter_map(|row| row.path.map(str::as_bytes)).collect());
        let levels: Vec<i16> = rows.iter().map(|row| level(row, row.path.is_some())).collect();
        let mut column = group.next_column().expect("a column").expect("image.path");
        column.typed::<ByteArrayType>().write_batch(&paths, Some(&levels), None).expect("written");
        column.close().expect("closed");
        let labels: Vec<i64> = rows.iter().filter_map(|row| row.label).collect();
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.label.is_some())).collect();
        let mut column = group.next_column().expect("a column").expect("label");
        column.typed::<Int64Type>().write_batch(&labels, Some(&levels), None).expect("written");
        column.close().expect("closed");
        group.close().expect("closed");
    }
    writer.close().expect("closed");
}

fn write(path: &Path, groups: &[&[Row]]) {
    write_with(path, groups, Compression::SNAPPY, None);
}

fn open(path: &Path, split: Split) -> Result<Dataset, DataError> {
    Dataset::open(path.to_str().expect("a scratch path is UTF-8"), split, 0)
}

fn bytes(dataset: &Dataset, index: usize) -> Vec<u8> {
    let Stored::Encoded(bytes) = dataset.read(index).expect("it can be read") else { panic!("it is encoded") };
    bytes
}

/// `count` rows of different pictures, of three classes.
fn rows(count: usize) -> Vec<Row> {
    (0..count).map(|k| row(picture(k as u8), k as i64 % 3)).collect()
}

fn config(threads: usize, rank: usize, world: usize, stop_step: u64) -> LoaderConfig {
    let batch_size = 4 * world;
    LoaderConfig { batch_size, rank, world, shuffle_window: 10, ..crate::loader::config(threads, 0, stop_step) }
}

/// The samples that a loader delivers, in order.
fn delivered(dataset: &Arc<Dataset>, config: LoaderConfig) -> Vec<usize> {
    let mut loader = TrainLoader::start(Arc::clone(dataset), config).expect("it starts");
    let mut indices = Vec::new();
    while let Some(batch) = loader.next().expect("it loads") {
        indices.extend(batch.indices);
    }
    indices
}

#[test]
fn a_file_holds_the_images_and_classes_of_the_tree_that_it_was_made_of() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let mut written = Vec::new();
    for (label, class) in ["ant", "bee", "cat"].into_iter().enumerate() {
        std::fs::create_dir_all(root.path().join("tree").join(class)).expect("created");
        for k in 0..5u8 {
            let bytes = picture(label as u8 * 50 + k);
            std::fs::write(root.path().join("tree").join(class).join(format!("{k}.png")), &bytes).expect("written");
            written.push(row(bytes, label as i64));
        }
    }
    let tree = open(&root.path().join("tree"), Split::Train).expect("a tree");
    let groups: Vec<&[Row]> = written.chunks(4).collect();
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
        let path = root.path().join("data.parquet");
        write_with(&path, &groups, compression, Some(&["ant", "bee", "cat"]));
        let data = open(&path, Split::Val).expect("a data set");
        assert_eq!((data.len(), data.labels(), data.classes()), (tree.len(), tree.labels(), tree.classes()));
        assert_eq!(data.chunks(), [4, 4, 4, 3]);
        for index in [14, 0, 7, 3, 4] {
            assert_eq!(bytes(&data, index), bytes(&tree, index), "{compression:?} {index}");
            assert_eq!(data.sample(index).expect("it decodes"), tree.sample(index).expect("it decodes"));
        }
        assert_eq!(data.name(5), format!("{} row 5", path.display()));
    }
}

#[test]
fn shards_are_taken_by_the_split_in_their_names() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let rows = rows(9);
    write(&root.path().join("data/train-00001-of-00002.parquet"), &[&rows[2..4]]);
    write(&root.path().join("data/train-00000-of-00002.parquet"), &[&rows[..1], &rows[1..2]]);
    write(&root.path().join("data/validation-00000-of-00001.parquet"), &[&rows[4..7]]);
    write(&root.path().join("data/test-00000-of-00001.parquet"), &[&rows[7..]]);
    let (train, val) = (open(root.path(), Split::Train).expect("train"), open(root.path(), Split::Val).expect("val"));
    assert_eq!((train.len(), val.len(), train.chunks()), (4, 3, vec![1, 1, 2]));
    for (index, row) in rows.iter().enumerate().take(4) {
        assert_eq!(Some(bytes(&train, index)), row.bytes);
    }
    assert_eq!(Some(bytes(&val, 2)), rows[6].bytes);
    assert!(train.name(3).ends_with("train-00001-of-00002.parquet row 1"), "{}", train.name(3));

    // Folders name splits too; a word that only begins like one does not.
    let other = tempfile::tempdir().expect("a scratch folder");
    write(&other.path().join("default/train/0000.parquet"), &[&rows[..3]]);
    assert_eq!(open(other.path(), Split::Train).expect("train").len(), 3);
    let error = open(other.path(), Split::Val).expect_err("no val").to_string();
    assert!(error.contains("0000.parquet") && error.contains("validation-*.parquet"), "{error}");
    let plain = tempfile::tempdir().expect("a scratch folder");
    write(&plain.path().join("trains.parquet"), &[&rows[..3]]);
    write(&plain.path().join("more.parquet"), &[&rows[3..]]);
    for split in [Split::Train, Split::Val] {
        assert_eq!(open(plain.path(), split).expect("all of it").len(), 9);
    }
}

#[test]
fn features_beside_pictures_do_not_make_a_tree_a_parquet_data_set() {
    let root = tempfile::tempdir().expect("a scratch folder");
    std::fs::create_dir(root.path().join("ant")).expect("created");
    std::fs::write(root.path().join("ant/a.png"), picture(1)).expect("written");
    let schema = "message m { required double x; optional binary text (STRING); }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let path = root.path().join("features.parquet");
    let mut writer =
        SerializedFileWriter::new(File::create(&path).expect("created"), schema, Arc::default()).expect("it");
    let mut group = writer.next_row_group().expect("a group");
    let mut column = group.next_column().expect("a column").expect("x");
    column.typed::<DoubleType>().write_batch(&[0.5], None, None).expect("written");
    column.close().expect("closed");
    let mut column = group.next_column().expect("a column").expect("text");
    column.typed::<ByteArrayType>().write_batch(&[], Some(&[0]), None).expect("written");
    column.close().expect("closed");
    group.close().expect("closed");
    writer.close().expect("closed");
    assert!(matches!(open(root.path(), Split::Train), Ok(Dataset::Files(_))));
    let error = open(&path, Split::Train).expect_err("no images").to_string();
    assert!(error.contains("features.parquet") && error.contains("x (double), text (byte_array)"), "{error}");
    assert!(error.contains("{bytes: binary, path: string}"), "{error}");
}

#[test]
fn plain_binary_images_and_classes_as_texts_or_small_numbers_will_do() {
    let root = tempfile::tempdir().expect("a scratch folder");
    for (column, labels) in [("label (STRING)", true), ("", false)] {
        let label = if labels { format!("required binary {column};") } else { "required int32 fine_label;".into() };
        let schema = format!("message m {{ required int32 id; {label} required binary img; }}");
        let schema = Arc::new(parse_message_type(&schema).expect("a schema"));
        let path = root.path().join("a.parquet");
        let mut writer =
            SerializedFileWriter::new(File::create(&path).expect("created"), schema, Arc::default()).expect("it");
        let mut group = writer.next_row_group().expect("a group");
        let mut next = |write: &dyn Fn(&mut parquet::file::writer::SerializedColumnWriter<'_>)| {
            let mut column = group.next_column().expect("a column").expect("there is one");
            write(&mut column);
            column.close().expect("closed");
        };
        next(&|column| {
            column.typed::<Int32Type>().write_batch(&[1, 2, 3], None, None).expect("written");
        });
        next(&|column| {
            if labels {
                let texts = ["wasp", "ant", "wasp"].map(ByteArray::from);
                column.typed::<ByteArrayType>().write_batch(&texts, None, None).expect("written");
            } else {
                column.typed::<Int32Type>().write_batch(&[1, 0, 1], None, None).expect("written");
            }
        });
        next(&|column| {
            let images = [1, 2, 3].map(|red| ByteArray::from(picture(red)));
            column.typed::<ByteArrayType>().write_batch(&images, None, None).expect("written");
        });
        group.close().expect("closed");
        writer.close().expect("closed");
        let data = open(&path, Split::Train).expect("a data set");
        assert_eq!((data.len(), data.labels()), (3, Some(vec![1, 0, 1])));
        let names = ["ant".to_owned(), "wasp".to_owned()];
        assert_eq!(data.classes(), labels.then_some(names.as_slice()));
        assert_eq!(bytes(&data, 2), picture(3));
    }
}

#[test]
fn an_image_that_is_not_there_is_named_and_one_elsewhere_is_fetched() {
    let root = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(root.path().join("beside.png"), picture(9)).expect("written");
    let mut rows = rows(6);
    rows[1] = Row { label: Some(0), ..Row::default() };
    rows[3] = Row { path: Some("beside.png"), label: Some(1), ..Row::default() };
    rows[4] = Row { path: Some("gone.png"), label: Some(1), ..Row::default() };
    rows[5].bytes = Some(Vec::new());
    let path = root.path().join("a.parquet");
    write(&path, &[&rows[..2], &rows[2..]]);
    let data = open(&path, Split::Train).expect("a data set");
    assert_eq!(bytes(&data, 3), picture(9));
    assert_eq!(bytes(&data, 2), picture(2));
    let refused = |index: usize, parts: &[&str]| {
        let error = data.sample(index).expect_err("not an image").to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    };
    refused(1, &["a.parquet", "row 1 (row group 0)", "neither bytes nor a path"]);
    refused(4, &["a.parquet", "row 4 (row group 1)", "gone.png"]);
    refused(5, &["a.parquet row 5", "empty"]);
}

#[test]
fn classes_must_be_known_for_all_or_for_none() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let path = root.path().join("a.parquet");
    let mut none = rows(3);
    none.iter_mut().for_each(|row| row.label = Some(-1));
    write(&path, &[&none]);
    assert_eq!(open(&path, Split::Train).expect("a data set").labels(), None);
    none.iter_mut().for_each(|row| row.label = None);
    write(&path, &[&none]);
    assert_eq!(open(&path, Split::Train).expect("a data set").labels(), None);
    none[1].label = Some(0);
    write(&path, &[&none]);
    let error = open(&path, Split::Train).expect_err("row 0 has none").to_string();
    assert!(error.contains("row 0: no class"), "{error}");
    write_with(&path, &[&rows(3)], Compression::SNAPPY, Some(&["one", "two"]));
    let error = open(&path, Split::Train).expect_err("class 2 of 2").to_string();
    assert!(error.contains("row 2: class 2") && error.contains("of 2 classes"), "{error}");
}

#[test]
fn each_group_is_unpacked_once_in_order_and_within_a_window_by_any_number_of_threads() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let path = root.path().join("a.parquet");
    let rows = rows(80);
    write(&path, &rows.chunks(5).collect::<Vec<_>>());
    let unpacked = |data: &Arc<Dataset>| match &**data {
        Dataset::Parquet(parquet) => parquet.unpacked(),
        _ => panic!("it is Parquet"),
    };
    for threads in [1, 4] {
        let data = Arc::new(open(&path, Split::Train).expect("a data set"));
        let transform = EvalTransform {
            crop: (16, 16),
            filter: ijepa_data::Filter::Bilinear,
            fit: ijepa_data::Fit::Cut,
            normalisation: Normalisation::default(),
        };
        let eval = EvalConfig { batch_size: 7, threads, queue: 3, transform };
        let mut loader = EvalLoader::start(Arc::clone(&data), eval).expect("it starts");
        let mut indices = Vec::new();
        while let Some(batch) = loader.next().expect("it loads") {
            assert!(batch.unreadable.is_empty());
            indices.extend(batch.indices);
        }
        assert_eq!(indices, (0..80).collect::<Vec<_>>());
        assert_eq!(unpacked(&data), 16);
        // Windows of two groups. Threads that run ahead of one another are in three of them at most; there is room for ten groups.
        let small = Parquet::open(&path).expect("a data set").with_cache_bytes(10_000);
        let data = Arc::new(Dataset::Parquet(small));
        let indices = delivered(&data, config(threads, 0, 1, 20));
        assert_eq!(indices.iter().collect::<BTreeSet<_>>().len(), 80);
        assert_eq!(unpacked(&data), 16);
    }
}

#[test]
fn ranks_share_an_epoch_and_threads_change_nothing() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let path = root.path().join("a.parquet");
    let rows = rows(80);
    write(&path, &rows.chunks(5).collect::<Vec<_>>());
    let data = Arc::new(open(&path, Split::Train).expect("a data set"));
    let shares = [0, 1].map(|rank| delivered(&data, config(1, rank, 2, 10)));
    assert_eq!(shares[0], delivered(&data, config(3, 0, 2, 10)));
    let sets = shares.map(|share| share.into_iter().collect::<BTreeSet<_>>());
    assert_eq!((sets[0].len(), sets[1].len()), (40, 40));
    assert!(sets[0].is_disjoint(&sets[1]));
}

#[test]
fn what_is_no_parquet_file_or_a_part_of_one_is_refused() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let path = root.path().join("a.parquet");
    write(&path, &[&rows(8)]);
    let whole = std::fs::read(&path).expect("read");
    let mut absurd = whole.clone();
    let at = absurd.len() - 8;
    absurd[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    for content in [b"".as_slice(), b"PAR1", b"not a parquet file at all", &whole[..whole.len() / 2], &absurd] {
        std::fs::write(&path, content).expect("written");
        let error = open(&path, Split::Train).expect_err("no Parquet file").to_string();
        assert!(error.contains("a.parquet: ") && error.contains("truncated"), "{error}");
    }
    // The end is whole, and nothing lies where it says.
    std::fs::write(&path, &whole[1..]).expect("written");
    let error = open(&path, Split::Train).expect_err("one byte less").to_string();
    assert!(error.contains("a.parquet: row group 0: "), "{error}");
    write(&path, &[]);
    assert!(open(&path, Split::Train).expect_err("no rows").to_string().contains("0 rows"));
}

#[test]
fn damage_in_the_middle_spares_what_comes_before_it() {
    let root = tempfile::tempdir().expect("a scratch folder");
    let path = root.path().join("a.parquet");
    let rows = rows(200);
    write_with(&path, &[&rows], Compression::UNCOMPRESSED, None);
    let mut content = std::fs::read(&path).expect("read");
    let needle = rows[180].bytes.as_ref().expect("it has bytes");
    let at = content.windows(needle.len()).position(|window| window == needle).expect("it lies there as it is");
    // The length of the image before its bytes.
    content[at - 4..at].copy_from_slice(&u32::MAX.to_le_bytes());
    std::fs::write(&path, content).expect("written");
    let data = open(&path, Split::Train).expect("the footer is whole");
    assert_eq!(bytes(&data, 100), picture(100));
    let error = data.read(180).expect_err("damaged").to_string();
    assert!(error.contains("row 180 (row group 0): cannot be read from row 128"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn flipped_bytes_are_errors_or_images(at in 0usize..1 << 20, value: u8) {
        let root = tempfile::tempdir().expect("a scratch folder");
        let path = root.path().join("a.parquet");
        let rows = rows(12);
        write_with(&path, &rows.chunks(4).collect::<Vec<_>>(), Compression::SNAPPY, Some(&["a", "b", "c"]));
        let mut content = std::fs::read(&path).expect("read");
        let at = at % content.len();
        content[at] = value;
        std::fs::write(&path, content).expect("written");
        if let Ok(data) = open(&path, Split::Train) {
            for index in 0..data.len().min(20) {
                let _ = data.sample(index);
            }
        }
    }
}
