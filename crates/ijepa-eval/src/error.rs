//! What can be wrong with a feature matrix or with what is asked of it?

/// Why a probe could not run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// There is nothing to work on.
    #[error(
        "{what}: no features (rows {rows}, width {width}); check that the data set is not empty and that its images could be read"
    )]
    Empty {
        /// Which matrix.
        what: &'static str,
        /// Rows found.
        rows: usize,
        /// Width found.
        width: usize,
    },
    /// The number of values is not rows × width.
    #[error("{what}: {rows} rows of width {width} need {} values, got {values}", rows * width)]
    Values {
        /// Which matrix.
        what: &'static str,
        /// Rows stated.
        rows: usize,
        /// Width stated.
        width: usize,
        /// Values found.
        values: usize,
    },
    /// A row has no label.
    #[error(
        "{what}: {rows} rows but {labels} labels; this needs a data set with one class per image (class folders or `labels`)"
    )]
    Labels {
        /// Which matrix.
        what: &'static str,
        /// Rows found.
        rows: usize,
        /// Labels found.
        labels: usize,
    },
    /// Training and query features do not come from the same encoder.
    #[error(
        "training features have width {train}, query features {queries}; extract both with the same checkpoint and the same pooling"
    )]
    Width {
        /// Width of the training features.
        train: usize,
        /// Width of the query features.
        queries: usize,
    },
    /// Nothing to tell apart.
    #[error("all {rows} training rows have class {class}; a classifier needs at least two classes")]
    OneClass {
        /// Rows found.
        rows: usize,
        /// The only class.
        class: u32,
    },
    /// A value is NaN or infinite.
    #[error("{what}: row {row}, column {column} is {value}; the encoder or the input of that image is broken")]
    NotFinite {
        /// Which matrix.
        what: &'static str,
        /// First such row, from 0.
        row: usize,
        /// First such column of that row, from 0.
        column: usize,
        /// What stands there.
        value: f32,
    },
    /// Too few rows to hold any out.
    #[error(
        "{rows} training rows, at least {needed} are needed to choose a setting on a tenth of them; give more rows, or a single value of what is chosen (penalty, rate, head)"
    )]
    TooFewRows {
        /// Rows found.
        rows: usize,
        /// Rows needed.
        needed: usize,
    },
    /// A setting cannot be met.
    #[error("{setting} is {value}, expected {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What was given.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// Two lists that go together differ in length.
    #[error("{what}: expected {expected} entries, got {got}")]
    Length {
        /// Which list.
        what: &'static str,
        /// Entries expected.
        expected: usize,
        /// Entries found.
        got: usize,
    },
    /// The normal equations have no stable solution.
    #[error("the normal equations are singular in single precision at penalty {lambda}; use a larger penalty")]
    Singular {
        /// The penalty.
        lambda: f64,
    },
}
