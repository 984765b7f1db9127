//! A line chart as SVG: some series over one x axis, the y axis logarithmic or from zero.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 64.0;
/// Told apart by eyes that do not see red and green, too.
const COLORS: [&str; 5] = ["#0072b2", "#d55e00", "#999999", "#009e73", "#cc79a7"];

pub struct Series {
    pub name: String,
    /// In ascending order of x; x runs from 0 to 1.
    pub points: Vec<(f64, f64)>,
}

pub struct Chart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Where on the x axis (0 to 1) what stands.
    pub x_ticks: Vec<(f64, String)>,
    pub log_y: bool,
    pub series: Vec<Series>,
}

impl Chart {
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        text(&mut svg, (middle, 22.0), "middle", &self.title);
        text(&mut svg, (middle, HEIGHT - 26.0), "middle", &self.x_label);
        let turned = format!("16 {} ", HEIGHT / 2.0);
        let _ = writeln!(
            svg,
            "<text transform=\"translate({turned}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            self.y_label
        );
        let (low, high) = self.range();
        for value in self.y_ticks(low, high) {
            let at = self.y(value, low, high);
            line(&mut svg, (LEFT, at), (WIDTH - RIGHT, at));
            text(&mut svg, (LEFT - 8.0, at + 4.0), "end", &short(value));
        }
        for (at, label) in &self.x_ticks {
            line(&mut svg, (x(*at), TOP), (x(*at), HEIGHT - BOTTOM));
            text(&mut svg, (x(*at), HEIGHT - BOTTOM + 18.0), "middle", label);
        }
        for (i, series) in self.series.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            let points: Vec<String> = series
                .points
                .iter()
                .map(|&(at, value)| format!("{:.1},{:.1}", x(at), self.y(value, low, high)))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>",
                points.join(" ")
            );
            for point in &points {
                let (cx, cy) = point.split_once(',').unwrap_or(("0", "0"));
                let _ = writeln!(svg, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{color}\"/>");
            }
            let left = LEFT + 12.0 + 140.0 * i as f64;
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{color}\"/>",
                HEIGHT - 12.0
            );
            text(&mut svg, (left + 20.0, HEIGHT - 6.0), "start", &series.name);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The lowest and the highest value on the y axis.
    fn range(&self) -> (f64, f64) {
        let values = || self.series.iter().flat_map(|series| series.points.iter().map(|p| p.1));
        let highest = values().fold(f64::MIN_POSITIVE, f64::max);
        if !self.log_y {
            return (0.0, highest * 1.08);
        }
        let lowest = values().filter(|value| *value > 0.0).fold(highest, f64::min);
        (10f64.powf(lowest.log10().floor()), 10f64.powf(highest.log10().ceil()))
    }

    fn y_ticks(&self, low: f64, high: f64) -> Vec<f64> {
        if self.log_y {
            let decades = (high / low).log10().round() as i32;
            return (0..=decades).map(|i| low * 10f64.powi(i)).collect();
        }
        let rough = high / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
        let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        (0..).map(|i| f64::from(i) * step).take_while(|value| *value <= high).collect()
    }

    fn y(&self, value: f64, low: f64, high: f64) -> f64 {
        let part = if self.log_y {
            (value.max(low) / low).log10() / (high / low).log10().max(f64::MIN_POSITIVE)
        } else {
            (value - low) / (high - low)
        };
        HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
    }
}

fn x(part: f64) -> f64 {
    LEFT + part * (WIDTH - RIGHT - LEFT)
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>"
    );
}

/// A number for an axis: 120000 as 120k.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", round(v / 1e6)),
        v if v >= 1e3 => format!("{}k", round(v / 1e3)),
        v => round(v),
    }
}

fn round(value: f64) -> String {
    format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}
