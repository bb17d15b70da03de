//! How do numbers compare? Horizontal bars with their errors.

use super::html::escape;

/// Bars of one quantity.
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// One number.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// One standard error.
    pub(crate) error: f64,
    /// The number in words.
    pub(crate) shown: String,
}

/// Height of a bar with its name, in pixels.
const ROW: f64 = 44.0;
/// Width of the longest bar, of 100.
const LONGEST: f64 = 96.0;

/// A figure; the whisker is one standard error to either side. Negative numbers have no bar.
pub(super) fn html(bars: &Bars) -> String {
    let finite = |bar: &&Bar| bar.value.is_finite();
    let reach = |bar: &Bar| bar.value + if bar.error.is_finite() { bar.error } else { 0.0 };
    let most = bars.bars.iter().filter(finite).map(reach).fold(f64::MIN_POSITIVE, f64::max);
    let percent = |value: f64| (LONGEST * value / most).clamp(0.0, 100.0);
    let row = |(place, bar): (usize, &Bar)| {
        let top = place as f64 * ROW;
        let (text, middle) = (top + 15.0, top + 30.0);
        let label = format!(
            "<text x=\"0\" y=\"{text}\">{} <tspan class=\"value\">{}</tspan></text>",
            escape(&bar.name),
            escape(&bar.shown)
        );
        if !bar.value.is_finite() {
            return label;
        }
        let whisker = if bar.error.is_finite() && bar.error > 0.0 {
            let (low, high) = (percent(bar.value - bar.error), percent(bar.value + bar.error));
            format!("<line class=\"error\" x1=\"{low:.2}%\" x2=\"{high:.2}%\" y1=\"{middle}\" y2=\"{middle}\"/>")
        } else {
            String::new()
        };
        let width = percent(bar.value);
        format!(
            "{label}<rect class=\"bar\" x=\"0\" y=\"{}\" width=\"{width:.2}%\" height=\"14\"/>{whisker}",
            top + 23.0
        )
    };
    let rows: String = bars.bars.iter().enumerate().map(row).collect();
    let height = bars.bars.len() as f64 * ROW;
    format!(
        "<figure class=\"bars\"><figcaption>{}</figcaption><svg width=\"100%\" height=\"{height}\" role=\"img\" aria-label=\"{0}\">{rows}</svg></figure>\n",
        escape(&bars.title)
    )
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::assert_every_tag_closes;
    use super::*;

    fn bar(value: f64, error: f64) -> Bar {
        Bar { name: "<a>".to_owned(), value, error, shown: "1 & 2".to_owned() }
    }

    #[test]
    fn the_longest_bar_fits_and_the_others_are_in_proportion() {
        let page = html(&Bars { title: "t".to_owned(), bars: vec![bar(0.5, 0.0), bar(0.25, 0.0)] });
        assert_every_tag_closes(&page);
        assert!(page.contains("width=\"96.00%\"") && page.contains("width=\"48.00%\""), "{page}");
    }

    #[test]
    fn nothing_is_taken_for_markup_and_what_is_not_finite_has_no_bar() {
        let page = html(&Bars { title: "<t>".to_owned(), bars: vec![bar(f64::NAN, f64::NAN), bar(-1.0, 0.1)] });
        assert_every_tag_closes(&page);
        assert!(!page.contains("<a>") && !page.contains("<t>") && !page.contains("NaN"));
        assert!(page.contains("&lt;a&gt;") && page.contains("1 &amp; 2"));
    }
}
