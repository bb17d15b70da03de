//! How does a number go along a run? Line plots as SVG that fit any width.
//!
//! The curves stand in an inner SVG that is stretched to the frame while strokes keep their width
//! (`vector-effect: non-scaling-stroke`); ticks are placed in per cent of the frame, so letters are never scaled. A gap is
//! left where a value is not finite, or not positive on a logarithmic axis. Long runs are thinned to the smallest and
//! largest value of every [`BUCKETS`]th of the x range, which looks the same and keeps spikes.

use std::fmt::Write;

use super::html::escape;
use super::ticks;

/// Curves over a common axis.
pub(crate) struct Plot {
    pub(crate) title: String,
    /// What runs along the horizontal axis, such as `step`.
    pub(crate) x: String,
    /// Whether the vertical axis is logarithmic.
    pub(crate) is_log: bool,
    /// Whether values are drawn faintly under their running mean.
    pub(crate) is_noisy: bool,
    /// At most six have a colour of their own.
    pub(crate) series: Vec<Series>,
}

/// A curve.
pub(crate) struct Series {
    pub(crate) name: String,
    /// (x, y), x ascending.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Pieces of the x range of which the extremes are kept.
const BUCKETS: usize = 500;
/// Side of the stretched drawing, in its own units.
const SIDE: f64 = 1000.0;
const COLOURS: usize = 6;
/// Share of a curve that its running mean covers.
const MEAN_SHARE: usize = 50;

/// The plot as a figure.
pub(super) fn html(plot: &Plot) -> String {
    let title = escape(&plot.title);
    let legend = legend(plot);
    let Some(frame) = Frame::of(plot) else {
        return format!(
            "<figure class=\"plot\">\n<figcaption><b>{title}</b></figcaption>\n{legend}<p class=\"none\">no data</p>\n</figure>\n"
        );
    };
    let last = match &plot.series[..] {
        [only] => only
            .points
            .iter()
            .rev()
            .find(|point| frame.shows(**point))
            .map_or_else(String::new, |point| format!("<span>last {}</span>", ticks::value(point.1))),
        _ => String::new(),
    };
    let (marks, margin) = frame.marks();
    let curves: String =
        plot.series.iter().enumerate().map(|(i, series)| frame.curve(series, i % COLOURS, plot.is_noisy)).collect();
    format!(
        "<figure class=\"plot\">\n<figcaption><b>{title}</b>{last}</figcaption>\n{legend}\
         <div class=\"frame\" style=\"padding-left:calc({margin}ch + 10px)\">\n\
         <svg class=\"chart\" role=\"img\" aria-label=\"{title}\">\n{marks}\
         <svg viewBox=\"0 0 {SIDE} {SIDE}\" preserveAspectRatio=\"none\" width=\"100%\" height=\"100%\">\n{curves}</svg>\n\
         </svg>\n</div>\n<div class=\"axis\">{}</div>\n</figure>\n",
        escape(&plot.x)
    )
}

fn legend(plot: &Plot) -> String {
    if plot.series.len() < 2 {
        return String::new();
    }
    let entry = |(i, series): (usize, &Series)| {
        format!("<li><i class=\"c{}\"></i>{}</li>\n", i % COLOURS, escape(&series.name))
    };
    format!("<ul class=\"legend\">\n{}</ul>\n", plot.series.iter().enumerate().map(entry).collect::<String>())
}

/// The ranges that a plot shows; y in logarithms where the axis is.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    is_log: bool,
}

impl Frame {
    /// None when no point can be shown.
    fn of(plot: &Plot) -> Option<Frame> {
        let mut frame =
            Frame { x: (f64::INFINITY, f64::NEG_INFINITY), y: (f64::INFINITY, f64::NEG_INFINITY), is_log: plot.is_log };
        for &point in plot.series.iter().flat_map(|series| &series.points) {
            if frame.shows(point) {
                let y = frame.height(point.1);
                frame.x = (frame.x.0.min(point.0), frame.x.1.max(point.0));
                frame.y = (frame.y.0.min(y), frame.y.1.max(y));
            }
        }
        if frame.x.0 > frame.x.1 {
            return None;
        }
        if frame.x.0 == frame.x.1 {
            frame.x = (frame.x.0 - 0.5, frame.x.1 + 0.5);
        }
        let extent = frame.y.1 - frame.y.0;
        let flat = if plot.is_log { 0.3 } else { (0.1 * frame.y.1.abs()).max(1e-12) };
        // The smallest extent that f64 can cut into ticks, should all values be nearly the same.
        let room = if extent > 1e-9 * frame.y.1.abs() { 0.06 * extent } else { flat };
        frame.y = (frame.y.0 - room, frame.y.1 + room);
        Some(frame)
    }

    fn shows(&self, (x, y): (f64, f64)) -> bool {
        x.is_finite() && y.is_finite() && (!self.is_log || y > 0.0)
    }

    fn height(&self, y: f64) -> f64 {
        if self.is_log { y.log10() } else { y }
    }

    /// Shares of the frame, from its left and from its top.
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let part = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        (part(x, self.x), 1.0 - part(self.height(y), self.y))
    }

    /// Grid and tick labels, and the letters that the widest label takes.
    fn marks(&self) -> (String, usize) {
        let across = ticks::linear(self.x.0, self.x.1, 5);
        let up = if self.is_log {
            ticks::logarithmic(10f64.powf(self.y.0), 10f64.powf(self.y.1), 5)
        } else {
            ticks::linear(self.y.0, self.y.1, 5)
        };
        let labels = ticks::labels(&up);
        let mut out = String::new();
        for (&tick, label) in up.iter().zip(&labels) {
            let y = 100.0 * self.place((self.x.0, tick)).1;
            let _ = writeln!(out, "<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{y:.2}%\" y2=\"{y:.2}%\"/>");
            let _ = writeln!(out, "<text class=\"up\" x=\"-8\" y=\"{y:.2}%\" dy=\"0.32em\">{label}</text>");
        }
        let floor = if self.is_log { 10f64.powf(self.y.0) } else { self.y.0 };
        for (&tick, label) in across.iter().zip(ticks::labels(&across)) {
            let x = 100.0 * self.place((tick, floor)).0;
            let _ = writeln!(out, "<text class=\"across\" x=\"{x:.2}%\" y=\"100%\" dy=\"1.5em\">{label}</text>");
        }
        let _ = writeln!(out, "<line class=\"base\" x1=\"0\" x2=\"100%\" y1=\"100%\" y2=\"100%\"/>");
        (out, labels.iter().map(String::len).max().unwrap_or(1))
    }

    fn curve(&self, series: &Series, colour: usize, is_noisy: bool) -> String {
        let shown: Vec<(f64, f64)> = series.points.iter().copied().filter(|point| self.shows(*point)).collect();
        if !is_noisy || shown.len() < 20 {
            let line = format!("<path class=\"line c{colour}\" d=\"{}\"/>\n", self.path(&series.points));
            return line + &self.dots(&series.points, colour);
        }
        format!(
            "<path class=\"faint c{colour}\" d=\"{}\"/>\n<path class=\"line c{colour}\" d=\"{}\"/>\n",
            self.path(&series.points),
            self.path(&running_mean(&shown))
        )
    }

    /// Dots where a stretch of a curve is a single point: strokes without length, which round caps make visible.
    fn dots(&self, points: &[(f64, f64)], colour: usize) -> String {
        let lone = points.split(|point| !self.shows(*point)).filter(|stretch| stretch.len() == 1);
        let data: String = lone.map(|stretch| self.path(stretch) + "h0").collect();
        if data.is_empty() { data } else { format!("<path class=\"dot c{colour}\" d=\"{data}\"/>\n") }
    }

    /// Path data of the stretches between gaps.
    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut out = String::new();
        for stretch in points.split(|point| !self.shows(*point)).filter(|stretch| !stretch.is_empty()) {
            for (i, &point) in thinned(stretch).iter().enumerate() {
                let (x, y) = self.place(point);
                let _ = write!(out, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, SIDE * x, SIDE * y);
            }
        }
        out
    }
}

/// The smallest and largest value of each bucket of the x range, in their order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * BUCKETS {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(2 * BUCKETS);
    for bucket in points.chunks(points.len().div_ceil(BUCKETS)) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let low = bucket.iter().min_by(by_value).expect("chunks are not empty");
        let high = bucket.iter().max_by(by_value).expect("chunks are not empty");
        let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        out.push(*first);
        if first != second {
            out.push(*second);
        }
    }
    out
}

/// Means over a window of a fiftieth of the points (three at least), centred, cut off at the ends.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / MEAN_SHARE).max(3) / 2;
    let mut sums = vec![0.0];
    for point in points {
        sums.push(sums[sums.len() - 1] + point.1);
    }
    let mean = |(i, point): (usize, &(f64, f64))| {
        let (first, end) = (i.saturating_sub(half), (i + half + 1).min(points.len()));
        (point.0, (sums[end] - sums[first]) / (end - first) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::assert_every_tag_closes;
    use super::*;

    fn plot(points: Vec<(f64, f64)>, is_log: bool, is_noisy: bool) -> String {
        let series = vec![Series { name: "a".to_owned(), points }];
        let page = html(&Plot { title: "t".to_owned(), x: "step".to_owned(), is_log, is_noisy, series });
        assert_every_tag_closes(&page);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        page
    }

    #[test]
    fn any_points_give_a_figure_without_nan() {
        let cases: [&[(f64, f64)]; 8] = [
            &[],
            &[(0.0, 1.0)],
            &[(0.0, f64::NAN), (1.0, f64::INFINITY)],
            &[(0.0, 0.0), (1.0, 0.0)],
            &[(0.0, -1.0), (1.0, -2.0)],
            &[(0.0, 1.0), (1.0, f64::NAN), (2.0, 5.0), (f64::NAN, 3.0)],
            &[(5.0, 1e300), (6.0, -1e300)],
            &[(0.0, 1.0), (1.0, 1.0 + 1e-16)],
        ];
        for points in cases {
            for (is_log, is_noisy) in [(false, false), (true, false), (false, true), (true, true)] {
                plot(points.to_vec(), is_log, is_noisy);
            }
        }
        assert!(plot(vec![], false, false).contains("no data"));
        assert!(plot(vec![(0.0, -1.0)], true, false).contains("no data"), "a logarithm shows no negative value");
        let none = Plot { title: String::new(), x: String::new(), is_log: false, is_noisy: false, series: vec![] };
        assert_every_tag_closes(&html(&none));
    }

    #[test]
    fn a_gap_splits_the_curve_and_a_lone_point_is_a_dot() {
        let page = plot(vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.5)], false, false);
        let paths: Vec<&str> = page.split(" d=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(paths.len(), 2, "{page}");
        assert_eq!(paths[0].matches('M').count(), 2, "the curve has two stretches: {}", paths[0]);
        assert_eq!(paths[1].matches('M').count(), 1, "one of them is a dot: {}", paths[1]);
    }

    #[test]
    fn the_ends_of_a_curve_touch_the_sides_of_the_frame() {
        let frame = Frame { x: (10.0, 20.0), y: (-1.0, 3.0), is_log: true };
        assert_eq!(frame.place((10.0, 0.1)), (0.0, 1.0));
        assert_eq!(frame.place((20.0, 1000.0)), (1.0, 0.0));
    }

    #[test]
    fn thinning_keeps_spikes_and_bounds_the_size() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), (f64::from(i) * 0.01).sin())).collect();
        points[54_321].1 = 40.0;
        let thin = thinned(&points);
        assert!(thin.len() <= 2 * BUCKETS);
        assert!(thin.contains(&(54_321.0, 40.0)));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn the_running_mean_of_a_line_is_the_line() {
        let line: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), 3.0 * f64::from(i))).collect();
        let mean = running_mean(&line);
        assert_eq!(mean.len(), line.len());
        assert!(mean.iter().zip(&line).skip(2).take(196).all(|(mean, point)| (mean.1 - point.1).abs() < 1e-9));
    }
}
