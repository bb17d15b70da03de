//! Claims about files of embeddings.

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, ListAccessor, RowAccessor};

use super::*;

const LAYOUT: Layout = Layout { width: 3, tokens: Some((2, 2)), labelled: true };

/// Two batches, of 2 and of 1 image.
fn written(path: &Path, layout: Layout) -> Vec<PathBuf> {
    let values = |from: usize, count: usize| (from..from + count).map(|x| x as f32 / 8.0).collect::<Vec<f32>>();
    let mut writer = create(path, layout).expect("it can be written");
    for (from, images) in [(0, 2), (2, 1)] {
        let paths: Vec<String> = (from..from + images).map(|image| format!("{image}.png")).collect();
        let labels: Vec<i64> = (from..from + images).map(|image| image as i64 * 7).collect();
        let batch = Batch {
            paths: &paths,
            labels: if layout.labelled { &labels } else { &[] },
            pooled: &values(from * 3, images * 3),
            tokens: &layout.tokens.map_or(vec![], |_| values(100 + from * 4, images * 4)),
        };
        writer.write(layout, batch).expect("it can be written");
    }
    let mut files = writer.finish().expect("it can be completed");
    files.sort();
    files
}

fn names(files: &[PathBuf]) -> Vec<&str> {
    files.iter().map(|file| file.file_name().and_then(|name| name.to_str()).expect("a plain name")).collect()
}

fn left_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("the folder is there").count()
}

/// Header and values of an array.
fn npy(path: &Path) -> (String, Vec<u8>) {
    let bytes = std::fs::read(path).expect("it was written");
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((10 + length) % 64, 0);
    (String::from_utf8(bytes[10..10 + length].to_vec()).expect("the header is text"), bytes[10 + length..].to_vec())
}

#[test]
fn numpy_arrays_have_their_shapes_and_values() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("a.b.npy");
    let files = written(&path, LAYOUT);
    assert_eq!(names(&files), ["a.b.labels.npy", "a.b.npy", "a.b.paths.txt", "a.b.tokens.npy"]);
    let (header, values) = npy(&path);
    assert!(
        header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3,3,), }") && header.ends_with('\n'),
        "{header}"
    );
    assert_eq!(values, f32_bytes(&(0..9).map(|x| x as f32 / 8.0).collect::<Vec<_>>()));
    let (header, values) = npy(&dir.path().join("a.b.tokens.npy"));
    assert!(header.contains("'shape': (3,2,2,)"), "{header}");
    assert_eq!(values.len(), 12 * 4);
    let (header, values) = npy(&dir.path().join("a.b.labels.npy"));
    assert!(header.contains("'<i8'") && header.contains("(3,)"), "{header}");
    assert_eq!(values, i64_bytes(&[0, 7, 14]));
    assert_eq!(
        std::fs::read_to_string(dir.path().join("a.b.paths.txt")).expect("it was written"),
        "0.png\n1.png\n2.png\n"
    );
    assert_eq!(left_in(dir.path()), 4);
}

#[test]
fn safetensors_reads_back_by_its_own_library() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("a.safetensors");
    assert_eq!(names(&written(&path, LAYOUT)), ["a.paths.txt", "a.safetensors"]);
    let bytes = std::fs::read(&path).expect("it was written");
    let file = ::safetensors::SafeTensors::deserialize(&bytes).expect("it is safetensors");
    let tensor = |name| file.tensor(name).expect("it is there");
    assert_eq!(tensor("pooled").shape(), [3, 3]);
    assert_eq!(tensor("pooled").data(), f32_bytes(&(0..9).map(|x| x as f32 / 8.0).collect::<Vec<_>>()));
    assert_eq!(tensor("tokens").shape(), [3, 2, 2]);
    assert_eq!(tensor("tokens").data()[..4], 12.5f32.to_le_bytes());
    assert_eq!(tensor("labels").data(), i64_bytes(&[0, 7, 14]));
    assert_eq!(left_in(dir.path()), 2);
}

#[test]
fn parquet_reads_back_by_its_own_library() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("a.parquet");
    written(&path, LAYOUT);
    let reader = SerializedFileReader::new(std::fs::File::open(&path).expect("it was written")).expect("it is Parquet");
    let rows: Vec<_> = reader.get_row_iter(None).expect("it has rows").map(|row| row.expect("it is a row")).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[1].get_string(0).expect("a path"), "1.png");
    assert_eq!(rows[1].get_long(1).expect("a label"), 7);
    let pooled = rows[1].get_list(2).expect("pooled");
    assert_eq!((pooled.len(), pooled.get_float(0).expect("a float")), (3, 3.0 / 8.0));
    let tokens = rows[2].get_list(3).expect("tokens");
    assert_eq!(tokens.len(), 2);
    let second = tokens.get_list(1).expect("a token");
    assert_eq!((second.len(), second.get_float(1).expect("a float")), (2, 111.0 / 8.0));
    assert!(matches!(rows[2].get_column_iter().nth(2), Some((name, Field::ListInternal(_))) if name == "pooled"));
}

#[test]
fn unlabelled_features_alone_make_no_other_arrays() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let layout = Layout { width: 3, tokens: None, labelled: false };
    assert_eq!(names(&written(&dir.path().join("a.npy"), layout)), ["a.npy", "a.paths.txt"]);
    written(&dir.path().join("a.parquet"), layout);
    written(&dir.path().join("a.safetensors"), layout);
}

#[test]
fn an_unfinished_file_leaves_nothing_and_an_unknown_ending_is_refused() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    for name in ["a.npy", "a.safetensors", "a.parquet"] {
        let mut writer = create(&dir.path().join(name), Layout { width: 1, tokens: None, labelled: false })
            .expect("it can be written");
        let batch = Batch { paths: &["x".into()], labels: &[], pooled: &[1.0], tokens: &[] };
        writer.write(Layout { width: 1, tokens: None, labelled: false }, batch).expect("it can be written");
        drop(writer);
        assert_eq!(left_in(dir.path()), 0, "{name}");
    }
    let Err(error) = create(&dir.path().join("a.csv"), LAYOUT) else { panic!("csv is not written") };
    assert_eq!(crate::exit::code(&error), crate::exit::Exit::Usage);
}
