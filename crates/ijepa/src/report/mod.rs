//! What did a run do, on one page? A report is one HTML file that needs nothing else: no network, no script, no font.
//!
//! A [`Report`] is plain data; [`render`] turns it into text, and everything that was given is escaped. Plots are SVG whose
//! strokes and letters keep their size at any width ([`plot`]), pictures are PNG data URIs with masks drawn over them as SVG
//! ([`tiles`]), results are a table with errors ([`table`]). The page follows the reader's choice of light or dark, and its
//! content policy forbids it to load anything.

pub(crate) mod bars;
mod html;
pub(crate) mod plot;
pub(crate) mod table;
mod ticks;
pub(crate) mod tiles;

use bars::Bars;
use html::escape;
use plot::Plot;
use table::Results;
use tiles::Row;

/// A page.
pub(crate) struct Report {
    /// Heading and window title.
    pub(crate) title: String,
    /// A few lines under the heading: what this is and what came out.
    pub(crate) summary: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

/// A part of the page, reachable from the bar at its top.
pub(crate) struct Section {
    pub(crate) heading: String,
    pub(crate) blocks: Vec<Block>,
}

/// What a section shows, in order.
pub(crate) enum Block {
    /// A paragraph.
    Text(String),
    /// Names and values, such as settings.
    KeyValues(Vec<(String, String)>),
    /// Scores of features on tasks.
    Results(Results),
    /// One quantity of several things.
    Bars(Bars),
    /// Plots side by side where there is room; a single one takes the whole width.
    Plots(Vec<Plot>),
    /// Rows of pictures.
    Tiles(Vec<Row>),
}

const STYLE: &str = include_str!("style.css");

/// The whole page as HTML.
pub(crate) fn render(report: &Report) -> String {
    let title = escape(&report.title);
    let summary: String = report.summary.iter().map(|line| format!("<p>{}</p>\n", escape(line))).collect();
    let sections = || report.sections.iter().enumerate();
    let links: String =
        sections().map(|(i, section)| format!("<a href=\"#part-{i}\">{}</a>\n", escape(&section.heading))).collect();
    let parts: String = sections().map(|(i, section)| part(i, section)).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>{title}</h1>\n{summary}<nav>\n{links}</nav>\n</header>\n<main>\n{parts}</main>\n</body>\n</html>\n"
    )
}

fn part(number: usize, section: &Section) -> String {
    let blocks: String = section.blocks.iter().map(block).collect();
    format!("<section id=\"part-{number}\">\n<h2>{}</h2>\n{blocks}</section>\n", escape(&section.heading))
}

fn block(block: &Block) -> String {
    match block {
        Block::Text(text) => format!("<p>{}</p>\n", escape(text)),
        Block::KeyValues(pairs) => {
            let pair = |(key, value): &(String, String)| {
                format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(key), escape(value))
            };
            format!("<dl>\n{}</dl>\n", pairs.iter().map(pair).collect::<String>())
        }
        Block::Results(results) => table::html(results),
        Block::Bars(bars) => bars::html(bars),
        Block::Plots(plots) => {
            format!("<div class=\"plots\">\n{}</div>\n", plots.iter().map(plot::html).collect::<String>())
        }
        Block::Tiles(rows) => {
            format!("<div class=\"rows\">\n{}</div>\n", rows.iter().map(tiles::html).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::html::tests::assert_every_tag_closes;
    use super::plot::Series;
    use super::table::{Column, Line};
    use super::tiles::{Overlay, Tile};
    use super::*;
    use ijepa_data::Picture;

    const HOSTILE: &str = "<script>alert('1')</script> & \"quoted\" \u{0}";

    fn tile(overlay: Option<Overlay>) -> Tile {
        let picture = Picture::new(4, 4, (0..48).collect());
        Tile { picture, caption: HOSTILE.to_owned(), overlay }
    }

    /// One of everything, with names that try to break out.
    fn hostile() -> Report {
        let name = || HOSTILE.to_owned();
        let series = Series { name: name(), points: vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)] };
        let plot = Plot { title: name(), x: name(), is_log: false, is_noisy: true, series: vec![series] };
        let column = Column { name: name(), note: name() };
        let line = Line { name: name(), scores: vec![Some((0.5, 0.1))] };
        let overlay = Overlay { grid: (2, 2), hidden: vec![0], blocks: vec![vec![1, 3]] };
        let blocks = vec![
            Block::Text(name()),
            Block::KeyValues(vec![(name(), name())]),
            Block::Results(Results { corner: name(), columns: vec![column], lines: vec![line] }),
            Block::Plots(vec![plot]),
            Block::Tiles(vec![Row { first: vec![tile(Some(overlay))], rest: vec![tile(None)] }]),
        ];
        Report { title: name(), summary: vec![name()], sections: vec![Section { heading: name(), blocks }] }
    }

    #[test]
    fn nothing_that_was_given_is_taken_for_markup() {
        let page = render(&hostile());
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains("\"quoted\""));
        assert!(!page.contains('\u{0}'));
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;quoted&quot;"));
    }

    #[test]
    fn every_tag_closes() {
        assert_every_tag_closes(&render(&hostile()));
        assert_every_tag_closes(&render(&Report { title: String::new(), summary: vec![], sections: vec![] }));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = render(&hostile());
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("//cdn"));
        assert!(!page.contains("url(") && !page.contains("@import"));
        assert!(page.matches("src=\"").count() == page.matches("src=\"data:image/png;base64,").count());
    }
}
