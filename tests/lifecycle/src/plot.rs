//! Plot of the failures over time as SVG. Each row of the report has a lane: bars above its axis are failures in the mesh,
//! bars below are failures without it. Ticks on the axis are deletions of servers in the mesh. Pure.

use std::fmt::Write;

use crate::case::name;
use crate::row::{FailureAt, Row};

/// Width in pixels of the labels at the left.
const LABEL_WIDTH: f64 = 330.0;
/// Width in pixels of the time axis.
const AXIS_WIDTH: f64 = 760.0;
/// Width in pixels of the numbers at the right.
const NUMBER_WIDTH: f64 = 190.0;
/// Height in pixels of a lane.
const LANE_HEIGHT: f64 = 44.0;
/// Height in pixels of the longest bar.
const BAR_HEIGHT: f64 = 18.0;
/// Height in pixels of the title and the legend.
const HEADER_HEIGHT: f64 = 54.0;
/// Height in pixels of the scale of the time axis.
const FOOTER_HEIGHT: f64 = 34.0;
/// Width in pixels of a bar.
const BAR_WIDTH: f64 = 4.0;
/// Number of intervals of the time axis. The failures of an interval are one bar, which fills its interval.
const INTERVALS: usize = 190;
const MESH_COLOUR: &str = "#c2410c";
const PLAIN_COLOUR: &str = "#64748b";

/// Returns the plot of these rows.
pub fn svg(rows: &[Row]) -> String {
    let height = HEADER_HEIGHT + FOOTER_HEIGHT + LANE_HEIGHT * to_f64(rows.len());
    let width = LABEL_WIDTH + AXIS_WIDTH + NUMBER_WIDTH;
    let seconds = rows.iter().map(|row| row.seconds).fold(1.0, f64::max);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    header(&mut out);
    // The longest bar of each lane has the same height, because the numbers of failures of the lanes differ by orders of
    // magnitude. The number beside a lane gives its scale.
    for (index, row) in rows.iter().enumerate() {
        lane(
            &mut out,
            row,
            HEADER_HEIGHT + LANE_HEIGHT * (to_f64(index) + 0.5),
            seconds,
        );
    }
    footer(&mut out, height, seconds);
    out.push_str("</svg>\n");
    out
}

fn header(out: &mut String) {
    text(out, 8.0, 20.0, "start", "#111", "Failed requests over time");
    let mut x = 8.0;
    for (colour, label, width) in [
        (MESH_COLOUR, "in the mesh (upwards)", 175.0),
        (PLAIN_COLOUR, "without the mesh (downwards)", 230.0),
        ("#111", "deletion of a server in the mesh (tick)", 0.0),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"31\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
        );
        text(out, x + 15.0, 40.0, "start", "#333", label);
        x += width;
    }
}

fn lane(out: &mut String, row: &Row, y: f64, seconds: f64) {
    let label = format!(
        "{} · {} · {} · {}",
        name(row.scenario),
        name(row.protocol),
        name(row.application),
        row.variant
    );
    text(out, LABEL_WIDTH - 10.0, y + 4.0, "end", "#111", &label);
    let end = LABEL_WIDTH + AXIS_WIDTH * row.seconds / seconds;
    let _ = writeln!(
        out,
        "<line x1=\"{LABEL_WIDTH}\" y1=\"{y:.1}\" x2=\"{end:.1}\" y2=\"{y:.1}\" stroke=\"#bbb\"/>"
    );
    for deletion in &row.mesh.deletions {
        let x = LABEL_WIDTH + AXIS_WIDTH * deletion.clamp(0.0, row.seconds) / seconds;
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#111\" stroke-width=\"0.6\"/>",
            y - 4.0,
            y + 4.0
        );
    }
    let mesh = intervals(&row.mesh.failures, seconds);
    let plain = intervals(&row.plain.failures, seconds);
    let longest = mesh.iter().chain(&plain).copied().max().unwrap_or(0);
    for (counts, colour, is_up) in [(&mesh, MESH_COLOUR, true), (&plain, PLAIN_COLOUR, false)] {
        for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // At least two pixels, so that a single failure is visible.
            let height = (BAR_HEIGHT * to_f64(*count) / to_f64(longest)).max(2.0);
            let x = LABEL_WIDTH + BAR_WIDTH * to_f64(index);
            let top = if is_up { y - height } else { y };
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{BAR_WIDTH:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
            );
        }
    }
    let numbers = format!(
        "{} | {} (longest bar: {longest})",
        row.mesh.failed, row.plain.failed
    );
    text(
        out,
        LABEL_WIDTH + AXIS_WIDTH + 8.0,
        y + 4.0,
        "start",
        "#333",
        &numbers,
    );
}

/// Returns the number of failures in each interval of the time axis.
fn intervals(failures: &[FailureAt], seconds: f64) -> Vec<usize> {
    let mut counts = vec![0; INTERVALS];
    for failure in failures {
        let position = (failure.seconds / seconds * to_f64(INTERVALS)).clamp(0.0, to_f64(INTERVALS - 1));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the position is between 0 and the number of intervals"
        )]
        let index = position as usize;
        counts[index] += usize::try_from(failure.count).unwrap_or(usize::MAX);
    }
    counts
}

/// Draws the scale of the time axis.
fn footer(out: &mut String, height: f64, seconds: f64) {
    let y = height - FOOTER_HEIGHT + 6.0;
    for step in 0..=10 {
        let at = f64::from(step) / 10.0;
        let x = LABEL_WIDTH + AXIS_WIDTH * at;
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{HEADER_HEIGHT}\" x2=\"{x:.1}\" y2=\"{y:.1}\" stroke=\"#eee\"/>"
        );
        text(
            out,
            x,
            y + 14.0,
            "middle",
            "#333",
            &format!("{:.0} s", seconds * at),
        );
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, colour: &str, content: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>",
        escape(content)
    );
}

/// Replaces the characters that have a meaning in XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[allow(clippy::cast_precision_loss, reason = "the numbers are far below 2^52")]
fn to_f64(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_summed_in_their_interval_of_the_time_axis() {
        let failure = |seconds, count| FailureAt {
            seconds,
            reason: String::new(),
            count,
        };
        let counts = intervals(
            &[
                failure(0.0, 1),
                failure(0.1, 2),
                failure(190.0, 4),
                failure(500.0, 8),
            ],
            190.0,
        );
        assert_eq!((counts[0], counts[INTERVALS - 1]), (3, 12));
        assert_eq!(counts.iter().sum::<usize>(), 15);
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escape("<a & \"b\">"), "&lt;a &amp; &quot;b&quot;&gt;");
    }
}
