//! Which columns hold the images and the classes? What the Hugging Face library wrote into the file goes first, then the usual
//! names, then the types.

use ::parquet::basic::Type as Physical;
use ::parquet::file::metadata::FileMetaData;
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};
use serde_json::Value;

/// Names of image columns, the most usual first; the last four are those of converted WebDatasets.
const IMAGE_NAMES: [&str; 9] = ["image", "img", "images", "picture", "photo", "jpg", "jpeg", "png", "webp"];
/// Names of class columns. Where classes are coarse and fine, the fine ones count.
const LABEL_NAMES: [&str; 5] = ["label", "labels", "fine_label", "class", "cls"];

/// The columns of one file, as numbers of its leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    /// Name of the image column.
    pub(super) name: String,
    /// Bytes of image files.
    pub(super) bytes: usize,
    /// Where the files are that have no bytes here.
    pub(super) path: Option<usize>,
    /// Class of each image: a whole number or a text.
    pub(super) label: Option<usize>,
}

/// What the Hugging Face library says of the columns: `huggingface` → info → features.
pub(super) struct Features(Value);

impl Features {
    /// Nothing where the file says nothing, or something else than JSON.
    pub(super) fn of(metadata: &FileMetaData) -> Features {
        let text = metadata.key_value_metadata().into_iter().flatten().find(|entry| entry.key == "huggingface");
        let parsed = text.and_then(|entry| serde_json::from_str::<Value>(entry.value.as_deref()?).ok());
        Features(parsed.and_then(|mut value| value.pointer_mut("/info/features").map(Value::take)).unwrap_or_default())
    }

    fn is(&self, column: &str, kind: &str) -> bool {
        self.0[column]["_type"] == kind
    }

    /// Names of the classes of a column.
    pub(super) fn classes(&self, column: &str) -> Option<Vec<String>> {
        let names = self.0[column]["names"].as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }
}

impl Columns {
    /// The columns of a file, or what it has instead of an image column.
    pub(super) fn find(schema: &SchemaDescriptor, features: &Features) -> Result<Columns, String> {
        let fields = schema.root_schema().get_fields();
        let images: Vec<&str> =
            fields.iter().map(|field| field.name()).filter(|name| image(schema, name).is_some()).collect();
        let typed = images.iter().filter(|name| features.is(name, "Image")).copied().collect::<Vec<_>>();
        // A binary column of another name may hold anything; a struct of bytes and path holds files.
        let chosen = usual(&typed, &IMAGE_NAMES)
            .or(typed.first().copied())
            .or(usual(&images, &IMAGE_NAMES))
            .or(images.iter().copied().find(|name| image(schema, name).is_some_and(|(_, path)| path.is_some())));
        let Some(name) = chosen else {
            let has: Vec<_> = fields.iter().map(|field| format!("{} ({})", field.name(), kind(field))).collect();
            return Err(format!(
                "no image column: expected a struct {{bytes: binary, path: string}}, or a binary column named {}; the file has {}",
                IMAGE_NAMES.join(", "),
                if has.is_empty() { "no columns".to_owned() } else { has.join(", ") }
            ));
        };
        let (bytes, path) = image(schema, name).ok_or("the image column is gone")?;
        let labels: Vec<&str> =
            fields.iter().map(|field| field.name()).filter(|name| label(schema, name).is_some()).collect();
        let typed = labels.iter().filter(|name| features.is(name, "ClassLabel")).copied().collect::<Vec<_>>();
        let chosen = usual(&typed, &LABEL_NAMES).or(typed.first().copied()).or(usual(&labels, &LABEL_NAMES));
        Ok(Columns { name: name.to_owned(), bytes, path, label: chosen.and_then(|name| label(schema, name)) })
    }
}

/// The first of `names` that is among `found`.
fn usual<'a>(found: &[&'a str], names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| found.iter().copied().find(|found| found == name))
}

/// The leaves of bytes and of paths, if a column of this name can hold images.
fn image(schema: &SchemaDescriptor, name: &str) -> Option<(usize, Option<usize>)> {
    let leaf =
        |path: &[&str]| leaf(schema, path).filter(|&at| schema.column(at).physical_type() == Physical::BYTE_ARRAY);
    if let Some(at) = leaf(&[name]) {
        return (!is_text(&schema.column(at))).then_some((at, None));
    }
    leaf(&[name, "bytes"]).map(|bytes| (bytes, leaf(&[name, "path"])))
}

/// The leaf, if a column of this name can hold classes.
fn label(schema: &SchemaDescriptor, name: &str) -> Option<usize> {
    let at = leaf(schema, &[name])?;
    let column = schema.column(at);
    match column.physical_type() {
        Physical::INT32 | Physical::INT64 => Some(at),
        Physical::BYTE_ARRAY if is_text(&column) => Some(at),
        _ => None,
    }
}

/// A leaf by its path; none in lists, which have many values a row.
fn leaf(schema: &SchemaDescriptor, path: &[&str]) -> Option<usize> {
    let is = |column: &ColumnDescriptor| column.max_rep_level() == 0 && column.path().parts() == path;
    (0..schema.num_columns()).find(|&at| is(&schema.column(at)))
}

fn is_text(column: &ColumnDescriptor) -> bool {
    use ::parquet::basic::{ConvertedType, LogicalType};
    matches!(column.logical_type_ref(), Some(LogicalType::String)) || column.converted_type() == ConvertedType::UTF8
}

/// What a column is, in a word or two.
fn kind(field: &Type) -> String {
    if field.is_group() {
        let parts: Vec<&str> = field.get_fields().iter().map(|field| field.name()).collect();
        return format!("struct {{{}}}", parts.join(", "));
    }
    format!("{:?}", field.get_physical_type()).to_lowercase()
}
