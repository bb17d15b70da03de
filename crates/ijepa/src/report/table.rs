//! Which features answer which question best? A table of shares with their standard errors.

use super::html::escape;

/// Scores of several kinds of features on several tasks; larger is better.
pub(crate) struct Results {
    /// What the first column holds, such as `features`.
    pub(crate) corner: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) lines: Vec<Line>,
}

/// A task.
pub(crate) struct Column {
    pub(crate) name: String,
    /// Below the name, such as the number of classes and the accuracy of chance.
    pub(crate) note: String,
}

/// One kind of features.
pub(crate) struct Line {
    pub(crate) name: String,
    /// Value and standard error, fractions; one for each column, none where it was not measured.
    pub(crate) scores: Vec<Option<(f64, f64)>>,
}

/// The table; the best of each column is marked, and so is what lies within one standard error of it.
pub(super) fn html(results: &Results) -> String {
    let best: Vec<Option<(f64, f64)>> = (0..results.columns.len()).map(|column| best(results, column)).collect();
    let column = |column: &Column| {
        format!("<th scope=\"col\">{}<small>{}</small></th>", escape(&column.name), escape(&column.note))
    };
    let line = |line: &Line| {
        let cells = best.iter().enumerate().map(|(i, best)| cell(line.scores.get(i).copied().flatten(), *best));
        format!("<tr><th scope=\"row\">{}</th>{}</tr>\n", escape(&line.name), cells.collect::<String>())
    };
    format!(
        "<div class=\"wide\">\n<table>\n<thead><tr><th scope=\"col\">{}</th>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table>\n</div>\n\
         <p class=\"note\">± one standard error. Marked: the best of its column, and what is within one standard error of it.</p>\n",
        escape(&results.corner),
        results.columns.iter().map(column).collect::<String>(),
        results.lines.iter().map(line).collect::<String>()
    )
}

fn best(results: &Results, column: usize) -> Option<(f64, f64)> {
    let scores = results.lines.iter().filter_map(|line| line.scores.get(column).copied().flatten());
    scores.filter(|score| score.0.is_finite()).max_by(|a, b| a.0.total_cmp(&b.0))
}

fn cell(score: Option<(f64, f64)>, best: Option<(f64, f64)>) -> String {
    let Some((value, error)) = score.filter(|score| score.0.is_finite()) else {
        return "<td class=\"missing\">–</td>".to_owned();
    };
    let is_best = best.is_some_and(|(top, top_error)| value >= top - top_error.max(0.0));
    let width = 100.0 * value.clamp(0.0, 1.0);
    let class = if is_best { " class=\"best\"" } else { "" };
    let error = if error.is_finite() { format!("<small>± {:.1}</small>", 100.0 * error) } else { String::new() };
    format!("<td{class}><span>{:.1} %</span>{error}<i style=\"width:{width:.1}%\"></i></td>", 100.0 * value)
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::assert_every_tag_closes;
    use super::*;

    fn results(columns: Vec<Vec<Option<(f64, f64)>>>) -> String {
        let name = |i: usize| format!("n{i}");
        let lines = columns.into_iter().enumerate().map(|(i, scores)| Line { name: name(i), scores }).collect();
        let columns = (0..2).map(|i| Column { name: name(i), note: String::new() }).collect();
        let page = html(&Results { corner: "features".to_owned(), columns, lines });
        assert_every_tag_closes(&page);
        page
    }

    #[test]
    fn the_best_of_a_column_and_what_may_be_as_good_are_marked() {
        let page = results(vec![
            vec![Some((0.70, 0.02)), None],
            vec![Some((0.69, 0.02)), None],
            vec![Some((0.50, 0.02)), None],
        ]);
        assert_eq!(page.matches("class=\"best\"").count(), 2);
        assert!(page.contains("<td class=\"best\"><span>70.0 %</span><small>± 2.0</small>"));
        assert!(page.contains("<td><span>50.0 %</span>"));
        assert_eq!(page.matches("class=\"missing\"").count(), 3);
    }

    #[test]
    fn a_table_of_nothing_or_of_nan_is_a_table() {
        assert_eq!(results(vec![]).matches("<td").count(), 0);
        let page = results(vec![vec![Some((f64::NAN, f64::NAN)), Some((0.5, f64::NAN))], vec![]]);
        assert_eq!(page.matches("class=\"missing\"").count(), 3);
        assert!(!page.contains("NaN"));
    }
}
