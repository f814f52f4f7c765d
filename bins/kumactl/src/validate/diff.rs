//! Difference of two texts by lines, as hunks like those of `diff -u`.

/// Number of unchanged lines that are shown before and after a change.
const CONTEXT: usize = 3;
/// Maximum number of cells in the table that [`compare_middle`] allocates. The table has a cell for each pair of an old
/// and a new line. Above this limit, all old lines from the first to the last difference are shown as removed, and then
/// the new lines as added.
const MAX_TABLE_CELLS: usize = 4_000_000;

/// Line of one text or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Removed(&'a str),
    Added(&'a str),
}

/// Returns the changes as hunks. Returns an empty text if the texts are equal.
pub(super) fn unified(before: &str, after: &str) -> String {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let lines = compare(&before, &after);
    hunk_ranges(&lines)
        .into_iter()
        .map(|(from, to)| format_hunk(&lines, from, to))
        .collect()
}

/// Compares the texts. Only the lines between the equal lines at the start and at the end need [`compare_middle`].
fn compare<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<Line<'a>> {
    let equal = |(left, right): &(&&str, &&str)| left == right;
    let prefix_length = before.iter().zip(after).take_while(equal).count();
    let (middle_before, middle_after) = (&before[prefix_length..], &after[prefix_length..]);
    let suffix_length = middle_before
        .iter()
        .rev()
        .zip(middle_after.iter().rev())
        .take_while(equal)
        .count();
    let middle_before = &middle_before[..middle_before.len() - suffix_length];
    let middle_after = &middle_after[..middle_after.len() - suffix_length];
    let same = |lines: &[&'a str]| lines.iter().map(|line| Line::Same(line)).collect::<Vec<_>>();
    let mut lines = same(&before[..prefix_length]);
    lines.extend(compare_middle(middle_before, middle_after));
    lines.extend(same(&before[before.len() - suffix_length..]));
    lines
}

/// Compares lines by their longest common subsequence. `left` is an index of `before`, `right` an index of `after`.
fn compare_middle<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<Line<'a>> {
    let width = after.len() + 1;
    if before.len().saturating_mul(width) > MAX_TABLE_CELLS {
        let removed = before.iter().map(|line| Line::Removed(line));
        return removed
            .chain(after.iter().map(|line| Line::Added(line)))
            .collect();
    }
    // For each `left` and `right`, the length of the longest common subsequence of `before[left..]` and
    // `after[right..]`.
    let mut longest = vec![0_u32; (before.len() + 1) * width];
    for left in (0..before.len()).rev() {
        for right in (0..after.len()).rev() {
            longest[left * width + right] = if before[left] == after[right] {
                longest[(left + 1) * width + right + 1] + 1
            } else {
                longest[(left + 1) * width + right].max(longest[left * width + right + 1])
            };
        }
    }
    let (mut left, mut right, mut lines) = (0, 0, Vec::new());
    while left < before.len() || right < after.len() {
        let both_remain = left < before.len() && right < after.len();
        if both_remain && before[left] == after[right] {
            lines.push(Line::Same(before[left]));
            (left, right) = (left + 1, right + 1);
        } else if right == after.len()
            || (both_remain && longest[(left + 1) * width + right] >= longest[left * width + right + 1])
        {
            lines.push(Line::Removed(before[left]));
            left += 1;
        } else {
            lines.push(Line::Added(after[right]));
            right += 1;
        }
    }
    lines
}

/// Returns the ranges of lines to show, each as its start and its exclusive end: changes with their context, merged if
/// they overlap or touch.
fn hunk_ranges(lines: &[Line<'_>]) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if matches!(line, Line::Same(_)) {
            continue;
        }
        let (from, to) = (
            index.saturating_sub(CONTEXT),
            (index + 1 + CONTEXT).min(lines.len()),
        );
        match ranges.last_mut() {
            Some(last) if last.1 >= from => last.1 = to,
            _ => ranges.push((from, to)),
        }
    }
    ranges
}

/// Returns how many of the lines are in the old text.
fn count_old(lines: &[Line<'_>]) -> usize {
    let is_added = |line: &Line<'_>| matches!(line, Line::Added(_));
    lines.iter().filter(|line| !is_added(line)).count()
}

/// Returns how many of the lines are in the new text.
fn count_new(lines: &[Line<'_>]) -> usize {
    let is_removed = |line: &Line<'_>| matches!(line, Line::Removed(_));
    lines.iter().filter(|line| !is_removed(line)).count()
}

/// Formats the lines from `from` up to `to`, exclusive.
fn format_hunk(lines: &[Line<'_>], from: usize, to: usize) -> String {
    let (preceding, shown) = (&lines[..from], &lines[from..to]);
    let mut text = format!(
        "@@ -{},{} +{},{} @@\n",
        count_old(preceding) + 1,
        count_old(shown),
        count_new(preceding) + 1,
        count_new(shown),
    );
    for line in shown {
        let (sign, content) = match line {
            Line::Same(content) => (' ', content),
            Line::Removed(content) => ('-', content),
            Line::Added(content) => ('+', content),
        };
        text.push(sign);
        text.push_str(content);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_context() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n";
        let after = "a\nb\nc\nd\nE\nf\ng\nh\ni\nj\nk\nl\nm\n";
        assert_eq!(
            unified(before, after),
            "@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n@@ -10,3 +10,4 @@\n j\n k\n l\n+m\n"
        );
        assert_eq!(unified(before, before), "");
        assert_eq!(unified("", "a\n"), "@@ -1,0 +1,1 @@\n+a\n");
    }

    #[test]
    fn large_differences_are_shown_as_removed_and_then_added() {
        let mk_text = |letter: &str| {
            let lines: Vec<String> = (0..3_000).map(|index| format!("{letter}{index}")).collect();
            lines.join("\n")
        };
        let shown = unified(&mk_text("a"), &mk_text("b"));
        // The header and all lines of both texts.
        assert_eq!(shown.lines().count(), 6_001);
    }
}
