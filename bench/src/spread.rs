//! Median and range of the values of several rounds, and quantiles of many latencies.

use std::fmt;

/// Values of one figure in all rounds. Displayed as the median and, in parentheses, the range.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    sorted: Vec<f64>,
}

// === impl Spread ===

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }
}

impl Spread {
    /// Returns the median; NaN without values.
    pub fn median(&self) -> f64 {
        quantile(&self.sorted, 0.5)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minimum, maximum) = (quantile(&self.sorted, 0.0), quantile(&self.sorted, 1.0));
        write!(
            formatter,
            "{} ({}–{})",
            format_short(self.median()),
            format_short(minimum),
            format_short(maximum)
        )
    }
}

/// Returns the quantile `fraction` of sorted values, from 0 (minimum) to 1 (maximum): the value with the nearest index.
/// Returns NaN without values.
pub fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a list that fits in memory"
    )]
    let index = (fraction * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Formats a value with about three significant digits.
pub fn format_short(value: f64) -> String {
    let decimals = match value.abs() {
        absolute if absolute >= 100.0 => 0,
        absolute if absolute >= 10.0 => 1,
        absolute if absolute >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_shows_median_minimum_and_maximum() {
        let spread: Spread = [3.0, 1.0, 200.0].into_iter().collect();
        assert_eq!(spread.to_string(), "3.00 (1.00–200)");
    }

    #[test]
    fn quantiles_are_existing_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert!((quantile(&values, 0.99) - 99.0).abs() < f64::EPSILON);
        assert!((quantile(&values, 1.0) - 100.0).abs() < f64::EPSILON);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
