//! Charts as SVG, drawn by `plotters`. Each function takes points and gives the element's text.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Size of a chart in CSS pixels; the page scales it to its width.
const SIZE: (u32, u32) = (1000, 320);

pub(crate) const BLUE: RGBColor = RGBColor(0x2f, 0x6f, 0xb0);
pub(crate) const ORANGE: RGBColor = RGBColor(0xd9, 0x7a, 0x1f);
pub(crate) const RED: RGBColor = RGBColor(0xc0, 0x3a, 0x36);
pub(crate) const GREEN: RGBColor = RGBColor(0x3f, 0x94, 0x4a);
pub(crate) const GREY: RGBColor = RGBColor(0x80, 0x80, 0x80);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'b, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// What an axis shows.
pub(crate) struct Axis<'a> {
    pub(crate) name: &'a str,
    pub(crate) range: (f64, f64),
    pub(crate) label: &'a dyn Fn(&f64) -> String,
    /// About how many labels.
    pub(crate) labels: usize,
}

pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) colour: RGBColor,
    pub(crate) points: Vec<(f64, f64)>,
    /// Marks each point as well.
    pub(crate) dots: bool,
}

/// A value with its interval at `x`.
pub(crate) struct Whisker {
    pub(crate) x: f64,
    pub(crate) low: f64,
    pub(crate) value: f64,
    pub(crate) high: f64,
    pub(crate) colour: RGBColor,
}

/// A filled cell of a heat map: corners, and 0 to 1 how much of it there is.
pub(crate) struct Cell {
    pub(crate) from: (f64, f64),
    pub(crate) to: (f64, f64),
    pub(crate) heat: f64,
}

/// A range that a chart can be drawn over, whatever the values are: finite, and not empty.
pub(crate) fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    match low < high {
        true => (low, high),
        false if low == f64::MAX => (0.0, 1.0),
        false => (low - low.abs().max(1.0) * 0.1, low + low.abs().max(1.0) * 0.1),
    }
}

/// Log of milliseconds, so that one chart shows a tenth of a millisecond and ten seconds.
pub(crate) fn log_ms(ms: f64) -> f64 {
    ms.max(1e-3).log10()
}

/// The label of such a value: whole powers of ten only.
pub(crate) fn log_label(value: &f64) -> String {
    let whole = value.round();
    if (value - whole).abs() > 0.01 {
        return String::new();
    }
    match whole as i32 {
        ..=-3 => "1 us".to_owned(),
        -2 => "10 us".to_owned(),
        -1 => "100 us".to_owned(),
        power @ 0..=2 => format!("{} ms", 10_u32.pow(power.unsigned_abs())),
        power => format!("{} s", 10_f64.powi(power - 3)),
    }
}

/// At least one whole power of ten, so that a logarithmic axis has labels.
pub(crate) fn decades((low, high): (f64, f64)) -> (f64, f64) {
    (low.floor(), high.ceil().max(low.floor() + 1.0))
}

pub(crate) fn lines(x: &Axis<'_>, y: &Axis<'_>, lines: &[Line<'_>], whiskers: &[Whisker]) -> Result<String, String> {
    draw(|area| {
        let mut chart = frame(area, x, y)?;
        for line in lines {
            let points = line.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
            let points: Vec<(f64, f64)> = points.collect();
            let colour = line.colour;
            if line.dots {
                let dots = points.iter().map(|&at| Circle::new(at, 3, colour.filled()));
                chart.draw_series(dots).map_err(said)?;
            }
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))
                .map_err(said)?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        for whisker in whiskers {
            let ends = [(whisker.x, whisker.low), (whisker.x, whisker.high)];
            chart.draw_series([PathElement::new(ends, whisker.colour.stroke_width(2))]).map_err(said)?;
            chart.draw_series([Circle::new((whisker.x, whisker.value), 4, whisker.colour.filled())]).map_err(said)?;
        }
        if lines.len() > 1 {
            let mut labels = chart.configure_series_labels();
            labels
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.2));
            labels.draw().map_err(said)?;
        }
        Ok(())
    })
}

pub(crate) fn heat(x: &Axis<'_>, y: &Axis<'_>, cells: &[Cell]) -> Result<String, String> {
    draw(|area| {
        let mut chart = frame(area, x, y)?;
        let rectangles = cells.iter().map(|cell| {
            let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * cell.heat).round() as u8;
            let colour = RGBColor(mix(BLUE.0, RED.0), mix(BLUE.1, RED.1), mix(BLUE.2, RED.2));
            // Rare requests must be seen, so nothing that is there is paler than a fifth.
            Rectangle::new([cell.from, cell.to], colour.mix(0.2 + 0.8 * cell.heat).filled())
        });
        chart.draw_series(rectangles).map_err(said)?;
        Ok(())
    })
}

fn frame<'a, 'b>(area: &'b Area<'a>, x: &Axis<'_>, y: &Axis<'_>) -> Result<Chart<'a, 'b>, String> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(x.range.0..x.range.1, y.range.0..y.range.1)
        .map_err(said)?;
    chart
        .configure_mesh()
        .x_desc(x.name)
        .y_desc(y.name)
        .x_labels(x.labels)
        .y_labels(y.labels)
        .x_label_formatter(x.label)
        .y_label_formatter(y.label)
        .light_line_style(BLACK.mix(0.04))
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 13))
        .draw()
        .map_err(said)?;
    Ok(chart)
}

fn draw(with: impl FnOnce(&Area<'_>) -> Result<(), String>) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        with(&area)?;
        area.present().map_err(said)?;
    }
    // The tag's size would keep the page from scaling it; the box beside it says the same.
    let (width, height) = SIZE;
    Ok(svg.replacen(&format!("width=\"{width}\" height=\"{height}\" "), "", 1))
}

fn said(error: impl std::fmt::Display) -> String {
    format!("a chart cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_never_empty() {
        assert_eq!(range([]), (0.0, 1.0));
        assert_eq!(range([f64::NAN, 2.0, 5.0]), (2.0, 5.0));
        let (low, high) = range([3.0]);
        assert!(low < 3.0 && high > 3.0);
        assert_eq!(decades((0.2, 0.3)), (0.0, 1.0));
    }

    #[test]
    fn powers_of_ten_are_labelled_and_nothing_else() {
        let labels = [-3.0, -1.0, 0.0, 2.0, 3.0, 4.0, 0.5].map(|value| log_label(&value));
        assert_eq!(labels, ["1 us", "100 us", "1 ms", "100 ms", "1 s", "10 s", ""]);
    }
}
